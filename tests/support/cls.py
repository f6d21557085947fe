"""What the tests of classifiers share: a toy set and tiny configs of three families. See tests/support/nas.py, too."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from searchkit.nas.data.toy_cls import FIGURES, make_toy_cls
from searchkit.nas.space.space import Space
from searchkit.nas.subnet.extract import Source
from searchkit.nas.train import checkpoint
from searchkit.nas.train import net as nets
from searchkit.nas.train.recipe import Recipe
from searchkit.records.arch import Arch
from tests.support import nas, suite

IMAGES = {"train": 32, "val": 24, "test": 16}
CLASSES = tuple(FIGURES)  # in the order of their folders
RESNET: dict[str, Any] = {
    "backbone.stem.width": {"choices": [4, 8]},
    "backbone.body.width": {"choices": [[4, 8], [8, 12], [8, 16]]},
    "backbone.body.depth": {"choices": [[1, 2], [1], [1, 2]]},
    "data.input_shape": {"choices": [32, 40]},
}
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # of model and space
    "basic": ({"backbone": "resnet", "backbone_options": {"block": "basic"}}, RESNET),
    "bottleneck": ({"backbone": "resnet", "backbone_options": {"block": "bottleneck"}, "dropout": 0.2}, RESNET),
    "mobilenet": (
        {"backbone": "mobilenet_v2", "backbone_options": {"strides": [1, 2, 2], "stem_stride": 1}},
        {
            "backbone.stem.width": 8,
            "backbone.body.width": {"choices": [[4, 8], [8, 12], [12, 16]]},
            "backbone.body.depth": {"choices": [[1], [1, 2], [1, 2]]},
            "backbone.body.expand": {"choices": [[1], [2, 4], [2, 3]]},
            "backbone.body.kernel": {"choices": [[3], [3, 5], [3]]},
            "backbone.head.width": {"choices": [16, 32]},
            "data.input_shape": {"choices": [32, 40]},
        },
    ),
    "shufflenet": (
        {"backbone": "shufflenet_v2", "backbone_options": {"stem_pool": False, "stem_stride": 1}},
        {
            "backbone.stem.width": 8,
            "backbone.body.width": [8, 16],
            "backbone.body.depth": [2, 2],
            "backbone.body.choice": {"choices": [[0, 1, 2, 3]] * 4},
            "backbone.head.width": 24,
            "data.input_shape": {"choices": [32, 40]},
            "anchors": {
                "MIXED": {
                    "backbone.stem.width": 8,
                    "backbone.body.width": [8, 16],
                    "backbone.body.depth": [2, 2],
                    "backbone.body.choice": [2, 0, 3, 1],
                    "backbone.head.width": 24,
                }
            },
        },
    ),
}
COMMON: dict[str, Any] = {
    "train": {"steps": 6, "batch_size": 8, "random_archs": 1, "lr": 0.05, "lr_scaling": "none", "checkpoint_steps": 1},
    "test": {"calibration_images": 12, "batch_size": 6},
    "finetune": {"steps": 3, "batch_size": 8, "lr": 0.01, "lr_scaling": "none"},
}


def make_toy(folder: Path) -> Path:
    """A set of images of 32 x 32 px in eight classes."""
    return Path(make_toy_cls(str(folder / "toy"), images=IMAGES, size=(32, 32)))


def tiny(folder: Path, family: str = "shufflenet", **changes: Mapping[str, Any]) -> dict[str, Any]:
    """A tiny config as data; `changes` go into its sections: train={"steps": 3}. None takes a key out."""
    model, space = FAMILIES[family]
    splits = {name: {"path": str(folder / name)} for name in ("train", "val")}
    body = copy.deepcopy({"task": "cls", "model": model, "space": space, "data": {"name": "toy", **splits}, **COMMON})
    for name, values in changes.items():
        body[name] = {k: v for k, v in {**body.get(name, {}), **values}.items() if v is not None}
    return body


def fresh(recipe: Recipe, seed: int = 0) -> Source:
    """A supernet of a recipe whose weights and statistics all differ from each other, as a source."""
    net = nets.build(recipe, CLASSES, seed)
    generator = torch.Generator().manual_seed(5 + seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim == 1:
                tensor.uniform_(0.1, 1, generator=generator)
    return Source(net.eval(), nets.sized(recipe, CLASSES), recipe.space.maximum(), CLASSES, "fresh.pth", "0" * 64)


def archs_of(space: Space, n: int = 3) -> list[Arch]:
    """MAX, MIN, the anchors, and n random ones."""
    rng = random.Random(3)
    return [*(space.named(name) for name in space.names()), *(space.sample(rng) for _ in range(n))]


def images(n: int, edge: int = 32, seed: int = 1) -> Tensor:
    """(n, 3, edge, edge) uint8."""
    return torch.randint(0, 256, (n, 3, edge, edge), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def killed(path: str, work: Path, folder: Path, least: int) -> int:
    """Train as a process, and kill it once it has done so many steps; how many it had."""
    latest = work / "latest.pth"
    process = nas.spawn("train", path, "--work-dir", work, "--device", "cpu", cwd=folder)

    def reached() -> bool:
        return process.poll() is not None or (latest.exists() and checkpoint.load(str(latest)).step >= least)

    with nas.killed_after(process):
        suite.wait_for(reached, why=f"step {least}")
        assert process.poll() is None, process.communicate()[1].decode()
    return checkpoint.load(str(latest)).step
