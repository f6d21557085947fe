"""ShuffleNetV2: torchvision's at its arch, SPOS's blocks by choice, static networks and costs equal at every arch."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.shufflenetv2 import channel_shuffle

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.shufflenet import ShuffleNetV2
from searchkit.nas.models.backbones.shufflenet_plan import BLOCKS, KERNELS, block_row, from_torchvision, shufflenet_plan
from searchkit.nas.nn import BatchNorm2d, TwoPaths
from searchkit.records.arch import Arch
from tests.nas.test_nn import randomise, same_as
from tests.support.backbones import (
    check_detector,
    check_torchvision_weights,
    cost,
    measured,
    same_as_static,
    same_on_a_gpu,
)
from tests.support.detectors import equal, trained
from tests.support.marks import some_of

pytestmark = pytest.mark.usefixtures("one_thread")

X1 = {"stem.width": 24, "body.width": (116, 232, 464), "body.depth": (4, 8, 4), "head.width": 1024}
SPOS = {"stem.width": 16, "body.width": (64, 160, 320, 640), "body.depth": (4, 4, 8, 4), "head.width": 1024}
SMALL = {"stem.width": 6, "body.width": (8, 12), "body.depth": (2, 3), "head.width": 10}
ALL = (0, 1, 2, 3)
# https://github.com/open-mmlab/mmrazor/blob/main/configs/nas/mmcls/spos/SPOS_SUBNET.yaml
PUBLISHED = (2, 0, 2, 0, 3, 1, 1, 0, 0, 1, 0, 1, 0, 3, 1, 2, 2, 0, 1, 3)


def arch(sizes: dict[str, Any], *choices: int) -> Arch:
    return Arch.of({**sizes, "body.choice": choices} if choices else sizes)


def held(*positions: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], ...]]:
    return {"body.choice": positions}


def own_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = from_torchvision(state)
    assert [*names] == [*state]
    return {names[name]: value for name, value in state.items()}


# --- torchvision's ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("twin", "width"),
    [
        (torchvision.models.shufflenet_v2_x1_0, (116, 232, 464)),
        (torchvision.models.shufflenet_v2_x0_5, (48, 96, 192)),
    ],
)
def test_it_is_torchvisions(twin: Callable[[], nn.Module], width: tuple[int, ...]) -> None:
    theirs = trained(twin())
    ours = ShuffleNetV2(arch({**X1, "body.width": width}))
    state = own_names(theirs.state_dict())
    assert [name for name in state if not name.startswith("fc.")] == [*ours.state_dict()]
    ours.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
    x = torch.randn(2, 3, 70, 64)
    for training in (False, True):
        theirs.train(training), ours.train(training)
        theirs.zero_grad(), ours.zero_grad()
        got, want = theirs.fc(ours(x)["3"].mean([2, 3])), theirs(x)
        assert torch.equal(got, want)
        theirs.zero_grad()
        want.square().sum().backward(inputs=[p for n, p in theirs.named_parameters() if not n.startswith("fc.")])
        got.square().sum().backward(inputs=[*ours.parameters()])
        grads = own_names({name: p.grad for name, p in theirs.named_parameters() if not name.startswith("fc.")})
        assert all(torch.equal(p.grad, grads[name]) for name, p in ours.named_parameters())
        buffers = own_names(theirs.state_dict())
        assert all(torch.equal(b, buffers[name]) for name, b in ours.named_buffers())
    sizes = [(f.shape[1], f.shape[2]) for f in ours(x).values()]
    assert sizes == [(24, 18), (width[0], 9), (width[1], 5), (1024, 3)]


@pytest.mark.slow
def test_weights_of_torchvision_fill_the_first_choice(tmp_path: Path) -> None:
    theirs = trained(torchvision.models.shufflenet_v2_x0_5())
    sizes = {**X1, "body.width": (48, 96, 192)}
    first = arch(sizes, *(0,) * 16)
    names = {"backbone.body.choice": (ALL, *((0, 1),) * 15)}
    loaded = check_torchvision_weights(theirs, first, first, tmp_path, names, backbone="shufflenet_v2")
    assert not loaded.partly and {name.split(".")[4] for name in loaded.kept} == {"k5", "k7", "xception"}
    assert from_torchvision(torchvision.models.resnet18().state_dict()) == {}


# --- the blocks ------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """As the papers draw it, out of torch's layers."""

    def __init__(self, cin: int, cout: int, stride: int, choice: int, side: int | None = None) -> None:
        super().__init__()
        half, kernel = cout // 2, KERNELS[choice]
        into, side = cin if stride == 2 else half, side or half

        def dw(c: int, s: int) -> list[nn.Module]:
            return [nn.Conv2d(c, c, kernel, s, kernel // 2, groups=c, bias=False), nn.BatchNorm2d(c)]

        def pw(a: int, b: int = half) -> list[nn.Module]:
            return [nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]

        if stride == 2:
            self.branch1 = nn.Sequential(*dw(cin, 2), *pw(cin, side))
        if choice == 3:
            layers = [*dw(into, stride), *pw(into), *dw(half, 1), *pw(half), *dw(half, 1), *pw(half, cout - side)]
        else:
            layers = [*pw(into), *dw(half, stride), *pw(half, cout - side)]
        self.branch2 = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        kept, taken = x.chunk(2, 1) if not hasattr(self, "branch1") else (self.branch1(x), x)
        return channel_shuffle(torch.cat((kept, self.branch2(taken)), 1), 2)


@pytest.mark.parametrize("choice", ALL)
@pytest.mark.parametrize(("stride", "keep_width"), [(1, False), (1, True), (2, False), (2, True)])
def test_a_block_is_that_of_the_papers(stride: int, keep_width: bool, choice: int) -> None:
    cin, cout = (12, 12) if stride == 1 else (7, 12)
    row = block_row(0, stride % 2, cin, cout, choice, False, False, keep_width)
    assert row.name == f"stages.0.{stride % 2}.{BLOCKS[choice]}" and BLOCKS[choice].isidentifier()
    assert (row.cin, row.cout, row.stride) == (cin, cout, stride)
    side = cin if keep_width and stride == 2 else None
    ours, theirs = randomise(TwoPaths(row, BatchNorm2d)), Block(cin, cout, stride, choice, side)
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    for training in (False, True):
        same_as(ours.train(training), theirs.train(training), torch.randn(2, cin, 9, 8), row)


# --- alternatives ----------------------------------------------------------------------------------------------------

SPACES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[tuple[int, ...], ...]]] = {
    "all choices": (SMALL, {}, (ALL,) * 5),
    "some choices, three stages, no pool": (
        {"stem.width": 5, "body.width": (4, 8, 8), "body.depth": (1, 2, 1)},
        {"stem_pool": False, "stem_stride": 1},
        ((0, 3), (1,), (2, 3), ALL),
    ),
    "frozen norms": (SMALL, {"norm": "frozen", "norm_eps": 0.0}, (ALL,) * 5),
    "group norms": ({**SMALL, "body.width": (8, 16)}, {"norm": "gn", "norm_group": 2}, (ALL, (1, 2), ALL, (0,), ALL)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", some_of(SPACES, "all choices", "some choices, three stages, no pool"))
def test_an_arch_of_the_supernet_is_the_static_network(name: str) -> None:
    sizes, options, positions = SPACES[name]
    net = randomise(ShuffleNetV2(arch(sizes, *(p[-1] for p in positions)), held=held(*positions), **options))
    assert net.held == held(*positions) and net.CHOICES == ("body.choice",)
    rng, x = random.Random(name), torch.randn(2, 3, 33, 24)
    for pick in (max, min, *(rng.choice,) * 8):
        chosen = arch(sizes, *(pick(p) for p in positions))
        static = ShuffleNetV2(chosen, **options)
        assert static.held == held(*((c,) for c in chosen["body.choice"]))
        same_as_static(net, chosen, static, x)
        blocks = {tuple(n.split(".")[:4]) for n, p in net.named_parameters() if p.grad is not None and "stages" in n}
        assert name == "frozen norms" or len(blocks) == len(positions), "a block that did not run has a gradient"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", SPACES)
def test_on_a_gpu(name: str) -> None:
    sizes, options, positions = SPACES[name]
    net = randomise(ShuffleNetV2(arch(sizes, *(p[-1] for p in positions)), held=held(*positions), **options))
    rng = random.Random(name)
    for pick in (max, min, *(rng.choice,) * 10):
        chosen = arch(sizes, *(pick(p) for p in positions))
        same_on_a_gpu(net, chosen, ShuffleNetV2(chosen, **options))


def test_each_choice_is_a_block_of_its_own() -> None:
    net = ShuffleNetV2(arch(SMALL, 1, 3, 3, 3, 3), held=held((1, 0, 1), (1, 3), (2, 3), (0, 3), (3,)))
    assert net.held == held((0, 1), (1, 3), (2, 3), (0, 3), (3,))
    blocks = {".".join(name.split(".")[1:4]) for name in net.state_dict() if name.startswith("stages.")}
    want = {"0.0.k3", "0.0.k5", "0.1.k5", "0.1.xception", "1.0.k7", "1.0.xception", "1.1.k3", "1.1.xception"}
    assert blocks == want | {"1.2.xception"}
    full = ShuffleNetV2(arch(SMALL))
    assert full.held == held(*((0,),) * 5), "without body.choice all blocks are of the first kind"
    x = torch.randn(1, 3, 32, 32)
    same = ShuffleNetV2(arch(SMALL, *(0,) * 5))
    same.load_state_dict(full.state_dict())
    assert equal(dict(full.eval()(x)), dict(same.eval()(x)))


# --- costs -----------------------------------------------------------------------------------------------------------


def test_published_cost_of_torchvisions() -> None:
    macs, params = cost(shufflenet_plan(arch(X1)), (224, 224))
    with torch.device("meta"):
        theirs = torchvision.models.shufflenet_v2_x1_0()
    assert macs + 1024 * 1000 == measured(theirs, (224, 224)) == 144_907_992
    assert params + 1025 * 1000 == sum(p.numel() for p in theirs.parameters()) == 2_278_604


def test_published_cost_of_spos() -> None:
    """0.33 G are published by a counter with two operations for an element of a norm, one for a relu's or a pool's."""
    found = dict.fromkeys((nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.AdaptiveAvgPool2d), 0)

    def count(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            found[type(module)] += out.numel() * module.weight[0].numel()
        else:
            found[type(module)] += args[0].numel() * (1 + isinstance(module, nn.BatchNorm2d))

    def conv(cin: int, cout: int, kernel: int, stride: int) -> list[nn.Module]:
        same = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)
        return [same, nn.BatchNorm2d(cout), nn.ReLU()]

    with torch.device("meta"):
        layers, cin, choices = conv(3, 16, 3, 2), 16, iter(PUBLISHED)
        for width, depth in zip(SPOS["body.width"], SPOS["body.depth"], strict=True):
            for i in range(depth):
                layers.append(Block(cin, width, 1 if i else 2, next(choices)))
                cin = width
        layers += [*conv(640, 1024, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000)]
        net = nn.Sequential(*layers).eval()
        for module in net.modules():
            if type(module) in found:
                module.register_forward_hook(count)
        net(torch.zeros(1, 3, 224, 224))
    macs, params = cost(shufflenet_plan(arch(SPOS, *PUBLISHED), stem_pool=False), (224, 224))
    assert macs + 1024 * 1000 == found[nn.Conv2d] + found[nn.Linear] == 316_019_520
    assert params + 1025 * 1000 == sum(p.numel() for p in net.parameters())
    assert sum(found.values()) == 327_544_320


@pytest.mark.slow
@pytest.mark.parametrize("name", some_of(SPACES, "all choices", "some choices, three stages, no pool"))
def test_costs_of_random_archs(name: str) -> None:
    sizes, options, positions = SPACES[name]
    rng = random.Random(name)
    with torch.device("meta"):
        net = ShuffleNetV2(arch(sizes, *(p[-1] for p in positions)), held=held(*positions), **options)
    for _ in range(25):
        chosen, size = arch(sizes, *(rng.choice(p) for p in positions)), (rng.randint(9, 99), rng.randint(9, 99))
        net.arch = chosen
        macs, params = cost(net.plan(chosen), size)
        assert macs == measured(net, size), (chosen, size)
        with torch.device("meta"):
            assert params == sum(p.numel() for p in ShuffleNetV2(chosen, **options).parameters())


def test_gaia_convention() -> None:
    total = 0

    def count(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        one = module.weight[0].numel() if isinstance(module, nn.Conv2d) else 1
        total += (args[0] if isinstance(module, nn.MaxPool2d) else out).numel() * one

    with torch.device("meta"):
        net = torchvision.models.shufflenet_v2_x1_0().eval()
        net.fc = nn.Identity()
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.ReLU, nn.MaxPool2d)):
                module.register_forward_hook(count)
        net(torch.zeros(1, 3, 97, 64))
    assert cost(shufflenet_plan(arch(X1)), (97, 64), "gaia")[0] == total


def test_rows_are_shared() -> None:
    one, two = (shufflenet_plan(arch(SPOS, *PUBLISHED[:19], last)) for last in (0, 3))
    assert all(a is b for a, b in zip(one[:20], two[:20], strict=True)) and one[20] != two[20] and one[21] is two[21]


# --- in a detector, and what it cannot be ----------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["searchkit.nas.models.backbones.shufflenet:ShuffleNetV2", "shufflenet_v2"])
def test_in_a_detector(backbone: str) -> None:
    names = {"backbone.body.choice": (ALL,) * 5}
    check_detector(backbone, {}, arch(SMALL, *(3,) * 5), arch(SMALL, 0, 2, 3, 1, 0), names)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"body.width": (8, 10)},
            "the widths and depths of a ShuffleNetV2 are fixed: it was built at body.depth=(2, 3)",
        ),
        ({"body.depth": (3, 2)}, "but the architecture has body.depth=(3, 2)"),
        ({"stem.width": 4}, "fixed"),
        ({"head.width": 8}, "fixed"),
        ({"body.choice": (2, 0, 0, 0, 0)}, "body.choice is 2 (k7) at position 0, but the network holds 0 (k3), 1 (k5)"),
        ({"body.choice": (0, 0, 0, 0)}, "body.choice must have a number for each of the 5 blocks of body.depth"),
        (
            {"body.choice": (0, 0, 0, 0, 4)},
            "body.choice must be of 0 to 3 (k3, k5, k7, xception), but is (0, 0, 0, 0, 4)",
        ),
        ({"body.kernel": 3}, "fixed"),
    ],
)
def test_an_arch_that_it_does_not_hold(change: dict[str, Any], said: str) -> None:
    with torch.device("meta"):
        net = ShuffleNetV2(arch(SMALL, *(0,) * 5), held=held(*((0, 1),) * 5))
    before = net.arch
    with pytest.raises(UsageError) as e:
        net.arch = Arch.of({**SMALL, "body.choice": (0,) * 5, **change})
    assert said in e.value.message and net.arch is before


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"body.width": (8, 13)}, {}, "stage 2: its width must be even"),
        ({"body.depth": (0, 0)}, {}, "one number of at least 1 per stage, but have 2 and 2: the depths are (0, 0)"),
        ({"body.width": (8,)}, {}, "one number of at least 1 per stage, but have 1 and 2"),
        ({"body.kernel": 3}, {}, "the backbone has no dimension 'body.kernel'"),
        ({"head.width": 0}, {}, "head.width must be at least 1, but is 0"),
        ({"head.width": (8, 8)}, {}, "stem.width and head.width must be integers"),
        ({}, {"stem_stride": 3}, "stem_stride must be 1 or 2"),
        ({}, {"held": {"body.chioce": ((0,),)}}, "held must have the choices of body.choice at each of 5 positions"),
        ({}, {"held": held((0,))}, "but has body.choice at 1"),
        ({}, {"held": held((0,), (0,), (0,), (0,), ())}, "each position must hold choices of 0 to 3"),
        ({}, {"held": held(*((1,),) * 5)}, "body.choice is 0 (k3) at position 0, but the network holds 1 (k5) there"),
        ({}, {"norm": "gn", "norm_group": 4}, "a group norm of 4 channels a group cannot take 6 channels"),
    ],
)
def test_what_it_cannot_be(change: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError) as e:
        ShuffleNetV2(Arch.of({**SMALL, **change}), **options)
    assert said in e.value.message
