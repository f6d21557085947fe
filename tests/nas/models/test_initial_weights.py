"""Initial weights: of a backbone, of a detector, from a file or torchvision's; what holds none is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from searchkit.errors import UsageError
from searchkit.nas.models.elastic import set_arch
from searchkit.nas.models.heads.faster_rcnn_plan import DetectorConfig
from searchkit.nas.models.init.load import load_init
from searchkit.nas.models.init.sources import read_weights
from searchkit.nas.models.network import build
from searchkit.records.arch import Arch
from tests.nas.test_nn import randomise
from tests.support.detectors import (
    FAMILIES,
    R18,
    config,
    copied,
    equal,
    images,
    pyramid_input,
    trained,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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
    assert [name.partition(" ")[0] for name in loaded.unused] == ["fc.weight", "fc.bias"]
    of = "a layer behind the mean of a classifier"
    assert loaded.lines()[2] == f"  the file's head: 2 unused: fc.weight ({of}), fc.bias ({of})" and not loaded.lost


@pytest.mark.slow
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
        (
            {"a.weight": torch.zeros(3)},
            "its 1 tensors don't fit into the network, and no table has their names: a.weight",
        ),
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


def test_a_folder_names_the_file_in_it_to_give(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(UsageError, match="is a folder, but weights are read from a file") as e:
        load_init(build(config(), FAMILIES["bottleneck, bn"][0].minimum()), str(tmp_path))
    assert e.value.hint == f"Give {tmp_path}/weights.safetensors."


def test_init_by_a_torchvision_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.hub keeps is taken; random weights stand for torchvision's own, since nothing is downloaded here."""
    weights = torchvision.models.resnet18(weights=None).state_dict()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.get_model_weights("resnet18").DEFAULT.url
    kept = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    kept.parent.mkdir(parents=True)
    torch.save(weights, kept)
    found = read_weights("torchvision:resnet18")[0]
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    with pytest.raises(UsageError, match="did you mean resnet"):
        read_weights("torchvision:resnet81")
