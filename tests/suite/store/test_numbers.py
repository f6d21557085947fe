"""What result events say of the numbers: tables need no job's folder, and fall back to the files where they must."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from searchkit.suite.config import read as configs
from searchkit.suite.store import numbers, ranking, tasks
from searchkit.suite.store.job import Job, apply
from searchkit.suite.store.numbers import Summary
from searchkit.suite.store.scalars import Reading
from searchkit.suite.workspace import Workspace
from tests.support.suite import events, ok, project, run, task_dir

CONFIG = """\
task:
  template: sh job.sh {n}
  search_args: [{type: Categorical, name: n, value: [1, 2, 3]}]
monitor: {reward_attribute: acc, regex: ['loss=(?P<loss>[0-9.]+)']}
"""
JOB = """\
echo loss=0.$1; echo loss=0.0$1
for k in 1 2 3; do echo "{\\"step\\": $k, \\"acc\\": $((k * (3 - k) * $1))}"; done > ../callback/scalars.jsonl
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three jobs that ended; their folders are gone, but for that of job 2."""
    folder = project(tmp_path_factory.mktemp("numbers") / "p", CONFIG, job_sh=JOB)
    ok(run(folder, "search-run", "config.yaml"))
    for n in (0, 1):
        shutil.rmtree(task_dir(folder) / f"jobs/all/{n}")
    return folder


def test_the_result_says_last_lowest_and_highest(finished: Path) -> None:
    said = {e["job"]: e for e in events(finished) if e["type"] == "result"}
    assert said[1]["numbers"] == "acc 3 0.0 3 0.0 1 4.0|loss 2 0.02 2 0.02 1 0.2"
    assert len({e["monitor"] for e in said.values()}) == 1


@pytest.mark.slow
def test_tables_need_no_folder(finished: Path) -> None:
    ranked = json.loads(ok(run(finished, "search-ctl", "show-scalar", "-rt", "+1", "--metric", "loss", "--json")))
    assert [(row["job"], row["scalars"]["loss"]) for row in ranked["rows"]] == [(2, 0.03)]
    highest = json.loads(ok(run(finished, "search-ctl", "show-scalar", "-rt", "+1", "--best", "--json")))
    assert highest["rows"][0]["job"] == 2
    table = ok(run(finished, "search-ctl", "export")).splitlines()
    assert "scalar.acc" in table[0] and "scalar.loss" in table[0] and len(table) == 4
    assert json.loads(ok(run(finished, "search-ctl", "best", "--json")))["jobs"][0]["scores"] == {"acc": 0}
    assert "acc" in ok(run(finished, "search-ctl", "diff", "0", "1"))


def job_with(tmp_path: Path, text: str, config: str = CONFIG) -> tuple[Workspace, Job, configs.Config, str]:
    """A finished job of its own workspace that reported `text`, not yet with any numbers in its events."""
    folder = project(tmp_path / "p", config, job_sh=JOB)
    ws = Workspace(str(folder / ".search-run"))
    callback = Path(ws.task("default").job(0).attempt(1).callback)
    callback.mkdir(parents=True)
    (callback / "scalars.jsonl").write_text(text)
    result = {"type": "result", "job": 0, "attempt": 1, "state": "finished", "rc": 0, "start": 1.0, "end": 2.0}
    job = apply(Job(0, {}, {}, "true"), {**result, "retry": False, "spent": ""})
    return ws, job, configs.parse(config.encode(), "config.yaml"), str(callback)


def read_one(ws: Workspace, job: Job, config: configs.Config, *names: str) -> ranking.JobScalars:
    view = tasks.JobView(job, job.state, 1.0, 2.0, 0, "")
    return ranking.read(ws.task("default"), ws.project_name, config, [view], light=True, names=names)[0]


def test_files_are_read_where_the_events_do_not_do(tmp_path: Path) -> None:
    ws, job, config, callback = job_with(tmp_path, '{"acc": 0.5}\n')
    old = read_one(ws, job, config, "acc")
    assert old.series == {"acc": {1: 0.5}} and ranking.reward(old, "acc") == 0.5  # an event of an old version

    said = numbers.recorded(config, Reading({"acc": {1: 0.75}}, 0), callback)
    event = {"type": "numbers", "job": 0, "attempt": 1, **said}
    new = read_one(ws, apply(job, event), config, "acc")
    assert new.series == {} and ranking.reward(new, "acc") == 0.75

    other = configs.parse(CONFIG.replace("0-9", "a-z").encode(), "config.yaml")  # a monitor that was mended since
    assert ranking.reward(read_one(ws, apply(job, event), other, "acc"), "acc") == 0.5
    assert apply(job, {**event, "attempt": 2}) == job  # of an attempt that this is not

    again = apply(apply(job, event), {"type": "launch", "time": 3.0, "job": 0, "attempt": 2, "gpus": []})
    assert again.numbers is None and again.monitor == ""


def test_a_job_that_reports_10_000_names_makes_no_giant_event(tmp_path: Path) -> None:
    line = json.dumps({**{f"gradient of layer {i}": float(i) for i in range(9_999)}, "acc": 0.5})
    ws, job, config, callback = job_with(tmp_path, line + "\n")
    reading = Reading({name: {1: value} for name, value in json.loads(line).items()}, 0)
    said = numbers.recorded(config, reading, callback)
    assert len(json.dumps(said)) < numbers.MAX_BYTES + 200
    kept = said["numbers"].split("|")
    assert kept[:2] == ["acc 1 0.5", "gradient%20of%20layer%200 1 0.0"] and len(kept) + said["more"] == 10_000
    job = apply(job, {"type": "numbers", "job": 0, "attempt": 1, **said})
    assert read_one(ws, job, config, "acc").known is not None
    assert ranking.reward(read_one(ws, job, config, "gradient of layer 9998"), "gradient of layer 9998") == 9998
    assert len(read_one(ws, job, config).series) == 10_000


def test_records_and_callbacks_are_still_looked_at(tmp_path: Path) -> None:
    ws, job, config, callback = job_with(tmp_path, "")
    Path(callback, "records.jsonl").write_text('{"arch": {"d": 1}, "metric": {"acc": 0.25}}\n')
    Path(callback, "pre.json").write_text('{"a": 1}')
    said = numbers.recorded(config, Reading({}, 0), callback)
    assert said["left"] == ["records", "pre"]
    found = read_one(ws, apply(job, {"type": "numbers", "job": 0, "attempt": 1, **said}), config)
    assert found.pre == {"a": 1} and found.after is None and len(found.records) == 1 and found.known == {}


@pytest.mark.parametrize("name", ["x", "val/acc", "a b|c%7C", "准确率 %20"])
@pytest.mark.parametrize(
    ("series", "found"),
    [
        ({1: 0.5}, Summary(1, 0.5, 1, 0.5, 1, 0.5)),
        ({1: 2.0, 2: 1.0, 3: 2.0}, Summary(3, 2.0, 2, 1.0, 1, 2.0)),
        ({1: 2.0, 2: math.inf}, Summary(2, math.inf, 1, 2.0, 1, 2.0)),
        ({1: math.nan, 2: -math.inf}, Summary(2, -math.inf, 2, math.nan, 2, math.nan)),
    ],
)
def test_summaries_survive_the_event(series: dict[int, float], found: Summary, name: str) -> None:
    config = configs.parse(CONFIG.encode(), "config.yaml")
    said = json.loads(json.dumps(numbers.recorded(config, Reading({name: series, "y": {1: 1.0}}, 0), "nowhere")))
    job = apply(Job(0, {}, {}, "true", attempt=1), {"type": "numbers", "job": 0, "attempt": 1, **said})
    known = numbers.of(job, said["monitor"])
    assert known is not None and str(dict(known)) == str({name: found, "y": Summary(1, 1.0, 1, 1.0, 1, 1.0)})
