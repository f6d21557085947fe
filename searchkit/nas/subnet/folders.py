"""An extracted folder, opened again: its network, and what it says of itself; and a new one with more files in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from searchkit import fsio
from searchkit.errors import UsageError
from searchkit.nas.export import table
from searchkit.nas.export.table import Wishes
from searchkit.nas.models.network import head_of
from searchkit.nas.space.shapes import InputShape
from searchkit.nas.subnet.extract import check_new, load_folder, new_folder, order_of, write_proof
from searchkit.nas.train.bench import Bench
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.task import UNNAMED
from searchkit.records.arch import Arch

KEPT = ("model.py", "weights.safetensors", "config.json")  # what a folder is, beside its proof


@dataclass(frozen=True)
class Folder:
    """An extracted folder: its network in eval mode, what config.json and proof.json hold."""

    path: str
    net: Any
    config: dict[str, Any]
    proof: dict[str, Any]

    @property
    def arch(self) -> Arch:
        return Arch.of(self.config["arch"])

    @property
    def shape(self) -> InputShape:
        shape = self.config["input_shape"]
        return tuple(shape) if isinstance(shape, list) else shape

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(self.config["categories"])


def open_extracted(path: str, recipe: Recipe) -> Folder:
    """The folder. Raises UsageError where it is none, or of another task or space than the config's."""
    missing = [name for name in (*KEPT, "proof.json") if not os.path.exists(os.path.join(path, name))]
    if missing:
        raise UsageError(
            f"{path} is no extracted folder: it has no {', '.join(missing)}", "search-nas extract makes one"
        )
    config, proof = (_json(path, name) for name in ("config.json", "proof.json"))
    task = config.get("task", UNNAMED)
    if task != recipe.task.name:
        raise UsageError(f"{path} is of task {task}, but {recipe.path} of task {recipe.task.name}")
    folder = Folder(path, load_folder(path), config, proof)
    if faults := recipe.space.faults(folder.arch):
        raise UsageError(
            f"{path} is of another space than {recipe.path}: {'; '.join(faults)}",
            "Give the --config that it was extracted with",
        )
    return folder


def written_again(
    folder: Folder, recipe: Recipe, out: str, *, images: Sequence[Tensor], bench: Bench | None, wishes: Wishes
) -> dict[str, Any]:
    """Write the network of a folder into the new folder `out`, with other files beside it; returns the proof, which is
    the old one but for these files. images: (3, H, W) uint8, to compare on. bench: what the files are scored on."""
    check_new(out)
    with new_folder(out) as half:
        with fsio.storage():
            for name in KEPT:
                shutil.copyfile(os.path.join(folder.path, name), os.path.join(half, name))
        form = head_of(recipe.model).form
        order = order_of(half, folder.net, form, recipe.model, recipe, folder.shape, images, None, bench, wishes)
        proof = {**folder.proof, "files": table.write(order)}
        write_proof(half, proof)
    return proof


def _json(path: str, name: str) -> dict[str, Any]:
    with open(os.path.join(path, name), encoding="utf-8") as f:
        content: dict[str, Any] = json.load(f)
    return content
