"""No-op trials per second of a script that imports torch: as plain jobs, and in warm workers, in turns.

.venv/bin/python benchmarks/workers.py [--plain 20] [--trials 2000] [--repeat 3] [--module torch] [--json results.json]

A trial is `train.py`, which reports one number. *loop* is from the first launch to the last result, the workers' start
left out; *whole* is the whole command, with it. One worker serves 2000 trials as fast as the scheduler keeps its books;
two add little where trials cost nothing. The last lines say how many times as many trials that is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
from dataclasses import asdict
from functools import partial
from pathlib import Path

from overhead import BENCH, COUNTER, SEARCH_RUN, Peers, Row, Table, machine, markdown, rounds, task_of, timed

from searchkit.suite.store import journal

TRAIN = """
import searchkit
import {module}

for trial in searchkit.trials():
    with trial:
        trial.report(acc=trial.params["i"])
"""


def project(trials: int, workers: int, module: str) -> Path:
    folder = BENCH / f"project-{next(COUNTER)}"
    folder.mkdir()
    args = [{"type": "Categorical", "name": "i", "value": list(range(trials))}]
    config: dict[str, object] = {"task": {"template": "python train.py", "search_args": args}}
    if workers:
        config["run"] = {"workers": workers}
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "train.py").write_text(TRAIN.format(module=module))
    timed(SEARCH_RUN[0].replace("search-run", "search-init"), cwd=folder)
    return folder


def sample(trials: int, workers: int, module: str, loops: list[float]) -> float:
    """Trials per second of a whole command; that of its loop is added to `loops`."""
    folder = project(trials, workers, module)
    os.sync()
    took = timed(*SEARCH_RUN, cwd=folder)
    events, _ = journal.read(task_of(folder))
    launched = [e["time"] for e in events if e["type"] == "launch"]
    ended = [e["time"] for e in events if e["type"] == "result"]
    assert len(launched) == len(ended) == trials
    loops.append(trials / (max(ended) - min(launched)))
    return trials / took


def run(plain: int, trials: int, repeat: int, module: str) -> Table:
    loops: dict[str, list[float]] = {"plain jobs": [], "1 worker": [], "2 workers": []}
    peers: Peers = {
        name: partial(sample, plain if k == 0 else trials, k, module, loops[name]) for k, name in enumerate(loops)
    }
    wholes = rounds(peers, repeat)
    rows = [Row(f"{name}, loop", loops[name], ">= 50 x plain" if "worker" in name else "") for name in loops]
    rows += [Row(f"{name}, whole", wholes[name]) for name in loops]
    return Table(f"workers: no-op trials that import {module}, -j 2", "trials/s", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plain", type=int, default=20, help="trials that run as plain jobs")
    parser.add_argument("--trials", type=int, default=2000, help="trials that run in workers")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--module", default="torch", help="what the script imports")
    parser.add_argument("--json", metavar="FILE", help="keep all samples there")
    options = parser.parse_args()
    if BENCH.exists():
        parser.error(f"{BENCH} exists: another run uses it, or was killed. If none does: rm -r {BENCH}")
    BENCH.mkdir()
    try:
        facts = {**machine(), "load average": f"{os.getloadavg()[0]:.2f}"}
        print(*(f"{k}: {v}" for k, v in facts.items()), sep="\n", end="\n\n", flush=True)
        table = run(options.plain, options.trials, options.repeat, options.module)
    finally:
        shutil.rmtree(BENCH, ignore_errors=True)
    print(markdown(table))
    found = {row.what: row.samples for row in table.rows}
    for k in ("1 worker", "2 workers"):
        pairs = zip(found[f"{k}, loop"], found["plain jobs, loop"], strict=True)
        print(f"{k}: {statistics.median(a / b for a, b in pairs):.0f} times the trials of plain jobs (asked: 50)")
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": facts, "table": asdict(table)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
