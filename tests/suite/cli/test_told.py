"""`search-run --facts FILE`: what happens, for programs."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.suite import ok, project, run, start, task_dir, wait_for

CONFIG = """
task:
  template: python3 job.py {n}
  search_args: [{type: Categorical, name: n, value: [0, 1, 2]}]
run: {retries: 1, max_parallel: 1}
"""
JOB = "import sys; print('tried', sys.argv[1]); sys.exit(3 * (sys.argv[1] == '1'))\n"


def told(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_jobs_and_the_end(tmp_path: Path) -> None:
    folder, facts = project(tmp_path / "p", CONFIG, job_py=JOB), tmp_path / "facts"
    plain = run(folder, "search-run", "config.yaml")
    assert plain.returncode == 1
    done = run(folder, "search-run", "--overwrite", "--facts", str(facts), "config.yaml")
    assert done.returncode == 1 and len(done.stdout.splitlines()) == len(plain.stdout.splitlines()) + 1  # moved away
    *jobs, last = told(facts)
    assert sorted((j["job"], j["attempt"], j["status"], j["exit_code"], j["runs_again"]) for j in jobs) == [
        (0, 1, "finished", 0, False),
        (1, 1, "error", 3, True),
        (1, 2, "error", 3, False),
        (2, 1, "finished", 0, False),
    ]
    log = str(task_dir(folder) / "jobs/all/1/attempt-2/log")
    end = last["end"]
    assert {name: end[name] for name in ("task", "status", "counts", "exit", "exhausted", "failed", "why")} == {
        "task": "default",
        "status": "error",
        "counts": {"finished": 2, "error": 1},
        "exit": 1,
        "exhausted": False,
        "failed": [1],
        "why": [{"job": 1, "reason": "exit code 3", "log_path": log, "log_tail": ["tried 1"]}],
    }
    # the same run again has nothing to do, and says how things are
    assert run(folder, "search-run", "--facts", str(facts), "config.yaml").returncode == 1
    assert [line["end"]["failed"] for line in told(facts)] == [[1]]


def test_a_space_that_is_used_up(tmp_path: Path) -> None:
    text = CONFIG.replace("value: [0, 1, 2]", "value: [0, 2]") + "search: {sampler: random, n_trials: 9}\n"
    folder, facts = project(tmp_path / "p", text, job_py=JOB), tmp_path / "facts"
    ok(run(folder, "search-run", "--facts", str(facts), "config.yaml"))
    assert told(facts)[-1]["end"]["exhausted"] is True


@pytest.mark.slow
def test_faults(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", CONFIG, job_py=JOB.replace("import sys", "import sys, time; time.sleep(9)"))
    facts = tmp_path / "facts"
    process = start(folder, "search-run", "config.yaml")
    try:
        wait_for(lambda: (task_dir(folder) / "jobs/all/0/log").exists())
        for kind, code, text in (("held", 4, CONFIG), ("usage", 2, CONFIG + "rum: {}\n"), ("other_config", 4, "")):
            other = text or CONFIG.replace("job.py {n}", "job.py {n} x")
            (folder / "other.yaml").write_text(other)
            done = run(folder, "search-run", "--facts", str(facts), "other.yaml")
            (line,) = told(facts)
            error = line["error"]
            assert done.returncode == code and (error["kind"], error["exit"]) == (kind, code), done.stderr
            assert done.stderr.endswith(f"error: {error['message']}\n  {error['hint']}\n" if error["hint"] else "")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()
    for more, said in ((("--facts", str(tmp_path)), "Is a directory"), (("--facts", str(facts), "--detach"), "--json")):
        done = run(folder, "search-run", *more, "config.yaml")
        assert done.returncode == 2 and said in done.stderr
