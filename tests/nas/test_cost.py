"""Costs from plans equal what independent counters measure, to the unit; a priced space is a function of its inputs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FeaturePyramidNetwork, misc
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from searchkit import fsio
from searchkit.errors import ConflictError, UsageError
from searchkit.nas.cost.price import Cost, plans_of, price, price_net, price_space, read_meters
from searchkit.nas.cost.write import write_space
from searchkit.nas.models.backbones.resnet_plan import resnet_plan
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.models.heads.faster_rcnn_plan import DetectorConfig, FasterRCNNPlan
from searchkit.nas.models.necks.fpn_plan import FPNOptions, FPNPlan
from searchkit.nas.models.network import build
from searchkit.nas.models.part import NetPlan
from searchkit.nas.models.plan import Layer, Plan, Row, channels
from searchkit.nas.space.shapes import InputShape
from searchkit.nas.space.space import Space, read_space
from searchkit.records import modelspace
from searchkit.records.arch import Arch
from tests.nas.space.test_space import AR50_101
from tests.support.marks import some_of

BASIC = partial(resnet_plan, block="basic")
GAIA = DetectorConfig(num_classes=696, rpn_activation="softmax", class_agnostic=True)
SMALL: dict[str, Any] = {
    "backbone.stem.width": {"choices": [8, 12, 16]},
    "backbone.body.width": {"choices": [[4, 8], [8, 12], [8, 16, 20]]},
    "backbone.body.depth": {"choices": [[1, 2], [1, 2, 3], [2, 3]]},
    "data.input_shape": [[64, 64], [65, 97], [131, 66]],
}


def plans(backbone: Callable[[Arch], Plan], config: DetectorConfig) -> NetPlan:
    """A detector's, without torch."""
    neck = FPNPlan(FPNOptions(**config.neck_defaults()))
    return NetPlan(backbone, neck, FasterRCNNPlan(config, config.num_classes))


def arch(stem: int, width: list[int], depth: list[int], **more: Any) -> Arch:
    return Arch.of({"backbone": {"stem": {"width": stem}, "body": {"width": width, "depth": depth, **more}}})


# --- the network built from torch's and torchvision's own classes, by another hand than the plan ---------------------


class Body(nn.Module):
    """A static ResNet out of torchvision's blocks; `parts` are run in turn, the outputs of all but the first kept."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        out = OrderedDict()
        for i, part in enumerate(self.parts):
            x = part(x)
            if i:
                out[str(i - 1)] = x
        return out


def torchvision_body(net: Any) -> Body:
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return Body([stem, net.layer1, net.layer2, net.layer3, net.layer4])


def own_body(a: Arch, block: Any) -> Body:
    stem, widths, depths = (a[f"backbone.{name}"] for name in ("stem.width", "body.width", "body.depth"))
    assert isinstance(stem, int) and isinstance(widths, tuple) and isinstance(depths, tuple)
    conv = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
    parts: list[nn.Module] = [nn.Sequential(conv, nn.BatchNorm2d(stem), nn.ReLU(), nn.MaxPool2d(3, 2, 1))]
    before = stem
    for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        stride, wide = 1 if i == 0 else 2, width * block.expansion
        down = nn.Sequential(nn.Conv2d(before, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))
        parts.append(nn.Sequential(block(before, width, stride, down), *(block(wide, width) for _ in range(depth - 1))))
        before = wide
    return Body(parts)


class Detector(nn.Module):
    """Everything that is priced: pyramid and proposals on one image, the box head on 1,000 boxes."""

    def __init__(self, body: Body, widths: list[int], heads: DetectorConfig) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(widths, heads.fpn_channels, LastLevelMaxPool())
        self.rpn = RPNHead(heads.fpn_channels, len(heads.anchor_ratios))
        if heads.rpn_activation == "softmax":
            self.rpn.cls_logits = nn.Conv2d(heads.fpn_channels, 2 * len(heads.anchor_ratios), 1)
        self.head = TwoMLPHead(heads.fpn_channels * 49, heads.box_head_width)
        self.predictor = FastRCNNPredictor(heads.box_head_width, heads.num_classes + 1)
        if heads.class_agnostic:
            self.predictor.bbox_pred = nn.Linear(heads.box_head_width, 4)

    def forward(self, x: Tensor, boxes: Tensor) -> None:
        self.rpn(list(self.fpn(self.body(x)).values()))
        self.predictor(self.head(boxes))


def run(net: nn.Module, heads: DetectorConfig, size: InputShape) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    with torch.no_grad():
        boxes = torch.zeros(1000, heads.fpn_channels, 7, 7, device="meta")
        net.eval()(torch.zeros(1, 3, height, width, device="meta"), boxes)


def measured(net: nn.Module, heads: DetectorConfig, size: InputShape) -> Cost:
    """By torch's own counter, which counts a multiply-add as two."""
    with FlopCounterMode(display=False) as counter:
        run(net, heads, size)
    return Cost(counter.get_total_flops() // 2, sum(p.numel() for p in net.parameters()))


HEADS = [
    DetectorConfig(num_classes=90),
    DetectorConfig(num_classes=3, fpn_channels=32, rpn_activation="softmax", class_agnostic=True, box_head_width=64),
]


@pytest.mark.parametrize("heads", HEADS, ids=["torchvision", "softmax-agnostic"])
@pytest.mark.parametrize("size", [(480, 480), (317, 481), (33, 1)], ids=str)
@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_torchvision_resnets(depth: int, size: InputShape, heads: DetectorConfig) -> None:
    depths = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}[depth]
    wide = 4 if depth >= 50 else 1
    with torch.device("meta"):
        body = torchvision_body(getattr(torchvision.models, f"resnet{depth}")(weights=None))
        net = Detector(body, [64 * wide, 128 * wide, 256 * wide, 512 * wide], heads)
    plan_of = resnet_plan if depth >= 50 else partial(BASIC, first_shortcut=False)
    a = arch(64, [64, 128, 256, 512], depths)
    assert price(plans(plan_of, heads), a, size) == measured(net, heads, size)


def test_frozen_norms_have_no_parameters() -> None:
    with torch.device("meta"):
        body = torchvision_body(torchvision.models.resnet50(weights=None, norm_layer=misc.FrozenBatchNorm2d))
        net = Detector(body, [256, 512, 1024, 2048], HEADS[0])
    plan_of = partial(resnet_plan, frozen_norm=True)
    a = arch(64, [64, 128, 256, 512], [3, 4, 6, 3])
    assert price(plans(plan_of, HEADS[0]), a, 224) == measured(net, HEADS[0], 224)


@pytest.mark.slow
@pytest.mark.parametrize(("plan_of", "block"), [(resnet_plan, Bottleneck), (BASIC, BasicBlock)])
def test_random_archs_of_static_networks(plan_of: Callable[[Arch], Plan], block: Any) -> None:
    space, rng, heads = read_space(SMALL), random.Random(0), replace(HEADS[1], anchor_sizes=(32, 64, 128, 256))
    for _ in range(40):
        a, size = space.sample(rng), (rng.randint(1, 300), rng.randint(1, 300))
        with torch.device("meta"):
            net = Detector(own_body(a, block), list(channels(plan_of(a.part("backbone")))), heads)
        assert price(plans(plan_of, heads), a, size) == measured(net, heads, size), (a, size)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"block": "basic", "norm": "frozen"},
    {"deep_stem": True, "avg_down": True, "norm": "gn", "norm_group": 2},
    {"block": "basic", "avg_down": True, "deep_stem": True},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", some_of(OPTIONS, *OPTIONS[1:3]), ids=str)
def test_random_archs_of_the_supernet(options: dict[str, Any]) -> None:
    """What the supernet runs at an arch is what is priced, and its subnet holds as many parameters."""
    kernels = {"backbone.body.kernel": {"choices": [[3, 5], [3], [1, 3, 7]]}}
    space, rng = read_space({**SMALL, **kernels}), random.Random(1)
    config = DetectorConfig(
        num_classes=3, backbone_options=options, fpn_channels=16, rpn_activation="softmax", box_head_width=32
    )
    with torch.device("meta"):
        net = build(config, space.maximum())
    plan_of = plans_of(config, space.maximum())
    boxes = torch.zeros(1000, 16 * 49, device="meta")
    for i in range(60):
        a, size = space.sample(rng), (rng.randint(1, 200), rng.randint(1, 200))
        set_arch(net, a)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            levels = net.eval().backbone(torch.zeros(1, 3, *size, device="meta"))
            net.rpn.head(list(levels.values()))
            net.roi_heads.box_predictor(net.roi_heads.box_head(boxes))
        cost = price(plan_of, a, size)
        assert 2 * cost.flops == counter.get_total_flops(), (a, size)
        if i < 10:
            with torch.device("meta"):
                params = sum(p.numel() for p in build(config, a).parameters())
            assert cost.params == params, a
            assert price_net(config, a, size) == cost


# --- groups, linear layers, pools ------------------------------------------------------------------------------------


def grouped_plan(a: Arch) -> Plan:
    wide = a["width"]
    assert isinstance(wide, int)
    layers = (
        Layer("conv", "a", 3, wide, kernel=3, stride=2, padding=1, bias=True),
        Layer("conv", "b", wide, wide, kernel=5, padding=2, groups=wide),
        Layer("norm", "c", wide, wide, bias=True),
        Layer("avgpool", "d", wide, wide, kernel=2, stride=2),
        Layer("conv", "e", wide, 2 * wide, kernel=3, groups=4, bias=True),
    )
    return (Row("row", 0, 0, layers, output=True),)


@pytest.mark.parametrize("size", [(65, 34), (64, 64), (31, 70)], ids=str)
def test_a_backbone_of_ones_own_with_groups(size: tuple[int, int]) -> None:
    heads = DetectorConfig(num_classes=3, fpn_channels=16, box_head_width=8, anchor_sizes=(32, 64))
    with torch.device("meta"):
        part = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.AvgPool2d(2, 2, ceil_mode=True),
            nn.Conv2d(8, 16, 3, groups=4),
        )
        net = Detector(Body([nn.Identity(), part]), [16], heads)
    assert price(plans(grouped_plan, heads), Arch.of({"backbone.width": 8}), size) == measured(net, heads, size)


# --- the convention of GAIA ------------------------------------------------------------------------------------------


def test_records_of_the_reference() -> None:
    """Its documentation's two records, and one of its published model spaces: counted there with a sigmoid RPN."""
    small = [48, 96, 192, 384]
    assert price(plans(resnet_plan, GAIA), arch(32, small, [2, 2, 5, 2]), 480, "gaia") == Cost(46314197434, 28010543)
    assert price(plans(resnet_plan, GAIA), arch(32, small, [2, 2, 5, 4]), 480, "gaia") == Cost(47443272634, 33024047)
    published = DetectorConfig(num_classes=696, class_agnostic=True)
    large = arch(64, [80, 160, 320, 640], [2, 6, 27, 4])
    assert price(plans(resnet_plan, published), large, 560, "gaia").flops == 137606157134


def gaia_measured(net: Detector, heads: DetectorConfig, size: InputShape) -> Cost:
    """The counting rules as hooks on modules. The relus of its box head are modules, that of its RPN is not."""
    total, params = 0, {}

    def count(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += out.numel() * module.weight[0].numel() + (0 if module.bias is None else out.numel())
        elif isinstance(module, nn.Linear):
            total += args[0].numel() * out.shape[-1]
        else:
            total += (args[0] if isinstance(module, nn.MaxPool2d) else out).numel()
        params[module] = sum(p.numel() for p in module.parameters())

    net.rpn.conv[0][1] = nn.Identity()
    net.head = nn.Sequential(nn.Flatten(), net.head.fc6, nn.ReLU(), net.head.fc7, nn.ReLU())  # type: ignore[assignment]
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.ReLU, nn.MaxPool2d)):
            module.register_forward_hook(count)
    run(net, heads, size)
    return Cost(total, sum(params.values()))


@pytest.mark.slow
@pytest.mark.parametrize("heads", [*HEADS, GAIA], ids=["torchvision", "softmax-agnostic", "gaia"])
def test_gaia_convention_on_random_archs(heads: DetectorConfig) -> None:
    rng, space = random.Random(2), read_space(SMALL)
    heads = replace(heads, anchor_sizes=(32, 64, 128, 256))  # of three stages, one more is pooled
    for block, plan_of in ((Bottleneck, resnet_plan), (BasicBlock, BASIC)):
        for _ in range(8):
            a, size = space.sample(rng), (rng.randint(1, 300), rng.randint(1, 300))
            with torch.device("meta"):
                net = Detector(own_body(a, block), list(channels(plan_of(a.part("backbone")))), heads)
            assert price(plans(plan_of, heads), a, size, "gaia") == gaia_measured(net, heads, size), (a, size)


# --- a whole space ---------------------------------------------------------------------------------------------------


def record(a: Arch, shape: InputShape, cost: Cost, convention: str) -> dict[str, Any]:
    overhead = {"flops": cost.flops, "params": cost.params, "convention": convention}
    return {"overhead": overhead, "arch": a.nested(), "data": {"input_shape": shape}}


@pytest.mark.parametrize("convention", ["macs", "gaia"])
def test_a_space_is_its_points_in_order(convention: Any) -> None:
    space = read_space(SMALL)
    points = list(price_space(plans(resnet_plan, GAIA), space, convention))
    assert len(points) == space.points() == 3 * 12 * 12 * 3
    assert [(a, shape) for a, shape, _ in points] == [(a, s) for a in space.enumerate() for s in space.scales]
    for a, shape, cost in points[::7]:
        assert price(plans(resnet_plan, GAIA), a, shape, convention) == cost
    for start in (1, 2, 3, 500, len(points) - 1, len(points)):
        assert list(price_space(plans(resnet_plan, GAIA), space, convention, start=start)) == points[start:]


@pytest.mark.slow
def test_points_of_the_large_space_equal_their_own_price() -> None:
    space = read_space(AR50_101)
    assert (space.count(), space.points()) == (85_293, 597_051)
    rng = random.Random(3)
    for start in [0, space.points() - 3, *(rng.randrange(space.points()) for _ in range(5))]:
        for a, shape, cost in islice(price_space(plans(resnet_plan, GAIA), space, "gaia", start=start), 40):
            assert price(plans(resnet_plan, GAIA), a, shape, "gaia") == cost


def test_a_file_holds_every_point(tmp_path: Path) -> None:
    space, path = read_space(SMALL), str(tmp_path / "space.jsonl")
    assert write_space(path, plans(resnet_plan, GAIA), space, "gaia") == space.points()
    points = price_space(plans(resnet_plan, GAIA), space, "gaia")
    assert Path(path).read_text() == "".join(f"{modelspace.dumps(record(*p, 'gaia'))}\n" for p in points)
    assert len(modelspace.load(path)) == space.points() and modelspace.convention(modelspace.load(path)) == "gaia"
    assert write_space(path, plans(resnet_plan, GAIA), space, "gaia") == 0


def test_a_file_holds_other_counts_beside(tmp_path: Path) -> None:
    """Each as it is alone; an interrupted file is gone on with, and without them it is another file."""
    space, path = read_space(SMALL), tmp_path / "space.jsonl"
    plan_of = plans(resnet_plan, GAIA)
    assert write_space(str(path), plan_of, space, beside=("gaia", "ptflops"), start=2) == space.points() - 2
    whole = path.read_bytes()
    alone = {name: price_space(plan_of, space, name, start=2) for name in ("macs", "gaia", "ptflops")}
    for told, *costs in zip(modelspace.load(str(path)), *alone.values(), strict=True):
        counts = [cost.flops for _, _, cost in costs]
        assert [told["overhead"][name] for name in ("flops", "gaia", "ptflops")] == counts
        assert told["overhead"]["params"] == costs[0][2].params and told["overhead"]["convention"] == "macs"
        assert read_meters(plan_of, costs[0][0], costs[0][1]) == {
            **dict(zip(alone, counts, strict=True)),
            "params": costs[0][2].params,
        }
    path.write_bytes(whole[:5000])
    assert write_space(str(path), plan_of, space, beside=("gaia", "ptflops"), start=2) > 0
    assert path.read_bytes() == whole
    with pytest.raises(ConflictError):
        write_space(str(path), plan_of, space, start=2)
    with pytest.raises(UsageError, match=r"no meter 'gaja' \(did you mean gaia"):
        read_meters(plan_of, costs[0][0], 64, ["gaja"])


def test_a_broken_file_is_gone_on_with(tmp_path: Path) -> None:
    space, whole, torn = read_space(SMALL), tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    write_space(str(whole), plans(BASIC, GAIA), space, start=5, stop=40)
    data = whole.read_bytes()
    lines = data.splitlines(keepends=True)
    assert len(lines) == 35 and json.loads(lines[0])["data"]["input_shape"] == list(space.scales[5 % 3])
    for cut in {0, 1, len(data) - 1, len(data), len(lines[0]), len(lines[0]) - 1, *range(0, len(data), 411)}:
        torn.write_bytes(data[:cut])
        assert write_space(str(torn), plans(BASIC, GAIA), space, start=5, stop=40) == 35 - data[:cut].count(b"\n")
        assert torn.read_bytes() == data, cut


def test_a_file_of_something_else_is_not_touched(tmp_path: Path) -> None:
    space, path = read_space(SMALL), tmp_path / "space.jsonl"
    write_space(str(path), plans(resnet_plan, GAIA), space, stop=10)
    before = path.read_bytes()
    other = DetectorConfig(num_classes=3)
    for call in (
        partial(write_space, str(path), plans(resnet_plan, other), space),
        partial(write_space, str(path), plans(resnet_plan, GAIA), space, "gaia"),
        partial(write_space, str(path), plans(resnet_plan, GAIA), space, start=1),
        partial(write_space, str(path), plans(resnet_plan, GAIA), space, stop=9),
    ):
        with pytest.raises(ConflictError, match=r"space\.jsonl:10: the line is not the one of point"):
            call()
    with fsio.locked(str(path)), pytest.raises(ConflictError, match="another process is writing"):
        write_space(str(path), plans(resnet_plan, GAIA), space)
    assert path.read_bytes() == before


# --- what can't be priced --------------------------------------------------------------------------------------------


def test_errors() -> None:
    a = arch(8, [8, 8], [1, 2])
    with pytest.raises(UsageError, match=r"no convention 'mac' to count by \(did you mean macs\?\)"):
        price(plans(resnet_plan, GAIA), a, 64, "mac")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs input shapes"):
        price_space(plans(resnet_plan, GAIA), Space(read_space(SMALL).dims))
    with pytest.raises(UsageError, match="must give out 1 to 1 features"):
        price(plans(resnet_plan, DetectorConfig(num_classes=3, anchor_sizes=(32,))), a, 64)
    with pytest.raises(UsageError, match=r"too small: row\.e would make 0 x 0 out of 2 x 2"):
        price(plans(grouped_plan, DetectorConfig(num_classes=3)), Arch.of({"backbone.width": 8}), 8)
    with pytest.raises(UsageError, match="the stem must be as wide as the stage gives out"):
        price(plans(partial(resnet_plan, first_shortcut=False), GAIA), a, 64)
    with pytest.raises(UsageError, match=r"block must be one of bottleneck, basic"):
        price(plans(partial(resnet_plan, block="botleneck"), GAIA), a, 64)
    with pytest.raises(UsageError, match="one number per stage, but have 2, 1 and 2"):
        price(plans(resnet_plan, GAIA), arch(8, [8, 8], [1]), 64)
    with pytest.raises(UsageError, match="the kernel odd"):
        price(plans(resnet_plan, GAIA), arch(8, [8, 8], [1, 1], kernel=[3, 4]), 64)


def test_rows_are_shared_and_found_by_name() -> None:
    plan = resnet_plan(arch(8, [8, 8], [2, 3]).part("backbone"))
    assert resnet_plan(arch(8, [8, 8], [2, 4]).part("backbone"))[:5] == plan[:5]
    assert all(x is y for x, y in zip(resnet_plan(arch(8, [8, 8], [2, 3]).part("backbone")), plan, strict=True))
    assert [row.name for row in plan] == ["", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer2.2"]
    assert plan[3]["conv2"].stride == 2 == plan[3].stride and (plan[3].cin, plan[3].cout) == (32, 32)
    assert [row.name for row in plan if row.output] == ["layer1.1", "layer2.2"] and plan[0].stride == 4
    with pytest.raises(KeyError, match=r"layer1\.0.*no layer 'conv9'"):
        plan[1]["conv9"]


def test_pricing_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, searchkit.nas.cost.price, searchkit.nas.cost.write, searchkit.nas.models.plan;"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True, timeout=60)
