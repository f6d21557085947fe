"""What searchkit itself costs, beside its peers, measured in one run. benchmarks/README.md says what each case means.

.venv/bin/python benchmarks/overhead.py [--case noop ...] [--repeat 3] [--jobs 1000] [--json results.json]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from searchkit.store import journal, snapshot, tasks
from searchkit.workspace import TaskPaths, Workspace

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / ".bench"
BIN = Path(sys.executable).parent
PYTHON_ALONE = "python -c pass"
PARALLEL = "GNU parallel -j2"
STARTS = 5  # times --repeat: samples of cases that take a fraction of a second
HIGH_LOAD = 0.5

# Peers and jobs must not differ in what they import or where they look for programs.
ENV = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONNOUSERSITE": "1"}
ENV |= {"PARALLEL_HOME": str(BENCH / "parallel"), "GIT_CEILING_DIRECTORIES": str(BENCH)}
for _name in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PARALLEL"):
    ENV.pop(_name, None)

# At most two children, each awaited as it ends, and nothing else: no folder, no log, no record.
POPEN_LOOP = """
import os, subprocess, sys
n, command, running = int(sys.argv[1]), sys.argv[2:], {}
for i in range(n):
    if len(running) == 2:
        pid, code = os.wait()
        running.pop(pid).returncode = code
    p = subprocess.Popen(command)
    running[p.pid] = p
for p in running.values():
    p.wait()
"""


@dataclass(frozen=True)
class Row:
    """One line of a table. `samples` of the rows of a table belong together by position: same round."""

    what: str
    samples: list[float]
    asked: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of one unit. The first is what the others are divided by, round by round."""

    title: str
    unit: str
    rows: list[Row]
    differences: bool = False  # show "row - first row" too
    notes: tuple[str, ...] = ()


# ---- running things


def timed(*argv: str | Path, cwd: Path, stdin: Path | None = None) -> float:
    """Seconds that a command takes, from starting it to its end; its output goes to a file. Stops us if it fails."""
    out = BENCH / "output"
    with open(stdin or os.devnull, "rb") as inp, open(out, "wb") as to:
        began = time.perf_counter()
        code = subprocess.run(argv, cwd=cwd, env=ENV, stdin=inp, stdout=to, stderr=subprocess.STDOUT).returncode
        took = time.perf_counter() - began
    if code:
        raise SystemExit(f"{' '.join(map(str, argv))}: exit {code}\n{out.read_text(errors='replace')[-2000:]}")
    return took


def rounds(peers: dict[str, Callable[[], float]], repeat: int) -> dict[str, list[float]]:
    """`repeat` samples of each peer: one of each a round, in an order that turns round, so that drift hits all alike."""
    samples: dict[str, list[float]] = {name: [] for name in peers}
    for i in range(repeat):
        for name in sorted(peers, reverse=bool(i % 2)):
            os.sync()  # nobody pays for what another one left to be written
            samples[name].append(peers[name]())
    return samples


_numbers = itertools.count()


@contextlib.contextmanager
def project(template: str, jobs: int, **files: str) -> Iterator[Path]:
    """A project of its own with a workspace and a config of that many jobs: the product of two arguments."""
    folder = BENCH / f"project-{next(_numbers)}"
    folder.mkdir()
    first = next(k for k in range(int(jobs**0.5), 0, -1) if jobs % k == 0)
    args = [
        {"type": "Categorical", "name": n, "value": list(range(k))} for n, k in (("a", first), ("b", jobs // first))
    ]
    config = {"task": {"template": template, "search_args": args}}
    for name, text in {"config.yaml": json.dumps(config), **{f"{k}.sh": v for k, v in files.items()}}.items():
        (folder / name).write_text(text)
    timed(BIN / "search-init", cwd=folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def task_of(folder: Path) -> TaskPaths:
    return Workspace(str(folder / ".search-run")).task("default")


SEARCH_RUN = (BIN / "search-run", "config.yaml", "-j", "2", "--gpus", "none")


def python_alone() -> float:
    return 1000 * timed(sys.executable, "-c", "pass", cwd=BENCH)


def launchers(words: tuple[str, ...], jobs: int, input_lines: Path) -> dict[str, Callable[[], float]]:
    """The peers that run a command `jobs` times, two at once: name -> seconds. Those that are not installed are left
    out."""
    peers: dict[str, Callable[[], float]] = {
        "Popen loop": lambda: timed(sys.executable, "-I", "-S", "-c", POPEN_LOOP, str(jobs), *words, cwd=BENCH)
    }
    if shutil.which("xargs"):
        peers["xargs -P2"] = lambda: timed("xargs", "-P2", "-I{}", *words, cwd=BENCH, stdin=input_lines)
    if has_gnu_parallel():
        parallel = ("parallel", "--will-cite", "-j2", "-N0")

        def logged() -> float:
            folder = BENCH / f"parallel-{next(_numbers)}"
            keep = ("--joblog", f"{folder}/joblog", "--results", f"{folder}/results")
            folder.mkdir()
            took = timed(*parallel, *keep, *words, cwd=BENCH, stdin=input_lines)
            shutil.rmtree(folder)
            return took

        peers[PARALLEL] = lambda: timed(*parallel, *words, cwd=BENCH, stdin=input_lines)
        peers[f"{PARALLEL} --joblog --results"] = logged
    return peers


def has_gnu_parallel() -> bool:
    """The `parallel` of moreutils is another program."""
    try:
        return b"GNU parallel" in subprocess.run(["parallel", "--version"], capture_output=True).stdout
    except OSError:
        return False


def missing() -> tuple[str, ...]:
    absent = [] if shutil.which("xargs") else ["xargs"]
    absent += [] if has_gnu_parallel() else ["GNU parallel"]
    return tuple(f"{name} is not installed here: its rows are left out." for name in absent)


# ---- the cases


def run_jobs(
    template: str, words: tuple[str, ...], jobs: int, repeat: int
) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of searchkit and its launcher peers for the same jobs; and of searchkit's part from first launch to
    last result."""
    input_lines = BENCH / "input"
    input_lines.write_text("x\n" * jobs)
    steady: list[float] = []

    def searchkit() -> float:
        with project(template, jobs) as folder:
            os.sync()
            took = timed(*SEARCH_RUN, cwd=folder)
            events, _ = journal.read(task_of(folder))
        times = {kind: [e["time"] for e in events if e["type"] == kind] for kind in ("launch", "result")}
        if len(times["result"]) != jobs:
            raise SystemExit(f"{len(times['result'])} results of {jobs} jobs")
        steady.append(max(times["result"]) - min(times["launch"]))
        return took

    with project(template, 2) as folder:  # page cache and .pyc files warm for everybody
        timed(*SEARCH_RUN, cwd=folder)
    return rounds({"searchkit": searchkit, **launchers(words, jobs, input_lines)}, repeat), steady


def noop(repeat: int, jobs: int) -> Iterator[Table]:
    seconds, steady = run_jobs("true", ("true",), jobs, repeat)
    rows = [Row("searchkit, the whole command", [jobs / s for s in seconds.pop("searchkit")], ">= 350")]
    rows.append(Row("searchkit, first launch to last result", [jobs / s for s in steady]))
    rows += [Row(name, [jobs / s for s in samples]) for name, samples in seconds.items()]
    yield Table(f"noop: {jobs} x `true`, two at once", "jobs/s", rows, notes=missing())


def sleep(repeat: int, jobs: int) -> Iterator[Table]:
    ideal = 0.1 * ((jobs + 1) // 2)
    seconds, steady = run_jobs("sleep 0.1", ("sleep", "0.1"), jobs, repeat)
    rows = [
        Row("searchkit, the whole command", [100 * ideal / s for s in seconds.pop("searchkit")], ">= 97 (1000 jobs)")
    ]
    rows.append(Row("searchkit, first launch to last result", [100 * ideal / s for s in steady]))
    rows += [Row(name, [100 * ideal / s for s in samples]) for name, samples in seconds.items()]
    title = f"sleep: {jobs} x `sleep 0.1`, two at once: ideal time ({ideal:.1f} s) / time"
    yield Table(title, "%", rows, notes=missing())


def first(repeat: int, jobs: int) -> Iterator[Table]:
    def first_start() -> float:
        with project("sh train.sh", jobs, train="true\n") as folder:
            status = Path(task_of(folder).job(0).attempt(1).status)
            began = time.perf_counter()
            p = subprocess.Popen(["search-run", "config.yaml"], cwd=folder, env=ENV, stdout=subprocess.DEVNULL)
            took = await_lines([status], began, p)
            p.wait()
        return 1000 * took

    samples = rounds({PYTHON_ALONE: python_alone, "search-run to a start line": first_start}, repeat * STARTS)
    rows = [Row(name, s, "" if name == PYTHON_ALONE else "<= 400") for name, s in samples.items()]
    yield Table(f"first: from typing search-run to the first job's start line ({jobs} jobs)", "ms", rows, True)


def await_lines(paths: list[Path], began: float, running: subprocess.Popen[Any]) -> float:
    """Seconds from `began` until every one of the status files holds its start line."""
    while not all(p.exists() and p.stat().st_size for p in paths):
        if running.poll() is not None and running.returncode:
            raise SystemExit(f"search-run ended with {running.returncode} before its jobs started")
        time.sleep(0.0005)
    return time.perf_counter() - began


def finished_task(folder: Path, finished: int) -> TaskPaths:
    """A task of which so many jobs are finished, written through the package's own journal."""
    ws = Workspace(str(folder / ".search-run"))
    task = tasks.create(ws, "default", (folder / "config.yaml").read_bytes(), snapshot.scan(ws.project))
    a, b = (arg["value"] for arg in json.loads((folder / "config.yaml").read_text())["task"]["search_args"])
    result = {"state": "finished", "rc": 0, "retry": False, "reason": "", "spent": ""}
    with tasks.held(task) as open_task:
        for i, (x, y) in enumerate(itertools.islice(itertools.product(a, b), finished)):
            text = {"a": str(x), "b": str(y)}
            command = f"python train.py --a {x} --b {y}"
            open_task.record("create", job=i, values={"a": x, "b": y}, text=text, command=command)
            open_task.record("launch", time=1.0 * i, job=i, attempt=1, gpus=[], snapshot=0)
            open_task.record("result", time=i + 1.0, job=i, attempt=1, start=1.0 * i, end=i + 1.0, **result)
    return task


def show(repeat: int, jobs: int) -> Iterator[Table]:
    with project("python train.py --a {a} --b {b}", jobs) as folder:
        finished_task(folder, jobs)

        def ctl(*words: str) -> Callable[[], float]:
            return lambda: 1000 * timed(BIN / "search-ctl", *words, cwd=folder)

        many = f"show --task ({jobs} jobs) > file"
        peers = {
            PYTHON_ALONE: python_alone,
            "show --help": ctl("show", "--help"),
            many: ctl("show", "--task", "default"),
        }
        samples = rounds(peers, repeat * STARTS)
    asked = {"show --help": "<= 150 over Python", many: "< 500 (10,000 jobs)"}
    rows = [Row(name, s, asked.get(name, "")) for name, s in samples.items()]
    yield Table("show: what search-ctl takes to answer", "ms", rows, differences=True)


def adopt(repeat: int, jobs: int) -> Iterator[Table]:
    with project("sleep 600", jobs + 2) as folder:
        task = finished_task(folder, jobs)
        scheduler = subprocess.Popen(SEARCH_RUN, cwd=folder, env=ENV, stdout=subprocess.DEVNULL)

        def again() -> float:
            nonlocal scheduler
            scheduler.send_signal(signal.SIGKILL)
            scheduler.wait()
            began = time.perf_counter()
            scheduler = subprocess.Popen(SEARCH_RUN, cwd=folder, env=ENV, stdout=subprocess.PIPE)
            assert scheduler.stdout is not None
            adopted = itertools.islice((line for line in scheduler.stdout if b"adopted" in line), 2)
            if len(list(adopted)) != 2:
                raise SystemExit("search-run did not adopt the two running jobs")
            return 1000 * (time.perf_counter() - began)

        try:  # the first one makes the job folders
            await_lines([Path(task.job(n).attempt(1).status) for n in (jobs, jobs + 1)], 0.0, scheduler)
            samples = rounds({PYTHON_ALONE: python_alone, "search-run to both adopted": again}, repeat)
        finally:
            timed(BIN / "search-ctl", "stop", "--grace", "0", cwd=folder)
            scheduler.wait()
    rows = [Row(name, s, "" if name == PYTHON_ALONE else "<= 2000") for name, s in samples.items()]
    yield Table(f"adopt: scheduler killed, {jobs} jobs finished, 2 running", "ms", rows, differences=True)


def inodes(repeat: int, jobs: int) -> Iterator[Table]:
    report = """echo '{"step": 1, "acc": 0.5}' > "$SEARCHKIT_CALLBACK/scalars.jsonl"\n"""
    with project("sh train.sh", jobs, train=report) as folder:
        own = [p.lstat() for p in folder.iterdir() if p.name != ".search-run"]
        timed(*SEARCH_RUN, cwd=folder)
        task = task_of(folder)
        found = [p.lstat() for p in Path(task.root).rglob("*") if not str(p).startswith(task.snapshots) and p.exists()]
        events = os.path.getsize(task.segment(1))
    size = (sum(i.st_blocks for i in found) - jobs * sum(i.st_blocks for i in own)) * 512
    notes = (f"The project has {len(own)} files of its own, which are not counted; each job reports one scalar.",)
    count = [Row("all of the task but its snapshot", [(len(found) - jobs * len(own)) / jobs], "<= 12")]
    yield Table(f"inodes: what a job leaves behind ({jobs} jobs)", "inodes/job", count, notes=notes)
    kept = [Row("disk blocks of the same", [size / jobs]), Row("its lines in the events", [events / jobs])]
    yield Table("", "bytes/job", kept)


def report_import(repeat: int, jobs: int) -> Iterator[Table]:
    code = "import searchkit; searchkit.report"
    samples = rounds(
        {PYTHON_ALONE: python_alone, code: lambda: 1000 * timed(sys.executable, "-c", code, cwd=BENCH)}, repeat * STARTS
    )
    rows = [Row(name, s, "" if name == PYTHON_ALONE else "<= 50 over Python") for name, s in samples.items()]
    yield Table("report: what a training script pays for importing searchkit", "ms", rows, differences=True)


CASES: dict[str, tuple[Callable[[int, int], Iterator[Table]], int]] = {  # name -> case, its number of jobs
    "noop": (noop, 1000),
    "sleep": (sleep, 400),
    "first": (first, 8),
    "show": (show, 10_000),
    "adopt": (adopt, 10_000),
    "inodes": (inodes, 100),
    "report": (report_import, 0),
}


# ---- saying it


def markdown(table: Table) -> str:
    """The table as Markdown that also reads well in a terminal."""
    base = table.rows[0]
    head = ["", f"median {table.unit}", "range", "ratio", *["more"] * table.differences, "asked"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 2) + ["---"]]
    for row in table.rows:
        pairs = list(zip(row.samples, base.samples, strict=True))
        cells = [row.what, number(statistics.median(row.samples))]
        cells += [f"{number(min(row.samples))} .. {number(max(row.samples))}"]
        cells += [f"{statistics.median(x / y for x, y in pairs):.2f}"]
        cells += [number(statistics.median(x - y for x, y in pairs))] * table.differences
        lines.append([*cells, row.asked])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    left = (0, len(head) - 1)
    text = [
        "| " + " | ".join(f"{c:{'<' if i in left else '>'}{widths[i]}}" for i, c in enumerate(x)) + " |" for x in lines
    ]
    return "\n".join(
        ([f"### {table.title}", ""] if table.title else []) + text + [""] + [f"{n}\n" for n in table.notes]
    )


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"


def machine() -> dict[str, Any]:
    """Where this runs, as far as the figures depend on it."""
    fs = subprocess.run(["df", "--output=fstype", str(BENCH)], capture_output=True, text=True).stdout.split()[-1]
    return {
        "cpus": sorted(os.sched_getaffinity(0)),
        "file_system": fs,
        "fdatasync_ms": 1000 * fdatasync_s(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "load_average": os.getloadavg(),
    }


def fdatasync_s(times: int = 30) -> float:
    """What one small append costs until it is on disk: every decision of searchkit waits for that once."""
    took = []
    with open(BENCH / "sync", "ab", buffering=0) as f:
        for _ in range(times):
            began = time.perf_counter()
            f.write(b"x" * 200)
            os.fdatasync(f.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one (may be repeated)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds of each case (default: 3)")
    parser.add_argument("--jobs", type=int, help="jobs of each case that runs jobs (default: each case's own)")
    parser.add_argument("--json", metavar="FILE", help="keep all samples there")
    options = parser.parse_args()
    if options.repeat < 1 or (options.jobs is not None and options.jobs < 1):
        parser.error("--repeat and --jobs must be at least 1")
    if not (BIN / "search-run").exists():
        parser.error(f"searchkit is not installed beside {sys.executable}; run: .venv/bin/python {sys.argv[0]}")
    return options


def main() -> None:
    options = parse()
    try:
        BENCH.mkdir()
    except FileExistsError:
        raise SystemExit(f"{BENCH} exists: another run is using it, or was killed. Remove it: rm -r {BENCH}") from None
    results: dict[str, Any] = {}
    try:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # the same two cores for everybody
        results["machine"] = facts = machine()
        print(*(f"{k}: {v}" for k, v in facts.items()), sep="\n", end="\n\n")
        if facts["load_average"][0] > HIGH_LOAD:
            print("WARNING: other work runs on this machine (load average); these figures are noise.\n")
        for name in options.case or CASES:
            case, jobs = CASES[name]
            results[name] = []
            for table in case(options.repeat, options.jobs if options.jobs and jobs else jobs):
                results[name].append(asdict(table))
                print(markdown(table), flush=True)
        print(f"load average at the end: {os.getloadavg()[0]:.2f}")
    finally:
        shutil.rmtree(BENCH)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
