"""The named architectures are torchvision's networks: they load its state dicts, and compute and learn the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from searchkit.nas.models.backbones.resnet import ResNet
from searchkit.nas.models.heads.faster_rcnn_plan import DetectorConfig
from searchkit.nas.models.necks.fpn import FPN
from searchkit.nas.models.network import build
from searchkit.records.arch import Arch
from tests.nas.test_nn import randomise
from tests.support.detectors import (
    R18,
    R50,
    equal,
    images,
    pyramid_input,
    targets,
    trained,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_detector_learns_as_torchvisions() -> None:
    """Softmax-free and with a box per class it is the same loss, to the bit."""
    back = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5)
    head = {"box_head": TwoMLPHead(256 * 49, 16), "box_predictor": FastRCNNPredictor(16, 4)}
    theirs = trained(FasterRCNN(back, min_size=64, max_size=96, **head)).train()
    options = {"block": "basic", "first_shortcut": False}
    conf = DetectorConfig(num_classes=3, box_head_width=16, backbone_options=options)
    ours = build(conf, R18, min_size=64, max_size=96).train()
    ours.load_state_dict(theirs.state_dict())
    losses = []
    for net in (ours, theirs):
        torch.manual_seed(3)
        losses.append(net(images((64, 72), (80, 64)), targets(2)))
    assert equal(*losses)
