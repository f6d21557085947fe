"""What an elastic detector costs beside the same static one, measured in one run, in turns.

.venv/bin/python benchmarks/supernet.py [CONFIG] [--arch R50 --arch MIN] [--size 480] [--batch 1] [--rounds 7]
    [--json FILE]

A step is forward, loss and backward on random images: a supernet that runs an architecture, and the network that is cut
out of it. CONFIG is one of search-nas, of a detector or a classifier; without it these are Faster R-CNNs of ResNet-50
to -101. Times are of the process, on one thread; the ratio is taken round by round, and its median is what counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from searchkit.nas.models.elastic import set_arch
from searchkit.nas.models.network import NetConfig, build
from searchkit.nas.models.subnet import subnet
from searchkit.nas.tasks.read import load
from searchkit.records.arch import Arch

ASKED = 1.05  # at most so many times the static network's time
CONFIG = Path(__file__).resolve().parent.parent / "templates" / "det" / "faster_rcnn_ar50to101.yaml"
CLASSES = 80  # where a config leaves them to its data


@dataclass(frozen=True)
class Row:
    """Seconds of a step at one architecture; the samples at one position are of the same round."""

    arch: str
    elastic_s: list[float]
    static_s: list[float]

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.elastic_s, self.static_s, strict=True)]


def step_s(net: Any, images: list[Tensor], targets: list[dict[str, Tensor]]) -> float:
    """Seconds of one forward and backward; the losses' sampling is the same in all. targets: empty for a classifier."""
    net.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    began = time.process_time()
    loss: Any
    if targets:
        loss = sum(net(images, targets).values())
    else:
        loss = F.cross_entropy(net(torch.stack(images)), torch.arange(len(images)))
    loss.backward()
    return time.process_time() - began


def measure(net: Any, config: NetConfig, arch: Arch, name: str, size: int, batch: int, rounds: int) -> Row:
    """Both networks in turns, the order turning round every time; the first round warms up and is dropped."""
    images = [torch.rand(3, size, size) for _ in range(batch)]
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.8]]) * size
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2])} for _ in images if hasattr(net, "transform")]
    set_arch(net, arch)
    static = subnet(net, arch, config)
    samples: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds + 1):
        for which in (0, 1) if i % 2 else (1, 0):
            took = step_s(static if which else net, images, targets)
            if i:
                samples[which].append(took)
    return Row(name, *samples)


def show(rows: list[Row]) -> None:
    print(f"{'arch':8}{'elastic s':>12}{'static s':>12}{'ratio':>9}{'range':>16}   asked <= {ASKED}")
    for row in rows:
        elastic, static, ratio = (statistics.median(v) for v in (row.elastic_s, row.static_s, row.ratios))
        spread = f"{min(row.ratios):.3f}-{max(row.ratios):.3f}"
        print(f"{row.arch:8}{elastic:12.3f}{static:12.3f}{ratio:9.3f}{spread:>16}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", default=str(CONFIG), metavar="CONFIG")
    parser.add_argument("--arch", action="append", help="MAX, MIN or an anchor such as R50; default all")
    parser.add_argument("--size", type=int, default=480, help="edge of the images in pixels")
    parser.add_argument("--batch", type=int, default=1, help="images of a step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="write the samples to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = load(args.config)
    space, config = recipe.space, recipe.model
    if args.config == str(CONFIG):
        config = type(config)(num_classes=CLASSES)
    elif config.num_classes < 2:
        config = replace(config, num_classes=CLASSES)
    sizes = {"min_size": args.size, "max_size": args.size} if recipe.task.name == "det" else {}
    net = build(config, space.maximum(), space.held(), **sizes).train()
    shown = f"{config.head} on {config.backbone}, {args.batch} image(s) of {args.size} x {args.size}"
    print(f"{shown}, forward and backward, one thread")
    rows = []
    for name in args.arch or space.names():
        arch = space.named(name)
        rows.append(measure(net, config, arch, name, args.size, args.batch, args.rounds))
    show(rows)
    if args.json:
        with open(args.json, "w") as f:
            json.dump([asdict(row) for row in rows], f)


if __name__ == "__main__":
    main()
