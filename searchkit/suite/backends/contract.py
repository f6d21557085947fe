"""The environment of every job, wherever it runs: the part of the job contract that the backends share."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from searchkit import cpus
from searchkit.suite.backends.base import Launch

TOKEN = "SEARCHKIT_TOKEN"  # by which the processes of an attempt are known
CALLBACK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "local", "callback.py")  # runs `pre` and `after`


def job_variables(launch: Launch, job: int) -> dict[str, str]:
    """What tells a process which attempt of which job it runs."""
    return {
        "SEARCHKIT_JOB": str(job),
        "SEARCHKIT_ATTEMPT": str(launch.attempt),
        "SEARCHKIT_JOB_DIR": launch.job.root,
        "SEARCHKIT_PARAMS": launch.job.params,
        "SEARCHKIT_CALLBACK": launch.paths.callback,
        "SEARCHKIT_CHECKPOINT": launch.job.checkpoint,
        TOKEN: launch.token,
    }


def environment(
    base: Mapping[str, str], launch: Launch, *, task: str, job: int, seed: int, threads: int, hide_gpus: bool
) -> dict[str, str]:
    """The environment of an attempt (docs/contract.md), without what its backend adds: its GPUs and its port."""
    env = dict(base)
    env.setdefault("OMP_NUM_THREADS", str(threads))
    cpus.let_waiting_threads_sleep(env)
    env.setdefault("PYTHONUNBUFFERED", "1")  # what a script prints is in its log at once, whatever ends it
    env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if hide_gpus:
        env["CUDA_VISIBLE_DEVICES"] = ""
    env.pop("SEARCHKIT_WORKER", None)  # of a search-run that itself runs in a worker
    return {**env, "SEARCHKIT_TASK": task, "SEARCHKIT_SEED": str(seed), **job_variables(launch, job)}


def callback_command(launch: Launch, name: str, command: str) -> list[str]:
    """The words that run a callback, `pre` or `after`; none where its command is empty."""
    if not command:
        return []
    shell = "\n".join(launch.shell)
    return [sys.executable, "-I", "-S", CALLBACK, f"{launch.paths.callback}/{name}.json", command, shell]
