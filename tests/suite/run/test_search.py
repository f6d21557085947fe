"""Searches as users run them: the installed search-run, real jobs, and what is left on disk."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from searchkit.suite import algorithms
from searchkit.suite.config.read import parse
from searchkit.suite.space.args import Categorical, Range, Value
from searchkit.suite.space.expand import shared_level, tree_path
from searchkit.suite.space.space import Space
from searchkit.suite.store import trials
from searchkit.suite.store.state import TaskState, advance
from tests.support.suite import HARNESS, events, ok, project, run, show, states, task_dir

pytestmark = pytest.mark.slow

SPACE = """
task:
  template: "python3 job.py {lr} {opt} {momentum?--momentum}"
  reward_attribute: acc
  search_args:
    - {type: LogUniform, name: lr, low: 1e-5, high: 1e-1}
    - {type: Categorical, name: opt, value: [sgd, adam]}
    - {type: Uniform, name: momentum, low: 0.0, high: 0.9, step: 0.1, when: "opt == 'sgd'"}
"""
# Ten epochs whose curves do not cross much: the best at the end is best on the way.
JOB = """
import json, math, os, sys, time
lr, opt = float(sys.argv[1]), sys.argv[2]
momentum = float(sys.argv[4]) if len(sys.argv) > 3 else 0.0
top = 1 - abs(math.log10(lr) + 2.5) / 5 + 0.05 * (opt == "adam") + 0.1 * momentum * (1 - momentum)
for epoch in range(1, 10):
    with open(os.environ["SEARCHKIT_CALLBACK"] + "/scalars.jsonl", "a") as f:
        f.write(json.dumps({"step": epoch, "acc": top - 0.3 / epoch, "size": len(opt)}) + "\\n")
    time.sleep(float(os.environ.get("PACE", "0")))
"""


def begin(folder: Path, search: str, job: str = JOB, space: str = SPACE) -> Path:
    return project(folder, f"{space}\nsearch: {search}\n", job_py=job)


def story(folder: Path, task: str = "default") -> list[dict[str, Any]]:
    """What a search asked for and what became of it: all that an unbroken run and a broken one must share."""
    state = replayed(folder, task)
    return [
        {
            "job": n,
            "values": job.values,
            "state": str(job.state),
            "scores": job.scores,
            "reports": job.reports,
        }
        for n, job in sorted(state.jobs.items())
    ]


def replayed(folder: Path, task: str = "default") -> TaskState:
    state = TaskState()
    for event in events(folder, task):
        advance(state, event)
    return state


def check_replay(folder: Path, search: str) -> int:
    """Give the events, one after the other, to a new sampler and a new stopper each time: they must say again what was
    recorded. Returns how many decisions were compared."""
    config = parse(f"{SPACE}\nsearch: {search}\n".encode(), "config.yaml")
    space, wanted = config.space, config.objectives
    s = config.search
    state, compared = TaskState(), 0
    for event in events(folder):
        if event["type"] == "create":
            history = trials.History(state).trials
            sampler = algorithms.sampler(s.sampler)(space, wanted, s.seed, **s.sampler_options)
            assert sampler.suggest(history, 1) == [event["genes"]]
            compared += 1
        if event["type"] == "report" and not event.get("after_end"):
            stopper = algorithms.stopper(s.stop[0].type)(wanted[0], **s.stop[0].options)
            history_ = trials.History(state)
            with history_.as_if(event["job"], (event["step"], event["value"])) as (known, trial):
                verdict = stopper.judge(known, trial)
            assert (verdict.value == "stop") == (event.get("stop") == "prune")
            compared += 1
        advance(state, event)
    return compared


TPE_ASHA = "{sampler: {type: tpe, n_startup: 3}, n_trials: 8, seed: 3, stop: {type: asha, min: 1, max: 9, eta: 3}}"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = begin(tmp_path_factory.mktemp("unbroken") / "p", TPE_ASHA)
    env = {"PACE": "0.03", "PYTHONPATH": str(HARNESS), "SEARCHKIT_KILL_LOG": str(folder.parent / "changes")}
    ok(run(folder, "search-run", "-j", "1", "config.yaml", env=env))
    return folder


def test_what_is_recorded_follows_from_what_was_recorded_before(unbroken: Path) -> None:
    states = [job["state"] for job in story(unbroken)]
    assert "pruned" in states and "finished" in states and len(states) == 8
    assert check_replay(unbroken, TPE_ASHA) > 16


def exit_codes(folder: Path, task: str = "default") -> dict[int, int]:
    """The exit code of each job's last attempt, as its wrapper wrote it. A script without a handler that was sent
    SIGTERM has 143; so 0 says that it ended by itself."""
    last = last_attempts(folder, task)
    return {n: int((attempt / "status").read_text().split("exit ")[1]) for n, attempt in last.items()}


def last_attempts(folder: Path, task: str = "default") -> dict[int, Path]:
    """The folder of each job's last attempt."""
    jobs = task_dir(folder, task) / "jobs/all"
    number = {n: job.attempt for n, job in replayed(folder, task).jobs.items()}
    return {n: jobs / str(n) / (f"attempt-{k}" if k > 1 else "") for n, k in number.items()}


def check_what_came_first(folder: Path) -> None:
    """What ended by itself is finished and scored by its last report, all of which the stopper's rungs have; what was
    ended is pruned, and scored by the report that it was judged by."""
    codes, last_attempt = exit_codes(folder), last_attempts(folder)
    for job in story(folder):
        path = last_attempt[job["job"]] / "callback/scalars.jsonl"
        series = {line["step"]: line["acc"] for line in map(json.loads, path.read_text().splitlines())}
        if codes[job["job"]] == 0:
            assert job["state"] == "finished" and job["scores"] == (series[max(series)],)
            assert job["reports"] == tuple((step, series[step]) for step in (1, 3))  # below max, 9
        else:
            assert job["state"] == "pruned" and codes[job["job"]] == 143 and job["scores"] == (job["reports"][-1][1],)
    shown = json.loads(ok(run(folder, "search-ctl", "best", "--json")))["jobs"]
    last = {job["job"]: job["scores"][0] for job in story(folder) if codes[job["job"]] == 0}
    assert shown[0]["job"] == max(last, key=lambda n: last[n]) or shown[0]["status"] == "pruned"


def test_a_trial_that_ended_before_anybody_looked_is_finished(unbroken: Path, tmp_path: Path) -> None:
    """A verdict on what is over does not count, however bad it was; an unbroken, watched run has both kinds."""
    folder = begin(tmp_path / "p", TPE_ASHA)
    ok(run(folder, "search-run", "-j", "1", "config.yaml", env={"PACE": "0"}))
    for each in (folder, unbroken):
        check_what_came_first(each)
        check_replay(each, TPE_ASHA)
    assert 0 in exit_codes(folder).values()


README = Path(__file__).parents[3] / "README.md"


def test_the_best_is_the_best_of_all_that_ended_by_themselves(tmp_path: Path) -> None:
    """The search of the README, whose script is over before most of its reports are seen."""
    seeds = int(os.environ.get("SEEDS", "3"))
    files = dict(re.findall(r"```\w+\n# file: (train.py|search.yaml)\n(.*?)```", README.read_text(), re.S))
    for seed in range(seeds):
        config = f"{files['search.yaml']}  seed: {seed}\n"
        folder = project(tmp_path / str(seed), config, train_py=files["train.py"])
        ok(run(folder, "search-run", "config.yaml"))
        last = {}
        for n, code in exit_codes(folder).items():
            losses = re.findall(r"loss (\S+)", (task_dir(folder) / f"jobs/all/{n}/log").read_text())
            if code == 0:
                last[n] = float(losses[-1])
                assert len(losses) == 20
        shown = json.loads(ok(run(folder, "search-ctl", "best", "--json")))["jobs"][0]
        # a slow machine prunes some in the middle of a swing of this loss: then one of these may be the best of all
        assert shown["scores"]["loss"] == min(job["scores"][0] for job in story(folder))
        if shown["status"] != "pruned":
            assert shown["job"] == min(last, key=lambda n: last[n]) and shown["scores"]["loss"] == min(last.values())
        assert {n for n, state in states(folder).items() if state == "finished"} == set(last)


AFTER = """
import os, signal, sys, time
callback, n = os.environ["SEARCHKIT_CALLBACK"], int(os.environ["SEARCHKIT_JOB"])
def save(*_):
    open(callback + "/saved", "w").close()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
for epoch in (1, 2, 3):
    with open(callback + "/scalars.jsonl", "a") as f:
        f.write('{"step": %d, "acc": %g}\\n' % (epoch, -n))
    if n == 1:
        time.sleep(30)
"""


def test_a_verdict_after_the_end_of_the_command_ends_no_callback(tmp_path: Path) -> None:
    """Job 1 is ended, saves and exits with 0: pruned. Job 2 is over when its verdict comes, and only its callback still
    runs: finished, callback and all."""
    space = """
task:
  template: python3 job.py {a}
  reward_attribute: acc
  search_args: [{type: Categorical, name: a, value: [0, 1, 2]}]
callbacks: {after: 'sleep 1; echo "{\\"done\\": 1}"'}
"""
    folder = begin(tmp_path / "p", "{stop: {type: asha, min: 1, max: 9}}", AFTER, space.replace("\\\\", "\\"))
    ok(run(folder, "search-run", "-j", "1", "config.yaml"))
    assert [job["state"] for job in story(folder)] == ["finished", "pruned", "finished"]
    assert exit_codes(folder) == {0: 0, 1: 0, 2: 0}
    callbacks = [task_dir(folder) / f"jobs/all/{n}/callback" for n in range(3)]
    assert [(c / "saved").exists() for c in callbacks] == [False, True, False]
    assert all((c / "after.json").exists() for c in callbacks)
    assert [e["job"] for e in events(folder) if e["type"] == "late"] == [2]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.long)])
def test_killed_anywhere_what_came_first_still_counts(unbroken: Path, tmp_path: Path, kills: int) -> None:
    # How many changes a run makes depends on what was ended before its end: all runs make so many.
    changes = len((unbroken.parent / "changes").read_text().split()) * 6 // 10
    rng, met = random.Random(5), 0
    for k in range(kills):
        folder = begin(tmp_path / f"p{k}", TPE_ASHA)
        for _ in range(rng.choice((1, 2, 3))):
            variable = rng.choice(("SEARCHKIT_KILL_AT", "SEARCHKIT_KILL_AT", "SEARCHKIT_TEAR_AT"))  # tears need a write
            env = {"PYTHONPATH": str(HARNESS), variable: str(rng.randint(1, changes)), "PACE": "0.03"}
            met += run(folder, "search-run", "-j", "1", "config.yaml", env=env).returncode == -9
        ok(run(folder, "search-run", "-j", "1", "config.yaml", env={"PACE": "0.03"}))
        check_what_came_first(folder)
        check_replay(folder, TPE_ASHA)
        assert len(story(folder)) == 8
        assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck"))
        shutil.rmtree(folder)
    assert met >= kills / 2
    print(f"kills met: {met}")


def test_paused_jobs_go_on_with_their_checkpoint(tmp_path: Path) -> None:
    job = """
import json, os, sys, time
folder = os.environ["SEARCHKIT_CHECKPOINT"]
path = folder + "/epoch"
done = int(open(path).read()) if os.path.exists(path) else 0
with open(os.environ["RUNS"], "a") as f:
    f.write(f"{os.environ['SEARCHKIT_JOB']} from {done}\\n")
for epoch in range(done + 1, 10):
    open(path + ".new", "w").write(str(epoch))
    os.replace(path + ".new", path)
    with open(os.environ["SEARCHKIT_CALLBACK"] + "/scalars.jsonl", "a") as f:
        f.write(json.dumps({"step": epoch, "acc": float(sys.argv[1]) * epoch}) + "\\n")
    time.sleep(1.0)  # longer than it takes to see a report
"""
    space = """
task:
  template: "python3 job.py {a}"
  reward_attribute: acc
  search_args: [{type: Categorical, name: a, value: [1, 3, 2]}]
"""
    stop = "{stop: {type: asha, min: 1, max: 3, eta: 3, promotion: true}}"
    folder = begin(tmp_path / "p", stop, job, space)
    runs = tmp_path / "runs"
    said = ok(run(folder, "search-run", "-j", "1", "config.yaml", env={"RUNS": str(runs)}))
    begun = runs.read_text().split("\n")[:-1]
    assert begun[:3] == ["0 from 0", "1 from 0", "2 from 0"] and len(begun) == 4
    assert begun[3] in ("1 from 1", "1 from 2")  # the best of three goes on where it was
    jobs = show(folder)["jobs"]
    assert [j["status"] for j in jobs] == ["pruned", "finished", "pruned"], said
    assert [len(job["reports"]) for job in story(folder)] == [1, 1, 1]  # at the highest rung nothing is left to decide
    assert "3 at once" not in said and "2 pruned" in said


def test_points_that_are_given_come_first(tmp_path: Path) -> None:
    enqueue = "[{lr: 1e-3, opt: adam}, {opt: sgd, momentum: 0.3}]"
    folder = begin(tmp_path / "p", f"{{sampler: tpe, n_trials: 4, enqueue: {enqueue}}}")
    ok(run(folder, "search-run", "-j", "2", "config.yaml"))
    values = [job["values"] for job in story(folder)]
    assert values[0] == {"lr": 1e-3, "opt": "adam"}
    assert values[1]["opt"] == "sgd" and values[1]["momentum"] == 0.3 and 1e-5 <= values[1]["lr"] <= 1e-1
    assert len(values) == 4


def test_a_target_ends_the_search(tmp_path: Path) -> None:
    folder = begin(tmp_path / "p", "{sampler: random, n_trials: 50, target: 0.6}")
    said = ok(run(folder, "search-run", "-j", "1", "config.yaml"))
    scores = [job["scores"][0] for job in story(folder)]
    assert scores[-1] >= 0.6 > max(scores[:-1], default=0) and len(scores) < 50
    assert f"over: job {len(scores) - 1} reached acc" in said
    again = ok(run(folder, "search-run", "-j", "1", "config.yaml"))
    assert len(story(folder)) == len(scores) and "over: job" in again


def test_a_time_budget_counts_over_resumes(tmp_path: Path) -> None:
    folder = begin(tmp_path / "p", "{sampler: random, time_budget_s: 2s}")
    ok(run(folder, "search-run", "-j", "1", "config.yaml", env={"PACE": "0.05"}))
    n = len(story(folder))
    assert 1 < n < 8
    said = ok(run(folder, "search-run", "-j", "1", "config.yaml"))
    assert len(story(folder)) == n and "time budget of 2 s is spent" in said


def test_more_trials_may_be_asked_for(tmp_path: Path) -> None:
    folder = begin(tmp_path / "p", "{sampler: random, n_trials: 3}")
    whole = begin(tmp_path / "q", "{sampler: random, n_trials: 5}")
    ok(run(folder, "search-run", "-j", "1", "config.yaml"))
    ok(run(folder, "search-run", "-j", "1", "--n-trials", "5", "config.yaml"))
    ok(run(whole, "search-run", "-j", "1", "config.yaml"))
    assert story(folder) == story(whole)


def test_a_finite_space_is_used_up(tmp_path: Path) -> None:
    space = """
task:
  template: "python3 job.py {lr} {opt}"
  reward_attribute: acc
  search_args:
    - {type: LogInt, name: lr, low: 1, high: 3}
    - {type: Categorical, name: opt, value: [sgd, adam]}
"""
    for sampler in ("random", "tpe", "evolution", "nsga2", "spos"):
        folder = begin(tmp_path / sampler, f"{{sampler: {sampler}, n_trials: 100}}", space=space)
        said = ok(run(folder, "search-run", "-j", "2", "config.yaml"))
        points = [tuple(job["values"].values()) for job in story(folder)]
        assert sorted(points) == [(lr, opt) for lr in (1, 2, 3) for opt in ("adam", "sgd")], sampler
        assert "no further point" in said


def test_failed_and_silent_trials_do_not_stop_it(tmp_path: Path) -> None:
    job = JOB.replace("for epoch", "n = int(os.environ['SEARCHKIT_JOB'])\nif n == 1: sys.exit(3)\nfor epoch")
    job = job.replace('"acc": top', '("top1" if n == 2 else "acc"): float("nan") if n == 3 else top')
    folder = begin(tmp_path / "p", "{sampler: tpe, n_trials: 6}", job)
    out = run(folder, "search-run", "-j", "1", "config.yaml")
    assert out.returncode == 1
    jobs = story(folder)
    assert [job["state"] for job in jobs] == ["finished", "error", *["finished"] * 4]
    assert [job["scores"] is None for job in jobs] == [False, True, True, True, False, False]
    assert "never reported acc (reported: size, top1)" in out.stdout
    assert "acc is no finite number" in out.stdout


def test_expressions_as_objectives(tmp_path: Path) -> None:
    objectives = "[{name: fit, value: 'acc - 0.1 * size', mode: max}, {name: size, mode: min}]"
    search = f"{{sampler: tpe, n_trials: 3, objectives: {objectives}}}"
    folder = begin(tmp_path / "p", search)
    ok(run(folder, "search-run", "config.yaml"))
    for job in story(folder):
        fit, size = job["scores"]
        lines = (task_dir(folder) / f"jobs/all/{job['job']}/callback/scalars.jsonl").read_text().splitlines()
        assert fit == pytest.approx(json.loads(lines[-1])["acc"] - 0.1 * size) and size == len(job["values"]["opt"])


def test_what_others_found_is_the_start(tmp_path: Path) -> None:
    folder = begin(tmp_path / "p", "{sampler: random, n_trials: 12}")
    ok(run(folder, "search-run", "--task", "first", "config.yaml"))
    rows = [{**job["values"], "acc": job["scores"][0]} for job in story(folder, "first")]
    with (folder / "before.csv").open("w", newline="") as f:
        writer = csv.DictWriter(f, ["lr", "opt", "momentum", "acc", "comment"])
        writer.writeheader()
        writer.writerows([*rows, {"lr": "7", "opt": "adam", "acc": 1}])
    asked = {}
    for name, source in (("task", "{task: first}"), ("csv", "{csv: before.csv}")):
        search = f"{{sampler: {{type: tpe, n_startup: 10}}, n_trials: 3, warm_start: {source}}}"
        (folder / f"{name}.yaml").write_text(f"{SPACE}\nsearch: {search}\n")
        said = ok(run(folder, "search-run", "-j", "1", "--task", name, f"{name}.yaml"))
        assert "warm start: 12 trials" in said
        assert ("1 left out" in said) == (name == "csv")
        asked[name] = [job["values"] for job in story(folder, name)]
    assert asked["task"] == asked["csv"]  # the same history, the same asks
    cold = begin(tmp_path / "q", "{sampler: {type: tpe, n_startup: 10}, n_trials: 3}")
    ok(run(cold, "search-run", "-j", "1", "config.yaml"))
    assert asked["csv"] != [job["values"] for job in story(cold)]


def test_a_sampler_of_the_user_s_own(tmp_path: Path) -> None:
    folder = begin(tmp_path / "p", "{sampler: {type: 'mine:Middle', opt: adam}, n_trials: 3}")
    (folder / "mine.py").write_text(
        "class Middle:\n"
        "    def __init__(self, space, objectives, seed, opt='sgd'):\n"
        "        self.space, self.opt = space, opt\n"
        "    def suggest(self, history, n):\n"
        "        k = len(history)\n"
        "        return [self.space.genes({'lr': 10.0 ** -(2 + i), 'opt': self.opt}) for i in range(k, k + n)]\n"
    )
    ok(run(folder, "search-run", "-j", "1", "config.yaml"))
    assert [job["values"] for job in story(folder)] == [{"lr": 10.0**-e, "opt": "adam"} for e in (2, 3, 4)]


def test_what_can_never_be_met_is_said_before_anything_is_written(tmp_path: Path) -> None:
    space = SPACE + "  constraints: ['lr > 0.2']\n"
    folder = begin(tmp_path / "p", "{sampler: tpe, n_trials: 3}", space=space)
    for more in ((), ("--dry-run",)):
        out = run(folder, "search-run", *more, "config.yaml")
        assert out.returncode == 2 and "lr > 0.2" in out.stderr and "0.1 > 0.2" in out.stderr
    assert not task_dir(folder).exists()


def test_steps_that_go_back_are_told(tmp_path: Path) -> None:
    job = JOB.replace("range(1, 10)", "(1, 2, 5, 3, 6, 9)")
    folder = begin(tmp_path / "p", "{sampler: random, n_trials: 1, stop: {type: patience, patience: 9}}", job)
    said = ok(run(folder, "search-run", "-j", "1", "config.yaml", env={"PACE": "0.5"}))
    assert "reported step 3 of acc after step 5" in said
    assert [step for step, _ in story(folder)[0]["reports"]] == [1, 2, 5, 6, 9]


def test_dry_run_shows_the_first_points(tmp_path: Path) -> None:
    folder = begin(tmp_path / "p", "{sampler: random, n_trials: 3}")
    said = ok(run(folder, "search-run", "--dry-run", "config.yaml"))
    assert "search by random, until 3 trials" in said
    ok(run(folder, "search-run", "-j", "1", "config.yaml"))
    commands = [job["command"] for job in show(folder)["jobs"]]
    assert [line.split(" ", 1)[1] for line in said.splitlines() if line.startswith("#")] == commands


def test_many_arguments_share_one_level_of_the_tree(tmp_path: Path) -> None:
    args = "".join(f"    - {{type: Categorical, name: block{i:02}, value: [0, 1, 2, 3]}}\n" for i in range(20))
    space = f"task:\n  template: python3 job.py\n  reward_attribute: acc\n  search_args:\n{args}"
    job = JOB.replace("lr, opt = float(sys.argv[1]), sys.argv[2]", "lr, opt = 0.1, 'sgd'")
    search = "{sampler: {type: spos, population: 2}, n_trials: 4}"
    folder, unbroken = begin(tmp_path / "p", search, job, space), begin(tmp_path / "q", search, job, space)
    ok(run(folder, "search-run", "-j", "1", "--n-trials", "3", "config.yaml"))
    tree = task_dir(folder) / "jobs" / "tree"
    (tree.parent.parent / "events" / "1.jsonl").rename(tmp_path / "kept")
    lines = (tmp_path / "kept").read_bytes().split(b"\n")
    damaged = [line[:-9] if b'"create"' in line and b'"job":1,' in line.replace(b" ", b"") else line for line in lines]
    assert damaged != lines
    (tree.parent.parent / "events" / "1.jsonl").write_bytes(b"\n".join(damaged))
    ok(run(folder, "search-run", "-j", "1", "config.yaml"))
    ok(run(unbroken, "search-run", "-j", "1", "config.yaml"))
    assert [job["values"] for job in story(folder)] == [job["values"] for job in story(unbroken)]
    links = sorted(tree.iterdir(), key=lambda path: int(os.readlink(path).rpartition("/")[2]))
    assert [os.readlink(path) for path in links] == [f"../all/{n}" for n in range(4)]  # and no folder in between
    for path, job_ in zip(links, story(folder), strict=True):
        text = ",".join(f"{name}={value}" for name, value in job_["values"].items())
        assert path.name == text and path.name.count(",") == 19
    assert "0 fault(s)" in ok(run(unbroken, "search-ctl", "fsck"))


@pytest.mark.parametrize(("varying", "depth"), [(8, 16), (9, 1)])
def test_up_to_eight_arguments_nest(varying: int, depth: int) -> None:
    args = [Categorical(f"x{i}", (Value(0, "0"), Value(1, "1"))) for i in range(varying)]
    space = Space((*args, Categorical("constant", (Value(0, "0"),))))
    path = tree_path(space.point(next(space.grid())), shared_level(space))
    assert len(path) == (depth + 2 if depth > 1 else 1)
    with_range = Space((*args[:7], Range("lr", "Uniform", 0, 1)))
    assert shared_level(with_range) == ("lr",)


def test_a_sampler_that_fails_half_way_ends_it_when_all_that_runs_has_ended(tmp_path: Path) -> None:
    folder = begin(tmp_path / "p", "{sampler: 'mine:Late', n_trials: 6}")
    good = (
        "from searchkit.suite.algorithms.random_search import Random\n"
        "class Late(Random):\n"
        "    needs_results = True\n"
        "    def suggest(self, history, n):\n"
        "        if sum(t.state == 'finished' for t in history) >= 1: BREAK\n"
        "        return super().suggest(history, n)\n"
    )
    (folder / "mine.py").write_text(good.replace("BREAK", "raise KeyError('oh')"))
    out = run(folder, "search-run", "-j", "2", "config.yaml", env={"PACE": "0.05"})
    assert out.returncode == 2 and "the sampler mine:Late failed: KeyError: 'oh'" in out.stderr, out.stderr
    assert "Traceback" not in out.stderr
    jobs = story(folder)
    assert {job["state"] for job in jobs} == {"finished"} and 2 <= len(jobs) < 6
    assert show(folder)["status"] != "finished"
    (folder / "mine.py").write_text(good.replace("BREAK", "pass"))
    ok(run(folder, "search-run", "-j", "2", "config.yaml"))
    assert {job["state"] for job in story(folder)} == {"finished"} and len(story(folder)) == 6


def test_a_sampler_of_the_user_s_own_may_need_no_score(tmp_path: Path) -> None:
    space = SPACE.replace("  reward_attribute: acc\n", "")
    folder = begin(tmp_path / "p", "{sampler: 'mine:Mine', n_trials: 2}", space=space)
    for said in ("class Mine(Random): ...", "class Mine(Random): needs_results = True"):
        (folder / "mine.py").write_text(f"from searchkit.suite.algorithms.random_search import Random\n{said}\n")
        out = run(folder, "search-run", "-j", "1", "config.yaml")
        if "True" not in said:
            assert out.returncode == 0 and len(story(folder)) == 2
            shutil.rmtree(task_dir(folder))
        else:
            assert out.returncode == 2 and "mine:Mine needs a score: give task.reward_attribute" in out.stderr
            assert not task_dir(folder).exists()
