"""Faults that were once found by an adversary; each stays found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.suite import (
    BIN,
    environment,
    events,
    ok,
    processes_with,
    project,
    run,
    show,
    start,
    states,
    task_dir,
    wait_for,
)


def config(template: str, n: int = 1, more: str = "") -> str:
    values = ", ".join(map(str, range(n)))
    args = f"search_args: [{{type: Categorical, name: i, value: [{values}]}}]"
    return f"task:\n  template: {json.dumps(template)}\n  {args}\n{more}"


def needle(folder: Path) -> str:
    return f"SEARCHKIT_JOB_DIR={task_dir(folder)}/jobs/all/"


@pytest.mark.slow
def test_stopping_many_that_end_in_their_own_time(tmp_path: Path) -> None:
    """A wrapper that dies between two looks of the scheduler leaves no stale process number behind."""
    job = "trap 'exit 0' TERM\nsleep 1.$1 &\nwait\n"
    folder = project(tmp_path / "p", config("exec sh job.sh {i}", 24), job_sh=job)
    process = start(folder, "search-run", "config.yaml", "-j", "24")
    wait_for(lambda: len(list(task_dir(folder).glob("jobs/all/*/status"))) == 24)
    time.sleep(0.3)
    ok(run(folder, "search-ctl", "stop", "--grace", "2"))
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in out, out
    results = [e for e in events(folder) if e["type"] == "result"]
    assert sorted(e["job"] for e in results) == list(range(24))


@pytest.mark.slow
def test_wrappers_inherit_exactly_their_leases(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("sleep 20; true {i}", 6, "resources: {gpus: 4}\n"))
    gpus = ",".join(str(n) for n in range(300, 324))
    process = start(folder, "search-run", "config.yaml", "--gpus", gpus)
    wait_for(lambda: len(list(task_dir(folder).glob("jobs/all/*/status"))) == 6)
    wait_for(lambda: all(p.read_text() for p in task_dir(folder).glob("jobs/all/*/status")))
    granted = {e["job"]: e["gpus"] for e in events(folder) if e["type"] == "launch"}
    for n, mine in granted.items():
        pid = (task_dir(folder) / f"jobs/all/{n}/status").read_text().split()[4]
        held = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd") if int(fd) < 200}
        assert {f"/tmp/searchkit-gpu-leases/{g}" for g in mine} == {h for h in held if "gpu-leases" in h}, n
        assert f"{task_dir(folder)}/jobs/all/{n}/status" in held
    ok(run(folder, "search-ctl", "stop", "--grace", "0"))
    process.communicate(timeout=30)


def lose(folder: Path) -> None:
    """Run one job, then kill its scheduler and its wrapper; the command lives on."""
    process = start(folder, "search-run", "config.yaml")
    status = task_dir(folder) / "jobs/all/0/status"
    wait_for(lambda: status.exists() and status.read_text())
    wait_for(lambda: len(processes_with(needle(folder))) >= 2)
    process.kill()
    process.communicate()
    os.kill(int(status.read_text().split()[4]), signal.SIGKILL)
    wait_for(lambda: states(folder) == {0: "pending"})
    assert processes_with(needle(folder))


@pytest.mark.slow
def test_a_lost_job_is_ended_before_it_is_restarted_or_deleted(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("sleep 100; true {i}"))
    lose(folder)
    ok(run(folder, "search-ctl", "restart", "--jobs", "0", "--no-start"))
    assert processes_with(needle(folder)) == []
    folder = project(tmp_path / "q", config("sleep 100; true {i}"))
    lose(folder)
    assert run(folder, "search-ctl", "delete", "-y").returncode == 4
    ok(run(folder, "search-ctl", "delete", "--jobs", "0", "-y"))
    assert processes_with(needle(folder)) == []


@pytest.mark.slow
def test_the_third_ctrl_c_leaves_jobs_that_count(tmp_path: Path) -> None:
    job = "trap '' TERM\nsleep 3\necho end >> \"$RUNS\"\n"
    folder = project(tmp_path / "p", config("exec sh job.sh {i}"), job_sh=job)
    env = {"RUNS": str(tmp_path / "runs")}
    process = start(folder, "search-run", "config.yaml", env=env)
    wait_for(lambda: len(processes_with(needle(folder))) >= 3)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    process.communicate(timeout=30)
    assert process.returncode == 130 and states(folder) == {0: "running"}
    ok(run(folder, "search-run", "config.yaml", env=env))
    assert (tmp_path / "runs").read_text() == "end\n"
    assert show(folder)["jobs"][0]["attempt"] == 1


@pytest.mark.slow
def test_a_named_stop_outlives_ctrl_c(tmp_path: Path) -> None:
    job = "trap '' TERM\nsleep 60\n"
    folder = project(tmp_path / "p", config("sh job.sh {i}"), job_sh=job)
    process = start(folder, "search-run", "config.yaml")
    wait_for(lambda: len(processes_with(needle(folder))) >= 3)
    stop = start(folder, "search-ctl", "stop", "--jobs", "0", "--grace", "2")
    wait_for(lambda: any(e["type"] == "stop" for e in events(folder)))
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    process.communicate(timeout=30)
    assert stop.communicate(timeout=30) and stop.returncode == 0
    assert states(folder) == {0: "stopped"}


@pytest.mark.slow
def test_a_job_that_removes_its_own_files(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("rm -f ../status; true {i}"))
    ok(run(folder, "search-run", "config.yaml"), 1)
    assert show(folder)["jobs"][0]["attempt"] == 4  # the first, and three because it was lost
    template = 'rm -rf "$SEARCHKIT_CALLBACK"; echo x > "$SEARCHKIT_CALLBACK"; true {i}'
    folder = project(tmp_path / "q", config(template, 2))
    ok(run(folder, "search-run", "config.yaml"))
    ok(run(folder, "search-ctl", "show-scalar"))


@pytest.mark.slow
def test_damaged_create_and_launch_lines_lose_no_job(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config('echo {i} >> "$RUNS"', 3))
    env = {"RUNS": str(tmp_path / "runs")}
    ok(run(folder, "search-run", "config.yaml", env=env))
    segment = task_dir(folder) / "events/1.jsonl"
    lines = segment.read_bytes().split(b"\n")
    for i, line in enumerate(lines):
        if b'"type":"create","job":1,' in line or (b'"type":"launch"' in line and b'"job":2,' in line):
            lines[i] = b"x" + line
    segment.write_bytes(b"\n".join(lines))
    said = ok(run(folder, "search-run", "config.yaml", env=env))
    assert "2 damaged line(s)" in said
    assert states(folder) == dict.fromkeys(range(3), "finished")
    assert sorted((tmp_path / "runs").read_text().split()) == ["0", "1", "2"]  # nothing ran again


@pytest.mark.slow
def test_a_closed_pipe_or_stdout_ends_no_run(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("sleep 0.2; true {i}", 6))
    for task, shell in (("pipe", "| head -1"), ("closed", ">&-")):
        line = f"{BIN}/search-run --task {task} config.yaml -j 2 {shell}"
        subprocess.run(line, shell=True, cwd=folder, env=environment(), capture_output=True, timeout=60)
        wait_for(lambda task=task: set(states(folder, task).values()) == {"finished"})


def test_a_constraint_that_fails_late_is_a_fault_of_the_config(tmp_path: Path) -> None:
    text = config("true {i}", 1)
    text = text.replace("value: [0]", "value: [2, 1, 0]") + "  constraints: ['1 / i < 5']\n"
    folder = project(tmp_path / "p", text)
    done = run(folder, "search-run", "config.yaml")
    assert done.returncode == 2 and "i=0" in done.stderr and not task_dir(folder).exists()


@pytest.mark.slow
def test_overwrite_keeps_the_old_task_where_the_new_one_cannot_start(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("true {i}"))
    ok(run(folder, "search-run", "config.yaml"))
    (folder / "config.yaml").write_text(config("true {i}") + "  constraints: ['i > 5']\n")
    assert run(folder, "search-run", "config.yaml", "--overwrite").returncode == 2
    assert states(folder) == {0: "finished"}


def test_names_that_are_not_text_or_that_a_job_uses_itself(tmp_path: Path) -> None:
    folder = project(tmp_path / "callback", config("ls; true {i}"))
    with open(os.fsencode(folder) + b"/caf\xe9.txt", "wb"):
        pass
    ok(run(folder, "search-run", "config.yaml"))
    assert "config.yaml" in (task_dir(folder) / "jobs/all/0/log").read_text(errors="replace")
    assert (task_dir(folder) / "jobs/all/0/callback-project/config.yaml").exists()


@pytest.mark.slow
def test_a_moved_project_goes_on(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("cat data.txt; exit $(({i} * $SEARCHKIT_ATTEMPT % 2))", 2), data_txt="data")
    ok(run(folder, "search-run", "config.yaml"), 1)
    folder = folder.rename(tmp_path / "q")
    ok(run(folder, "search-run", "config.yaml"), 1)
    ok(run(folder, "search-ctl", "restart", "--failed", "--same-code"))
    wait_for(lambda: set(states(folder).values()) == {"finished"})


def test_list_templates_never_meet_the_wrapper(tmp_path: Path) -> None:
    text = "task:\n  template: [{program}, 'a\\tb', '{i}']\n  search_args: [{type: Categorical, name: i, value: [0]}]\n"
    folder = project(tmp_path / "p", text.replace("{program}", "echo"))
    ok(run(folder, "search-run", "config.yaml"))
    assert (task_dir(folder) / "jobs/all/0/log").read_text() == "a\\tb 0\n"  # the program; the builtin prints a tab
    folder = project(tmp_path / "q", text.replace("{program}", "main"))
    assert run(folder, "search-run", "config.yaml").returncode == 2


def test_json_is_json(tmp_path: Path) -> None:
    folder = project(
        tmp_path / "p", "task: {template: 'true {x}', search_args: [{type: Categorical, name: x, value: [.nan]}]}"
    )
    ok(run(folder, "search-run", "config.yaml"))
    body = ok(run(folder, "search-ctl", "show", "--task", "default", "--json"))
    json.loads(body, parse_constant=lambda name: pytest_fail(name))
    assert json.loads(ok(run(folder, "search-ctl", "restart", "--failed", "--json")))["restarted"] == []


def pytest_fail(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def test_what_retries_is_told(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("exit $((2 - $SEARCHKIT_ATTEMPT)); true {i}", 1, "run: {retries: 2}\n"))
    said = ok(run(folder, "search-run", "config.yaml"))
    assert "job 0 error" in said and "will run again" in said


@pytest.mark.slow
def test_detach_of_a_running_task_is_a_conflict(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("sleep 30; true {i}"))
    ok(run(folder, "search-run", "config.yaml", "--detach"))
    done = run(folder, "search-run", "config.yaml", "--detach")
    assert done.returncode == 4 and "already being run" in done.stderr
    ok(run(folder, "search-ctl", "stop", "--grace", "1"))


def test_readers_do_not_wait_for_a_lock(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config("true {i}"))
    ok(run(folder, "search-run", "config.yaml"))
    (folder / ".search-run/summary.yaml").write_text("{}\n")
    lock = folder / ".search-run/tmp/summary.lock"
    holder = subprocess.Popen(["flock", str(lock), "sleep", "20"])
    try:
        time.sleep(0.2)
        began = time.monotonic()
        ok(run(folder, "search-ctl", "show"))
        assert time.monotonic() - began < 15
    finally:
        holder.kill()
        holder.wait()
        subprocess.run(["fuser", "-k", str(lock)], capture_output=True)


@pytest.mark.slow
def test_deleting_an_attempt_that_was_decided_and_never_begun(tmp_path: Path) -> None:
    """search-run dies between a launch event and its first folder; the job is then deleted while another runs."""
    folder = project(tmp_path / "p", config("sleep 2; true {i}", 2))
    harness = str(Path(__file__).parent / "harness")
    log = tmp_path / "log"
    other = project(tmp_path / "log-only", config("true {i}", 2))
    ok(run(other, "search-run", "-j", "1", "config.yaml", env={"PYTHONPATH": harness, "SEARCHKIT_KILL_LOG": str(log)}))
    first_spawn = log.read_text().split().index("posix_spawn") + 1
    env = {"PYTHONPATH": harness, "SEARCHKIT_KILL_AT": str(first_spawn - 6)}
    assert run(folder, "search-run", "-j", "1", "config.yaml", env=env).returncode == -9
    assert any(e["type"] == "launch" for e in events(folder))
    process = start(folder, "search-run", "-j", "1", "config.yaml")
    wait_for(lambda: (task_dir(folder) / "jobs/all/0/status").exists())
    ok(run(folder, "search-ctl", "delete", "--jobs", "1", "-y"))
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0, out


@pytest.mark.slow
def test_a_job_that_just_ended_may_be_restarted_and_deleted_at_once(tmp_path: Path) -> None:
    """Whoever sees its exit line may act on it, even before its scheduler has noticed the end."""
    folder = project(tmp_path / "p", config("sleep $(({i} * 8)); true {i}", 2))
    process = start(folder, "search-run", "config.yaml", "-j", "2")
    status = task_dir(folder) / "jobs/all/0/status"
    wait_for(status.exists)
    for _ in range(3):
        wait_for(lambda: states(folder).get(0) == "finished")
        ok(run(folder, "search-ctl", "restart", "--jobs", "0"))
    wait_for(lambda: states(folder)[0] == "finished")
    ok(run(folder, "search-ctl", "delete", "--jobs", "0", "-y"))
    assert not status.exists()
    ok(run(folder, "search-ctl", "stop", "--grace", "1"))
    process.communicate(timeout=30)
