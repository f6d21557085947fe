"""What the tests of backbones share: static twins by slices, outcomes compared, costs of plans against counters."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import ops

from searchkit.nas.cost.rules import Convention, row_cost
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.models.emit import attach, straight_line
from searchkit.nas.models.heads.linear_plan import ClassifierConfig
from searchkit.nas.models.init.load import Loaded, load_init
from searchkit.nas.models.network import build
from searchkit.nas.models.plan import Plan
from searchkit.nas.models.subnet import subnet
from searchkit.records.arch import Arch
from tests.nas.test_nn import lead, same_as
from tests.support.detectors import config, equal, images, trained


def below(arch: Arch) -> Arch:
    """As a backbone's architecture is named in a network."""
    return Arch.of({"backbone": arch.nested()})


def cost(plan: Plan, size: tuple[int, int], convention: Convention = "macs") -> tuple[int, int]:
    """(flops, params) of a backbone on one image."""
    flops = params = 0
    sizes: tuple[tuple[int, int], ...] = (size,)
    for row in plan:
        part = row_cost(row, sizes, convention)
        flops, params, sizes = flops + part.flops[0], params + part.params, part.sizes
    return flops, params


def measured(net: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds by torch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(torch.zeros(1, 3, *size, device=next(net.parameters()).device))
    return counter.get_total_flops() // 2


class Flat(nn.Module):
    """A backbone as a module with one output, which all features go into."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([f.flatten(1) for f in self.net(x).values()], dim=1)


def same_as_static(net: Any, arch: Arch, static: Any, x: Tensor) -> None:
    """The supernet at an architecture and a static network of its slices: the same bits, backward too."""
    net.arch = arch
    assert [f.shape[1] for f in static(x).values()] == [*net.channels(arch)]
    for training in (False, True):
        same_as(Flat(net).train(training), Flat(static).train(training), x)


def same_on_a_gpu(net: Any, arch: Arch, static: Any) -> None:
    """As same_as_static, forward only: gradients of convolutions are not the same there from run to run."""
    static.load_state_dict({name: lead(net.state_dict()[name], v.shape) for name, v in static.state_dict().items()})
    net.arch, x = arch, torch.randn(2, 3, 65, 77, device="cuda")
    with torch.no_grad():
        assert equal(dict(net.cuda().eval()(x)), dict(static.cuda().eval()(x))), arch.text()


def written_down(net: nn.Module) -> nn.Module:
    """A static network as the source code of searchkit.nas.models.emit makes it, with the same weights."""
    table, forward = straight_line(net)
    names: dict[str, Any] = {"nn": nn, "F": F, "torch": torch, "ops": ops, "OrderedDict": OrderedDict, "Tensor": Tensor}
    exec(attach(net), names)
    exec(f"LAYERS = {{\n{table}}}\nclass Net(nn.Module):\n    def forward(self, x):\n{forward}\n", names)
    root = names["Net"]()
    for name, make in names["LAYERS"].items():
        at, parts = root, name.split(".")
        for part, child in pairwise(parts):
            if part not in at._modules:
                at.add_module(part, nn.ModuleDict() if child.isdecimal() else nn.Module())
            at = at._modules[part]
        at.add_module(parts[-1], make())
    root.load_state_dict(net.state_dict())
    return root.train(net.training)


def check_detector(backbone: str, options: dict[str, Any], biggest: Arch, arch: Arch, held: Any = None) -> nn.Module:
    """In a detector a subnet is the supernet at its arch, and so is what is written down as source code. Returns the
    supernet."""
    conf = config(backbone=backbone, backbone_options=options)
    net = trained(build(conf, below(biggest), held, min_size=64, max_size=96)).eval()
    set_arch(net, below(arch))
    x, batch = images((64, 72), (80, 64)), torch.randn(2, 3, 65, 77)
    with torch.no_grad():
        want = net(x)
        sub = subnet(net, below(arch), conf)
        assert equal(sub(x), want) and all(len(one["scores"]) for one in want)
        body = net.backbone.body
        assert equal(dict(written_down(sub.backbone.body)(batch)), dict(body(batch)))
    return net


def check_torchvision_weights(
    theirs: nn.Module, biggest: Arch, arch: Arch, folder: Path, held: Any = None, **what: Any
) -> Loaded:
    """torchvision's file into a larger classifier, which at the file's arch then computes the same; into a detector."""
    path, x = str(folder / "weights.pth"), torch.rand(2, 3, 64, 64)
    torch.save(theirs.state_dict(), path)
    plain = {"image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}
    conf = ClassifierConfig(num_classes=1000, **what, **plain)
    net = build(conf, below(biggest), held).eval()
    loaded = load_init(net, path)
    set_arch(net, below(arch))
    with torch.no_grad():
        torch.testing.assert_close(net(x), theirs.eval()(x), rtol=1e-6, atol=1e-6)
    assert not loaded.unused
    other = build(ClassifierConfig(num_classes=7, **what), below(arch))
    last = {*list(theirs.state_dict())[-2:]}
    assert {name.partition(" ")[0] for name in load_init(other, path).unused} == last
    torch.save(net.state_dict(), folder / "ours.pth")
    detector = build(config(**what), below(biggest), held=held)
    from_ours = load_init(detector, str(folder / "ours.pth"))
    for name, value in net.backbone.state_dict().items():
        assert torch.equal(detector.backbone.body.state_dict()[name], value), name
    assert {name.partition(" ")[0] for name in from_ours.unused} == {"fc.weight", "fc.bias"}
    from_theirs = load_init(build(config(**what), below(biggest), held=held), path)
    assert {name.partition(" ")[0] for name in from_theirs.unused} == last and not from_theirs.lost
    assert len(from_theirs.whole + from_theirs.partly) == len(theirs.state_dict()) - 2
    return loaded


__all__ = [
    "Flat",
    "below",
    "check_detector",
    "check_torchvision_weights",
    "cost",
    "lead",
    "measured",
    "same_as_static",
    "same_on_a_gpu",
    "written_down",
]
