"""Files of 8 bits: by onnxruntime's own calibration, by the command, and what onnxruntime makes of them."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from searchkit.nas.export import int8_file
from searchkit.nas.graph.graph import Graph
from searchkit.nas.models.elastic import wiring_of
from searchkit.nas.models.subnet import subnet
from searchkit.nas.quant import qdq
from searchkit.nas.quant.observe import ranges_of
from searchkit.nas.quant.settings import Rounding
from searchkit.nas.subnet.extract import load_folder
from searchkit.nas.tasks import read as config
from searchkit.nas.train import checkpoint
from tests.support import cls, nas
from tests.support.nas import bad, good, write

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


class Written:
    """A tiny MobileNetV2 as a graph, with the layers of it that are rounded, and images."""

    def __init__(self, recipe: Any) -> None:
        source, arch = cls.fresh(recipe), recipe.space.maximum()
        net, form = subnet(source.net, arch, source.config), wiring_of(source.net).head.form
        g = Graph()
        form.write_onnx(g, net, 32)
        self.model = g.proto({"a": "b"})
        last = int8_file.last_layers(self.model, tuple(g.predictions))
        self.layers = int8_file.layers_of_8_bits(self.model, frozenset(g.layers), last)
        self.images = [image.numpy() for image in cls.images(3)]

    def rounded(self, rounding: Rounding) -> Any:
        values = qdq.rounded_values(self.model, self.layers)
        return qdq.rounded(self.model, self.layers, ranges_of(self.model, values, self.images, rounding), False)


@pytest.fixture(scope="module")
def mobilenet(toy_cls: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    path = write(tmp_path_factory.mktemp("cfg") / "cfg.yaml", cls.tiny(toy_cls, "mobilenet"))
    return Written(config.load(path))


class Reader:
    def __init__(self, images: list[np.ndarray]) -> None:
        self.images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        return None if image is None else {"image": image[None]}


def test_ranges_from_least_to_greatest_are_those_of_onnxruntimes_own_calibration(
    mobilenet: Written, tmp_path: Path
) -> None:
    from onnxruntime import quantization

    onnx.save(mobilenet.model, tmp_path / "a.onnx")
    with qdq.quiet(onnxruntime):
        quantization.quantize_static(
            str(tmp_path / "a.onnx"),
            str(tmp_path / "b.onnx"),
            Reader(mobilenet.images),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_quantize=mobilenet.layers,
        )
    theirs, ours = onnx.load(tmp_path / "b.onnx"), mobilenet.rounded(Rounding())
    assert list(theirs.graph.node) == list(ours.graph.node)
    tensors = [{t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer} for model in (theirs, ours)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(np.array_equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert list(ours.metadata_props) == list(mobilenet.model.metadata_props)


@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_other_methods_cut_ranges(mobilenet: Written, method: str) -> None:
    values = qdq.rounded_values(mobilenet.model, mobilenet.layers)
    wide, cut = (ranges_of(mobilenet.model, values, mobilenet.images, Rounding(m, 99)) for m in ("minmax", method))
    assert [*wide] == [*cut] == values
    assert all(w[0] - 1e-6 <= c[0] <= c[1] <= w[1] + 1e-6 for w, c in zip(wide.values(), cut.values(), strict=True))
    assert sum(w[1] - w[0] for w in wide.values()) > 1.02 * sum(c[1] - c[0] for c in cut.values())
    assert kinds_of(optimised(mobilenet.rounded(Rounding(method, 99)))) == kinds_of(
        optimised(mobilenet.rounded(Rounding()))
    )


def optimised(model: Any) -> Any:
    """What onnxruntime makes of a model before it runs it."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "optimised.onnx")
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = path
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


def kinds_of(model: Any) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_a_mobilenet_v2_runs_in_integers_from_one_rounding_to_the_last(mobilenet: Written) -> None:
    """One QuantizeLinear behind the image, one DequantizeLinear before the last layer, and no float layer between."""
    was = kinds_of(mobilenet.model)
    model = optimised(mobilenet.rounded(Rounding()))
    kinds = kinds_of(model)
    assert kinds["QuantizeLinear"] == kinds["DequantizeLinear"] == 1
    assert kinds["QLinearConv"] == was["Conv"] and kinds["QLinearAdd"] == was["Add"] and kinds["Conv"] == 0
    assert kinds["QLinearGlobalAveragePool"] == kinds["Gemm"] == 1 and kinds["Clip"] == kinds["Relu"] == 0


def test_each_value_is_rounded_once(mobilenet: Written) -> None:
    model = mobilenet.rounded(Rounding())
    made_by = {output: node for node in model.graph.node for output in node.output}
    rounded = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(rounded) == len(set(rounded)) > 20
    assert not any(value in made_by and made_by[value].op_type == "DequantizeLinear" for value in rounded)


# ---- the command ----


@pytest.fixture(scope="module")
def trained(toy_cls: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(config, checkpoint) of a tiny classifier."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = config.load(write(folder / "cfg.yaml", cls.tiny(toy_cls, "mobilenet")))
    source = cls.fresh(recipe)
    return folder / "cfg.yaml", Path(checkpoint_of(recipe, source, folder))


def checkpoint_of(recipe: Any, source: Any, folder: Path) -> str:
    from searchkit.nas.models.plans import unseen

    meta = {
        "categories": list(source.categories),
        "space": source.maximum.nested(),
        "num_classes": source.config.num_classes,
        "data": recipe.data.name,
        "task": recipe.task.name,
        "model": unseen(recipe.model),
    }
    checkpoint.save(str(folder), checkpoint.LATEST, checkpoint.Checkpoint(source.net.state_dict(), 1, {}, meta))
    return str(folder / checkpoint.LATEST)


def test_one_command_makes_the_file_that_extract_makes(trained: tuple[Path, Path], tmp_path: Path) -> None:
    path, learnt = trained
    common = (path, "--checkpoint", learnt, "--arch", "MAX", "--device", "cpu")
    said = good("quantize", *common, "--out", tmp_path / "q", "--record", tmp_path / "files.jsonl")
    assert "model.int8.onnx: " in said and "times as fast as model.onnx" in said and "ranges of 32 training" in said
    good("extract", *common, "--out", tmp_path / "x", "--export", "onnx-int8")
    files = [(tmp_path / name / "model.int8.onnx").read_bytes() for name in ("q", "x")]
    assert files[0] == files[1]
    again = ("quantize", tmp_path / "q", "--config", path, "--device", "cpu", "--record", tmp_path / "files.jsonl")
    said = good(*again, "--out", tmp_path / "mse", "--method", "mse", "--ranges", "6", "--keep-float", "2")
    assert "ranges by mse of 6 training images" in said and said.count("stays float") == 2
    proofs = [json.loads((tmp_path / name / "proof.json").read_text()) for name in ("q", "mse")]
    assert proofs[1]["equal"] == proofs[0]["equal"] and proofs[1]["cost"] == proofs[0]["cost"]
    said_int8 = proofs[1]["files"]["onnx-int8"]
    assert said_int8["method"] == "mse" and said_int8["calibrated"]["images"] == 6 and said_int8["score"]["top1"] >= 0
    assert [row["layer"] for row in said_int8["sensitivity"][:2]] == said_int8["kept_float"]
    names = {name.removesuffix(".weight") for name in load_folder(str(tmp_path / "mse")).state_dict()}
    assert {row["layer"] for row in said_int8["sensitivity"]} <= names
    assert (tmp_path / "mse" / "model.int8.onnx").read_bytes() != files[0]
    assert (tmp_path / "mse" / "model.onnx").read_bytes() == (tmp_path / "q" / "model.onnx").read_bytes()
    records = nas.lines(tmp_path / "files.jsonl")
    assert [record["files"]["onnx-int8"]["method"] for record in records] == ["minmax", "mse"]
    assert all({"bytes", "ms", "top1"} <= {*record["files"]["onnx"]} for record in records)
    assert records[0]["arch"] == records[1]["arch"] and records[1]["overhead"]["flops"] == proofs[0]["cost"]["macs"]


def test_what_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    path, learnt = trained
    common = (path, "--checkpoint", learnt, "--arch", "MAX")
    out = ("--out", tmp_path / "q", "--device", "cpu")
    assert "weights are needed" in bad("quantize", path, *out)
    without = (path, "--checkpoint", learnt, "--arch", "MAX", *out, "--set", "data.train=null", "--raw")
    assert "ranges of activations from training images" in bad("quantize", *without)
    (tmp_path / "empty").mkdir()
    assert "Give --config FILE" in bad("quantize", tmp_path / "empty", *out)
    assert "is no extracted folder: it has no model.py" in bad("quantize", tmp_path / "empty", "--config", path, *out)
    assert "there are only" in bad("quantize", *common, *out, "--keep-float", "99")
    assert "--work-dir is of --qat" in bad("quantize", *common, *out, "--work-dir", tmp_path / "w")
    assert "what --arch and --raw say" in bad("quantize", tmp_path / "empty", "--arch", "MAX", "--raw", *out)
    assert not (tmp_path / "q").exists()
