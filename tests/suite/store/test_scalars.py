"""Reading what jobs report: merging, steps, precedence, and garbage of every kind."""

from __future__ import annotations

import json
import math
import os
import random
import re
from pathlib import Path

import pytest

from searchkit.suite.store import growing, scalars
from tests.suite.store.test_tfevents import write_events


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """An attempt's folder: callback/, log and a working folder named work/."""
    (tmp_path / "callback").mkdir()
    (tmp_path / "work").mkdir()
    return tmp_path


def put(job: Path, text: str | bytes, name: str = "scalars.jsonl") -> None:
    (job / "callback" / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def read_jsonl(job: Path) -> tuple[dict[str, scalars.Series], int]:
    reading = scalars.read(str(job / "callback"))
    return reading.series, reading.skipped


def read_log(job: Path, text: str | bytes, *regex: str, ended: bool = True) -> tuple[dict[str, scalars.Series], int]:
    (job / "log").write_bytes(text if isinstance(text, bytes) else text.encode())
    reading = scalars.read(str(job / "callback"), log=str(job / "log"), regex=regex, ended=ended)
    return reading.series, reading.skipped


# --- JSON lines


@pytest.mark.parametrize(
    ("text", "series"),
    [
        ("", {}),
        ('{"acc": 1}\n{"acc": 2}\n', {"acc": {1: 1, 2: 2}}),
        ('{"step": 5, "acc": 1}\n{"acc": 2}\n', {"acc": {5: 1, 6: 2}}),
        ('{"step": 5, "acc": 1}\n{"step": 2, "acc": 2}\n{"acc": 3}\n', {"acc": {2: 2, 5: 1, 6: 3}}),
        ('{"step": 0, "acc": 1}\n{"acc": 2}\n', {"acc": {0: 1, 1: 2}}),
        ('{"step": -3, "acc": 1}\n', {"acc": {-3: 1}}),
        ('{"step": 1, "acc": 1}\n{"step": 1, "acc": 2}\n', {"acc": {1: 2}}),
        ('{"step": 2.0, "acc": 1}\n{"step": null, "acc": 2}\n', {"acc": {2: 1, 3: 2}}),
        ('{"acc": 1}\n{"loss": 2}\n{"acc": 3, "loss": 4}\n', {"acc": {1: 1, 3: 3}, "loss": {2: 2, 3: 4}}),
        ('\n  \r\n{"acc": 1}\r\n', {"acc": {1: 1}}),
        ('{"acc": 1}', {"acc": {1: 1}}),  # whole, though its newline is missing
        ('{"acc": 1}\n{"acc": 2', {"acc": {1: 1}}),  # still being written
        ('{"acc": 1}\n17', {"acc": {1: 1}}),
        ('{"acc": true, "b": Infinity}\n', {"acc": {1: 1}, "b": {1: math.inf}}),
        ('{"准确率": 1, "a b": 2}\n', {"准确率": {1: 1}, "a b": {1: 2}}),
        ('{"step": 7}\n{}\n{"acc": 1}\n', {"acc": {1: 1}}),  # lines without a scalar don't count
    ],
)
def test_lines(job: Path, text: str, series: dict[str, scalars.Series]) -> None:
    put(job, text)
    assert read_jsonl(job) == (series, 0)


@pytest.mark.parametrize(
    ("bad", "kept"),
    [
        ("not json", {}),
        (b"\xff\xfe\x00", {}),
        (b"\0\0\0\0", {}),
        ("[1, 2]", {}),
        ("3", {}),
        ("null", {}),
        ("[" * 100_000, {}),
        ('{"acc": 1}{"acc": 2}', {}),
        ('{"step": "3", "acc": 9}', {}),
        ('{"step": 0.5, "acc": 9}', {}),
        ('{"step": NaN, "acc": 9}', {}),
        ('{"step": true, "acc": 9}', {}),
        ('{"step": [1], "acc": 9}', {}),
        ('{"step": 3, "acc": "0.9"}', {}),
        ('{"step": 3, "acc": null}', {}),
        ('{"step": 3, "acc": {"top1": 1}}', {}),
        ('{"step": 3, "acc": 1' + "0" * 400 + "}", {}),
        ('{"step": 3, "acc": 1' + "0" * 5000 + "}", {}),  # past Python's limit of digits
        ('{"step": 3, "": 1}', {}),
        ('{"step": 3, "\\ud800": 1}', {}),
        ('{"step": 3, "mode": "val", "loss": 2}', {"loss": {3: 2.0}}),
    ],
)
def test_garbage_is_skipped_and_counted(job: Path, bad: str | bytes, kept: dict[str, scalars.Series]) -> None:
    raw = bad if isinstance(bad, bytes) else bad.encode()
    put(job, b'{"step": 1, "acc": 1}\n' + raw + b'\n{"step": 2, "acc": 2}\n')
    assert read_jsonl(job) == ({"acc": {1: 1, 2: 2}, **kept}, 1)


def test_random_bytes_never_fail(job: Path) -> None:
    rng = random.Random(0)
    good = b'{"step": 1, "acc": 0.5}\n{"acc": NaN, "b": [1], "c": "\\ud800"}\n'
    for _ in range(300):
        raw = bytearray(good * 3)
        for _ in range(rng.randrange(1, 30)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        put(job, bytes(raw))
        series, _ = read_jsonl(job)
        assert all(type(v) is float for s in series.values() for v in s.values())
        assert all(list(s) == sorted(s) for s in series.values())
        json.dumps(series, ensure_ascii=False).encode()


def test_files_of_further_processes_are_merged(job: Path) -> None:
    put(job, '{"step": 2, "acc": 0.2}\n{"acc": 0.3}\n')
    put(job, '{"step": 1, "acc": 0.1}\n{"step": 2, "acc": 9}\n{"n": 99}\n', "scalars.99.jsonl")
    put(job, '{"step": 3, "n": 100}\n', "scalars.100.jsonl")
    put(job, '{"acc": 7}\n', "records.jsonl")
    put(job, '{"acc": 7}\n', ".scalars.jsonl.5")
    series, skipped = read_jsonl(job)
    assert series == {"acc": {1: 0.1, 2: 0.2, 3: 0.3}, "n": {3: 100}}
    assert list(series["acc"]) == [1, 2, 3]
    assert skipped == 0


def test_a_folder_or_pipe_in_place_of_the_file(job: Path) -> None:
    (job / "callback" / "scalars.jsonl").mkdir()
    os.mkfifo(job / "callback" / "scalars.1.jsonl")
    assert read_jsonl(job) == ({}, 2)


def test_no_callback_folder(job: Path) -> None:
    assert scalars.read(str(job / "missing")) == scalars.Reading({}, 0)
    assert scalars.read(str(job / "missing"), log=str(job / "none"), regex=["(?P<a>.)"]) == scalars.Reading({}, 0)
    assert scalars.read(str(job / "missing"), workdir=str(job / "none"), tensorboard=True) == scalars.Reading({}, 0)


# --- the log


def test_regex_counts_up_from_1_by_name(job: Path) -> None:
    text = "start\nloss: 2.5\nloss: 1.5\nacc=0.25 acc=0.5\n"
    got = read_log(job, text, r"acc=(?P<acc>[\d.]+)", r"loss: (?P<loss>[\d.]+)")
    assert got == ({"acc": {1: 0.25, 2: 0.5}, "loss": {1: 2.5, 2: 1.5}}, 0)


def test_regex_with_step(job: Path) -> None:
    pattern = r"epoch (?P<step>\S+)(?: lr (?P<lr>\S+))? acc (?P<acc>\S+)"
    text = (
        "epoch 3 acc 0.5\nepoch 1.0 lr 1e-3 acc 0.1\nepoch 3 acc nan\nepoch x acc 1\nepoch 1.5 acc 1\nepoch 4 acc ?\n"
    )
    series, skipped = read_log(job, text, pattern)
    assert series["lr"] == {1: 0.001}
    assert list(series["acc"]) == [1, 3]
    assert math.isnan(series["acc"][3])
    assert skipped == 3


def test_lines_end_where_progress_bars_end_them(job: Path) -> None:
    assert read_log(job, b"\xff 10%\racc 1\r\nacc 2\r\xf0\n", r"^acc (?P<acc>\d+)$") == ({"acc": {1: 1, 2: 2}}, 0)


@pytest.mark.parametrize(("ended", "steps"), [(True, [1, 2]), (False, [1])])
def test_a_running_log_may_end_within_a_number(job: Path, ended: bool, steps: list[int]) -> None:
    series, _ = read_log(job, "acc=0.5\nacc=0.9", r"acc=(?P<acc>[\d.]+)", ended=ended)
    assert list(series["acc"]) == steps


@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_lines_across_the_chunks_of_a_log(job: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(growing, "CHUNK", size)
    text = "".join(f"a={i}\r\n" for i in range(100))
    series, _ = read_log(job, text, r"^a=(?P<a>\d+)$")
    assert list(series["a"].values()) == list(map(float, range(100)))


def test_an_endless_line_is_left_out(job: Path) -> None:
    big = b"x" * (3 * growing.MAX_LINE)
    assert read_log(job, b"a=1\n" + big + b"a=2\na=3\n", r"a=(?P<a>\d)$") == ({"a": {1: 1, 2: 3}}, 1)


def test_a_bad_pattern_is_an_error(job: Path) -> None:
    with pytest.raises(re.error):
        read_log(job, "x\n", "(?P<acc>")


# --- TensorBoard


def read_tensorboard(
    job: Path, which: bool | str = True, newer_than_s: float = 0.0
) -> tuple[dict[str, scalars.Series], int]:
    workdir = str(job / "work")
    reading = scalars.read(str(job / "callback"), workdir=workdir, tensorboard=which, newer_than_s=newer_than_s)
    return reading.series, reading.skipped


def test_event_files_anywhere_below_the_working_folder(job: Path) -> None:
    write_events(job / "work/runs/a/events.out.tfevents.1.host", [("loss", 1, 2.0), ("loss", 3, 1.0)])
    write_events(job / "work/runs/a/events.out.tfevents.2.host", [("loss", 3, 0.5), ("val/acc", 0, 0.25)])
    write_events(job / "elsewhere/events.out.tfevents.1.host", [("loss", 9, 9.0)])
    os.symlink(job / "elsewhere", job / "work/runs/linked")
    os.symlink(job / "gone", job / "work/events.out.tfevents.3.host")
    (job / "work/notes.txt").write_text("no events")
    assert read_tensorboard(job) == ({"loss": {1: 2.0, 3: 0.5}, "val/acc": {0: 0.25}}, 0)
    assert read_tensorboard(job, False) == ({}, 0)


@pytest.mark.parametrize(
    "which", ["runs", "runs/", "runs/*", "**/a", "**/*tfevents*", "runs/a/events.out.tfevents.1.h"]
)
def test_a_glob_names_files_or_folders(job: Path, which: str) -> None:
    write_events(job / "work/runs/a/events.out.tfevents.1.h", [("loss", 1, 2.0)])
    assert read_tensorboard(job, which) == ({"loss": {1: 2.0}}, 0)
    assert read_tensorboard(job, "logs/*") == ({}, 0)


def test_a_working_folder_with_the_letters_of_globs(tmp_path: Path) -> None:
    write_events(tmp_path / "lr=[1]*/runs/events.out.tfevents.1.h", [("loss", 1, 2.0)])
    reading = scalars.read(str(tmp_path), workdir=str(tmp_path / "lr=[1]*"), tensorboard="runs")
    assert reading.series == {"loss": {1: 2.0}}


def test_event_files_copied_with_the_project_are_ignored(job: Path) -> None:
    write_events(job / "work/old/events.out.tfevents.1.h", [("loss", 1, 9.0)])
    os.utime(job / "work/old/events.out.tfevents.1.h", (1000, 1000))
    write_events(job / "work/new/events.out.tfevents.2.h", [("loss", 2, 1.0)])
    assert read_tensorboard(job, newer_than_s=1001) == ({"loss": {2: 1.0}}, 0)
    assert read_tensorboard(job, "**", newer_than_s=1001) == ({"loss": {2: 1.0}}, 0)


def test_a_corrupt_event_file_is_counted(job: Path) -> None:
    path = job / "work/events.out.tfevents.1.h"
    write_events(path, [("loss", 1, 2.0), ("loss", 2, 1.0)])
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 1
    path.write_bytes(raw)
    assert read_tensorboard(job) == ({"loss": {1: 2.0}}, 1)


# --- all of them


def test_for_one_name_reports_win_over_tensorboard_over_the_log(job: Path) -> None:
    put(job, '{"step": 1, "a": 1}\n')
    write_events(job / "work/events.out.tfevents.1.h", [("a", 2, 2.0), ("b", 2, 2.0)])
    (job / "log").write_text("a=3 b=3 c=3\n")
    regex = [r"a=(?P<a>\d)", r"b=(?P<b>\d)", r"c=(?P<c>\d)"]

    def read(*names: str) -> dict[str, scalars.Series]:
        return scalars.read(
            str(job / "callback"),
            log=str(job / "log"),
            regex=regex,
            workdir=str(job / "work"),
            tensorboard=True,
            names=names,
        ).series

    assert read() == {"a": {1: 1}, "b": {2: 2}, "c": {1: 3}}
    assert read("a") == {"a": {1: 1}}
    assert read("a", "b") == {"a": {1: 1}, "b": {2: 2}}
    assert read("c", "d") == {"c": {1: 3}}


# --- one number of a series


def test_last_and_best() -> None:
    series = {1: 0.5, 2: math.nan, 5: 0.75, 7: 0.25}
    assert scalars.last(series) == 0.25
    assert scalars.best(series, "max") == 0.75
    assert scalars.best(series, "min") == 0.25
    assert math.isnan(scalars.best({1: math.nan}, "max"))
    assert math.isnan(scalars.last({1: 1.0, 2: math.nan}))
    assert scalars.best({1: math.inf, 2: 1.0}, "max") == 1.0
    assert math.isnan(scalars.best({1: math.inf}, "max"))


def test_last_and_best_of_nothing() -> None:
    with pytest.raises(ValueError, match=r"empty|arg"):
        scalars.last({})
    with pytest.raises(ValueError, match="an empty series has no best value"):
        scalars.best({}, "max")
    with pytest.raises(ValueError, match="mode must be 'max' or 'min', got 'best'"):
        scalars.best({1: 1.0}, "best")


# --- results of callbacks


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (b'{"data": "ok", "n": [1]}\n', {"data": "ok", "n": [1]}),
        (b"", None),
        (b"{", None),
        (b"[1]", None),
        (b"\xff", None),
    ],
)
def test_callback_result(job: Path, text: bytes, result: object) -> None:
    put(job, text, "after.json")
    assert scalars.read_callback_result(str(job / "callback"), "after") == result
    assert scalars.read_callback_result(str(job / "callback"), "pre") is None
    assert scalars.read_callback_result(str(job / "missing"), "after") is None


def test_callback_result_of_which() -> None:
    with pytest.raises(ValueError, match=r"which must be 'pre' or 'after', got '\.\./x'"):
        scalars.read_callback_result("x", "../x")
