"""Python in jobs: which one it is, and that it imports the project's packages from a job's own copy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from searchkit.suite.store import imports, interpreter, snapshot
from searchkit.suite.store.imports import Installed, Redirected
from tests.support.suite import ok, project, run, show, start, task_dir, wait_for

# Each job says what it imported, and then changes it in the project.
SCRIPT = """
import sys, types
import mine
assert types.__file__ == ORIGINAL
print(mine.VALUE, mine.__file__)
with open(PROJECT + "/src/mine/__init__.py", "w") as f:
    f.write("VALUE = 'edited'")
"""
CONFIG = """
task:
  template: python tools/train.py {i}
  search_args: [{type: Categorical, name: i, value: [0, 1]}]
run: {max_parallel: 1}
"""
FINDER = "import sys\nMAPPING%s = {'mine': %r}\nNAMESPACES = {}\n"
FINDER_CODE = """
from importlib.util import spec_from_file_location
class F:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in MAPPING:
            return spec_from_file_location(name, MAPPING[name] + "/__init__.py")
def install():
    sys.meta_path.append(F)
"""


def environment(folder: Path) -> tuple[Path, Path]:
    """A virtual environment: its programs, and where its packages are installed."""
    venv.create(folder, with_pip=False)
    (sites,) = folder.glob("lib/python3*/site-packages")
    return folder / "bin", sites


def source(tmp_path: Path, **files: str) -> Path:
    """A project with a package in src/."""
    folder = project(tmp_path / "p", CONFIG)
    text = SCRIPT.replace("PROJECT", repr(str(folder))).replace("ORIGINAL", repr(sys.modules["types"].__file__))
    for name, content in {"tools/train.py": text, "src/mine/__init__.py": "VALUE = 'as it was'", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def install(sites: Path, folder: Path, how: str) -> None:
    """What `pip install -e` leaves there."""
    if how == "path":
        (sites / "__editable__.mine-1.pth").write_text(f"{folder}/src\n")
    else:
        (sites / "__editable__.mine-1.pth").write_text("import __editable___mine_finder as f; f.install()\n")
        text = FINDER % (": dict[str, str]" if how == "new hook" else "", f"{folder}/src/mine")
        (sites / "__editable___mine_finder.py").write_text(text + FINDER_CODE)
    about = sites / "mine-1.dist-info"
    about.mkdir()
    (about / "direct_url.json").write_text(json.dumps({"url": folder.as_uri(), "dir_info": {"editable": True}}))


def said(folder: Path) -> list[list[str]]:
    return [(task_dir(folder) / f"jobs/all/{n}/log").read_text().split() for n in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["path", "hook", "new hook"])
def test_an_editable_install_leads_to_the_copy(how: str, tmp_path: Path) -> None:
    programs, sites = environment(tmp_path / "env")
    folder = source(tmp_path)
    install(sites, folder, how)
    done = run(folder, "search-run", "config.yaml", env={"PATH": f"{programs}:{os.environ['PATH']}"})
    ok(done)
    work = [f"{task_dir(folder)}/jobs/all/{n}/p/src/mine/__init__.py" for n in (0, 1)]
    assert said(folder) == [["as", "it", "was", path] for path in work]
    assert "note" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("workers", [False, True], ids=["plain", "warm"])
def test_a_python_path_of_the_project_leads_to_the_copy(workers: bool, tmp_path: Path) -> None:
    folder = source(tmp_path)
    if workers:
        script = (folder / "tools/train.py").read_text()
        looped = "import searchkit\nfor trial in searchkit.trials():\n    with trial:\n        exec(SCRIPT)\n"
        (folder / "tools/train.py").write_text(f"SCRIPT = {script!r}\n{looped}")
        (folder / "config.yaml").write_text(CONFIG.replace(" {i}", "").replace("run: {", "run: {workers: 1, "))
    (tmp_path / "other").mkdir()
    path = f"{tmp_path}/other:{folder}/src/:relative"
    ok(run(folder, "search-run", "config.yaml", env={"PYTHONPATH": path}))
    where = [f"{task_dir(folder)}/{'workers/1' if workers else f'jobs/all/{n}'}/p/src" for n in (0, 1)]
    assert said(folder) == [["as", "it", "was", f"{path}/mine/__init__.py"] for path in where]


def test_no_file_of_the_project_hides_the_standard_library(tmp_path: Path) -> None:
    programs, sites = environment(tmp_path / "env")
    folder = source(tmp_path, **{"src/types.py": "raise SystemExit('not the real one')"})
    install(sites, folder, "path")
    done = run(folder, "search-run", "config.yaml", env={"PATH": f"{programs}:{os.environ['PATH']}"})
    ok(done)
    assert [line for line in done.stderr.splitlines() if line.startswith("note")] == [
        "note: Python may import these as they are now, not from a job's copy of the project: src (src/types.py would "
        "hide the standard library's)"
    ]
    assert [words[-2] for words in said(folder)] == ["was", "edited"]


# ---- what installers leave


def python(*sites: Path, prefix: str = "/usr") -> interpreter.Interpreter:
    return interpreter.Interpreter("/usr/bin/python", "3.11.0", prefix, tuple(map(str, sites)), frozenset(("types",)))


def manifest(folder: Path) -> snapshot.Manifest:
    return snapshot.scan(str(folder))


def test_what_is_found_of_the_project(tmp_path: Path) -> None:
    p, sites = tmp_path / "p", tmp_path / "sites"
    for name in ("src/a", "flat", "ns/b/c", "odd"):
        (p / name).mkdir(parents=True)
    sites.mkdir()
    (sites / "a.pth").write_text(f"# {p}/comment\nimport os\n\n{p}/src\n../p/ns\n{tmp_path}/elsewhere\n{p}2\n")
    mapping = {"flat": f"{p}/flat", "b.c": f"{p}/ns/b/c", "even": f"{p}/odd", "mod": f"{p}/mod.py", "x": "/x"}
    (sites / "__editable___z_finder.py").write_text(f"MAPPING: dict[str, str] = {mapping!r}\nNAMESPACES: dict = {{}}\n")
    (sites / "six.py").touch()
    for name in ("torch", "torch-2.dist-info"):
        (sites / name).mkdir()
    (sites / "linked").symlink_to("../p/deep/linked")
    (sites / "__editable___bad_finder.py").write_text("MAPPING = {not python}\nMAPPING = {f()}\n")
    found = imports.installed(python(sites, tmp_path / "none"), str(p))
    assert found.folders == (".", "ns", "src", "deep")
    assert found.others == (("even", "it is odd, which no path makes even"),)
    assert found.names == {"torch", "six"}
    assert imports.installed(python(sites, prefix=str(p / "src")), str(p)).folders == (".", "ns", "deep")
    (tmp_path / "link").symlink_to(p)
    assert imports.installed(python(sites), str(tmp_path / "link")).folders[:3] == (".", "ns", "src")


def test_an_editable_install_by_an_unknown_hook(tmp_path: Path) -> None:
    urls = {"mine-1": tmp_path / "p", "other-2": tmp_path / "q", "above-3": tmp_path, "wheel-4": None}
    for name, url in urls.items():
        about = tmp_path / "sites" / f"{name}.dist-info"
        about.mkdir(parents=True)
        body = {"url": url.as_uri(), "dir_info": {"editable": True}} if url else {"url": "file:///p", "dir_info": {}}
        (about / "direct_url.json").write_text(json.dumps(body))
    found = imports.installed(python(tmp_path / "sites"), str(tmp_path / "p"))
    assert found.folders == () and found.others == (
        ("above", f"its source is all of {tmp_path}"),
        ("mine", "it is installed by an import hook that searchkit does not know"),
    )
    assert "job's copy of the project: above (its source is all of" in imports.told(Redirected((), (), found.others))
    assert imports.told(Redirected()) == ""


def test_what_a_copy_can_stand_for(tmp_path: Path) -> None:
    p = tmp_path / "p"
    files = [
        "own/datasets/__init__.py",
        "good/tests/__init__.py",
        "good/mine/__init__.py",
        "bad/types/__init__.py",
        "types/types.abi3.so",
        "data/types/x.txt",
        "site/usercustomize.py",
        "b/tree/a.py",
    ]
    for name in [*files, ".searchignore"]:
        (p / name).parent.mkdir(parents=True, exist_ok=True)
        (p / name).write_text("left/\n")
    (p / "left").mkdir()
    (p / "b/tree/b.py").symlink_to(p / "good/mine/__init__.py")
    names = frozenset(("datasets", "tests", "mine_too"))
    found = Installed((".", "good", "types", "data", "site", "b/tree", "left", "own", "bad"), (), names)
    path = f"{p}/left:{p}/bad:{p}:/else::good"
    copied = imports.redirected(found, path, manifest(p), str(p), frozenset(("types",)))
    assert copied.folders == ("good", "data")
    assert dict(copied.others) == {
        "own": "own/datasets/__init__.py would hide the datasets that is installed",
        "types": "types/types.abi3.so would hide the standard library's",
        "site": "site/usercustomize.py would hide the standard library's",
        "b/tree": "it holds links to the project's files by their full paths",
        "left": "it is not in the copy",
    }
    new = imports.pythonpath(path, copied, str(p), "/w")
    assert new == f"{p}/left:/w/bad:/w:/else::good:/w/good:/w/data"  # those of the user keep their places
    assert imports.pythonpath("", Redirected(), str(p), "/w") == ""
    with_colon = imports.redirected(Installed(("good",)), "", manifest(p), f"{p}:1", frozenset())
    assert with_colon.others == (("good", "a PYTHONPATH can't hold its path"),)


# ---- which Python it is


def test_another_python_says_what_it_is(tmp_path: Path) -> None:
    programs, sites = environment(tmp_path / "env")
    (tmp_path / "mute").mkdir()
    for name, text in {"mute/python": "echo what; exit 1", "mute/other": ""}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    asked = interpreter.Pythons()
    found = asked.answer("sh", {"PATH": str(programs)})
    assert found is not None and found.path == f"{programs}/python" and found.prefix == str(tmp_path / "env")
    assert found.sites == (str(sites),) and {"types", "random"} <= found.stdlib
    assert found.version == ".".join(map(str, sys.version_info[:3]))
    assert asked.answer(f"{programs}/python3", {"PATH": ""}) is not None  # the program itself, by its path
    assert asked.answer("sh", {"PATH": f"{tmp_path}/mute"}) is None
    assert asked.answer("sh", {"PATH": f"{tmp_path}/nothing"}) is None
    assert asked.answer("other", {"PATH": f"{tmp_path}/mute"}) is None


def test_our_own_python_need_not_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    here = os.path.dirname(sys.executable)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it was asked"))
    assert interpreter.Pythons().answer("train.sh", {"PATH": here}) == interpreter.own(f"{here}/python")


@pytest.mark.slow
def test_a_resume_from_another_environment_is_said(tmp_path: Path) -> None:
    first, second = (environment(tmp_path / f"an-environment-with-a-rather-long-name/{name}")[0] for name in "ab")
    folder = project(tmp_path / "p", CONFIG.replace("tools/train.py", "-c 'import time; time.sleep(0.2)'"))
    one, other = ({"PATH": f"{programs}:{os.environ['PATH']}"} for programs in (first, second))
    process = start(folder, "search-run", "config.yaml", env=one)
    wait_for((task_dir(folder) / "jobs/all/0/status").exists)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert [job["status"] for job in show(folder)["jobs"]] == ["finished", "pending"]
    done = run(folder, "search-run", "config.yaml", env=other)
    ok(done)
    version = ".".join(map(str, sys.version_info[:3]))
    then, now = (f"Python {version} of {programs.parent} ({programs}/python)" for programs in (first, second))
    assert f"note: 1 job(s) ran with {then}; what runs now has {now}\n" == done.stderr
    facts = json.loads(ok(run(folder, "search-ctl", "diff", "0", "1", "--json")))
    assert facts["differ"]["code"] == {
        "interpreter": [f"{first}/python", f"{second}/python"],
        "environment": [str(first.parent), str(second.parent)],
    }
    assert {"python", "snapshot"} <= set(facts["same"])
    rows = ok(run(folder, "search-ctl", "diff", "0", "1")).splitlines()
    (row,) = (row for row in rows if row.startswith("environment"))
    assert row.split()[1].endswith("/a") and row.split()[2].endswith("/b")
    for name, programs in {"provenance": first, "provenance-default-2": second}.items():
        kept = json.loads((task_dir(folder) / f"snapshot/0/{name}.json").read_text())
        assert (kept["python"], kept["python_prefix"]) == (f"{programs}/python", str(programs.parent))
