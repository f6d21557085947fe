"""CPUs that are shared with others: how many this process may use, and threads that wait without using one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, MutableMapping

from searchkit import proc

SPINS = "2000"  # rounds of a thread's loop while it waits for the others of its team, before it sleeps


def usable() -> int:
    """CPUs that this process may run on, at most as many as the quota of its cgroup (a container's `--cpus`, a slice's
    `CPUQuota`) gives it time for, rounded up; at least 1."""
    return min([len(os.sched_getaffinity(0)), *quotas()])


def let_waiting_threads_sleep(env: MutableMapping[str, str]) -> None:
    """Make waiting threads of GNU's OpenMP, which PyTorch ships, go to sleep soon, unless `env` says how they are to
    wait. It takes effect when a process loads that library.

    By default each spins for milliseconds. Where the threads of two trainings outnumber the CPUs, that takes the time
    of those that are waited for, and both all but stand still. A training that runs alone is no slower for it.
    """
    if "OMP_WAIT_POLICY" not in env:
        env.setdefault("GOMP_SPINCOUNT", SPINS)


def quotas(of_us: str = proc.OWN_CGROUPS, mounted: str = proc.CGROUPS) -> Iterator[int]:
    """The quotas of a process' cgroup and of those above it, in CPUs rounded up, version 1 and 2. A quota that can't be
    read is none."""
    for folder in proc.group_folders("cpu", of_us, mounted):
        words = proc.setting(f"{folder}/cpu.max").split() or [
            proc.setting(f"{folder}/cpu.cfs_quota_us"),
            proc.setting(f"{folder}/cpu.cfs_period_us"),
        ]
        if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):  # not `max`, `-1`
            yield math.ceil(int(words[0]) / int(words[1]))
