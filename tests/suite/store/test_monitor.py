"""Which numbers count: tags that several folders hold, the last value or the best, and lines that can't be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from searchkit.suite.config import read as configs
from searchkit.suite.store import numbers, tags, trials
from searchkit.suite.store.scalars import Reader
from tests.suite.store.test_tfevents import event, record, simple, write_events
from tests.support.suite import events, ok, project, run

A, B, C = {1: 0.1}, {1: 0.2}, {1: 0.3}


@pytest.mark.parametrize(
    ("folders", "said", "series", "shared"),
    [
        ({"logs/train": {"acc": A}}, (), {"acc": A}, {}),
        ({"logs/train": {"acc": A}, "logs/val": {"loss": B}}, (), {"acc": A, "loss": B}, {}),
        (
            {"logs/train": {"acc": A, "lr": C}, "logs/val": {"acc": B}},
            (),
            {"train/acc": A, "val/acc": B, "lr": C},
            {"acc": ("train/acc", "val/acc")},
        ),
        ({".": {"acc": A}, "val": {"acc": B}}, (), {"./acc": A, "val/acc": B}, {"acc": ("./acc", "val/acc")}),
        (
            {"a/train": {"acc": A}, "b/train": {"acc": B}},
            (),
            {"a/train/acc": A, "b/train/acc": B},
            {"acc": ("a/train/acc", "b/train/acc")},
        ),
        (  # a tag that looks like a folder and a tag
            {"train": {"acc": A}, "val": {"acc": B}, "x": {"train/acc": C}},
            (),
            {"./train/acc": A, "./val/acc": B, "train/acc": C},
            {"acc": ("./train/acc", "./val/acc")},
        ),
        # What the config says with its folder is called so, whether or not another folder holds it too.
        ({"logs/val": {"acc": B}}, ("val/acc",), {"val/acc": B}, {}),
        (
            {"logs/train": {"acc": A}, "logs/val": {"acc": B}},
            ("logs/val/acc",),
            {"train/acc": A, "logs/val/acc": B},
            {"acc": ("train/acc", "logs/val/acc")},
        ),
        ({"logs": {"val/acc": B}}, ("val/acc",), {"val/acc": B}, {}),
        (
            {"a/val": {"acc": A}, "b/val": {"acc": B}},
            ("val/acc",),
            {"a/val/acc": A, "b/val/acc": B},
            {"acc": ("a/val/acc", "b/val/acc"), "val/acc": ("a/val/acc", "b/val/acc")},
        ),
    ],
)
def test_names_of_tags(folders: dict[str, Any], said: tuple[str, ...], series: dict[str, Any], shared: Any) -> None:
    assert tags.named(folders, said) == (series, shared)


def test_the_second_folder_may_come_late(tmp_path: Path) -> None:
    """What is named with its folder is the same series all along; the bare tag is none any more."""
    whole = Reader(str(tmp_path), workdir=str(tmp_path), tensorboard=True)
    named = Reader(str(tmp_path), workdir=str(tmp_path), tensorboard=True, named=("val/acc",))
    write_events(tmp_path / "logs/val/events.out.tfevents.1.h", [("acc", 1, 0.5)])
    assert whole.read(["acc"], ended=False).series == {"acc": {1: 0.5}}
    assert named.read(["val/acc"], ended=False).series == {"val/acc": {1: 0.5}}
    write_events(tmp_path / "logs/train/events.out.tfevents.1.h", [("acc", 1, 1.0)])
    reading = whole.read(["acc"], ended=False)
    assert (reading.series, dict(reading.shared)) == ({}, {"acc": ("train/acc", "val/acc")})
    assert named.read(["val/acc"], ended=False).series == {"val/acc": {1: 0.5}}


# Keras writes the same tags to two folders. Training accuracy goes up as the validation's goes down.
KERAS = f"""
import os, sys
n = int(sys.argv[1])
data = {{
    "train": [{", ".join(repr(record(event(1, simple("epoch_accuracy", v / 10)))) for v in (7, 8, 9))}],
    "validation": [{", ".join(repr(record(event(1, simple("epoch_accuracy", v / 10)))) for v in (6, 5, 4))}],
}}
for folder, records in data.items():
    os.makedirs(f"logs/{{folder}}")
    open(f"logs/{{folder}}/events.out.tfevents.1.host", "wb").write(records[n])
"""
GRID = """
task:
  template: "python3 job.py {n}"
  search_args: [{type: Categorical, name: n, value: [0, 1, 2]}]
monitor: {reward_attribute: epoch_accuracy}
"""
WAYS = "name one, train/epoch_accuracy or validation/epoch_accuracy"


@pytest.mark.slow
def test_the_reward_of_several_folders_must_be_named(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", GRID, job_py=KERAS)
    said = ok(run(folder, "search-run", "config.yaml"))
    assert f"  it is in several folders of event files: {WAYS}\n" in said
    assert WAYS in run(folder, "search-ctl", "best").stderr
    assert WAYS in run(folder, "search-ctl", "show-scalar", "-rt", "+1").stderr
    assert WAYS in run(folder, "search-ctl", "show-scalar", "-rt", "+1", "--metric", "epoch_accuracy").stderr
    found = ok(run(folder, "search-ctl", "show-scalar", "-rt", "+1", "--metric", "validation/epoch_accuracy"))
    assert "#Job Name: 0\n" in found
    (folder / "config.yaml").write_text(GRID.replace("epoch_accuracy", "validation/epoch_accuracy"))
    ok(run(folder, "search-run", "--task", "named", "config.yaml"))
    best = json.loads(ok(run(folder, "search-ctl", "best", "--task", "named", "--json")))
    assert (best["jobs"][0]["job"], round(best["jobs"][0]["scores"]["validation/epoch_accuracy"], 3)) == (0, 0.6)


@pytest.mark.slow
def test_a_trial_of_a_search_whose_reward_is_in_several_folders_fails(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", f"{GRID}\nsearch: {{n_trials: 3}}\n", job_py=KERAS)
    said = ok(run(folder, "search-run", "config.yaml"))
    assert f"note: epoch_accuracy is in several folders of event files: {WAYS}; it counts as a failed trial" in said
    assert all(e["scores"] is None for e in events(folder) if e["type"] == "result")


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", "search: {sampler: grid, n_trials: 3}\n"])
def test_one_folder_in_one_job_is_not_ranked_among_two_of_another(more: str, tmp_path: Path) -> None:
    """Job 2 has no validation: its curve of training, 0.9, was the best."""
    job = KERAS.replace(
        "for folder, records in data.items():", "for folder, records in list(data.items())[: 2 - n // 2]:"
    )
    folder = project(tmp_path / "p", GRID + more, job_py=job)
    said = ok(run(folder, "search-run", "-j", "1", "config.yaml"))
    assert (
        "epoch_accuracy is in several folders" in said
        if more
        else "note: no job ever reported" in said and WAYS in said
    )
    assert all(e.get("scores") is None for e in events(folder) if e["type"] == "result")
    for words in (["best"], ["show-scalar", "-rt", "+1"], ["table", "--sort", "-epoch_accuracy"]):
        assert WAYS in run(folder, "search-ctl", *words).stderr, words
    assert "0.9" not in ok(run(folder, "search-ctl", "table"))
    assert "{'epoch_accuracy': {1: 0.8" in ok(run(folder, "search-ctl", "show-scalar", "--jobs", "2"))
    (folder / "config.yaml").write_text((GRID + more).replace("accuracy}", "accuracy, tensorboard: logs}"))
    assert "0 of them have epoch_accuracy" in ok(run(folder, "search-run", "config.yaml"))


# --- monitor.score ---------------------------------------------------------------------------------------------------

CURVES = """
import json, os, sys
for step, acc in enumerate(json.loads(sys.argv[1]), 1):
    with open(os.environ["SEARCHKIT_CALLBACK"] + "/scalars.jsonl", "a") as f:
        f.write(json.dumps({"step": step, "acc": acc} | ({"size": 1} if step == 1 else {})) + "\\n")
"""
SCORED = """
task:
  template: "python3 job.py {curve}"
  search_args: [{type: Categorical, name: curve, value: ["[1, 9, 2]", "[3, 4, 5]", "[1, Infinity, 4]"]}]
monitor: {reward_attribute: acc, score: SCORE}
"""


@pytest.mark.slow
@pytest.mark.parametrize("search", ["", "search: {n_trials: 3}\n"], ids=["grid", "search"])
@pytest.mark.parametrize(("score", "job", "value"), [("last", 1, 5.0), ("best", 0, 9.0)])
def test_the_last_or_the_best_value_ranks(tmp_path: Path, search: str, score: str, job: int, value: float) -> None:
    folder = project(tmp_path / "p", SCORED.replace("SCORE", score) + search, job_py=CURVES)
    ok(run(folder, "search-run", "config.yaml"))
    best = json.loads(ok(run(folder, "search-ctl", "best", "--json")))["jobs"][0]
    assert (best["job"], best["scores"]) == (job, {"acc": value})
    for more, first in (((), job), (("--best",), 0)):
        ranked = json.loads(ok(run(folder, "search-ctl", "show-scalar", "-rt", "+3", *more, "--json")))["rows"]
        assert ranked[0]["job"] == first
    if search:
        scores = [e["scores"] for e in events(folder) if e["type"] == "result"]
        assert sorted(scores) == ([[2], [4], [5]] if score == "last" else [[4], [5], [9]])


def test_the_best_of_an_expression() -> None:
    text = """
task: {template: "true"}
search: {sampler: random, n_trials: 1, objectives: [{name: trade, mode: max, value: "acc - size"}]}
monitor: {score: best}
"""
    (o,) = configs.parse(text.encode(), "c.yaml").objectives

    assert trials.at_the_end(o, {"acc": {1: 1.0, 2: 9.0, 3: 2.0}, "size": {1: 1.0}}) == 8.0
    assert numbers.summary({1: 1.0, 2: 9.0}).value("best", "max") == 9.0


# --- what can't be used ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_lines_that_can_not_be_used_are_named(tmp_path: Path) -> None:
    job = """
for i in 1 2 3 4; do echo noise; echo "loss=0.$i,"; done
[ $1 = 1 ] || echo loss=1.5e
[ $1 = 1 ] || printf 'oops\\n{"acc": "x"}\\n' > "$SEARCHKIT_CALLBACK/scalars.jsonl"
[ $1 = 1 ] || for i in 5 6; do echo "loss=${i}s"; done
"""
    config = """
task: {template: "sh job.sh {n}", search_args: [{type: Categorical, name: n, value: [1, 2]}]}
monitor: {regex: ['loss=(?P<loss>\\S+)']}
"""
    folder = project(tmp_path / "p", config, job_sh=job)
    ok(run(folder, "search-run", "config.yaml"))
    done = run(folder, "search-ctl", "show-scalar")
    assert done.stdout.count("{'loss': {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}}") == 2
    assert done.stderr.splitlines() == [
        "5 undecodable line(s) were skipped:",
        "  job 1, scalars.jsonl line 1: no JSON object",
        "  job 1, scalars.jsonl line 2: acc: 'x' is no number",
        "  job 1, log line 9: loss: '1.5e' is no number",
        "  … and 2 more",
    ]


def test_a_reward_that_no_regex_gives_is_noted() -> None:
    """It may come from elsewhere; found at the end of a night it would be too late."""
    text = "task: {template: x, reward_attribute: val/acc}\nmonitor: {regex: ['(?P<step>.) (?P<acc>.)', '(?P<f1>.)']}"
    said = "monitor.regex: no group is the reward 'val/acc' (there are acc, f1); it has to be reported in another way"
    assert said in configs.parse(text.encode(), "cfg.yaml").notes[0]
    for reward in ("acc", "f1"):
        assert not any("regex" in note for note in configs.parse(text.replace("val/acc", reward).encode(), "c").notes)
