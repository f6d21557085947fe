"""BigNAS's ResNet of basic blocks: the static network's equal at every arch, priced as measured and as published."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.big_resnet import BigResNet
from searchkit.nas.models.backbones.big_resnet_plan import big_resnet_plan
from searchkit.records.arch import Arch
from tests.nas.test_nn import randomise
from tests.support.backbones import check_detector, cost, measured, same_as_static

pytestmark = pytest.mark.usefixtures("one_thread")

R18 = Arch.of({"stem.width": 32, "body.width": (48, 96, 192, 384), "body.depth": (1, 2, 2, 4)})  # United-Perception's
SPACE: dict[str, tuple[tuple[int, ...], ...]] = {
    "stem.width": ((8, 16),),
    "stem.kernel": ((3, 5, 7),),
    "body.width": ((8, 16), (16, 24), (16, 32)),
    "body.depth": ((1, 2), (1, 3), (1, 2)),
    "body.kernel": ((3, 5), (3,), (3, 5)),
    "body.expand": ((1, 2), (1,), (1, 2)),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "deep stem": {},
    "one conv, features by name": {"deep_stem": False, "pool": False, "features": ["c1", "c3", "c4"]},
    "frozen norms": {"norm": "frozen", "expand": [0.5, 1, 2]},
}


def draw(pick: Any, options: dict[str, Any]) -> Arch:
    values: dict[str, Any] = {name: [pick(c) for c in choices] for name, choices in SPACE.items()}
    values |= {name: values[name][0] for name in ("stem.width", "stem.kernel")}
    if "expand" in options:
        del values["body.expand"]
    return Arch.of(values)


def rest_of_retinanet(height: int, width: int) -> int:
    """Multiply-adds of the published detector behind its backbone: laterals and outputs of 128, towers of 64."""
    sizes = [(height // s, width // s) for s in (8, 16, 32)]
    for _ in range(2):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    laterals = sum(h * w * c * 128 for (h, w), c in zip(sizes, (96, 192, 384), strict=False))
    each = 128 * 128 * 9 + sum(9 * (128 * 64 + 3 * 64 * 64 + 64 * out) for out in (80 * 2, 4 * 2))
    return laterals + sum(h * w for h, w in sizes) * each


@pytest.mark.parametrize(("size", "macs"), [((512, 1024), 18_974_785_536), ((768, 1344), 37_358_447_616)])
def test_published_cost(size: tuple[int, int], macs: int) -> None:
    with torch.device("meta"):
        net = BigResNet(R18, features=["c3", "c4", "c5"])
    assert cost(big_resnet_plan(R18), size)[0] + rest_of_retinanet(*size) == macs
    assert measured(net, size) == cost(net.plan(R18), size)[0]
    assert net.channels(R18) == (96, 192, 384)


class Basic(nn.Module):
    """A block as the paper has it, with plain layers."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout)
        if stride > 1 or cin != cout:
            self.downsample = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


def test_it_is_plain_layers() -> None:
    """Written once more by hand, with the same names."""
    arch = Arch.of({"stem.width": 16, "body.width": (16, 24), "body.depth": (2, 1)})
    theirs = nn.Module()
    stem = [(3, 8, 2), (8, 8, 1), (8, 16, 1)]
    layers = [x for cin, cout, s in stem for x in (nn.Conv2d(cin, cout, 3, s, 1, bias=False), nn.BatchNorm2d(cout))]
    theirs.stem = nn.ModuleDict({str(3 * (i // 2) + i % 2): layer for i, layer in enumerate(layers)})
    theirs.layer1 = nn.Sequential(Basic(16, 16, 1), Basic(16, 16, 1))
    theirs.layer2 = nn.Sequential(Basic(16, 24, 2))
    randomise(theirs).eval()
    ours = BigResNet(arch).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 45, 38)
    with torch.no_grad():
        y = x
        for i in (0, 3, 6):
            y = theirs.stem[str(i + 1)](theirs.stem[str(i)](y)).relu()
        y = theirs.layer1(nn.functional.max_pool2d(y, 2, 2, ceil_mode=True))
        assert torch.equal(ours(x)["0"], y) and torch.equal(ours(x)["1"], theirs.layer2(y))


@pytest.mark.parametrize("name", OPTIONS)
def test_an_arch_of_the_supernet_is_the_static_network(name: str) -> None:
    options, rng = OPTIONS[name], random.Random(name)
    net = randomise(BigResNet(draw(max, options), held=SPACE, **options))
    x = torch.randn(2, 3, 40, 33)
    shortcuts = set()
    for pick in (max, min, *(rng.choice,) * 6):
        arch = draw(pick, options)
        same_as_static(net, arch, BigResNet(arch, **options), x)
        shortcuts.add("layer1.0.downsample.0.weight" in BigResNet(arch, **options).state_dict())
    assert shortcuts == {False, True} or not options.get("pool", True)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_costs_of_random_archs(name: str) -> None:
    options, rng = OPTIONS[name], random.Random(name)
    with torch.device("meta"):
        net = BigResNet(draw(max, options), held=SPACE, **options)
    for _ in range(20):
        arch, size = draw(rng.choice, options), (rng.randint(9, 99), rng.randint(9, 99))
        net.arch = arch
        macs, params = cost(net.plan(arch), size)
        assert macs == measured(net, size), (arch, size)
        with torch.device("meta"):
            assert params == sum(p.numel() for p in BigResNet(arch, **options).parameters())


def test_it_starts_as_its_shortcuts() -> None:
    arch = Arch.of({"stem.width": 16, "body.width": (16, 24), "body.depth": (2, 2)})
    for name, value in BigResNet(arch).state_dict().items():
        assert not name.endswith("weight") or value.any() != name.endswith("bn2.weight"), name


def test_in_a_detector() -> None:
    most = draw(max, {})
    least = Arch.of({**dict(draw(min, {}).items), "stem.width": 16})
    check_detector("big_resnet", {}, most, least, {f"backbone.{k}": v for k, v in SPACE.items()})


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"body.depth": (1, 2)}, {}, "one number per stage, but have 4 and 2"),
        ({"body.kernel": (3, 3)}, {}, "body.kernel must have 1 number, or one for each of the 4 stages, but it has 2"),
        ({"body.kernel": 4}, {}, "stage 1: widths and depth must be at least 1, the kernel odd and expand above 0"),
        ({"stem.kernel": 4}, {}, "stem.width must be at least 1 and stem.kernel odd, but they are 32 and 4"),
        ({"stem.width": (8, 8)}, {}, "stem.width and stem.kernel must be integers"),
        ({"body.hidden": 8}, {}, "no dimension 'body.hidden'"),
        ({}, {"expand": 0}, "expand 0"),
        ({}, {"features": ["c6"]}, "no feature 'c6'"),
    ],
)
def test_what_it_cannot_be(change: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError) as e:
        BigResNet(Arch.of({**dict(R18.items), **change}), **options)
    assert said in e.value.message


def test_a_static_network_owns_what_it_uses() -> None:
    same = Arch.of({"stem.width": 16, "body.width": (16, 24), "body.depth": (1, 1)})
    other = Arch.of({"stem.width": 8, "body.width": (16, 24), "body.depth": (1, 1)})
    with torch.device("meta"):
        with pytest.raises(UsageError, match=r"no conv on the shortcut of layer1\.0, which .* needs"):
            BigResNet(same).arch = other
        BigResNet(same, held={"stem.width": ((8, 16),)}).arch = other
