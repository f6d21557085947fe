"""Sorting channels where a space opens: what was open computes the same, the best come first, and a training that was
broken off ends as an unbroken one."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from searchkit.nas.models.backbones.attentive_nas import AttentiveNAS
from searchkit.nas.models.backbones.big_resnet import BigResNet
from searchkit.nas.models.backbones.mobilenet_v3 import MobileNetV3
from searchkit.nas.models.backbones.resnet import ResNet
from searchkit.nas.models.backbones.shufflenet import ShuffleNetV2
from searchkit.nas.models.elastic import alternatives
from searchkit.nas.models.heads.linear import ClassifierConfig
from searchkit.nas.models.network import build
from searchkit.nas.models.part import BACKBONE
from searchkit.nas.space.space import Space, read_space
from searchkit.nas.train.criteria import CRITERIA
from searchkit.nas.train.sorting import Sorter, importances, inner_channels, layers_at, sort_channels, widths_of
from searchkit.records.arch import Arch
from tests.support import nas
from tests.support.backbones import Flat
from tests.support.detectors import trained
from tests.support.nas import equal, tensors, tiny, train, write

pytestmark = pytest.mark.usefixtures("one_thread")

BODY = {
    "backbone.stem.width": 8,
    "backbone.body.width": {"choices": [[8], [8, 16]]},
    "backbone.body.depth": {"choices": [[1, 2], [1, 2]]},
}
V3 = {"strides": [1, 2], "squeeze": [True, False], "activations": ["relu", "hswish"]}
# A backbone, its options, its space when wide, the dimension that opens, its choices then, and where it is sorted.
OPENED: dict[str, tuple[Any, dict[str, Any], dict[str, Any], str, list[list[int]], set[tuple[str, str]]]] = {
    "mobilenet v3": (
        MobileNetV3,
        {**V3, "norm": "gn", "norm_group": 4},
        {**BODY, "backbone.body.expand": {"choices": [[6], [4, 6]]}},
        "backbone.body.expand",
        [[4, 6], [3, 4, 6]],
        {
            (f"stages.{s}.{i}", name)
            for s in (0, 1)
            for i in (0, 1)
            for name in ("project.0", *(("se.fc2",) * (s == 0)))
        },
    ),
    "attentive nas, a wider stage": (
        AttentiveNAS,
        {"strides": [1, 2], "squeeze": [False, True], "head_expand": 0},
        {**BODY, "backbone.body.width": [8, 16], "backbone.body.expand": {"choices": [[1], [3, 4]]}},
        "backbone.body.width",
        [[8], [8, 16]],
        {("stages.1.1", "project.0"), ("stages.1.1", "se.fc2")},
    ),
    "resnet, bottlenecks": (
        ResNet,
        {},
        {**BODY, "backbone.body.width": [4, 8]},
        "backbone.body.width",
        [[4], [4, 8]],
        {(f"layer2.{i}", f"conv{n}") for i in (0, 1) for n in (2, 3)},
    ),
    "bignas": (
        BigResNet,
        {"stem_expand": 1.0, "zero_init_residual": False},
        {**BODY, "backbone.body.width": [8, 16], "backbone.body.expand": {"choices": [[2], [2]]}},
        "backbone.body.expand",
        [[2], [1, 2]],
        {("layer2.0", "conv2"), ("layer2.1", "conv2")},
    ),
}


def make(name: str) -> tuple[Any, Space, Space, set[tuple[str, str]]]:
    cls, options, wide, key, choices, places = OPENED[name]
    before, after = read_space(wide), read_space({**wide, key: {"choices": choices}})
    more = alternatives(BACKBONE, cls, after.held())
    torch.manual_seed(0)
    net = trained(cls(after.maximum().part(BACKBONE), **options, **more)).double().eval()  # no two numbers are equal
    return net, before, after, places


def out(net: Any, arch: Arch, x: Tensor) -> Tensor:
    net.arch = arch.part(BACKBONE)
    result: Tensor = Flat(net)(x)
    return result


@pytest.mark.parametrize("name", OPENED)
def test_what_was_open_computes_the_same(name: str) -> None:
    net, before, after, places = make(name)
    old, new = widths_of(net.plan, before), widths_of(net.plan, after)
    opened = {place: old[place] for place, widths in new.items() if widths - old[place]}
    assert {*opened} == places
    rng, x = random.Random(0), torch.randn(2, 3, 24, 32).double()
    archs = [before.maximum(), before.minimum(), *(before.sample(rng) for _ in range(4))]
    tuned = torch.optim.AdamW(net.parameters())
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    tuned.step()
    with torch.no_grad():
        was = {k: v.clone() for k, v in net.state_dict().items()}
        moments = {k: tuned.state[p]["exp_avg"].clone() for k, p in net.named_parameters()}
        wanted = [out(net, arch, x) for arch in archs]
        rows = net.plan(after.maximum().part(BACKBONE))
        sort_channels(net, rows, opened, tuned)
        for arch, value in zip(archs, wanted, strict=True):
            torch.testing.assert_close(out(net, arch, x), value, rtol=1e-9, atol=1e-9)
    moved = {k for k, v in net.state_dict().items() if not torch.equal(v, was[k])}
    assert moved and all(any(k.startswith(f"{row}.") for row, _ in places) for k in moved)
    for k, p in net.named_parameters():  # what the optimizer knows of a channel went with it, and nothing else changed
        moment = tuned.state[p]["exp_avg"].flatten()
        order, order_then = moment.argsort(), moments[k].flatten().argsort()
        assert torch.equal(moment[order], moments[k].flatten()[order_then])
        assert torch.equal(p.detach().flatten()[order], was[k].flatten()[order_then])
    for row in rows:
        for reader, inner in inner_channels(row).items():
            if (row.name, reader) in places:
                weight = net.get_parameter(f"{row.name}.{reader}.weight").detach()
                group = 4 if "norm_group" in OPENED[name][1] and reader != "se.fc2" else 1
                importance = weight.abs().flatten(2).sum((0, 2)).view(-1, group).mean(1)
                edges = [0, *sorted(opened[row.name, reader]), inner.width]
                for left, right in pairwise(edges):
                    part = importance[left // group : right // group]
                    assert (part[:-1] >= part[1:] - 1e-6).all()


def test_networks_without_such_channels() -> None:
    with torch.device("meta"):
        arch = Arch.of({"stem.width": 8, "body.width": (8, 16), "body.depth": (1, 2), "body.choice": (0, 1, 3)})
        shuffle = ShuffleNetV2(arch, stem_pool=False)
    assert [inner_channels(row) for row in shuffle.plan(arch)] == [{}] * 4


# --- in a training ---------------------------------------------------------------------------------------------------

MODEL = {"backbone": "mobilenet_v3", "backbone_options": {**V3, "transform": "chained"}, "anchor_sizes": [16, 32, 48]}
SPACE = {
    "backbone.stem.width": 8,
    "backbone.body.width": [8, 16],
    "backbone.body.depth": {"choices": [[1], [1, 2]]},
    "backbone.body.kernel": {"choices": [[3], [3, 5]]},
    "backbone.body.expand": {
        "choices": [[1], [3, 4, 6]],
        "schedule": {"boundary": [1, 2, 3], "value": [[[1], [6]], [[1], [4, 6]], [[1], [3, 4, 6]]]},
    },
    "anchors": None,
}


def test_broken_off_where_it_sorts(toy: Path, tmp_path: Path) -> None:
    """Right before, right after: the tensors and what the optimizer holds are those of an unbroken training."""
    body = tiny(toy, model=MODEL, space=SPACE, train={"steps": 9, "batch_size": 8, "policy": "single_path"})
    body["train"] |= {"sort_channels": True, "optimizer": "adamw"}
    path = write(tmp_path / "cfg.yaml", body)
    said: list[str] = []
    watch = nas.quiet()
    watch = type(watch)(said.append, watch.step, watch.scored)
    whole = train(path, tmp_path / "whole", watch=watch)
    lines = [line for line in said if "opens narrower widths" in line]
    epochs = [int(line.split()[1]) for line in lines]
    assert epochs == [2, 3] and "at 2 places inside blocks: channels are sorted there" in lines[0]
    for stop in (3, 4):
        train(path, tmp_path / str(stop), stop=stop)
        train(path, tmp_path / str(stop))
        assert equal(tensors(tmp_path / str(stop) / "latest.pth"), tensors(Path(whole)))
    other = train(path, tmp_path / "unsorted", "train.sort_channels=false")
    assert not equal(tensors(Path(other)), tensors(Path(whole)))


def test_a_start_from_weights_may_open_widths_at_once() -> None:
    """The largest network counts as trained then; one that begins at random has nothing to sort."""
    space = read_space({**BODY, "backbone.body.expand": {"choices": [[3, 6], [3, 6]]}})
    conf = ClassifierConfig(num_classes=3, backbone="mobilenet_v3", backbone_options=V3)
    net = build(conf, space.maximum(), space.held()).eval()
    tuned, said, x = torch.optim.SGD(net.parameters(), lr=0.1), list[str](), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        was, wanted = {k: v.clone() for k, v in net.state_dict().items()}, net(x)
        Sorter(net, tuned, space, 4, said.append, from_weights=False)(0)
        assert not said and equal(net.state_dict(), was)
        sorter = Sorter(net, tuned, space, 4, said.append, from_weights=True)
        for step in range(9):
            sorter(step)
        assert said == ["epoch 1 opens narrower widths at 6 places inside blocks: channels are sorted there"]
        assert not equal(net.state_dict(), was)
        torch.testing.assert_close(net(x), wanted)


@pytest.mark.parametrize("by", CRITERIA)
def test_every_criterion_sorts_and_keeps_what_the_largest_computes(by: str) -> None:
    """The channels stand in the order of what they are worth, worked out here from the tensors themselves."""
    net, *_ = make("resnet, bottlenecks")
    rows = net.plan(net.arch)
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    before = [y.detach().clone() for y in net(x).values()]
    sum(y.square().mean() for y in net(x).values()).backward()  # type: ignore[union-attr]
    ranked = importances(net, rows, CRITERIA[by])
    place, row = next((p, r) for r in rows for p in ranked if p[0] == r.name and p[1] == "conv3")
    inner = inner_channels(row)[place[1]]
    layers = layers_at(net, row, inner)
    made: list[Any] = [layer for layer, dim in layers if dim == 0 and getattr(layer, "weight", layer).dim() > 1]
    norms: list[Any] = [layer for layer, dim in layers if dim == 0 and layer.weight.dim() == 1]
    (*_, (reader, _)) = [each for each in layers if each[1] == 1]
    ways: dict[str, Any] = {
        "reading": lambda c: reader.weight[:, c].abs().sum(),
        "l1": lambda c: sum(m.weight[c].abs().sum() for m in made),
        "slimming": lambda c: sum(n.weight[c].abs() for n in norms),
        "taylor": lambda c: sum((m.weight[c] * m.weight.grad[c]).sum() ** 2 for m in made),
    }
    with torch.no_grad():
        own = torch.stack([ways[by](c) for c in range(inner.width)])
    torch.testing.assert_close(ranked[place], own)
    sort_channels(net, rows, {place: set() for place in ranked}, None, ranked)
    for y, was in zip(net(x).values(), before, strict=True):
        assert torch.allclose(y, was, rtol=1e-9, atol=1e-12)
    if not CRITERIA[by].needs_gradients:  # gradients stay where they were
        for values in importances(net, rows, CRITERIA[by]).values():
            assert (values[:-1] >= values[1:] - 1e-9).all()
