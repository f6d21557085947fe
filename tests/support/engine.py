"""A small engine beside the local one: a pilot begins and ends the jobs, as it would on another host, and both sides
speak by files alone. The suite runs on it as it stands, with one row of a table more:

    python -m tests.support.engine search-run CONFIG        python -m tests.support.engine search-ctl stop --jobs 1
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from searchkit import fsio
from searchkit.suite.backends.base import Grant, Handle, Launch, Prepared, Request
from searchkit.suite.backends.children import Children
from searchkit.suite.backends.local import start
from searchkit.suite.backends.local.backend import Local
from searchkit.suite.backends.table import BACKENDS, Backends
from searchkit.suite.store import status
from searchkit.suite.store.status import Status
from searchkit.suite.workspace import AttemptPaths

POLL_S = 0.02
ORPHAN_S = 20.0  # a pilot that hears nothing for so long, and runs nothing, leaves


@dataclass
class Room:
    """Two jobs at once, on a pilot."""

    limit: int = 2
    used: int = 0
    waits_for: str = ""
    alike: Grant | None = None  # a job is given to its pilot when it starts
    devices: list[str] = field(default_factory=list)

    def take(self) -> Grant | None:
        if self.used == self.limit:
            return None
        self.used += 1
        return Grant(())

    def adopt(self, gpus: tuple[int, ...]) -> Grant:
        self.used += 1
        return Grant(gpus)

    def give_back(self, grant: Grant) -> None:
        self.used -= 1

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Ready(Prepared):
    env: Mapping[str, str]


def folder_of(root: str) -> str:
    """The pilot's folder, from that of an attempt, or of a task."""
    return f"{root.partition('/jobs/all/')[0]}/pilot"


def say(folder: str, *message: Any) -> None:
    """Leave a message for the pilot: a file under a new name, in order."""
    fsio.atomic_write(f"{folder}/inbox/{time.time_ns()}-{os.getpid()}", pickle.dumps(message))


def told(folder: str, token: str) -> bool:
    """Whether the pilot was told to begin this attempt."""
    return os.path.exists(f"{folder}/told/{token.replace('/', '_')}")


def has_ended(folder: str, token: str) -> bool:
    return os.path.exists(f"{folder}/ended/{token.replace('/', '_')}")


def pilot_lives(folder: str) -> bool:
    fd = os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT)
    try:
        return not fsio.try_lock(fd)
    finally:
        os.close(fd)


@dataclass
class Spool:
    children: Children
    name: str = "spool"
    folder: str = ""
    watched: dict[str, Handle] = field(default_factory=dict)

    def capacity(self, request: Request) -> tuple[Room, str]:
        return Room(), "2 at once: on a pilot"

    def open(self, task: Any, config: Any) -> None:
        self.folder = folder_of(task.paths.root)
        for name in ("inbox", "told", "ended"):
            os.makedirs(f"{self.folder}/{name}", exist_ok=True)
        if not pilot_lives(self.folder):
            argv = [sys.executable, "-m", "tests.support.engine", "pilot", self.folder]
            quiet = subprocess.DEVNULL
            subprocess.Popen(argv, start_new_session=True, stdin=quiet, stdout=quiet, stderr=quiet, cwd="/")
            while not pilot_lives(self.folder):
                time.sleep(POLL_S)

    def close(self, *, leave: bool) -> None:
        if not leave:
            say(self.folder, "leave")

    def port(self, token: str) -> int:
        return 0

    def prepare(self, launch: Launch, env: Mapping[str, str], grant: Grant) -> Ready:
        return Ready(launch, env)

    def start(self, prepared: Prepared) -> Handle:
        assert isinstance(prepared, Ready)
        launch = prepared.launch
        if os.path.exists(launch.paths.status):
            raise FileExistsError(launch.paths.status)
        fsio.atomic_write(f"{self.folder}/told/{launch.token.replace('/', '_')}", b"")
        say(self.folder, "start", launch, dict(prepared.env))
        self.watched[launch.token] = Handle(launch.token, self.name, launch.paths)
        return self.watched[launch.token]

    def discard(self, prepared: Prepared) -> None:
        pass

    def handle(self, token: str, paths: AttemptPaths, s: Status) -> Handle:
        return Handle(token, self.name, paths)

    def within(self, outer: Handle, token: str, paths: AttemptPaths) -> Handle:
        return Handle(token, self.name, paths)

    def alive(self, handle: Handle, s: Status) -> bool | None:
        folder = folder_of(handle.paths.root)
        return told(folder, handle.token) and not has_ended(folder, handle.token) and pilot_lives(folder)

    def adopt(self, handle: Handle, port: int = 0) -> None:
        self.watched[handle.token] = handle

    def ended(self) -> list[Handle]:
        over = [h for h in self.watched.values() if self.alive(h, status.read(h.paths)) is False]
        for handle in over:
            del self.watched[handle.token]
        return over

    def cancel(self, graces_s: Mapping[Handle, float]) -> None:
        for handle, grace_s in graces_s.items():
            self.watched[handle.token] = handle
            say(folder_of(handle.paths.root), "cancel", handle.token, grace_s)

    def survivors(self) -> dict[str, list[int]]:
        return {}

    def remains(self, handle: Handle) -> list[int]:
        return []

    def clear(self, handle: Handle, s: Status, *, look: bool = False) -> list[str]:
        self.watched.pop(handle.token, None)
        return []  # the pilot does

    def living(self, task_token: str) -> dict[int, list[int]]:
        return {}

    def sweep(self, task_token: str, jobs: Collection[int] | None, leave: Collection[int]) -> dict[int, list[int]]:
        return {}


def pilot(folder: str) -> None:
    """Begin and end what is asked in the inbox, until it is told to leave and nothing runs."""
    fd = os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT)
    if not fsio.try_lock(fd):
        return
    local = Local(Children(), machine=replace(start.this_machine(), backend="spool", handle="pilot-1"))
    running: dict[str, Handle] = {}
    leaving, heard_s = False, time.monotonic()
    while running or (not leaving and time.monotonic() - heard_s < ORPHAN_S):
        for name in sorted(name for name in os.listdir(f"{folder}/inbox") if "." not in name):
            heard_s = time.monotonic()
            what, *rest = pickle.loads((fsio.read_bytes(f"{folder}/inbox/{name}")) or b"")
            os.unlink(f"{folder}/inbox/{name}")
            leaving = what == "leave"
            if what == "start" and not os.path.exists(rest[0].paths.status):
                launch = rest[0]
                running[launch.token] = local.start(local.prepare(launch, rest[1], Grant(())))
            elif what == "cancel" and rest[0] in running:
                local.cancel({running[rest[0]]: rest[1]})
        local.children.reap()
        for handle in local.ended():
            local.clear(handle, status.read(handle.paths), look=True)
            del running[handle.token]
            fsio.atomic_write(f"{folder}/ended/{handle.token.replace('/', '_')}", b"")
        time.sleep(POLL_S)


def main() -> None:
    from searchkit.suite.cli import ctl, run

    BACKENDS["spool"] = Spool

    def places(config: Any, *flags: Any) -> run.Places:
        backends = Backends("spool")
        return run.Places(backends, *backends.main.capacity(None))  # type: ignore[arg-type]

    run._places = places
    what, sys.argv = sys.argv[1], sys.argv[1:]
    if what == "pilot":
        pilot(sys.argv[1])
    else:
        (run if what == "search-run" else ctl).main()


if __name__ == "__main__":
    main()
