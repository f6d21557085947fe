"""Starting one attempt as a local process: its environment, its wrapper, and the signal that lets it go."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import sys
import time
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from searchkit import fsio, proc
from searchkit.suite.backends.base import Grant, Launch, Prepared
from searchkit.suite.backends.contract import CALLBACK
from searchkit.suite.backends.local.slots import Place
from searchkit.suite.config.shells import direct

WRAPPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "wrapper.sh")
STATUS_FD = 9  # the one the wrapper writes to
GATE_FD = 8  # where the wrapper waits for the word to go
FIRST_LEASE_FD = 20  # above the numbers a shell uses for itself
FIRST_PORT, PORTS = 20_000, 12_000  # below the range from which the kernel gives out ports

# Python ignores SIGPIPE and SIGXFSZ, search-run handles some, and who started it may have had others ignored (nohup, a
# script's background); a job starts with the defaults of all.
_DEFAULT_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


@dataclass(frozen=True)
class Machine:
    """What every wrapper is told about where it runs, and who answers for it."""

    host: str
    boot_id: str
    python: str
    backend: str = "local"  # another, where that starts processes of this machine too
    handle: str = "-"  # what it calls them, beside the number of the wrapper


def this_machine() -> Machine:
    """This host, as wrappers are told."""
    return Machine(proc.host(), proc.boot_id(), sys.executable)


def free_port(token: str, taken: Collection[int]) -> int:
    """A TCP port nobody listens on, the same for the same token while free, so that two jobs may each run torchrun."""
    first = zlib.crc32(token.encode())
    for i in range(PORTS):
        port = FIRST_PORT + (first + i) % PORTS
        if port in taken:
            continue
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
    return 0


def placed(env: Mapping[str, str], grant: Grant, port: int) -> dict[str, str]:
    """The environment of an attempt with what it has of this machine."""
    env = dict(env)
    if grant.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, grant.gpus))
    # torchrun reads its default for --master-port from the PET_ name, scripts and torch.distributed from the other.
    env["MASTER_PORT"] = env["PET_MASTER_PORT"] = str(port)
    return env


@dataclass(frozen=True)
class Parked(Prepared):
    """A wrapper that has not begun: it waits for one line on its gate, and ends without a trace if the gate closes.

    Its `status` and `log` are still under tmp/; from the moment the status file stands in the attempt's folder, its
    lock says that the attempt lives.
    """

    env: Mapping[str, str]
    grant: Grant
    pid: int
    gate: int  # our end
    status: str
    log: str


def park(launch: Launch, env: Mapping[str, str], grant: Grant, machine: Machine) -> Parked:
    """Start the wrapper in a session of its own, up to its gate.

    Raises OSError where it can't be started.
    """
    leases = grant.leases if isinstance(grant, Place) else ()
    status, log = (f"{launch.tmp}/{fsio.half_name(f'{kind}-{launch.name}')}" for kind in ("status", "log"))
    words = direct(launch.command) if isinstance(launch.command, str) else launch.command
    command = words or [*launch.shell, "-c", str(launch.command)]
    argv = ["/bin/sh", WRAPPER, machine.backend, machine.handle, machine.host, machine.boot_id]
    argv += [launch.job.attempt(launch.attempt + 1).root, launch.work, launch.paths.callback, launch.pre, launch.after]
    argv += ["\n".join(launch.shell), machine.python, CALLBACK, *command]
    fd = fsio.out_of_the_way(os.open(status, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666))
    r, gate = map(fsio.out_of_the_way, os.pipe())
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_DUP2, fd, STATUS_FD),
            (os.POSIX_SPAWN_DUP2, r, GATE_FD),
        ]
        actions += [(os.POSIX_SPAWN_DUP2, f, FIRST_LEASE_FD + i) for i, f in enumerate(leases)]
        pid = os.posix_spawn(
            "/bin/sh", argv, env, file_actions=actions, setsid=True, setsigmask=[], setsigdef=_DEFAULT_SIGNALS
        )
    except OSError:
        os.close(gate)
        os.unlink(status)
        raise
    finally:
        os.close(fd)
        os.close(r)
    return Parked(launch, env, grant, pid, gate, status, log)


def release(parked: Parked) -> None:
    """Move the files of a parked wrapper to its attempt's folder, and let it go.

    Raises FileExistsError where this attempt was begun before. A wrapper that died in the meantime is no error: its
    attempt is one that ended before its first line.
    """
    paths = parked.launch.paths
    try:
        if os.path.exists(paths.status):
            raise FileExistsError(errno.EEXIST, "this attempt was begun before", paths.status)
        os.rename(parked.log, paths.log)
        os.rename(parked.status, paths.status)
        with contextlib.suppress(BrokenPipeError):
            os.write(parked.gate, b"%.6f\n" % time.time())
    finally:
        os.close(parked.gate)


def dismiss(parked: Parked) -> None:
    """End a parked wrapper that has not begun."""
    os.close(parked.gate)
    for path in (parked.status, parked.log):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def cannot_ever_start(e: OSError) -> bool:
    """Whether a failed spawn is the fault of this command alone (too long), not of the machine."""
    return e.errno in (errno.E2BIG, errno.EINVAL)
