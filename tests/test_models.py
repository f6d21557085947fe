"""Elastic detectors: a subnet is the supernet at its architecture, bit for bit; the named ones are torchvision's."""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from searchkit.errors import UsageError
from searchkit.models.detector import (
    DetectorConfig,
    SoftmaxRPNHead,
    arch_of,
    backbone_class,
    build,
    make_backbone,
    set_arch,
)
from searchkit.models.fpn import FPN
from searchkit.models.load import load_init, read_tensors
from searchkit.models.resnet import ResNet
from searchkit.models.subnet import subnet
from searchkit.space.arch import Arch, Space, read_space
from tests.test_nn import lead, randomise

MINE = f"{Path(__file__).parent / 'assets' / 'my_backbone.py'}:MobileNet"
R50 = Arch.of(
    {"backbone.stem.width": 64, "backbone.body.width": (64, 128, 256, 512), "backbone.body.depth": (3, 4, 6, 3)}
)
R18 = Arch.of(
    {"backbone.stem.width": 64, "backbone.body.width": (64, 128, 256, 512), "backbone.body.depth": (2, 2, 2, 2)}
)


def space(width: list[list[int]], stem: int | dict[str, list[int]], depth: int = 3, **more: Any) -> Space:
    """[smallest, largest, step] per stage."""
    start, end, step = zip(*width, strict=True)
    body = {"start": [*start], "end": [*end], "step": [*step]}
    depths = {"choices": [list(range(1, depth + 1))] * len(width)}
    return read_space({"backbone.stem.width": stem, "backbone.body.width": body, "backbone.body.depth": depths, **more})


def config(**options: Any) -> DetectorConfig:
    small = {"num_classes": 3, "fpn_channels": 8, "box_head_width": 16, "score_thresh": 0.0, "detections_per_image": 20}
    few = {"rpn_pre_nms_test": 50, "rpn_post_nms_test": 30, "rpn_pre_nms_train": 60, "rpn_post_nms_train": 40}
    return DetectorConfig(**{**small, **few, "rpn_batch_per_image": 32, "box_batch_per_image": 16, **options})


STEM = {"choices": [4, 8, 12]}
FOUR = [[2, 6, 2], [4, 8, 1], [4, 10, 3], [8, 16, 4]]
KERNELS = {"backbone.body.kernel": {"choices": [[3, 5], [3, 5, 7], [1, 3, 5, 7]]}}
FAMILIES: dict[str, tuple[Space, DetectorConfig]] = {
    "bottleneck, bn": (space(FOUR, STEM), config()),
    "basic, gn, deep stem": (
        space([[8, 16, 4], [8, 24, 4], [12, 24, 4], [16, 32, 8]], {"choices": [8, 16]}),
        config(
            backbone_options={"block": "basic", "norm": "gn", "norm_group": 4, "deep_stem": True}, class_agnostic=True
        ),
    ),
    "frozen norms, average pooling on the shortcut": (
        space(FOUR, STEM),
        config(backbone_options={"norm": "frozen", "avg_down": True}, rpn_activation="softmax"),
    ),
    "kernels, three stages, two extra levels": (
        space([[2, 6, 2], [4, 8, 2], [4, 8, 2]], STEM, **KERNELS),
        config(backbone_options={"deep_stem": True, "avg_down": True}, class_agnostic=True, rpn_activation="softmax"),
    ),
    "basic, first stages frozen": (
        space(FOUR, STEM, depth=2),
        config(backbone_options={"block": "basic", "frozen_stages": 2, "zero_init_residual": True}),
    ),
    "a backbone of one's own": (
        space([[4, 8, 2], [4, 12, 4], [6, 12, 3]], STEM, **KERNELS),
        config(backbone=MINE, backbone_options={"expand": 3}),
    ),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def make(family: str, min_size: int = 64) -> tuple[FasterRCNN, Space, DetectorConfig]:
    """A supernet of a family, with values that tell all slices apart."""
    sp, conf = FAMILIES[family]
    net = build(conf, sp.maximum(), min_size=min_size, max_size=96)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name.endswith("bn3.weight") or name.endswith("bn2.weight"):
                tensor.uniform_(0.2, 0.8)
            elif tensor.dim() == 1:
                tensor.add_(torch.randn_like(tensor), alpha=0.2)
    return net, sp, conf


def archs(sp: Space, n: int, seed: object) -> list[Arch]:
    rng = random.Random(str(seed))
    return [sp.maximum(), sp.minimum(), *(sp.sample(rng) for _ in range(n - 2))]


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    return [torch.rand(3, h, w) for h, w in sizes]


def targets(n: int) -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[4.0, 6.0, 40.0, 44.0], [10.0, 2.0, 30.0, 60.0]])
    return [{"boxes": boxes + i, "labels": torch.tensor([1 + i % 3, 3])} for i in range(n)]


def equal(a: Any, b: Any) -> bool:
    """Whether nested outputs of two networks have the same bits."""
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return [*a] == [*b] and all(equal(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in state.items()}


# --- the laws --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_subnet_is_the_supernet_at_its_architecture(family: str) -> None:
    net, sp, conf = make(family)
    net.eval()
    before = copied(net.state_dict())
    x, batch = images((64, 72), (80, 64)), torch.randn(1, 3, 65, 77)
    found = 0
    for arch in archs(sp, 80, family):
        set_arch(net, arch)
        assert arch_of(net) == arch
        with torch.no_grad():
            features, out = net.backbone.body(batch), net(x)
            sub = subnet(net, arch, conf)
            assert equal(sub.backbone.body(batch), features) and equal(sub(x), out), arch.text()
        assert [f.shape[1] for f in features.values()] == [*sub.backbone.body.channels(arch.part("backbone"))]
        assert arch_of(sub) == arch
        found += sum(len(one["scores"]) for one in out)
    assert found > 80, "the detections compared are too few"
    assert equal(before, net.state_dict()), "a forward in eval mode wrote to the supernet"


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_gradients_and_statistics_are_those_of_the_subnet(family: str) -> None:
    net, sp, conf = make(family)
    net.train()
    x, y = images((64, 72), (80, 64)), targets(2)
    for arch in archs(sp, 40, f"train {family}"):
        set_arch(net, arch)
        sub = subnet(net, arch, conf)
        before = copied(net.state_dict())
        losses = []
        for one in (net, sub):
            torch.manual_seed(1)
            one.zero_grad()
            losses.append(one(x, y))
            sum(losses[-1].values()).backward()
        assert equal(*losses), arch.text()
        grads = {name: p.grad for name, p in net.named_parameters()}
        own = dict(sub.named_parameters())
        for name, p in own.items():
            grad, full = p.grad, grads[name]
            assert (grad is None) == (full is None), name
            if grad is not None:
                assert torch.equal(lead(full, grad.shape), grad), (name, arch.text())
                assert torch.count_nonzero(full) == torch.count_nonzero(grad), name
        assert all(grads[name] is None for name in grads.keys() - own.keys()), "a block that did not run has a gradient"
        after = net.state_dict()
        for name, value in sub.state_dict().items():
            assert torch.equal(lead(after[name], value.shape), value), name
            lead(before[name], value.shape).copy_(value)
        assert equal(before, dict(after)), "statistics beyond the slices were written"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_subnet_is_independent_and_a_supernet_of_its_own(family: str) -> None:
    net, sp, conf = make(family)
    rng, arch, least = random.Random(3), sp.maximum(), sp.minimum()
    while arch in (sp.maximum(), least):
        arch = sp.sample(rng)
    state = torch.get_rng_state()
    sub = subnet(net, arch, conf)
    assert torch.equal(state, torch.get_rng_state()), "a global random number was drawn"
    memory = {t.untyped_storage().data_ptr() for t in net.state_dict().values()}
    assert not memory & {t.untyped_storage().data_ptr() for t in sub.state_dict().values()}
    assert not any(t.is_meta for t in sub.state_dict().values())
    assert equal(subnet(sub, least, conf).state_dict(), subnet(net, least, conf).state_dict())
    fresh = build(conf, arch)
    assert [(k, v.shape) for k, v in fresh.state_dict().items()] == [(k, v.shape) for k, v in sub.state_dict().items()]
    assert {n: p.requires_grad for n, p in fresh.named_parameters()} == {
        n: p.requires_grad for n, p in sub.named_parameters()
    }
    with pytest.raises(UsageError, match="at most"):
        set_arch(sub, sp.maximum())


def test_a_subnet_has_the_flags_type_and_layout_of_the_supernet() -> None:
    net, sp, conf = make("bottleneck, bn")
    net = net.to(torch.float64).to(memory_format=torch.channels_last).eval()
    net.backbone.body.layer1.train()
    net.rpn.requires_grad_(False)
    net.transform.min_size = (48,)
    arch = sp.sample(random.Random(5))
    sub = subnet(net, arch, conf)
    modules = dict(net.named_modules())
    assert all(m.training == modules[name].training for name, m in sub.named_modules())
    assert all(p.requires_grad == net.get_parameter(n).requires_grad for n, p in sub.named_parameters())
    assert {t.dtype for t in sub.state_dict().values()} == {torch.float64, torch.int64}
    assert sub.transform.min_size == (48,) and sub.transform is not net.transform
    weight = sub.backbone.body.layer4.get_submodule("0").conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    net.eval(), sub.eval()
    set_arch(net, arch)
    x = [image.double() for image in images((64, 72))]
    with torch.no_grad():
        assert equal(net(x), sub(x))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu(family: str) -> None:
    net, sp, conf = make(family)
    net = net.cuda().eval()
    x = [image.cuda() for image in images((64, 72), (80, 64))]
    for arch in archs(sp, 12, family):
        set_arch(net, arch)
        with torch.no_grad():
            assert equal(net(x), subnet(net, arch, conf)(x)), arch.text()


def test_depth_is_the_first_blocks() -> None:
    net, sp, _ = make("bottleneck, bn")
    shallow = {**dict(sp.maximum().items), "backbone.body.depth": (1, 2, 3, 1)}
    set_arch(net.eval(), Arch.of(shallow))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = net.backbone(x)
        for name in ("layer1.1", "layer1.2", "layer2.2", "layer4.1"):
            for p in net.backbone.body.get_submodule(name).parameters():
                p.fill_(float("nan"))
        assert equal(net.backbone(x), before)
        net.backbone.body.get_parameter("layer3.2.conv1.weight").add_(1)
        assert not equal(net.backbone(x), before)


# --- torchvision's networks ------------------------------------------------------------------------------------------


def trained(net: nn.Module) -> nn.Module:
    """Norms as after training: they do something, and values stay moderate."""
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            tensor.normal_(std=0.1)
        elif tensor.dim() == 1 and name.endswith("weight"):
            tensor.uniform_(0.2, 0.8)
    return net


def pyramid_input(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The features of a torchvision ResNet."""
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    out = {}
    for i in range(4):
        x = net.get_submodule(f"layer{i + 1}")(x)
        out[str(i)] = x
    return out


@pytest.mark.parametrize(
    ("arch", "options", "twin"),
    [
        (R50, {}, torchvision.models.resnet50),
        (R18, {"block": "basic", "first_shortcut": False}, torchvision.models.resnet18),
    ],
)
@pytest.mark.parametrize("norm", ["bn", "frozen"])
def test_resnet_is_torchvisions(arch: Arch, options: dict[str, Any], twin: Callable[[], nn.Module], norm: str) -> None:
    theirs = trained(twin()).eval()
    ours = ResNet(arch.part("backbone"), norm=norm, **options).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    assert norm == "frozen" or [*state] == [*ours.state_dict()]
    ours.load_state_dict(state)  # strictly; frozen norms leave out the counters
    x = torch.randn(1, 3, 70, 64)
    with torch.no_grad():
        got, want = dict(ours(x)), pyramid_input(theirs, x)
    if norm == "bn":
        assert equal(got, want)
    for key, value in want.items():
        torch.testing.assert_close(got[key], value, rtol=1e-5, atol=1e-5)


def test_resnet_learns_as_torchvisions() -> None:
    theirs = trained(torchvision.models.resnet18()).train()
    ours = ResNet(R18.part("backbone"), block="basic", first_shortcut=False).train()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    x = torch.randn(2, 3, 64, 64)
    sum(f.square().mean() for f in ours(x).values()).backward()
    sum(f.square().mean() for f in pyramid_input(theirs, x).values()).backward()
    assert all(torch.equal(p.grad, theirs.get_parameter(n).grad) for n, p in ours.named_parameters())
    assert all(torch.equal(b, theirs.get_buffer(n)) for n, b in ours.named_buffers())


def test_initial_values_are_torchvisions() -> None:
    theirs = torchvision.models.resnet18(zero_init_residual=True).state_dict()
    ours = ResNet(R18.part("backbone"), block="basic", first_shortcut=False, zero_init_residual=True).state_dict()
    for name, value in ours.items():
        want = theirs[name]
        if value.dim() == 1:
            assert torch.equal(value, want), name
        elif value.dim() > 1:
            assert abs(float(value.std() / want.std()) - 1) < 0.05, name


def test_fpn_is_torchvisions() -> None:
    theirs = FeaturePyramidNetwork([8, 12, 20], 6, LastLevelMaxPool())
    ours = FPN([8, 12, 20], 6)
    randomise(theirs)
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    ours.load_state_dict(theirs.state_dict())
    x = {str(i): torch.randn(1, c, 17 - 5 * i, 11 - 3 * i) for i, c in enumerate((8, 12, 20))}
    got, want = ours(x), theirs(dict(x))
    assert [*got] == ["0", "1", "2", "pool"] and equal(dict(got), dict(want))
    assert [*FPN([8], 6, extra=0)({"0": x["0"]})] == ["0"]
    more = FPN([8, 12, 20], 6, extra=3)(x)
    assert [*more][3:] == ["pool", "pool2", "pool3"] and more["pool3"].shape[-2:] == (1, 1)


@pytest.mark.parametrize("norm", ["bn", "frozen"])
def test_the_detector_is_torchvisions(norm: str) -> None:
    theirs = trained(fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5, box_score_thresh=0.0))
    conf = DetectorConfig(num_classes=4, backbone_options={"norm": norm}, score_thresh=0.0)
    ours = build(conf, R50)
    ours.load_state_dict(theirs.state_dict())
    for net in (ours, theirs):
        net.eval()
        net.transform.min_size = (96,)
    x = images((90, 120))
    with torch.no_grad():
        got, want = ours(x), theirs(x)
    assert len(want[0]["boxes"]) == 100
    if norm == "bn":
        assert equal(got, want)
    assert torch.equal(got[0]["labels"], want[0]["labels"])
    torch.testing.assert_close(got[0]["scores"], want[0]["scores"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got[0]["boxes"], want[0]["boxes"], rtol=1e-5, atol=1e-4)


def test_the_detector_learns_as_torchvisions() -> None:
    """Softmax-free and with a box per class it is the same loss, to the bit."""
    back = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5)
    head = {"box_head": TwoMLPHead(256 * 49, 16), "box_predictor": FastRCNNPredictor(16, 4)}
    theirs = trained(FasterRCNN(back, min_size=64, max_size=96, **head)).train()
    options = {"block": "basic", "first_shortcut": False}
    conf = DetectorConfig(num_classes=3, box_head_width=16, backbone_options=options)
    ours = build(conf, R18, 64, 96).train()
    ours.load_state_dict(theirs.state_dict())
    losses = []
    for net in (ours, theirs):
        torch.manual_seed(3)
        losses.append(net(images((64, 72), (80, 64)), targets(2)))
    assert equal(*losses)


# --- heads -----------------------------------------------------------------------------------------------------------


def test_softmax_objectness_is_the_softmax_of_two_outputs() -> None:
    head = SoftmaxRPNHead(6, 3)
    randomise(head)
    x = torch.randn(2, 6, 5, 4)
    (objectness,), (deltas,) = head([x])
    both = head.cls_logits(head.conv(x)).view(2, 2, 3, 5, 4)
    assert objectness.shape == (2, 3, 5, 4) and deltas.shape == (2, 12, 5, 4)
    torch.testing.assert_close(objectness.sigmoid(), both.softmax(1)[:, 1])
    truth = torch.randint(2, objectness.shape)
    loss = F.binary_cross_entropy_with_logits(objectness, truth.float())
    torch.testing.assert_close(loss, F.cross_entropy(both, truth))


def test_class_agnostic_boxes_are_the_same_for_all_classes() -> None:
    net = build(config(class_agnostic=True), FAMILIES["bottleneck, bn"][0].minimum())
    x = torch.randn(5, 16)
    scores, deltas = net.roi_heads.box_predictor(x)
    assert scores.shape == (5, 4) and deltas.shape == (5, 16)
    want = F.linear(x, net.roi_heads.box_predictor.bbox_pred.weight, net.roi_heads.box_predictor.bbox_pred.bias)
    assert all(torch.equal(deltas[:, 4 * i : 4 * i + 4], want) for i in range(4))


def test_parts_have_the_sizes_of_the_plan() -> None:
    for sp, conf in FAMILIES.values():
        net = build(conf, sp.minimum())
        heads = conf.heads
        assert net.rpn.head.cls_logits.out_channels == heads.anchors * (1 + (heads.rpn_activation == "softmax"))
        assert len(net.backbone(torch.randn(1, 3, 64, 64))) == heads.levels == len(net.rpn.anchor_generator.sizes)
        assert net.roi_heads.box_predictor.bbox_pred.out_features == 4 * (1 if conf.class_agnostic else 4)


# --- frozen parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("stages", range(5))
def test_frozen_stages_neither_learn_nor_update_statistics(stages: int, deep: bool) -> None:
    arch = FAMILIES["bottleneck, bn"][0].maximum().part("backbone")
    net = ResNet(arch, frozen_stages=stages, deep_stem=deep).train()
    before = copied(net.state_dict())
    sum(f.mean() for f in net(torch.randn(2, 3, 64, 64)).values()).backward() if stages < 4 else None
    assert net.training
    for name, value in net.state_dict().items():
        part = name.partition(".")[0]
        frozen = stages > 0 and (not part.startswith("layer") or int(part[-1]) <= stages)
        if name.endswith("running_mean") and stages < 4:
            assert torch.equal(value, before[name]) is frozen, name
        if name in dict(net.named_parameters()):
            p = net.get_parameter(name)
            assert p.requires_grad is not frozen and (stages == 4 or (p.grad is None) is frozen), name
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(m.training for m in net.eval().modules()) and norms


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"frozen_stages": 5}, "frozen_stages must be 0 to 4, but is 5"),
        ({"norm": "frozne"}, "norm must be one of bn, frozen, gn, but is 'frozne' (did you mean frozen?)"),
        ({"norm": "gn"}, "a group norm of 16 channels a group cannot take"),
        ({"norm": "frozen", "zero_init_residual": True}, "zero_init_residual needs norms that learn"),
        ({"block": "basik"}, "block must be one of bottleneck, basic"),
    ],
)
def test_what_a_resnet_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as e:
        ResNet(FAMILIES["bottleneck, bn"][0].minimum().part("backbone"), **options)
    assert said in e.value.message


# --- architectures and configs that don't fit ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"backbone.body.width": (6, 8, 10, 17)},
            "backbone.body.width is (6, 8, 10, 17), at most (6, 8, 10, 16) are there",
        ),
        ({"backbone.body.depth": (3, 4, 3, 3)}, "backbone.body.depth is (3, 4, 3, 3), at most (3, 3, 3, 3) are there"),
        ({"backbone.body.depth": (3, 0, 3, 3)}, "backbone.body.depth is (3, 0, 3, 3)"),
        ({"backbone.body.depth": (3, 3, 3)}, "backbone.body.depth must have the form of (3, 3, 3, 3)"),
        ({"backbone.stem.width": (4,)}, "backbone.stem.width must have the form of 12"),
        ({"backbone.stem.with": 4}, "backbone.stem.with is no dimension (did you mean backbone.stem.width?)"),
    ],
)
def test_an_architecture_beyond_the_supernet(change: dict[str, Any], said: str) -> None:
    net, sp, conf = make("bottleneck, bn")
    arch = Arch.of({**dict(sp.maximum().items), **change})
    set_arch(net, sp.minimum())
    for use in (lambda: set_arch(net, arch), lambda: subnet(net, arch, conf)):
        with pytest.raises(UsageError) as e:
            use()
        assert said in e.value.message and "was built at" in e.value.hint
    assert arch_of(net) == sp.minimum()


def test_a_missing_dimension() -> None:
    net, _, _ = make("bottleneck, bn")
    with pytest.raises(UsageError, match=r"backbone\.body\.depth is missing; backbone\.body\.width is missing"):
        set_arch(net, Arch.of({"backbone.stem.width": 4}))
    with pytest.raises(TypeError, match="no detector"):
        set_arch(nn.Linear(1, 1), R50)


def test_a_subnet_wants_the_config_of_its_supernet() -> None:
    net, sp, conf = make("bottleneck, bn")
    for other in ({"num_classes": 2}, {"fpn_channels": 4}, {"backbone_options": {"deep_stem": True}}):
        with pytest.raises(UsageError, match="built with another config"):
            subnet(net, sp.minimum(), dataclasses.replace(conf, **other))
    assert subnet(net, sp.minimum(), dataclasses.replace(conf, score_thresh=0.3)).roi_heads.score_thresh == 0.3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"rpn_activation": "relu"}, "rpn_activation must be sigmoid or softmax, but is 'relu'"),
        ({"anchor_sizes": []}, "at least one value"),
        ({"anchor_sizes": [8, 16, 32]}, "a size for each of the 4 features of the backbone, but has 3"),
        ({"backbone": "resnett"}, "unknown backbone 'resnett' (did you mean resnet?)"),
        ({"backbone": "no/such/file.py:Net"}, "cannot read the backbone's file no/such/file.py"),
        ({"backbone": MINE.replace("MobileNet", "MobilNet")}, "has no class 'MobilNet' (did you mean MobileNet?)"),
        ({"backbone": "searchkit.nnn:Net"}, "there is no module 'searchkit.nnn'"),
        ({"backbone": "searchkit.models.resnet:ResNett"}, "has no class 'ResNett' (did you mean ResNet?)"),
    ],
)
def test_what_a_detector_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as e:
        build(config(**options), FAMILIES["bottleneck, bn"][0].minimum())
    assert said in e.value.message


def test_names_outside_the_backbone_are_refused() -> None:
    with pytest.raises(UsageError, match=r"names below backbone\., but has neck\.width"):
        build(config(), Arch.of({**dict(R18.items), "neck.width": 8}))
    with pytest.raises(UsageError, match="but has none"):
        build(config(), Arch.of({}))


# --- a backbone of one's own -----------------------------------------------------------------------------------------


def test_a_backbone_is_found_by_file_and_by_module(tmp_path: Path) -> None:
    path = list(sys.path)
    assert backbone_class(MINE) is backbone_class(MINE)
    assert backbone_class("searchkit.models.resnet:ResNet") is backbone_class("resnet") is ResNet
    file = tmp_path / "one.py"
    file.write_text("class Net: a = 1\n")
    first = backbone_class(f"{file}:Net")
    file.write_text("class Net: a = 2\n")
    assert (first.a, backbone_class(f"{file}:Net").a) == (1, 2), "an edited file is read anew"
    file.write_text("import no_such_module\n")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            backbone_class(f"{file}:Net")
    assert sys.path == path


def test_a_backbone_without_weights() -> None:
    sp, conf = FAMILIES["a backbone of one's own"]
    with torch.device("meta"):
        body = make_backbone(conf, sp.maximum())
    assert all(p.is_meta for p in body.parameters())
    assert body.channels(sp.minimum().part("backbone")) == (4, 4, 6)


# --- initial weights -------------------------------------------------------------------------------------------------


def test_weights_of_a_backbone_fill_the_leading_slices(tmp_path: Path) -> None:
    """torchvision's ResNet-18 in a larger supernet: at its own arch the supernet computes what it does."""
    theirs = trained(torchvision.models.resnet18()).eval()
    torch.save(theirs.state_dict(), tmp_path / "r18.pth")
    biggest = Arch.of(
        {"backbone.stem.width": 66, "backbone.body.width": (66, 130, 260, 513), "backbone.body.depth": (3, 2, 2, 3)}
    )
    net = build(config(backbone_options={"block": "basic", "first_shortcut": False}), biggest).eval()
    loaded = load_init(net, str(tmp_path / "r18.pth"))
    set_arch(net, R18)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert equal(dict(net.backbone.body(x)), pyramid_input(theirs, x))
    body = {k for k in net.state_dict() if k.startswith("backbone.body.") and not k.endswith("num_batches_tracked")}
    assert not loaded.whole or all(k.endswith("num_batches_tracked") for k in loaded.whole)
    new = {k for k in body if ".layer1.2." in k or ".layer4.2." in k}
    assert {*loaded.partly} == body - new and new < {*loaded.kept}
    assert [name.partition(" ")[0] for name in loaded.unused] == ["backbone.body.fc.weight", "backbone.body.fc.bias"]
    assert "2 unused: backbone.body.fc.weight (no such tensor" in loaded.text()


def test_weights_of_a_detector(tmp_path: Path) -> None:
    """Those of torchvision's detectors, with the names of today and of its old versions; other classes keep theirs."""
    back = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    head = {"box_head": TwoMLPHead(256 * 49, 16), "box_predictor": FastRCNNPredictor(16, 8)}
    theirs = randomise(FasterRCNN(back, **head)).state_dict()
    old = {
        k.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if ".fpn." in k else k: v
        for k, v in theirs.items()
    }
    old = {k.replace("rpn.head.conv.0.0.", "rpn.head.conv."): v for k, v in old.items()}
    assert "backbone.fpn.inner_blocks.0.weight" in old and "rpn.head.conv.bias" in old
    torch.save({"model": theirs, "epoch": 3}, tmp_path / "new.pth")
    torch.save({f"module.{k}": v for k, v in old.items()}, tmp_path / "old.pth")
    save_file(theirs, tmp_path / "new.safetensors")
    options = {"block": "basic", "first_shortcut": False, "norm": "frozen"}
    conf = DetectorConfig(num_classes=7, box_head_width=16, backbone_options=options)
    for file in ("new.pth", "old.pth", "new.safetensors"):
        net = build(conf, R18)
        loaded = load_init(net, str(tmp_path / file))
        assert equal(dict(net.state_dict()), dict(theirs)) and not loaded.kept and not loaded.unused
    net = build(dataclasses.replace(conf, num_classes=9), R18)
    before = copied(net.state_dict())
    loaded = load_init(net, str(tmp_path / "new.pth"))
    kept = {
        f"roi_heads.box_predictor.{part}.{kind}" for part in ("cls_score", "bbox_pred") for kind in ("weight", "bias")
    }
    assert {*loaded.kept} == kept == {name.partition(" ")[0] for name in loaded.unused}
    assert all(torch.equal(net.state_dict()[k], before[k]) for k in kept)


def test_kernels_are_filled_at_their_centre(tmp_path: Path) -> None:
    sp, conf = FAMILIES["kernels, three stages, two extra levels"]
    small = Arch.of({**dict(sp.maximum().items), "backbone.body.kernel": (3, 3, 3)})
    source = build(conf, small).eval()
    torch.save(source.state_dict(), tmp_path / "small.pth")
    net = build(conf, sp.maximum()).eval()
    load_init(net, str(tmp_path / "small.pth"))
    set_arch(net, small)
    x = images((64, 72))
    with torch.no_grad():
        assert equal(net(x), source(x))


class Malice:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read"),
        (b"no tensors", "is no file of tensors"),
        (Malice(), "is no file of tensors"),
        ({"epoch": 3}, "holds no state dict"),
        ({"a.weight": torch.zeros(3)}, "none of its 1 tensors fits"),
    ],
)
def test_files_that_hold_no_weights(
    content: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UsageError) as e:
        load_init(build(config(), FAMILIES["bottleneck, bn"][0].minimum()), str(path))
    assert said in e.value.message and e.value.hint
    assert "executed" not in capsys.readouterr().out


def test_init_by_a_torchvision_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.hub keeps is taken; random weights stand for torchvision's own, since nothing is downloaded here."""
    weights = torchvision.models.resnet18(weights=None).state_dict()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.get_model_weights("resnet18").DEFAULT.url
    kept = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    kept.parent.mkdir(parents=True)
    torch.save(weights, kept)
    found = read_tensors("torchvision:resnet18")
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    with pytest.raises(UsageError, match="did you mean resnet"):
        read_tensors("torchvision:resnet81")
