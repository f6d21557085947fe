"""Models whose pictures are drawn: extracted folders, files of other runtimes, and subnets of checkpoints."""

from __future__ import annotations

import json
import os

from torch import nn

from searchkit.nas.data.pixels import Reading
from searchkit.nas.export import runtime
from searchkit.nas.space.shapes import InputShape
from searchkit.nas.subnet.extract import Source, folder_reading, load_folder
from searchkit.nas.tasks.pictures import Model
from searchkit.nas.tasks.table import TASKS
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.task import UNNAMED, Pictures


def open_folder(path: str) -> tuple[Model, Pictures]:
    """The model of an extracted folder, and how what it finds is drawn."""
    net = load_folder(path)
    with open(os.path.join(path, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    size = tuple(config["size"]) if "size" in config else None
    model = Model(net, tuple(config["categories"]), size, folder_reading(path))
    return model, TASKS[config.get("task", UNNAMED)].pictures


def open_onnx(path: str, threads: int) -> tuple[Model, Pictures]:
    """The model of an ONNX file that extract has written, on so many threads, and how what it finds is drawn."""
    file = runtime.open_file(path, threads)
    size = json.loads(file.about["size"]) if "size" in file.about else None
    span = json.loads(file.about["range"])
    reading = Reading(file.about["exif"], None if span is None else (span[0], span[1]), "of the file")  # type: ignore[arg-type]
    model = Model(runtime.as_network(file), file.categories, None if size is None else tuple(size), reading)
    return model, TASKS[file.task].pictures


def model_of(recipe: Recipe, net: nn.Module, source: Source, shape: InputShape) -> tuple[Model, Pictures]:
    """The model that a static network out of a source is, and how what it finds is drawn."""
    pictures = recipe.task.pictures
    return Model(net, source.categories, pictures.size_of(shape), source.reading), pictures
