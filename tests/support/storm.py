"""A storm of SIGKILLs over search-run and what it started, and what must hold after it."""

from __future__ import annotations

import collections
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.suite import command, environment, events, kill, look, processes_with, states

MAX_LOST = 3  # of one job: a fourth loss is an error by law
Live = Callable[[Path], dict[int, tuple[str, int]]]  # processes: what kind, and the job that a death counts against


def storm(
    folder: Path,
    rng: random.Random,
    env: dict[str, str],
    kills: int,
    *,
    at_once: int,
    pause_s: tuple[float, float],
    victims: Sequence[str],
    live: Live,
) -> collections.Counter[str]:
    """Kill at random until the task is finished or `kills` are done; leave it to the caller to finish it.

    victims: "scheduler" and kinds of `live`, as often as they are to be chosen. A job of -1 is any: it has no limit.
    """
    done: collections.Counter[str] = collections.Counter()
    of_job: collections.Counter[int] = collections.Counter()
    scheduler: subprocess.Popen[str] | None = None
    while done.total() < kills:
        if scheduler is None or scheduler.poll() is not None:
            if scheduler is not None and scheduler.returncode == 0:
                return done
            argv = command("search-run", "-j", str(at_once), "config.yaml")
            scheduler = subprocess.Popen(argv, cwd=folder, env=environment(**env), stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(*pause_s))
        victim = rng.choice(victims)
        if victim == "scheduler":
            scheduler.kill()
            scheduler.wait()
        else:
            there = live(folder)
            choice = [pid for pid, (kind, n) in there.items() if kind == victim and of_job[n] < MAX_LOST]
            if not choice:
                continue
            pid = rng.choice(choice)
            of_job[there[pid][1]] += there[pid][1] >= 0
            kill(pid)
        done[victim] += 1
    if scheduler is not None:
        scheduler.kill()
        scheduler.wait()
    return done


def settled(folder: Path, runs: Path, jobs: int, left: str, what: str) -> collections.Counter[str]:
    """All jobs are finished, each has one accepted result, no two attempts overlapped, no process with `left` in its
    environment is there; the lines that the jobs wrote to `runs`, counted."""
    assert states(folder) == dict.fromkeys(range(jobs), "finished"), what
    lines = collections.Counter(runs.read_text().splitlines())
    assert not [line for line in lines if line.startswith("overlap")], what
    accepted = collections.Counter(e["job"] for e in events(folder) if e["type"] == "result" and not e["retry"])
    assert accepted == dict.fromkeys(range(jobs), 1), what
    assert processes_with(left) == [], what
    assert "0 fault(s)" in look(folder, "fsck"), what
    return lines
