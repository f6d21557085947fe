"""Whole SSDs: torchvision's ssdlite320 is one; at any arch they cost, compute, learn and extract as the laws say."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from searchkit.errors import UsageError
from searchkit.nas.cost.price import plans_of, price
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.models.heads.ssd import SSDHead
from searchkit.nas.models.heads.ssd_plan import SSDConfig, SSDOptions
from searchkit.nas.models.init.load import load_init
from searchkit.nas.models.necks.ssd_extras_plan import SSDExtrasOptions
from searchkit.nas.models.network import build, head_of
from searchkit.nas.models.part import NEVER
from searchkit.nas.models.subnet import subnet
from searchkit.nas.space.space import read_space
from searchkit.records.arch import Arch
from tests.nas.models.test_ssd import SSDLITE_HEAD, SSDLITE_NECK
from tests.support.detectors import archs, copied, equal, images, same_found, targets

pytestmark = pytest.mark.usefixtures("one_thread")

SSDLITE = SSDConfig(
    num_classes=90,
    backbone="mobilenet_v3",
    backbone_options={"features": ("c4.expand", "tail"), "norm_eps": 0.001, "norm_momentum": 0.03},
    neck="ssd_extras",
    neck_options=SSDLITE_NECK,
    head="ssd",
    head_options=SSDLITE_HEAD,
    image_mean=(0.5, 0.5, 0.5),
    image_std=(0.5, 0.5, 0.5),
)
AW_NAS = replace(
    SSDLITE,
    num_classes=20,
    backbone_options={"features": ("c4", "tail")},
    neck_options=SSDExtrasOptions(),
    head_options=SSDOptions(),
)
OFA = Arch.of(
    {
        "backbone.stem.width": 16,
        "backbone.body.width": (16, 24, 40, 80, 112, 160),
        "backbone.body.depth": (1, 4, 4, 4, 4, 4),
        "backbone.body.kernel": (3, 7, 7, 7, 7, 7),
        "backbone.body.expand": (1, 6, 6, 6, 6, 6),
        "backbone.head.width": 960,
    }
)
SPACE = read_space(
    {
        "backbone.stem.width": {"choices": [4, 8]},
        "backbone.body.width": {"choices": [[4, 8], [8, 12], [8, 16], [12, 16]]},
        "backbone.body.depth": {"choices": [[1], [1, 2], [1, 2], [1, 2]]},
        "backbone.body.expand": {"choices": [[1], [2, 3], [2, 3], [2, 3]]},
        "backbone.body.kernel": {"choices": [[3], [3, 5], [3, 5], [3]]},
        "neck.width": {"choices": [[16, 24], [8, 12]]},
        "neck.kernel": {"choices": [[3, 5], [3]]},
        "head.kernel": {"choices": [[3, 5], [3, 5], [3], [1, 3]]},
    }
)
SMALL = SSDConfig(
    num_classes=3,
    backbone="mobilenet_v2",
    backbone_options={"strides": (1, 2, 2, 2)},
    neck="ssd_extras",
    neck_options=SSDExtrasOptions(channels=(24, 12)),
    head="ssd",
    head_options=SSDOptions(
        ratios=((2,), (2, 3), (), (2,)), scales=(0.1, 0.3, 0.5, 0.7, 0.9), score_thresh=0.0, detections_per_image=20
    ),
)
FORMS = {
    "aw_nas": SMALL,
    "ssdlite": replace(
        SMALL,
        neck_options=replace(SSDLITE_NECK, channels=(24, 12)),
        head_options=replace(
            SSDLITE_HEAD, ratios=((2,), (2, 3), (), (2,)), scales=(0.1, 0.3, 0.5, 0.7, 0.9), score_thresh=0.0
        ),
    ),
}


def large(tail: int = 1) -> Arch:
    """torchvision's mobilenet_v3_large; tail 2: with the reduced one."""
    return Arch.of(
        {
            "backbone.stem.width": 16,
            "backbone.body.width": (16, 24, 40, 80, 112, 160 // tail),
            "backbone.body.depth": (1, 2, 3, 4, 2, 3),
            "backbone.body.kernel": (3, 3, 5, 3, 3, 5),
            "backbone.body.expand": (1, 6, 6, 6, 6, 6),
            "backbone.body.hidden": (
                *(16, 0, 0, 0, 64, 72, 0, 0, 72, 120, 120, 0),
                *(240, 200, 184, 184, 480, 672, 0, 0, 672, 960 // tail, 960 // tail, 0),
            ),
            "backbone.head.width": 960 // tail,
        }
    )


def settled(net: nn.Module) -> nn.Module:
    """Norms that do something, and scores that differ."""
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                tensor.normal_(std=0.1)
            elif "classification_head" in name and name.endswith(".1.weight") and tensor.dim() == 4:
                tensor.normal_(std=0.5)
            elif tensor.dim() == 1:
                tensor.add_(torch.randn_like(tensor), alpha=0.1)
    return net


def test_ssdlite320_is_torchvisions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = settled(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=8))
    ours: Any = build(replace(SSDLITE, num_classes=7), large(2), min_size=320)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    loaded = load_init(ours, str(tmp_path / "weights.pth"))
    assert not loaded.partly and not loaded.kept and not loaded.unused
    assert len(loaded.whole) == len(theirs.state_dict()) == len(ours.state_dict())
    x = images((200, 300), (400, 320))
    answers = [{"boxes": t["boxes"] * 4, "labels": t["labels"]} for t in targets(2)]
    theirs.train(), ours.train()
    want, got = theirs(x, copy.deepcopy(answers)), ours(x, copy.deepcopy(answers))
    for name, value in got.items():
        torch.testing.assert_close(value, want[name])
    theirs.eval(), ours.eval()  # with the statistics that this step left, which are the same
    with torch.no_grad():
        found, theirs_found = ours(x), theirs(x)
    assert min(len(each["boxes"]) for each in found) == 300
    assert all(map(same_found, found, theirs_found))
    modules = {**dict(ours.named_modules())}
    assert {m.momentum for m in modules.values() if isinstance(m, nn.BatchNorm2d)} == {0.03}


def test_a_checkpoint_of_ours_fills_all_parts(tmp_path: Path) -> None:
    """Not only those whose names torchvision's file would have."""
    theirs = settled(build(SMALL, SPACE.maximum()))
    torch.save({"meta": {"space": SPACE.maximum().nested()}, "net": theirs.state_dict()}, tmp_path / "latest.pth")
    ours = build(SMALL, SPACE.maximum())
    loaded = load_init(ours, str(tmp_path / "latest.pth"))
    assert not loaded.kept and not loaded.unused and not loaded.partly and loaded.whose is None
    assert equal(dict(ours.state_dict()), dict(theirs.state_dict()))


def test_costs_are_the_published_ones() -> None:
    """torchvision's metadata says 0.583 GMACs and 3,440,060 parameters; the others are recomputed by hand."""
    reduced, full = (price(plans_of(SSDLITE, large(tail)), large(tail), 320) for tail in (2, 1))
    assert (reduced.flops, reduced.params) == (583_171_904, 3_440_060)
    assert (full.flops, full.params) == (689_751_104, 5_198_540)
    aw_nas = price(plans_of(AW_NAS, OFA), OFA, 300)
    assert (aw_nas.flops, aw_nas.params) == (1_120_326_368, 6_547_244)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_laws(form: str) -> None:
    """At 20 archs: the cost is as measured, and the subnet computes and learns what the supernet does."""
    config = FORMS[form]
    net: Any = settled(build(config, SPACE.maximum(), min_size=64)).eval()
    plans, before = plans_of(config, SPACE.maximum()), copied(net.state_dict())
    x, batch = images((64, 72), (80, 64)), torch.randn(1, 3, 64, 64)
    for number, arch in enumerate(archs(SPACE, 20, form)):
        set_arch(net, arch)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            levels = net.levels(batch)
        cost = price(plans, arch, 64)
        assert counter.get_total_flops() // 2 == cost.flops
        sub = subnet(net, arch, config)
        assert sum(p.numel() for p in sub.parameters()) == cost.params
        with torch.no_grad():
            assert all(equal(a, b) for a, b in zip(sub.levels(batch), levels, strict=True)), arch.text()
        if number % 10 == 0:
            with torch.no_grad():
                assert equal(sub(x), net(x))
            both = [copy.deepcopy(each).train() for each in (net, sub)]
            assert equal(*(each(x, targets(2)) for each in both)), arch.text()
    assert equal(copied(net.state_dict()), before)


@pytest.mark.parametrize("form", FORMS)
def test_as_source_code(form: str, tmp_path: Path) -> None:
    """The text computes the same, bit for bit, and learns the same."""
    config = FORMS[form]
    arch = SPACE.sample(random.Random(3))
    net: Any = subnet(settled(build(config, SPACE.maximum(), min_size=64)), arch, config)
    shape = head_of(config).form
    text = shape.model_source(net, config, "A title.", shape.size_of(net, 64))
    assert "searchkit" not in text.partition('"""')[2].partition('"""')[2]
    names: dict[str, Any] = {"__file__": str(tmp_path / "model.py"), "__name__": "model"}
    exec(compile(text, "model.py", "exec"), names)
    plain = names["build"]()
    plain.load_state_dict(net.state_dict())
    proof = shape.equality(net.eval(), plain.eval(), [torch.randint(0, 256, (3, 50, 90))], [1], 64, 0)
    assert proof["bit_equal"] and proof["boxes_compared"] > 0
    x = images((64, 72), (80, 64))
    assert equal(net.train()(x, targets(2)), plain.train()(x, targets(2)))
    assert shape.measured_macs(plain.eval(), config, arch, 64) == price(plans_of(config, arch), arch, 64).flops


@pytest.mark.parametrize("form", FORMS)
def test_classes_that_are_not_known_are_never_predicted(form: str) -> None:
    config = replace(FORMS[form], num_classes=5)
    net: Any = settled(build(config, SPACE.maximum(), min_size=64)).eval()
    head_of(config).silence(net, 3)
    with torch.no_grad():
        levels = net.levels(torch.randn(1, 3, 64, 64))
        logits = torch.cat([classes.unflatten(1, (-1, 6))[:, :, 4:].flatten() for classes, _ in levels])
        labels = {int(label) for each in net(images((64, 64))) for label in each["labels"][each["scores"] > 0.001]}
    assert set(logits.tolist()) == {NEVER}
    assert labels <= {1, 2, 3} and labels


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("to_train", [False, True])
def test_classes_are_moved_by_name(form: str, to_train: bool) -> None:
    three, four = FORMS[form], replace(FORMS[form], num_classes=4)
    torch.manual_seed(0)
    old: Any = settled(build(three, SPACE.maximum(), min_size=64)).eval()
    new: Any = settled(build(four, SPACE.maximum(), min_size=64)).eval()
    own = copied(new.state_dict())
    state = head_of(four).adapt(old.state_dict(), own, ["cat", "dog", "cow"], ["cow", "bird", "cat", "bee"], to_train)
    new.load_state_dict(state)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for (before, deltas), (after, same) in zip(old.levels(x), new.levels(x), strict=True):
            before, after = before.unflatten(1, (-1, 4)), after.unflatten(1, (-1, 5))
            assert torch.equal(same, deltas)
            assert torch.equal(after[:, :, [0, 1, 3]], before[:, :, [0, 3, 1]])  # the background, cow and cat
            assert to_train or (after[:, :, [2, 4]] == NEVER).all()
    first = next(name for name in own if name.endswith("module_list.0.1.weight") and "classification" in name)
    rows = state[first].unflatten(0, (-1, 5))[:, [2, 4]]
    assert torch.equal(rows, own[first].unflatten(0, (-1, 5))[:, [2, 4]]) == to_train
    names, state = ["a", "b", "c", "d", "e"], old.state_dict()
    assert equal(head_of(four).adapt(state, own, names, names[:4], True), state)  # it has other classes than was said


def test_every_image_is_stretched() -> None:
    assert SSDHead.STRETCHES
    net: Any = build(SMALL, SPACE.maximum(), min_size=64).eval()
    sizes: list[tuple[int, ...]] = []
    run = net.levels
    net.levels = lambda x: sizes.append(tuple(x.shape)) or run(x)
    net(images((40, 200), (120, 30)))
    assert sizes == [(2, 3, 64, 64)]


@pytest.mark.parametrize("transform", ["chained", "direct"])
def test_kernels_that_are_learnt(transform: str) -> None:
    """Of the extra levels and of the head: matrices of the supernet alone, by which smaller kernels are made."""
    neck, head = SMALL.neck_options, SMALL.head_options
    config = replace(
        SMALL, neck_options=replace(neck, transform=transform), head_options=replace(head, transform=transform)
    )
    space = read_space(
        {key: [*value] if isinstance(value, tuple) else value for key, value in SPACE.maximum().items}
        | {"neck.kernel": {"choices": [3, 5, 7]}, "head.kernel": {"choices": [[3, 5, 7], [3, 5], [3], [3]]}}
    )
    largest = space.maximum()
    net: Any = settled(build(config, largest, space.held(), min_size=64)).eval()
    matrices = {name: p for name, p in net.named_parameters() if name.endswith("_matrix")}
    step = "5to3" if transform == "chained" else "7to3"
    at = "head.classification_head.module_list.0.0.0"
    assert f"backbone.extra.0.1.0.{step}_matrix" in matrices and f"{at}.{step}_matrix" in matrices
    assert len(matrices) == 2 * 2 + 2 * (2 + 1)  # two blocks, two filters at the first level, and at the second
    with torch.no_grad():
        for matrix in matrices.values():
            matrix.add_(torch.randn_like(matrix), alpha=0.3)
    smallest = space.minimum()
    set_arch(net, smallest)
    static = subnet(net, smallest, config)
    batch = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert all(equal(a, b) for a, b in zip(static.levels(batch), net.levels(batch), strict=True))
    assert not any(name.endswith("_matrix") for name, _ in static.named_parameters())
    weight = net.get_submodule(at).weight.detach()
    for size in (5, 3) if transform == "chained" else (3,):
        edge = (weight.shape[-1] - size) // 2
        crop = weight[..., edge : edge + size, edge : edge + size].flatten(1)
        large = weight.shape[-1]
        weight = (crop @ matrices[f"{at}.{large}to{size}_matrix"].T).view(-1, 1, size, size)
    torch.testing.assert_close(static.get_submodule(at).weight.detach(), weight)
    wrong = Arch.of({**dict(smallest.items), "head.kernel": (1, 3, 3, 3)})
    with pytest.raises(UsageError, match=r"head\.kernel\[0\] is 1, but must be one of"):
        set_arch(net, wrong)
