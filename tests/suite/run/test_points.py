"""Points added to a task by hand, and points taken out: with a scheduler and without, and across kills."""

from __future__ import annotations

from pathlib import Path

import pytest

from searchkit.errors import UsageError
from searchkit.suite.config.read import parse
from searchkit.suite.run.points import parse as point_of
from tests.suite.store.test_changes import JOB, changed, grid, ran, replayed, search, told, values
from tests.support.suite import HARNESS, events, ok, project, run, show, start, states, task_dir, wait_for

pytestmark = pytest.mark.slow

CONFIG = parse(
    b"""
task:
  template: echo {lr} {list} {batch-size}
  search_args:
    - {type: Categorical, name: lr, value: [0.1]}
    - {type: Categorical, name: list, value: [[1, 2]]}
    - {type: Categorical, name: batch-size, value: [8]}
""",
    "a.yaml",
)


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("lr=0.1", {"lr": "0.1"}),
        ("list=[1, 2],lr=a=b, batch-size=8", {"list": "[1, 2]", "lr": "a=b", "batch-size": "8"}),
        ("lr='',list=x", {"lr": "''", "list": "x"}),
        ("list=[1,lr=2],lr=a,b", {"list": "[1,lr=2]", "lr": "a,b"}),
        ("lr='3,sed=1',list={a: ',lr=1'}", {"lr": "'3,sed=1'", "list": "{a: ',lr=1'}"}),
    ],
)
def test_points_as_words(text: str, point: dict[str, str]) -> None:
    assert point_of(CONFIG, text) == point


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.1", "a point is NAME=VALUE"),
        ("", "a point is NAME=VALUE"),
        ("x=1,lr=2", "no argument 'x'"),
        ("lr=1,sed=2", "no argument 'sed'"),
        ("lr=1,lists=2", "no argument 'lists'"),
        ("lr=1,lr=2", "twice"),
        ("lr=,list=x", "lr has no value"),
    ],
)
def test_words_that_are_no_points(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        point_of(CONFIG, text)


def add(folder: Path, *argv: str, code: int = 0) -> str:
    done = run(folder, "search-ctl", "add", *argv, env={"RUNS": str(folder.parent / "runs")})
    ok(done, code)
    return done.stdout + done.stderr


def test_a_grid_takes_points_by_hand(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", grid("1, 2"), job_sh=JOB)
    changed(folder, grid("1, 2"))
    assert "added jobs 2-3" in add(folder, "--no-start", "lr=2.5", "lr=3,w=9")
    assert "has these points already: jobs 0,2" in add(folder, "--no-start", "lr=1,w=8", "lr=2.5,w=8")
    assert states(folder)[2] == "pending" and len(ran(folder)) == 2
    for wrong, why in (("w=8", "'lr' is missing"), ("x=1", "the arguments are lr, w"), ("lr=1,lr=2", "twice")):
        assert why in add(folder, "--no-start", wrong, code=2)
    changed(folder, grid("1, 2, 2.5, 4"))  # what was added is no new point of the grid
    assert values(folder) == {0: (1, 8), 1: (2, 8), 2: (2.5, 8), 3: (3, 9), 4: (4, 8)}
    assert len(ran(folder)) == 5 and set(states(folder).values()) == {"finished"}
    said = add(folder, "lr=7")
    assert "a scheduler runs in the background" in said
    wait_for(lambda: states(folder).get(5) == "finished")
    assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck"))


def test_lists_and_mappings_by_hand_are_those_of_a_config(tmp_path: Path) -> None:
    config = """
task:
  template: sh job.sh {layers...} {d}
  search_args:
    - {type: Categorical, name: layers, value: [[1, 2]]}
    - {type: Categorical, name: d, value: [{a: 1}, "[a-z"]}
"""
    folder = project(tmp_path / "p", config, job_sh=JOB)
    changed(folder, config)
    assert "added jobs 2-3" in add(folder, "--no-start", "layers=[4, 5],d={b: 1}", "layers=[4],d='[a,d=1'")
    assert values(folder)[2] == ([4, 5], {"b": 1}) and values(folder)[3] == ([4], "[a,d=1")
    assert "these points already: jobs 1-2" in add(folder, "--no-start", "layers=[4,5],d={b: 1}", "layers=[1,2],d=[a-z")
    assert "d=[b-z: not YAML" in add(folder, "--no-start", "layers=[1],d=[b-z", code=2)
    assert "withdrew jobs 2" in ok(run(folder, "search-ctl", "withdraw", "layers=[4,5]"))
    changed(folder, config)
    assert [line.split()[1:] for line in ran(folder)][-1] == ["4", "[a,d=1"]


def test_added_and_withdrawn_while_a_scheduler_runs(tmp_path: Path) -> None:
    waits = "[ $1 = 1 ] && until [ -e $RUNS.go ]; do sleep 0.05; done\ntrue\n"
    folder = project(tmp_path / "p", grid("1, 2, 3, 4"), job_sh=JOB + waits)
    process = start(folder, "search-run", "-j", "1", "config.yaml", env={"RUNS": str(tmp_path / "runs")})
    wait_for(task_dir(folder).exists)
    wait_for(lambda: states(folder).get(0) == "running" and len(states(folder)) == 4)
    assert "added jobs 4" in add(folder, "lr=9")
    assert "withdrew jobs 1-2" in ok(run(folder, "search-ctl", "withdraw", "lr=2", "lr=3"))
    done = run(folder, "search-ctl", "show", "--task", "default", "--jobs", "2")
    assert "job 2 was withdrawn before it ran, or deleted" in done.stderr
    done = run(folder, "search-ctl", "withdraw", "--jobs", "0,3")
    ok(done, 4)
    assert "withdrew jobs 3" in done.stdout and "jobs 0 have run, or are running" in done.stderr
    done = run(folder, "search-ctl", "withdraw", "lr=77")
    ok(done, 2)
    assert "is none of" in done.stderr  # said by the scheduler
    (tmp_path / "runs.go").touch()
    ok_text, _ = process.communicate(timeout=30)
    assert process.returncode == 0, ok_text
    assert [line.split()[1] for line in ran(folder)] == ["1", "9"]
    assert states(folder) == {0: "finished", 4: "finished"} and show(folder)["status"] == "finished"
    changed(folder, grid("1, 2, 3, 4, 5"))  # what was withdrawn does not come back with a wider grid
    assert [line.split()[1] for line in ran(folder)] == ["1", "9", "5"]
    assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck"))


def test_a_search_takes_points_on_top_also_across_kills(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    sampler = "{type: nsga2, population: 4}"
    config = search(sampler, 5)
    ends = []
    for name, cuts in (("unbroken", ()), ("broken", (30, 48))):
        folder = project(tmp_path / name / "p", config, job_sh=JOB)
        changed(folder, config)
        assert "added jobs 5-6" in add(folder, "--no-start", "lr=0.75,opt=b", "opt=a")
        assert "lr must be a number" in add(folder, "--no-start", "lr=3,opt=a", code=2)
        more = search(sampler, 8)
        (folder / "config.yaml").write_text(more)
        for at in cuts:
            env = {"PYTHONPATH": str(HARNESS), "SEARCHKIT_KILL_AT": str(at), "RUNS": str(folder.parent / "runs")}
            run(folder, "search-run", "-j", "1", "config.yaml", env=env)
        changed(folder, more)
        ends.append(told(folder))
        assert len(ran(folder)) == 10
    assert ends[0] == ends[1] and len(ends[0]) == 10
    assert ends[0][5][2] == {"lr": 0.75, "opt": "b"}
    added = [e for e in events(tmp_path / "unbroken" / "p") if e["type"] == "create" and e.get("added")]
    assert [e["job"] for e in added] == [5, 6] and all(e["given"] for e in added)
    replayed(tmp_path / "unbroken" / "p", {0: config, 1: more})


def test_a_damaged_line_of_an_added_job_is_made_good_from_its_folder(tmp_path: Path) -> None:
    """No place in the grid says which job it was."""
    folder = project(tmp_path / "p", grid("1, 2"), job_sh=JOB)
    changed(folder, grid("1, 2"))
    add(folder, "--no-start", "lr=2.5", "lr=7")
    (path,) = [p for p in (task_dir(folder) / "events").iterdir() if b'"added":true' in p.read_bytes()]
    path.write_bytes(path.read_bytes().replace(b'"lr":"2.5"', b'"lr":"9.9"'))
    changed(folder, grid("1, 2, 3"))
    assert values(folder) == {0: (1, 8), 1: (2, 8), 2: (2.5, 8), 3: (7, 8), 4: (3, 8)}
    assert sorted(line.split()[1] for line in ran(folder)) == ["1", "2", "2.5", "3", "7"]


def test_what_is_withdrawn_is_said_where_it_is_not_made(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", grid("1, 2"), job_sh=JOB)
    changed(folder, grid("1, 2"))
    done = ok(run(folder, "search-ctl", "withdraw", "--jobs", "@pending"))
    assert "nothing to withdraw, --jobs @pending names no job" in done and "values" not in done
    said = ok(run(folder, "search-ctl", "withdraw", "lr=1"))
    assert "no job that has not run has these values\n  points with lr=1 will not be made later" in said
    wide = grid("1, 2", "8, 9")
    said = changed(folder, wide, "--dry-run")
    assert "1 of them are new, 2 jobs are there already\n1 point with lr=1 is withdrawn, and not made" in said
    assert "1 point with lr=1 is withdrawn, and not made" in changed(folder, wide)
    assert values(folder) == {0: (1, 8), 1: (2, 8), 2: (2, 9)}
    limited = grid("1, 2", "8, 9, 10, 11", "search: {n_trials: 4}\n")  # a grid with a limit leaves them out too
    assert "3 points with lr=1 are withdrawn, and not made" in changed(folder, limited)
    assert "will not be made later" in ok(run(folder, "search-ctl", "withdraw", "w=11"))
    assert "points with lr=1 or w=11 are" in changed(folder, limited.replace("n_trials: 4", "n_trials: 50"))
    assert values(folder) == {0: (1, 8), 1: (2, 8), 2: (2, 9), 3: (2, 10)}
