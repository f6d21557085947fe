"""Batches of labelled images per second, beside torchvision's data sets and transforms in torch's DataLoader.

.venv/bin/python benchmarks/label_loader.py [--data FOLDER/cifar10/cifar10_jpeg.npz] [--images 20000] [--repeat 5]

Images per second, median and range; the ratio compares each row with torchvision's row above it, round by round. All
rows take turns, `--repeat` times. --data is an .npz of JPEGs (default: cifar10/cifar10_jpeg.npz in the folder that
SEARCHKIT_TEST_DATA names; otherwise drawn figures). Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR10, ImageFolder
from torchvision.transforms import v2

from searchkit.nas.data.augment import LabelAugment
from searchkit.nas.data.label_loader import in_memory, train_loader
from searchkit.nas.data.labelled import LabelSet, open_labelled
from searchkit.nas.data.toy_cls import make_toy_cls

BATCH = 128


class Memory(CIFAR10):
    """torchvision's CIFAR10, of images that are decoded already."""

    def __init__(self, data: LabelSet, transform: Any) -> None:
        self.data = np.stack([data.pixels(i).transpose(1, 2, 0) for i in range(len(data))])
        self.targets = data.labels.tolist()
        self.transform, self.target_transform = transform, None


def speed(batches: Iterable[Any], images: Callable[[Any], torch.Tensor], warm: int) -> float:
    """Images per second, after `warm` batches."""
    iterator = iter(batches)
    for _ in range(warm):
        next(iterator)
    start = time.perf_counter()
    seen = sum(len(images(batch)) for batch in iterator)
    return seen / (time.perf_counter() - start)


def ours(data: LabelSet, a: LabelAugment, n: int, size: int, workers: int) -> float:
    steps = n // BATCH + 2
    return speed(train_loader(data, a, BATCH, 0, 0, steps, workers, size=size), lambda batch: batch[1], 2)


def theirs(data: Any, n: int, workers: int) -> float:
    sampler = torch.utils.data.RandomSampler(data, replacement=True, num_samples=n + 2 * BATCH)
    loader = DataLoader(data, BATCH, sampler=sampler, num_workers=workers)
    return speed(loader, lambda batch: batch[0], 2)


def folder_of(data: LabelSet, root: Path) -> Path:
    """The images as PNG files."""
    for i in range(len(data)):
        path = root / data.names[data.labels[i]]
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.pixels(i).transpose(1, 2, 0)).save(path / f"{i}.png")
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = os.environ.get("SEARCHKIT_TEST_DATA")
    known = Path(given, "cifar10", "cifar10_jpeg.npz") if given else None
    parser.add_argument("--data", type=Path, default=known if known and known.exists() else None)
    parser.add_argument("--images", type=int, default=20_000, help="images of one sample (default: 20000)")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all samples there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        made = args.data is None
        path = make_toy_cls(f"{scratch}/toy", size=(32, 32)) + "/train" if made else f"{args.data}#train"
        data = in_memory(open_labelled(path, per_class=1000), 1000)
        edge = data.pixels(0).shape[-1]
        folder = str(folder_of(data, Path(scratch, "files")))
        pad = LabelAugment(crop="pad")
        resized = LabelAugment(crop="random_resized")
        to_tensor = [v2.RandomHorizontalFlip(), v2.PILToTensor()]
        v2_pad = v2.Compose([v2.RandomCrop(edge, padding=4), *to_tensor])
        v2_resized = v2.Compose([v2.RandomResizedCrop(edge), *to_tensor])
        memory, files = Memory(data, v2_pad), ImageFolder(folder, v2_resized)
        opened = open_labelled(folder)
        n, few = args.images, args.images // 5
        cases: dict[str, Callable[[], float]] = {}
        for workers in (0, 2):
            w = f"{workers} workers"
            cases |= {
                f"in memory, pad and crop, {w}: torchvision": lambda k=workers: theirs(memory, few, k),  # type: ignore[misc]
                f"in memory, pad and crop, {w}: searchkit": lambda k=workers: ours(data, pad, n, edge, k),  # type: ignore[misc]
                f"files, random resized, {w}: torchvision": lambda k=workers: theirs(files, few, k),  # type: ignore[misc]
                f"files, random resized, {w}: searchkit": lambda k=workers: ours(opened, resized, few, edge, k),  # type: ignore[misc]
            }
        print(f"{data.report.summary}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}, batches of {BATCH}")
        rows: dict[str, list[float]] = {name: [] for name in cases}
        for case in cases.values():
            case()
        for _ in range(args.repeat):
            for name, case in cases.items():
                rows[name].append(case())
    print(f"{'':52} {'images/s':>9} {'range':>17} {'ratio':>7}")
    base: list[float] = []
    for name, samples in rows.items():
        if name.endswith("torchvision"):
            base = samples
        ratio = statistics.median(a / b for a, b in zip(samples, base, strict=True))
        spread = f"{min(samples):.0f}..{max(samples):.0f}"
        print(f"{name:52} {statistics.median(samples):9.0f} {spread:>17} {ratio:7.2f}")
    if args.json:
        args.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
