"""CPUs that are shared: how many there are for us, and threads that wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from searchkit import cpus
from searchkit.nas.cli import options
from searchkit.suite.backends.local import slots
from tests.support.suite import ok, project, run, task_dir

V1 = "9:name=systemd:/\n2:cpu,cpuacct:/docker/abc\n1:memory:/docker/abc\n0::/\n"


@pytest.mark.parametrize(
    ("of_us", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, [2]),  # a container: docker run --cpus 1.5
        ("0::/\n", {"cpu.max": "max 100000\n"}, []),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, [1]),  # of the group above
        ("0::/../../other\n", {"cpu.max": "400000 100000\n"}, [4]),  # a path outside of what is mounted here
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, [3]),
        (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "-1\n", "cpu/docker/abc/cpu.cfs_period_us": "100000\n"}, []),
        (V1, {"unified/cpu.max": "100000 100000\n"}, [1]),  # both versions
        (V1, {"cpu/cpu.cfs_quota_us": "100000\n"}, []),  # damaged
        ("what\nis:this\n", {}, []),
        ("", {"cpu.max": "100000 100000\n"}, []),
    ],
)
def test_quotas(of_us: str, files: dict[str, str], expected: list[int], tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text(of_us)
    for name, text in files.items():
        path = tmp_path / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert list(cpus.quotas(str(tmp_path / "cgroup"), str(tmp_path / "mounted"))) == expected


def test_the_suite_and_search_nas_count_alike(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    import torch

    assert 1 <= cpus.usable() <= len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(cpus, "quotas", lambda: iter([7, 3]))
    assert cpus.usable() == 3
    found, line = slots.plan("python", [], 0, 1, 1, None, None)
    assert found.limit == 3 and line == "3 at once: 3 CPUs, 1 a job, no GPU"
    torch.set_num_threads(5)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    options.count_threads()
    assert torch.get_num_threads() == 5  # the user's own
    monkeypatch.delenv("OMP_NUM_THREADS")
    options.count_threads()
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)
    options.device_of("cpu")
    assert torch.get_num_threads() == 1  # no more than torch would take


@pytest.mark.slow
@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "2000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_waiting_threads_of_a_job_sleep_soon(
    user: dict[str, str], expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    env = ", ".join(f"{name}: '{value}'" for name, value in user.items())
    text = f"task: {{template: env}}\nenv: {{{env}}}\nrun: {{max_parallel: 1}}\n"
    folder = project(tmp_path / "p", text)
    ok(run(folder, "search-run", "config.yaml"))
    lines = (task_dir(folder) / "jobs/all/0/log").read_text().splitlines()
    assert dict(line.split("=", 1) for line in lines if line.startswith(("GOMP_", "OMP_WAIT"))) == expected


AFTER_MAIN = """
import sys
from searchkit.nas.cli.main import main
sys.argv = ["search-nas", "--help"]
try:
    main()
except SystemExit:
    import torch  # loads the OpenMP library, which prints what holds
"""


@pytest.mark.slow
def test_waiting_threads_of_search_nas_sleep_soon() -> None:
    env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    env["OMP_DISPLAY_ENV"] = "verbose"
    done = subprocess.run([sys.executable, "-c", AFTER_MAIN], env=env, capture_output=True, text=True, timeout=60)
    spins = [line.split("=")[1].strip() for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if not spins:
        pytest.skip(f"this PyTorch has another OpenMP than GNU's: {json.dumps(done.stderr[:200])}")
    assert set(spins) == {"'2000'"}
