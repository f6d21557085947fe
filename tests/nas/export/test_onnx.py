"""ONNX files: whole networks, from an image of 8 bits to what is found, as torch finds it, at every input shape."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.misc import FrozenBatchNorm2d

from searchkit.errors import SearchkitError, UsageError
from searchkit.nas.export import onnx_file, runtime
from searchkit.nas.export.compare import same_boxes
from searchkit.nas.export.table import Wishes
from searchkit.nas.graph.boxes import frame
from searchkit.nas.graph.graph import Graph
from searchkit.nas.graph.trace import trace
from searchkit.nas.models.elastic import set_arch, wiring_of
from searchkit.nas.models.heads import faster_rcnn_source
from searchkit.nas.models.heads.inputs import as_ours
from searchkit.nas.nn.written import Conv2dSame
from searchkit.nas.space.shapes import height_width
from searchkit.nas.subnet import extract as extraction
from searchkit.nas.subnet.extract import Source, extract, load_folder
from searchkit.nas.tasks import read as config
from searchkit.nas.tasks.detection import set_scale
from searchkit.nas.train.recipe import Recipe
from searchkit.records.arch import Arch
from tests.nas.subnet.test_extract import ASSETS, MOBILE, PYRAMID, RETINANET, TOWERS, fresh
from tests.support import cls, nas
from tests.support.marks import some_of
from tests.support.nas import Trained, bad, good, tiny, write

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

SSD: dict[str, Any] = {
    "backbone": "mobilenet_v2",
    "backbone_options": {"strides": [1, 2, 2, 2], "features": ["c2.expand", "c3.expand", "c4"]},
    "neck": "ssd_extras",
    "neck_options": {"features": 3, "channels": [16]},
    "head": "ssd",
    "head_options": {
        "ratios": [[2], [2], [2], [2]],
        "scales": [0.12, 0.18, 0.25, 0.36, 0.5],
        "candidates": 50,
        "detections_per_image": 40,
    },
}
SMALL_MOBILE = {
    "backbone.stem.width": 8,
    "backbone.body.width": [8, 12, 16, 16],
    "backbone.body.kernel": {"choices": [[3], [3, 5], [3, 5], [3, 5]]},
    "backbone.body.expand": {"choices": [[1], [3, 4], [3, 4], [3, 4]]},
    "backbone.body.depth": {"choices": [[1], [1, 2], [1, 2], [1]]},
    "neck.kernel": {"choices": [3, 5]},
    "head.kernel": {"choices": [3, 5]},
    "data.input_shape": {"choices": [64, 49, [40, 56]]},
}
YOLO: dict[str, Any] = {
    "backbone": "darknet",
    "neck": "yolo",
    "neck_options": {"channels": [8, 8]},
    "head": "yolo",
    "head_options": {
        "channels": [8, 8],
        "anchors": [[[8, 8], [12, 20]], [[16, 12], [24, 30]]],
        "candidates": 50,
        "detections_per_image": 40,
    },
}
SMALL_DARKNET = {
    "backbone.stem.width": 4,
    "backbone.body.width": {"choices": [[8], [8], [8, 12]]},
    "backbone.body.depth": {"choices": [[1], [1, 2], [1]]},
    "neck.hidden": {"choices": [[8, 16]] * 2},
    "head.width": {"choices": [[4, 8]] * 2},
    "data.input_shape": {"choices": [64, 49, [40, 56]]},
}
AGNOSTIC = {"rpn_activation": "softmax", "class_agnostic": True}
SIZES = {"choices": [64, 48, 75]}
DETECTORS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # of model and space, over those of the tiny config
    "faster_rcnn": ({}, {}),
    "agnostic": (AGNOSTIC | {"backbone": "my_backbone.py:MobileNet", "backbone_options": {"expand": 2}}, MOBILE),
    "retinanet": (RETINANET, PYRAMID | TOWERS),
    "ssd": (SSD, SMALL_MOBILE),
    "ssd of levels": (
        SSD | {"head_options": SSD["head_options"] | {"scores": "softmax", "candidates_of": "level"}},
        SMALL_MOBILE,
    ),
    "yolo": (YOLO, SMALL_DARKNET),
}


def recipe_of(family: str, data: Path, folder: Path) -> Recipe:
    """A tiny recipe of a family of detectors."""
    model, space = DETECTORS[family]
    body = tiny(data)
    own = model.keys() & {"backbone", "head"}
    body["model"] = {**({} if "head" in model else body["model"]), **model}
    body["space"] = {**({} if own and "backbone" in own and model["backbone"] != "resnet" else body["space"]), **space}
    body["space"].pop("anchors", None)
    body["space"]["data.input_shape"] = space.get("data.input_shape", SIZES) if family.startswith("ssd") else SIZES
    folder.mkdir(exist_ok=True)
    shutil.copy(ASSETS / "my_backbone.py", folder)
    return config.load(write(folder / "cfg.yaml", body))


def decided(source: Source, recipe: Recipe, arch: Arch, images: list[torch.Tensor]) -> Source:
    """The source with statistics and predictors by which places and classes differ at an arch: where all scores are
    nearly the same, roundings say which box is best."""
    net = source.net
    set_arch(net, arch)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.ndim > 1 and re.search("cls|bbox|classification|regression|classes|boxes", name):
                parameter.normal_(std=0.5 / parameter[0].numel() ** 0.5, generator=torch.Generator().manual_seed(2))
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None
                module.reset_running_stats()
        shown = [*images, *onnx_file.noise(recipe.scales[0])]
        net.train()
        same_size = torch.stack([image for image in shown if image.shape == shown[0].shape])
        wiring_of(net).head.statistics(net, recipe.task.network.inputs_of(same_size, nas.CPU))
    net.eval()
    return source


def check(recipe: Recipe, source: Source, count: int, images: list[torch.Tensor], folder: Path) -> list[dict[str, Any]]:
    """Write random archs of a recipe; what their files are said to agree on."""
    rng, said = random.Random(7), []
    for i in range(count):
        arch, shape = recipe.space.sample(rng), recipe.scales[i % len(recipe.scales)]
        decided(source, recipe, arch, images)
        proof = extract(source, recipe, arch, shape, str(folder / f"m{i}"), images=images, wishes=Wishes(("onnx",)))
        said.append(proof["files"]["onnx"])
    return said


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nas.make_toy(tmp_path_factory.mktemp("toy"))


def many(count: int) -> Any:
    """One arch in the default run, `count` in the long one."""
    return some_of((1, count), 1)


@pytest.mark.timeout(1800)  # of 30 archs
@pytest.mark.parametrize("count", many(30))
@pytest.mark.parametrize("family", some_of(DETECTORS, "faster_rcnn", "ssd", "yolo"))
def test_a_detectors_file_finds_what_torch_finds(family: str, count: int, data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(family, data, tmp_path / "cfg")
    images, _ = extraction.sample_images(recipe, 2, 64)
    for said in check(recipe, fresh(recipe), count, images, tmp_path):
        agrees = said["agrees"]
        assert len(agrees["input_shapes"]) == 3 and agrees["boxes"] > 50, agrees
        assert agrees["largest_distance_px"] < 0.02 and agrees["largest_score_difference"] < 1e-4, agrees
        # where scores are equal, or an IoU is the threshold's, roundings say which box stays: in 2 of 30 archs
        assert agrees["boxes_of_one_alone"] <= 0.005 * agrees["boxes"], agrees
    # through the runtime, as a stranger calls it: sizes other than the space's, too
    file, net = runtime.open_file(str(tmp_path / "m0" / "model.onnx")), load_folder(str(tmp_path / "m0"))
    odd = torch.randint(0, 256, (3, 53, 71), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for shape in (recipe.scales[0], 96, (50, 83)):
        set_scale(net, shape, recipe.data)
        with torch.no_grad():
            theirs = {name: value.numpy() for name, value in net([odd.float() / 255])[0].items()}
        ours = file.run(odd[None].numpy(), runtime.size_of(file.about, shape, recipe.data.max_edge))
        boxes = same_boxes(theirs, ours, json.loads(file.about["detections"]), json.loads(file.about["score_thresh"]))
        assert boxes.pairs > 5 and not boxes.fault, (shape, boxes)


CLASSIFIERS = ("shufflenet", "same padding")
LITE = {
    "backbone.stem.width": 8,
    "backbone.body.width": {"choices": [[4, 8], [8], [8, 12]]},
    "backbone.body.depth": {"choices": [[1, 2], [1], [1]]},
    "backbone.body.kernel": {"choices": [[3, 5], [5], [3]]},
    "backbone.body.expand": {"choices": [[1], [2], [2]]},
    "backbone.head.width": 16,
    "data.input_shape": {"choices": [32, 41, 30]},
}


@pytest.mark.timeout(1800)  # of 30 archs
@pytest.mark.parametrize("count", many(30))
@pytest.mark.parametrize("family", some_of(CLASSIFIERS, "same padding"))
def test_a_classifiers_file_scores_as_torch_does(family: str, count: int, tmp_path: Path) -> None:
    body = cls.tiny(tmp_path, "shufflenet")
    body["space"]["data.input_shape"] = {"choices": [32, 40, [28, 45]]}
    if family == "same padding":  # whose pixels depend on the size of the image
        body["model"] = {"backbone": "efficientnet_lite", "backbone_options": {"strides": [1, 2, 2]}}
        body["space"] = LITE
    recipe = config.load(write(tmp_path / "cfg.yaml", body))
    images = list(cls.images(2, height_width(recipe.scales[0])[0]))
    for said in check(recipe, cls.fresh(recipe), count, images, tmp_path):
        assert len(said["agrees"]["input_shapes"]) == 3 and said["agrees"]["largest_difference"] < 1e-5
    many_images = cls.images(5, 36)
    with torch.no_grad():
        theirs = load_folder(str(tmp_path / "m0"))(many_images.float() / 255).numpy()
    ours = runtime.open_file(str(tmp_path / "m0" / "model.onnx")).run(many_images.numpy())["scores"]
    assert ours.shape == theirs.shape and abs(ours - theirs).max() < 1e-4 * abs(theirs).max()


WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "torchvision", "searchkit", "onnx"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_command_and_the_program_beside_the_file(trained: Trained, tmp_path: Path) -> None:
    """infer.py prints, without torch, the boxes that predict draws of the file, and those of the folder."""
    out, record = tmp_path / "model", tmp_path / "tested.jsonl"
    common = (trained.config, "--checkpoint", trained.checkpoint, "--device", "cpu")
    good("test", *common, "--arch", "MIDDLE", "--out", record)
    said = good("extract", *common, "--arch", record, "--export", "onnx", "--out", out)
    assert "boxes are torch's within up to" in said and "found by one" not in said, said
    proof = json.loads((out / "proof.json").read_text())
    told, score = proof["files"]["onnx"], proof["score"]["measured"]
    assert {"infer.py", "model.onnx"} <= {path.name for path in out.iterdir()} and "export" not in proof
    assert told["bytes"] == (out / "model.onnx").stat().st_size and told["ms"] > 0 and told["threads"] == 1
    assert told["score"]["bbox_mAP"] == pytest.approx(score["toy_bbox_mAP"], abs=1e-3) and told["score"]["bbox_mAP"] > 0
    assert told["score_difference"]["bbox_mAP"] == pytest.approx(told["score"]["bbox_mAP"] - score["toy_bbox_mAP"])
    assert "bbox_AP/circle" in told["score"]

    picture = next((trained.data / "images").glob("val_*"))
    pixels = np.array(Image.open(picture).convert("RGB"))
    np.save(tmp_path / "a.npy", pixels)
    Image.fromarray(pixels).save(tmp_path / "a.ppm")
    files = [str(picture), str(tmp_path / "a.npy"), str(tmp_path / "a.ppm")]
    program = (sys.executable, "-c", WITHOUT_TORCH, str(out / "infer.py"), "--threshold", "0.02", "--threads", "1")
    done = subprocess.run([*program, *files], capture_output=True, text=True, env=nas.environment(), timeout=60)
    assert done.returncode == 0, done.stderr
    printed = [[line.split()[1:] for line in done.stdout.splitlines() if line.startswith(path)] for path in files]
    assert printed[0] and printed[0] == printed[1] == printed[2]
    broken = [str(tmp_path / name) for name in ("text.jpg", "half.png", "none.png", "half.npy", "half.ppm", "grey.npy")]
    Path(broken[0]).write_text("no image\n" * 99)
    for path, whole in ((broken[1], picture), (broken[3], tmp_path / "a.npy"), (broken[4], tmp_path / "a.ppm")):
        Path(path).write_bytes(whole.read_bytes()[:200])
    np.save(broken[5], pixels[..., 0])
    told_of = subprocess.run([*program, *broken, files[0]], capture_output=True, text=True, env=nas.environment())
    assert told_of.returncode == 1 and [f"{path!r}: " for path in broken] == [
        line[: len(repr(path)) + 2] for path, line in zip(broken, told_of.stderr.splitlines(), strict=True)
    ]
    assert told_of.stdout.splitlines() == [line for line in done.stdout.splitlines() if line.startswith(files[0])]
    argv = (picture, "--threshold", "0.02", "--json", "--out", tmp_path / "boxes")
    of_file, of_folder = (json.loads(good("predict", model, *argv)) for model in (out / "model.onnx", out))
    assert [[b["name"], f"{b['score']:.4f}"] for b in of_file[0]["boxes"]] == [line[:2] for line in printed[0]]
    assert len(of_file[0]["boxes"]) == len(of_folder[0]["boxes"])
    for a, b in zip(of_file[0]["boxes"], of_folder[0]["boxes"], strict=True):
        assert a["name"] == b["name"] and a["box"] == pytest.approx(b["box"], abs=0.05)
    assert "go with a checkpoint" in bad("predict", out / "model.onnx", picture, "--raw", "--out", tmp_path / "none")
    (tmp_path / "other.onnx").write_bytes(b"no model")
    assert "onnxruntime can't load" in bad("predict", tmp_path / "other.onnx", picture, "--out", tmp_path / "none")


def test_what_cant_be_written_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of("faster_rcnn", data, tmp_path / "cfg")
    source, arch, out = fresh(recipe), recipe.space.minimum(), tmp_path / "m"

    def refused(match: str, wishes: Wishes = Wishes(("onnx",)), kind: type = UsageError) -> None:  # noqa: B008
        with pytest.raises(kind, match=match):
            extract(source, recipe, arch, 64, str(out), wishes=wishes)
        assert not out.exists() and not list(tmp_path.glob("*.half"))

    refused("opset 12 lacks operators.*18 is the oldest", Wishes(("onnx",), opset=12))
    refused("knows opsets up to", Wishes(("onnx",), opset=999))
    for package in ("onnx", "onnxruntime"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(UsageError) as e:
                extract(source, recipe, arch, 64, str(out), wishes=Wishes(("onnx",)))
            assert "searchkit[export]" in e.value.hint, package
    with pytest.MonkeyPatch.context() as patch:  # a head whose form can't
        patch.delattr(faster_rcnn_source, "write_onnx")
        refused("a Faster R-CNN can't be written as ONNX: its form has no write_onnx")

    def finds_nothing(g: Graph, net: Any, shape: Any) -> dict[str, Any]:
        image, _ = g.input("image", np.uint8, [1, 3, "height", "width"]), g.input("size", np.int64, [2], np.zeros(2))
        nothing = image.to(np.float32).reshape(-1).cut(0, 0, 0)
        g.output("boxes", nothing.reshape(0, 4), ["found", 4])
        g.output("scores", nothing, ["found"])
        g.output("labels", nothing.to(np.int64), ["found"])
        return {"resize": "edges", "score_thresh": 0.01, "nms_thresh": 0.5, "detections": 100}

    monkeypatch.setattr(faster_rcnn_source, "write_onnx", finds_nothing)
    refused("does not find what the network of torch finds: .* by one of the two alone", kind=SearchkitError)


def test_the_transforms_of_supernets_and_extracted_networks_are_written_and_no_other() -> None:
    plain = GeneralizedRCNNTransform(64, 96, [0.5] * 3, [0.5] * 3)

    class Mine(GeneralizedRCNNTransform):
        def normalize(self, image: torch.Tensor) -> torch.Tensor:
            return image * 2

    written = []
    for transform in (plain, as_ours(plain)):
        frame(g := Graph(), transform)
        written.append([node.op_type for node in g.nodes])
    assert written[0] == written[1] and len(written[0]) > 5
    with pytest.raises(UsageError, match="images go through a Mine can't be written"):
        frame(Graph(), Mine(64, 96, [0.5] * 3, [0.5] * 3))


class Looks(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.shape[2] > 2000 else x


class Silent(nn.Module):
    """Whose forward ends in an error without a text."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Unknown(nn.Module):
    """Of which the table of calls lacks one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cos(nn.functional.elu(self.conv(x)))


def graph_of(module: nn.Module) -> tuple[Graph, list[Any]]:
    g = Graph()
    return g, trace(module, g.input("image", np.float32, [1, 3, "h", "w"]))


def compare(module: nn.Module, g: Graph, values: list[Any], x: torch.Tensor) -> None:
    """onnxruntime gives of a graph what torch gives."""
    with torch.no_grad():
        y = module(x)
    theirs = y if isinstance(y, tuple) else (y,)
    for i, (value, tensor) in enumerate(zip(values, theirs, strict=True)):
        g.output(f"y{i}", value, [f"y{i}.{edge}" for edge in range(tensor.ndim)])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(g.proto({}).SerializeToString(), options, ["CPUExecutionProvider"])
    for ours, tensor in zip(session.run(None, {"image": x.numpy()}), theirs, strict=True):
        assert ours.shape == tensor.shape
        assert torch.allclose(torch.from_numpy(ours), tensor, rtol=1e-4, atol=1e-4), x.shape


def test_a_network_that_looks_at_sizes_is_refused() -> None:
    with pytest.raises(UsageError, match="can't write this network as ONNX"):
        graph_of(Looks())
    with pytest.raises(UsageError, match="can't write this network as ONNX"):
        graph_of(Silent())


def test_what_the_table_of_calls_lacks_goes_through_torchs_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = Unknown().eval(), torch.rand(1, 3, 33, 47)
    g, values = graph_of(module)
    assert g.notes == ["written by torch's exporter: a call of elu"]
    compare(module, g, values, x)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match="onnxscript") as e:
        graph_of(module)
    assert "searchkit[export]" in e.value.hint


class Calls(nn.Module):
    """Rows of the table that the tiny networks above do without, at sizes that no stride divides."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.ModuleList(Conv2dSame(3, 8, k, stride, dilation=d) for k, stride, d in _SAME)
        self.norm = nn.BatchNorm2d(8)  # behind a conv that runs twice: it is no part of its weights
        self.conv, self.frozen = nn.Conv2d(8, 8, 1, bias=False), FrozenBatchNorm2d(8)
        self.group, self.linear = nn.GroupNorm(2, 8), nn.Linear(8, 5)
        self.pools = nn.ModuleList([nn.AvgPool2d(3, 2, 1, True, False), nn.MaxPool2d(2, 2, ceil_mode=True)])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first, *others = (F.silu(layer(x)) for layer in self.same)
        a = self.norm(self.conv(first)) + self.frozen(self.conv(F.hardswish(first)))
        b = self.group(a).unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        low, high = b.chunk(2, dim=1)
        c = F.interpolate(self.pools[0](torch.cat((high, low), dim=1)), size=a.shape[-2:], mode="bilinear")
        d = F.interpolate(self.pools[1](c), scale_factor=2.0, mode="nearest") * F.hardsigmoid(c.mean((2, 3), True))
        return d, self.linear(torch.flatten(F.adaptive_avg_pool2d(F.relu6(a), 1), 1)), *others


_SAME = ((3, 2, 1), (3, 2, 2), (5, 1, 1), (2, 1, 1), (3, 3, 1))


def test_each_call_is_what_torch_computes() -> None:
    module = Calls().eval()
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1, generator=torch.Generator().manual_seed(tensor.numel()))
    for size in ((64, 48), (33, 47), (130, 61)):
        g, values = graph_of(module)
        assert not g.notes
        kinds = Counter(node.op_type for node in g.nodes)
        assert kinds["BatchNormalization"] == 2
        compare(module, g, values, torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)))
