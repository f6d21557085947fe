"""Which GPUs a run may use, on a machine with (a stand-in for) NVML and on one without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from searchkit.errors import UsageError
from searchkit.suite.backends.local.gpus import Gpu
from searchkit.suite.backends.local.slots import Slots, plan
from tests.support.suite import fake_gpus, ok, project, run, task_dir

CONFIG = """
task:
  template: "echo $CUDA_VISIBLE_DEVICES; sleep 0.2; true {i}"
  search_args: [{type: Categorical, name: i, value: [0, 1, 2, 3]}]
"""


def seen(folder: Path, *argv: str, more: str = "", free_gib: tuple[int, ...] = (16, 16), **env: str) -> Any:
    """Run the config with flags; what search-run said first, and the devices that each job saw."""
    project(folder, CONFIG + more)
    env = {**fake_gpus(folder.parent / f"{folder.name}-lib", *free_gib), **env}
    said = ok(run(folder, "search-run", "config.yaml", *argv, env=env))
    return said.splitlines()[0], sorted((task_dir(folder) / f"jobs/all/{n}/log").read_text().strip() for n in range(4))


def test_auto_takes_what_nvml_sees(tmp_path: Path) -> None:
    line, devices = seen(tmp_path / "p")
    assert "2 at once: GPUs 0,1 (Fake 0), 1 a job" in line and set(devices) == {"0", "1"}


@pytest.mark.slow
@pytest.mark.parametrize(("visible", "device"), [("1", "1"), ("GPU-111", "1"), ("GPU-0", "0")])
def test_auto_stays_within_an_inherited_allocation(tmp_path: Path, visible: str, device: str) -> None:
    line, devices = seen(tmp_path / "p", CUDA_VISIBLE_DEVICES=visible)
    assert "1 at once" in line and set(devices) == {device}


@pytest.mark.slow
def test_no_gpu_when_hidden_asked_for_or_without_driver(tmp_path: Path) -> None:
    assert "no GPU" in seen(tmp_path / "a", CUDA_VISIBLE_DEVICES="")[0]
    line, devices = seen(tmp_path / "b", "--gpus", "none")
    assert "no GPU" in line and set(devices) == {""}
    assert "no GPU" in seen(tmp_path / "c", free_gib=())[0]


def test_a_named_gpu_that_nvml_lacks_is_an_error(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", CONFIG)
    done = run(folder, "search-run", "config.yaml", "--gpus", "0,7", env=fake_gpus(tmp_path, 16, 16))
    assert done.returncode == 2 and "[7]" in done.stderr and "[0, 1]" in done.stderr
    assert not task_dir(folder).exists()


def test_memory_decides_where_a_job_fits(tmp_path: Path) -> None:
    argv, more = ("--jobs-per-gpu", "3"), "resources: {gpu_mem: 6G}\n"
    _, devices = seen(tmp_path / "p", *argv, more=more, free_gib=(2, 16))
    assert set(devices) == {"1"}  # GPU 0 has 2 of 6 GiB free


def test_slots_count_what_our_own_jobs_may_still_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("searchkit.suite.backends.local.gpus.free_bytes", lambda index: 16 << 30)
    slots = Slots(limit=9, per_job=1, gpus=(Gpu(71, "x", 16 << 30),), per_gpu=9, mem_bytes=6 << 30)
    first, second = slots.take(), slots.take()
    assert first and second and slots.take() is None  # two of 6 GiB fit into 16, whatever is free at this moment
    slots.give_back(first)
    assert slots.take()
    slots.close()


def test_the_next_job_waits_until_the_memory_of_the_last_one_is_seen_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free, now = {0: 16 << 30}, [100.0]
    monkeypatch.setattr("searchkit.suite.backends.local.gpus.free_bytes", free.get)
    monkeypatch.setattr("searchkit.suite.backends.local.slots.time.monotonic", lambda: now[0])
    slots = Slots(1, 1, (Gpu(0, "GPU", 16 << 30),))
    grant = slots.take()
    assert grant is not None
    free[0] = 4 << 30  # the job took 12 GiB, and the driver has not given them back when its process is gone
    slots.give_back(grant)
    assert slots.take() is None
    now[0] += 1
    assert slots.take() is None
    free[0] = 16 << 30
    grant = slots.take()
    assert grant is not None
    free[0] = 4 << 30  # now somebody else takes it, and keeps it
    slots.give_back(grant)
    assert slots.take() is None
    now[0] += 60
    assert slots.take() is not None
    slots.close()


def test_a_lease_is_dropped_with_the_last_job_on_its_gpu() -> None:
    gpus = (Gpu(72), Gpu(73))
    mine, theirs = Slots(2, 1, gpus), Slots(2, 1, gpus)
    a, b = mine.take(), mine.take()
    assert a and b and {a.gpus, b.gpus} == {(72,), (73,)}
    assert theirs.take() is None
    mine.give_back(a)
    other = theirs.take()
    assert other and other.gpus == a.gpus
    mine.close()
    theirs.close()


def test_a_plan_that_can_never_run_is_refused() -> None:
    with pytest.raises(UsageError, match="3 a job, but 2"):
        plan("python", [Gpu(0), Gpu(1)], 3, 1, 1, None, None)
    slots, line = plan("srun", [Gpu(0)], 1, 1, 1, None, None)
    assert slots.limit == 32 and slots.per_job == 0 and "srun" in line
    assert plan("/usr/bin/docker", [], None, 1, 1, None, 3)[0].limit == 3
