"""The search argument `Subnet`, and the records that jobs leave of the subnets they scored."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from searchkit.errors import ConfigError
from searchkit.records.arch import Arch
from searchkit.suite.config import read as c
from searchkit.suite.store import records
from searchkit.suite.workspace import AttemptPaths
from tests.support.suite import ok, project, run, states, task_dir


def record(width: int, shape: Any = 480, **metric: float) -> dict[str, Any]:
    body: dict[str, Any] = {
        "overhead": {"flops": width * 1_010_000_000, "params": width * 1_000_000, "convention": "macs"},
        "arch": {"backbone": {"stem": {"width": width}}},
        "data": {"input_shape": shape},
    }
    return {**body, "metric": {"finetune": metric}} if metric else body


def arch_id(width: int) -> str:
    return Arch.of({"backbone": {"stem": {"width": width}}}).id


def lines(*found: dict[str, Any]) -> str:
    return "".join(json.dumps(one) + "\n" for one in found)


RULES = "rules:\n  - {type: eval, where: overhead.flops < 5.5G}\n"
SPACE = lines(*(record(w) for w in range(1, 8)))
# Scores each subnet of its file: one record a line.
SCORE = """
import json, os, sys
out = open(os.path.join(os.environ["SEARCHKIT_CALLBACK"], "records.jsonl"), "a")
for line in open(sys.argv[1]):
    body = json.loads(line)
    body["metric"] = {"finetune": {"mAP": body["overhead"]["flops"] / 1e10}}
    out.write(json.dumps(body) + "\\n")
"""


def config(more: str = "", template: str = "cat {archs}", **top: str) -> str:
    text = f"task:\n  template: {template}\n  search_args:\n"
    text += f"    - {{type: Subnet, name: archs, space: space.jsonl{more}}}\n"
    return text + "resources: {gpus: 0}\n" + "".join(f"{key}: {value}\n" for key, value in top.items())


def space_project(folder: Path, text: str) -> Path:
    return project(folder, text, space_jsonl=SPACE, rules_yaml=RULES, score_py=SCORE)


def log(folder: Path, job: int) -> str:
    return (task_dir(folder) / f"jobs/all/{job}/log").read_text()


def test_one_record_a_job(tmp_path: Path) -> None:
    folder = space_project(tmp_path / "p", config(", rules: rules.yaml"))
    out = ok(run(folder, "search-run", "config.yaml", "--dry-run"))
    assert f"jobs/tree/archs/{arch_id(2)}-480 -> jobs/all/1" in out and not task_dir(folder).exists()
    ok(run(folder, "search-run", "config.yaml"))
    assert [log(folder, n) for n in range(5)] == [lines(record(w)) for w in range(1, 6)]
    assert sorted(states(folder)) == [0, 1, 2, 3, 4]
    tree = task_dir(folder) / "jobs/tree/archs"
    assert sorted(os.listdir(tree)) == sorted(f"{arch_id(w)}-480" for w in range(1, 6))
    params = json.loads((tree / f"{arch_id(3)}-480/params.json").read_text())
    assert params["values"] == {"archs": "../subnets/archs/0002.jsonl"} and params["text"]["archs"].startswith(
        arch_id(3)
    )


def test_several_records_a_job_and_the_place_of_the_file(tmp_path: Path) -> None:
    read = "import searchkit; print(open(searchkit.params()['archs']).read(), end='')"
    template = json.dumps(f'python3 -c "{read}" && test $SEARCHKIT_ATTEMPT = 2')
    folder = space_project(tmp_path / "p", config(", per_job: 3", template, run="{retries: 1}"))
    ok(run(folder, "search-run", "config.yaml"))
    for n in range(3):
        widths = range(1, 8)[3 * n : 3 * n + 3]
        assert (task_dir(folder) / f"jobs/all/{n}/attempt-2/log").read_text() == lines(*map(record, widths))
    assert sorted(os.listdir(task_dir(folder) / "jobs/tree/archs")) == ["0000", "0001", "0002"]


def test_a_project_with_picked_records_may_move(tmp_path: Path) -> None:
    folder = space_project(tmp_path / "p", config(", per_job: 4", '"cat {archs} && test -e $OPEN"'))
    env = {"OPEN": str(tmp_path / "open")}
    ok(run(folder, "search-run", "config.yaml", env=env), 1)
    folder = folder.rename(tmp_path / "q")
    ok(run(folder, "search-ctl", "restart", "--failed", "--no-start", "--same-code"))
    (tmp_path / "open").touch()
    ok(run(folder, "search-run", "config.yaml", env=env))
    assert set(states(folder).values()) == {"finished"}


@pytest.mark.slow
def test_the_expansion_is_kept_and_a_changed_input_is_named(tmp_path: Path) -> None:
    folder = space_project(tmp_path / "p", config(", rules: rules.yaml, per_job: 2", '"cat {archs} && test -e $OPEN"'))
    env = {"OPEN": str(tmp_path / "open")}
    ok(run(folder, "search-run", "config.yaml", env=env), 1)
    (folder / "space.jsonl").write_text(SPACE)  # the same, written anew
    ok(run(folder, "search-run", "config.yaml", env=env), 1)
    for name, text in (("rules.yaml", RULES.replace("5.5G", "9.5G")), ("space.jsonl", lines(record(9)))):
        old = (folder / name).read_text()
        (folder / name).write_text(text)
        done = run(folder, "search-run", "config.yaml", env=env)
        assert done.returncode == 4 and f"{folder}/{name} is not what it was" in done.stderr
        (folder / name).write_text(old)
    (folder / "space.jsonl").unlink()
    (tmp_path / "open").touch()
    ok(run(folder, "search-ctl", "restart", "--failed", "--no-start"))
    done = run(folder, "search-run", "config.yaml", env=env)
    assert "space.jsonl is gone; the jobs that were picked from it are kept" in done.stderr
    assert ok(done) and set(states(folder).values()) == {"finished"}


@pytest.mark.slow
def test_what_can_not_be_picked_writes_nothing(tmp_path: Path) -> None:
    folder = space_project(tmp_path / "p", config(", rules: rules.yaml"))
    for name, text, said in (
        ("rules.yaml", RULES.replace("5.5G", "1"), "leave no record"),
        ("rules.yaml", RULES.replace("overhead", "overhad"), "overhad"),
        ("rules.yaml", RULES + "  - {", "rules.yaml:4:1: not YAML"),
        ("space.jsonl", SPACE + "{", "space.jsonl:8"),
        ("space.jsonl", None, "can't read"),
    ):
        old = (folder / name).read_text()
        (folder / name).unlink() if text is None else (folder / name).write_text(text)
        done = run(folder, "search-run", "config.yaml")
        assert done.returncode == 2 and said in done.stderr, done.stderr
        assert not task_dir(folder).exists()
        (folder / name).write_text(old)


def test_fsck_misses_a_picked_file(tmp_path: Path) -> None:
    folder = space_project(tmp_path / "p", config())
    ok(run(folder, "search-run", "config.yaml"))
    (task_dir(folder) / "subnets/archs/0003.jsonl").unlink()
    assert "subnets/archs/0003.jsonl: missing or damaged" in ok(run(folder, "search-ctl", "fsck"), 5)


STAGED = """
task: {reward_attribute: metric.finetune.mAP}
resources: {gpus: 0}
stages:
  - name: price
    task: {template: "cp $SOURCE flops.jsonl"}
  - name: test
    task:
      template: python3 score.py {archs}
      search_args:
        - {type: Subnet, name: archs, space: $SEARCHKIT_STAGE_PRICE/flops.jsonl, rules: rules.yaml, per_job: 2}
"""


@pytest.mark.slow
def test_records_of_an_earlier_stage(tmp_path: Path) -> None:
    folder = space_project(tmp_path / "p", STAGED)
    env = {"SOURCE": str(folder / "space.jsonl")}
    out = ok(run(folder, "search-run", "--task", "det", "config.yaml", "--dry-run", env=env))
    assert "det.test: its jobs are known when the stages before it have ended (archs)" in out
    ok(run(folder, "search-run", "--task", "det", "config.yaml", env=env))
    table = ok(run(folder, "search-ctl", "show-scalar", "--task", "det", "-rt", "+2")).rstrip().split("\n")[-3:]
    assert table[0].split("  ") and "MACs (G)" in table[0] and "metric.finetune.mAP" in table[0]
    assert table[1].split() == [f"2:{arch_id(5)}", "480", "5.05", "5.00", "0.505"]
    assert table[2].split() == [f"1:{arch_id(4)}", "480", "4.04", "4.00", "0.404"]
    # priced again, otherwise: the stage that was made from it is told
    other = tmp_path / "other.jsonl"
    other.write_text(lines(record(2)))
    ok(run(folder, "search-ctl", "restart", "--task", "det.price", "--no-start"))
    done = run(folder, "search-run", "--task", "det", "config.yaml", env={"SOURCE": str(other)})
    assert done.returncode == 4 and "attempt-2/p/flops.jsonl is not what it was" in done.stderr
    ok(run(folder, "search-ctl", "delete", "--task", "det.test", "-y"))
    ok(run(folder, "search-run", "--task", "det", "config.yaml", env={"SOURCE": str(other)}))
    assert len(states(folder, "det.test")) == 1


@pytest.mark.parametrize(
    ("arg", "fault"),
    [
        ("type: Subnet, name: a", "missing key 'space'"),
        ("type: Subnet, space: a.json", "missing key 'name'"),
        ("type: Subnet, name: a, space: a.yaml", "must be a .json or .jsonl file, not 'a.yaml'"),
        ("type: Subnet, name: a, space: a.json, per_job: 0", "must be a whole number of 1 or more, not 0"),
        ("type: Subnet, name: a, space: a.json, value: [1]", "unknown key 'value'"),
        ("type: Subnet, name: a, space: $SEARCHKIT_STAGE_X/a.json", "this config has no stages"),
    ],
)
def test_faults(arg: str, fault: str) -> None:
    with pytest.raises(ConfigError) as e:
        c.parse(f"task:\n  template: x {{a}}\n  search_args: [{{{arg}}}]\n".encode(), "c.yaml")
    assert fault in str(e.value)


# ---- callback/records.jsonl

PLAIN = """
task:
  template: sh job.sh {i}
  search_args: [{type: Categorical, name: i, value: [0, 1, 2, 3]}]
  reward_attribute: metric.finetune.mAP
resources: {gpus: 0}
"""


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Job 0 scored two subnets, one of them twice; job 1 none, but reported by itself; job 2 nothing; job 3 one at two
    inputs, its cost counted in the other way."""
    gaia = {"overhead": {"flops": 140_300_000_000}, "arch": {"backbone": {"stem": {"width": 8}}}}
    wide = [
        {**gaia, "data": {"input_shape": shape}, "metric": {"finetune": {"mAP": v, "n": "text"}}}
        for shape, v in (([3, 480, 640], 0.7), (560, float("nan")))
    ]
    first = lines(record(1, mAP=0.9), record(2, mAP=0.5)) + "{oops\n[]\n" + lines(record(1, mAP=0.1, late=1.0))
    job = "if test $1 = 1; then echo '{\"metric.finetune.mAP\": 0.6}' > $SEARCHKIT_CALLBACK/scalars.jsonl; fi\n"
    job += "cp $1.txt $SEARCHKIT_CALLBACK/records.jsonl || true\n"
    folder = project(tmp_path_factory.mktemp("scored") / "p", PLAIN, job_sh=job)
    (folder / "0.txt").write_text(first + '{"arch": {"half')
    (folder / "3.txt").write_text(lines(*wide))
    ok(run(folder, "search-run", "config.yaml"))
    return folder


@pytest.mark.slow
def test_rows_are_ranked_among_jobs(scored: Path) -> None:
    found = json.loads(ok(run(scored, "search-ctl", "show-scalar", "-rt", "+9", "--json")))
    a, b, wide = arch_id(1), arch_id(2), arch_id(8)
    assert [row["row"] for row in found["rows"]] == [f"3:{wide}", "1", f"0:{b}", f"0:{a}", "2", f"3:{wide}"]
    assert found["rows"][3]["scalars"]["metric.finetune.late"] == 1.0  # replaced by the later one
    assert [job["job"] for job in found["jobs"]] == [3, 1, 0, 2]
    assert found["jobs"][2]["undecodable_lines"] == 2
    assert found["jobs"][0]["records"][0]["metric"]["finetune"]["n"] == "text"
    low = json.loads(ok(run(scored, "search-ctl", "show-scalar", "-rt", "-1", "--json")))
    assert [row["row"] for row in low["rows"]] == [f"0:{a}"] and len(low["jobs"][0]["records"]) == 1
    cheap = ["show-scalar", "-rt", "-1", "--metric", "overhead.params", "--json"]
    assert json.loads(ok(run(scored, "search-ctl", *cheap)))["rows"][0]["row"] == f"0:{a}"
    best = json.loads(ok(run(scored, "search-ctl", "show", "--task", "default", "--jobs", "@best:3", "--json")))
    assert [job["job"] for job in best["jobs"]] == [3, 1, 0]


def test_the_table_says_how_cost_was_counted(scored: Path) -> None:
    done = run(scored, "search-ctl", "show-scalar")
    text = ok(done)
    assert "#Job Name: 1\n  scalar_info   : {'metric.finetune.mAP': {1: 0.6}}" in text
    assert "row           data.input_shape  MACs (G)  params (M)  metric.finetune.mAP  metric.finetune.late\n" in text
    assert "row           data.input_shape  FLOPs (G, gaia)  metric.finetune.mAP\n" in text
    assert f"3:{arch_id(8)}         3x480x640           140.30                  0.7\n" in text
    assert "2 undecodable line(s) were skipped:\n  job 0, records.jsonl line " in done.stderr


def test_export_has_a_row_for_each(scored: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(ok(run(scored, "search-ctl", "export")))))
    assert [row["job"] for row in rows] == [
        f"0:{arch_id(1)}", f"0:{arch_id(2)}", "1", "2", f"3:{arch_id(8)}", f"3:{arch_id(8)}"
    ]  # fmt: skip
    assert [row["data.input_shape"] for row in rows] == ["480", "480", "", "", "3x480x640", "560"]
    assert float(rows[0]["scalar.overhead.flops"]) == 1.01e9 and rows[0]["overhead.convention"] == "macs"
    whole = json.loads(ok(run(scored, "search-ctl", "export", "--format", "json")))
    assert whole[1]["record"] == record(2, mAP=0.5)


def test_a_flat_record_and_an_odd_architecture(tmp_path: Path) -> None:
    flat = {"arch.backbone.stem.width": 3, "data.input_shape": "3,480,480", "metric.finetune.mAP": 0.5}
    odd = {"arch": {"kernel": "gauss"}, "metric": {"m": True, "huge": 10**400}}
    (tmp_path / "callback").mkdir()
    (tmp_path / "callback/records.jsonl").write_text(lines(flat, odd))
    (first, second), skipped = records.read(AttemptPaths(str(tmp_path)), 4)
    assert skipped == () and first.name == f"4:{arch_id(3)}" and first.shape == "3x480x480"
    assert first.values == {"metric.finetune.mAP": 0.5}
    assert len(second.arch) == 10 and second.shape == "" and second.values == {"metric.m": 1.0}
