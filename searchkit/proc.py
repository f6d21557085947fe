"""What the kernel tells of processes, mounts, cgroups, the machine: the one place that reads /proc (see proc(5)).

A process that is gone, or another user's, is no fault: what was asked of it is None, empty or False then.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

OWN_CGROUPS = "/proc/self/cgroup"
CGROUPS = "/sys/fs/cgroup"
ENDED = (b"Z", b"X")  # states of what runs no more, even if nobody reaps it
EXITING = 0x4  # of the flags: PF_EXITING


class Stat(NamedTuple):
    """A process, or a thread, at a moment. `start_ticks`: when it began, in clock ticks since boot."""

    state: bytes
    ppid: int
    session: int
    flags: int
    start_ticks: int


def host() -> str:
    """The name of this machine."""
    return os.uname().nodename


def numbers() -> list[int]:
    """The processes that there are, zombies too."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def exists(pid: int | str) -> bool:
    """Whether a process has that number, be it a zombie."""
    return os.path.exists(f"/proc/{pid}")


def stat(pid: int | str) -> Stat | None:
    """How a process is; `pid` may be `self`."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            words = f.read().rpartition(b")")[2].split()  # the name before may hold anything
        return Stat(words[0], int(words[1]), int(words[3]), int(words[6]), int(words[19]))
    except (OSError, IndexError, ValueError):
        return None


def start_ticks(pid: int | str) -> int | None:
    """When a process began, in clock ticks since boot; None where there is no such process."""
    process = stat(pid)
    return None if process is None else process.start_ticks


def is_alive(pid: int, ticks: int | None) -> bool:
    """Whether the process that began at `ticks` still runs (a zombie does not, even if nobody reaps it)."""
    process = stat(pid)
    return process is not None and process.state not in ENDED and (ticks is None or process.start_ticks == ticks)


def boot_id() -> str:
    """The kernel's id of this boot, the same for every process of the machine until it restarts."""
    return (_read("/proc/sys/kernel/random/boot_id") or b"unknown").decode().strip()


def environment(pid: int | str) -> bytes | None:
    """The environment that a process was started with: `NAME=value`, each ended by a NUL."""
    return _read(f"/proc/{pid}/environ")


def command(pid: int | str) -> list[bytes]:
    """The words that a process was called with."""
    raw = _read(f"/proc/{pid}/cmdline")
    return raw.removesuffix(b"\0").split(b"\0") if raw else []


def catches(pid: int, signal: int) -> bool:
    """Whether a process has a handler for a signal."""
    for line in (_read(f"/proc/{pid}/status") or b"").splitlines():
        if line.startswith(b"SigCgt:"):
            return bool(int(line.split()[1], 16) & 1 << signal - 1)
    return False


def threads() -> list[str]:
    """The threads of this process, for `children`."""
    with contextlib.suppress(OSError):
        return [f"self/task/{name}" for name in os.listdir("/proc/self/task")]
    return []


def children(thread: str = "thread-self") -> list[int] | None:
    """The children that a thread of this process started, zombies too; None where the kernel does not tell."""
    raw = _read(f"/proc/{thread}/children")
    return None if raw is None else [int(word) for word in raw.split()]


def mounts() -> Iterator[tuple[str, str]]:
    """(mount point, type of its file system) of all that is mounted."""
    for line in (_read("/proc/self/mounts") or b"").decode("utf-8", "replace").splitlines():
        _, point, kind, *_ = line.split(" ")
        yield point.replace("\\040", " "), kind


def cgroups(path: str = OWN_CGROUPS) -> Iterator[tuple[str, str, str]]:
    """(number of the hierarchy, its controllers, path in it) of each cgroup that this process is in."""
    for line in (_read(path) or b"").decode("utf-8", "replace").splitlines():
        number, controllers, group, *_ = [*line.split(":", 2), "", ""]
        yield number, controllers, group


def group_folders(controller: str, of_us: str = OWN_CGROUPS, mounted: str = CGROUPS) -> Iterator[str]:
    """Where the limits of a process' groups may stand, of version 1 and 2. In a container its own group is often the
    root of what is mounted, whatever path it has outside."""
    for number, controllers, path in cgroups(of_us):
        if number == "0":
            tops = [mounted, f"{mounted}/unified"]
        elif controller in controllers.split(","):
            tops = [f"{mounted}/{controllers}"]
        else:
            continue
        names = [name for name in path.split("/") if name not in ("", "..")]
        for top in tops:
            yield from ("/".join([top, *names[:n]]) for n in range(len(names) + 1))


def setting(path: str) -> str:
    """The text of one of the kernel's files; empty where there is none."""
    return (_read(path) or b"").decode(errors="replace").strip()


def free_memory(info: str = "/proc/meminfo", of_us: str = OWN_CGROUPS, mounted: str = CGROUPS) -> int | None:
    """Bytes that a process can still get without swapping, at most as many as its cgroup may have in all; None where
    the kernel does not tell."""
    lines = [line.split() for line in setting(info).splitlines()]
    free = [int(words[1]) * 1024 for words in lines if words[:1] == ["MemAvailable:"]]
    limits = [setting(f"{f}/{name}") for f in group_folders("memory", of_us, mounted) for name in _LIMITS]
    return min([*free, *(int(limit) for limit in limits if limit.isdecimal())], default=None)


_LIMITS = ("memory.max", "memory.limit_in_bytes")  # of version 2, and 1


class Cpu(NamedTuple):
    """The processor of this machine. flags: what it can do, by the kernel's names; empty where it tells none."""

    model: str
    flags: frozenset[str]


def cpu(path: str = "/proc/cpuinfo") -> Cpu:
    """The first processor that the kernel lists."""
    pairs = (line.partition(":") for line in (_read(path) or b"").decode(errors="replace").splitlines())
    told: dict[str, str] = {}
    for name, _, value in pairs:
        told.setdefault(name.strip().lower(), value.strip())
    flags = told.get("flags", told.get("features", ""))  # of x86, of ARM
    return Cpu(told.get("model name", os.uname().machine), frozenset(flags.split()))


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return None
