"""Layers of every kind: narrower they are static layers that hold the slices, written down they are the same, and their
costs are those that are measured."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import SqueezeExcitation

from searchkit.nas.cost.rules import CONVENTIONS, row_cost
from searchkit.nas.models import layer_kinds
from searchkit.nas.models.plan import Activation, Kind, Layer, Row, multiple_of, squeeze_excite
from searchkit.nas.nn import BatchNorm2d, Chain, SameConv2d, kinds, norm_of
from searchkit.nas.nn.written import Conv2dSame
from tests.nas.test_nn import randomise, same_as
from tests.support.backbones import written_down

pytestmark = pytest.mark.usefixtures("one_thread")
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: x.clamp(min=0),
    "relu6": lambda x: x.clamp(0, 6),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.1 * x),
    "hsigmoid": lambda x: (x + 3).clamp(0, 6) / 6,
    "hswish": lambda x: x * (x + 3).clamp(0, 6) / 6,
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "swish": lambda x: x / (1 + torch.exp(-x)),
}


def test_both_tables_have_all_kinds() -> None:
    assert [*layer_kinds.KINDS] and set(layer_kinds.KINDS) == set(kinds.KINDS) == set(get_args(Kind))
    assert set(FUNCTIONS) == set(get_args(Activation))


class Net(nn.Module):
    """A row as a network that runs at one of its sizes, on each level in turn."""

    def __init__(self, largest: Row, row: Row, norm: str) -> None:
        super().__init__()
        self.row, self.levels = row, max(1, row["a.1"].levels)
        self.block = Chain(largest, norm_of(norm, 2, 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.block(x, self.row, level) for level in range(self.levels)])


def block(rng: random.Random, cin: int, mid: int, cout: int, hidden: int, kernel: int, seed: int) -> Row:
    """A block of every kind of layers, whose choices are the seed's: its sizes alone may differ."""
    choose = random.Random(seed)
    acts = [choose.choice(get_args(Activation)) for _ in range(3)]
    same, stride, dilation = choose.random() < 0.5, choose.choice([1, 2]), choose.choice([1, 2])
    padding = 0 if same else dilation * (kernel // 2)
    layers: tuple[Layer, ...] = (
        Layer("conv", "a.0", cin, mid),
        Layer("norm", "a.1", mid, mid, bias=True, levels=choose.choice([0, 3])),
        Layer(acts[0], "act", mid, mid),
        Layer("conv", "b", mid, mid, kernel, stride, padding, groups=mid, dilation=dilation, same=same),
        *squeeze_excite("se.", mid, hidden, choose.choice(["hsigmoid", "sigmoid"]), acts[1]),
        Layer("conv", "c", mid, cout, bias=choose.random() < 0.5),
    )
    if choose.random() < 0.5:
        pool = Layer("avgpool", "down.0", cin, cin, stride, stride, branch=True)
        layers += (pool, Layer("conv", "down.1", cin, cout, branch=True))
        if (same or kernel % 2) and stride <= 2:
            layers += (Layer("add", "add", cout, cout),)
    layers += (Layer(acts[2], "act", cout, cout), Layer(choose.choice(["nearest", "bilinear"]), "up", cout, cout))
    return Row("block", 0, 0, (*layers[:-1], Layer(layers[-1].kind, "up", cout, cout, scale=2)))


@pytest.mark.parametrize("seed", range(12))
def test_a_row_of_all_kinds(seed: int) -> None:
    rng = random.Random(seed)
    largest = block(rng, 8, 12, 10, 6, 5, seed)
    sizes = [rng.choice(range(2, top + 1, 2)) for top in (8, 12, 10, 6)]
    row = block(rng, *sizes, rng.choice([1, 3, 5]), seed)
    norm = rng.choice(["bn", "gn", "frozen"])
    size = (rng.randint(6, 13), 9)
    net, static = randomise(Net(largest, row, norm)), Net(row, row, norm)
    x = torch.randn(2, row.cin, *size)
    for training in (False, True):
        same_as(net.train(training), static.train(training), x)
    plain = written_down(static.eval())
    with torch.no_grad():
        assert torch.equal(plain(x), static(x))
        with FlopCounterMode(display=False) as counter:
            shape = plain(x).shape
    cost = row_cost(row, (size,), "macs")
    assert counter.get_total_flops() // 2 == 2 * net.levels * cost.flops[0]  # of two images
    assert shape[3:] == cost.sizes[0]
    frozen = 2 * row["a.1"].cout * net.levels if norm == "frozen" else 0  # which the row does not know of
    assert cost.params - frozen == sum(p.numel() for p in static.parameters())


def test_activations_by_their_formulas() -> None:
    x = torch.linspace(-8, 8, 1000)
    for name, formula in FUNCTIONS.items():
        row = Row("", 0, 0, (Layer(name, name, 1, 1),))  # type: ignore[arg-type]
        before = x.clone()
        torch.testing.assert_close(Chain(row, BatchNorm2d)(x, row), formula(x))
        assert torch.equal(x, before)


def test_squeeze_excite_is_torchvisions() -> None:
    theirs = randomise(SqueezeExcitation(12, 5, nn.ReLU, nn.Hardsigmoid))
    row = Row("", 0, 0, squeeze_excite("", 12, 5))
    ours = Chain(row, BatchNorm2d)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 12, 7, 6)
    assert torch.equal(ours(x, row), theirs(x))


def by_hand(conv: nn.Conv2d, x: Tensor, cout: int, kernel: int) -> Tensor:
    """TensorFlow's rule: ceil(n / stride) outputs; of what is missing one half goes in front, the rest behind."""
    at = (conv.kernel_size[0] - kernel) // 2
    weight = conv.weight[:cout, :, at : at + kernel, at : at + kernel]
    missing = []
    for size in reversed(x.shape[2:]):
        outputs = -(-size // conv.stride[0])
        span = (outputs - 1) * conv.stride[0] + (kernel - 1) * conv.dilation[0] + 1
        missing += [max(span - size, 0) // 2, max(span - size, 0) - max(span - size, 0) // 2]
    return F.conv2d(F.pad(x, missing), weight, conv.bias[:cout], conv.stride, 0, conv.dilation)


def test_same_padding_at_every_size() -> None:
    for kernel, stride, dilation in ((3, 1, 1), (3, 2, 1), (5, 2, 1), (5, 3, 2), (1, 2, 1), (4, 2, 1), (2, 3, 1)):
        conv = randomise(SameConv2d(4, 6, kernel, stride, dilation=dilation))
        plain = conv.plain()
        assert type(plain) is Conv2dSame
        for size in range(1, 14):
            x = torch.randn(1, 4, size, 14 - size)
            layer = Layer("conv", "", 4, 6, kernel, stride, dilation=dilation, same=True, bias=True)
            assert torch.equal(conv(x), plain(x))
            torch.testing.assert_close(conv(x), by_hand(conv, x, 6, kernel))
            assert conv(x).shape[2:] == tuple(layer_kinds.out_size(layer, n) for n in x.shape[2:])
            if kernel == 5:
                torch.testing.assert_close(conv(x, 3, 3), by_hand(conv, x, 3, 3))


def test_pools_that_round_up() -> None:
    for kernel, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 2, 0), (2, 3, 0), (3, 3, 1)):
        for size in range(3, 20):
            layer = Layer("maxpool", "", 1, 1, kernel, stride, padding, ceil=True)
            pool = kinds.KINDS["maxpool"].make(layer, BatchNorm2d)  # type: ignore[misc]
            assert pool(torch.zeros(1, 1, size, size)).shape[2] == layer_kinds.out_size(layer, size)


def test_each_level_has_its_norm() -> None:
    row = Row("", 0, 0, (Layer("conv", "conv", 3, 4), Layer("norm", "bn", 4, 4, bias=True, levels=3)))
    net = randomise(Chain(row, BatchNorm2d)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert sorted(before)[:2] == ["bn.0.bias", "bn.0.num_batches_tracked"] and "bn.2.weight" in before
    net(torch.randn(2, 3, 5, 5), row, 1)
    changed = [name for name, value in net.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["bn.1.running_mean", "bn.1.running_var", "bn.1.num_batches_tracked"]
    assert row_cost(row, ((5, 5),), "macs").params == 12 + 24


def test_conventions_count_kind_by_kind() -> None:
    layers = (
        Layer("conv", "c", 3, 4, bias=True),
        Layer("norm", "n", 4, 4, bias=True),
        Layer("hswish", "a", 4, 4),
        Layer("relu", "r", 4, 4),
        *squeeze_excite("se.", 4, 2),
        Layer("maxpool", "p", 4, 4, 2, 2),
        Layer("mean", "m", 4, 4),
    )
    got = {name: row_cost(Row("", 0, 0, layers), ((6, 6),), name) for name in CONVENTIONS}
    macs = 12 * 36 + 16
    se_gaia, se_ptflops = 2 + 4 + 2, 4 * 36 + 2 + 4  # biases and relu; mean, relu, hsigmoid
    assert got["macs"].flops == (macs,)
    assert got["gaia"].flops == (macs + 4 * 36 + 4 * 36 + se_gaia + 4 * 36,)
    assert got["ptflops"].flops == (macs + 2 * 4 * 36 + 4 * 36 + 4 * 36 + se_ptflops + 4 * 36 + 4 * 9,)
    params: dict[str, Any] = {name: cost.params for name, cost in got.items()}
    assert params == {"macs": 16 + 8 + 10 + 12, "gaia": 16 + 10 + 12, "ptflops": 16 + 8 + 10 + 12}


@pytest.mark.parametrize(("width", "expected"), [(1, 8), (11, 16), (12, 16), (19, 24), (20, 24), (90, 88), (140, 144)])
def test_widths_of_mobilenets(width: int, expected: int) -> None:
    assert multiple_of(width) == expected
