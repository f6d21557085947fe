"""Elastic layers: at every width they are the static layer that holds the slices, bit for bit, gradients too."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops.misc import FrozenBatchNorm2d as TorchvisionFrozen

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.resnet_plan import Block, Style, resnet_row
from searchkit.nas.models.plan import Layer, Row
from searchkit.nas.nn import BatchNorm2d, Chain, Conv2d, Cuts, FrozenBatchNorm2d, GroupNorm, Linear, Residual, window

CONVS = {
    "1x1": lambda: Conv2d(12, 16, 1),
    "3x3": lambda: Conv2d(12, 16, 3, padding=1, bias=False),
    "stride": lambda: Conv2d(12, 16, 3, stride=2, padding=1),
    "kernel": lambda: Conv2d(12, 16, 7, padding=3),
    "dilation": lambda: Conv2d(12, 16, 5, padding=4, dilation=2),
    "same": lambda: Conv2d(12, 16, 5, padding="same"),
    "groups": lambda: Conv2d(12, 24, 3, padding=1, groups=4),
    "depthwise": lambda: Conv2d(12, 12, 5, padding=2, stride=2, groups=12),
    "depthwise x2": lambda: Conv2d(12, 24, 5, padding=2, groups=12),
}
NORMS = {
    "bn": lambda: BatchNorm2d(12),
    "bn, mean over all batches": lambda: BatchNorm2d(12, momentum=None),
    "bn, without affine": lambda: BatchNorm2d(12, affine=False),
    "bn, without statistics": lambda: BatchNorm2d(12, track_running_stats=False),
    "gn": lambda: GroupNorm(3, 12),
    "gn, without affine": lambda: GroupNorm(6, 12, affine=False),
    "frozen": lambda: FrozenBatchNorm2d(12, eps=1e-3),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def randomise(module: nn.Module) -> nn.Module:
    """Values that tell all slices apart, in the buffers too; counters stay."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2) if name.endswith("running_var") else tensor.normal_()
    return module


def outcome(module: nn.Module, x: Tensor, *args: object) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output, gradient of the input, and gradients of the parameters, of a weighted sum of the output."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    y = module(x, *args)
    (y * torch.linspace(0.5, 1.5, y.numel()).view_as(y)).sum().backward()
    return y.detach(), x.grad, {k: p.grad for k, p in module.named_parameters()}


def lead(full: Tensor, shape: tuple[int, ...]) -> Tensor:
    """By other means than `window`: leading channels, centred kernels."""
    if full.dim() < 4:
        return full[tuple(slice(n) for n in shape)]
    top, left = (full.shape[2] - shape[2]) // 2, (full.shape[3] - shape[3]) // 2
    return full[: shape[0], : shape[1], top : top + shape[2], left : left + shape[3]]


def same_as(elastic: nn.Module, static: nn.Module, x: Tensor, *args: object) -> None:
    """Both say the same, in values, gradients and buffers, once `static` has the slices; nothing else has gradients."""
    static.load_state_dict({k: lead(elastic.state_dict()[k], v.shape) for k, v in static.state_dict().items()})
    before = {k: v.clone() for k, v in elastic.state_dict().items()}
    out, dx, grads = outcome(elastic, x, *args)
    want, want_dx, want_grads = outcome(static, x)
    assert torch.equal(out, want) and torch.equal(dx, want_dx)
    for name, grad in want_grads.items():
        if grad is None:  # it did not run
            assert grads[name] is None, name
            continue
        assert torch.equal(lead(grads[name], grad.shape), grad), name
        assert torch.count_nonzero(grads[name]) == torch.count_nonzero(grad), name
    after = elastic.state_dict()
    for name, value in static.state_dict().items():
        assert torch.equal(lead(after[name], value.shape), value), name
        lead(before[name], value.shape).copy_(value)
        assert torch.equal(before[name], after[name]), f"{name}: more than the slice was written"


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", CONVS)
def test_conv(name: str, layout: torch.memory_format) -> None:
    full = randomise(CONVS[name]()).to(memory_format=layout)
    rng = random.Random(name)
    for _ in range(12):
        k = rng.choice(range(1, full.kernel_size[0] + 1, 2))
        if full.groups > 1:
            groups = rng.randint(1, full.groups)
            cin, cout = (full.in_channels // full.groups * groups, full.out_channels // full.groups * groups)
        else:
            groups, cin, cout = 1, rng.randint(1, full.in_channels), rng.randint(1, full.out_channels)
        pad = full.padding if full.padding == "same" else full.dilation[0] * (k - 1) // 2
        static = nn.Conv2d(cin, cout, k, full.stride, pad, full.dilation, groups, full.bias is not None)
        x = torch.randn(2, cin, 9, 8).to(memory_format=layout)
        same_as(full, static.to(memory_format=layout), x, *((cout, k) if k != full.kernel_size[0] else (cout,)))


@pytest.mark.parametrize("width", [6, 4])
def test_gradients_of_depthwise_convolutions_are_floats_under_autocast(width: int) -> None:
    """In 32 bits from the rounded input on; without gradients the layer is torch's, rounding included."""
    conv = randomise(Conv2d(6, 6, 5, padding=2, groups=6, bias=False))
    x, given = (torch.randn(2, width, 9, 8).bfloat16() for _ in range(2))
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(x)
    out.backward(given)
    rounded = x.detach().float().requires_grad_()
    weight = conv.weight.detach()[:width].clone().requires_grad_()
    want = F.conv2d(rounded, weight, padding=2, groups=width)
    want.backward(given.float())
    assert out.dtype == torch.bfloat16 and torch.equal(out, want.bfloat16())
    assert conv.weight.grad is not None and weight.grad is not None
    assert torch.equal(conv.weight.grad[:width], weight.grad)
    assert rounded.grad is not None and torch.equal(x.grad, rounded.grad.bfloat16())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv(x), F.conv2d(x, weight.bfloat16(), padding=2, groups=width))


@pytest.mark.parametrize("name", NORMS)
def test_norm(name: str) -> None:
    full = randomise(NORMS[name]())
    step = 12 // full.num_groups if isinstance(full, GroupNorm) else 1
    for training in (True, False):
        for c in range(step, 13, step):
            if isinstance(full, GroupNorm):
                static: nn.Module = nn.GroupNorm(c // step, c, full.eps, full.affine)
            elif isinstance(full, FrozenBatchNorm2d):
                static = TorchvisionFrozen(c, full.eps)
            else:
                static = nn.BatchNorm2d(c, full.eps, full.momentum, full.affine, full.track_running_stats)
            same_as(full.train(training), static.train(training), torch.randn(3, c, 5, 4))


def test_linear() -> None:
    for bias in (True, False):
        full = randomise(Linear(40, 24, bias))
        for cin, cout, rows in ((40, 24, 7), (40, 9, 1), (17, 24, 5), (33, 8, 64), (1, 1, 2)):
            same_as(full, nn.Linear(cin, cout, bias), torch.randn(rows, cin), cout)


@pytest.mark.parametrize("make", [*CONVS.values(), *NORMS.values(), lambda: Linear(12, 7)])
def test_full_width_and_plain_are_the_torch_class(make: Callable[[], nn.Module]) -> None:
    full = randomise(make())
    base = type(full).__mro__[1]
    for training in (True, False):
        full.train(training)
        plain = full.plain()
        assert type(plain) is base and plain.training is training
        assert [*plain.state_dict()] == [*full.state_dict()]
        pointers = {v.data_ptr() for v in full.state_dict().values()}
        assert not pointers & {v.data_ptr() for v in plain.state_dict().values()}
        assert str(plain).partition("(")[2] == str(full).partition("(")[2]
        x = torch.randn(2, 12) if isinstance(full, Linear) else torch.randn(2, 12, 9, 9)
        same_as(full, plain, x)


def test_plain_keeps_what_learns_its_type_and_layout() -> None:
    full = randomise(Conv2d(4, 6, 3)).to(torch.float64).to(memory_format=torch.channels_last)
    full.weight.requires_grad_(False)
    state = torch.get_rng_state()
    plain = full.plain()
    assert torch.equal(state, torch.get_rng_state())
    assert plain.weight.dtype == torch.float64 and plain.weight.stride() == full.weight.stride()
    assert not plain.weight.requires_grad and plain.bias.requires_grad


@pytest.mark.parametrize(
    ("layer", "shape", "args", "said"),
    [
        (lambda: Conv2d(4, 6, 5), (1, 5, 9, 9), (), "no slice of (6, 5, 5, 5)"),
        (lambda: Conv2d(4, 6, 5), (1, 4, 9, 9), (7,), "no slice of (7, 4, 5, 5)"),
        (lambda: Conv2d(4, 6, 5), (1, 4, 9, 9), (6, 7), "no slice of (6, 4, 7, 7)"),
        (lambda: Conv2d(4, 6, 5), (1, 4, 9, 9), (6, 4), "a kernel of 4 cannot be cut from the centre of one of 5"),
        (lambda: Conv2d(4, 8, 3, groups=2), (1, 3, 9, 9), (), "in groups of 2 -> 4 channels cannot run 3 -> 6"),
        (lambda: Conv2d(4, 8, 3, groups=2), (1, 2, 9, 9), (8,), "in groups of 2 -> 4 channels cannot run 2 -> 8"),
        (lambda: Linear(4, 6), (1, 5), (), "no slice of (6, 5)"),
        (lambda: BatchNorm2d(4), (1, 5, 2, 2), (), "a norm of 4 channels cannot take 5"),
        (lambda: FrozenBatchNorm2d(4), (1, 5, 2, 2), (), "a norm of 4 channels cannot take 5"),
        (lambda: GroupNorm(2, 8), (1, 9, 2, 2), (), "a norm of 8 channels cannot take 9"),
        (lambda: GroupNorm(2, 8), (1, 6, 2, 2), (), "4 channels a group cannot take 6"),
    ],
)
def test_what_a_layer_does_not_hold(
    layer: Callable[[], nn.Module], shape: tuple[int, ...], args: tuple[int, ...], said: str
) -> None:
    with pytest.raises(UsageError) as e:
        layer()(torch.zeros(shape), *args)
    assert said in e.value.message and e.value.hint


def test_window_is_a_view_of_the_centre() -> None:
    t = torch.arange(2 * 3 * 5 * 5).view(2, 3, 5, 5)
    assert torch.equal(window(t, (1, 2, 3, 1)), t[:1, :2, 1:4, 2:3])
    window(t, (1, 1, 1, 1)).fill_(-1)
    assert t[0, 0, 2, 2] == -1 and t.eq(-1).sum() == 1
    assert window(torch.tensor(3), ()).item() == 3
    with pytest.raises(UsageError):
        window(t, (1, 1, 1))


def test_the_gradient_of_a_window_is_filled_with_zeros_once() -> None:
    """However many dims are narrowed, the weight is the very next node: each other one would fill a tensor more."""
    weight = nn.Parameter(torch.randn(4, 6, 5, 5))
    (node,) = [node for node, _ in window(weight, (2, 3, 1, 1)).grad_fn.next_functions if node]
    assert node.variable is weight
    window(weight.to(memory_format=torch.channels_last), (2, 3, 3, 3)).sum().backward()
    assert torch.equal(weight.grad, lead_of_ones(weight.shape, (2, 3, 3, 3)))


def lead_of_ones(full: torch.Size, shape: tuple[int, ...]) -> Tensor:
    t = torch.zeros(full)
    lead(t, shape).fill_(1)
    return t


@pytest.mark.parametrize("conv", CONVS)
def test_levels_that_share_cut_weights_are_those_that_do_not(conv: str) -> None:
    """In one pass, to the bit, gradients too; another pass has weights of its own."""
    layer = randomise(CONVS[conv]())
    cin, cout = 6, layer.out_channels // 2
    levels = [torch.randn(2, cin, size, size) for size in (9, 5)]
    results = []
    for shared in (False, True):
        layer.zero_grad()
        cuts: Cuts | None = {} if shared else None
        out = [layer(x, cout, cuts=cuts) for x in levels]
        assert not shared or (cuts is not None and len(cuts) == 1)
        sum(y.square().sum() for y in out).backward()
        results.append((*out, *(p.grad for p in layer.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_residual_is_torchvisions_block(block: str, index: int) -> None:
    """Built larger, run at the size of torchvision's: the same values and gradients."""
    grown, mid, cin = (4 if block == "bottleneck" else 1), 6, 8
    cin = cin if index == 0 else mid * grown
    small = Block(1, index, cin, mid, stride=2 - index, shortcut=index == 0, output=True, style=Style(block))
    row = resnet_row(small)
    big = resnet_row(small._replace(cin=13 if index == 0 else 9 * grown, width=9))
    elastic = randomise(Residual(big, BatchNorm2d))
    cls = Bottleneck if block == "bottleneck" else BasicBlock
    down = nn.Sequential(nn.Conv2d(cin, mid * grown, 1, 2, bias=False), nn.BatchNorm2d(mid * grown))
    static = cls(cin, mid, 2 - index, down if index == 0 else None)
    for training in (True, False):
        same_as(elastic.train(training), static.train(training), torch.randn(2, cin, 8, 7), row)


def test_rows_run_their_layers_in_order_and_leave_their_input_alone() -> None:
    layers = (
        Layer("relu", "relu", 3, 3),
        Layer("conv", "a.conv", 3, 4, kernel=3, padding=1, bias=True),
        Layer("norm", "a.norm", 4, 4, bias=True),
        Layer("maxpool", "pool", 4, 4, kernel=3, stride=2, padding=1),
        Layer("avgpool", "down", 4, 4, kernel=2, stride=2),
        Layer("conv", "b", 4, 4, kernel=3, padding=1, groups=2),
    )
    chain = randomise(Chain(Row("chain", 0, 0, layers), BatchNorm2d))
    assert isinstance(chain, Chain) and next(iter(chain.state_dict())) == "a.conv.weight"
    x = torch.randn(2, 3, 10, 10)
    before = x.clone()
    got = chain(x, Row("chain", 0, 0, layers))
    pool, down = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
    plain = nn.Sequential(nn.ReLU(), chain.a.conv.plain(), chain.a.norm.plain(), pool, down, chain.b.plain())
    assert torch.equal(x, before)
    assert got.shape == (2, 4, 3, 3)
    chain.eval(), plain.eval()
    assert torch.equal(chain(x, Row("chain", 0, 0, layers)), plain(x))


def test_a_row_of_linear_layers() -> None:
    def row(cin: int, mid: int, cout: int) -> Row:
        fcs = (Layer("linear", "0", cin, mid, bias=True), Layer("linear", "2", mid, cout, bias=True))
        return Row("head", 0, 0, (fcs[0], Layer("relu", "relu", mid, mid), fcs[1]))

    full = randomise(Chain(row(5, 7, 6), BatchNorm2d))
    same_as(full, nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(4, 3), row(3, 4, 2))
