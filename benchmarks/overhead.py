"""What searchkit itself costs, beside its peers, measured in one run. benchmarks/README.md says what each case means.

.venv/bin/python benchmarks/overhead.py [--case noop ...] [--repeat 3] [--jobs 1000] [--json results.json]
"""

from __future__ import annotations

import argparse
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
import timeit
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from searchkit.suite.store import journal, snapshot, tasks
from searchkit.suite.workspace import TaskPaths, Workspace

BENCH = Path(__file__).resolve().parent.parent / ".bench"
BIN = Path(sys.executable).parent
SEARCH_RUN = (str(BIN / "search-run"), "config.yaml", "-j", "2", "--gpus", "none")
COUNTER = itertools.count()
PYTHON_ALONE = "python -c pass"
STARTS = 5  # times --repeat: samples of what takes a fraction of a second
ENV = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONNOUSERSITE": "1"}
ENV |= {"PARALLEL_HOME": str(BENCH), "GIT_CEILING_DIRECTORIES": str(BENCH)}  # our projects belong to no repository

# At most two children, and nothing else: no folder, no log, no record.
POPEN_LOOP = """
import os, subprocess, sys
n = int(sys.argv[1])
for i in range(n + 2):
    if i >= 2:
        os.wait()
    if i < n:
        subprocess.Popen(sys.argv[2:]).returncode = 0
"""

Peers = Mapping[str, Callable[[], float]]  # name -> take one sample: seconds


@dataclass(frozen=True)
class Row:
    """One line of a table; the samples at one position of all its rows are of the same round."""

    what: str
    samples: list[float]
    asked: str = ""


@dataclass(frozen=True)
class Table:
    """What one case found. Its rows are compared to the first one, round by round, unless `compared` is False."""

    title: str
    unit: str
    rows: list[Row]
    note: str = ""
    compared: bool = True


def timed(*argv: str | Path, cwd: Path = BENCH, stdin: str | Path = os.devnull) -> float:
    """Seconds from starting a command to its end; its output goes to a file. SystemExit if it fails."""
    out = BENCH / "output"
    if (results := BENCH / "results").exists():  # of GNU parallel
        results.rename(f"{results}-{next(COUNTER)}")
    with open(stdin, "rb") as inp, open(out, "wb") as to:
        began = time.perf_counter()
        code = subprocess.run(argv, cwd=cwd, env=ENV, stdin=inp, stdout=to, stderr=subprocess.STDOUT).returncode
        took = time.perf_counter() - began
    if code:
        raise SystemExit(f"{' '.join(map(str, argv))}: exit {code}\n{out.read_text(errors='replace')[-2000:]}")
    return took


def rounds(peers: Peers, repeat: int) -> dict[str, list[float]]:
    """One sample of each peer a round, in an order that turns round every time, so that drift hits all alike."""
    samples: dict[str, list[float]] = {name: [] for name in peers}
    for i in range(repeat):
        for name in list(peers)[:: -1 if i % 2 else 1]:
            os.sync()  # nobody pays for what another one left to be written
            samples[name].append(peers[name]())
    return samples


def over_python(title: str, peers: Peers, repeat: int, asked: tuple[str, ...]) -> Table:
    """A table of times in ms beside the interpreter's own start."""
    samples = rounds({PYTHON_ALONE: partial(timed, sys.executable, "-c", "pass"), **peers}, repeat)
    rows = [Row(name, [1000 * s for s in samples[name]], ask) for name, ask in zip(samples, ("", *asked), strict=True)]
    return Table(title, "ms", rows)


def project(template: str, jobs: int, train_sh: str = "") -> Path:
    """A new project with a workspace and a config of that many jobs, the product of two arguments.

    It stays until all is measured: ext4 without a journal shuns inodes that were freed within the last minutes, and
    looking for others makes every new file several times as slow.
    """
    folder = BENCH / f"project-{next(COUNTER)}"
    folder.mkdir()
    few = next(k for k in range(int(jobs**0.5), 0, -1) if jobs % k == 0)
    search_args = [{"type": "Categorical", "name": "a", "value": list(range(few))}]
    search_args.append({"type": "Categorical", "name": "b", "value": list(range(jobs // few))})
    (folder / "config.yaml").write_text(json.dumps({"task": {"template": template, "search_args": search_args}}))
    (folder / "train.sh").write_text(train_sh)
    timed(BIN / "search-init", cwd=folder)
    return folder


def task_of(folder: Path) -> TaskPaths:
    return Workspace(str(folder / ".search-run")).task("default")


def finished_task(folder: Path, finished: int) -> TaskPaths:
    """A task of which so many jobs are finished, written through the package's own journal."""
    ws = Workspace(str(folder / ".search-run"))
    raw = (folder / "config.yaml").read_bytes()
    task = tasks.create(ws, "default", raw, snapshot.scan(ws.project))
    points = itertools.product(*(arg["value"] for arg in json.loads(raw)["task"]["search_args"]))
    result = {"state": "finished", "rc": 0, "retry": False, "reason": "", "spent": ""}
    with tasks.held(task) as open_task:
        for i, (a, b) in enumerate(itertools.islice(points, finished)):
            text = {"a": str(a), "b": str(b)}
            open_task.record("create", job=i, values={"a": a, "b": b}, text=text, command=f"sh train.sh {a} {b}")
            open_task.record("launch", time=1.0 * i, job=i, attempt=1, gpus=[], snapshot=0)
            open_task.record("result", time=i + 1.0, job=i, attempt=1, start=1.0 * i, end=i + 1.0, **result)
    return task


def start(*argv: str, cwd: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, cwd=cwd, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def await_starts(task: TaskPaths, jobs: list[int], scheduler: subprocess.Popen[bytes]) -> None:
    """Return when each of these jobs has its start line."""
    for path in (Path(task.job(n).attempt(1).status) for n in jobs):
        while not (path.exists() and path.stat().st_size):
            assert not scheduler.poll(), "search-run failed before its jobs started"
            time.sleep(0.0005)


def installed(program: str) -> bool:
    """Whether GNU's program of that name is here; the `parallel` of moreutils is another one."""
    return b"GNU" in subprocess.run(f"{program} --version", shell=True, capture_output=True).stdout


def launchers(jobs: int) -> dict[str, tuple[str | Path, ...]]:
    """The peers that are installed here; each runs a command `jobs` times, two at once."""
    parallel = ("parallel", "--will-cite", "-N0", "-j2")
    keep = ("--joblog", BENCH / "joblog", "--results", BENCH / "results")
    peers: dict[str, tuple[str | Path, ...]] = {
        "Popen loop": (sys.executable, "-I", "-S", "-c", POPEN_LOOP, str(jobs)),
        "xargs -P2": ("xargs", "-P2", "-I{}"),
        "GNU parallel -j2": parallel,
        "GNU parallel -j2 --joblog --results": (*parallel, *keep),
    }
    return {name: argv for name, argv in peers.items() if argv[0] == sys.executable or installed(str(argv[0]))}


def beside_launchers(
    title: str, unit: str, command: str, jobs: int, repeat: int, score: Callable[[float], float], asked: str
) -> Table:
    """The same jobs by searchkit and by its peers; `score` makes a figure of the seconds."""
    steady = []

    def searchkit() -> float:
        folder = project(command, jobs)
        os.sync()
        took = timed(*SEARCH_RUN, cwd=folder)
        events, _ = journal.read(task_of(folder))
        launched = [e["time"] for e in events if e["type"] == "launch"]
        ended = [e["time"] for e in events if e["type"] == "result"]
        assert len(launched) == len(ended) == jobs
        steady.append(max(ended) - min(launched))
        return took

    whole = "searchkit, the whole command"
    lines = BENCH / "lines"
    lines.write_text("x\n" * jobs)
    peers = {k: partial(timed, *argv, *command.split(), stdin=lines) for k, argv in launchers(jobs).items()}
    samples = rounds({whole: searchkit, **peers}, repeat)
    samples = {whole: samples[whole], "searchkit, first launch to last result": steady, **samples}
    rows = [Row(name, [score(s) for s in taken], asked if name == whole else "") for name, taken in samples.items()]
    absent = [p for p in ("xargs", "parallel") if not installed(p)]
    return Table(title, unit, rows, f"Left out, not installed here: {', '.join(absent)}." if absent else "")


def noop(repeat: int, jobs: int) -> Table:
    title = f"noop: {jobs} x `true`, two at once"
    return beside_launchers(title, "jobs/s", "true", jobs, repeat, lambda s: jobs / s, ">= 350")


def sleep(repeat: int, jobs: int) -> Table:
    ideal = 0.1 * ((jobs + 1) // 2)
    title = f"sleep: {jobs} x `sleep 0.1`, two at once: ideal time ({ideal:.1f} s) over time"
    return beside_launchers(title, "%", "sleep 0.1", jobs, repeat, lambda s: 100 * ideal / s, ">= 97 (of 1000)")


def first(repeat: int, jobs: int) -> Table:
    def first_start() -> float:
        folder = project("sh train.sh {a} {b}", jobs, "true\n")
        began = time.perf_counter()
        scheduler = start(SEARCH_RUN[0], "config.yaml", cwd=folder)
        await_starts(task_of(folder), [0], scheduler)
        took = time.perf_counter() - began
        scheduler.communicate()
        return took

    title = f"first: from typing search-run to its first job ({jobs} in all)"
    return over_python(title, {"search-run to a start line": first_start}, repeat * STARTS, ("<= 400",))


def show(repeat: int, jobs: int) -> Table:
    folder = project("sh train.sh --a {a} --b {b}", jobs)
    finished_task(folder, jobs)
    ask = partial(timed, BIN / "search-ctl", "show", cwd=folder)
    peers = {"show --help": partial(ask, "--help"), f"show --task ({jobs} jobs)": partial(ask, "--task", "default")}
    return over_python("show: search-ctl's answer", peers, repeat * STARTS, ("<= 150 more", "< 500 (10,000 jobs)"))


def adopt(repeat: int, jobs: int) -> Table:
    folder = project("sleep 600", jobs + 2)
    task = finished_task(folder, jobs)
    scheduler = start(*SEARCH_RUN, cwd=folder)

    def again() -> float:
        nonlocal scheduler
        scheduler.send_signal(signal.SIGKILL)
        scheduler.communicate()
        began = time.perf_counter()
        scheduler = start(*SEARCH_RUN, cwd=folder)
        adopted = (line for line in scheduler.stdout or () if b"adopted" in line)
        assert len(list(itertools.islice(adopted, 2))) == 2
        return time.perf_counter() - began

    try:
        await_starts(task, [jobs, jobs + 1], scheduler)  # this first one makes the folders of all jobs
        title = f"adopt: {jobs} jobs finished, 2 running, their scheduler killed"
        return over_python(title, {"search-run to both adopted": again}, repeat, ("<= 2000",))
    finally:
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave the jobs behind
        timed(BIN / "search-ctl", "stop", "--grace", "0", cwd=folder)
        scheduler.communicate()
        signal.signal(signal.SIGINT, heard)


def inodes(repeat: int, jobs: int) -> Table:
    train = """echo '{"step": 1, "acc": 0.5}' > "$SEARCHKIT_CALLBACK/scalars.jsonl"\n"""
    folder = project("sh train.sh {a} {b}", jobs, train)
    own = [p.lstat() for p in folder.iterdir() if p.is_file()]
    timed(*SEARCH_RUN, cwd=folder)
    task = task_of(folder)
    found = [p.lstat() for p in Path(task.root).rglob("*") if not str(p).startswith(task.snapshots)]
    events = os.path.getsize(task.segment(1)) / jobs
    blocks = sum(i.st_blocks for i in found) / jobs - sum(i.st_blocks for i in own)
    rows = [Row("inodes", [len(found) / jobs - len(own)], "<= 12"), Row("bytes on disk", [512 * blocks])]
    rows.append(Row("bytes of events (part of these)", [events]))
    note = f"Not counted: the project's own {len(own)} files, and the snapshot. Each job reports one scalar."
    return Table(f"inodes: what each of {jobs} jobs leaves behind", "per job", rows, note, compared=False)


def report(repeat: int, jobs: int) -> Table:
    code = "import searchkit; searchkit.report"
    peers = {code: partial(timed, sys.executable, "-c", code)}
    return over_python("report: what a script pays to report", peers, repeat * STARTS, ("<= 50 more",))


CASES = {case.__name__: case for case in (noop, sleep, first, show, adopt, inodes, report)}
JOBS = {"noop": 1000, "sleep": 400, "first": 8, "show": 10_000, "adopt": 10_000, "inodes": 100, "report": 0}


def markdown(table: Table) -> str:
    """The table as Markdown that also reads well in a terminal."""
    text = [["", f"median {table.unit}", "range", "ratio", "more", "asked"]]
    text.append(["-" * 38, *("-" * (w - 1) + ":" for w in (14, 18, 6, 8)), "-" * 19])
    for row in table.rows:
        pairs = list(zip(row.samples, table.rows[0].samples, strict=True))
        ratio, more = statistics.median(x / y for x, y in pairs), statistics.median(x - y for x, y in pairs)
        compared = [f"{ratio:.2f}", f"{more:.1f}"] if table.compared else ["", ""]
        span = f"{min(row.samples):.1f} .. {max(row.samples):.1f}"
        text.append([row.what, f"{statistics.median(row.samples):.1f}", span, *compared, row.asked])
    lines = ["| {:38} | {:>14} | {:>18} | {:>6} | {:>8} | {:19} |".format(*cells) for cells in text]
    return "\n".join([f"### {table.title}", "", *lines, "", *([table.note, ""] if table.note else [])])


def machine() -> dict[str, str]:
    """Where this runs, as far as the figures depend on it: every decision is an fdatasync, every job some inodes."""
    fd = os.open(BENCH / "sync", os.O_CREAT | os.O_WRONLY | os.O_DSYNC)
    sync = 1000 * timeit.timeit(lambda: os.write(fd, b"x" * 200), number=100) / 100
    inode = 1000 * timeit.timeit(lambda: os.makedirs(BENCH / f"inodes/{next(COUNTER)}/a/b/c/d"), number=100) / 500
    fs = subprocess.run(["df", "--output=fstype", str(BENCH)], capture_output=True, text=True).stdout.split()[-1]
    if inode > 0.1:
        print("WARNING: new files are slow here now: ext4 without a journal shuns inodes freed within five minutes.\n")
    return {
        "cores": f"{os.cpu_count()}, used: {sorted(os.sched_getaffinity(0))}",
        "file system": f"{fs}, fdatasync {sync:.2f} ms, new inode {inode:.3f} ms",
        "python": f"{platform.python_version()}, kernel {platform.release()}",
    }


def run(names: list[str], repeat: int, jobs: int | None) -> dict[str, object]:
    """Run the cases, print their tables as they come, and return all samples."""
    load = os.getloadavg()[0]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # the same two cores for everybody
    facts = {**machine(), "load average": f"{load:.2f}"}
    results: dict[str, object] = {"machine": facts}
    print(*(f"{k}: {v}" for k, v in facts.items()), sep="\n", end="\n\n", flush=True)
    if load > 0.5:
        print("WARNING: other work runs on this machine (see the load average): the figures below are noise.\n")
    timed(*SEARCH_RUN, cwd=project("true", 2))  # page cache and .pyc files warm for everybody
    for name in names:
        table = CASES[name](repeat, jobs or JOBS[name])
        print(markdown(table), flush=True)
        results[name] = asdict(table)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one; may be repeated")
    parser.add_argument("--repeat", type=int, default=3, help=f"rounds (default: 3); {STARTS} x that for short cases")
    parser.add_argument("--jobs", type=int, help="jobs of every case that runs (default: each case's own)")
    parser.add_argument("--json", metavar="FILE", help="keep all samples there")
    options = parser.parse_args()
    if not os.path.exists(SEARCH_RUN[0]):
        parser.error(f"searchkit is not installed beside {sys.executable}; use .venv/bin/python")
    if BENCH.exists():
        parser.error(f"{BENCH} exists: another run uses it, or was killed. If none does: rm -r {BENCH}")
    BENCH.mkdir()
    try:
        results = run(options.case or list(CASES), max(1, options.repeat), options.jobs)
    finally:
        shutil.rmtree(BENCH, ignore_errors=True)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
