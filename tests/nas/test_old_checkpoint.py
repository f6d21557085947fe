"""Checkpoints and a search that the code before the two wings made give the numbers of then, and go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from searchkit.nas.subnet.extract import load_folder
from searchkit.nas.train import checkpoint
from searchkit.records.arch import Arch
from tests.support import nas, old, suite

THEN = old.expected("nets")

pytestmark = pytest.mark.usefixtures("one_thread")


def near(value: Any) -> Any:
    """Another kind of CPU adds in another order."""
    return pytest.approx(value, rel=1e-3, abs=1e-4)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return old.unpack("nets", tmp_path_factory.mktemp("old"))


@pytest.fixture
def nets(unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, which paths of its configs begin in."""
    monkeypatch.chdir(unpacked)
    return unpacked


@pytest.mark.slow
@pytest.mark.parametrize("task", ["det", "cls"])
def test_a_checkpoint_gives_the_numbers_of_then(nets: Path, task: str) -> None:
    common = (f"{task}.yaml", "--checkpoint", f"{task}/latest.pth", "--device", "cpu")
    nas.good("test", *common, "--arch", "MAX", "--arch", "MIN", "--raw", "--out", f"{task}-now.jsonl")
    for then, now in zip(nas.lines(f"{task}.jsonl"), nas.lines(f"{task}-now.jsonl"), strict=True):
        assert now["protocol"] == then["protocol"] and now["overhead"] == then["overhead"]
        assert now["arch"] == then["arch"]
        for tag, metrics in then["metric"].items():
            assert now["metric"][tag] == near(metrics)
    proof = json.loads(nas.good("extract", *common, "--arch", f"{task}.jsonl", "--out", f"{task}-model", "--json"))
    before = THEN["proofs"][task]
    for key in ("arch", "source", "equal", "cost", "statistics", "calibrated"):
        assert proof[key] == before[key]
    assert proof["score"]["measured"] == near(before["score"]["measured"])
    images = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(7))
    net = load_folder(f"{task}-model")
    with torch.no_grad():
        if task == "cls":
            assert net(images).flatten().tolist() == near(THEN["outputs"]["cls"])
        else:
            scores = net([images[0]])[0]["scores"].tolist()
            assert scores[:3] == near(THEN["outputs"]["det"]["scores"][:3])


def test_a_training_goes_on(nets: Path) -> None:
    """From step 5 of 10, to the weights that the old code came to."""
    path = nas.train("cls.yaml", nets / "half", "train.steps=10", "train.checkpoint_steps=5")
    found, then = checkpoint.load(path), THEN["half"]
    assert found.step == then["step"] == 10
    assert float(sum(tensor.double().sum() for tensor in found.net.values())) == near(then["sum"])


@pytest.mark.slow
def test_a_search_goes_on_under_its_old_name(nets: Path) -> None:
    """Its workers are those of `-m searchkit.nas_cli`, as its template says, and it finds the archs of then."""
    assert len(nas.lines("search/results.jsonl")) == 3
    how = ("--algorithm", "evolution", "--population", "3", "--top-k", "2", "--evaluations", "8", "--seed", "3")
    common = ("cls.yaml", "--checkpoint", "cls/latest.pth", "--device", "cpu", "--constraint", "macs <= 75K")
    said = nas.good("search", *common, *how)
    assert "5 new subnets" in said
    now = nas.lines("search/results.jsonl")
    assert [Arch.of(r["arch"]).id for r in now] == [Arch.of(r["arch"]).id for r in THEN["search"]]
    assert [r["metric"]["direct"] for r in now] == [near(r["metric"]["direct"]) for r in THEN["search"]]
    (command,) = {job["command"] for job in suite.show(nets / "search", "search")["jobs"]}
    assert " -m searchkit.nas_cli score " in command
    assert "0 fault(s)" in suite.ok(suite.run(nets / "search", "search-ctl", "fsck"))
