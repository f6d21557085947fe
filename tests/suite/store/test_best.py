"""The search argument `Best`: the best jobs of one stage are what a later stage runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from searchkit.errors import ConfigError
from searchkit.suite.config import read as c
from tests.support.suite import HARNESS, events, ok, project, run, show, start, task_dir, wait_for

pytestmark = pytest.mark.slow

# Reports its first word as acc and the second, where there is one, as macs; `none` is not reported.
JOB = """
echo "$SEARCHKIT_JOB" > out.txt
echo "{$SEARCHKIT_JOB}" > "$SEARCHKIT_CHECKPOINT/state"
test "$1" = none || echo "{\\"acc\\": $1, \\"other\\": 1}" >> "$SEARCHKIT_CALLBACK/scalars.jsonl"
test -z "$2" || echo "{\\"macs\\": $2, \\"step\\": 1}" >> "$SEARCHKIT_CALLBACK/scalars.jsonl"
"""
TOP = "resources: {gpus: 0}\ntask: {reward_attribute: acc}\n"


def staged(first: str, second: str, *, top: str = TOP, more: str = "") -> str:
    """A config of two stages, `one` and `two`; each is the text of its task, and of what else it has."""
    return f"{top}stages:\n- name: one\n{_indent(first)}\n- name: two\n{_indent(second)}\n{more}"


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip("\n").splitlines())


def grid(*scores: str, then: str = "") -> str:
    """A stage with an argument `i` from 0 on, its scores, and an argument `half` that is i // 2."""
    rows = ", ".join(f"{{i: {i}, half: {i // 2}, score: {score}}}" for i, score in enumerate(scores))
    template = f"sh job.sh {{score}}{then} && true {{i}} {{half}}"
    return f"task:\n  template: {template}\n  search_args: [{{type: Nested, value: [{rows}]}}]"


def best(more: str, template: str) -> str:
    return f"task:\n  template: {template}\n  search_args: [{{type: Best, stage: one, {more}}}]"


def search(folder: Path, *more: str, **env: str) -> Any:
    return run(folder, "search-run", "--task", "t", "config.yaml", "-j", "2", *more, env=env)


def made(folder: Path, config: str) -> Path:
    return project(folder, config, job_sh=JOB)


def kept(folder: Path, stage: str = "two") -> list[Any]:
    return list(json.loads((task_dir(folder, f"t.{stage}") / "best.json").read_text()))


def taken(folder: Path, stage: str = "two") -> list[int]:
    """The jobs whose values a stage has, in its order."""
    return [row["job"] for one in kept(folder, stage) for row in one["rows"]]


def params(folder: Path, n: int, stage: str = "two") -> dict[str, Any]:
    body = json.loads((task_dir(folder, f"t.{stage}") / f"jobs/all/{n}/params.json").read_text())
    return dict(body)


def jobs(folder: Path, stage: str = "two") -> list[dict[str, Any]]:
    numbers = sorted(int(path.name) for path in (task_dir(folder, f"t.{stage}") / "jobs/all").iterdir())
    return [params(folder, n, stage) for n in numbers]


# ---- which rows


VALUES = ["1e-3", "null", "true", "[1, 2.50]", "{a: 1, b: [x]}", "a b", "010", "-0.0", "'7'", "~"]


def test_values_and_texts_survive(tmp_path: Path) -> None:
    rows = ", ".join(f"{{score: {i}, v: {v}}}" for i, v in enumerate(VALUES))
    first = f"task:\n  template: sh job.sh {{score}} && echo {{v}}\n  search_args: [{{type: Nested, value: [{rows}]}}]"
    folder = made(tmp_path / "p", staged(first, best("number: 9, args: [v]", "echo {v}")))
    ok(search(folder))
    order = list(range(len(VALUES) - 1, 0, -1))
    order.remove(1)  # the null of job 9, `~`, has another text, so it is another value; job 0 is not among the 9
    order.insert(order.index(2) + 1, 1)
    assert taken(folder) == order
    for n, source in enumerate(order):
        theirs, ours = params(folder, source, "one"), params(folder, n)
        assert {name: ours[name]["v"] for name in ("values", "text")} == {
            name: theirs[name]["v"] for name in ("values", "text")
        }
        log = (task_dir(folder, "t.two") / f"jobs/all/{n}/log").read_text()
        assert log == (task_dir(folder, "t.one") / f"jobs/all/{source}/log").read_text()
    assert repr(jobs(folder)[order.index(7)]["values"]["v"]) == "-0.0"
    assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck"))


def test_all_arguments_the_best_first_and_one_beside_another(tmp_path: Path) -> None:
    second = """
task:
  template: sh job.sh {score} && echo {i} {half} {seed}
  search_args:
    - {type: Best, stage: one, number: 2}
    - {type: Categorical, name: seed, value: [7, 8]}
  constraints: [i * seed != 21]
"""
    folder = made(tmp_path / "p", staged(grid("4", "1", "3", "4", "2"), second))
    out = ok(search(folder, "--dry-run"))
    assert "task t.two: its jobs are known when the stages before it have ended (i, half, score)" in out
    assert not task_dir(folder, "t").exists()
    ok(search(folder))
    assert taken(folder) == [0, 3]  # of two as good, the earlier
    assert [list(job["text"].values()) for job in jobs(folder)] == [
        ["0", "0", "4", "7"], ["0", "0", "4", "8"], ["3", "1", "4", "8"]
    ]  # fmt: skip


def test_rows_that_are_the_same_count_once(tmp_path: Path) -> None:
    folder = made(
        tmp_path / "p", staged(grid("6", "5", "4", "1", "2", "3"), best("number: 4, args: [half]", "echo {half}"))
    )
    done = search(folder)
    assert ok(done) and taken(folder) == [0, 2, 5]
    assert [job["values"] for job in jobs(folder)] == [{"half": 0}, {"half": 1}, {"half": 2}]
    said = "gives 3 of 4 rows (of 6 jobs: 6 finished with acc, some with the same values)"
    assert f"note: half: stage 'one' {said}" in done.stderr


def test_the_mode_is_that_of_the_stage_and_fewer_are_said(tmp_path: Path) -> None:
    first = grid("4", "none", ".NaN", "2", "3").replace(".NaN", "NaN") + "\nmonitor: {mode: min}"
    folder = made(tmp_path / "p", staged(first, best("number: 5, args: [i]", "echo {i}")))
    done = search(folder)
    assert ok(done) and taken(folder) == [3, 4, 0]
    said = "note: i: stage 'one' gives 3 of 5 rows (of 5 jobs: 3 finished with acc, "
    assert said + "2 finished without, reported: acc, other)" in done.stderr
    assert "rows" not in search(folder).stderr  # it was decided before


def test_several_objectives_front_by_front(tmp_path: Path) -> None:
    objectives = "search: {objectives: [{name: acc, mode: max}, {name: cost, mode: min, value: macs * 2}]}"
    pairs = [(1, 1), (2, 1), (5, 5), (4, 2), (3, 3), (1, 0), (5, 6)]  # fronts: 1 2 3 5 | 0 4 6; acc first within each
    rows = ", ".join(f"{{acc: {acc}, macs: {macs}}}" for acc, macs in pairs)
    first = f"task:\n  template: sh job.sh {{acc}} {{macs}}\n  search_args: [{{type: Nested, value: [{rows}]}}]\n"
    second = best("number: 6, args: [acc]", "echo {acc}")
    folder = made(tmp_path / "p", staged(first + objectives, second))
    ok(search(folder))
    # 6 and 2 have the same acc, as 5 and 0: the row is there once
    assert taken(folder) == [2, 3, 1, 5, 4]
    assert kept(folder)[0]["rows"][0]["scores"] == [5.0, 10.0]


def test_what_a_condition_switched_off_is_left_out(tmp_path: Path) -> None:
    first = """
task:
  template: sh job.sh {score} && true {opt} {m?--m}
  search_args:
    - {type: Nested, value: [{opt: adam, score: 2}, {opt: sgd, score: 1}]}
    - {type: Categorical, name: m, value: [0.9], when: opt == 'sgd'}
"""
    second = best("number: 2, args: [opt, m]", "echo {opt} {m?--momentum}")
    folder = made(tmp_path / "p", staged(first, second))
    ok(search(folder))
    assert [job["command"] for job in jobs(folder)] == ["echo adam ", "echo sgd --momentum 0.9"]
    assert [job["values"] for job in jobs(folder)] == [{"opt": "adam"}, {"opt": "sgd", "m": 0.9}]


def test_without_any_score_it_is_said_what_was_reported(tmp_path: Path) -> None:
    folder = made(tmp_path / "p", staged(grid("none", "none"), best("number: 1, args: [i]", "echo {i}")))
    (folder / "job.sh").write_text('echo "{\\"accuracy\\": 1}" > "$SEARCHKIT_CALLBACK/scalars.jsonl"')
    done = search(folder)
    assert done.returncode == 2 and not task_dir(folder, "t.two").exists()
    assert "i: stage 'one' has no best job: none has finished with acc as a finite number" in done.stderr
    assert "(of 2 jobs: 2 finished without, reported: accuracy)" in done.stderr
    assert "search-ctl restart --task t.one" in done.stderr
    (folder / "job.sh").write_text('echo "{\\"acc\\": 1}" > "$SEARCHKIT_CALLBACK/scalars.jsonl"')
    ok(run(folder, "search-ctl", "restart", "--task", "t.one", "--no-start"))
    ok(search(folder))
    assert taken(folder) == [0]


# ---- what a job left


def test_a_later_stage_finds_what_the_job_left(tmp_path: Path) -> None:
    """Also of a second attempt, through a stage between, and where the project has moved."""
    first = grid("1", "3", "2", then=" && test $SEARCHKIT_ATTEMPT = 2") + "\nrun: {retries: 1}"
    second = best("number: 2, args: [i], folder: from, checkpoint: ckpt", "sh two.sh {i} {from} {ckpt}")
    third = """
- name: three
  task:
    template: cat {new}/all.txt {from}/out.txt && test -e "$OPEN"
    search_args: [{type: Best, stage: two, number: 1, args: [from], folder: new}]
"""
    folder = project(
        tmp_path / "p",
        staged(first, second, more=third),
        job_sh=JOB,
        two_sh='cat "$2/out.txt" "$3/state" > all.txt; sh job.sh "$1"',
    )
    assert search(folder, OPEN=str(tmp_path / "open")).returncode == 1
    assert [job["values"] for job in jobs(folder)] == [
        {"i": 2, "from": "../best/from/2", "ckpt": "../best/ckpt/2"},
        {"i": 1, "from": "../best/from/1", "ckpt": "../best/ckpt/1"},
    ][::-1]
    assert [job["text"]["from"] for job in jobs(folder)] == ["1", "2"]
    assert (task_dir(folder, "t.two") / "jobs/tree/i/1/from/1/ckpt/1").is_symlink()
    assert os.readlink(task_dir(folder, "t.two") / "best/from/1") == "../../../t.one/jobs/all/1/attempt-2/p"
    (tmp_path / "open").touch()
    folder = folder.rename(tmp_path / "q")
    ok(run(folder, "search-ctl", "restart", "--task", "t", "--failed", "--no-start", "--same-code"))
    ok(search(folder, OPEN=str(tmp_path / "open")))
    assert jobs(folder, "three")[0]["text"] == {"from": "2", "new": "1"}
    log = task_dir(folder, "t.three") / "jobs/all/0/attempt-2/log"
    log = log if log.exists() else task_dir(folder, "t.three") / "jobs/all/0/log"
    assert log.read_text().endswith("2\n{2}\n2\n")
    assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck"))
    ok(run(folder, "search-ctl", "delete", "--task", "t.one", "--jobs", "1", "-y"))
    done = run(folder, "search-ctl", "fsck")
    assert "t.two/best/from/1: missing or damaged" in done.stdout + done.stderr


def test_files_of_subnets_come_along_ranked_by_their_records(tmp_path: Path) -> None:
    space = [{"arch": {"width": w}, "data": {"input_shape": 32}} for w in (1, 2, 3)]
    score = """
import json, os, sys
for line in open(sys.argv[1]):
    body = json.loads(line)
    body["metric"] = {"m": {"mAP": -abs(body["arch"]["width"] - 2)}}
    open(os.environ["SEARCHKIT_CALLBACK"] + "/records.jsonl", "a").write(json.dumps(body) + "\\n")
"""
    first = "task:\n  template: python3 score.py {arch}\n  search_args: [{type: Subnet, name: arch, space: s.jsonl}]"
    second = best("number: 1", "cat {arch}")
    config = staged(first, second, top=TOP.replace("acc", "metric.m.mAP"))
    lines = [json.dumps(one) + "\n" for one in space]
    folder = project(tmp_path / "p", config, s_jsonl="".join(lines), score_py=score)
    ok(search(folder))
    assert taken(folder) == [1]
    here = task_dir(folder, "t.two") / "jobs/all/0"
    assert json.loads((here / "log").read_text()) == space[1]
    assert params(folder, 0)["text"] == params(folder, 1, "one")["text"]
    ok(run(folder, "search-ctl", "delete", "--task", "t.one", "-y"))
    assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck"))


# ---- a search before


RANDOM = """
task:
  template: sh job.sh {x} && test {n} -gt 0
  search_args: [{type: Uniform, name: x, low: 0, high: 1}, {type: Int, name: n, low: 1, high: 1000}]
search: {sampler: random, n_trials: 6, seed: 3}
"""


def test_a_search_after_a_search_and_its_failed_trials(tmp_path: Path) -> None:
    first = RANDOM.replace("-gt 0", "-gt 0 -a $SEARCHKIT_JOB != 2")
    second = """
task:
  template: sh job.sh {x} && echo {n} {y}
  search_args:
    - {type: Best, stage: one, number: 3}
    - {type: Uniform, name: y, low: 0, high: 1}
search: {sampler: random, n_trials: 4}
"""
    folder = made(tmp_path / "p", staged(first, second))
    out = ok(search(folder), 1)
    assert "task t: all 2 stages finished (1 failed)" in out
    theirs = [(params(folder, n, "one")["values"]) for n in range(6)]
    order = sorted((n for n in range(6) if n != 2), key=lambda n: -theirs[n]["x"])[:3]
    assert taken(folder) == order
    rows = [theirs[n] for n in order]
    assert len(jobs(folder)) == 4 and all({k: job["values"][k] for k in "xn"} in rows for job in jobs(folder))
    assert show(folder, "t")["status"] == "error"
    assert search(folder).returncode == 1
    whole = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(f"{whole}run: {{on_error: stop}}\n")
    out = ok(search(folder, "--overwrite"), 1)
    assert "task t stops at stage one (job 2 error" in out and not task_dir(folder, "t.two").exists()


# ---- once


def test_a_resume_never_decides_again(tmp_path: Path) -> None:
    second = best("number: 2, args: [i], folder: from", 'echo {i} {from} && test -e "$OPEN"')
    folder = made(tmp_path / "p", staged(grid("1", "2", "3"), second))
    env = {"OPEN": str(tmp_path / "open")}
    assert search(folder, **env).returncode == 1
    before = (task_dir(folder, "t.two") / "best.json").read_bytes()
    assert taken(folder) == [2, 1]
    (folder / "job.sh").write_text(JOB.replace('\\"acc\\": $1', '\\"acc\\": -$1'))
    ok(run(folder, "search-ctl", "restart", "--task", "t.one", "--jobs", "0-2", "--no-start"))
    ok(run(folder, "search-ctl", "restart", "--task", "t.two", "--no-start"))
    (tmp_path / "open").touch()
    ok(search(folder, **env))
    assert (task_dir(folder, "t.two") / "best.json").read_bytes() == before
    assert [job["text"] for job in jobs(folder)] == [{"i": "2", "from": "2"}, {"i": "1", "from": "1"}]
    ok(run(folder, "search-ctl", "delete", "--task", "t.two", "-y"))
    ok(search(folder, **env))  # made anew, with what the first stage holds now
    assert taken(folder) == [0, 1]


def test_damaged_rows_are_named(tmp_path: Path) -> None:
    folder = made(tmp_path / "p", staged(grid("1", "2"), best("number: 1, args: [i]", 'echo {i} && test -e "$OPEN"')))
    env = {"OPEN": str(tmp_path / "open")}
    assert search(folder, **env).returncode == 1
    path = task_dir(folder, "t.two") / "best.json"
    raw = path.read_bytes()
    for damage in (raw[:20], b"[]\n", None):
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        done = search(folder, **env)
        assert done.returncode == 5 and "best.json" in done.stderr and "fsck --task t.two" in done.stderr
        if damage != b"[]\n":
            done = run(folder, "search-ctl", "fsck", "--task", "t.two")
            assert "best.json: missing or damaged" in done.stdout + done.stderr
        path.touch()


KILLED = staged(RANDOM, best("number: 3, folder: from", "sleep $SLOW; cat {from}/out.txt && sh job.sh {x} && echo {n}"))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A project whose first stage has ended, and what the unbroken run made of the second."""
    folder = made(tmp_path_factory.mktemp("ended") / "p", KILLED)
    ok(search(folder, SLOW="0"))
    facts = second(folder)
    assert (
        taken(folder)
        and len(facts["jobs"]) == 3
        and [row["text"]["from"] for row in facts["kept"][0]["rows"]] == [str(n) for n in taken(folder)]
    )
    ok(run(folder, "search-ctl", "delete", "--task", "t.two", "-y"))
    return folder, facts


def second(folder: Path) -> dict[str, Any]:
    """All that the second stage decided and accepted."""
    accepted = [e["job"] for e in events(folder, "t.two") if e["type"] == "result" and not e["retry"]]
    return {"kept": kept(folder), "jobs": jobs(folder), "accepted": sorted(accepted)}


@pytest.mark.timeout(200)
def test_killed_between_the_stages_and_while_the_second_is_made(
    ended: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Right after a change to a file, or half-way through a write, from the end of the first stage on."""
    pattern, unbroken = ended
    log = tmp_path / "log"
    shutil.copytree(pattern, tmp_path / "p", symlinks=True)
    ok(search(tmp_path / "p", SLOW="0", PYTHONPATH=str(HARNESS), SEARCHKIT_KILL_LOG=str(log)))
    changes = log.read_text().split()
    # The links to the three jobs are made in a row; the one rename right after is that of the whole task.
    links = next(i for i in range(len(changes)) if changes[i : i + 3] == ["symlink"] * 3)
    whole = links + changes[links:].index("rename")
    points = [("SEARCHKIT_KILL_AT", n + 1) for n in (1, links - 3, links + 1, whole - 1, whole, whole + 2, whole + 6)]
    points.append(("SEARCHKIT_TEAR_AT", links + changes[links:].index("write") + 1))  # best.json
    for i, (variable, n) in enumerate(points):
        what = f"{variable}={n} ({changes[n - 1]})"
        folder = tmp_path / f"{i}/p"
        shutil.copytree(pattern, folder, symlinks=True)
        done = search(folder, SLOW="0", PYTHONPATH=str(HARNESS), **{variable: str(n)})
        assert done.returncode == -9, what
        assert task_dir(folder, "t.two").exists() == (n > whole), what  # whole, or not there
        ok(search(folder, SLOW="0"))
        assert second(folder) == unbroken, what
        assert "0 fault(s)" in ok(run(folder, "search-ctl", "fsck")), what


def test_killed_while_the_second_stage_runs(ended: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    pattern, unbroken = ended
    folder = tmp_path / "p"
    shutil.copytree(pattern, folder, symlinks=True)
    process = start(folder, "search-run", "--task", "t", "config.yaml", "-j", "2", env={"SLOW": "0.5"})
    wait_for(lambda: (task_dir(folder, "t.two") / "jobs/all/0/log").exists())
    process.kill()
    process.communicate()
    ok(search(folder, SLOW="0"))
    assert second(folder) == unbroken


# ---- what a config may say


ONE = """{name: one, task: {reward_attribute: acc, template: "x {lr} {m?--m}", search_args: [
  {type: Categorical, name: lr, value: [1, 2]}, {type: Categorical, name: m, value: [0.9], when: lr == 1}]}}"""
BARE = "{name: one, task: {reward_attribute: acc, template: x}}"
FAULTS = {  # of an argument on line 6, from column 3
    "stage: one": ["6:3: stages[1].search_args[0]: missing key 'number'"],
    "number: 2": ["6:3: stages[1].search_args[0]: missing key 'stage'"],
    "stage: one, number: 0": ["6:36: stages[1].search_args[0].number: must be a whole number of 1 or more, not 0"],
    "stage: oen, number: 2": [
        "6:23: stages[1].search_args[0].stage: 'oen' must be a stage that runs before (did you mean one?)"
    ],
    "stage: two, number: 2": [
        "6:23: stages[1].search_args[0].stage: 'two' must be a stage that runs before (valid: one)"
    ],
    "stage: one, number: 2, args: [lr, lrr]": [
        "6:50: stages[1].search_args[0].args: the stage 'one' has no argument 'lrr' (did you mean lr?)"
    ],
    "stage: one, number: 2, args: [m]": [
        "6:46: stages[1].search_args[0].args: 'm' needs 'lr' beside it, on which it depends in that stage"
    ],
    "stage: one, number: 2, args: lr": ["6:45: stages[1].search_args[0].args: must be a list, not 'lr'"],
    "stage: one, number: 2, args: []": [
        "6:23: stages[1].search_args[0].stage: takes no argument; "
        "name one for what its jobs left: folder, or checkpoint"
    ],
    "stage: one, number: 2, folder: lr": ["6:47: stages[1].search_args[0]: 'lr' is declared twice (first on line 6)"],
    "stage: one, number: 2, name: lr": ["6:39: stages[1].search_args[0]: unknown key 'name' (did you mean number?)"],
}


def faults(arg: str, template: str = "x", one: str = ONE) -> list[str]:
    text = f"stages:\n- {one}\n- name: two\n  task: {{template: '{template}', search_args: [\n"
    with pytest.raises(ConfigError) as e:
        c.parse(f"{text}  {{type: Best, {arg}}}]}}\n".encode(), "c.yaml")
    return [line.removeprefix("c.yaml:") for line in str(e.value).splitlines()]


@pytest.mark.parametrize("arg", FAULTS)
def test_faults(arg: str) -> None:
    assert faults(arg) == FAULTS[arg]


def test_faults_of_the_stage_and_the_template() -> None:
    (said,) = faults("stage: one, number: 1", one=BARE)
    assert "the stage 'one' has no arguments; name one for what its jobs left: folder, or checkpoint" in said
    (said,) = faults("stage: one, number: 1, args: [], folder: f", one=ONE.replace("reward_attribute: acc, ", ""))
    assert "6:57: stages[1].search_args: the stage 'one' has neither reward_attribute nor objectives" in said
    (said,) = faults("stage: one, number: 1", "{lr} {m}")
    assert "{m} may have no value, as it has a condition; write {m?--m}" in said
    with pytest.raises(ConfigError) as e:
        c.parse(b"task: {template: x, search_args: [{type: Best, stage: a, number: 1}]}", "c.yaml")
    assert "1:55: search_args[0].stage: this config has no stages, whose best jobs could be taken" in str(e.value)
