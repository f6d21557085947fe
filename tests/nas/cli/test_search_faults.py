"""What goes wrong around a search over subnets, and what is said and kept then."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from searchkit.errors import ConflictError, SearchkitError, UsageError
from searchkit.nas.cli import options, search_run, search_view
from searchkit.nas.cli.priced import pricing
from searchkit.nas.cost.price import price
from searchkit.nas.subnet import search
from searchkit.nas.subnet.standing import Standing
from searchkit.records.arch import Arch
from searchkit.records.objective import Objective
from tests.support import nas
from tests.support.nas import Trained, bad, lines

# The subnets that meet this: two, at one of the two input shapes.
FEW = "input_shape == 64 and stem_width == 4 and sum(backbone.body.depth) == 4 and sum(backbone.body.width) < 30"


def verb(trained: Trained, *more: str | Path) -> tuple[str | Path, ...]:
    how = ("--algorithm", "random", "--objective", "bbox_mAP", "--device", "cpu")
    return ("search", trained.config, "--checkpoint", trained.checkpoint, *how, *more)


@pytest.fixture(autouse=True)
def one_thread_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def small(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str | Path, ...], Path, str]:
    """The command of a search that found all there is, its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("small") / "search"
    command = verb(trained, "--input", "all", "--constraint", FEW, "--work-dir", folder)
    done = nas.call(*command)
    assert done.code == 0, done.err
    return command, folder, done.err


# ---- a search that can't begin


@pytest.mark.slow
def test_hidden_files_of_the_user_stay(trained: Trained, tmp_path: Path) -> None:
    proj = tmp_path / "proj"
    (proj / ".git").mkdir(parents=True)
    (proj / ".git/HEAD").write_text("x")
    (proj / ".env").write_text("x")
    command = verb(trained, "--constraint", "macs <= 20M", "--work-dir")
    assert "'macs <= 20M'" in bad(*command, proj)
    assert sorted(os.listdir(proj)) == [".env", ".git"]
    assert (proj / ".git/HEAD").read_text() == (proj / ".env").read_text() == "x"


@pytest.mark.parametrize("name", [".search-run", ".searchignore"])
def test_a_workspace_of_the_suite_is_no_folder_for_a_search(trained: Trained, tmp_path: Path, name: str) -> None:
    (tmp_path / "proj" / name).mkdir(parents=True)
    assert "holds other files" in bad(*verb(trained, "--work-dir", tmp_path / "proj"), code=4)
    assert os.listdir(tmp_path / "proj") == [name]


@pytest.mark.slow
def test_searches_that_were_moved_away_are_no_other_files(small: tuple[Any, Path, str], tmp_path: Path) -> None:
    plan, _ = search.load(str(small[1] / "search.json"))
    (tmp_path / "proj/old-20260101-000000-1").mkdir(parents=True)  # killed before the new one had its plan
    search.check_same(str(tmp_path / "proj"), plan)
    (tmp_path / "proj/mine.txt").write_text("")
    with pytest.raises(ConflictError, match="holds other files"):
        search.check_same(str(tmp_path / "proj"), plan)


def test_what_somebody_put_there_meanwhile_stays(tmp_path: Path) -> None:
    for name in ("search.json", ".lock", "search.log", "calibration-1f.json", "mine.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / ".search-run/tasks").mkdir(parents=True)
    search_run._take_back(str(tmp_path), None)
    assert os.listdir(tmp_path) == ["mine.txt"]


# ---- devices


def test_a_gpu_without_a_number_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Any] = []

    def set_device(device: torch.device) -> None:
        if device.index is None:
            raise ValueError("Expected a torch.device with a specified index")  # as torch does
        chosen.append(device)

    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert options.device_of("cuda") == torch.device("cuda:1") == chosen[-1]
    assert options.device_of("cuda:2") == torch.device("cuda:2") == chosen[-1]
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert options.device_of("cuda") == torch.device("cuda:3") == chosen[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU says")
def test_devices_that_there_are_not_are_refused(trained: Trained, tmp_path: Path) -> None:
    for name in ("foo", "cuda", "cuda:0"):
        with pytest.raises(UsageError, match=f"--device {name}: "):
            options.device_of(name)
        assert f"--device {name}: " in bad(*verb(trained, "--device", name, "--work-dir", tmp_path / "search"))
    assert os.listdir(tmp_path) == []


# ---- failures, and the end


def test_the_input_shape_may_be_demanded(trained: Trained, small: tuple[Any, Path, str]) -> None:
    records = lines(small[1] / "results.jsonl")
    assert len(records) == 2 and all(record["data"] == {"input_shape": 64} for record in records)
    plans = pricing(trained.recipe)
    for record in records:
        assert record["overhead"]["flops"] == price(plans, Arch.of(record["arch"]), 64).flops


def test_constraints_name_the_input_shape_as_records_have_it(trained: Trained) -> None:
    space = trained.recipe.space
    knobs = [knob.name for knob in space.knobs()]
    assert search.numeric(["input_shape <= 48"], knobs, space, 48) == (["data.input_shape <= 48"], ["data.input_shape"])
    texts, names = search.numeric(["input_shape[1] <= 64 and data.input_shape[0] > 2"], knobs, space, [48, 64])
    pair = "[data.input_shape.0, data.input_shape.1]"
    assert texts == [f"{pair}[1] <= 64 and {pair}[0] > 2"] and names == ["data.input_shape.0", "data.input_shape.1"]


@pytest.mark.slow
def test_a_space_without_further_subnets_is_said_to_be_one(small: tuple[Any, Path, str]) -> None:
    command, _, said = small
    assert "no further subnet that meets the constraints (2 of 1000)" in said
    assert "no further subnet" not in nas.call(*command, "--evaluations", "2").err


@pytest.mark.slow
def test_failures_are_counted_in_all_runs(trained: Trained, tmp_path: Path) -> None:
    command = verb(trained, "--proxy-steps", "2", "--set", "finetune.lr=1e30", "--evaluations", "2")
    done = nas.call(*command, "--work-dir", tmp_path / "search")
    assert done.code == 1 and "2 failed: " in done.err and "no further subnet" not in done.err, done.err
    done = nas.call(*command, "--work-dir", tmp_path / "search", "--json")
    assert done.code == 1 and json.loads(done.out)["failed"] == 2 and json.loads(done.out)["evaluations"] == 0


@pytest.mark.slow
def test_what_was_scored_before_a_fault_is_shown(small: tuple[Any, Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    command, folder, _ = small
    fault = SearchkitError("no worker could start", "Mend it")
    monkeypatch.setattr(search_run, "_ended", lambda *_: search_run.End(1, 0, False, fault))
    for name in ("front.jsonl", "best.jsonl"):
        (folder / name).unlink()
    done = nas.call(*command)
    assert done.code == 1 and "error: no worker could start\n  Mend it" in done.err
    assert "1 of 2 subnets" in done.out and len(lines(folder / "best.jsonl")) == 1 <= len(lines(folder / "front.jsonl"))


def test_hints_are_those_of_search_nas() -> None:
    script = "Fix the script. Then run with it: search-ctl restart --task search --jobs @pending"
    message = "3 workers in a row ended\n    | cannot decode x.jpg"
    fault = search_run.fault_of_run({"kind": "failed", "message": message, "hint": script, "exit": 1})
    assert fault.hint == "Fix it and run the same command again" and "cannot decode x.jpg" in fault.message


# ---- other folders, other searches


def test_a_copied_search_is_refused_in_our_words(
    small: tuple[Any, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, folder, _ = small
    shutil.copytree(folder, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns("*.fifo"))
    starts: list[search_run.Run] = []
    real = search_run.Run.start

    def start(run: search_run.Run) -> None:
        starts.append(run)
        real(run)

    monkeypatch.setattr(search_run.Run, "start", start)
    said = bad(*command[:-1], tmp_path / "copy", code=4)
    assert "another place" in said and "--overwrite" in said and "--task" not in said
    assert len(starts) == 1  # it does not wait for anybody, and try again


def test_a_held_task_is_waited_for(small: tuple[Any, Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the search-run of a killed search holds it, which ends its workers."""
    command, folder, _ = small
    lease = folder / ".search-run/tasks/search/lease"
    starts: list[int] = []
    real = search_run.Run.start

    def start(run: search_run.Run) -> None:
        starts.append(len(starts))
        if len(starts) == 2:
            holder.kill()
            holder.wait()
        real(run)

    monkeypatch.setattr(search_run.Run, "start", start)
    code = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, 2); print(flush=True); time.sleep(99)"
    holder = subprocess.Popen([sys.executable, "-c", code, lease], stdout=subprocess.PIPE)
    try:
        assert holder.stdout and holder.stdout.readline()
        done = nas.call(*command)
    finally:
        holder.kill()
        holder.communicate()
    assert done.code == 0 and len(starts) == 2, done.err


def test_a_search_with_a_live_worker_is_not_moved_away(
    small: tuple[Any, Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command, folder, _ = small
    before = sorted(os.listdir(folder))
    template = yaml.safe_load((folder / "search.yaml").read_text())["task"]["template"]
    words = [sys.executable, "-c", "import time; time.sleep(100)", *template[-2:]]  # its last are those of a worker
    assert template[-2] == "score" and os.path.samefile(template[-1], folder / "search.json")
    worker = subprocess.Popen(words)
    try:
        said = bad(*command, "--overwrite", "--seed", "5", code=4)
        assert "still runs" in said and f"cd {folder} && search-ctl stop --task search" in said
    finally:
        worker.kill()
        worker.wait()
    assert sorted(os.listdir(folder)) == before
    search_run._check_over(str(folder))
    monkeypatch.setattr(search_run, "_task", lambda _: {"status": "running"})
    with pytest.raises(ConflictError, match="still runs"):
        search_run._check_over(str(folder))


def test_the_plan_is_moved_away_last(
    small: tuple[Any, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (".lock", "search.json", "results.jsonl", "a", "old-1", "zz"):
        (tmp_path / name).write_text("")
    moved: list[str] = []
    rename = os.rename

    def noted(old: str, new: str) -> None:
        moved.append(os.path.basename(old))
        rename(old, new)

    monkeypatch.setattr(os, "rename", noted)
    search_run._move_away(str(tmp_path))
    assert sorted(moved) == ["a", "results.jsonl", "search.json", "zz"] and moved[-1] == "search.json"


# ---- what is shown


@pytest.mark.parametrize("columns", [30, 40, 60, 80])
def test_a_narrow_terminal_cuts_archs_and_no_number(
    trained: Trained, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    arch = trained.recipe.space.maximum().nested()
    record = {"arch": arch, "data": {"input_shape": 48}, "overhead": {"flops": 28712345, "params": 123456}}
    standing = Standing((Objective("bbox_mAP", "max"),), "direct")
    standing.add([{**record, "metric": {"direct": {"toy_bbox_mAP": 0.12345}}}])
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    search_view.print_front(standing, [0], trained.recipe.space)
    head, row = re.sub(r"\033\[\d*m", "", capsys.readouterr().out).splitlines()
    assert head.split() == ["bbox_mAP", "macs", "params", "arch"]
    assert row.split()[:3] == ["0.1235", "28.71M", "123.5K"] and ("…" in row) == (columns < 80)
    assert max(len(head), len(row)) <= max(columns, 36)


def test_a_complete_search_waits_for_no_worker(trained: Trained) -> None:
    view = search_view.View(Standing((Objective("macs", "min"),), "direct"), 3, trained.recipe.space, earlier=1)
    assert view._phase() == "the workers load the supernet and the data"
    view.failed = 2
    assert view._phase() == ""
    view.failed = 3
    assert view._phase() == "the search ends"
    assert search_view.View(view.standing, 3, view.space, earlier=3)._phase() == "the search ends"
