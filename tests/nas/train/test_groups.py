"""Rates of single parts: every parameter in one group, frozen parts that stay, states that go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from searchkit.errors import UsageError
from searchkit.nas.tasks import read as config
from searchkit.nas.train import checkpoint, groups
from searchkit.nas.train import net as nets
from searchkit.nas.train.sections import Train
from searchkit.nas.train.supernet import Watch
from searchkit.suite.cli.templates import template_root
from tests.support import cls, nas
from tests.support.nas import bad, equal, tensors, tiny, train, write

pytestmark = pytest.mark.usefixtures("one_thread")

SSD = str(Path(template_root(), "det", "ssd_ofa_mbv3.yaml"))
BACKBONE, NECK = "backbone.body.", "backbone.fpn."  # of a detector's names; all else is its head


def detector(toy: Path, folder: Path, **changes: Any) -> str:
    return write(folder / "cfg.yaml", tiny(toy, data={"val": None}, **changes))


def said(lines: list[str]) -> Watch:
    return Watch(lines.append, lambda _: None, lambda *_: None)


@pytest.mark.parametrize(
    "rates",
    [
        {},
        {"backbone_lr": 0.01},
        {"neck_lr": 0.0},
        {"backbone_lr": 0.0, "head_lr": 0.1},
        {"backbone_lr": 1.0, "neck_lr": 2.0, "head_lr": 3.0},
    ],
)
@pytest.mark.parametrize("task", ["det", "det, first stages frozen", "det, an SSD", "cls"])
def test_every_parameter_that_trains_is_in_one_group(
    task: str, rates: dict[str, float], toy: Path, toy_cls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the SSD, the maps between kernels too, which are the backbone's."""
    monkeypatch.setenv("DATA", str(toy))
    options = {"block": "basic", "frozen_stages": 1} if "frozen" in task else {"block": "basic"}
    rates = {part: rate for part, rate in rates.items() if task != "cls" or part != "neck_lr"}
    body = cls.tiny(toy_cls, "basic") if task == "cls" else tiny(toy, model={"backbone_options": options})
    path = SSD if "SSD" in task else write(tmp_path / "cfg.yaml", body)
    net = nets.build(config.load(path), ("a", "b", "c"), 0)
    before = {name for name, p in net.named_parameters() if p.requires_grad}
    settings = Train(lr=0.5, lr_scaling="linear", base_batch=4, **rates)  # type: ignore[arg-type]
    made = groups.make_optimizer(net, settings, 8).param_groups
    names = [name for group in made for name in group["names"]]
    assert len(names) == len(set(names))
    assert [id(net.get_parameter(name)) for name in names] == [id(p) for group in made for p in group["params"]]
    parts = groups.parts_of(net)
    assert parts.keys() == dict(net.named_parameters()).keys()
    frozen = {name for name in before if rates.get(f"{parts[name]}_lr") == 0}
    assert {*names} == before - frozen == {name for name, p in net.named_parameters() if p.requires_grad}
    for group in made:
        for name in group["names"]:
            assert group["lr"] == 2 * rates.get(f"{parts[name]}_lr", 0.5)
            decayed = net.get_parameter(name).ndim > 1
            assert group["weight_decay"] == (settings.weight_decay if decayed else settings.norm_weight_decay)
    if task != "cls":
        neck = "backbone.extra." if "SSD" in task else NECK
        assert "SSD" not in task or any(name.endswith("_matrix") for name in parts)
        expected = {
            name: BACKBONE if name.startswith(BACKBONE) else neck if name.startswith(neck) else "" for name in parts
        }
        assert {expected[name]: part for name, part in parts.items()} == {
            BACKBONE: "backbone",
            neck: "neck",
            "": "head",
        }


def moved(path: str, work: Path, *sets: str) -> tuple[dict[str, Tensor], list[str]]:
    """How a step of SGD moves the tensors of a new net, and what was said."""
    recipe, lines = config.load(path), [""]
    start = nets.build(recipe, ("a", "b", "c"), 0).state_dict()
    after = tensors(train(path, work, "train.steps=1", "train.momentum=0", *sets, watch=said(lines)), optimizer=False)
    return {name: (after[name] - start[name]).double() for name in start if "num_batches" not in name}, lines


def test_parts_learn_at_their_own_rates_and_frozen_ones_stay(toy: Path, tmp_path: Path) -> None:
    path = detector(toy, tmp_path, train={"weight_decay": 0.01})
    plain, _ = moved(path, tmp_path / "plain")
    slow, lines = moved(path, tmp_path / "slow", "train.backbone_lr=0.002", "train.head_lr=0.06")
    learnt = [name for name in plain if not name.endswith(("running_mean", "running_var"))]
    for name in learnt:
        times = 0.1 if name.startswith(BACKBONE) else 1 if name.startswith(NECK) else 3
        torch.testing.assert_close(slow[name], times * plain[name], rtol=1e-3, atol=1e-7, msg=name)
    assert not any("frozen" in line for line in lines)
    still, lines = moved(path, tmp_path / "still", "train.backbone_lr=0")
    assert {name for name, by in still.items() if by.any()} == {n for n, by in plain.items() if by.any()} - {
        name for name in plain if name.startswith(BACKBONE)
    }  # running statistics, too
    (line,) = [line for line in lines if line.startswith("frozen")]
    assert line.startswith("frozen: backbone (") and " parameters, the statistics of " in line


@pytest.mark.parametrize("older", [False, True])
def test_states_go_on(older: bool, toy_cls: Path, tmp_path: Path) -> None:
    """Also those of a version that knew no names of parameters."""
    rates = {} if older else {"backbone_lr": 0.01, "head_lr": 0.1}
    body = cls.tiny(toy_cls, "basic", train={"optimizer": "adamw", **rates}, data={"val": None})
    path, work = write(tmp_path / "cfg.yaml", body), tmp_path / "work"
    reference = train(path, tmp_path / "unbroken")
    train(path, work, stop=3)
    latest = str(work / "latest.pth")
    if older:
        content = torch.load(latest, weights_only=True)
        for group in content["optimizer"]["param_groups"]:
            del group["names"]
        torch.save(content, latest)
    train(path, work)
    assert equal(tensors(latest), tensors(reference))


def test_what_was_gathered_goes_by_name(toy_cls: Path, tmp_path: Path) -> None:
    """Where a backbone is frozen on the way, and let go again."""
    path = write(tmp_path / "cfg.yaml", cls.tiny(toy_cls, "basic", data={"val": None}))
    work = tmp_path / "work"
    latest = str(work / "latest.pth")

    def momenta() -> dict[str, Tensor]:
        state = checkpoint.load(latest).optimizer
        names = {i: name for g in state["param_groups"] for i, name in zip(g["params"], g["names"], strict=True)}
        return {names[i]: values["momentum_buffer"] for i, values in state["state"].items()}

    train(path, work, "train.steps=6", stop=3)
    before, weights = momenta(), checkpoint.load(latest).net
    train(path, work, "train.steps=6", "train.backbone_lr=0", accept=True, stop=4)
    after, later = momenta(), checkpoint.load(latest).net
    assert {*after} == {name for name in before if not name.startswith("backbone.")} != {*before}
    assert all(torch.equal(later[name], weights[name]) for name in weights if name.startswith("backbone."))
    lines: list[str] = []
    train(path, work, "train.steps=6", accept=True, watch=said(lines))
    (line,) = [line for line in lines if "begin anew" in line]
    assert line.startswith(f"{len(before) - len(after)} parameters begin anew in the optimizer")
    assert {*momenta()} == {*before}


def test_what_is_refused(toy: Path, toy_cls: Path, tmp_path: Path) -> None:
    path, work = write(tmp_path / "cfg.yaml", cls.tiny(toy_cls)), tmp_path / "work"
    text = bad("train", path, "--work-dir", work, "--set", "train.neck_lr=0.1")
    assert "neck_lr: this network has no neck" in text
    text = bad("train", path, "--work-dir", work, "--set", "train.backbone_lr=0", "--set", "train.head_lr=0")
    assert "no parameter is left to train" in text
    with pytest.raises(UsageError, match="is 0, as backbone_lr and neck_lr are"):
        Train(backbone_lr=0, neck_lr=0, head_lr=0)
    assert not (work / "latest.pth").exists()


def test_a_subnet_is_tuned_with_a_frozen_backbone(toy: Path, tmp_path: Path) -> None:
    """Its statistics are calibrated for it first; then they stay."""
    path = detector(toy, tmp_path, finetune={"steps": 1, "backbone_lr": 0})
    weights = train(path, tmp_path / "work", "train.steps=1")
    common = (path, "--checkpoint", weights, "--device", "cpu", "--split", "train", "--arch", "MAX")
    done = nas.call("finetune", *common, "--out", tmp_path / "t.jsonl", "--work-dir", tmp_path / "tuned")
    assert done.code == 0 and "frozen: backbone (" in done.err
    tuned = tensors(tmp_path / "tuned" / "best" / "latest.pth", optimizer=False)
    supernet = tensors(weights, optimizer=False)
    same = {name for name in supernet if torch.equal(supernet[name], tuned[name])}
    inside = {name for name in supernet if name.startswith(BACKBONE)}
    assert {name for name in inside - same if "num_batches" not in name} == {
        name for name in inside if "running" in name
    }
    assert f"{NECK}layer_blocks.0.0.weight" in {*supernet} - same
    trust = ("trust", path, "--checkpoint", weights, "--split", "train", "--work-dir", tmp_path / "trust")
    text = bad(*trust, "--set", "train.head_lr=0")
    assert "train.head_lr is 0, but an arch that is trained alone begins with new weights" in text
