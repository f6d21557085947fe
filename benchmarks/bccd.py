"""The whole way on real data: BCCD (blood cells), from random weights to a detector scored once on `test`.

    BCCD=/folder/of/bccd .venv/bin/python benchmarks/bccd.py --work .bench/bccd --seed 0

BCCD has images/ and annotations/instances_{train,val,test}.json. Choices are made on `val`; the picked subnet is tuned
on train and val, and scored once on `test`. Run again, it goes on where it was. Two seeds run beside each other on two
cores (OMP_NUM_THREADS=1). With `--search 48` it ends after the supernet: as many archs picked by rules, and found by
NSGA-II, their fronts of AP and MACs side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from pretrained import macs_at
from scipy.stats import kendalltau

HERE = Path(__file__).resolve().parent / "bccd"
CONFIG = str(HERE / "bccd.yaml")
NAS = str(Path(sys.executable).with_name("search-nas"))


def verb(work: Path, *argv: str) -> None:
    """One verb of search-nas, its time kept in times.json."""
    began = time.monotonic()
    print("$ search-nas", *argv, flush=True)
    subprocess.run([NAS, *argv], cwd=work, check=True)
    times = work / "times.jsonl"
    with times.open("a") as f:
        f.write(json.dumps({"verb": argv[0], "seconds": time.monotonic() - began}) + "\n")


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def macs_of(record: dict) -> int:
    """MACs of a record, with so many boxes in the RoI head as stand in the table."""
    return macs_at(Path(CONFIG), [record])[0]


def run(work: Path, seed: int) -> None:
    s = ("--seed", str(seed))
    checkpoint = ("--checkpoint", "work/latest.pth")
    verb(work, "train", CONFIG, "--work-dir", "work", *s)
    verb(work, "flops", CONFIG, "--out", "flops.jsonl")
    verb(work, "select", "flops.jsonl", "--rules", str(HERE / "pick.yaml"), "--out", "picked.jsonl", *s)
    verb(work, "test", CONFIG, *checkpoint, "--archs", "picked.jsonl", "--out", "tested.jsonl", "--raw", *s)
    rules = ("--rules", str(HERE / "tune.yaml"))
    verb(
        work,
        "finetune",
        CONFIG,
        *checkpoint,
        "--archs",
        "tested.jsonl",
        *rules,
        "--out",
        "tuned.jsonl",
        "--work-dir",
        "tuned",
        *s,
    )
    final = (
        "--set",
        "finetune.train_on=[train, val]",
        "--set",
        "finetune.epochs=15",
        "--set",
        "finetune.schedule=one_cycle",
        "--set",
        "finetune.lr=0.001",
    )
    best = ("--rules", str(HERE / "best.yaml"))
    verb(
        work,
        "finetune",
        CONFIG,
        *checkpoint,
        "--archs",
        "tuned.jsonl",
        *best,
        *final,
        "--split",
        "test",
        "--tag",
        "final",
        "--out",
        "final.jsonl",
        "--work-dir",
        "final",
        *s,
    )
    if not (work / "model").exists():
        verb(work, "extract", CONFIG, "--checkpoint", "final/best/latest.pth", "--out", "model")
    images = [str(Path(os.environ["BCCD"]) / "images" / image["file_name"]) for image in test_images()[:6]]
    verb(work, "predict", "model", *images, "--out", "boxes")


def search(work: Path, seed: int, n: int) -> None:
    """The front of archs picked by rules, and that of a search with as many evaluations."""
    from searchkit.records.pareto import front, hypervolume

    s, checkpoint = ("--seed", str(seed)), ("--checkpoint", "work/latest.pth")
    verb(work, "train", CONFIG, "--work-dir", "work", *s)
    verb(work, "flops", CONFIG, "--out", "flops.jsonl")
    rules = work / "pick.yaml"
    rules.write_text((HERE / "pick.yaml").read_text().replace("value: 6", f"value: {n // 4}"))
    verb(work, "select", "flops.jsonl", "--rules", str(rules), "--out", f"picked{n}.jsonl", *s)
    verb(work, "test", CONFIG, *checkpoint, "--archs", f"picked{n}.jsonl", "--out", f"tested{n}.jsonl", *s)
    how = ("--algorithm", "nsga2", "--population", "12", "--evaluations", str(n), "--input", "all")
    verb(work, "search", CONFIG, *checkpoint, *how, "--work-dir", f"search{n}", *s)
    found = records(work / f"search{n}" / "results.jsonl")
    most = max(r["overhead"]["flops"] for r in records(work / "flops.jsonl"))
    print("\n| | evaluations | best AP | on the front | hypervolume |\n| --- | ---: | ---: | ---: | ---: |")
    for name, rows in (("rules", records(work / f"tested{n}.jsonl")), ("NSGA-II", found)):
        scores = [(r["metric"]["direct"]["bccd_bbox_mAP"], r["overhead"]["flops"] / most) for r in rows]
        volume = hypervolume(scores, (0.5, 1.0), ("max", "min"))
        on = front(scores, ("max", "min"))
        print(f"| {name} | {len(rows)} | {max(ap for ap, _ in scores):.3f} | {len(on)} | {volume:.4f} |")
        for i in sorted(on, key=lambda i: scores[i][1]):
            print(f"    {rows[i]['overhead']['flops'] / 1e9:.2f} GMACs  AP {scores[i][0]:.3f}")


def test_images() -> list[dict]:
    path = Path(os.environ["BCCD"]) / "annotations" / "instances_test.json"
    images: list[dict] = json.loads(path.read_text())["images"]
    return images


def table(work: Path) -> None:
    tuned = {json.dumps([r["arch"], r["data"]]): r for r in records(work / "tuned.jsonl")}
    rows = []
    for r in records(work / "tested.jsonl"):
        metric = r["metric"]
        t = tuned.get(json.dumps([r["arch"], r["data"]]))
        rows.append(
            (
                macs_of(r) / 1e9,
                metric["direct_raw"]["bccd_bbox_mAP"],
                metric["direct"]["bccd_bbox_mAP"],
                t["metric"]["finetune"]["bccd_bbox_mAP"] if t else None,
                r,
            )
        )
    print("\n| GMACs (200 boxes) | input | stem; width; depth | raw AP | calibrated AP | tuned AP |")
    print("|---:|---|---|---:|---:|---:|")
    for macs, raw, calibrated, ft, r in sorted(rows, key=lambda row: row[0]):
        b = r["arch"]["backbone"]
        arch = (
            f"{b['stem']['width']}; {' '.join(map(str, b['body']['width']))}; {' '.join(map(str, b['body']['depth']))}"
        )
        h, w = r["data"]["input_shape"]
        print(f"| {macs:.2f} | {h}x{w} | {arch} | {raw:.3f} | {calibrated:.3f} | {'' if ft is None else f'{ft:.3f}'} |")
    both = [(c, f) for _, _, c, f, _ in rows if f is not None]
    for name, pairs in (
        ("calibrated and tuned", both),
        ("raw and tuned", [(a, f) for _, a, _, f, _ in rows if f is not None]),
        ("raw and calibrated", [(a, c) for _, a, c, _, _ in rows]),
    ):
        print(f"Kendall tau of {name}: {kendalltau(*zip(*pairs, strict=True)).statistic:.2f} (n = {len(pairs)})")
    final = records(work / "final.jsonl")[0]
    m = final["metric"]["final"]
    scores = ", ".join(
        f"{name} {m[f'bccd_bbox_mAP{end}']:.3f}" for name, end in (("AP", ""), ("AP50", "_50"), ("AP75", "_75"))
    )
    print(f"test, once: {scores}; {macs_of(final) / 1e9:.2f} GMACs with 200 boxes")
    spent: dict[str, float] = {}
    for item in records(work / "times.jsonl"):
        spent[item["verb"]] = spent.get(item["verb"], 0) + item["seconds"]
    print(
        "minutes: " + ", ".join(f"{k} {v / 60:.1f}" for k, v in spent.items()) + f"; all {sum(spent.values()) / 60:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--search", type=int, metavar="N", help="evaluations; a multiple of 4")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.search:
        search(args.work.resolve(), args.seed, args.search)
        return
    run(args.work.resolve(), args.seed)
    table(args.work.resolve())


if __name__ == "__main__":
    main()
