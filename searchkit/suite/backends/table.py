"""The backends by name, and one object through which a process uses them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from searchkit.suite.backends.base import Backend, Handle
from searchkit.suite.backends.children import Children
from searchkit.suite.backends.local.backend import Local
from searchkit.suite.store.status import Status
from searchkit.suite.workspace import AttemptPaths

if TYPE_CHECKING:
    from searchkit.suite.config.read import Config
    from searchkit.suite.store.tasks import OpenTask

# What stands second in the `start` line of a status file -> that backend.
BACKENDS: dict[str, Callable[[Children], Backend]] = {
    "local": Local,
}
DEFAULT = "local"
POLL_S = 0.02  # between two looks at what is being ended
GIVE_UP_S = 20.0  # after twice the grace: what lives then counts as a survivor


@dataclass
class Backends:
    """The backends of one scheduler, or of one act of search-ctl. `main` starts jobs; for a job that was found, the
    backend that started it answers. The functions are those of a Backend (base.py)."""

    name: str = DEFAULT
    children: Children = field(default_factory=Children)
    opened: dict[str, Backend] = field(default_factory=dict)

    @property
    def main(self) -> Backend:
        return self.of(self.name)

    def of(self, name: str) -> Backend:
        """The backend of that name. For one that this version has no row for, the local backend answers, which judges
        no attempt of another host."""
        name = name if name in BACKENDS else DEFAULT
        if name not in self.opened:
            self.opened[name] = BACKENDS[name](self.children)
        return self.opened[name]

    def open(self, task: OpenTask, config: Config) -> None:
        self.main.open(task, config)

    def close(self, *, leave: bool) -> None:
        for backend in self.opened.values():
            backend.close(leave=leave)

    def handle(self, token: str, paths: AttemptPaths, s: Status) -> Handle:
        if s.start:
            return self.of(s.start.backend).handle(token, paths, s)
        for name in sorted(BACKENDS, key=DEFAULT.__eq__):  # without a first line, it is whose who knows of it
            handle = self.of(name).handle(token, paths, s)
            if self.of(name).alive(handle, s) is not False:
                return handle
        return self.main.handle(token, paths, s)

    def within(self, outer: Handle, token: str, paths: AttemptPaths) -> Handle:
        return self.of(outer.backend).within(outer, token, paths)

    def alive(self, handle: Handle, s: Status) -> bool | None:
        return self.of(handle.backend).alive(handle, s)

    def adopt(self, handle: Handle, port: int = 0) -> None:
        self.of(handle.backend).adopt(handle, port)

    def ended(self) -> set[Handle]:
        return {handle for backend in self.opened.values() for handle in backend.ended()}

    def cancel(self, graces_s: Mapping[Handle, float]) -> None:
        for name in {handle.backend for handle in graces_s}:
            self.of(name).cancel({handle: grace for handle, grace in graces_s.items() if handle.backend == name})

    def survivors(self) -> dict[str, list[int]]:
        return {token: pids for backend in self.opened.values() for token, pids in backend.survivors().items()}

    def remains(self, handle: Handle) -> list[int]:
        return self.of(handle.backend).remains(handle)

    def clear(self, handle: Handle, s: Status, *, look: bool = False) -> list[str]:
        return self.of(handle.backend).clear(handle, s, look=look)

    def living(self, task_token: str) -> dict[int, list[int]]:
        pids: dict[int, list[int]] = {}
        for name in BACKENDS:
            for job, numbers in self.of(name).living(task_token).items():
                pids.setdefault(job, []).extend(numbers)
        return pids

    def sweep(self, task_token: str, jobs: Collection[int] | None, leave: Collection[int] = ()) -> dict[int, list[int]]:
        pids: dict[int, list[int]] = {}
        for name in BACKENDS:
            for job, numbers in self.of(name).sweep(task_token, jobs, leave).items():
                pids.setdefault(job, []).extend(numbers)
        return pids

    def end(self, handles: Iterable[Handle], grace_s: float) -> dict[str, list[int]]:
        """End these, and return when nothing of them lives; what survives even SIGKILL is returned, by token."""
        left = set(handles)
        self.cancel(dict.fromkeys(left, grace_s))
        deadline = time.monotonic() + 2 * grace_s + GIVE_UP_S
        while left and time.monotonic() < deadline:
            left -= self.ended()
            if left:
                time.sleep(POLL_S)
        return {token: pids for token, pids in self.survivors().items() if pids}
