"""A task of several stages, as a user meets it: one command runs them in order, and goes on wherever it was ended."""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from searchkit.errors import ConfigError
from searchkit.suite.config import read as c
from tests.support.marks import some_of
from tests.support.suite import (
    BACKGROUND,
    HARNESS,
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

pytestmark = pytest.mark.slow

JOB = """
echo "$SEARCHKIT_TASK/$SEARCHKIT_JOB start" >> "$RUNS"
sleep ${2:-0}
echo "$1" > out.txt
echo "{\\"acc\\": $1}" >> "$SEARCHKIT_CALLBACK/scalars.jsonl"
echo "$SEARCHKIT_TASK/$SEARCHKIT_JOB end" >> "$RUNS"
"""
CONFIG = """
task: {reward_attribute: acc}
resources: {gpus: 0}
stages:
  - name: first
    task: {template: sh job.sh 1}
  - name: the-many
    task:
      template: test -f "$SEARCHKIT_STAGE_FIRST/out.txt" && sh job.sh {i}
      search_args: [{type: Categorical, name: i, value: [5, 6]}]
  - name: last
    task:
      template: find "$SEARCHKIT_STAGE_THE_MANY" -name out.txt | sort | tr "\\n" "\\0" | xargs -0 cat && sh job.sh 9
"""
NAMES = ("first", "the-many", "last")
ALL = [("det.first", 0), ("det.the-many", 0), ("det.the-many", 1), ("det.last", 0)]


def staged(tmp_path: Path, config: str = CONFIG, job: str = JOB) -> tuple[Path, dict[str, str]]:
    return project(tmp_path / "p", config, job_sh=job), {"RUNS": str(tmp_path / "runs")}


def stage_states(folder: Path) -> dict[str, str]:
    return {s["stage"]: s["status"] for s in show(folder, "det")["stages"]}


def said(tmp_path: Path) -> dict[str, int]:
    """What the jobs wrote down outside of the workspace, counted."""
    path = tmp_path / "runs"
    return dict(collections.Counter(path.read_text().split("\n")[:-1])) if path.exists() else {}


def once(jobs: list[tuple[str, int]]) -> dict[str, int]:
    return {f"{task}/{n} {what}": 1 for task, n in jobs for what in ("start", "end")}


def search_run(folder: Path, env: dict[str, str], *more: str, config: str = "config.yaml") -> Any:
    return run(folder, "search-run", "--task", "det", config, "-j", "2", *more, env=env)


def test_stages_run_in_order_and_hand_on_their_folders(tmp_path: Path) -> None:
    folder, env = staged(tmp_path)
    out = ok(search_run(folder, env))
    assert [line.split(": ")[1] for line in out.splitlines() if line.startswith("stage ")] == list(NAMES)
    assert "search-ctl show-scalar --task det -rt +5" in out
    assert said(tmp_path) == once(ALL)
    order = [line.split()[0] for line in (tmp_path / "runs").read_text().splitlines()]
    assert order[:2] == ["det.first/0"] * 2 and order[-2:] == ["det.last/0"] * 2
    assert (task_dir(folder, "det.last") / "jobs/all/0/log").read_text() == "5\n6\n"
    for name in NAMES:
        link = task_dir(folder, f"det.{name}") / "snapshot"
        assert os.readlink(link) == "../det/snapshot"
    assert os.listdir(task_dir(folder, "det") / "snapshot") == ["0"]
    assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck"))
    again = ok(search_run(folder, env))
    assert again.count("has finished already") == 3 and said(tmp_path) == once(ALL)


def test_show_ranks_and_exports_the_whole(tmp_path: Path) -> None:
    folder, env = staged(tmp_path, CONFIG.replace("sh job.sh 9", "true"))
    ok(search_run(folder, env))
    text = ok(run(folder, "search-ctl", "show", "--task", "det"))
    assert "stage the-many: finished (2 finished)" in text
    for name in ("first/0", "the-many/0", "the-many/1", "last/0"):
        assert f"#Job Name: {name}\n" in text
    facts = show(folder, "det")
    assert [(s["stage"], s["task"], s["status"], len(s["jobs"])) for s in facts["stages"]] == [
        ("first", "det.first", "finished", 1),
        ("the-many", "det.the-many", "finished", 2),
        ("last", "det.last", "finished", 1),
    ]
    assert "det\n        status: finished\n" in ok(run(folder, "search-ctl", "show"))
    assert "stages:\n  first: finished\n" in (task_dir(folder, "det") / "task.yaml").read_text()
    # `last` reports no acc, so the stage before it is ranked
    ranked = json.loads(ok(run(folder, "search-ctl", "show-scalar", "--task", "det", "-rt", "+5", "--json")))
    assert ranked["task"] == "det.the-many" and [row["row"] for row in ranked["rows"]] == ["1", "0"]
    ranked = json.loads(ok(run(folder, "search-ctl", "show-scalar", "--task", "det.first", "-rt", "+5", "--json")))
    assert [row["scalars"] for row in ranked["rows"]] == [{"acc": 1.0}]
    rows = ok(run(folder, "search-ctl", "export", "--task", "det")).splitlines()
    assert [row.split(",")[0] for row in rows] == ["job", "first/0", "the-many/0", "the-many/1", "last/0"]
    assert ok(run(folder, "search-ctl", "logs", "--task", "det.last")) == "5\n6\n"
    done = run(folder, "search-ctl", "logs", "--task", "det")
    assert done.returncode == 2 and "det.first, det.the-many, det.last" in done.stderr


def test_a_failed_job_stops_the_whole_and_restart_goes_on_with_the_new_code(tmp_path: Path) -> None:
    folder, env = staged(tmp_path, CONFIG, 'test "$1" != 6 || exit 3\necho old\n' + JOB)
    done = search_run(folder, env)
    assert done.returncode == 1
    assert "task det stops at stage the-many (job 1 error); not begun: last" in done.stdout
    assert stage_states(folder) == {"first": "finished", "the-many": "error", "last": "pending"}
    assert show(folder, "det")["status"] == "error"
    assert search_run(folder, env).returncode == 1  # a failed job is not run again unless asked
    assert said(tmp_path) == once([j for j in ALL if j not in (("det.the-many", 1), ("det.last", 0))])
    (folder / "job.sh").write_text("echo new\n" + JOB)
    before = os.environ.copy()
    os.environ.update(env)
    try:
        ok(run(folder, "search-ctl", "restart", "--task", "det", "--failed"))
    finally:
        os.environ.clear()
        os.environ.update(before)
    wait_for(lambda: show(folder, "det")["status"] == "finished", why="the background run goes on to the end")
    assert said(tmp_path) == once(ALL)
    assert (task_dir(folder, "det.last") / "jobs/all/0/log").read_text() == "5\n6\nnew\n"
    assert sorted(os.listdir(task_dir(folder, "det") / "snapshot")) == ["0", "1"]
    assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck"))


SLOW = CONFIG.replace("sh job.sh 1", "sh job.sh 1 $SLOW_S")


def test_ctrl_c_drains_one_stage_and_begins_no_other(tmp_path: Path) -> None:
    folder, env = staged(tmp_path, SLOW)
    process = start(folder, "search-run", "--task", "det", "config.yaml", env={**env, "SLOW_S": "1"})
    wait_for(lambda: "det.first/0 start" in said(tmp_path))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130, out
    assert stage_states(folder) == {"first": "finished", "the-many": "pending", "last": "pending"}
    ok(search_run(folder, env))
    assert said(tmp_path) == once(ALL)


@pytest.mark.parametrize("ignored", ["", BACKGROUND], ids=["by hand", "in the background"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_between_two_stages(tmp_path: Path, number: int, code: int, ignored: str) -> None:
    """The second stage waits in the reading of its space: a pipe that nobody has opened for writing."""
    config = CONFIG.replace("{type: Categorical, name: i, value: [5, 6]}", "{type: Subnet, name: i, space: pipe.jsonl}")
    folder, env = staged(tmp_path, config)
    os.mkfifo(folder / "pipe.jsonl")
    process = start(folder, "search-run", "--task", "det", "config.yaml", env=env, ignored=ignored)
    wait_for(lambda: "det.first/0 end" in said(tmp_path))
    wait_for(lambda: stage_states(folder)["first"] == "finished")
    time.sleep(0.3)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == code
    assert show(folder, "det")["status"] == "stopped"


@pytest.mark.parametrize("how", ["SIGTERM", "stop the whole", "stop the stage"])
def test_stopping_ends_all_and_the_same_command_goes_on(tmp_path: Path, how: str) -> None:
    folder, env = staged(tmp_path, SLOW)
    process = start(folder, "search-run", "--task", "det", "config.yaml", env={**env, "SLOW_S": "60"})
    wait_for(lambda: "det.first/0 start" in said(tmp_path))
    assert show(folder, "det")["status"] == "running"
    assert search_run(folder, env).returncode == 4  # somebody runs it
    if how == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    else:
        name = "det" if how == "stop the whole" else "det.first"
        assert f"stopped task {name}" in ok(run(folder, "search-ctl", "stop", "--task", name))
    process.communicate(timeout=30)
    assert process.returncode == (143 if how == "SIGTERM" else 130)
    assert processes_with(f"SEARCHKIT_JOB_DIR={task_dir(folder, 'det.first')}") == []
    assert show(folder, "det")["status"] == "stopped"
    ok(search_run(folder, env))
    assert said(tmp_path) == {**once(ALL), "det.first/0 start": 2}


def test_stop_after_a_killed_run_ends_what_it_left(tmp_path: Path) -> None:
    folder, env = staged(tmp_path, SLOW)
    process = start(folder, "search-run", "--task", "det", "config.yaml", env={**env, "SLOW_S": "60"})
    wait_for(lambda: "det.first/0 start" in said(tmp_path))
    process.kill()
    process.communicate()
    done = run(folder, "search-ctl", "delete", "--task", "det", "-y")
    assert done.returncode == 4 and "running jobs: 0" in done.stderr
    ok(run(folder, "search-ctl", "stop", "--task", "det"))
    assert processes_with(f"SEARCHKIT_JOB_DIR={task_dir(folder, 'det.first')}") == []
    ok(run(folder, "search-ctl", "delete", "--task", "det", "-y"))
    assert list((folder / ".search-run/tasks").iterdir()) == []


def test_delete_one_stage_and_all(tmp_path: Path) -> None:
    folder, env = staged(tmp_path)
    ok(search_run(folder, env))
    ok(run(folder, "search-ctl", "delete", "--task", "det.last", "-y"))
    assert stage_states(folder) == {"first": "finished", "the-many": "finished", "last": "pending"}
    ok(search_run(folder, env))  # it is made anew
    assert said(tmp_path) == {**once(ALL), "det.last/0 start": 2, "det.last/0 end": 2}
    ok(run(folder, "search-ctl", "restart", "--task", "det.the-many", "--jobs", "0", "--no-start"))
    assert stage_states(folder)["the-many"] == "stopped"
    ok(search_run(folder, env))
    assert said(tmp_path)["det.the-many/0 end"] == 2
    ok(run(folder, "search-ctl", "delete", "--task", "det", "-y"))
    assert list((folder / ".search-run/tasks").iterdir()) == []
    assert (folder / ".search-run/summary.yaml").read_text().strip() in ("", "{}")


def test_an_earlier_stage_is_left_alone_while_a_later_one_runs(tmp_path: Path) -> None:
    folder, env = staged(tmp_path, CONFIG.replace("sh job.sh 9", "sh job.sh 9 60"))
    process = start(folder, "search-run", "--task", "det", "config.yaml", env=env)
    wait_for(lambda: "det.last/0 start" in said(tmp_path))
    for verb in (["restart"], ["delete", "-y"]):
        done = run(folder, "search-ctl", verb[0], "--task", "det.first", *verb[1:])
        assert done.returncode == 4 and "at another stage than 'first'" in done.stderr
    ok(run(folder, "search-ctl", "stop", "--task", "det"))
    process.communicate(timeout=30)


def test_detach_and_overwrite(tmp_path: Path) -> None:
    folder, env = staged(tmp_path)
    ok(search_run(folder, env, "--detach"))
    wait_for(lambda: show(folder, "det")["status"] == "finished")
    (folder / "config.yaml").write_text(CONFIG.replace("[5, 6]", "[5]"))
    done = search_run(folder, env)
    assert done.returncode == 4 and "exists with another config" in done.stderr
    out = ok(search_run(folder, env, "--overwrite"))
    assert stage_states(folder) == dict.fromkeys(NAMES, "finished") and len(states(folder, "det.the-many")) == 1
    old = Path(out.partition("moved the old task away: ")[2].splitlines()[0])
    assert (old / "det.the-many/jobs/all/1/log").exists()
    assert (old / "det.the-many/snapshot/0/p/job.sh").exists()


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    folder, env = staged(tmp_path)
    out = ok(search_run(folder, env, "--dry-run"))
    assert "task det.the-many: 2 jobs" in out and "#1 test -f" in out
    assert not (folder / ".search-run/tasks").exists() or not os.listdir(folder / ".search-run/tasks")


def test_a_project_that_was_renamed_between_two_stages_goes_on(tmp_path: Path) -> None:
    folder, env = staged(tmp_path, CONFIG.replace("sh job.sh {i}", 'test -e "$OPEN" && sh job.sh {i}'))
    env["OPEN"] = str(tmp_path / "open")
    ok(search_run(folder, env), 1)
    folder = folder.rename(tmp_path / "other name")
    (tmp_path / "open").touch()
    ok(run(folder, "search-ctl", "restart", "--task", "det", "--failed", "--no-start"))
    ok(search_run(folder, env))
    assert said(tmp_path) == once(ALL)


def test_a_damaged_list_of_stages_is_read_from_the_config(tmp_path: Path) -> None:
    folder, env = staged(tmp_path)
    ok(search_run(folder, env))
    (task_dir(folder, "det") / "stages.json").write_bytes(b'["fir')
    assert stage_states(folder) == dict.fromkeys(NAMES, "finished")


# ---- killed at any time


def check_whole(folder: Path, tmp_path: Path, what: str) -> None:
    """Nothing is lost, doubled, or left behind."""
    assert said(tmp_path) == once(ALL), what
    assert stage_states(folder) == dict.fromkeys(NAMES, "finished"), what
    for name in NAMES:
        accepted = [e["job"] for e in events(folder, f"det.{name}") if e["type"] == "result" and not e["retry"]]
        assert sorted(accepted) == sorted(states(folder, f"det.{name}")), f"{what}: {name} {accepted}"
    assert os.listdir(task_dir(folder, "det") / "snapshot") == ["0"], what
    assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck")), what
    assert processes_with(f"SEARCHKIT_JOB_DIR={folder}") == [], what


SUBNETS = CONFIG.replace(
    "{type: Categorical, name: i, value: [5, 6]}",
    "{type: Subnet, name: i, space: $SEARCHKIT_STAGE_FIRST/space.jsonl}",
).replace("sh job.sh {i}", "test -s {i} && sh job.sh 5")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kills", "tears"), [(4, 1), pytest.param(10, 4, marks=pytest.mark.long)])
@pytest.mark.parametrize("text", [CONFIG, SUBNETS], ids=["grid", "subnets"])
def test_killed_at_seeded_changes(tmp_path: Path, text: str, kills: int, tears: int) -> None:
    """search-run is killed right after its n-th change to a file, or half-way through it; the same command goes on."""

    def fresh(here: Path) -> tuple[Path, dict[str, str]]:
        folder, env = staged(here, text)
        (folder / "space.jsonl").write_text('{"arch": {"width": 1}}\n{"arch": {"width": 2}}\n')
        return folder, env

    here = tmp_path / "unbroken"
    folder, env = fresh(here)
    log = here / "log"
    ok(search_run(folder, {**env, "PYTHONPATH": str(HARNESS), "SEARCHKIT_KILL_LOG": str(log)}))
    changes = log.read_text().split()
    rng = random.Random(3)
    points = [("SEARCHKIT_KILL_AT", n) for n in rng.sample(range(1, len(changes) + 1), kills)]
    writes = [n for n, name in enumerate(changes, 1) if name == "write"]
    points += [("SEARCHKIT_TEAR_AT", n) for n in rng.sample(writes, tears)]
    killed = 0
    for i, (variable, n) in enumerate(points):
        here = tmp_path / str(i)
        folder, env = fresh(here)
        first = search_run(folder, {**env, "PYTHONPATH": str(HARNESS), variable: str(n)})
        killed += first.returncode == -9
        ok(search_run(folder, env))
        check_whole(folder, here, f"{variable}={n} ({changes[n - 1]})")
    assert killed >= 0.8 * len(points)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", some_of([1, 2], 1))
def test_killed_at_random_times(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    folder, env = staged(tmp_path, CONFIG.replace("sh job.sh 1", "sh job.sh 1 0.2"))
    code, kills = -9, 0
    while code == -9 and kills < 12:
        process = start(folder, "search-run", "--task", "det", "config.yaml", env=env)
        time.sleep(rng.uniform(0.05, 0.9))
        process.kill()
        process.communicate()
        code, kills = process.returncode, kills + 1
    ok(search_run(folder, env))
    check_whole(folder, tmp_path, f"seed {seed}, {kills} kills")


# ---- what a config may say


def test_settings_of_a_stage_default_to_those_above() -> None:
    text = """
task: {reward_attribute: a}
env: {X: 1, Y: 2}
run: {retries: 2, timeout_s: 5}
monitor: {mode: min, scalars: [s]}
stages:
  - {name: one, task: {template: x}}
  - {name: two, task: {template: x, reward_attribute: b}, env: {Y: 3}, run: {retries: 0}, monitor: {mode: max}}
"""
    config = c.parse(text.encode(), "c.yaml")
    one, two = (stage.config for stage in config.stages)
    assert (one.env, two.env) == ({"X": "1", "Y": "2"}, {"X": "1", "Y": "3"})
    assert (one.run, two.run) == (c.Run(None, 5.0, 2), c.Run(None, 5.0, 0))
    assert (one.reward_attribute, two.reward_attribute, config.reward_attribute) == ("a", "b", "a")
    assert (one.monitor.mode, two.monitor.mode) == ("min", "max")
    assert (one.monitor.scalars, two.monitor.scalars) == (("s", "a"), ("s", "a", "b"))


FAULTS = {
    "stages: []": ["1:9: stages: must be a list of at least one stage, not an empty one"],
    "stages: 3": ["1:9: stages: must be a list of at least one stage, not 3"],
    "stages: [{task: {template: x}}]": ["1:10: stages[0]: missing key 'name'"],
    "stages: [{name: a}]": ["1:10: stages[0]: missing key 'task'"],
    "stages: [{name: a.b, task: {template: x}}]": [
        "1:17: stages[0].name: must be letters, digits, '_' and '-' (at most 50), not 'a.b'"
    ],
    "stages: [{name: a-b, task: {template: x}}, {name: A_b, task: {template: x}}]": [
        "1:51: stages[1].name: 'A_b' and 'a-b' would both be $SEARCHKIT_STAGE_A_B; name one otherwise"
    ],
    "task: {template: x}\nstages: [{name: a, task: {template: x}}]": [
        "1:8: task.template: belongs to a stage: stages: [{name: …, task: {…}}]"
    ],
    "stages: [{name: a, task: {template: cat $SEARCHKIT_STAGE_A}}]": [
        "1:37: stages[0].task: $SEARCHKIT_STAGE_A must name a stage that runs before (none does)"
    ],
    "stages: [{name: train, task: {template: x}}, {name: b, task: {template: cat $SEARCHKIT_STAGE_TRIAN/x}}]": [
        "1:73: stages[1].task: $SEARCHKIT_STAGE_TRIAN must name a stage that runs before "
        "(did you mean SEARCHKIT_STAGE_TRAIN?)"
    ],
    "stages: [{name: a, task: {template: x}, run: {retries: -1}, stages: []}]": [
        "1:56: stages[0].run.retries: must be a whole number of 0 or more, not -1",
        "1:61: stages[0]: unknown key 'stages' (did you mean task?)",
    ],
    "stages: [{name: a, task: {template: 'x {b}', search_args: [{type: Categorical, name: c, value: []}]}}]": [
        "1:40: stages[0].task.template: {b} is not a declared argument (valid: c); write {{b}} for the literal text",
        "1:86: stages[0].search_args: 'c' is declared, but the template never uses {c}",
        "1:96: stages[0].search_args[0].value: must be a list of at least one value, not an empty one",
    ],
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults(text: str) -> None:
    with pytest.raises(ConfigError) as e:
        c.parse(text.encode(), "c.yaml")
    assert str(e.value).splitlines() == [f"c.yaml:{fault}" for fault in FAULTS[text]]


def test_a_name_with_a_dot_is_no_task_of_the_user(tmp_path: Path) -> None:
    folder, env = staged(tmp_path)
    done = run(folder, "search-run", "--task", "det.first", "config.yaml", env=env)
    assert done.returncode == 2 and "no dot" in done.stderr
