"""ONNX files at work: loaded in onnxruntime, run, scored, timed."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.graph.needs import MISSING
from searchkit.nas.space.shapes import InputShape

RUNS = 30
WARM_RUNS = 5  # before the clock
PAUSE_S = 0.02  # between runs: a processor that runs hot slows down
QUIET = 3  # of onnxruntime's messages: errors alone. It warns of every input that may be left out


@dataclass(frozen=True)
class OnnxFile:
    """An opened file: what it says of itself, and what runs it."""

    path: str
    about: Mapping[str, str]  # its metadata
    threads: int
    session: Any = field(repr=False)

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the classes, without a background."""
        return tuple(json.loads(self.about["categories"]))

    @property
    def task(self) -> str:
        return self.about["task"]

    def run(self, images: np.ndarray, size: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """What is found on images (N, 3, H, W) uint8, of a detector one; size: see the file's input of that name."""
        feed = {"image": np.ascontiguousarray(images)}
        if size is not None:
            feed["size"] = np.array(size, np.int64)
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, feed), strict=True))


def import_onnxruntime() -> Any:
    """The package onnxruntime. Raises UsageError where it is not installed."""
    try:
        import onnxruntime
    except ImportError as e:
        raise UsageError(f"ONNX files are run by the package onnxruntime ({e})", MISSING) from e
    return onnxruntime


def open_file(path: str, threads: int = 1, what: bytes | None = None) -> OnnxFile:
    """Load a file that --export onnx or onnx-int8 has written, for the CPU. threads: that compute; what: its content,
    if it is not to be read."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = QUIET
    try:
        session = onnxruntime.InferenceSession(what or path, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime's own, which share no base
        raise UsageError(f"onnxruntime can't load {path}: {str(e).splitlines()[0]}") from e
    about = session.get_modelmeta().custom_metadata_map
    if "categories" not in about or "task" not in about:
        raise UsageError(
            f"{path} does not say what it finds", "Name a file that search-nas extract --export onnx wrote"
        )
    return OnnxFile(path, about, threads, session)


class Detector(nn.Module):
    """A detector's file, called as a detector of torch is: a list of images (3, H, W) of 0..1 to boxes, scores and
    labels. It has no weights, and can't learn."""

    def __init__(self, file: OnnxFile, size: Sequence[int] | None = None) -> None:
        super().__init__()
        self.file, self.size = file, size

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """See the class."""
        outputs = (self.file.run(_eight_bits(image[None]), self.size) for image in images)
        return [{name: torch.from_numpy(value) for name, value in output.items()} for output in outputs]


class Classifier(nn.Module):
    """A classifier's file, called as one of torch is: images (N, 3, H, W) of 0..1 to scores."""

    def __init__(self, file: OnnxFile) -> None:
        super().__init__()
        self.file = file

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return torch.from_numpy(self.file.run(_eight_bits(images))["scores"])


def _eight_bits(images: Tensor) -> np.ndarray:
    """Images of 0..1 as they were stored."""
    return (images * 255).round().to(torch.uint8).numpy()


def as_network(file: OnnxFile, size: Sequence[int] | None = None) -> nn.Module:
    """A file as a network that evaluations and pictures can call, in eval mode."""
    net = Classifier(file) if file.task == "cls" else Detector(file, size)
    return net.eval()


def size_of(about: Mapping[str, Any], shape: InputShape, max_edge: int) -> list[int] | None:
    """What a detector's file takes as `size` to see images at an input shape, as set_scale says it to one of torch;
    None for a classifier. about: the metadata; max_edge: of the config's data."""
    if about["task"] == "cls":
        return None
    if about["resize"] == "stretch":
        return [shape, shape] if isinstance(shape, int) else [*shape]
    return [shape, max_edge] if isinstance(shape, int) else [min(shape), max(shape)]


def ms_of(file: OnnxFile, images: Sequence[np.ndarray], runs: int = RUNS, pause_s: float = PAUSE_S) -> float:
    """The median time of one image at a time, ms, from its pixels (3, H, W) uint8 to what is found. The images take
    turns. Of one thread it is the processor's time, as in a table of `search-nas latency`: what else the machine does
    does not count."""
    now, spent = time.thread_time if file.threads == 1 else time.perf_counter, []
    for image in islice(cycle(images), WARM_RUNS + runs):
        time.sleep(pause_s)
        began = now()
        file.run(image[None])
        spent.append(now() - began)
    return 1000 * statistics.median(spent[WARM_RUNS:])
