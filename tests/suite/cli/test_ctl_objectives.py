"""search-ctl on searches: Pareto fronts, best, diff, plot, export, pruned jobs, and 10,000 trials."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import resource
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from searchkit.errors import UsageError
from searchkit.suite.cli import pictures
from searchkit.suite.cli.best import parse_reference
from searchkit.suite.config.settings import Objective
from searchkit.suite.space.args import Arg, Categorical, Nested, Range, Value
from searchkit.suite.store import ranking, tasks, trials
from searchkit.suite.store.job import Job, State
from searchkit.suite.store.ranking import JobScalars, Scored
from searchkit.suite.store.tasks import JobView
from searchkit.suite.workspace import Workspace
from tests.support.marks import some_of
from tests.support.suite import ok, project, run, task_dir

ROOT = Path(__file__).resolve().parents[3]

TWO = """\
task:
  template: sh job.sh {x} {n} {same}
  search_args:
    - {type: Uniform, name: x, low: 0, high: 1}
    - {type: Int, name: n, low: 1, high: 6}
    - {type: Categorical, name: same, value: [one]}
search:
  sampler: random
  n_trials: 14
  objectives:
    - {name: acc, mode: max}
    - {name: macs, mode: min}
    - {name: trade, value: "acc - 0.05 * macs", mode: max}
"""
# macs come once, before the first epoch; the last job's accuracy is not a number.
JOB = """
echo '{"step": 1, "macs": '$2'}' >> $SEARCHKIT_CALLBACK/scalars.jsonl
[ $SEARCHKIT_JOB = 13 ] && x=NaN || x=$1
echo '{"step": 2, "acc": 0.0}' >> $SEARCHKIT_CALLBACK/scalars.jsonl
echo '{"step": 3, "acc": '$x'}' >> $SEARCHKIT_CALLBACK/scalars.jsonl
[ $SEARCHKIT_JOB = 12 ] && exit 3 || exit 0
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = project(tmp_path_factory.mktemp("two") / "p", TWO, job_sh=JOB)
    ok(run(folder, "search-run", "config.yaml", "-j", "2"), 1)
    return folder


def asked(folder: Path, *words: str, code: int = 0) -> str:
    return ok(run(folder, "search-ctl", *words), code)


def facts(folder: Path, *words: str) -> Any:
    return json.loads(asked(folder, *words, "--json"))


def values(folder: Path) -> dict[int, tuple[float, int]]:
    """(acc, macs) of the jobs that finished with both, from their arguments."""
    jobs = facts(folder, "show", "--task", "default")["jobs"]
    return {j["job"]: (j["params"]["x"], j["params"]["n"]) for j in jobs if j["job"] < 12}


# --- the front -------------------------------------------------------------------------------------------------------


def better(a: tuple[float, int], b: tuple[float, int]) -> bool:
    """The third objective is made of the first two, and rises with both: it changes no front."""
    return a != b and a[0] >= b[0] and a[1] <= b[1]


@pytest.mark.slow
def test_the_front_is_that_of_all_pairs(two: Path) -> None:
    ends = values(two)
    front = {n for n, v in ends.items() if not any(better(w, v) for w in ends.values())}
    said = facts(two, "show-scalar", "--task", "default")["pareto"]
    assert said["rows"] == 12  # neither the job that failed nor the one without a number
    assert {row["job"] for row in said["front"]} == front and 0 < len(front) < 12
    for row in said["front"]:
        acc, macs = ends[row["job"]]
        assert row["scores"] == {"acc": acc, "macs": macs, "trade": pytest.approx(acc - 0.05 * macs)}
    worst = {"acc": min(v[0] for v in ends.values()), "macs": max(v[1] for v in ends.values())}
    assert {name: said["reference"][name] for name in worst} == worst
    assert said["objectives"][2] == {"name": "trade", "mode": "max", "value": "acc - 0.05 * macs"}


@pytest.mark.slow
def test_the_front_as_a_table(two: Path) -> None:
    text = asked(two, "show-scalar", "--task", "default", "-rt", "+1", "--reference", "acc=0, macs=10,trade=-1k")
    assert len(re.findall("#Job Name", text)) == 1  # -rt shows one job, the front is that of all
    title, head, *rows, volume = text[text.index("Pareto front") :].strip().split("\n")
    assert re.fullmatch(r"Pareto front of acc \(max\), macs \(min\), trade \(max\): \d+ of 12 jobs", title)
    assert head.split() == ["job", "acc", "macs", "trade", "x", "n"]  # not the argument that is the same for all
    assert len(rows) == len(facts(two, "best")["jobs"])
    assert re.fullmatch(r"hypervolume: [\d.e+]+ \(reference point: acc=0, macs=10, trade=-1000, as given\)", volume)


@pytest.mark.slow
def test_hypervolume_of_two_objectives_is_the_area_of_the_steps(two: Path, tmp_path: Path) -> None:
    text = TWO.replace('    - {name: trade, value: "acc - 0.05 * macs", mode: max}\n', "")
    folder = project(tmp_path / "p", text, job_sh=JOB)
    ok(run(folder, "search-run", "config.yaml"), 1)
    said = facts(folder, "show-scalar", "--reference", "acc=-0.5,macs=10")["pareto"]
    area = 0.0
    for k in range(1, 10):  # between k and k + 1 MACs, what is had for at most k
        had = [acc for acc, macs in values(folder).values() if macs <= k]
        area += max(had) + 0.5 if had else 0
    assert said["hypervolume"] == pytest.approx(area)


def test_one_objective_has_no_front(reward: Path) -> None:
    assert "Pareto" not in asked(reward, "show-scalar")
    assert "pareto" not in facts(reward, "show-scalar")
    assert run(reward, "search-ctl", "show-scalar", "--reference", "loss=1").returncode == 2


@pytest.mark.parametrize("text", ["acc", "acc=", "ac=1", "acc=x", "acc=1,,macs=2", "acc=1/0", "=1", "acc='a'"])
def test_bad_reference(text: str) -> None:
    with pytest.raises(UsageError, match="--reference"):
        parse_reference(text, (Objective("acc", "max"), Objective("macs", "min")))


def test_too_large_a_front_has_no_volume() -> None:
    from searchkit.suite import facts
    from searchkit.suite.cli import best

    wanted = tuple(Objective(name, "max") for name in "abcde")
    rows = [Scored(JobScalars(view(i, {}), {}, None, None, 0), (i, -i, 1, 1, 1)) for i in range(400)]
    said = facts.pareto_facts(rows, wanted, {})
    assert said["hypervolume"] is None and len(said["front"]) == 400
    assert "too large" in best.pareto_text(rows, wanted, {})


@pytest.mark.slow
def test_records_that_carry_the_objectives(tmp_path: Path) -> None:
    job = """for d in 1 2 3; do
      echo '{"arch": {"w": '$1', "d": '$d'}, "overhead": {"flops": '$1$d'}, "metric": {"acc": 0.'$d$1'}}'
    done > $SEARCHKIT_CALLBACK/records.jsonl"""
    text = """\
task:
  template: sh job.sh {w}
  search_args: [{type: Categorical, name: w, value: [1, 2]}]
search:
  objectives:
    - {name: metric.acc, mode: max}
    - {name: overhead.flops, mode: min}
    - {name: dear, value: metric.acc * overhead.flops, mode: max}
"""
    folder = project(tmp_path / "p", text, job_sh=job)
    ok(run(folder, "search-run", "config.yaml"))
    said = facts(folder, "show-scalar", "-rt", "+1", "--metric", "dear")
    assert said["rows"][0]["scalars"]["dear"] == pytest.approx(0.32 * 23)
    # (0.11, 11) (0.21, 12) (0.31, 13) of job 0; of job 1 (0.12, 21), the one that another beats, (0.22, 22) (0.32, 23)
    assert said["pareto"]["rows"] == 6
    accs = sorted(row["scores"]["metric.acc"] for row in said["pareto"]["front"])
    assert accs == [0.11, 0.21, 0.22, 0.31, 0.32]
    assert facts(folder, "best", "-k", "1")["jobs"][0]["scores"]["metric.acc"] == 0.32
    lacking = (folder / "config.yaml").read_text() + "monitor: {reward_attribute: metric.tuned}\n"
    (folder / "other.yaml").write_text(lacking)
    ok(run(folder, "search-run", "--task", "other", "other.yaml"))
    told = run(folder, "search-ctl", "show-scalar", "--task", "other", "-rt", "+1").stderr
    assert "note: no job reported 'metric.tuned'" in told and "rows stand in the order of their jobs" in told
    assert "note:" not in run(folder, "search-ctl", "show-scalar", "-rt", "+1").stderr
    shown = asked(folder, "show", "--task", "default", "--jobs", "@best:1")
    assert re.findall("#Job Name: (.)", shown) == ["1"]
    rows = list(csv.DictReader(io.StringIO(asked(folder, "export"))))
    assert [float(r["score.dear"]) for r in rows] == pytest.approx([1.21, 2.52, 4.03, 2.52, 4.84, 7.36])


# --- ranking and best ------------------------------------------------------------------------------------------------

REWARD = """\
task:
  template: sh job.sh {lr} {batch-size} {kind}
  search_args:
    - {type: Categorical, name: lr, value: [1e-3, 0.01, 0.1]}
    - {type: Nested, value: [{batch-size: 8, kind: a}, {batch-size: 16, kind: b}]}
monitor: {reward_attribute: loss, mode: min}
"""
REWARD_JOB = """
echo '{"loss": '$1', "other": '$2'}' >> $SEARCHKIT_CALLBACK/scalars.jsonl
"""


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid, which is no search: its results have no scores, and all comes from the jobs' files."""
    folder = project(tmp_path_factory.mktemp("reward") / "p", REWARD, job_sh=REWARD_JOB)
    ok(run(folder, "search-run", "config.yaml"))
    return folder


@pytest.mark.slow
def test_best_asks_which_end_of_a_loss_is_best(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", REWARD.replace(", mode: min", ""), job_sh=REWARD_JOB)
    done = run(folder, "search-run", "config.yaml")
    assert "monitor.mode: missing, and 'loss' sounds" in done.stderr and "; loss (max or min is not said)" in ok(done)
    assert "-rt -5" in done.stdout
    asked = run(folder, "search-ctl", "best")
    assert asked.returncode == 2 and "which is best? 'loss' sounds as if less of it were better" in asked.stderr
    assert run(folder, "search-ctl", "show", "--task", "default", "--jobs", "@best:2").returncode == 2
    assert run(folder, "search-ctl", "show-scalar", "-rt", "+1", "--best").returncode == 2
    ok(run(folder, "search-ctl", "show-scalar", "--best"))
    for mode, job in (("min", 0), ("max", 4)):
        assert f"#Job Name: {job}\n" in ok(run(folder, "search-ctl", "best", "--mode", mode))


@pytest.mark.slow
def test_a_search_that_began_without_a_direction_goes_on(tmp_path: Path) -> None:
    config = REWARD.replace(", mode: min}", "}\nsearch: {n_trials: 4}")
    folder = project(tmp_path / "p", config.replace("loss}", "loss, mode: max}"), job_sh=REWARD_JOB)
    assert "; loss (max)\n" in ok(run(folder, "search-run", "config.yaml"))
    for path in (folder / "config.yaml", task_dir(folder) / "run_config.yaml"):
        path.write_text(config)  # as it was made before anybody was asked
    assert "mode: min` or `mode: max`" in run(folder, "search-run", "--task", "new", "config.yaml").stderr
    done = run(folder, "search-run", "config.yaml")
    assert "this task began with `max`" in done.stderr and "; loss (max)" in ok(done)
    said = run(folder, "search-ctl", "best")
    assert "so this search took max" in said.stderr and "loss          : 0.01 (max)" in ok(said)


@pytest.mark.slow
def test_a_direction_that_was_given_is_not_dropped(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", REWARD.replace("min}", "min}\nsearch: {n_trials: 2}"), job_sh=REWARD_JOB)
    ok(run(folder, "search-run", "config.yaml"))
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace(", mode: min", ""))
    said = run(folder, "search-run", "config.yaml")
    assert said.returncode == 2 and "missing for 'loss', and the task was begun with `min`" in said.stderr
    path.write_text(path.read_text().replace("loss}", "loss, mode: max}"))
    assert "; loss (max)" in ok(run(folder, "search-run", "config.yaml"))  # said anew


@pytest.mark.slow
def test_of_stages_one_has_to_report_the_reward(tmp_path: Path) -> None:
    text = "task: {reward_attribute: acc}\nstages:\n- {name: a, task: {template: echo made}}\n"
    text += "- {name: b, task: {template: cp numbers.jsonl $SEARCHKIT_CALLBACK/scalars.jsonl}}\n"
    folder = project(tmp_path / "p", text, numbers_jsonl='{"acc": 1, "x": 1}\n')
    assert "reported" not in ok(run(folder, "search-run", "--task", "t", "config.yaml"))
    (folder / "config.yaml").write_text(text.replace("acc}", "mAP}"))
    said = ok(run(folder, "search-run", "--task", "u", "config.yaml"))
    assert said.count("reported") == 2 and "note: no stage reported 'mAP' (reported: acc, x)\n" in said


@pytest.mark.slow
def test_jobs_of_a_grid_that_report_no_reward_are_told(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", REWARD.replace("loss, mode: min", "acc"), job_sh=REWARD_JOB)
    assert "note: no job ever reported 'acc' (reported: loss, other)\n" in ok(run(folder, "search-run", "config.yaml"))
    (folder / "job.sh").write_text(
        REWARD_JOB + "[ $SEARCHKIT_JOB = 1 ] || echo '{\"acc\": 1}' >> $SEARCHKIT_CALLBACK/scalars.jsonl"
    )
    said = ok(run(folder, "search-run", "--task", "some", "config.yaml"))
    assert "note: 1 of 6 jobs (the first is 1) never reported 'acc' (reported: loss, other)\n" in said


def test_rank_by_objectives(two: Path) -> None:
    ends = values(two)
    by_acc = sorted(ends, key=lambda n: -ends[n][0])
    by_trade = sorted(ends, key=lambda n: 0.05 * ends[n][1] - ends[n][0])

    def order(*words: str) -> list[int]:
        """All jobs but the one that failed, which is ranked by what it reported."""
        found = re.findall(r"#Job Name: (\d+)", asked(two, "show-scalar", *words))
        assert len(found) == 14 and "12" in found
        return [int(n) for n in found if n != "12"]

    assert order("-rt", "+14") == [*by_acc, 13]  # the first objective, where no reward is named; NaN comes last
    assert order("-rt", "+14", "--metric", "trade") == [*by_trade, 13]
    assert order("-rt", "-14", "--metric", "trade") == [*by_trade[::-1], 13]
    assert order("-rt", "+14", "--metric", "trade", "--best")[0] == by_trade[0]
    said = run(two, "search-ctl", "show-scalar", "-rt", "+3", "--metric", "trad")
    assert said.returncode == 2 and "did you mean trade" in said.stderr


def test_what_is_ranked_light_is_shown_whole(two: Path) -> None:
    light = facts(two, "show-scalar", "-rt", "+3")
    by_index = {j["job"]: j for j in facts(two, "show-scalar")["jobs"]}
    assert light["jobs"] == [by_index[j["job"]] for j in light["jobs"]]
    assert all(set(j["scalars"]) == {"acc", "macs", "trade"} for j in light["jobs"])
    assert light["rows"][0]["scalars"]["trade"] == light["rows"][0]["scores"]["trade"]


def test_best_of_one_objective(reward: Path) -> None:
    said = asked(reward, "best", "-k", "2")
    assert re.findall("#Job Name: (.)", said) == ["0", "1"]  # both lr 1e-3; min
    assert "  loss          : 0.001 (min)\n" in said
    assert "  args          : lr=1e-3  batch-size=8  kind=a\n" in said
    assert f"  run_path      : {task_dir(reward)}/jobs/all/0\n" in said
    assert "  command       : sh job.sh 1e-3 8 a\n" in said
    (best,) = facts(reward, "best")["jobs"]
    assert best["job"] == 0 and best["scores"] == {"loss": 0.001} and best["front"] == 0
    assert best["params"] == {"lr": 0.001, "batch-size": 8, "kind": "a"}


def test_best_of_several_is_the_front_first(two: Path) -> None:
    ends = values(two)
    order = [j["job"] for j in facts(two, "best", "-k", "12")["jobs"]]
    fronts = [j["front"] for j in facts(two, "best", "-k", "12")["jobs"]]
    assert sorted(order) == sorted(ends) and fronts == sorted(fronts)
    for n, front in zip(order, fronts, strict=True):
        over = {fronts[order.index(m)] for m in ends if better(ends[m], ends[n])}
        assert not over if front == 0 else front - 1 in over  # each is beaten by one of the front before
    for front in set(fronts):
        accs = [ends[n][0] for n, f in zip(order, fronts, strict=True) if f == front]
        assert accs == sorted(accs, reverse=True)
    picked = asked(two, "show", "--task", "default", "--jobs", "@best:5")
    assert [int(n) for n in re.findall(r"#Job Name: (\d+)", picked)] == order[:5]


@pytest.mark.slow
def test_best_of_nothing(tmp_path: Path) -> None:
    text = "task: {template: 'false', search_args: [{type: Categorical, name: a, value: [1]}]}\n"
    folder = project(tmp_path / "p", text.replace("'false'", "'false {a}'") + "monitor: {reward_attribute: acc}\n")
    ok(run(folder, "search-run", "config.yaml"), 1)
    said = run(folder, "search-ctl", "best")
    assert said.returncode == 3 and "no job of task 'default' ended with a value of acc (1 error)" in said.stderr
    (folder / "config.yaml").write_text("task: {template: 'true'}\n")
    ok(run(folder, "search-run", "--task", "none", "config.yaml"))
    said = run(folder, "search-ctl", "best", "--task", "none")
    assert said.returncode == 2 and "neither search.objectives nor a reward_attribute" in said.stderr


def test_values_of_an_expression_hold_what_came_once() -> None:
    """macs at step 1 alone: the objective is there at all steps, with the last of each so far."""
    o = Objective("trade", "max", "acc - macs")
    series = {"acc": {1: 0.1, 2: 0.5, 3: 0.9}, "macs": {1: 0.25}}
    found = trials.derived([o], series)
    assert found == {"trade": {1: pytest.approx(-0.15), 2: pytest.approx(0.25), 3: pytest.approx(0.65)}}
    assert trials.derived([o], {"acc": {1: 1.0}}) == {}


# --- pruned jobs -----------------------------------------------------------------------------------------------------

PRUNED = """\
task:
  template: sh job.sh {q}
  search_args: [{type: Categorical, name: q, value: [1, 2, 3, 4, 5, 6]}]
search: {sampler: grid, n_trials: 6, stop: {type: threshold, lower: 3, n_warmup_steps: 2}}
monitor: {reward_attribute: acc}
"""
PRUNED_JOB = """
for step in 1 2 3; do echo '{"step": '$step', "acc": '$1.$step'}'; done >> $SEARCHKIT_CALLBACK/scalars.jsonl
[ $1 -ge 3 ] || exec sleep 60
"""


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = project(tmp_path_factory.mktemp("pruned") / "p", PRUNED, job_sh=PRUNED_JOB)
    ok(run(folder, "search-run", "config.yaml"))
    return folder


@pytest.mark.slow
def test_pruned_jobs_everywhere(pruned: Path) -> None:
    shown = asked(pruned, "show", "--task", "default", "--jobs", "@pruned")
    assert re.findall("#Job Name: (.)", shown) == ["0", "1"]
    assert shown.count("  status        : pruned\n") == 2
    assert shown.count("  reason        : ended by an early stopper, after ") == 2
    assert "after 1.2 at step 2\n" in shown
    assert "jobs:\n  total: 6\n  finished: 4\n  pruned: 2\n" in (task_dir(pruned) / "task.yaml").read_text()
    assert "status: finished" in asked(pruned, "show")
    rows = {int(r["job"]): r for r in csv.DictReader(io.StringIO(asked(pruned, "export")))}
    assert [rows[n]["status"] for n in range(3)] == ["pruned", "pruned", "finished"]
    assert [rows[n]["score.acc"] for n in range(3)] == ["1.2", "2.2", "3.3"]  # what it was judged by
    assert [rows[n]["scalar.acc"] for n in range(3)] == ["1.3", "2.3", "3.3"]  # what it reported last
    assert not [name for name in rows[0] if "gene" in name]
    order = [j["job"] for j in facts(pruned, "best", "-k", "9")["jobs"]]
    assert order == [5, 4, 3, 2, 1, 0]


# --- diff ------------------------------------------------------------------------------------------------------------


def test_diff(reward: Path) -> None:
    said = asked(reward, "diff", "0", "5")
    lines = {line.split("  ")[0]: line.split() for line in said.splitlines()}
    assert lines["lr"] == ["lr", "1e-3", "0.1"] and lines["loss"] == ["loss", "0.001", "0.1"]
    assert lines["batch-size"] == ["batch-size", "8", "16"] and lines["kind"] == ["kind", "a", "b"]
    same = next(line for line in said.splitlines() if line.startswith("the same: "))
    assert {"snapshot", "status", "exit code", "attempt"} <= set(same.removeprefix("the same: ").split(", "))
    assert said.endswith("command of job 0: sh job.sh 1e-3 8 a\ncommand of job 5: sh job.sh 0.1 16 b\n")
    body = facts(reward, "diff", "0", "1")
    assert body["differ"]["args"] == {"batch-size": ["8", "16"], "kind": ["a", "b"]}
    assert "lr" in body["same"] and "loss" in body["same"] and body["changed_files"] == []


def test_diff_tells_an_argument_from_a_scalar_of_its_name(tmp_path: Path) -> None:
    text = "task: {template: 'sh job.sh {lr}', search_args: [{type: Categorical, name: lr, value: [1, 2]}]}\n"
    job = "echo '{\"lr\": 7}' >> $SEARCHKIT_CALLBACK/scalars.jsonl"
    folder = project(tmp_path / "p", text, job_sh=job)
    ok(run(folder, "search-run", "config.yaml"))
    said = asked(folder, "diff", "0", "1")
    assert "\nparam.lr " in said and "scalar.lr" in said.partition("the same: ")[2]
    body = facts(folder, "diff", "0", "1")
    assert body["differ"]["args"] == {"lr": ["1", "2"]} and "scalar.lr" in body["same"] and "lr" not in body["same"]


@pytest.mark.parametrize(("words", "code"), [(("0", "0"), 2), (("0", "99"), 3), (("0",), 2), (("-1", "2"), 2)])
def test_bad_diff(reward: Path, words: tuple[str, ...], code: int) -> None:
    assert run(reward, "search-ctl", "diff", *words).returncode == code


@pytest.mark.slow
def test_diff_of_code(tmp_path: Path) -> None:
    text = "task: {template: 'sh job.sh {a}', search_args: [{type: Categorical, name: a, value: [1, 2]}]}\n"
    folder = project(tmp_path / "p", text, job_sh="echo", other_txt="same", third_txt="a")

    def git(*words: str) -> None:
        name = ("-c", "user.name=n", "-c", "user.email=e@example.com")
        subprocess.run(["git", *name, *words], cwd=folder, check=True, capture_output=True)

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "one")
    ok(run(folder, "search-run", "config.yaml"))
    (folder / "third.txt").write_text("b")  # as long as before
    (folder / "other.txt").write_text("same")  # only its time changed
    git("commit", "-qam", "two")
    ok(run(folder, "search-ctl", "restart", "--jobs", "1", "--no-start"))
    ok(run(folder, "search-run", "config.yaml"))
    body = facts(folder, "diff", "0", "1")
    assert body["changed_files"] == ["third.txt"]
    assert body["differ"]["code"]["snapshot"] == [0, 1] and body["differ"]["run"]["attempt"] == [1, 2]
    one, two = body["differ"]["code"]["git commit"]
    assert re.fullmatch("[0-9a-f]{12}", one) and re.fullmatch("[0-9a-f]{12}", two)
    assert "files of the code that differ: third.txt\n" in asked(folder, "diff", "0", "1")


# --- plot ------------------------------------------------------------------------------------------------------------


def view(index: int, values: dict[str, Any], state: State = State.FINISHED) -> JobView:
    job = Job(index, values, {name: str(value) for name, value in values.items()}, "true")
    return JobView(job, state, 0.0, 1.0, 0, "")


def made_up(
    points: list[dict[str, Any]], scores: list[tuple[float, ...]], wanted: tuple[Objective, ...]
) -> list[Scored]:
    """Jobs 0, 2, 4 …, every fifth of them pruned."""
    entries = [
        JobScalars(
            view(2 * i, point, State.PRUNED if i % 5 == 4 else State.FINISHED),
            {},
            None,
            None,
            0,
            scores={o.name: x for o, x in zip(wanted, each, strict=True)},
        )
        for i, (point, each) in enumerate(zip(points, scores, strict=True))
    ]
    return ranking.scored(entries, wanted)


def texts(*values: Any) -> tuple[Value, ...]:
    return tuple(Value(value, str(value)) for value in values)


ARGS: tuple[Arg, ...] = (
    Range("lr", "LogUniform", 1e-6, 1.0),
    Range("depth", "Int", 1, 9),
    Categorical("policy", texts(*(f"policy-{i}" for i in range(40)))),
    Nested(({"batch": Value(8, "8"), "accum": Value(2, "2")}, {"batch": Value(16, "16"), "accum": Value(1, "1")})),
    Range("momentum", "Uniform", 0.0, 1.0, when="depth > 4"),
    Categorical("flag", texts(True, False, None)),
)
LOSS = (Objective("loss", "min"),)
THREE = (Objective("loss", "min"), Objective("macs", "min"), Objective("score", "max"))


def points(n: int) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for i in range(n):
        u = i * 0.6180339887 % 1  # even, and without a pattern
        depth = 1 + i * 7 % 9
        point = {"lr": 10 ** (-6 * u), "depth": depth, "policy": f"policy-{i * 11 % 40}"}
        point |= {"batch": 8, "accum": 2} if i % 2 else {"batch": 16, "accum": 1}
        out.append(point | ({"momentum": u} if depth > 4 else {}) | {"flag": (True, False, None)[i % 3]})
    return out


def loss(point: dict[str, Any]) -> float:
    """Depends on lr and, less, on depth."""
    return abs(math.log10(point["lr"]) + 3) + 0.05 * float(point["depth"])


def is_grey(picture: bytes) -> bool:
    from matplotlib import image

    pixels = image.imread(io.BytesIO(picture))[..., :3]
    return bool((abs(pixels - pixels[..., :1]) < 0.02).all())


@pytest.mark.slow
@pytest.mark.parametrize("n", some_of([10, 1000], 10))
def test_pictures_are_without_colour(n: int) -> None:
    at = points(n)
    one = made_up(at, [(loss(p),) for p in at], LOSS)
    three = made_up(at, [(loss(p), p["depth"], p["lr"]) for p in at], THREE)
    two_ = made_up(at, [(loss(p), p["depth"]) for p in at], THREE[:2])
    drawn = [(kind, one, LOSS) for kind in ("history", "parallel")] + [("pareto", three, THREE)]
    for kind, rows, wanted in [*drawn, ("pareto", two_, THREE[:2])]:
        figure = pictures.draw(kind, rows, ARGS, wanted)
        assert max(figure.get_size_inches()) < 20
        assert is_grey(pictures.render(figure, "png")), kind


def test_history_tells_pruned_jobs_apart() -> None:
    at = points(10)
    figure = pictures.draw("history", made_up(at, [(loss(p),) for p in at], LOSS), ARGS, LOSS)
    (ax,) = figure.axes
    finished, pruned = (marks.get_offsets() for marks in ax.collections if len(marks.get_offsets()))
    assert sorted(finished[:, 0]) == [0, 2, 4, 6, 10, 12, 14, 16] and sorted(pruned[:, 0]) == [8, 18]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["finished", "best so far (min)", "pruned"]
    best = dict(zip(*ax.lines[0].get_data(), strict=True))
    assert best[18] == min(map(loss, at))


def test_the_study_has_the_numbers_of_the_jobs() -> None:
    at = points(30)
    study = pictures.study_of(made_up(at, [(loss(p),) for p in at], LOSS), ARGS, LOSS)
    done = {trial.number: trial for trial in study.trials if trial.state.name == "COMPLETE"}
    assert sorted(done) == list(range(0, 60, 2))
    assert done[6].value == loss(at[3]) and done[6].params["lr"] == at[3]["lr"]
    assert done[6].params["batch,accum"] == "8, 2" and done[6].params["flag"] == "True"
    assert ("momentum" in done[2].params) == ("momentum" in at[1])
    assert study.best_trial.value == min(map(loss, at))


@pytest.mark.slow
def test_importance_finds_what_matters() -> None:
    """40 texts and a range on a log scale are no obstacle: f-ANOVA itself would take hours for the one, and be blind to
    the other."""
    at = points(300)
    figure = pictures.draw("importance", made_up(at, [(loss(p),) for p in at], LOSS), ARGS, LOSS)
    (ax,) = figure.axes
    names = [text.get_text() for text in ax.get_yticklabels()]
    share = {name: bar.get_width() for name, bar in zip(names, ax.patches, strict=True)}
    assert set(share) == {"lr", "depth", "policy", "batch,accum", "flag"}
    assert share["lr"] > 0.8 and share["depth"] > max(share["policy"], share["batch,accum"], share["flag"])
    assert "momentum" in ax.get_title() and sum(share.values()) == pytest.approx(1)
    assert is_grey(pictures.render(figure, "png"))


def test_too_little_to_draw() -> None:
    at = points(3)
    rows = made_up(at, [(loss(p),) for p in at], LOSS)
    alike = made_up([at[0]] * 5, [(float(i),) for i in range(5)], LOSS)
    flat = made_up(points(5), [(1.0,)] * 5, LOSS)
    for kind, given, what in (
        ("importance", rows, "4 or more jobs .* of loss, got 3"),
        ("history", [], "1 or more"),
        ("parallel", rows[:1], "2 or more"),
        ("parallel", alike, "an argument that varies"),
        ("importance", alike, "an argument that varies"),
        ("importance", flat, "values of loss that differ"),
    ):
        with pytest.raises(UsageError, match=what):
            pictures.draw(kind, given, ARGS, LOSS)


@pytest.mark.slow
def test_plot_command(two: Path, reward: Path, tmp_path: Path) -> None:
    said = asked(two, "plot", "pareto", "--metric", "acc", "--metric", "macs", "--out", str(tmp_path / "a.png"))
    assert said == f"wrote {tmp_path}/a.png: pareto of 12 jobs of task default, acc (max), macs (min)\n"
    assert is_grey((tmp_path / "a.png").read_bytes())
    asked(reward, "plot", "parallel", "-o", str(tmp_path / "b.svg"))
    picture = (tmp_path / "b.svg").read_text()
    assert picture.startswith("<?xml") and "</svg>" in picture
    asked(reward, "plot", "parallel", "-o", str(tmp_path / "c.svg"))
    assert (tmp_path / "c.svg").read_text() == picture
    said = asked(reward, "plot", "history", "--metric", "other", "-o", str(tmp_path / "d.png"))  # no objective
    assert said.endswith("history of 6 jobs of task default, other (max)\n")


@pytest.mark.slow
def test_plot_curves(tmp_path: Path) -> None:
    job = """for s in 1 2 3 4; do echo '{"step": '$s', "val_loss": '$1.$s', "acc": '$s'}'; done"""
    text = "task: {template: 'sh job.sh {i}', search_args: [{type: Int, name: i, low: 1, high: 6}]}\n"
    folder = project(tmp_path / "p", text, job_sh=f"{job} >> $SEARCHKIT_CALLBACK/scalars.jsonl")
    ok(run(folder, "search-run", "config.yaml"))
    said = asked(folder, "plot", "curves", "--metric", "val_loss", "-o", "a.svg")
    assert said == "wrote a.svg: curves of 6 jobs of task default, val_loss (min)\n"
    picture = (folder / "a.svg").read_text()
    for words in ("job 0: 1.4", "job 2: 3.4", "others (3)", "3 best at the end in black (min)"):
        assert f"<!-- {words} -->" in picture or words in picture, words
    assert asked(folder, "plot", "curves", "--metric", "acc", "-o", "a.png").endswith("acc (max)\n")
    assert is_grey((folder / "a.png").read_bytes())
    bad = run(folder, "search-ctl", "plot", "curves", "--metric", "val_los", "-o", "a.png")
    assert bad.returncode == 2 and "no job reported 'val_los' (did you mean val_loss?)" in bad.stderr
    for words in (("plot", "curves", "--metric", "acc", "-o", "no/x.png"), ("export", "-o", "no/x.csv")):
        bad = run(folder, "search-ctl", *words)
        assert bad.returncode == 2 and f"--out {words[-1]}: no folder no\n  Make it first" in bad.stderr
    (tmp_path / "optuna.py").write_text("raise ImportError('not here')\n")
    ok(run(folder, "search-ctl", "plot", "curves", "--metric", "acc", "-o", "b.png", env={"PYTHONPATH": str(tmp_path)}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("history", "-o", "a.pdf"), ".png or .svg"),
        (("history", "-o", "a.png", "--metric", "los"), "did you mean loss"),
        (("pareto", "-o", "a.png"), "two or three objectives"),
        (("history",), "--out"),
        (("histogram", "-o", "a.png"), "histogram"),
    ],
)
def test_bad_plot(reward: Path, words: tuple[str, ...], what: str) -> None:
    done = run(reward, "search-ctl", "plot", *words)
    assert done.returncode == 2 and what in done.stderr
    assert not (reward / "a.png").exists()


def test_plot_without_optuna(reward: Path, tmp_path: Path) -> None:
    (tmp_path / "optuna.py").write_text("raise ImportError('not here')\n")
    done = run(reward, "search-ctl", "plot", "history", "-o", "a.png", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert "needs optuna (not here)" in done.stderr and "pip install 'searchkit[samplers]'" in done.stderr


# --- many trials -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "p"
    runpy.run_path(str(ROOT / "benchmarks" / "look.py"))["searched"](folder, 10_000)
    return folder


@pytest.mark.slow
def test_10_000_trials_are_ranked_by_their_events(many: Path) -> None:
    """Speed itself is measured by benchmarks/look.py. Here: the files of jobs are not what ranks them, so none but
    those that are shown needs to be opened; and nothing takes a time of another order."""
    task = Workspace(str(many / ".search-run")).task("default")
    jobs = tasks.view(task).jobs
    order = sorted(range(10_000), key=lambda n: -(jobs[n].job.scores or (0,))[0])
    low = Path(task.job(order[-1]).attempt(1).callback)
    low.mkdir(parents=True)
    (low / "scalars.jsonl").write_text('{"acc": 99, "macs": 0}\n')  # not what was accepted
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    best = [j["job"] for j in facts(many, "best", "-k", "5")["jobs"]]
    ranked = facts(many, "show-scalar", "-rt", "+5")
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert best[0] == order[0] and [j["job"] for j in ranked["jobs"]] == order[:5]
    assert all(j["scalars"]["acc"] for j in ranked["jobs"])
    assert spent < 8  # seconds of a processor for both; about 1.7 on an idle core
    assert asked(many, "show", "--task", "default").count("  status        : finished\n") == 10_000


def test_show_imports_neither_yaml_nor_numpy_nor_optuna(two: Path) -> None:
    code = """
import sys
sys.argv = ["search-ctl", "show", "--task", "default"]
from searchkit.suite.cli.ctl import group
group.main(standalone_mode=False)
heavy = {"optuna", "numpy", "yaml", "matplotlib", "rich", "searchkit.suite.config.read", "searchkit.suite.store.trials"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=two, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def quoted(value: str, more: str = "") -> str:
    """A config of two jobs whose objective is an expression over the scalars val/acc, AR@100 and val-f1."""
    reported = '{"val/acc": 0.{n}, "AR@100": 0.5, "val-f1": 0.1}'
    return f"""\
task:
  template: >-
    echo '{reported}' >> $SEARCHKIT_CALLBACK/scalars.jsonl
  search_args: [{{type: Categorical, name: n, value: [6, 7]}}]
search: {{objectives: [{{name: score, mode: max, value: {json.dumps(value)}}}]{more}}}
"""


@pytest.mark.slow
def test_names_that_need_quotes(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", quoted("name('val/acc') - name('AR@100') * name('val-f1')"))
    for task, more in (("grid", ""), ("search", ", sampler: random, n_trials: 2, seed: 1")):
        (folder / "config.yaml").write_text(quoted("name('val/acc') - name('AR@100') * name('val-f1')", more))
        assert "note" not in ok(run(folder, "search-run", "--task", task, "config.yaml"))
        table = ok(run(folder, "search-ctl", "table", "--task", task, "--where", "name('val/acc') > 0.65", "--csv"))
        assert len(table.splitlines()) == 2
        refused = run(folder, "search-ctl", "table", "--task", task, "--where", "val/acc > 0.65")
        assert refused.returncode == 2 and "no job has 'val' (write name('val/acc'))" in refused.stderr
        found = json.loads(ok(run(folder, "search-ctl", "best", "--task", task, "--json")))["jobs"]
        assert found[0]["params"] == {"n": 7} and found[0]["scores"]["score"] == pytest.approx(0.65)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (
            "val/acc - val-f1",
            "never reported val, acc, f1 (reported: AR@100, val-f1, val/acc) (write name('val/acc') and name('val-f1'",
        ),
        (
            "len(name('val/acc'))",
            "score is no finite number at the last step: can't evaluate \"len(name('val/acc'))\": ",
        ),
        ("name('AR@100') / 0", "score is no finite number at the last step: can't evaluate \"name('AR@100') / 0\": "),
        ("[name('AR@100')]", "score is no finite number at the last step: it gives [0.5], which is no number"),
    ],
)
def test_an_expression_that_is_never_a_number(value: str, why: str, tmp_path: Path) -> None:
    folder = project(tmp_path / "p", quoted(value))
    line = f"note: no job has a number for score, `{value}`: {why}"
    assert line in ok(run(folder, "search-run", "config.yaml"))
    assert line in run(folder, "search-ctl", "show-scalar").stderr
    done = run(folder, "search-ctl", "best")
    assert done.returncode == 3 and line in done.stderr and "no job of task 'default' ended with a value" in done.stderr


def test_a_search_whose_expression_is_never_a_number(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", quoted("val/acc", ", sampler: random, n_trials: 2"))
    said = ok(run(folder, "search-run", "config.yaml"))
    assert "note: a job never reported val, acc (reported: AR@100, val-f1, val/acc) (write name('val/acc'))" in said
    assert "note: no job has a number for score, `val/acc`: never reported val, acc" in said
