"""Files of 8 bits: what of them is rounded, and that the rest stays as it was."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from searchkit.errors import UsageError
from searchkit.nas.export import int8_file, onnx_file
from searchkit.nas.export.compare import Near, same_boxes
from searchkit.nas.export.table import Wishes
from searchkit.nas.graph.needs import OPSET
from searchkit.nas.quant import settings
from searchkit.nas.space.shapes import height_width
from searchkit.nas.subnet import extract as extraction
from searchkit.nas.subnet.extract import extract
from searchkit.nas.tasks import read as config
from tests.nas.export.test_onnx import DETECTORS, decided, recipe_of
from tests.nas.subnet.test_extract import fresh
from tests.support import cls, nas
from tests.support.marks import some_of
from tests.support.nas import Trained, bad, good, write

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nas.make_toy(tmp_path_factory.mktemp("toy"))


def kinds(model: Any) -> list[tuple[str, list[str], bytes]]:
    """The operators that make boxes: their kinds, names of outputs and attributes."""
    layers = ("QuantizeLinear", "DequantizeLinear", "Gemm", "Relu")  # beside those whose names say it
    own = [node for node in model.graph.node if not node.name.startswith("net ") and node.op_type not in layers]
    shown = [(n.op_type, list(n.output), b"".join(a.SerializeToString() for a in n.attribute)) for n in own]
    return sorted(shown)


@pytest.mark.parametrize("family", some_of(DETECTORS, "ssd"))
def test_the_layers_are_of_8_bits_and_nothing_else_is(family: str, data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(family, data, tmp_path / "cfg")
    images, _ = extraction.sample_images(recipe, 2, 64)
    arch, shape = recipe.space.sample(random.Random(7)), recipe.scales[0]
    source = decided(fresh(recipe), recipe, arch, images)
    proof = extract(
        source, recipe, arch, shape, str(tmp_path / "m"), images=images, wishes=Wishes(("onnx", "onnx-int8"))
    )
    said, whole = proof["files"]["onnx-int8"], proof["files"]["onnx"]
    assert said["weights"].startswith("int8") and said["times_faster"] > 0
    drawn = said["calibrated"]
    assert 0 < drawn["images"] == len(drawn["image_ids"]) <= settings.IMAGES
    assert drawn["annotations"].endswith("instances_train.json")
    models = [onnx.load(str(tmp_path / "m" / file["file"])) for file in (whole, said)]
    before, after = models
    assert kinds(before) == kinds(after)
    assert list(before.metadata_props) == list(after.metadata_props)
    assert list(before.graph.input) == list(after.graph.input) and list(before.graph.output) == list(after.graph.output)
    # a layer's weights are of 8 bits where it is none of the last ones
    made_by = {output: node for node in after.graph.node for output in node.output}
    weighed = [node for node in after.graph.node if node.op_type in int8_file.WEIGHED]
    rounded = [node for node in weighed if node.input[1] in made_by]
    last = len(weighed) - len(rounded)
    assert last == said["float_layers"] > 0 and len(rounded) > 5
    # per channel: as many scales as the layer gives out
    scales = {tensor.name: list(tensor.dims) for tensor in after.graph.initializer}
    for node in rounded:
        assert made_by[node.input[1]].op_type == made_by[node.input[0]].op_type == "DequantizeLinear"
        if node.op_type == "Conv":
            weight = made_by[node.input[1]]
            assert scales[weight.input[1]] == scales[weight.input[0]][:1]


def test_a_classifiers_scores(tmp_path: Path) -> None:
    folder = cls.make_toy(tmp_path)
    recipe = config.load(write(tmp_path / "cfg.yaml", cls.tiny(folder, "basic")))
    images = list(cls.images(2, height_width(recipe.scales[0])[0]))
    source, arch = cls.fresh(recipe), recipe.space.maximum()
    proof = extract(source, recipe, arch, 32, str(tmp_path / "m"), images=images, wishes=Wishes(("onnx-int8",)))
    said = proof["files"]["onnx-int8"]
    assert said["agrees"]["largest_difference"] < 0.2 and said["float_layers"] == 1
    assert {"infer.py", "model.int8.onnx"} <= {path.name for path in (tmp_path / "m").iterdir()}
    assert not (tmp_path / "m" / "model.onnx").exists()


def test_the_record_of_the_files(trained: Trained, tmp_path: Path) -> None:
    common = (trained.config, "--checkpoint", trained.checkpoint, "--device", "cpu")
    good("test", *common, "--arch", "MIDDLE", "--out", tmp_path / "tested.jsonl")
    argv = ("--arch", tmp_path / "tested.jsonl", "--record", tmp_path / "files.jsonl")
    said = good("extract", *common, *argv, "--export", "onnx", "--export", "onnx-int8", "--out", tmp_path / "m")
    assert (
        "times as fast as model.onnx" in said and "the last layers" in said and "boxes that score 0.5 or more" in said
    )
    (tested,), (kept,) = (nas.lines(tmp_path / name) for name in ("tested.jsonl", "files.jsonl"))
    files = kept.pop("files")
    assert kept == tested and [*files] == ["onnx", "onnx-int8"]
    for form, name in (("onnx", "model.onnx"), ("onnx-int8", "model.int8.onnx")):
        assert files[form]["path"] == str(tmp_path / "m" / name) and files[form]["ms"] > 0
        assert {"bytes", "threads", "device", "bbox_mAP", "bbox_mAP_50", "bbox_AP/circle"} <= {*files[form]}
    assert abs(files["onnx"]["bbox_mAP"] - files["onnx-int8"]["bbox_mAP"]) < 0.1
    again = ("--arch", "MIN", "--record", tmp_path / "files.jsonl", "--out", tmp_path / "n")
    assert "Add --export onnx" in bad("extract", *common, *again)
    picture = next((trained.data / "images").glob("val_*"))
    shown = good("predict", tmp_path / "m" / "model.int8.onnx", picture, "--out", tmp_path / "boxes", "--json")
    assert json.loads(shown)[0]["boxes"] is not None


def test_what_8_bits_lack_is_named(data: Path, tmp_path: Path) -> None:
    helper = onnx.helper
    shape = helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, [1, 3, 8, 8])
    given = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=onnx.TensorProto.FLOAT, name="Cast 0"),
        helper.make_node("Erf", ["x"], ["y"], name="net 1 Erf"),
    ]
    graph = helper.make_graph(nodes, "g", [shape], [given])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    with pytest.raises(UsageError, match=r"no layer of the network can be of 8 bits: .*Erf"):
        int8_file.layers_of_8_bits(model, {"net 1 Erf"}, set())
    recipe = recipe_of("ssd", data, tmp_path / "cfg")
    source = fresh(recipe)
    without = config.load(str(tmp_path / "cfg" / "cfg.yaml"), ("data.train=null",))
    with pytest.raises(UsageError, match="ranges of activations from training images"):
        extract(source, without, recipe.space.minimum(), 64, str(tmp_path / "m"), wishes=Wishes(("onnx-int8",)))


def test_boxes_are_told_by_what_they_score() -> None:
    a = {"boxes": torch.tensor([[0.0, 0, 9, 9], [20, 20, 40, 40]]).numpy(), "scores": torch.tensor([0.9, 0.2]).numpy()}
    a["labels"] = torch.tensor([1, 1]).numpy()
    b = a | {"boxes": a["boxes"] + [[2.0], [60.0]]}
    near = same_boxes(a, b, 100, 0.05, Near(5, 0.2, 0.5))
    assert (near.pairs, near.px, near.alone) == (1, 2, 0)
    assert same_boxes(a, b, 100, 0.05).alone == 4 and onnx_file.SAME.px < 2
