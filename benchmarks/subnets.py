"""Subnets of init's configs scored per minute, warm, on BCCD: what of it is calibration, the network, NMS, COCO.

BCCD=/folder/of/bccd .venv/bin/python benchmarks/subnets.py [--family ssd …] [--precision bf16] [--subnets 4]
    [--steps 40] [--supernet FAMILY=CONFIG=CHECKPOINT] [--work .bench/subnets] [--out FILE.json]

For each family, search-nas init makes the config, a supernet learns for some steps (or --supernet names one that has
learnt), and random archs are scored at each input shape, as search-nas search does in each of its workers: one process,
one thread, images in memory. All times are of the processor, so that another program beside it matters less. The floor
is what no cleverness around a network can save: its bare passes over the same batches, those in training mode (batch
norms take their statistics) for the calibration images, those in evaluation for the validation images, of images
that are resized already, without NMS.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from searchkit.nas.models.subnet import subnet
from searchkit.nas.subnet import sweep
from searchkit.nas.tasks import detection
from searchkit.nas.tasks.read import load
from searchkit.nas.train.evaluate import calibrated_norms
from searchkit.nas.train.steps import autocast
from searchkit.seeds import rng_of

NAS = str(Path(sys.executable).with_name("search-nas"))
BUDGETS = {"ssd": "300 MMACs", "retinanet": "1.5 GMACs", "faster_rcnn": "4 GMACs"}
PARTS = ("cut", "calibration", "network", "boxes", "COCO", "rest")
CPU = torch.device("cpu")


def made(family: str, args: argparse.Namespace) -> tuple[Path, Path]:
    """A config of init, and the checkpoint of a supernet that has learnt for some steps."""
    work = args.work / family
    config, checkpoint = work / "net.yaml", work / "supernet" / "latest.pth"
    if not checkpoint.exists():
        data = ("--family", family, "--budget", BUDGETS[family], "--out", str(work), "--no-measure", "--overwrite")
        subprocess.run([NAS, "init", os.environ["BCCD"], *data], check=True, stdout=subprocess.DEVNULL)
        short = ("--set", f"train.steps={args.steps}", "--set", "train.eval_archs=[MIN]")
        learn = ("train", str(config), "--work-dir", str(checkpoint.parent), *short)
        subprocess.run([NAS, *learn], check=True, stdout=subprocess.DEVNULL)
    return config, checkpoint


def spent(function: Callable[[], Any]) -> tuple[float, Any]:
    """(processor seconds of a call, what it gives)."""
    began = time.process_time()
    value = function()
    return time.process_time() - began, value


def parts_of(session: sweep.Session, arch: Any, shape: Any) -> dict[str, float]:
    """Processor seconds of the parts of a subnet's score, of all of it, and of the floor."""
    bench, precision = session.bench, session.recipe.train.precision
    record = {"arch": arch.nested(), "data": {"input_shape": [*shape] if isinstance(shape, tuple) else shape}}
    whole, _ = spent(lambda: sweep.test_record(session, record, arch, "direct", True))
    cut, net = spent(lambda: subnet(session.net, arch, session.config))
    calibration, _ = spent(lambda: bench.calibrate(net, shape, precision))
    batches = [*bench.batches.prepared_for(net, shape, CPU)]
    predict, (found, _) = spent(lambda: detection.predict(net, batches, CPU, precision))
    coco, _ = spent(lambda: bench.evaluator.evaluate(found))
    shown = [images.batch.tensors for images, _ in batches]
    network, _ = spent(lambda: passes(net, shown, precision))
    for norm in calibrated_norms(net):
        norm.train()
    learnt = [images.batch.tensors for images in bench.calibration.batches_for(net, shape, CPU)]
    calibrated, _ = spent(lambda: passes(net, learnt, precision))
    parts = {"cut": cut, "calibration": calibration, "network": network, "boxes": predict - network, "COCO": coco}
    return {**parts, "rest": whole - cut - calibration - predict - coco, "whole": whole, "floor": network + calibrated}


def passes(net: Any, batches: list[torch.Tensor], precision: str) -> None:
    """The network alone: to the levels of a dense detector, to the regions of a Faster R-CNN."""
    with torch.no_grad(), autocast(CPU, precision):
        for batch in batches:
            net.levels(batch) if hasattr(net, "levels") else net.rpn.head([*net.backbone(batch).values()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", action="append", choices=[*BUDGETS])
    parser.add_argument("--precision", action="append", choices=["fp32", "bf16"])
    parser.add_argument("--subnets", type=int, default=4, help="at each input shape")
    parser.add_argument("--steps", type=int, default=40, help="that the supernet learns for")
    parser.add_argument("--supernet", action="append", default=[], metavar="FAMILY=CONFIG=CHECKPOINT")
    parser.add_argument("--work", type=Path, default=Path(".bench/subnets"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("DATA", os.environ["BCCD"])
    torch.set_num_threads(1)
    given = {family: (Path(a), Path(b)) for family, a, b in (text.split("=") for text in args.supernet)}
    rows = []
    print("family       precision input     per min   floor  " + "".join(f"{name:>12}" for name in PARTS))
    for family in args.family or [*BUDGETS]:
        config, checkpoint = given.get(family) or made(family, args)
        for precision in args.precision or ("fp32", "bf16"):
            recipe = load(str(config), (f"train.precision={precision}",))
            options: dict[str, Any] = {"split": "val", "device": CPU, "seed": 0, "tune": False, "say": lambda _: None}
            session = sweep.open_session(recipe, str(checkpoint), **options)
            rng = rng_of(0, "benchmark")
            for shape in recipe.scales:
                parts_of(session, recipe.space.minimum(), shape)  # warm
                each = [parts_of(session, recipe.space.sample(rng), shape) for _ in range(args.subnets)]
                mean = {name: sum(parts[name] for parts in each) / len(each) for name in each[0]}
                rate, most = (2 * 60 / mean[name] for name in ("whole", "floor"))  # of two processes
                shown = "x".join(map(str, shape)) if isinstance(shape, tuple) else str(shape)
                seconds = "".join(f"{mean[name]:10.2f} s" for name in PARTS)
                print(f"{family:12} {precision:9} {shown:9} {rate:7.1f} {most:7.1f}  {seconds}", flush=True)
                rows.append({"family": family, "precision": precision, "input": shown, **mean})
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
