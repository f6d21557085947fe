"""search-ctl: the reference document's own lines, ranking, selectors, export, and how fast it answers."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from searchkit.errors import NotFoundError, UsageError
from searchkit.suite.store import journal, select, tasks
from searchkit.suite.store.job import State
from searchkit.suite.workspace import Workspace
from tests.support.suite import BIN, REFERENCE, ok, project, run, task_dir

# With a program that runs here, and a reward to rank by.
RUNNABLE = REFERENCE.replace("srun -p pat_dev -n1 --gres gpu:1 python mnist.py", "sh mnist.sh").replace(
    "    # reward_attribute would", "    reward_attribute: 'Test Acc'\n    # reward_attribute would"
)
# Reports what a job of the transcript reports: a rising accuracy that depends on the job.
MNIST = """
for step in 1 2 3; do
  echo "{\\"step\\": $step, \\"Test Acc\\": 9$SEARCHKIT_JOB.$step, \\"other\\": 1}"
done >> "$SEARCHKIT_CALLBACK/scalars.jsonl"
echo "$@"
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = project(tmp_path_factory.mktemp("reference") / "demo", RUNNABLE, mnist_sh=MNIST)
    ok(run(folder, "search-run", "--task", "grid-test", "config.yaml"))
    return folder


def match(text: str, *lines: str) -> None:
    """Each line of `text` matches the pattern beside it, all of them and in order."""
    found = text.rstrip("\n").split("\n")
    assert len(found) == len(lines), text
    for line, pattern in zip(found, lines, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r}"


STAMP = r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6}"


def test_show(reference: Path) -> None:
    match(
        ok(run(reference, "search-ctl", "show")),
        "All tasks:",
        "grid-test",
        "        status: finished",
        f"        update_time: {STAMP}",
    )


def test_show_task(reference: Path) -> None:
    root = f"{task_dir(reference, 'grid-test')}/jobs/all"

    def block(n: int, command: str) -> list[str]:
        return [
            f"#Job Name: {n}",
            "  status        : finished",
            f"  command       : sh mnist.sh +{command} --pavi",
            f"  run_path      : {root}/{n}",
            f"  log_path      : {root}/{n}/log",
            f"  start_time    : {STAMP}",
            f"  end_time      : {STAMP}",
            f"  callback_path : {root}/{n}/callback",
            f"  pavi_training_url : {root}/{n}/callback/scalars.jsonl",
        ]

    match(
        ok(run(reference, "search-ctl", "show", "--task", "grid-test", "--jobs", "1,2")),
        "#" * 30,
        "Task Name  : grid-test",
        f"config file: {task_dir(reference, 'grid-test')}/run_config.yaml",
        f"pavi_compare_url: {task_dir(reference, 'grid-test')}/jobs/tree",
        "jobs       : 8 finished",
        "#" * 30,
        "",
        "Jobs:",
        *block(1, "--lr 1 --batch-size 1024 --epochs 3 --gamma 0.7"),
        "",
        *block(2, "--lr 0.5 --batch-size 512 --epochs 3 --gamma 0.8"),
    )


def test_show_scalar(reference: Path) -> None:
    root = f"{task_dir(reference, 'grid-test')}/jobs/all"
    said = ok(run(reference, "search-ctl", "show-scalar", "--task", "grid-test", "-rt", "+2"))
    match(
        said.split("Jobs:\n")[1],
        "#Job Name: 7",
        r"  scalar_info   : {'Test Acc': {1: 97\.1, 2: 97\.2, 3: 97\.3}}",
        f"  pavi_training_url : {root}/7/callback/scalars.jsonl",
        "",
        "#Job Name: 6",
        r"  scalar_info   : {'Test Acc': {1: 96\.1, 2: 96\.2, 3: 96\.3}}",
        f"  pavi_training_url : {root}/6/callback/scalars.jsonl",
    )
    lowest = ok(run(reference, "search-ctl", "show-scalar", "--task", "grid-test", "-rt", "-10"))
    assert re.findall("#Job Name: (.)", lowest) == [str(n) for n in range(8)]


@pytest.mark.slow
def test_show_tells_exit_codes_and_counts(tmp_path: Path) -> None:
    text = "task: {template: 'exit {i}', search_args: [{type: Categorical, name: i, value: [0, 0, 3]}]}"
    folder = project(tmp_path / "p", text)
    ok(run(folder, "search-run", "config.yaml"), 1)
    said = ok(run(folder, "search-ctl", "show", "--task", "default"))
    assert "jobs       : 2 finished, 1 error\n" in said and said.count("  exit_code     : ") == 1
    assert "#Job Name: 2\n  status        : error\n  exit_code     : 3\n" in said
    assert json.loads(ok(run(folder, "search-ctl", "show", "--json")))["tasks"][0]["counts"] == {
        "finished": 2,
        "error": 1,
    }


@pytest.mark.slow
def test_last_values_beside_the_result_of_the_after_callback(tmp_path: Path) -> None:
    """Line by line the reference's own transcript."""
    numbers = {"Loss": 0.028640544041991234, "Test Acc": 98.74, "Test Loss": 0.0369114351272583}
    job = "cat numbers.jsonl >> $SEARCHKIT_CALLBACK/scalars.jsonl"
    text = f"task: {{template: '{job}'}}\npavi: {{reward_attribute: Test Acc, scalars: [acc]}}\n"
    text += """callbacks: {after: "echo '{\\"Loss\\": 0.1, \\"Test Acc\\": 0.95, \\"Test Loss\\": 0.15}'"}\n"""
    lines = [json.dumps({"step": 1, "Loss": 9, "Test Acc": 97.66}), json.dumps({"step": 5, **numbers})]
    folder = project(tmp_path / "p", text, numbers_jsonl="\n".join(lines) + "\n")
    ok(run(folder, "search-run", "config.yaml"))
    match(
        ok(run(folder, "search-ctl", "show-scalar", "-rt", "+1")).split("Jobs:\n")[1],
        "#Job Name: 0",
        r"  scalar_info   : \{'Test Acc': \{1: 97.66, 5: 98.74\}\}",
        "  pavi_training_url : .*",
        "  after_callback_result:",
        "    Loss          : 0.1",
        "    Test Acc      : 0.95",
        "    Test Loss     : 0.15",
        "    pavi_Loss     : 0.028640544041991234",
        "    pavi_Test Acc : 98.74",
        "    pavi_Test Loss: 0.0369114351272583",
    )


def test_nested_tree(reference: Path) -> None:
    link = task_dir(reference, "grid-test") / "jobs/tree/epochs/3/gamma/0.7/lr/0.5/batch-size/512"
    assert link.resolve() == task_dir(reference, "grid-test") / "jobs/all/0"


def test_json_holds_the_same(reference: Path) -> None:
    shown = json.loads(ok(run(reference, "search-ctl", "show", "--json")))
    assert [(t["task"], t["status"]) for t in shown["tasks"]] == [("grid-test", "finished")]
    jobs = json.loads(ok(run(reference, "search-ctl", "show", "--task", "grid-test", "--json")))["jobs"]
    assert jobs[1]["params"] == {"epochs": 3, "gamma": 0.7, "lr": 1, "batch-size": 1024}
    scalars = json.loads(ok(run(reference, "search-ctl", "show-scalar", "--task", "grid-test", "--json", "-rt", "+1")))
    assert scalars["jobs"][0]["scalars"] == {"Test Acc": {"1": 97.1, "2": 97.2, "3": 97.3}}


def test_export(reference: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(ok(run(reference, "search-ctl", "export", "--task", "grid-test")))))
    assert [r["job"] for r in rows] == [str(n) for n in range(8)]
    assert rows[1]["param.lr"] == "1" and rows[1]["scalar.Test Acc"] == "91.3"
    body = json.loads(ok(run(reference, "search-ctl", "export", "--task", "grid-test", "--format", "json")))
    assert [r["scalar.Test Acc"] for r in body] == [round(90 + n + 0.3, 1) for n in range(8)]


def test_columns_stand_in_their_order_whatever_the_first_job_reported(tmp_path: Path) -> None:
    config = "task: {template: 'sh job.sh {a}', search_args: [{type: Categorical, name: a, value: [1, 2]}]}"
    job = "[ $1 = 1 ] || echo '{\"acc\": 1}' > $SEARCHKIT_CALLBACK/scalars.jsonl"
    folder = project(tmp_path / "p", config, job_sh=job)
    ok(run(folder, "search-run", "config.yaml"))
    head = ok(run(folder, "search-ctl", "export")).splitlines()[0].split(",")
    assert head[-4:] == ["param.a", "scalar.acc", "command", "run_path"]


@pytest.mark.slow
def test_nan_and_missing_come_last_both_ways(tmp_path: Path) -> None:
    job = """case $1 in
      0) v=NaN;; 1) v=3;; 2) v=-1;; 3) exit 0;; 4) v=7;; 5) v=Infinity;; 6) v=-Infinity;;
    esac
    echo "{\\"acc\\": $v}" >> "$SEARCHKIT_CALLBACK/scalars.jsonl"
    """
    text = (
        "task: {template: 'sh job.sh {i}', search_args: [{type: Categorical, name: i, value: [0, 1, 2, 3, 4, 5, 6]}]}\n"
    )
    folder = project(tmp_path / "p", text + "monitor: {reward_attribute: acc}\n", job_sh=job)
    ok(run(folder, "search-run", "config.yaml"))

    def order(rt: str) -> list[str]:
        return re.findall("#Job Name: (.)", ok(run(folder, "search-ctl", "show-scalar", "-rt", rt)))

    assert order("+7") == ["4", "1", "2", "0", "3", "5", "6"]
    assert order("-7") == ["2", "1", "4", "0", "3", "5", "6"]
    best = ok(run(folder, "search-ctl", "show", "--task", "default", "--jobs", "@best:2"))
    assert re.findall("#Job Name: (.)", best) == ["4", "1"]
    assert json.loads(ok(run(folder, "search-ctl", "show-scalar", "--json")))["jobs"][0]["scalars"]["acc"]["1"] == "NaN"


@pytest.mark.parametrize("rt", ["5", "+0", "+x", "++1", "-"])
def test_bad_rt(reference: Path, rt: str) -> None:
    done = run(reference, "search-ctl", "show-scalar", "--task", "grid-test", "-rt", rt)
    assert done.returncode == 2 and "+k" in done.stderr


def test_selectors(reference: Path) -> None:
    ws = Workspace(str(reference / ".search-run"))
    jobs = tasks.view(ws.task("grid-test")).jobs

    def pick(text: str) -> list[int]:
        return select.select(text, jobs, lambda k: [5, 2][:k])

    assert pick("3") == [3]
    assert pick("0-2,5") == [0, 1, 2, 5]
    assert pick("6-99") == [6, 7]
    assert pick("@all") == pick("@finished") == list(range(8))
    assert pick("@failed") == []
    assert pick("@best:2") == [5, 2]
    assert pick("@best:1,7,7") == [5, 7]
    for bad in ("", "a", "3-1", "@bes:2", "@faild", "-1", "1;2"):
        with pytest.raises(UsageError):
            pick(bad)
    with pytest.raises(UsageError, match=r"--keep @bst:2: '@bst:2' names no jobs \(did you mean best:5\?\)"):
        select.select("@bst:2", jobs, lambda k: [], "--keep")
    assert "--keep @bst:2" in run(reference, "search-ctl", "free", "--task", "grid-test", "--keep", "@bst:2").stderr
    with pytest.raises(NotFoundError, match="no job 8") as e:
        pick("8")
    assert e.value.hint == "It has jobs 0 to 7"


def many(folder: Path, n: int) -> None:
    """A finished task of n jobs, written through the package's own journal."""
    values = ", ".join(map(str, range(n)))
    config = f"task: {{template: 'true {{i}}', search_args: [{{type: Categorical, name: i, value: [{values}]}}]}}\n"
    project(folder, "task: {template: 'true'}\n")
    ok(run(folder, "search-run", "config.yaml"))
    task = Workspace(str(folder / ".search-run")).task("default")
    Path(task.run_config).write_text(config)
    with tasks.held(task) as open_task:
        for i in range(1, n):
            text = {"i": str(i)}
            open_task.record("create", job=i, values={"i": i}, text=text, command=f"true {i}")
            open_task.record("launch", time=1.0 * i, job=i, attempt=1, gpus=[], snapshot=0)
            result = {"state": State.FINISHED.value, "rc": 0, "retry": False, "reason": "", "spent": ""}
            open_task.record("result", time=i + 1.0, job=i, attempt=1, start=1.0 * i, end=i + 1.0, **result)


@pytest.mark.slow
def test_show_of_10_000_jobs_reads_no_job_folder(tmp_path: Path) -> None:
    """Speed itself is measured by benchmarks/overhead.py; what makes it possible is tested here."""
    many(tmp_path / "p", 10_000)
    done = ok(run(tmp_path / "p", "search-ctl", "show", "--task", "default"))  # no job folder but the first exists
    assert done.count("#Job Name:") == 10_000
    events, damaged = journal.read(Workspace(str(tmp_path / "p/.search-run")).task("default"))
    assert damaged == 0 and len(events) > 30_000


def test_start_up_imports_only_what_it_needs() -> None:
    code = """
import sys
sys.argv = ["search-ctl", "show", "--help"]
from searchkit.suite.cli.ctl import group
try:
    group.main(standalone_mode=False)
finally:
    heavy = {"torch", "optuna", "numpy", "yaml", "rich", "psutil", "pynvml", "searchkit.suite.run.loop"}
    heavy &= set(sys.modules)
    assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_output_in_a_pipe_is_plain(reference: Path) -> None:
    done = run(reference, "search-run", "--task", "again", "config.yaml", env={"TERM": "xterm-256color"})
    assert "\x1b" not in done.stdout + done.stderr
    head = subprocess.run(
        f"{BIN}/search-ctl show --task grid-test | head -1", shell=True, cwd=reference, capture_output=True, text=True
    )
    assert head.stdout == "#" * 30 + "\n" and head.stderr == ""


def test_logs_follow(tmp_path: Path) -> None:
    text = "task: {template: 'echo one; sleep 0.7; echo two; true {i}', search_args: [{type: Categorical, name: i, "
    folder = project(tmp_path / "p", text + "value: [0]}]}\n")
    ok(run(folder, "search-run", "config.yaml", "--detach"))
    assert ok(run(folder, "search-ctl", "logs", "-f")) == "one\ntwo\n"
    said = ok(run(folder, "search-ctl", "logs", "--jobs", "@all"))
    assert said == "==> job 0 <==\none\ntwo\n" or said == "one\ntwo\n"


@pytest.mark.slow
def test_fsck_repairs(tmp_path: Path) -> None:
    folder = project(
        tmp_path / "p", "task: {template: 'true {i}', search_args: [{type: Categorical, name: i, value: [a, b]}]}\n"
    )
    ok(run(folder, "search-run", "config.yaml"))
    jobs = task_dir(folder) / "jobs"
    (jobs / "all/0/params.json").write_text("")
    (jobs / "tree/i/b").unlink()
    (jobs / "all/stray").mkdir()
    (jobs / "all/1/status").write_text("nonsense\n")
    said = ok(run(folder, "search-ctl", "fsck"), 5)
    for fault in ("differs from the event", "has no link", "no event knows", "undecodable"):
        assert fault in said
    said = ok(run(folder, "search-ctl", "fsck", "--repair"), 5)
    assert said.count("(repaired)") == 2
    assert json.loads((jobs / "all/0/params.json").read_text())["values"] == {"i": "a"}
    assert (jobs / "tree/i/b").resolve() == jobs / "all/1"
    left = json.loads(run(folder, "search-ctl", "fsck", "--json").stdout)
    assert len(left["faults"]) == 3
