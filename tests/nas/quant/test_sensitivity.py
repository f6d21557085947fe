"""Which layers stay float: those that move the outputs most."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from searchkit.errors import UsageError
from searchkit.nas.cli.extract import sensitivity_lines
from searchkit.nas.quant import qdq
from searchkit.nas.quant.observe import opened, ranges_of, with_outputs
from searchkit.nas.quant.sensitivity import Sensitivity, kept_float, sensitivities
from searchkit.nas.quant.settings import AUTO, Rounding
from searchkit.nas.tasks import read as config
from tests.nas.quant.test_files import Written
from tests.support import cls
from tests.support.nas import write

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.fixture(scope="module")
def mobilenet(toy_cls: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """One of whose convs gives out a channel with values far above those of the others."""
    path = write(tmp_path_factory.mktemp("cfg") / "cfg.yaml", cls.tiny(toy_cls, "mobilenet"))
    written = Written(config.load(path))
    written.model = copy.deepcopy(written.model)
    names = [node.input[1:3] for node in written.model.graph.node if node.op_type == "Conv"]
    far = names[-3]  # of a linear bottleneck, whose output no relu bounds
    for tensor in written.model.graph.initializer:
        if tensor.name in far:
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[0] *= 60
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return written


def errors_of(written: Written, layers: list[str], ranges: Any) -> float:
    """The squared difference of the scores to those of the float model."""
    (score,) = [node.input[0] for node in written.model.graph.node if "scores" in node.output]
    info = onnx.helper.make_tensor_value_info(score, onnx.TensorProto.FLOAT, None)
    models = (written.model, qdq.rounded(written.model, layers, ranges, False))
    sessions = [opened(with_outputs(model, (), [info])) for model in models]
    every = [[session.run([score], {"image": image[None]})[0] for image in written.images] for session in sessions]
    return float(((np.concatenate(every[0]) - np.concatenate(every[1])) ** 2).sum())


def test_the_layer_with_an_outlier_is_found_and_leaving_it_float_helps_most(mobilenet: Written) -> None:
    values = qdq.rounded_values(mobilenet.model, mobilenet.layers)
    ranges = ranges_of(mobilenet.model, values, mobilenet.images, Rounding())
    (score,) = [node.input[0] for node in mobilenet.model.graph.node if "scores" in node.output]
    every = sensitivities(mobilenet.model, mobilenet.layers, [score], ranges, mobilenet.images, False)
    weighed = [node.name for node in mobilenet.model.graph.node if node.op_type in qdq.WEIGHED]
    assert sorted(name for each in every for name in each.nodes) == sorted({*weighed} & {*mobilenet.layers})
    assert [each.error for each in every] == sorted((each.error for each in every), reverse=True)
    alone = errors_of(mobilenet, list(every[0].nodes), ranges)
    assert alone > 0 and every[0].decibels < every[-1].decibels

    def left(each: Sensitivity) -> float:
        return errors_of(mobilenet, [name for name in mobilenet.layers if name not in each.nodes], ranges)

    assert left(every[0]) < left(every[-1])


ROWS = [Sensitivity(f"layer{i}", (f"n{i}",), error) for i, error in enumerate([0.5, 0.02, 0.01, 0.01, 0.005, 0.0])]


def test_what_stays_float() -> None:
    assert kept_float(ROWS, 2) == ROWS[:2] and kept_float(ROWS, AUTO) == ROWS[:1]
    even = [Sensitivity("a", ("a",), 0.1)] * 5
    assert kept_float(even, AUTO) == []
    with pytest.raises(UsageError, match="6 layers are to stay float, but before the last ones there are only 6"):
        kept_float(ROWS, 6)


def test_the_table_of_layers() -> None:
    rows = [{"layer": each.layer, "error": each.error} for each in ROWS]
    lines = sensitivity_lines({"sensitivity": rows, "kept_float": ["layer0"]})
    assert lines[1].split() == ["layer0", "3.0", "dB", "below", "91.7%", "stays", "float"]
    assert lines[-1].split()[:2] == ["layer5", "none"] and sensitivity_lines({}) == []
    assert "none stays float" in sensitivity_lines({"sensitivity": rows, "kept_float": []})[-1]
