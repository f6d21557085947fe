"""What the loader of detection batches costs beside decoding alone, measured in one run.

.venv/bin/python benchmarks/loader.py [--data FOLDER/bccd] [--images 2000] [--repeat 5] [--json results.json]

Images per second, median and range; the ratio compares each row with two processes that only decode, round by round.
All rows take turns, `--repeat` times. --data is a folder with images/ and annotations/instances_train.json (default:
bccd/ in the folder that SEARCHKIT_TEST_DATA names; otherwise JPEGs of 640 x 480 px are made). Run it on a machine that
does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from searchkit.nas.data.augment import Augment
from searchkit.nas.data.coco import CocoSet, load_coco
from searchkit.nas.data.images import decode
from searchkit.nas.data.loader import train_loader

WORKERS = 2
BATCH = 8
FLIP = Augment()
JITTER = Augment(scale=(0.5, 2.0), brightness=0.2, contrast=0.2, saturation=0.2)
HUE = Augment(scale=(0.5, 2.0), brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02)


def decode_some(paths: list[tuple[str, int, int]]) -> int:
    torch.set_num_threads(1)
    for path in paths:
        decode(*path)
    return len(paths)


def decoding(data: CocoSet, n: int, processes: int) -> float:
    """Images per second of plain loops over files, each in a process that is warm."""
    files = [(image.path, image.width, image.height) for image in data.images]
    files = [files[i % len(files)] for i in range(n)]
    with get_context("fork").Pool(processes) as pool:
        pool.map(decode_some, [files[:2]] * processes)
        start = time.perf_counter()
        pool.map(decode_some, [files[i::processes] for i in range(processes)], chunksize=1)
        return n / (time.perf_counter() - start)


def loading(data: CocoSet, n: int, augment: Augment | None, cache_mb: float = 0) -> float:
    """Images per second of the loader, from its first batch on: its workers are warm, as in the middle of a run."""
    batches = train_loader(data, augment, BATCH, 0, 0, n // BATCH + WORKERS, WORKERS, cache_mb=cache_mb)
    for _ in range(WORKERS):
        next(batches)
    start = time.perf_counter()
    seen = sum(len(images) for _, images, _ in batches)
    return seen / (time.perf_counter() - start)


def made(folder: Path, n: int = 100) -> Path:
    """Noise that was smoothed, as JPEGs of about the size that photographs of 640 x 480 px have."""
    (folder / "images").mkdir()
    (folder / "annotations").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(1, n + 1):
        noise = Image.fromarray(rng.integers(0, 256, (96, 128, 3), np.uint8))
        noise.resize((640, 480), Image.Resampling.BICUBIC).save(folder / "images" / f"{i}.jpg", quality=80)
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480})
        annotations += [{"id": 9 * i + k, "image_id": i, "category_id": 1, "bbox": [k, k, 99, 99]} for k in range(9)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return folder


def measure(data: CocoSet, n: int, repeat: int) -> dict[str, list[float]]:
    """Row -> images per second of every round."""
    cases: dict[str, Callable[[], float]] = {
        "decoding alone, 2 processes": lambda: decoding(data, n, 2),
        "decoding alone, 1 process": lambda: decoding(data, n, 1),
        "loader, no augmentation": lambda: loading(data, n, None),
        "loader, flip": lambda: loading(data, n, FLIP),
        "loader, flip, scale, colour": lambda: loading(data, n, JITTER),
        "loader, flip, scale, colour, hue": lambda: loading(data, n, HUE),
        "loader, flip, images cached": lambda: loading(data, n, FLIP, cache_mb=2000),
    }
    for case in cases.values():  # files into the page cache, modules loaded
        case()
    rows: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeat):
        for name, case in cases.items():
            rows[name].append(case())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = os.environ.get("SEARCHKIT_TEST_DATA")
    parser.add_argument("--data", type=Path, default=Path(folder, "bccd") if folder else None)
    parser.add_argument("--images", type=int, default=2000, help="images of one sample (default: 2000)")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all samples there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = args.data or made(Path(scratch))
        data = load_coco(str(root / "annotations" / "instances_train.json"), str(root / "images"))
        print(f"{data.report.summary}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}, {WORKERS} workers")
        rows = measure(data, args.images, args.repeat)
    first = next(iter(rows.values()))
    print(f"{'':34} {'images/s':>9} {'range':>15} {'ratio':>7}")
    for name, samples in rows.items():
        ratio = statistics.median(a / b for a, b in zip(samples, first, strict=True))
        spread = f"{min(samples):.0f}..{max(samples):.0f}"
        print(f"{name:34} {statistics.median(samples):9.0f} {spread:>15} {ratio:7.2f}")
    if args.json:
        args.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
