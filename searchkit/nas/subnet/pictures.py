"""Models whose pictures are drawn: extracted folders, and subnets of checkpoints."""

from __future__ import annotations

import json
import os

from torch import nn

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


def model_of(recipe: Recipe, net: nn.Module, source: Source, shape: InputShape) -> tuple[Model, Pictures]:
    """The model that a static network out of a source is, and how what it finds is drawn."""
    pictures = recipe.task.pictures
    return Model(net, source.categories, pictures.size_of(shape), source.reading), pictures
