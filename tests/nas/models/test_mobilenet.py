"""MobileNetV2: torchvision's at its arch, the static network's equal at every arch, priced as measured."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.mobilenet import MobileNetV2
from searchkit.nas.models.backbones.mobilenet_plan import DEPTHS, EXPANDS, WIDTHS, MobileNetV2Plan, from_torchvision
from searchkit.nas.models.plan import feature_rows, per_block
from searchkit.records.arch import Arch
from tests.nas.test_nn import randomise
from tests.support.backbones import (
    Flat,
    below,
    check_detector,
    check_torchvision_weights,
    cost,
    measured,
    same_as_static,
    same_on_a_gpu,
)
from tests.support.detectors import equal, trained

pytestmark = pytest.mark.usefixtures("one_thread")

TORCHVISION = Arch.of(
    {"stem.width": 32, "body.width": WIDTHS, "body.depth": DEPTHS, "body.expand": EXPANDS, "head.width": 1280}
)
DOTTED = "searchkit.nas.models.backbones.mobilenet:MobileNetV2"


def own_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = from_torchvision(state)
    assert [*names] == [*state]
    return {names[name]: value for name, value in state.items()}


def twins() -> tuple[nn.Module, MobileNetV2]:
    theirs = trained(torchvision.models.mobilenet_v2())
    ours = MobileNetV2(TORCHVISION)
    state = own_names(theirs.state_dict())
    assert [name for name in state if not name.startswith("fc.")] == [*ours.state_dict()]
    ours.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
    return theirs, ours


def features(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What torchvision's has before each halving, and at the end."""
    found = []
    for i, part in enumerate(net.features):
        x = part(x)
        if i in (3, 6, 13, 18):
            found.append(x)
    return {str(i): x for i, x in enumerate(found)}


# --- torchvision's ---------------------------------------------------------------------------------------------------


def test_it_is_torchvisions() -> None:
    theirs, ours = twins()
    theirs.eval(), ours.eval()
    x = torch.randn(2, 3, 70, 64)
    with torch.no_grad():
        got, want = dict(ours(x)), features(theirs, x)
        assert equal(got, want)
        assert [f.shape[-2:] for f in got.values()] == [(18, 16), (9, 8), (5, 4), (3, 2)]
        scores = theirs.classifier(nn.functional.adaptive_avg_pool2d(got["3"], 1).flatten(1))
        assert torch.equal(scores, theirs(x))
    assert ours.channels(TORCHVISION) == (24, 32, 96, 1280)


def test_it_learns_as_torchvisions() -> None:
    theirs, ours = twins()
    x = torch.randn(2, 3, 64, 64)
    for net, out in ((theirs.train(), features(theirs, x)), (ours.train(), ours(x))):
        net.zero_grad()
        sum(f.square().mean() for f in out.values()).backward()
    grads = own_names({name: p.grad for name, p in theirs.named_parameters() if not name.startswith("classifier")})
    assert all(torch.equal(p.grad, grads[name]) for name, p in ours.named_parameters())
    buffers = own_names(theirs.state_dict())
    assert all(torch.equal(b, buffers[name]) for name, b in ours.named_buffers())


def test_initial_values_are_torchvisions() -> None:
    theirs, ours = own_names(torchvision.models.mobilenet_v2().state_dict()), MobileNetV2(TORCHVISION).state_dict()
    for name, value in ours.items():
        if value.dim() == 1:
            assert torch.equal(value, theirs[name]), name
        elif value.dim() > 1:
            assert abs(float(value.std() / theirs[name].std()) - 1) < 0.2, name


@pytest.mark.slow
def test_weights_of_torchvision_fill_a_larger_network(tmp_path: Path) -> None:
    theirs = trained(torchvision.models.mobilenet_v2())
    slots = [e for stage in EXPANDS for e in (stage,) * 5]
    more = {"body.kernel": (5,) * 7, "body.expand": slots, "body.depth": (1, 2, 3, 5, 3, 3, 1), "head.width": 1300}
    biggest = Arch.of({**dict(TORCHVISION.items), **more, "stem.width": 34})
    small = Arch.of({**dict(TORCHVISION.items), "body.kernel": (3,) * 7, "body.expand": slots})
    loaded = check_torchvision_weights(theirs, biggest, small, tmp_path, backbone="mobilenet_v2")
    assert "fc.weight" in loaded.partly and "fc.bias" in loaded.whole
    fresh = {name for name in loaded.kept if not name.startswith("backbone.stages.3.4.")}
    assert not fresh and len(loaded.kept) == 15


@pytest.mark.slow
def test_weights_of_a_torchvision_resnet_fill_a_classifier(tmp_path: Path) -> None:
    small = {"stem.width": 64, "body.width": (64, 128, 256, 512), "body.depth": (2, 2, 2, 2)}
    biggest = Arch.of({**small, "body.width": (64, 128, 256, 520)})
    options = {"block": "basic", "first_shortcut": False}
    theirs = trained(torchvision.models.resnet18())
    loaded = check_torchvision_weights(theirs, biggest, Arch.of(small), tmp_path, backbone_options=options)
    assert "fc.weight" in loaded.partly and not loaded.kept


def test_weights_of_other_depths_are_refused() -> None:
    setting = [[1, 8, 1, 1], [6, 8, 2, 2]]
    with pytest.raises(UsageError, match=r"other depths than torchvision's mobilenet_v2: it has no features\.18"):
        from_torchvision(torchvision.models.MobileNetV2(inverted_residual_setting=setting).state_dict())
    assert from_torchvision(torchvision.models.resnet18().state_dict()) == {}


# --- static networks -------------------------------------------------------------------------------------------------

# What a dimension may be: per stage its choices. `slots`: kernel and expand of each block by itself.
SPACES: dict[str, dict[str, Any]] = {
    "one kernel, residual or not by width": {
        "options": {"strides": (1, 2, 1)},
        "stem": (4, 6),
        "width": ((4, 6), (6, 8), (6, 8)),
        "depth": ((1, 2), (1, 2, 3), (1, 2)),
        "kernel": None,
        "expand": ((1, 2, 3), (2, 4), (1, 6)),
        "head": (8, 12),
    },
    "kernels and expansions of each block": {
        "options": {"strides": (1, 2, 2), "stem_stride": 1, "norm": "gn", "norm_group": 2},
        "stem": (4,),
        "width": ((4, 6), (6, 8), (10,)),
        "depth": ((1, 2, 3), (2, 3), (1, 2)),
        "kernel": ((3, 5), (3, 5, 7), (1, 3)),
        "expand": ((1, 3), (2, 4, 6), (1,)),
        "head": None,
        "slots": 3,
    },
    "channels inside each block": {
        "options": {"strides": (1, 2)},
        "stem": (4,),
        "width": ((4, 6), (6, 8)),
        "depth": ((1, 2), (1, 2, 3)),
        "kernel": None,
        "expand": ((6,), (6,)),
        "hidden": ((5, 12, 20), (3, 9, 16)),
        "head": None,
        "slots": 3,
    },
    "frozen norms": {
        "options": {"strides": (2, 2), "norm": "frozen", "norm_eps": 0.0},
        "stem": (4, 8),
        "width": ((4, 8), (8, 12)),
        "depth": ((1, 2), (1, 2)),
        "kernel": ((3, 5), (5, 7)),
        "expand": ((2,), (3, 4)),
        "head": None,
    },
}


def draw(space: dict[str, Any], pick: Any) -> Arch:
    """An architecture; pick(choices) -> one of them."""
    out: dict[str, Any] = {"stem.width": pick(space["stem"])}
    out["body.width"], out["body.depth"] = ([pick(c) for c in space[name]] for name in ("width", "depth"))
    for name in ("kernel", "expand", "hidden"):
        if space.get(name):
            out[f"body.{name}"] = [pick(c) for choices in space[name] for c in (choices,) * space.get("slots", 1)]
    if space["head"]:
        out["head.width"] = pick(space["head"])
    return Arch.of(out)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_an_arch_of_the_supernet_is_the_static_network(name: str) -> None:
    space, rng = SPACES[name], random.Random(name)
    net = randomise(MobileNetV2(draw(space, max), **space["options"]))
    x = torch.randn(2, 3, 40, 33)
    joined = set()
    for pick in (max, min, *(rng.choice,) * 20):
        arch = draw(space, pick)
        same_as_static(net, arch, MobileNetV2(arch, **space["options"]), x)
        joined.add(tuple(row.layers[-1].kind == "add" for row in net.plan(arch) if row.index == 0))
    assert name != "one kernel, residual or not by width" or len(joined) > 2, "blocks that are residual in some archs"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", SPACES)
def test_on_a_gpu(name: str) -> None:
    space, rng = SPACES[name], random.Random(name)
    net = randomise(MobileNetV2(draw(space, max), **space["options"]))
    for pick in (max, min, *(rng.choice,) * 10):
        arch = draw(space, pick)
        same_on_a_gpu(net, arch, MobileNetV2(arch, **space["options"]))


def test_depth_is_the_first_blocks_and_kernels_are_centres() -> None:
    space = SPACES["kernels and expansions of each block"]
    net = randomise(MobileNetV2(draw(space, max), **space["options"])).eval()
    small = {**dict(draw(space, max).items), "body.depth": (1, 2, 1), "body.kernel": (3,) * 9}
    net.arch = Arch.of(small)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = net(x)
        for name, p in net.named_parameters():
            if name.startswith(("stages.0.1", "stages.0.2", "stages.1.2", "stages.2.1")):
                p.fill_(float("nan"))
            if p.dim() == 4 and p.shape[-1] > 3:
                p[..., 0] = float("nan")
        net.arch = Arch.of({**small, "body.kernel": (3, 0, 0, 3, 3, 0, 3, 0, 0)})  # inactive slots mean nothing
        assert equal(net(x), before)


def test_values_of_blocks() -> None:
    assert per_block("body.kernel", 3, (1, 2)) == ((3,), (3, 3))
    assert per_block("body.kernel", (3, 5), (1, 2)) == ((3,), (5, 5))
    assert per_block("body.kernel", (1, 2, 3, 4, 5, 6), (1, 2)) == ((1,), (4, 5))
    with pytest.raises(UsageError, match=r"or 2 x D for blocks of depths up to D, but it has 4, and body.depth is"):
        per_block("body.kernel", (1, 2, 3, 4), (1, 3))
    assert feature_rows((2, 1, 2, 2, 2, 1, 2, 1, 1)) == (False, False, True, True, False, True, False, False, True)
    assert feature_rows((4, 2)) == (True, True) and feature_rows((1, 1)) == (False, True)


# --- costs -----------------------------------------------------------------------------------------------------------


def test_published_cost() -> None:
    macs, params = cost(MobileNetV2Plan(TORCHVISION).plan(TORCHVISION), (224, 224))
    with torch.device("meta"):
        theirs = torchvision.models.mobilenet_v2()
    assert macs + 1280 * 1000 == measured(theirs, (224, 224)) == 300_774_272
    assert params + 1281 * 1000 == sum(p.numel() for p in theirs.parameters()) == 3_504_872


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_costs_of_random_archs(name: str) -> None:
    space, rng = SPACES[name], random.Random(name)
    with torch.device("meta"):
        net = MobileNetV2(draw(space, max), **space["options"])
    for _ in range(25):
        arch, size = draw(space, rng.choice), (rng.randint(9, 99), rng.randint(9, 99))
        net.arch = arch
        macs, params = cost(net.plan(arch), size)
        assert macs == measured(net, size), (arch, size)
        with torch.device("meta"):
            assert params == sum(p.numel() for p in MobileNetV2(arch, **space["options"]).parameters())


def test_gaia_convention() -> None:
    total = 0

    def count(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        total += out.numel() * (module.weight[0].numel() if isinstance(module, nn.Conv2d) else 1)

    with torch.device("meta"):
        net = torchvision.models.mobilenet_v2().features.eval()
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.ReLU6)):
                module.register_forward_hook(count)
        net(torch.zeros(1, 3, 97, 64))
    assert cost(MobileNetV2Plan(TORCHVISION).plan(TORCHVISION), (97, 64), "gaia")[0] == total


def test_rows_are_shared_by_all_plans() -> None:
    space = {**SPACES["kernels and expansions of each block"]}
    rng = random.Random(1)
    archs = [draw(space, rng.choice) for _ in range(2000)]
    plans = [MobileNetV2Plan(archs[0], strides=(1, 2, 2)) for _ in range(2)]
    first, again = ([plan.plan(arch) for arch in archs] for plan in plans)
    assert all(x is y for a, b in zip(first, again, strict=True) for x, y in zip(a, b, strict=True))


# --- in networks, and what it cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", [DOTTED, "mobilenet_v2"])
def test_in_a_detector(backbone: str) -> None:
    biggest = {"stem.width": 8, "body.width": (8, 8, 12), "body.depth": (1, 2, 3), "body.expand": (1, 4, 6)}
    least = {"stem.width": 6, "body.width": (6, 8, 8), "body.depth": (1, 1, 2), "body.expand": (1, 3, 1)}
    check_detector(
        backbone,
        {"strides": [1, 2, 2]},  # as a list of a YAML file
        Arch.of({**biggest, "body.kernel": (3, 7, 5), "head.width": 20}),
        Arch.of({**least, "body.kernel": (3, 3, 5), "head.width": 12}),
    )


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"body.width": (8, 8)}, {}, "one number for each of the 7 strides, but have 2 and 7"),
        ({}, {"strides": (1, 2)}, "one number for each of the 2 strides, but have 7 and 7"),
        ({}, {"strides": (1, 2, 2, 3, 1, 2, 1)}, "strides must be 1 or 2, but are 2 of the stem and (1, 2, 2, 3"),
        ({}, {"stem_stride": 4}, "strides must be 1 or 2, but are 4 of the stem"),
        ({"body.kernel": 4}, {}, "stage 1: widths, depth and expand must be at least 1 and kernels odd"),
        ({"body.expand": 0}, {}, "expand (0,)"),
        (
            {"body.hidden": 64},
            {},
            "body.hidden of block 1 is 64, but must be at least 1, and of a block",
        ),
        ({"body.expand": (1, 6)}, {}, "body.expand must have 1 number, one for each of the 7 stages"),
        ({"body.kernal": 3}, {}, "no dimension 'body.kernal' (did you mean body.kernel?)"),
        ({"head.width": 0}, {}, "head.width must be at least 1, but is 0"),
        ({"stem.width": (8, 8)}, {}, "stem.width and head.width must be integers"),
        ({}, {"norm": "nb"}, "norm must be one of bn, frozen, gn"),
        ({}, {"norm": "gn", "norm_group": 5}, "a group norm of 5 channels a group cannot take 32 channels"),
    ],
)
def test_what_it_cannot_be(change: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError) as e:
        MobileNetV2(Arch.of({**dict(TORCHVISION.items), **change}), **options)
    assert said in e.value.message


def test_a_missing_dimension() -> None:
    with pytest.raises(UsageError, match=r"no 'body\.expand'"):
        MobileNetV2Plan(Arch(tuple((k, v) for k, v in TORCHVISION.items if k != "body.expand")))


def test_its_last_feature_is_the_head_or_the_last_stage() -> None:
    arch = Arch(tuple((k, v) for k, v in TORCHVISION.items if k != "head.width"))
    with torch.device("meta"):
        net = MobileNetV2(arch)
        out = net(torch.zeros(1, 3, 64, 64))
        assert [f.shape[1] for f in out.values()] == [24, 32, 96, 320] and not hasattr(net, "head")
        assert Flat(net)(torch.zeros(1, 3, 64, 64)).dim() == 2
    assert below(arch).part("backbone") == arch
