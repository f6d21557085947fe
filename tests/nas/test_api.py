"""The Python door to supernets: searchkit.nas does what the verbs do, over checkpoints that older code left."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

import searchkit
from searchkit.errors import ConfigError, ConflictError, UsageError
from searchkit.nas import api
from tests.support import nas, old

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return old.unpack("nets", tmp_path_factory.mktemp("door"))


@pytest.fixture
def folder(unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With det.yaml and cls.yaml, and their checkpoints det/latest.pth and cls/latest.pth."""
    monkeypatch.chdir(unpacked)
    return unpacked


def quiet(_: str) -> None:
    """What is said of the data."""


def test_every_name_has_a_docstring_and_types() -> None:
    for name in searchkit.nas.__all__:
        found: Any = getattr(searchkit.nas, name)
        assert found is getattr(api, name)
        if inspect.isfunction(found):
            assert len(found.__doc__ or "") > 60, name
            hints = inspect.signature(found)
            assert "inspect._empty" not in str(hints) and hints.return_annotation is not inspect.Signature.empty, name
    with pytest.raises(AttributeError, match="no attribute 'scoer'"):
        searchkit.nas.scoer  # noqa: B018
    assert set(searchkit.nas.__all__) <= set(dir(searchkit.nas))


@pytest.mark.parametrize("task", ["det", "cls"])
def test_a_subnet_is_scored_and_extracted_as_by_the_verbs(folder: Path, task: str) -> None:
    recipe = searchkit.nas.load_config(f"{task}.yaml")
    net = searchkit.nas.open_supernet(recipe, f"{task}/latest.pth", device="cpu", say=quiet)
    nas.good(
        *("test", f"{task}.yaml", "--checkpoint", f"{task}/latest.pth", "--device", "cpu"),
        *("--arch", "MIN", "--out", f"{task}-door.jsonl"),
    )
    (told,) = nas.lines(f"{task}-door.jsonl")
    record = searchkit.nas.score(net, "MIN")
    for key in ("arch", "data", "metric", "overhead", "protocol"):
        assert record[key] == told[key]
    cost = searchkit.nas.price(recipe, record)
    assert (cost.flops, cost.params) == (told["overhead"]["flops"], told["overhead"]["params"])
    costs = searchkit.nas.meters(recipe, record)
    assert list(costs) == ["macs", "gaia", "ptflops", "params"] and (costs["macs"], costs["params"]) == (
        cost.flops,
        cost.params,
    )
    assert costs["gaia"] == searchkit.nas.price(recipe, record, convention="gaia").flops
    assert searchkit.nas.prices(recipe, ["MAX", record])[1] == cost != searchkit.nas.price(recipe, "MAX")
    proof = searchkit.nas.extract(recipe, f"{task}/latest.pth", record, f"{task}-door", device="cpu")
    assert proof["equal"]["bit_equal"] and proof["score"]["equal"] and len(proof["equal"]["images"]) == 4
    assert proof["score"]["measured"] == record["metric"]["direct"]
    model, static = searchkit.nas.load_extracted(f"{task}-door"), searchkit.nas.calibrate(net, record)
    weights, ours = model.state_dict(), static.state_dict()
    assert weights.keys() == ours.keys() and all(torch.equal(weights[k], ours[k]) for k in ours)


def test_a_supernet_is_built_and_runs_the_arch_that_it_is_told(folder: Path) -> None:
    recipe = searchkit.nas.load_config("cls.yaml", ["train.steps=2"])
    assert recipe.train.steps == 2
    net = searchkit.nas.build_supernet(recipe, seed=3).eval()
    again = searchkit.nas.build_supernet(recipe, list("abcdefgh"), seed=3).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in net.state_dict().items())
    assert searchkit.nas.arch_of(net) == recipe.space.maximum() == searchkit.nas.find_arch(recipe, "MAX")
    images, before = torch.rand(2, 3, 16, 16), net(torch.ones(2, 3, 16, 16))
    searchkit.nas.set_arch(net, searchkit.nas.find_arch(recipe, "MIN"))
    assert searchkit.nas.arch_of(net) == recipe.space.minimum()
    assert net(images).shape == (2, 8) and not torch.equal(net(torch.ones(2, 3, 16, 16)), before)


def test_what_is_no_arch_shape_split_device_or_list_is_told(folder: Path) -> None:
    recipe = searchkit.nas.load_config(Path("cls.yaml"))
    assert recipe.path == "cls.yaml"
    net = searchkit.nas.build_supernet(recipe)
    minimum = recipe.space.minimum()
    searchkit.nas.set_arch(net, {"arch": minimum.nested()})
    assert searchkit.nas.arch_of(net) == minimum
    assert searchkit.nas.price(recipe, "MIN", [16, 16]) == searchkit.nas.price(recipe, minimum, 16)
    load, price, score = searchkit.nas.load_config, searchkit.nas.price, searchkit.nas.score
    wrong = (
        (lambda: searchkit.nas.find_arch(recipe, 3), "must be a mapping of names to ints, not 3"),
        (lambda: searchkit.nas.set_arch(net, "MIN"), "not the name 'MIN'"),
        (lambda: searchkit.nas.set_arch(torch.nn.Conv2d(3, 3, 1), minimum), "a Conv2d is no supernet"),
        (lambda: searchkit.nas.arch_of(torch.nn.Linear(3, 3)), "a Linear is no supernet"),
        (lambda: score(net, "MIN"), "no supernet that open_supernet gave"),
        (lambda: price(recipe, "MIN", 48.5), r"an input shape must be S, \[H, W\]"),
        (lambda: searchkit.nas.prices(recipe, "MIN"), "archs must be a list, not 'MIN'"),
        (lambda: searchkit.nas.build_supernet(recipe, "cat"), "categories must be a list, not 'cat'"),
        (lambda: load("cls.yaml", "train.lr=1"), "overrides must be a list"),
        (lambda: searchkit.nas.open_supernet(recipe, "cls/latest.pth", split="vall"), "split must be train, val, test"),
        (lambda: searchkit.nas.open_supernet(recipe, "cls/latest.pth", device="cuda:99"), "device 'cuda:99'"),
        (lambda: searchkit.nas.train_supernet(recipe, "cls.yaml", say=quiet), "a folder, but cls.yaml is a file"),
        (lambda: searchkit.nas.extract(recipe, "cls/latest.pth", "MIN", "new", images=-1), "images must be a whole"),
    )
    for call, message in wrong:
        with pytest.raises(UsageError, match=message):
            call()


def test_a_training_goes_on_in_the_same_folder(folder: Path, tmp_path: Path) -> None:
    recipe, steps = searchkit.nas.load_config("cls.yaml", ["train.steps=2"]), []
    path = searchkit.nas.train_supernet(
        recipe, str(tmp_path / "work"), device="cpu", on_step=lambda r: steps.append(r.step), say=quiet
    )
    assert path == str(tmp_path / "work/latest.pth") and steps == [0, 1]
    said: list[str] = []
    searchkit.nas.train_supernet(recipe, str(tmp_path / "work"), device="cpu", say=said.append)
    assert said[-1].startswith("goes on at step 2 of 2")


def test_errors_are_ours_and_say_what_to_do(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("model: {}\nspcae: {}\n")
    with pytest.raises(ConfigError, match=r"bad.yaml:2:1: unknown key 'spcae' \(did you mean space\?\)"):
        searchkit.nas.load_config(str(tmp_path / "bad.yaml"))
    recipe = searchkit.nas.load_config("cls.yaml")
    for arch in ("BEST", {"backbone.stem.width": 5}):
        with pytest.raises(UsageError):
            searchkit.nas.find_arch(recipe, arch)
    with pytest.raises(ConflictError, match=r"another training: train\.lr"):
        more = searchkit.nas.load_config("cls.yaml", ["train.lr=0.5", "train.steps=41"])
        searchkit.nas.train_supernet(more, "cls", device="cpu", say=quiet)
    with pytest.raises(UsageError, match="no extracted model"):
        searchkit.nas.load_extracted("figures")
    with pytest.raises(UsageError, match="device 'gpu'"):
        searchkit.nas.open_supernet(recipe, "cls/latest.pth", device="gpu", say=quiet)
    with pytest.raises(UsageError, match="of task det"):
        searchkit.nas.extract(recipe, "det/latest.pth", "MAX", str(tmp_path / "model"))
