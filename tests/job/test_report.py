"""The processes of a job that call `report`: who writes to which file, and that no line is lost or mixed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import searchkit
from searchkit.suite.store import scalars


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def callback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The callback folder of a job that this process plays."""
    folder = tmp_path / "callback"
    folder.mkdir()
    monkeypatch.setenv("SEARCHKIT_CALLBACK", str(folder))
    return folder


def start(code: str, **kwargs: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "import searchkit\n" + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def run(code: str, **kwargs: Any) -> tuple[str, str]:
    process = start(code, start_new_session=True, **kwargs)
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # forked children that hang, too
        raise
    assert process.returncode == 0, err
    return out, err


@pytest.fixture
def living(callback: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of the job that has reported step 1 and lives on."""
    with start("searchkit.report(acc=0.1, step=1); print('ready', flush=True); input()") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def main_lines(callback: Path) -> list[dict[str, Any]]:
    return lines(callback / "scalars.jsonl")


# --- who writes where


@pytest.mark.parametrize(
    ("env", "writes"),
    [
        ({"RANK": "0", "SLURM_PROCID": "3"}, True),  # torchrun started by srun
        ({"RANK": "1", "SLURM_PROCID": "0"}, False),
        ({"OMPI_COMM_WORLD_RANK": "2"}, False),
        ({"SLURM_PROCID": "1"}, False),
        ({"SLURM_PROCID": "0"}, True),
        ({"RANK": ""}, True),
        ({"RANK": "chief"}, True),
    ],
)
def test_rank_0_alone_reports(callback: Path, env: dict[str, str], writes: bool) -> None:
    run("searchkit.report(acc=0.5)", env={**os.environ, **env})
    assert os.listdir(callback) == (["scalars.jsonl"] if writes else [])


@pytest.mark.parametrize("rank", [0, 1])
def test_other_ranks_print_nothing_by_hand(rank: int) -> None:
    assert bool(run("searchkit.report(acc=0.5)", env={**os.environ, "RANK": str(rank)})[0]) == (rank == 0)


@pytest.mark.slow
def test_rank_of_a_process_group(callback: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed; a process group can't be tried")
    code = (
        "import sys, torch.distributed as d; r = int(sys.stdin.readline());"
        f"d.init_process_group('gloo', init_method='file://{tmp_path}/rendezvous', rank=r, world_size=2);"
        "searchkit.report(acc=r, step=1); d.barrier(); d.destroy_process_group()"
    )
    processes = [start(code), start(code)]
    for rank, process in enumerate(processes):
        assert process.stdin is not None
        process.stdin.write(f"{rank}\n")
        process.stdin.flush()
    for process in processes:
        _, err = process.communicate(timeout=90)
        assert process.returncode == 0, err
    assert os.listdir(callback) == ["scalars.jsonl"]
    assert main_lines(callback) == [{"step": 1, "acc": 0}]


def test_a_further_process_has_a_file_of_its_own(callback: Path, living: subprocess.Popen[str]) -> None:
    process = start("searchkit.report(acc=0.2, step=2); searchkit.report(acc=0.3, step=3)")
    process.communicate(timeout=60)
    assert main_lines(callback) == [{"step": 1, "acc": 0.1}]
    assert len(lines(callback / f"scalars.{process.pid}.jsonl")) == 2
    assert scalars.read(str(callback)).series == {"acc": {1: 0.1, 2: 0.2, 3: 0.3}}


def test_the_next_process_goes_on_in_the_same_file(callback: Path) -> None:
    run("searchkit.report(acc=0.1); searchkit.report(acc=0.2)")
    run("searchkit.report(acc=0.3)")
    assert os.listdir(callback) == ["scalars.jsonl"]
    assert scalars.read(str(callback)).series == {"acc": {1: 0.1, 2: 0.2, 3: 0.3}}


def test_a_forked_child_has_a_file_of_its_own(callback: Path) -> None:
    code = """
import os
searchkit.report(acc=1, step=1)
pid = os.fork()
searchkit.report(acc=2, step=2 + (pid == 0))
if pid:
    os.waitpid(pid, 0)
    searchkit.report(acc=4, step=4)
    print(pid)
"""
    pid = int(run(code)[0])
    assert [line["step"] for line in main_lines(callback)] == [1, 2, 4]
    assert [line["step"] for line in lines(callback / f"scalars.{pid}.jsonl")] == [3]


def test_a_forked_child_that_lives_on_keeps_no_lock(callback: Path) -> None:
    code = """
import os, time
searchkit.report(acc=1)
pid = os.fork()
if not pid:
    os.closerange(0, 3)
    time.sleep(60)
print(pid)
"""
    pid = int(run(code)[0])
    try:
        run("searchkit.report(acc=2)")
        assert os.listdir(callback) == ["scalars.jsonl"]
    finally:
        os.kill(pid, signal.SIGKILL)


def test_fork_while_a_thread_reports(callback: Path) -> None:
    code = """
import os, threading, warnings
from searchkit import report  # imports done: no fork may come in the middle of one
warnings.simplefilter("ignore")  # from 3.12 on, forking with threads is warned of
go_on = True
def loop():
    while go_on:
        report(a=1)
thread = threading.Thread(target=loop)
thread.start()
for i in range(40):
    pid = os.fork()
    if pid == 0:
        report(b=1, step=i)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
go_on = False
thread.join()
"""
    run(code)
    reading = scalars.read(str(callback))
    assert sorted(reading.series["b"]) == list(range(40))
    assert reading.skipped == 0


def test_eight_processes_and_a_shell_at_once_lose_no_line(callback: Path) -> None:
    n = 200
    code = f"input()\nfor i in range({n}): searchkit.report({{'p' + input_name: i}}, step=i)"
    processes = [start(f"input_name = '{k}'\n" + code) for k in range(8)]
    loop = f'i=0; while [ $i -lt {n} ]; do echo "{{\\"step\\": $i, \\"sh\\": $i}}"; i=$((i+1)); done >> $0'
    shell = subprocess.Popen(["sh", "-c", loop, str(callback / "scalars.jsonl")])
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert shell.wait(timeout=60) == 0
    reading = scalars.read(str(callback))
    expected = {i: float(i) for i in range(n)}
    assert reading.series == {name: expected for name in ["sh", *(f"p{k}" for k in range(8))]}
    assert reading.skipped == 0


def test_threads_lose_no_line(callback: Path) -> None:
    def loop(k: int) -> None:
        for i in range(100):
            searchkit.report({f"t{k}": i}, step=i)

    threads = [threading.Thread(target=loop, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(callback) == ["scalars.jsonl"]
    reading = scalars.read(str(callback))
    assert {len(s) for s in reading.series.values()} == {100}
    assert len(reading.series) == 8


def test_a_worker_of_several_trials_follows_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for trial in ("0", "1", "0"):
        monkeypatch.setenv("SEARCHKIT_CALLBACK", str(tmp_path / trial))  # the folder itself is made
        searchkit.report(acc=int(trial))
    assert main_lines(tmp_path / "0") == [{"acc": 0}, {"acc": 0}]
    assert main_lines(tmp_path / "1") == [{"acc": 1}]


# --- what goes wrong


def test_killed_in_the_middle_leaves_whole_lines(callback: Path) -> None:
    process = start("i = 0\nwhile True:\n    i += 1; searchkit.report(acc=i, step=i)\n    print(i, flush=True)")
    assert process.stdout is not None
    for _ in range(100):
        seen = int(process.stdout.readline())
    process.kill()
    process.communicate()
    reading = scalars.read(str(callback))
    assert len(reading.series["acc"]) >= seen >= 100
    assert reading.skipped == 0
    run("searchkit.report(acc=-1)")
    assert scalars.last(scalars.read(str(callback)).series["acc"]) == -1


def test_a_half_line_of_somebody_else_spoils_no_report(callback: Path) -> None:
    searchkit.report(acc=1)
    with open(callback / "scalars.jsonl", "a") as f:
        f.write('{"acc": ')
    searchkit.report(acc=2)
    reading = scalars.read(str(callback))
    assert (reading.series, reading.skipped) == ({"acc": {1: 1.0, 2: 2.0}}, 1)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full, a disk that is always full, is not there")
def test_a_full_disk_warns_once_and_training_goes_on(callback: Path) -> None:
    (callback / "scalars.jsonl").symlink_to("/dev/full")
    out, err = run("for i in range(3): searchkit.report(acc=i)\nprint('trained')")
    assert out == "trained\n"
    assert err == f"searchkit: could not write to {callback}: No space left on device; going on without (said once)\n"


def test_a_disk_that_fills_up_in_the_middle_of_a_line(callback: Path) -> None:
    code = """
import resource
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
for i in range(5): searchkit.report(acc=i, step=i)  # 22 bytes each: the third is cut
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))  # somebody makes room
searchkit.report(acc=9, step=9)
"""
    _, err = run(code)
    assert err.count("\n") == 1
    reading = scalars.read(str(callback))
    assert (reading.series, reading.skipped) == ({"acc": {0: 0.0, 1: 1.0, 9: 9.0}}, 1)


def test_a_deleted_job_stays_deleted(tmp_path: Path) -> None:
    _, err = run("searchkit.report(acc=1)", env={**os.environ, "SEARCHKIT_CALLBACK": str(tmp_path / "gone/callback")})
    assert "could not write" in err
    assert not os.listdir(tmp_path)


def test_a_program_that_closes_all_descriptors(callback: Path, tmp_path: Path) -> None:
    code = f"""
import os
searchkit.report(acc=1)
os.closerange(3, 100)
model = [os.open({str(tmp_path / "model.bin")!r}, os.O_CREAT | os.O_RDWR) for _ in range(20)]
searchkit.report(acc=2)
"""
    run(code)
    assert (tmp_path / "model.bin").read_bytes() == b""
    assert main_lines(callback) == [{"acc": 1}, {"acc": 2}]


def test_a_signal_handler_may_report(callback: Path) -> None:
    code = """
import os, signal
searchkit.report(a=1)  # imports done: a handler that runs within an import can't use what is being imported
signal.signal(signal.SIGALRM, lambda *_: searchkit.report(b=1))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for _ in range(1999): searchkit.report(a=1)
signal.setitimer(signal.ITIMER_REAL, 0)
"""
    run(code)
    reading = scalars.read(str(callback))
    assert len(reading.series["a"]) == 2000
    assert reading.series["b"]
    assert reading.skipped == 0


# --- the package


def test_importing_costs_nothing(callback: Path) -> None:
    code = """
import sys
assert "searchkit.job.report" not in sys.modules
bare = set(sys.modules)
searchkit.report, searchkit.params
print(*sorted(set(sys.modules) - bare))
searchkit.report(acc=1)
heavy = {"torch", "numpy", "yaml", "click", "rich", "typing", "dataclasses", "searchkit.errors", "searchkit.fsio"}
print(*sorted(heavy & (set(sys.modules) - bare)))
"""
    before, heavy = run(code)[0].split("\n")[:2]
    assert "searchkit.job.report" in before.split()
    assert {name.split(".")[0] for name in before.split()} <= {"searchkit", *sys.stdlib_module_names}
    assert heavy == ""


def test_importing_has_no_effect(callback: Path) -> None:
    run("searchkit.report; searchkit.params")
    assert not os.listdir(callback)


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="module 'searchkit' has no attribute 'reprot'"):
        searchkit.reprot  # type: ignore[attr-defined] # noqa: B018
    assert {"report", "params", "__version__"} <= set(dir(searchkit))
