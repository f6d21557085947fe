"""Two trainings at once on the cores of one: their wall time over that of one training alone.

.venv/bin/python benchmarks/two_trainings.py [--threads 2] [--steps 40] [--rounds 3] [--no-spinning] [--json FILE]

`search-nas train` with the recipe `det` on its own data, on as many cores as a training has threads, alone and two at
once, in turns. The whole command is timed, its start included. Threads that wait for each other spin at first; where
there are more of them than cores, they spin away the time of those they wait for, unless they give up soon
(GOMP_SPINCOUNT, which search-nas sets). The rows `spinning` have what PyTorch's OpenMP does by itself: one round, which
can take many minutes.
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
ASKED = 2.3  # at most so many times the time of one alone
SPINNING = {"GOMP_SPINCOUNT": "300000"}  # libgomp's own choice where neither it nor OMP_WAIT_POLICY is set


def trainings_s(work: Path, at_once: int, threads: int, steps: int, extra: dict[str, str]) -> float:
    """Seconds from the common start of so many trainings to the end of the last."""
    env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    env |= {"DATA": str(work / "digits"), "OMP_NUM_THREADS": str(threads), **extra}
    sets = ("--set", f"train.steps={steps}", "--set", "train.eval_archs=[]")
    for i in range(at_once):
        shutil.rmtree(work / f"run-{i}", ignore_errors=True)
    began = time.perf_counter()
    processes = [
        subprocess.Popen(
            [NAS, "train", CONFIG, "--device", "cpu", *sets, "--work-dir", f"run-{i}"],
            cwd=work,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for i in range(at_once)
    ]
    codes = [process.wait() for process in processes]
    took_s = time.perf_counter() - began
    assert not any(codes), f"trainings ended with {codes}"
    return took_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-spinning", action="store_true", help="leave out the rows that take long")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    work = ROOT / ".bench" / "two_trainings"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    subprocess.run([NAS, "data", "digits-det", "--out", "digits"], cwd=work, check=True, stdout=subprocess.DEVNULL)
    cores = sorted(os.sched_getaffinity(0))
    print(f"{args.steps} steps, {args.threads} threads each, on the cores {cores}, load {os.getloadavg()[0]:.2f}")
    cases = {"search-nas": ({}, args.rounds), "spinning": (SPINNING, 0 if args.no_spinning else 1)}
    seconds: dict[str, dict[str, list[float]]] = {}
    for name, (extra, rounds) in cases.items():
        took: dict[str, list[float]] = {"alone": [], "two at once": []}
        for _ in range(rounds):
            for at_once, kind in enumerate(took, 1):
                took[kind].append(trainings_s(work, at_once, args.threads, args.steps, extra))
        if rounds:
            alone, two = (statistics.median(values) for values in took.values())
            asked = f" (asked: at most {ASKED})" if not extra else ""
            print(f"{name:11} alone {alone:7.1f} s   two at once {two:7.1f} s   ratio {two / alone:.2f}{asked}")
            seconds[name] = took
    if args.json:
        args.json.write_text(json.dumps(seconds))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
