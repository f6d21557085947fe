"""search-ctl table: jobs of one task or several, chosen, ordered, cut to the terminal."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from searchkit.suite.cli import table_rows
from tests.support.suite import ok, project, run, task_dir

CONFIG = """
task:
  template: sh job.sh {lr} {batch-size} {kind}
  search_args:
    - {type: Categorical, name: lr, value: [1e-3, 0.01, 0.1]}
    - {type: Categorical, name: batch-size, value: [8, 16]}
    - {type: Categorical, name: kind, value: [same]}
monitor: {reward_attribute: acc}
"""
JOB = """
[ $1 = 0.1 ] && [ $2 = 16 ] && exit 3
echo '{"step": 1, "acc": 0.9, "loss": 5}' >> $SEARCHKIT_CALLBACK/scalars.jsonl
[ $1 = 0.1 ] || echo '{"step": 2, "acc": '$1', "loss": '$2'}' >> $SEARCHKIT_CALLBACK/scalars.jsonl
[ $1 = 0.1 ] && echo '{"step": 2, "acc": NaN}' >> $SEARCHKIT_CALLBACK/scalars.jsonl
true
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = project(tmp_path_factory.mktemp("table") / "p", CONFIG, job_sh=JOB)
    ok(run(folder, "search-run", "config.yaml"), 1)
    (folder / "other.yaml").write_text(CONFIG.replace("{lr}", "{rate}").replace("name: lr", "name: rate"))
    ok(run(folder, "search-run", "--task", "other", "other.yaml"), 1)
    return folder


def rows(folder: Path, *argv: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ok(run(folder, "search-ctl", "table", *argv, "--json")))["rows"]
    return found


def jobs(folder: Path, *argv: str) -> list[int]:
    return [row["job"] for row in rows(folder, *argv)]


def test_one_row_a_job(done: Path) -> None:
    lines = ok(run(done, "search-ctl", "table")).splitlines()
    assert lines[0].split() == ["job", "state", "lr", "batch-size", "acc", "time"]  # `kind` does not vary
    assert lines[1].split()[:5] == ["0", "finished", "1e-3", "8", "0.001"] and lines[1].endswith(" s")
    assert [line.split()[4] for line in lines[5:]] == ["nan", "-"] and "error" in lines[6]
    assert len(lines) == 7 and len({len(line) for line in lines}) == 1


@pytest.mark.slow
def test_order_and_choice(done: Path) -> None:
    assert jobs(done, "--sort", "acc") == [0, 1, 2, 3, 4, 5]
    assert jobs(done, "--sort", "-acc") == [2, 3, 0, 1, 4, 5]  # what has no number comes last both ways
    assert jobs(done, "--sort", "-loss", "--top", "3") == [1, 3, 0]
    assert jobs(done, "--top", "2") == [2, 3]  # the best
    assert jobs(done, "--sort", "state", "--jobs", "@failed,0") == [5, 0]
    said = run(done, "search-ctl", "table", "--where", "batch-size > 8 and acc < 0.5")
    assert (
        ok(said).count("\n") == 3 and "left out: 1 without a value that" in said.stderr and "2 of 6 rows" in said.stderr
    )
    assert jobs(done, "--where", "state in ['error']") == [5]
    assert jobs(done, "--where", "lr >= 0.01 and exit_code == 0 and time < 60") == [2, 3, 4]
    assert jobs(done, "--where", "scalar.loss == 16 or min.acc == 0.9") == [1, 3, 4]
    assert rows(done, "--columns", "job,kind,max.acc,loss", "--jobs", "2") == [
        {"job": 2, "kind": "same", "max.acc": 0.9, "loss": 8.0}
    ]


@pytest.mark.slow
def test_infinities_come_last_and_an_objective_without_numbers_is_a_column(tmp_path: Path) -> None:
    text = "task: {template: 'echo acc {v}', search_args: [{type: Categorical, name: v, value: [1, inf, 2, -inf]}]}\n"
    text += "monitor: {reward_attribute: acc, regex: ['acc (?P<acc>.*)']}\n"
    folder = project(tmp_path / "p", text)
    ok(run(folder, "search-run", "config.yaml"))
    assert jobs(folder, "--sort", "acc") == [0, 2, 1, 3] and jobs(folder, "--sort", "-acc") == [2, 0, 1, 3]
    assert [row["max.acc"] for row in rows(folder, "--columns", "max.acc", "--sort", "-max.acc")] == [2, 1, None, None]
    (folder / "config.yaml").write_text(text.replace("attribute: acc", "attribute: acc2"))
    ok(run(folder, "search-run", "config.yaml"))
    done = run(folder, "search-ctl", "table", "--sort", "-acc2")
    assert "acc2" in ok(done).splitlines()[0] and done.stderr == "note: no job has a number for 'acc2'\n"
    assert "no job has 'acc3'" in run(folder, "search-ctl", "table", "--sort", "-acc3").stderr


def test_several_tasks(done: Path) -> None:
    found = rows(done, "--task", "default,other", "--where", "acc > 0", "--sort", "-acc")
    assert [(row["task"], row["job"]) for row in found][:4] == [
        ("default", 2),
        ("default", 3),
        ("other", 2),
        ("other", 3),
    ]
    assert found[0]["lr"] == 0.01 and found[0]["rate"] is None and found[2]["rate"] == 0.01
    assert len(rows(done, "--task", "default,other", "--top", "3")) == 3


@pytest.mark.slow
def test_stages_and_records_are_rows_too(tmp_path: Path) -> None:
    record = '{"arch": {"a": 1}, "metric": {"acc": 0.5}}'
    text = f"""
stages:
  - name: one
    task: {{template: "true {{i}}", search_args: [{{type: Categorical, name: i, value: ["a\\nb", 2]}}]}}
  - name: two
    task: {{template: "echo '{record}' > $SEARCHKIT_CALLBACK/records.jsonl"}}
""".replace(record, record.replace('"', '\\"'))
    folder = project(tmp_path / "p", text)
    ok(run(folder, "search-run", "--task", "t", "config.yaml"))
    found = rows(folder, "--task", "t")
    assert [(row["task"], row["i"]) for row in found] == [("t.one", "a\nb"), ("t.one", 2), ("t.two", None)]
    assert rows(folder, "--task", "t,t.one") == found and len(rows(folder, "--task", "t.one,t")) == 3
    assert found[2]["job"].startswith("0:") and found[2]["metric.acc"] == 0.5
    assert (
        len(ok(run(folder, "search-ctl", "table", "--task", "t")).splitlines()) == 4
    )  # a value's newline is none of ours


def test_csv(done: Path) -> None:
    text = ok(run(done, "search-ctl", "table", "--csv", "--columns", "job,lr,acc,time"))
    table = list(csv.DictReader(io.StringIO(text)))
    assert table[2]["lr"] == "0.01" and table[2]["acc"] == "0.01" and float(table[2]["time"]) >= 0


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--sort", "acx"], "no job has 'acx' (did you mean acc?)"),
        (["--where", "acc >"], "the expression can't go on like this"),
        (["--columns", "job,lrr"], "no job has 'lrr' (did you mean lr?)"),
        (["--where", "state > 3"], "can't evaluate"),
        (["--task", "default,other", "--jobs", "0"], "--jobs names jobs of one task"),
        (["--csv", "--json"], "exclude each other"),
        (["--task", ","], "names no task"),
    ],
)
def test_what_is_refused(done: Path, argv: list[str], said: str) -> None:
    answer = run(done, "search-ctl", "table", *argv)
    assert answer.returncode == 2 and said in answer.stderr


def test_no_job_s_folder_is_opened(done: Path) -> None:
    before = ok(run(done, "search-ctl", "table", "--task", "other", "--csv", "--columns", "job,acc,loss,max.acc"))
    (task_dir(done, "other") / "jobs/all").rename(done / "away")
    assert (
        ok(run(done, "search-ctl", "table", "--task", "other", "--csv", "--columns", "job,acc,loss,max.acc")) == before
    )
    (done / "away").rename(task_dir(done, "other") / "jobs/all")


@pytest.mark.parametrize("width", [200, 60, 40, 25])
def test_it_fits_the_terminal(done: Path, width: int) -> None:
    answer = run(
        done, "search-ctl", "table", "--columns", "job,state,acc,command,run_path", env={"COLUMNS": str(width)}
    )
    assert max(map(len, ok(answer).splitlines())) <= width
    assert ("no room for" in answer.stderr) == (width < 60)


def test_fitting_cuts_long_cells_first() -> None:
    columns = [["job", "1"], ["name", "a" * 30], ["loss", "0.25"]]
    lines, notes = table_rows.fit(columns, 24, {"job"})
    assert lines == ["job  name           loss", f"  1  {'a' * 12}…  0.25"] and not notes
    lines, notes = table_rows.fit(columns, 15, {"job", "loss"})
    assert lines == ["job  loss", "  1  0.25"] and "no room for 1 columns: name" in notes[0]
