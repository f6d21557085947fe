"""What a script may hand to `report`, what becomes of it, and what `params` answers."""

from __future__ import annotations

import json
import math
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import searchkit
from searchkit.errors import StorageError


@pytest.fixture
def callback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The callback folder of a job that this process plays."""
    for name in ("RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SEARCHKIT_CALLBACK", str(tmp_path))
    return tmp_path


def main_lines(callback: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (callback / "scalars.jsonl").read_text().splitlines()]


# --- what is written


def test_one_line_per_report(callback: Path) -> None:
    searchkit.report(acc=0.5, step=3)
    searchkit.report({"val/acc": 0.25, "Test Acc": 97}, loss=1, step=4)
    searchkit.report(acc=0.75)
    searchkit.report({})
    assert (callback / "scalars.jsonl").read_text() == (
        '{"step": 3, "acc": 0.5}\n{"step": 4, "val/acc": 0.25, "Test Acc": 97, "loss": 1}\n{"acc": 0.75}\n'
    )
    assert os.listdir(callback) == ["scalars.jsonl"]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (2, 2),
        (-0.5, -0.5),
        (True, 1),
        (1e300, 1e300),
        (math.inf, math.inf),
        (Fraction(1, 4), 0.25),
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.int64(7), 7),
        (np.bool_(True), 1),
        (np.array(3.5), 3.5),
        (np.array([3.5]), 3.5),
    ],
)
def test_numbers(callback: Path, value: Any, number: float) -> None:
    searchkit.report(x=value)
    (line,) = main_lines(callback)
    assert line == {"x": number}
    assert type(line["x"]) in (int, float)


def test_nan_is_kept(callback: Path) -> None:
    searchkit.report(x=math.nan)
    assert (callback / "scalars.jsonl").read_text() == '{"x": NaN}\n'


def test_tensors(callback: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; tensors can't be tried")
    searchkit.report(a=torch.tensor(0.5), b=torch.tensor([2]), c=torch.tensor(0.25, dtype=torch.bfloat16), step=0)
    searchkit.report(a=torch.tensor(1.5, requires_grad=True), step=torch.tensor(1))
    assert main_lines(callback) == [{"step": 0, "a": 0.5, "b": 2, "c": 0.25}, {"step": 1, "a": 1.5}]
    with pytest.raises(TypeError, match=r"scalar 'a' must be a number, got tensor.*\(torch\.Tensor\)"):
        searchkit.report(a=torch.zeros(2))


@pytest.mark.parametrize(
    ("value", "type_name"),
    [
        ("0.9", "str"),
        (b"0.9", "bytes"),
        (None, "NoneType"),
        ([0.9], "list"),
        ({"a": 1}, "dict"),
        (1j, "complex"),
        (np.zeros(2), "numpy.ndarray"),
        (np.array("x"), "numpy.ndarray"),
        (np.complex64(1), "numpy.complex64"),
        (object(), "object"),
    ],
)
def test_no_number_is_an_error_that_names_it(callback: Path, value: object, type_name: str) -> None:
    with pytest.raises(TypeError) as e:
        searchkit.report(acc=0.5, top1=value)
    assert "scalar 'top1' must be a number, got " in str(e.value)
    assert str(e.value).endswith(f"({type_name})")
    assert not os.listdir(callback)


def test_an_int_past_the_floats_is_an_error(callback: Path) -> None:
    with pytest.raises(TypeError, match="scalar 'n' must fit into a float"):
        searchkit.report(n=10**400)


@pytest.mark.parametrize(
    ("mapping", "error", "message"),
    [
        ({"": 1}, ValueError, "must not be empty"),
        ({"step": 1}, ValueError, r"'step' is no scalar's name; pass it as report\(\.\.\., step=3\)"),
        ({3: 1}, TypeError, r"name of a scalar must be a str, got 3 \(int\)"),
        (0.9, TypeError, r"takes a mapping from names to numbers, or acc=0\.9, got 0\.9 \(float\)"),
    ],
)
def test_names(callback: Path, mapping: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        searchkit.report(mapping)


@pytest.mark.parametrize("step", [3, 3.0, np.int32(3), np.float32(3), -3])
def test_steps(callback: Path, step: Any) -> None:
    searchkit.report(x=1, step=step)
    assert main_lines(callback) == [{"step": int(step), "x": 1}]


@pytest.mark.parametrize("step", [0.5, math.nan, math.inf, "3"])
def test_a_step_is_a_whole_number(callback: Path, step: Any) -> None:
    with pytest.raises(TypeError, match="step must be"):
        searchkit.report(x=1, step=step)


# --- by hand


def test_by_hand_it_prints(capfd: pytest.CaptureFixture[str]) -> None:
    searchkit.report({"val/acc": 0.123456789}, loss=2, step=3)
    searchkit.report(acc=math.nan)
    assert capfd.readouterr() == ("step 3: val/acc=0.123457, loss=2\nacc=nan\n", "")


def test_params_by_hand_gives_the_defaults() -> None:
    assert searchkit.params() == {}
    assert searchkit.params(lr=0.1, name="x") == {"lr": 0.1, "name": "x"}


# --- params


def write_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "params.json").write_text(text)
    monkeypatch.setenv("SEARCHKIT_PARAMS", str(tmp_path / "params.json"))


def test_params_in_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"lr": 0.5, "batch-size": 512, "arch": "deep", "wd": None}
    write_params(tmp_path, monkeypatch, json.dumps({"values": values, "text": {"lr": "5e-1"}}))
    assert searchkit.params() == values
    assert searchkit.params(lr=0.1, epochs=3) == {**values, "epochs": 3}
    assert searchkit.params(batch_size=1, epochs=3) == {**values, "batch_size": 512, "epochs": 3}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"values": 3}', '{"values": [1]}'])
def test_unreadable_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    write_params(tmp_path, monkeypatch, text)
    with pytest.raises(
        StorageError, match=r"cannot read this job's arguments from SEARCHKIT_PARAMS=.*params\.json: it "
    ):
        searchkit.params(lr=0.1)


def test_missing_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCHKIT_PARAMS", str(tmp_path / "params.json"))
    with pytest.raises(StorageError, match="No such file"):
        searchkit.params()
