"""No-op trials per second end to end, searched by `random` and `tpe`, beside Optuna with each of its storages.

.venv/bin/python benchmarks/end_to_end.py [--trials 300] [--repeat 3] [--sampler random] [--json results.json]

A trial is `sh train.sh X Y`, which reports X as its score; two run at once. searchkit runs them by search-run, with all
that it keeps of a job; its peers are a loop of Optuna's ask and tell around Popen, with the same sampler, that reads
the score from a pipe and keeps trials in memory, in Optuna's journal file, in sqlite. Each is a process of its own; all
take turns. *loop* is from the first launch to the last result, without program start and imports.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from overhead import (
    BENCH,
    BIN,
    COUNTER,
    POPEN_LOOP,
    SEARCH_RUN,
    Peers,
    Row,
    Table,
    machine,
    markdown,
    rounds,
    task_of,
    timed,
)

from searchkit.suite.store import journal

RANGES = {"x": (-5.0, 10.0), "y": (0.0, 15.0)}
TRAIN_SH = """echo "{\\"step\\": 1, \\"score\\": $1}" > "$SEARCHKIT_CALLBACK/scalars.jsonl"\n"""

# argv: sampler, storage, trials, ranges. At most two children. Prints the seconds of the loop.
OPTUNA_LOOP = """
import json, os, subprocess, sys, time
import optuna
sampler, storage, n, ranges = sys.argv[1:]
optuna.logging.set_verbosity(optuna.logging.ERROR)
kinds = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
where = None
if storage == "journal":
    where = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend("journal.log"))
elif storage == "sqlite":
    where = "sqlite:///study.db"
study = optuna.create_study(storage=where, sampler=kinds[sampler](seed=0))
space = {name: optuna.distributions.FloatDistribution(*ends) for name, ends in json.loads(ranges).items()}
running = {}
began = time.perf_counter()
for i in range(int(n) + 2):
    if i >= 2:
        trial, child = running.pop(os.wait()[0])
        with child.stdout as pipe:
            study.tell(trial, float(pipe.read()))
        child.returncode = 0
    if i < int(n):
        trial = study.ask(space)
        argv = ["sh", "-c", 'echo "$1"', "train.sh", *map(str, trial.params.values())]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE)
        running[child.pid] = trial, child
print(time.perf_counter() - began)
"""


def measure(sampler: str, trials: int, repeat: int) -> Table:
    """One table: searchkit and its peers with one sampler."""
    loops: dict[str, list[float]] = {}

    def folder() -> Path:
        made = BENCH / f"project-{next(COUNTER)}"
        made.mkdir()
        return made

    def searchkit() -> float:
        project = folder()
        args = [{"type": "Uniform", "name": k, "low": low, "high": high} for k, (low, high) in RANGES.items()]
        config = {
            "task": {"template": "sh train.sh {x} {y}", "search_args": args, "reward_attribute": "score"},
            "search": {"sampler": sampler, "n_trials": trials, "seed": 0},
            "monitor": {"mode": "min"},
        }
        (project / "config.yaml").write_text(json.dumps(config))
        (project / "train.sh").write_text(TRAIN_SH)
        timed(BIN / "search-init", cwd=project)
        os.sync()
        took = timed(*SEARCH_RUN, cwd=project)
        events, _ = journal.read(task_of(project))
        launched = [event["time"] for event in events if event["type"] == "launch"]
        ended = [event["time"] for event in events if event["type"] == "result"]
        assert len(launched) == len(ended) == trials
        loops.setdefault("searchkit", []).append(max(ended) - min(launched))
        return took

    def optuna(name: str, storage: str) -> float:
        argv = (sampler, storage, str(trials), json.dumps(RANGES))
        took = timed(sys.executable, "-c", OPTUNA_LOOP, *argv, cwd=folder())
        loops.setdefault(name, []).append(float((BENCH / "output").read_text().split()[-1]))
        return took

    peers: Peers = {"searchkit": searchkit}
    for storage in ("memory", "journal", "sqlite"):
        name = f"Optuna, {storage}"
        peers = {**peers, name: partial(optuna, name, storage)}
    popen = (sys.executable, "-I", "-S", "-c", POPEN_LOOP, str(trials), "sh", "-c", 'echo "$1"', "train.sh", "1", "2")
    samples = rounds({**peers, "Popen loop": partial(timed, *popen)}, repeat)
    rows = []
    for name, taken in samples.items():
        rows.append(Row(f"{name}, the whole command", [trials / s for s in taken]))
        rows += [Row(f"{name}, loop", [trials / s for s in loops[name]])] if name in loops else []
    return Table(f"{sampler}: {trials} no-op trials, two at once", "trials/s", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--repeat", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--sampler", action="append", choices=["random", "tpe"], help="only this one; may be repeated")
    parser.add_argument("--json", type=Path, help="write all samples there")
    args = parser.parse_args()
    if BENCH.exists() and any(BENCH.iterdir()):
        parser.error(f"{BENCH} exists: another run uses it, or was killed. If none does: rm -r {BENCH}")
    BENCH.mkdir(exist_ok=True)
    try:
        facts = {**machine(), "load average": f"{os.getloadavg()[0]:.2f}"}
        print(*(f"{k}: {v}" for k, v in facts.items()), sep="\n", end="\n\n", flush=True)
        tables = []
        for sampler in args.sampler or ["random", "tpe"]:
            tables.append(measure(sampler, args.trials, args.repeat))
            print(markdown(tables[-1]), flush=True)
    finally:
        shutil.rmtree(BENCH, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(table) for table in tables], indent=1) + "\n")


if __name__ == "__main__":
    main()
