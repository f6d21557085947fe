"""What an elastic network costs beside the same static one, measured in one run, in turns.

.venv/bin/python benchmarks/supernet.py [CONFIG] [--arch R50 --arch MIN --arch MAX+MIN+random] [--size 480] [--batch 1]
    [--rounds 7] [--json FILE]
.venv/bin/python benchmarks/supernet.py --all [--only ssd]

A step is forward, loss and backward on random images: a supernet that runs an architecture, and the network that is cut
out of it. Names joined by + are one training step, as of a sandwich: their gradients add up in the supernet, while each
static network has its own. Setting the architecture counts, too; the optimizer's step does not.
CONFIG is one of search-nas, of a detector or a classifier; without it these are Faster R-CNNs of ResNet-50 to -101.
--all: each network of supernets.yaml. Times are of the process, on one thread; the ratio is taken round by round, and
its median is what counts. Memory that was freed stays with the process, as in a training, where the optimizer's state
lies above it: a training of the RetinaNet maps 2 to 10 new pages in a step, this program without that rule 15,000.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from searchkit.nas.models.elastic import set_arch
from searchkit.nas.models.network import NetConfig, build, head_of
from searchkit.nas.models.subnet import subnet
from searchkit.nas.space.space import Space
from searchkit.nas.tasks.read import load
from searchkit.nas.train.recipe import Recipe
from searchkit.records.arch import Arch

ASKED = 1.05  # at most so many times the static network's time
TEMPLATES = Path(__file__).resolve().parent.parent / "templates"
CONFIG = TEMPLATES / "det" / "faster_rcnn_ar50to101.yaml"
NETS = Path(__file__).with_name("supernets.yaml")
CLASSES = 80  # where a config leaves them to its data
STEP = "MAX+MIN+random"


@dataclass(frozen=True)
class Row:
    """Seconds of a step at one architecture, or at several; the samples at one position are of the same round."""

    net: str
    arch: str
    elastic_s: list[float]
    static_s: list[float]

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.elastic_s, self.static_s, strict=True)]


@dataclass(frozen=True)
class Batch:
    """What the losses are of; targets: empty for a classifier."""

    images: list[Tensor]
    targets: list[dict[str, Tensor]]


def batch_of(task: str, size: int, images: int) -> Batch:
    """Random pixels, two boxes on each image."""
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.8]]) * size
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2])} for _ in range(images) if task == "det"]
    return Batch([torch.rand(3, size, size) for _ in range(images)], targets)


def learn(net: Any, batch: Batch) -> None:
    """One forward and backward; the losses' sampling is the same in all."""
    torch.manual_seed(0)
    loss: Any
    if batch.targets:
        loss = sum(net(batch.images, batch.targets).values())
    else:
        loss = F.cross_entropy(net(torch.stack(batch.images)), torch.arange(len(batch.images)))
    loss.backward()


def elastic_s(net: Any, archs: Sequence[Arch], batch: Batch) -> float:
    """Seconds of a step of the supernet at some architectures."""
    net.zero_grad(set_to_none=True)
    began = time.process_time()
    for arch in archs:
        set_arch(net, arch)
        learn(net, batch)
    return time.process_time() - began


def static_s(nets: Sequence[Any], batch: Batch) -> float:
    """Seconds of a step of each of the static networks."""
    for net in nets:
        net.zero_grad(set_to_none=True)
    began = time.process_time()
    for net in nets:
        learn(net, batch)
    return time.process_time() - began


def measure(net: Any, config: NetConfig, archs: Sequence[Arch], batch: Batch, rounds: int) -> tuple[list[float], ...]:
    """Seconds of both networks in turns, the order turning every time; the first round warms up and is dropped."""
    statics = [subnet(net, arch, config) for arch in archs]
    samples: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds + 1):
        for which in (0, 1) if i % 2 else (1, 0):
            took = static_s(statics, batch) if which else elastic_s(net, archs, batch)
            if i:
                samples[which].append(took)
    return samples


def keep_freed_memory() -> None:
    """Tell glibc to give nothing back to the system; elsewhere nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, bytes: the most that it takes
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: none


def archs_of(names: str, space: Space) -> list[Arch]:
    """Architectures of names joined by +, of which `random` is always the same one."""
    rng = random.Random(0)
    return [space.sample(rng) if name == "random" else space.named(name) for name in names.split("+")]


def rows_of(
    name: str, recipe: Recipe, config: NetConfig, names: Sequence[str], size: int, images: int | None, rounds: int
) -> Iterator[Row]:
    """Print a line for each of the architectures of a network, and yield it. images: of a step; None: as few as go."""
    space = recipe.space
    if images is None:
        images = 1 if recipe.task.name == "det" and head_of(config).norms_of_one else 2
    sizes = {"min_size": size, "max_size": size} if recipe.task.name == "det" else {}
    net = build(config, space.maximum(), space.held(), **sizes).train()
    print(f"{name}: {config.head} on {config.backbone}, {images} image(s) of {size} x {size}")
    batch = batch_of(recipe.task.name, size, images)
    for arch in names:
        row = Row(name, arch, *measure(net, config, archs_of(arch, space), batch, rounds))
        show(row)
        yield row


def show(row: Row) -> None:
    elastic, static, ratio = (statistics.median(v) for v in (row.elastic_s, row.static_s, row.ratios))
    spread = f"{min(row.ratios):.3f}-{max(row.ratios):.3f}"
    print(f"{row.arch:16}{elastic:12.3f}{static:12.3f}{ratio:9.3f}{spread:>16}", flush=True)


def recipe_of(config: Any) -> Recipe:
    """That of a config's nested dict, or of the name of a template."""
    if isinstance(config, str):
        return load(str(TEMPLATES / config))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
        return load(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default=str(CONFIG), metavar="CONFIG")
    parser.add_argument(
        "--arch",
        action="append",
        help=f"MAX, MIN, random, an anchor such as R50, or several joined by +; default all anchors and {STEP}; "
        f"with --all MAX, MIN and {STEP}",
    )
    parser.add_argument("--all", action="store_true", help=f"the networks of {NETS.name}, at their sizes")
    parser.add_argument("--only", default="", metavar="TEXT", help="of these: those whose name has this")
    parser.add_argument("--size", type=int, default=480, help="edge of the images in pixels")
    parser.add_argument("--batch", type=int, help="images of a step; default 1, or 2 where batch norms need them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="write the samples to this file")
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("Forward and backward, one thread, seconds of the process")
    print(f"{'arch':16}{'elastic s':>12}{'static s':>12}{'ratio':>9}{'range':>16}   asked <= {ASKED}")
    rows: list[Row] = []
    if args.all:
        for net in yaml.safe_load(NETS.read_text(encoding="utf-8")):
            if args.only.lower() in net["name"].lower():
                recipe = recipe_of(net["config"])
                names = args.arch or ["MAX", "MIN", STEP]
                config = with_classes(recipe.model)
                rows += rows_of(net["name"], recipe, config, names, net["size"], net["batch"], args.rounds)
                gc.collect()
    else:
        recipe = load(args.config)
        names = args.arch or [*recipe.space.names(), STEP]
        # The detector without a config is the one that was always measured here, with torchvision's own options.
        own = args.config == str(CONFIG)
        config = type(recipe.model)(num_classes=CLASSES) if own else with_classes(recipe.model)
        rows += rows_of(Path(args.config).stem, recipe, config, names, args.size, args.batch, args.rounds)
    if args.json:
        with open(args.json, "w") as f:
            json.dump([asdict(row) for row in rows], f)


def with_classes(config: NetConfig) -> NetConfig:
    """A config whose network has classes."""
    counted: NetConfig = config if config.num_classes >= 2 else replace(config, num_classes=CLASSES)  # type: ignore[type-var]
    return counted


if __name__ == "__main__":
    main()
