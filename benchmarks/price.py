"""How long it takes to price all 597,051 points of AR50-101 and to write them, on one core; beside one forward each.

taskset -c 0 .venv/bin/python benchmarks/price.py [--repeat 3] [--convention gaia] [--forwards 20] [--first 20000]
    [--out FILE]

The detector and the space are those of GAIA (Faster R-CNN, 696 classes); the records are JSON lines. `--forwards n`
also times n points by torch's own counter on meta tensors, which is how one counts without plans. Times in seconds.
`--first n`: how many of the first n points of other detectors' spaces are priced in a second of the processor.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from searchkit.nas.cost.price import plans_of, price, price_space
from searchkit.nas.cost.rules import Convention
from searchkit.nas.cost.write import write_space
from searchkit.nas.models.backbones.resnet_plan import resnet_plan
from searchkit.nas.models.heads.faster_rcnn_plan import PROPOSALS, DetectorConfig, FasterRCNNPlan
from searchkit.nas.models.necks.fpn_plan import FPNOptions, FPNPlan
from searchkit.nas.models.part import NetPlan
from searchkit.nas.space.space import Space
from searchkit.nas.tasks.read import load

BENCH = Path(__file__).resolve().parent.parent / ".bench"
ASKED_S = 15  # to price and write them all
TEMPLATES = BENCH.parent / "templates" / "det"
CONFIG = TEMPLATES / "faster_rcnn_ar50to101.yaml"
DETECTORS = ("faster_rcnn_ar50to101", "retinanet_bignas_r18", "ssd_ofa_mbv2", "ssd_ofa_mbv3")
CLASSES = 80  # where a template leaves them to its data
DETECTOR = DetectorConfig(num_classes=696, rpn_activation="softmax", class_agnostic=True)
PLANS = NetPlan(resnet_plan, FPNPlan(FPNOptions(**DETECTOR.neck_defaults())), FasterRCNNPlan(DETECTOR, 696))


def seconds(call: Callable[[], object], repeat: int) -> str:
    """Median and range of a call's wall time."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return f"{statistics.median(times):8.2f}   ({min(times):.2f} to {max(times):.2f}, n = {repeat})"


def write(path: str, space: Space, convention: Convention) -> None:
    """Anew, on disk, synced."""
    if os.path.exists(path):
        os.unlink(path)
    lines = write_space(path, PLANS, space, convention)
    assert lines == space.points() == 597_051, lines


def forward(space: Space, points: int) -> float:
    """Seconds of one point by torch's counter, half of which must be the price."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from searchkit.nas.models.elastic import set_arch
    from searchkit.nas.models.network import build

    torch.set_num_threads(1)
    plan_of, rng, total = plans_of(DETECTOR, space.maximum()), random.Random(0), 0.0
    with torch.device("meta"):
        net = build(DETECTOR, space.maximum()).eval()
        boxes = torch.zeros(PROPOSALS, DETECTOR.fpn_channels * DETECTOR.roi_size**2)
    for _ in range(points):
        arch, edge = space.sample(rng), rng.choice(space.scales)
        assert isinstance(edge, int)
        image = torch.zeros(1, 3, edge, edge, device="meta")
        start = time.perf_counter()
        set_arch(net, arch)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net.rpn.head(list(net.backbone(image).values()))
            net.roi_heads.box_predictor(net.roi_heads.box_head(boxes))
        total += time.perf_counter() - start
        assert counter.get_total_flops() == 2 * price(plan_of, arch, edge).flops
    return total / points


def points_per_s(template: str, first: int, repeat: int) -> float:
    """How many of the first points of a template's space are priced in a second of the processor, at best."""
    recipe = load(str(TEMPLATES / f"{template}.yaml"))
    config = recipe.model if recipe.model.num_classes else replace(recipe.model, num_classes=CLASSES)
    rates = []
    for _ in range(repeat):
        plans = plans_of(config, recipe.space.maximum())
        start = time.process_time()
        priced = sum(1 for _ in islice(price_space(plans, recipe.space), first))
        rates.append(priced / (time.process_time() - start))
    return max(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--convention", choices=["macs", "gaia"], default="gaia")
    parser.add_argument("--forwards", type=int, default=20, help="points to time by torch's counter; 0: none")
    parser.add_argument("--first", type=int, default=20_000, help="points of each other space; 0: none")
    parser.add_argument(
        "--out", help="write the records here, over what is there (default: a temporary file in .bench/)"
    )
    args = parser.parse_args()
    space = load(str(CONFIG)).space
    print(f"Python {platform.python_version()}, cores to run on: {sorted(os.sched_getaffinity(0))}")
    print(f"{space.count():,} architectures, {space.points():,} points, convention {args.convention}")
    plain = seconds(lambda: deque(price_space(PLANS, space, args.convention), 0), args.repeat)
    print(f"price                 {plain}")
    BENCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BENCH) as folder:
        path = args.out or os.path.join(folder, "ar50to101.jsonl")
        both = seconds(lambda: write(path, space, args.convention), args.repeat)
        print(f"price and write       {both}   asked: under {ASKED_S}; {os.path.getsize(path) / 1e6:.1f} MB")
    for template in DETECTORS if args.first else ():
        print(f"{template:21} {points_per_s(template, args.first, args.repeat):9,.0f} points a second")
    if args.forwards:
        each = forward(space, args.forwards)
        hours = each * space.points() / 3600
        print(f"one forward each      {each:8.3f}   a point (n = {args.forwards}): {hours:.0f} h for all of them")


if __name__ == "__main__":
    main()
