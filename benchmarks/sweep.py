"""Subnets scored per minute: many in one warm process, beside one process each, in turns.

.venv/bin/python benchmarks/sweep.py [--subnets 8] [--rounds 3] [--json FILE]

The recipe `det` on its own data (digits on 128 x 128 canvases, 100 images to score on, 64 to calibrate on), a supernet
of one training step: how well it detects does not change how long it takes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAS = str(Path(sys.executable).with_name("search-nas"))
CONFIG = str(ROOT / "templates" / "det" / "faster_rcnn_small.yaml")


def nas(work: Path, *argv: str) -> float:
    """Seconds of one command."""
    env = {**os.environ, "DATA": str(work / "digits")}
    began = time.perf_counter()
    subprocess.run([NAS, *argv], cwd=work, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subnets", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    work = ROOT / ".bench" / "sweep"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    nas(work, "data", "digits-det", "--out", "digits")
    nas(work, "train", CONFIG, "--work-dir", "work", "--set", "train.steps=1", "--set", "train.eval_archs=[MIN]")
    nas(work, "flops", CONFIG, "--out", "some.jsonl", "--sample", str(args.subnets))
    lines = (work / "some.jsonl").read_text().splitlines()
    for i, line in enumerate(lines):
        (work / f"one-{i}.jsonl").write_text(line + "\n")
    test = ("test", CONFIG, "--checkpoint", "work/latest.pth")
    warm, cold = [], []
    for i in range(args.rounds):
        warm.append(nas(work, *test, "--archs", "some.jsonl", "--out", f"warm-{i}.jsonl"))
        cold.append(
            sum(
                nas(work, *test, "--archs", f"one-{n}.jsonl", "--out", f"cold-{i}-{n}.jsonl") for n in range(len(lines))
            )
        )
    same = [sorted((work / "warm-0.jsonl").read_text().splitlines())]
    same.append(sorted((work / f"cold-0-{n}.jsonl").read_text().strip() for n in range(len(lines))))
    assert same[0] == same[1], "both ways must give the same records"
    rates = {
        "one warm process": [60 * len(lines) / s for s in warm],
        "one process each": [60 * len(lines) / s for s in cold],
    }
    for name, values in rates.items():
        print(f"{name:18} {statistics.median(values):7.1f} subnets/min ({min(values):.1f} .. {max(values):.1f})")
    ratio = statistics.median(c / w for w, c in zip(warm, cold, strict=True))
    print(f"ratio {ratio:.2f}, {len(lines)} subnets, {args.rounds} rounds")
    if args.json:
        args.json.write_text(json.dumps(rates))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
