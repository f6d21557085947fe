"""Warm workers: one process serves many trials, and each of them is a job like any other."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.suite import (
    BACKGROUND,
    events,
    fake_gpus,
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
from tests.support.warm import (
    DEAF,
    POLITE,
    SAY_PID,
    accepted,
    attempt,
    begun,
    config,
    env_of,
    go,
    loop,
    pids,
    workers_of,
)

SAY_IGNORED = "grep SigIgn /proc/self/status"
C_LIBRARY = 0b11 << 31  # signals 32 and 33: glibc's own, which its posix_spawn ignores


def by_hand(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(script)
    return subprocess.run([sys.executable, "train.py"], cwd=folder, capture_output=True, text=True, timeout=30)


# ---- the script's side


def test_by_hand_there_is_one_trial_with_the_defaults(tmp_path: Path) -> None:
    script = """
import os, searchkit
for trial in searchkit.trials(lr=0.1):
    with trial:
        assert (trial.number, trial.seed, trial.folder) == (0, 0, os.getcwd())
        open(f"{trial.checkpoint}/weights", "w").close()
        trial.report(acc=trial.params["lr"], step=2)
"""
    done = by_hand(tmp_path, script)
    assert (done.stdout, done.returncode) == ("step 2: acc=0.1\n", 0), done.stderr
    assert (tmp_path / "checkpoint/weights").exists()


def test_by_hand_an_exception_is_the_scripts(tmp_path: Path) -> None:
    done = by_hand(tmp_path, "import searchkit\nfor t in searchkit.trials():\n    with t: raise ValueError('mine')\n")
    assert done.returncode == 1 and "ValueError: mine" in done.stderr


SAME = loop(
    """
print("python says", i, flush=i % 2)
os.system("echo the shell says $SEARCHKIT_JOB")
print("to stderr", file=sys.stderr)
pathlib.Path("out.txt").write_text(pathlib.Path("data.txt").read_text() + str(i))
pathlib.Path("../beside.txt").write_text(str(trial.params))
pathlib.Path(trial.checkpoint, "weights").write_text(str(i))
assert os.getcwd() == trial.folder and trial.seed == 7 and trial.number == i
if i == 3:
    raise ValueError("three")
if i == 4:
    sys.exit(5)
if i == 5:
    sys.exit("said on leaving")
trial.report({"acc": i}, step=1)
searchkit.report(acc=i + 0.5, step=2)
assert searchkit.params() == trial.params
"""
)


@pytest.mark.slow
@pytest.mark.parametrize(("keys", "own"), [("", None), ("workers: 1", None), ("", "")], ids=["plain", "warm", "own"])
def test_what_python_prints_is_read_while_it_runs(keys: str, own: str | None, tmp_path: Path) -> None:
    """Nothing of the script flushes. `own`: what the user has set PYTHONUNBUFFERED to; Python buffers if empty."""
    text = config(1, keys).replace("reward_attribute: acc", "regex: ['acc: (?P<acc>[0-9.]+)']")
    folder = project(tmp_path / "p", text, train_py=loop('print("acc: 0.25")' + DEAF))
    env = {**env_of(tmp_path), **({} if own is None else {"PYTHONUNBUFFERED": own})}
    process = start(folder, "search-run", "config.yaml", env=env)
    wait_for((tmp_path / "marks/began-0").exists)
    told = ok(run(folder, "search-ctl", "logs", "--jobs", "0"))
    scalars = json.loads(ok(run(folder, "search-ctl", "show-scalar", "--json")))["jobs"][0]["scalars"]
    go(tmp_path, 0)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert (told, scalars) == (("", {}) if own == "" else ("acc: 0.25\n", {"acc": {"1": 0.25}}))


@pytest.mark.slow
@pytest.mark.parametrize("keys", ["", "workers: 1"], ids=["plain", "warm"])
def test_a_run_in_the_background_of_a_script(keys: str, tmp_path: Path) -> None:
    """No signal is ignored in its jobs; it obeys Ctrl-C all the same, and survives the end of the terminal."""
    more = "" if keys else f"callbacks: {{pre: {SAY_IGNORED}, after: {SAY_IGNORED}}}"
    script = loop(f'subprocess.run("{SAY_IGNORED}".split())' + POLITE)
    folder = project(tmp_path / "p", config(2, keys, more), train_py=script)
    env = env_of(tmp_path)
    process = start(folder, "search-run", "config.yaml", "-j", "1", env=env, ignored=f"{BACKGROUND} USR1 TSTP TERM")
    wait_for((tmp_path / "marks/began-0").exists)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    go(tmp_path, 0, 1)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and "may finish" in out, out
    assert states(folder) == {0: "finished", 1: "pending"}
    ignored = [int(line.split()[1], 16) for line in attempt(folder, 0).joinpath("log").read_text().splitlines()]
    assert [mask & ~C_LIBRARY for mask in ignored] == [0] * (1 if keys else 3)


@pytest.mark.slow
def test_a_trial_is_to_others_what_a_job_is(tmp_path: Path) -> None:
    """The same script as plain jobs and in workers: the same states, numbers, logs and files."""
    found = {}
    for name, keys in (("plain", ""), ("warm", "workers: 2")):
        text = config(7, keys, "search: {seed: 7}")
        folder = project(tmp_path / name / "p", text, train_py=SAME, data_txt="data ")
        ok(run(folder, "search-run", "config.yaml", "-j", "2"), 1)
        jobs = [(j["status"], j["exit_code"], j["reason"]) for j in show(folder)["jobs"]]
        scalars = json.loads(ok(run(folder, "search-ctl", "show-scalar", "--json")))["jobs"]
        logs = [attempt(folder, n).joinpath("log").read_text() for n in range(7)]
        files = {
            str(p.relative_to(task_dir(folder))): p.read_text()
            for p in task_dir(folder).glob("jobs/all/*/**/*")
            if p.is_file() and p.name not in ("status", "log", "params.json", "config.yaml")
        }
        found[name] = jobs, [s["scalars"] for s in scalars], files
        for n, log in enumerate(logs):
            assert log.count(f"python says {n}\n") == log.count(f"the shell says {n}\n") == 1, log
            assert log.count(" says ") == 2 and log.count("to stderr\n") == 1, log
        assert "ValueError: three" in logs[3] and "Traceback" in logs[3]
        assert "said on leaving" in logs[5]
        assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck"))
    assert found["plain"] == found["warm"]
    jobs, scalars, files = found["warm"]
    assert [j[1] for j in jobs] == [0, 0, 0, 1, 5, 1, 0]
    assert scalars[6] == {"acc": {"1": 6, "2": 6.5}}
    assert files["jobs/all/6/p/out.txt"] == "data 6"


def test_few_processes_serve_many_trials(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config(40, "workers: 2"), train_py=loop(SAY_PID + "trial.report(acc=i)"))
    ok(run(folder, "search-run", "config.yaml", "-j", "4", env=env_of(tmp_path)))
    served = pids(tmp_path)
    assert sorted(served) == list(range(40)) and all(len(p) == 1 for p in served.values())
    assert len({p[0] for p in served.values()}) == 2
    assert accepted(folder) == list(range(40))
    assert workers_of(folder) == []


@pytest.mark.slow
def test_no_more_workers_than_trials_or_slots(tmp_path: Path) -> None:
    for n, slots, most in ((2, 8, 2), (9, 3, 3)):
        folder = project(tmp_path / str(n) / "p", config(n, "workers: true"), train_py=loop("time.sleep(0.2)"))
        ok(run(folder, "search-run", "config.yaml", "-j", str(slots)))
        assert len(list((task_dir(folder) / "workers").glob("[0-9]*"))) == most


@pytest.mark.slow
def test_the_environment_is_the_trials_while_it_runs(tmp_path: Path) -> None:
    keys = "('SEARCHKIT_JOB', 'SEARCHKIT_ATTEMPT', 'SEARCHKIT_JOB_DIR', 'SEARCHKIT_CALLBACK', 'SEARCHKIT_CHECKPOINT')"
    script = loop(
        f"assert all(os.environ[k] for k in {keys}) and 'SEARCHKIT_WORKER' not in os.environ\n"
        "assert os.environ['SEARCHKIT_JOB'] == str(i)\n"
        # A program that the trial starts is part of the job, whatever it calls.
        "code = 'import searchkit; [t.report(acc=t.params[\"i\"]) for t in searchkit.trials()]'\n"
        "subprocess.run([sys.executable, '-c', code], check=True)",
        before=f"assert not any(k in os.environ for k in {keys})\nsearchkit.report(outside=1)\n",
        after=f"assert not any(k in os.environ for k in {keys})\nprint('the end')",
    )
    folder = project(tmp_path / "p", config(3, "workers: 1"), train_py=script)
    ok(run(folder, "search-run", "config.yaml", "-j", "1"))
    scalars = json.loads(ok(run(folder, "search-ctl", "show-scalar", "--json")))["jobs"]
    assert [s["scalars"] for s in scalars] == [{"acc": {"1": i}} for i in range(3)]
    log = (task_dir(folder) / "workers/1/log").read_text()
    assert log == "outside=1\nthe end\n"


def test_a_trial_names_the_backend_that_started_its_worker(tmp_path: Path) -> None:
    from searchkit.job.trials import _backend_of

    assert _backend_of(str(tmp_path)) == "local"
    (tmp_path / "status").write_text("start pilot host boot 7 8 pilot-1 9.0\n")
    assert _backend_of(str(tmp_path)) == "pilot"


def test_each_worker_has_its_own_gpu(tmp_path: Path) -> None:
    body = SAY_PID + "print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS'])\ntime.sleep(0.1)"
    folder = project(tmp_path / "p", config(8, "workers: true", "resources: {cpus: 3}"), train_py=loop(body))
    env = {**env_of(tmp_path), **fake_gpus(tmp_path / "lib", 16, 16)}
    ok(run(folder, "search-run", "config.yaml", env=env))
    seen: dict[int, set[str]] = {}
    for n, (pid,) in pids(tmp_path).items():
        seen.setdefault(pid, set()).add(attempt(folder, n).joinpath("log").read_text())
    assert sorted(seen.values(), key=sorted) == [{"0 3\n"}, {"1 3\n"}]
    gpus = {e["job"]: e["gpus"] for e in events(folder) if e["type"] == "launch"}
    assert all(attempt(folder, n).joinpath("log").read_text() == f"{g[0]} 3\n" for n, g in gpus.items())


BARE = """
import os, sys, searchkit
for trial in searchkit.trials():
    i = trial.params["i"]
    with open(os.environ["PIDS"], "a") as f: print(trial.number, os.getpid(), file=f)
    print("in", i)
    if i == 1: raise ValueError("one")
    if i == 3: sys.exit(4)
    if i == 5: break
print("after the loop")
"""


@pytest.mark.slow
def test_a_plain_for_ends_its_worker_and_another_goes_on(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config(8, "workers: 1"), train_py=BARE)
    ok(run(folder, "search-run", "config.yaml", "-j", "1", env=env_of(tmp_path)), 1)
    jobs = [(j["status"], j["exit_code"], j["attempt"]) for j in show(folder)["jobs"]]
    fine = ("finished", 0, 1)
    assert jobs == [fine, ("error", 1, 1), fine, ("error", 4, 1), fine, fine, fine, fine]
    log = attempt(folder, 1).joinpath("log").read_text()
    assert log.startswith("in 1\n") and log.endswith("ValueError: one\n")
    assert attempt(folder, 5).joinpath("log").read_text() == "in 5\nafter the loop\n"
    ran = [p for (p,) in pids(tmp_path).values()]
    assert ran[0] == ran[1] != ran[2] == ran[3] != ran[4] == ran[5] != ran[6] == ran[7]
    assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck"))


def test_callbacks_run_around_each_trial(tmp_path: Path) -> None:
    more = """
callbacks:
  pre: 'echo pre of $SEARCHKIT_JOB; test $SEARCHKIT_JOB != 1'
  after: 'echo "{\\"bytes\\": $(wc -c < out.txt)}"; test $SEARCHKIT_JOB != 2'
"""
    body = 'pathlib.Path("out.txt").write_text("x" * i)\nprint("body", i)'
    folder = project(tmp_path / "p", config(4, "workers: 1", more), train_py=loop(body))
    ok(run(folder, "search-run", "config.yaml", "-j", "1"), 1)
    jobs = show(folder)["jobs"]
    assert [j["status"] for j in jobs] == ["finished", "error", "finished", "finished"]
    assert "pre callback failed" in jobs[1]["reason"] and "after callback failed" in jobs[2]["reason"]
    assert attempt(folder, 1).joinpath("log").read_text() == "pre of 1\n"
    assert attempt(folder, 3).joinpath("log").read_text() == 'pre of 3\nbody 3\n{"bytes": 3}\n'
    assert json.loads(attempt(folder, 3).joinpath("callback/after.json").read_text()) == {"bytes": 3}


@pytest.mark.slow
def test_retries_and_logs_that_are_read(tmp_path: Path) -> None:
    body = 'print(f"acc: {i}.5")\nassert i != 1 or "attempt-3" in os.getcwd(), "not yet"'
    text = config(3, "workers: 2, retries: 2").replace("reward_attribute: acc", "regex: ['acc: (?P<acc>[0-9.]+)']")
    folder = project(tmp_path / "p", text, train_py=loop(body))
    ok(run(folder, "search-run", "config.yaml", "-j", "2"))
    assert [j["attempt"] for j in show(folder)["jobs"]] == [1, 3, 1]
    assert "not yet" in attempt(folder, 1, 2).joinpath("log").read_text()
    scalars = json.loads(ok(run(folder, "search-ctl", "show-scalar", "--json")))["jobs"]
    assert [s["scalars"] for s in scalars] == [{"acc": {"1": i + 0.5}} for i in range(3)]


def test_what_a_trial_starts_ends_with_it(tmp_path: Path) -> None:
    body = """
marks = os.environ["MARKS"]
if i == 0:  # a child of the worker, one that left its session and lost its parent, and a fork
    subprocess.Popen(["sleep", "1000"])
    os.system("setsid sh -c 'sleep 1000' &")
    if os.fork() == 0:
        time.sleep(1000)
if i == 1:
    time.sleep(1)
    for name in os.listdir("/proc"):
        try:
            words = open(f"/proc/{name}/cmdline").read()
            if "sleep" in words and f"{os.environ['MARKS']}" in open(f"/proc/{name}/environ").read():
                print("left:", words)
        except OSError:
            pass
"""
    folder = project(tmp_path / "p", config(2, "workers: 1"), train_py=loop(body))
    ok(run(folder, "search-run", "config.yaml", "-j", "1", env=env_of(tmp_path)))
    assert attempt(folder, 1).joinpath("log").read_text() == ""
    assert processes_with(f"MARKS={tmp_path}") == []


# ---- scripts and configs that can't work


def fault(folder: Path, **env: str) -> str:
    done = run(folder, "search-run", "config.yaml", "-j", "2", env=env)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("import searchkit\nprint(searchkit.params())", "ended without asking for a trial"),
        ("import searchkit\nsearchkit.trials()", "served no trial"),
        ("print('my words')\nimport nonsense", "No module named 'nonsense'"),
    ],
)
def test_a_script_that_serves_no_trial_is_told(tmp_path: Path, script: str, said: str) -> None:
    folder = project(tmp_path / "p", config(4, "workers: 2"), train_py=script)
    told = fault(folder)
    assert said in told and f"{task_dir(folder)}/workers/" in told
    assert ("searchkit.trials()" in told) != ("nonsense" in told), told
    assert len(list((task_dir(folder) / "workers").glob("[0-9]*"))) <= 4
    assert set(states(folder).values()) == {"pending"} and workers_of(folder) == []
    # What the message says to do helps.
    (folder / "train.py").write_text(loop("trial.report(acc=i)"))
    ok(run(folder, "search-ctl", "restart", "--jobs", "@pending"))
    wait_for(lambda: set(states(folder).values()) == {"finished"})


def test_ranks_cannot_serve_trials(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config(2, "workers: 1"), train_py=loop("pass"))
    assert "WORLD_SIZE is 2" in fault(folder, WORLD_SIZE="2")


@pytest.mark.slow
def test_a_restart_with_new_code_gets_new_workers(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config(3, "workers: 1"), train_py=loop("trial.report(acc=1)\nassert i != 1"))
    ok(run(folder, "search-run", "config.yaml", "-j", "1"), 1)
    (folder / "train.py").write_text(loop("trial.report(acc=2)"))
    ok(run(folder, "search-ctl", "restart", "--failed", "--no-start"))
    ok(run(folder, "search-run", "config.yaml", "-j", "1"))
    scalars = json.loads(ok(run(folder, "search-ctl", "show-scalar", "--json")))["jobs"]
    assert [s["scalars"] for s in scalars] == [{"acc": {"1": v}} for v in (1, 2, 1)]


def test_on_error_stop_launches_nothing_more(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", config(6, "workers: 1, on_error: stop"), train_py=loop("assert i != 1"))
    ok(run(folder, "search-run", "config.yaml", "-j", "1"), 1)
    assert (
        list(states(folder).values())[:2] == ["finished", "error"]
        and [e["type"] for e in events(folder)].count("launch") == 2
    )
    assert workers_of(folder) == []


def test_a_template_with_arguments_has_no_workers(tmp_path: Path) -> None:
    text = config(2, "workers: 1").replace("python train.py", "python train.py --i {i}")
    folder = project(tmp_path / "p", text, train_py="")
    done = run(folder, "search-run", "config.yaml")
    assert done.returncode == 2 and "config.yaml:3:33: task.template" in done.stderr, done.stderr
    assert "{i} has no value where run.workers" in done.stderr and "trial.params" in done.stderr


@pytest.mark.slow
def test_stoppers_end_trials_and_no_worker(tmp_path: Path) -> None:
    text = """
task:
  template: python train.py
  search_args: [{type: Uniform, name: i, low: 0, high: 1}]
run: {workers: 2}
search: {sampler: random, n_trials: 12, stop: {type: asha, min: 1, max: 9, eta: 3, promotion: true}}
monitor: {reward_attribute: acc}
"""
    body = """
path = pathlib.Path(trial.checkpoint, "step")
begin = int(path.read_text()) if path.exists() else 0
assert begin == 0 or "attempt-" in trial.folder
for step in range(begin + 1, 10):
    path.write_text(str(step))
    trial.report(acc=i * step, step=step)
    time.sleep(0.02)
"""
    folder = project(tmp_path / "p", text, train_py=loop(SAY_PID + body))
    said = ok(run(folder, "search-run", "config.yaml", "-j", "2", env=env_of(tmp_path)))
    jobs = show(folder)["jobs"]
    assert len(jobs) == 12 and {j["status"] for j in jobs} == {"finished", "pruned"}
    assert max(j["attempt"] for j in jobs) > 1  # one was paused, and went on with its checkpoint
    assert "stopped after" not in said and "interrupt" not in {e.get("why") for e in events(folder)}
    assert len({pid for ran in pids(tmp_path).values() for pid in ran}) == 2


@pytest.mark.slow
def test_a_trial_that_has_ended_reports_no_more_but_a_fork_of_it_does(tmp_path: Path) -> None:
    body = """
if i == 0:
    first = trial
else:
    try:
        first.report(acc=9)
    except RuntimeError as e:
        print(e)
    if os.fork() == 0:
        trial.report(forked=1)
        os._exit(0)
    os.wait()
trial.report(acc=i)
"""
    folder = project(tmp_path / "p", config(2, "workers: 1"), train_py=loop(body))
    ok(run(folder, "search-run", "config.yaml", "-j", "1"))
    assert "trial 0 has ended" in attempt(folder, 1).joinpath("log").read_text()
    scalars = json.loads(ok(run(folder, "search-ctl", "show-scalar", "--json")))["jobs"]
    assert [s["scalars"] for s in scalars] == [{"acc": {"1": 0}}, {"forked": {"1": 1}, "acc": {"2": 1}}]


@pytest.mark.slow
def test_a_half_line_in_the_inbox_spoils_nothing(tmp_path: Path) -> None:
    """As a scheduler leaves it that is killed within a write; what it was about is handed over again."""
    folder = project(tmp_path / "p", config(4, "workers: 1"), train_py=loop(SAY_PID + POLITE))
    process = begun(folder, tmp_path, 0, argv=("-j", "1"))
    process.kill()
    process.communicate()
    with open(task_dir(folder) / "workers/1/inbox.jsonl", "a") as f:
        f.write('{"trial": "1/1", "env": {"SEARCH')
    go(tmp_path, 0, 1, 2, 3)
    ok(run(folder, "search-run", "config.yaml", "-j", "1", env=env_of(tmp_path)))
    assert set(states(folder).values()) == {"finished"} and len({p for (p,) in pids(tmp_path).values()}) == 1


@pytest.mark.slow
def test_a_verdict_that_a_trial_never_hears_of_does_not_count(tmp_path: Path) -> None:
    """Trial 1 reports once, which is too bad to go on, and ends. Trial 2 reports again, is told so, saves and ends."""
    text = """
task:
  template: python train.py
  search_args: [{type: Categorical, name: i, value: [0, 1, 2]}]
run: {workers: 1}
search: {stop: {type: threshold, lower: -0.5}}
monitor: {reward_attribute: acc}
"""
    body = """
trial.report(acc=-i, step=1)
time.sleep(1)
if i == 2:
    try:
        trial.report(acc=0, step=2)
    except searchkit.TrialStopped:
        pathlib.Path(trial.checkpoint, "saved").touch()
else:
    pathlib.Path(trial.checkpoint, "whole").touch()
"""
    folder = project(tmp_path / "p", text, train_py=loop(SAY_PID + body))
    ok(run(folder, "search-run", "config.yaml", "-j", "1", env=env_of(tmp_path)))
    assert states(folder) == {0: "finished", 1: "finished", 2: "pruned"}
    ends = [attempt(folder, n).joinpath("status").read_text().split("\n")[1:3] for n in range(3)]
    assert ends == [["ended 0", "exit 0"], ["ended 0", "exit 0"], ["ended 0 stopped", "exit 0"]]
