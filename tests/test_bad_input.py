"""What a user can get wrong: each with its message and its exit code, and nothing written."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.suite import BIN, environment, ok, project, run, start, states, task_dir, wait_for

ARG = "search_args: [{type: Categorical, name: lr, value: [1, 2]}]"


def task(template: str = "true {lr}", args: str = ARG) -> str:
    return f"task:\n  template: {template}\n  {args}\n"


BAD_CONFIGS = {
    "empty": ("", "config.yaml:1:1: .*empty"),
    "not a mapping": ("- a\n- b\n", "config.yaml:1:1: .*mapping"),
    "not YAML": ("task: [\n", r"config.yaml:\d+:\d+: "),
    "not text": ("\udcff\udcfe", "not UTF-8"),
    "duplicate key": (task() + "task: {}\n", "config.yaml:4:1: .*task.* twice|duplicate key 'task'"),
    "unknown key": (task() + "montor: {}\n", r"config.yaml:4:1: unknown key 'montor' \(did you mean monitor\?\)"),
    "unknown type": (
        task(args="search_args: [{type: Categorial, name: lr, value: [1]}]"),
        r"config.yaml:3:24: search_args\[0\]: unknown type 'Categorial' \(did you mean Categorical\?\)",
    ),
    "missing template": (f"task:\n  {ARG}\n", "config.yaml:.*template"),
    "undeclared name": (task("true {lr} {batch}"), r"config.yaml:2:23: .*batch.*\{\{batch\}\}"),
    "unused argument": (
        task(
            args="search_args: [{type: Categorical, name: lr, value: [1]}, {type: Categorical, name: wd, value: [1]}]"
        ),
        "config.yaml:3:.*wd.*never use",
    ),
    "Nested with other keys": (
        task(args="search_args: [{type: Nested, value: [{lr: 1}, {lr: 2, wd: 1}]}]"),
        r"config.yaml:3:.*search_args\[0\].*wd",
    ),
    "empty values": (task(args="search_args: [{type: Categorical, name: lr, value: []}]"), "config.yaml:3:.*empty"),
    "declared twice": (
        task(args="search_args: [{type: Categorical, name: lr, value: [1]}, {type: Nested, value: [{lr: 1}]}]"),
        "config.yaml:3:.*lr.*(twice|already)",
    ),
    "NUL": (task(args='search_args: [{type: Categorical, name: lr, value: ["a\\0b"]}]'), "config.yaml:3:.*NUL"),
    "no such program": (task("no-such-program-here {lr}"), "no-such-program-here.*not on PATH"),
    "no such script": (task("./train.sh {lr}"), "./train.sh.*not in the project"),
    "bad constraint": (task(args=ARG + "\n  constraints: ['lr >']"), "config.yaml:4:"),
    "impossible constraint": (
        task(args=ARG + "\n  constraints: ['lr > 5']"),
        "leave no point.*\n  task.constraints: lr > 5\n",
    ),
}


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_bad_config(tmp_path: Path, name: str) -> None:
    text, pattern = BAD_CONFIGS[name]
    folder = project(tmp_path / "p", "x: y\n")
    (folder / "config.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    before = listing(folder)
    done = run(folder, "search-run", "config.yaml")
    assert done.returncode == 2, done
    assert re.search(pattern, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert listing(folder) == before


def test_all_faults_at_once(tmp_path: Path) -> None:
    text = "task:\n  templte: x\n  search_args: [{type: Categorial, name: a}]\nrun: {retries: -1}\n"
    folder = project(tmp_path / "p", text)
    done = run(folder, "search-run", "config.yaml")
    assert done.returncode == 2
    assert done.stderr.count("config.yaml:") >= 3


def test_a_value_of_300_characters_runs_and_is_noted(tmp_path: Path) -> None:
    args = f"search_args: [{{type: Categorical, name: lr, value: [{'x' * 300}, {'x' * 299}y]}}]"
    folder = project(tmp_path / "p", task("echo {lr}", args))
    done = run(folder, "search-run", "config.yaml")
    ok(done)
    assert "note: config.yaml:3:" in done.stderr and "255" in done.stderr
    assert (task_dir(folder) / "jobs/all/1/log").read_text() == "x" * 299 + "y\n"
    names = os.listdir(task_dir(folder) / "jobs/tree/lr")
    assert len(names) == 2 and all(len(n) <= 255 for n in names)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a/b", "..", ".", "a.b", "", "-x", "a b", "x" * 101])
def test_bad_task_name(tmp_path: Path, name: str) -> None:
    folder = project(tmp_path / "p", task())
    before = listing(folder)
    done = run(folder, "search-run", f"--task={name}", "config.yaml")
    assert done.returncode == 2 and "a task's name must be" in done.stderr
    assert listing(folder) == before


@pytest.mark.slow
def test_no_workspace_task_job_or_config(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(task())
    for command in (["search-run", "config.yaml"], ["search-ctl", "show"]):
        done = run(tmp_path, *command)
        assert done.returncode == 3 and "search-init" in done.stderr
    folder = project(tmp_path / "p", task())
    done = run(folder, "search-run", "nothing.yaml")
    assert done.returncode == 2 and "nothing.yaml" in done.stderr
    done = run(folder, "search-run", ".")
    assert done.returncode == 2 and "directory" in done.stderr
    done = run(folder, "search-ctl", "stop", "--task", "nope")
    assert done.returncode == 3 and "nope" in done.stderr
    ok(run(folder, "search-run", "config.yaml"))
    done = run(folder, "search-ctl", "show", "--task", "default", "--jobs", "7")
    assert done.returncode == 3 and "jobs 0 to 1" in done.stderr and not done.stdout
    for words, kind, code in ((("--jobs", "7"), "not_found", 3), (("--jbs", "7"), "usage", 2)):
        done = run(folder, "search-ctl", "show", "--task", "default", *words, "--json")
        error = json.loads(done.stdout)["error"]
        assert (error["kind"], error["exit"], done.returncode) == (kind, code, code) and error["message"] in done.stderr
    done = run(folder, "search-ctl", "show", "--task", "default", "--jobs", "@beste:1")
    assert done.returncode == 2
    done = run(folder, "search-run", "config.yaml", "--gpus", "0,zero")
    assert done.returncode == 2 and "--gpus" in done.stderr
    done = run(folder, "search-init", "--template", "hpo/digit")
    assert done.returncode == 3 and "hpo/digits" in done.stderr


def test_config_changed_under_a_running_task(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", task("sleep {lr}0"))
    process = start(folder, "search-run", "config.yaml")
    wait_for(lambda: (task_dir(folder) / "jobs/all/0/status").exists())
    (folder / "config.yaml").write_text(task("sleep {lr}1"))
    done = run(folder, "search-run", "config.yaml")
    assert done.returncode == 4 and "-  template: sleep {lr}0" in done.stderr and "+  template: sleep" in done.stderr
    ok(run(folder, "search-ctl", "stop"))
    process.communicate(timeout=30)


def test_a_socket_and_a_link_loop_in_the_project(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as s:
        os.chdir(folder)  # a socket's path may have 107 bytes only
        try:
            s.bind("sock")
        finally:
            os.chdir(here)
        project(folder, task())
        done = run(folder, "search-run", "config.yaml")
    ok(done)
    assert "left out (no regular file): sock" in done.stderr


@pytest.mark.slow
def test_a_corrupted_job_folder_loses_no_other(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", task("echo {lr}"))
    ok(run(folder, "search-run", "config.yaml"))
    job = task_dir(folder) / "jobs/all/0"
    (job / "params.json").write_bytes(b"\xff\xfe")
    (job / "status").write_bytes(b"\0\0garbage\nexit maybe\n")
    (job / "callback/scalars.jsonl").write_bytes(b"{{{\n\xff\n[1]\n")
    shutil.rmtree(job / "p")
    assert states(folder) == {0: "finished", 1: "finished"}  # results that were accepted are in the events too
    ok(run(folder, "search-ctl", "show-scalar"))
    ok(run(folder, "search-run", "config.yaml"))
    assert run(folder, "search-ctl", "fsck").returncode == 5
    shutil.rmtree(task_dir(folder) / "snapshot")
    done = run(folder, "search-ctl", "restart", "--jobs", "0", "--same-code")
    assert done.returncode in (1, 5) and "snapshot" in done.stderr and "Traceback" not in done.stderr


def as_ordinary_user() -> list[str]:
    """A prefix under which permission bits count: root passes them all, unless it gives up that right."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root passes every permission check, and setpriv (util-linux) is not here to give that up")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]


def run_as_user(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*as_ordinary_user(), str(BIN / argv[0]), *argv[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
    )


@pytest.mark.slow
def test_permissions(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", task(), secret_txt="x")
    ok(run_as_user(folder, "search-run", "--task", "before", "config.yaml"))
    (folder / "secret.txt").chmod(0)
    done = run_as_user(folder, "search-run", "config.yaml")
    assert done.returncode == 2 and "secret.txt" in done.stderr and ".searchignore" in done.stderr
    assert (
        listing(folder / ".search-run/tasks") == listing(folder / ".search-run/tasks") and not task_dir(folder).exists()
    )
    assert os.listdir(folder / ".search-run/tmp") in ([], ["summary.lock"])
    (folder / ".searchignore").write_text("secret.txt\n")
    ok(run_as_user(folder, "search-run", "config.yaml"))
    (folder / "config.yaml").chmod(0)
    done = run_as_user(folder, "search-run", "config.yaml")
    assert done.returncode == 2 and "config.yaml" in done.stderr
    (folder / "config.yaml").chmod(0o644)
    (folder / ".search-run/tasks").chmod(0o555)
    done = run_as_user(folder, "search-run", "--task", "new", "config.yaml")
    assert done.returncode == 5 and "permission denied" in done.stderr.lower()
    (folder / ".search-run/tasks").chmod(0o755)
    (task_dir(folder) / "events").chmod(0)
    done = run_as_user(folder, "search-ctl", "show", "--task", "default")
    assert done.returncode == 5 and "Traceback" not in done.stderr
    (task_dir(folder) / "events").chmod(0o755)


FULL_DISK = r"""
set -e
mount -t tmpfs -o size=1m tmpfs "$1"
cp "$2" "$1/config.yaml"
cd "$1"
search-init > /dev/null
set +e
timeout 60 search-run config.yaml -j 2
echo "first: $?"
search-ctl show --task default --json > "$3"
echo "show: $?"
mount -o remount,size=64m "$1"
timeout 60 search-run config.yaml -j 2
echo "second: $?"
search-ctl restart --task default --failed # commands that could not write have failed
for _ in $(seq 100); do search-ctl show --task default | grep -q ": 12 finished" && break; sleep 0.2; done
search-ctl show --task default --json > "$3"
search-ctl fsck
mount -o remount,ro "$1"
search-ctl show > /dev/null && echo "read-only show: $?"
search-run --task other config.yaml
echo "read-only run: $?"
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_and_one_that_is_read_only(tmp_path: Path) -> None:
    job = "head -c 150000 /dev/zero > out.bin; echo '{\"acc\": 1}' >> $SEARCHKIT_CALLBACK/scalars.jsonl; true {i}"
    values = ", ".join(map(str, range(12)))
    (tmp_path / "config.yaml").write_text(
        f"task:\n  template: {json.dumps(job)}\n  search_args: [{{type: Categorical, name: i, value: [{values}]}}]\n"
    )
    (tmp_path / "disk").mkdir()
    script = tmp_path / "full.sh"
    script.write_text(FULL_DISK)
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "x", str(tmp_path / "disk")], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs: no disk can be made that fills up")
    shown = tmp_path / "shown.json"
    done = subprocess.run(
        [*unshare, "sh", str(script), str(tmp_path / "disk"), str(tmp_path / "config.yaml"), str(shown)],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment(),
        stdin=subprocess.DEVNULL,
    )
    said = done.stdout + done.stderr
    assert "first: 5" in said and "the disk is full" in said, said
    assert "Traceback" not in said, said
    assert "show: 0" in said, said
    # Whether a command met the full disk before the scheduler did is a race: both ends are right, and are told.
    assert ("second: 1" if "exit code 1" in said else "second: 0") in said, said
    assert "read-only show: 0" in said, said
    assert "read-only run: 5" in said and "read-only" in done.stderr, said
    assert "0 fault(s)" in said, said
    jobs = json.loads(shown.read_text())["jobs"]
    assert [j["status"] for j in jobs] == ["finished"] * 12


def test_what_is_needed_to_repeat_a_run_and_a_full_disk(tmp_path: Path) -> None:
    facts = {"snapshot": str(tmp_path), "tmp": "/proc/none", "project": str(tmp_path), "python": None}
    facts |= {"seed": 0, "command_line": [], "gpus": []}
    argv = [sys.executable, "-m", "searchkit.suite.store.provenance", json.dumps(facts)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(
        "note: what is needed to repeat this run is not kept: "
    )


def test_a_command_that_is_too_long_is_that_job_s_error(tmp_path: Path) -> None:
    text = (
        f"task: {{template: 'true {{i}}', search_args: [{{type: Categorical, name: i, value: [a, {'b' * 200_000}]}}]}}"
    )
    folder = project(tmp_path / "p", text)
    ok(run(folder, "search-run", "config.yaml"), 1)
    assert states(folder) == {0: "finished", 1: "error"}


def test_signals_to_a_job_are_errors_not_results(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", task("kill -{lr} $$"))
    ok(run(folder, "search-run", "config.yaml"), 1)
    assert states(folder) == {0: "error", 1: "error"}
    assert signal.SIGHUP == 1 and sys.platform == "linux"
