"""A command that fails says so, wherever in it the failure is; and a task keeps the shell that it was begun with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from searchkit.errors import ConfigError
from searchkit.suite.config import read as config
from searchkit.suite.config import shells
from tests.support.suite import ok, processes_with, project, run, show, task_dir

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")

SAY = "echo ${BASH_VERSION:+bash} $SHELLOPTS; if false | true; then echo no pipefail; fi"


def one(template: str, **more: str) -> str:
    """A config of one job."""
    return f"task:\n  template: {json.dumps(template)}\n" + "".join(f"{key}: {value}\n" for key, value in more.items())


def job(folder: Path, template: str, code: int, **more: str) -> tuple[dict[str, object], str]:
    """Run a task of one job: what `show` says of it, and what search-run printed."""
    (folder / "config.yaml").write_text(one(template, **more))
    said = ok(run(folder, "search-run", "--overwrite", "config.yaml"), code)
    return show(folder)["jobs"][0], said


def log(folder: Path) -> str:
    return (task_dir(folder) / "jobs/all/0/log").read_text()


@pytest.mark.slow
def test_what_a_command_hid(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", one("true"), job_sh="sleep 0.3; echo trained")
    done, _ = job(folder, "sh job.sh &> out.log", 0)
    assert done["status"] == "finished" and done["end_time_s"] - done["start_time_s"] > 0.2
    assert (task_dir(folder) / "jobs/all/0/p/out.log").read_text() == "trained\n"
    for hidden in ("sh -c 'exit 3' | tee log", "sh -c 'exit 3'\ntrue", "x=$(sh -c 'exit 3'); echo $x"):
        done, _ = job(folder, hidden, 1)
        assert (done["status"], done["exit_code"]) == ("error", 3), hidden
    done, said = job(folder, "yes | head -1", 1)
    assert done["exit_code"] == 141 and "`| head`" in str(done["reason"]) and "SIGPIPE" in said
    broken = "python -c 'for n in range(100000): print(n)' | head -1"
    done, said = job(folder, broken, 1)
    assert (done["status"], done["exit_code"]) == ("error", 1) and "BrokenPipeError: a part of a pipe" in said
    assert str(done["reason"]).startswith("exit code 1, BrokenPipeError: a part of a pipe wrote on")
    done, _ = job(folder, "python -c 'raise BrokenPipeError'", 1)
    assert done["reason"] == ""
    done, _ = job(folder, 'echo {64,128} {"a":1}', 0)
    assert log(folder) == "{64,128} {a:1}\n"
    done, _ = job(folder, "true", 1, callbacks="{pre: 'false | true'}")
    assert done["reason"] == "the pre callback failed, the command was not run"


@pytest.mark.slow
def test_what_the_shell_cannot_read_is_told_before_the_start(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", one("true"))
    for template, more, said in (
        ("echo 'a\ntrue", "", "task.template: bash can't read it: line 1: unexpected EOF while looking for"),
        ("true |", "", "task.template: bash can't read it: line "),
        ("if true; then", "run: {shell: sh}\n", "task.template: /bin/sh can't read it: line 1: "),
        ("true", "callbacks: {after: 'echo $('}\n", "callbacks.after: bash can't read it: line "),
    ):
        (folder / "config.yaml").write_text(one(template) + more)
        for argv in (("--dry-run",), ()):
            done = run(folder, "search-run", "config.yaml", *argv)
            assert done.returncode == 2 and said in done.stderr, (template, done.stderr)
        assert not task_dir(folder).exists()
    for template in ("shopt -s extglob\nls !(x)", "cat <<E\nan 'apostrophe\nE\n", "f() { true; }; f"):
        job(folder, template, 0)


@pytest.mark.slow
def test_what_is_left_behind_is_ended_and_named(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", one("true"))
    done, said = job(folder, "sleep 97 & sleep 97 & setsid sleep 98 & echo > >(cat)", 0)
    names = "left running at its end, and killed: "
    assert done["status"] == "finished" and str(done["reason"]).startswith(names)
    assert {"`sleep 97` (2 times)", "`sleep 98`"} == set(str(done["reason"]).removeprefix(names).split(", "))
    assert str(done["reason"]) in said and "cat" not in said
    assert not processes_with("SEARCHKIT_JOB_DIR=" + str(task_dir(folder)))
    done, _ = job(folder, "sleep 97 & exit 3", 1)
    assert done["reason"] == f"exit code 3; {names}`sleep 97`"


@pytest.mark.slow
def test_the_shell_is_chosen(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", one("true"))
    job(folder, SAY, 0)
    assert "bash" in log(folder) and "pipefail" in log(folder) and "no pipefail" not in log(folder)
    after = "{after: 'set -o | grep -q \"pipefail.*on\" && echo strict'}"
    job(folder, SAY, 0, run="{shell: sh}", callbacks=after)
    assert log(folder) == "\nno pipefail\n"
    job(folder, SAY, 0, run="{shell: [bash, -u]}", callbacks=after)
    assert "bash" in log(folder) and "no pipefail" in log(folder) and "strict" not in log(folder)
    job(folder, "true", 0, callbacks=after)
    assert log(folder) == "strict\n"


@pytest.mark.slow
def test_a_task_keeps_its_shell(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", one(SAY))
    ok(run(folder, "search-run", "config.yaml"))
    assert json.loads((task_dir(folder) / "shell.json").read_text()) == list(shells.BASH)
    assert "pipefail" in log(folder)
    (task_dir(folder) / "shell.json").unlink()  # as a task was that was begun before there was a choice
    ok(run(folder, "search-ctl", "restart", "--jobs", "0"))
    ok(run(folder, "search-run", "config.yaml"), 0)
    ok(run(folder, "search-ctl", "show-scalar"))
    assert (task_dir(folder) / "jobs/all/0/attempt-2/log").read_text() == "\nno pipefail\n"


@pytest.mark.slow
def test_without_bash(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "cat", "true", "git"):
        if path := shutil.which(name):
            (programs / name).symlink_to(path)
    folder = project(tmp_path / "p", one("true | cat"))
    alone = {"PATH": str(programs)}
    done = run(folder, "search-run", "config.yaml", env=alone)
    assert ok(done) and "note: config.yaml:1: there is no bash here: /bin/sh runs the commands" in done.stderr
    assert json.loads((task_dir(folder) / "shell.json").read_text()) == ["/bin/sh"]
    again = run(folder, "search-run", "config.yaml")  # the machine has bash now, the task keeps sh
    assert ok(again) and "note" not in again.stderr
    for template, more in (("cat config.yaml", ""), ("true | cat", "run: {shell: sh}\n")):
        (folder / "config.yaml").write_text(one(template) + more)
        assert "note" not in run(folder, "search-run", "--overwrite", "config.yaml", env=alone).stderr
    (folder / "config.yaml").write_text(one("true | cat"))
    ok(run(folder, "search-run", "--task", "c", "config.yaml"))
    done = run(folder, "search-run", "--task", "c", "config.yaml", env=alone)
    assert done.returncode == 2 and "the commands of this task are run by bash, which is not on PATH" in done.stderr


@pytest.mark.parametrize(
    ("template", "more", "fault"),
    [
        ("python t.py &", "", "2:13: task.template: its last command ends in `&`: the job would end at once"),
        ("python t.py &> log", "run: {shell: sh}", "2:13: task.template: `&>` is bash's; sh starts the command"),
        ("t.py", "run: {shell: zsh}", "3:14: run.shell: must be bash, sh, or words that begin with one of bash"),
        ("t.py", "run: {shell: [fish, -c]}", "3:14: run.shell: must be bash, sh, or words that begin"),
        ("t.py", 'run: {shell: "bash \'"}', "3:14: run.shell: \"bash '\" can't be split into words"),
        ("t.py", "run: {shell: {a: 1}}", "3:14: run.shell: must be bash, sh, or words that begin"),
    ],
)
def test_faults(template: str, more: str, fault: str) -> None:
    raw = (one(template) + more).encode()
    with pytest.raises(ConfigError) as e:
        config.parse(raw, "c.yaml")
    assert str(e.value).startswith(f"c.yaml:{fault}")


def test_a_task_that_was_begun_still_opens() -> None:
    for template in ("python t.py &", "python t.py &> log"):
        assert config.parse(one(template).encode(), "c.yaml", begun=shells.SH).run.shell == shells.SH
