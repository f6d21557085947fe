"""How fast search-ctl shows the numbers of jobs that wrote long logs:
`.venv/bin/python benchmarks/kept.py [--jobs 1000] [--log-mb 1.0]`.

Each job's log holds 100 epochs of two scalars, found by `monitor.regex` among other lines. The task is written through
the package's own functions, as search-run does when a result is accepted. All logs are the same bytes on disk (links
to one file), so that a small disk does. Each command is a process of its own, beside `python -c pass`, the floor; the
last row is the same after what was kept is removed, so that every log is read.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from searchkit.suite.config import read as configs
from searchkit.suite.store import creation, kept, numbers, snapshot, tasks, trials
from searchkit.suite.workspace import TaskPaths, Workspace

CONFIG = """\
task:
  template: python train.py --lr {lr}
  search_args: [{type: Uniform, name: lr, low: 0.0, high: 1.0}]
search: {sampler: random, n_trials: 1000, objectives: [{name: acc, mode: max}]}
monitor: {regex: ['epoch (?P<step>\\d+): acc (?P<acc>\\S+) loss (?P<loss>\\S+)']}
"""
EPOCHS = 100
COMMANDS = (
    ("show-scalar",),
    ("show-scalar", "--json"),
    ("show-scalar", "-rt", "+5"),
    ("show-scalar", "-rt", "+5", "--best", "--metric", "loss"),
    ("best",),
    ("export",),
)


def finished(folder: Path, n: int, log_bytes: int) -> TaskPaths:
    """A search of `n` trials that ended, each with a log of that size."""
    ws = Workspace(str(folder / ".search-run"))
    os.makedirs(ws.tmp)
    task = tasks.create(ws, "default", CONFIG.encode(), snapshot.scan(ws.project))
    config = configs.parse(CONFIG.encode(), "config.yaml")
    line = b"  [step 0123456789] gradient norm 1.2345, learning rate 0.0012, 123 images/s\n"
    noise = line * max(1, log_bytes // EPOCHS // len(line))
    log = b"".join(noise + b"epoch %d: acc 0.%04d, loss %.4f,\n" % (k, k, 9 / k) for k in range(1, EPOCHS + 1))
    (folder / "log").write_bytes(log)
    space = config.space
    with tasks.held(task) as to:
        to.record("warm", trials=[])
        for i in range(n):
            genes = space.genes({"lr": i / n})
            values, text, command = creation.describe(config, space.point(genes))
            to.record("create", job=i, values=values, text=text, command=command, genes=genes)
            to.record("launch", time=i + 0.5, job=i, attempt=1, gpus=[], snapshot=0)
            os.makedirs(task.job(i).attempt(1).callback)
            os.link(folder / "log", task.job(i).attempt(1).log)
        reader = trials.reader_of(task, ws.project_name, config, to.state.jobs[0])
        reading = reader.read()
        said = numbers.recorded(config, reading, reader.callback)
        for i in range(n):
            own = trials.reader_of(task, ws.project_name, config, to.state.jobs[i])
            own.events, own.files = [], {own.log or "": reader.files[reader.log or ""]}
            kept.save(task, to.state.jobs[i], numbers.digest(config), own, reading)
            result = {"state": "finished", "rc": 0, "retry": False, "reason": "", "spent": "", "scores": [0.01]}
            to.record("result", time=i + 1.0, job=i, attempt=1, start=i + 0.5, end=i + 1.0, **result, **said)
        to.record("complete", why=f"all {n} trials were made", time=n + 1.0)
    return task


def measured(argv: list[str], cwd: str) -> tuple[float, float]:
    """(seconds, peak memory in MB) of one run of a command."""
    began = time.perf_counter()
    child = subprocess.Popen(argv, cwd=cwd, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{argv} ended with {child.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--log-mb", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    search_ctl = str(Path(sys.executable).parent / "search-ctl")
    with tempfile.TemporaryDirectory() as root:
        task = finished(Path(root), options.jobs, int(options.log_mb * 1e6))
        print(f"| {options.jobs} jobs, logs of {options.log_mb:g} MB | s | range | ratio | MB |")
        print("|---|---:|---:|---:|---:|")
        floor = 0.0

        def row(title: str, argv: list[str], repeat: int) -> None:
            nonlocal floor
            runs = [measured(argv, root) for _ in range(repeat)]
            taken = [seconds for seconds, _ in runs]
            middle = statistics.median(taken)
            floor = floor or middle
            times = f"{middle:.2f} | {min(taken):.2f} .. {max(taken):.2f} | {middle / floor:.1f}"
            print(f"| {title} | {times} | {max(mb for _, mb in runs):.0f} |", flush=True)

        row("`python -c pass`", [sys.executable, "-c", "pass"], options.repeat)
        for words in COMMANDS:
            row(" ".join(words), [search_ctl, *words], options.repeat)
        shutil.rmtree(os.path.dirname(task.kept(0)))
        row("show-scalar, nothing kept", [search_ctl, "show-scalar"], 1)


if __name__ == "__main__":
    main()
