"""How fast search-ctl answers about a search of many trials: `.venv/bin/python benchmarks/look.py [--trials 10000]`.

The task is written through the package's own functions. Its events are those of a real search, but of the jobs' folders
only those exist that the commands have to open. Each command is a process of its own, beside `python -c pass`.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from searchkit.suite.config import read as configs
from searchkit.suite.store import creation, numbers, snapshot, tasks
from searchkit.suite.store.scalars import Reading
from searchkit.suite.workspace import TaskPaths, Workspace

CONFIG = """\
task:
  template: python train.py --lr {{lr}} --width {{width}} --optimizer {{optimizer}}
  search_args:
    - {{type: LogUniform, name: lr, low: 1.0e-5, high: 1.0}}
    - {{type: Int, name: width, low: 8, high: 256}}
    - {{type: Categorical, name: optimizer, value: [sgd, adam, lamb]}}
search: {{sampler: random, n_trials: {trials}, objectives: [{objectives}]{stop}}}
"""
TWO = "{name: acc, mode: max}, {name: macs, mode: min}"
ONE = "{name: acc, mode: max}"
ASHA = ", stop: {type: asha, min: 1, max: 27, eta: 3}"


def searched(folder: Path, n: int, objectives: str = TWO, *, stop: str = "", reports: int = 0) -> TaskPaths:
    """A task of `n` trials that ended, in a new workspace; each was judged `reports` times, and half of those that were
    are pruned. The ten best have the files that they reported in."""
    folder.mkdir(parents=True, exist_ok=True)
    ws = Workspace(str(folder / ".search-run"))
    raw = CONFIG.format(trials=n, objectives=objectives, stop=stop).encode()
    os.makedirs(ws.tmp)
    task = tasks.create(ws, "default", raw, snapshot.scan(ws.project))
    config = configs.parse(raw, "config.yaml")
    space, wanted, rng = config.space, config.objectives, random.Random(0)
    kept = []
    with tasks.held(task) as to:
        to.record("warm", trials=[])
        for i in range(n):
            genes = space.genes({"lr": 10 ** rng.uniform(-5, 0), "width": rng.randint(8, 256), "optimizer": "sgd"})
            genes["optimizer"] = rng.randrange(3)
            values, text, command = creation.describe(config, space.point(genes))
            acc = 1 / (1 + (genes["lr"] * 100 - 1) ** 2) * genes["width"] / 256 + rng.gauss(0, 0.01)
            scores = [acc, 1000.0 * genes["width"]][: len(wanted)]
            to.record("create", job=i, values=values, text=text, command=command, genes=genes, level=["lr", "width"])
            to.record("launch", time=i + 0.5, job=i, attempt=1, gpus=[], snapshot=0)
            for step in range(reports):
                to.record("report", job=i, step=step + 1, value=acc * (step + 1) / reports)
            state = "pruned" if reports and i % 2 else "finished"
            result = {"state": state, "rc": 0, "retry": False, "reason": "", "spent": "", "scores": scores}
            series = {o.name: {1: score} for o, score in zip(wanted, scores, strict=True)}
            result |= numbers.recorded(config, Reading(series, 0), task.job(i).attempt(1).callback)
            to.record("result", time=i + 1.0, job=i, attempt=1, start=i + 0.5, end=i + 1.0, **result)
            kept.append((acc, i, scores))
        to.record("complete", why=f"all {n} trials were made", time=n + 1.0)
    for _, i, scores in sorted(kept)[-10:]:
        callback = Path(task.job(i).attempt(1).callback)
        callback.mkdir(parents=True)
        body = ", ".join(f'"{o.name}": {score!r}' for o, score in zip(wanted, scores, strict=True))
        (callback / "scalars.jsonl").write_text(f"{{{body}}}\n")
    return task


COMMANDS = (
    ("show",),
    ("show", "--task", "default"),
    ("show-scalar", "-rt", "+5"),
    ("table", "--sort", "-acc"),
    ("best",),
    ("best", "-k", "5", "--json"),
    ("diff", "0", "1"),
    ("export", "--jobs", "@best:5"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    search_ctl = str(Path(sys.executable).parent / "search-ctl")
    with tempfile.TemporaryDirectory() as root:
        cases = {
            "two objectives": searched(Path(root, "two"), options.trials),
            "ASHA, 3 reports a trial": searched(Path(root, "asha"), options.trials, ONE, stop=ASHA, reports=3),
        }
        print(f"| search-ctl, {options.trials} trials | " + " | ".join(f"{name}, s" for name in cases) + " |")
        print("|---|" + "---:|" * len(cases))
        for words in ((), *COMMANDS):
            argv = [search_ctl, *words] if words else [sys.executable, "-c", "pass"]
            cells = []
            for task in cases.values():
                taken = []
                for _ in range(options.repeat):
                    began = time.perf_counter()
                    subprocess.run(argv, cwd=task.workspace.project, stdout=subprocess.DEVNULL, check=True)
                    taken.append(time.perf_counter() - began)
                cells.append(f"{statistics.median(taken):.2f} ({min(taken):.2f} .. {max(taken):.2f})")
            print(f"| {' '.join(words) or '`python -c pass`'} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
