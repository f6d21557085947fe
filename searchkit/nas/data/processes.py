"""Processes that load batches: what they send goes through shared memory, and one that dies ends the run.

Docker gives a container 64 MB of shared memory by default. That a tensor has no room there must be found out before the
queue's thread sends it: that thread would drop the batch, and the training would wait for it for ever.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from multiprocessing import Lock, active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from threading import current_thread, main_thread
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from searchkit.errors import SearchkitError

SHARED = "/dev/shm"
_ROOM = 10**9  # with so many bytes of shared memory free, a process did not die for lack of it
_ENDING_S = 5  # within which a process that has closed its pipes is dead


class LoadingError(SearchkitError):
    """Batches can't be loaded as the machine is set up: a process died, or shared memory has no room."""


def quiet_loader(samples: Dataset, workers: int, **options: Any) -> DataLoader:
    """A DataLoader that touches no global generator, and whose workers leave cores and Ctrl-C to the training."""
    return DataLoader(
        samples,
        num_workers=workers,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # otherwise it draws the seeds of its workers from the global one
        **options,
    )


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)  # there may be as many workers as cores, besides the training
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and ends the workers


def share(tensor: Tensor) -> LoadingError | None:
    """Move a tensor that a worker is about to send to shared memory; returns the error where there is no room."""
    if get_worker_info() is None:
        return None
    try:
        tensor.share_memory_()
    except RuntimeError as e:
        size = _size(tensor.numel() * tensor.element_size())
        reason = str(e).splitlines()[0]
        return LoadingError(f"shared memory has no room for a batch of {size} ({reason})", _advice())
    return None


def watched(loader: DataLoader) -> Iterator[Any]:
    """What a loader gives, whose items end with a list of faults. Raises LoadingError where a worker has died, whatever
    it was doing, or found no room in shared memory."""
    earlier, handler = active_children(), signal.getsignal(signal.SIGCHLD)
    try:
        # Torch begins by making so many semaphores, which lie in shared memory too, and leaks half of them if it fails.
        semaphores = [Lock() for _ in range(4 * (loader.num_workers + 1) if loader.num_workers else 0)]
        del semaphores
        items = iter(loader)
    except OSError as e:  # no room for semaphores, or no further process
        raise LoadingError(f"processes can't load images: {e.strerror or e}", _advice()) from e
    workers = [process for process in active_children() if process not in earlier]
    if workers and current_thread() is main_thread():
        signal.signal(signal.SIGCHLD, handler)  # torch's own would raise wherever the training happens to be
    try:
        while True:
            try:
                with _alarm(workers):
                    item = next(items)
            except StopIteration:
                return
            for fault in item[-1]:
                if isinstance(fault, LoadingError):
                    raise fault
            yield item
    except (RuntimeError, OSError, EOFError, LoadingError) as e:  # of a pipe to a dead process, too
        if isinstance(e, OSError | EOFError) and not str(e).startswith("Caught"):
            _await_end(workers)
        fault = _death(workers) if _dead(workers) else e
        for process in workers:  # one may be waiting for a lock that a dead one held
            process.kill()
        raise fault from e


@contextlib.contextmanager
def _alarm(workers: Sequence[BaseProcess]) -> Iterator[None]:
    """Raise LoadingError once a worker is dead. Torch looks every five seconds, but not while it reads what a worker
    sends, and a dead one may have sent only the beginning."""

    def look(*_: object) -> None:
        if _dead(workers):
            raise _death(workers)

    look()
    if not workers or current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGCHLD, look)
    try:
        look()
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _await_end(workers: Sequence[BaseProcess]) -> None:
    """Wait until a worker that has closed its pipes has an exit code: its pipes and its sentinel close before that."""
    ended = wait([process.sentinel for process in workers], _ENDING_S)
    for process in workers:
        if process.sentinel in ended:
            process.join(_ENDING_S)


def _dead(workers: Sequence[BaseProcess]) -> list[tuple[int | None, int]]:
    """(pid, exit code) of those that did not end well."""
    return [(process.pid, code) for process in workers if (code := process.exitcode)]


def _death(workers: Sequence[BaseProcess]) -> LoadingError:
    """The error about workers that died."""
    deaths = [(pid, signal.Signals(-code).name if code < 0 else f"exit code {code}") for pid, code in _dead(workers)]
    deaths_text = ", ".join(f"process {pid}: {text}" for pid, text in deaths)
    return LoadingError(f"a process that loads images has died ({deaths_text})", _advice(dead=deaths))


def _advice(dead: Sequence[tuple[int | None, str]] = ()) -> str:
    """What to do where processes died, of signals or with exit codes, or where shared memory had no room."""
    room, low = "", True
    try:
        stats = os.statvfs(SHARED)
        room = f" ({SHARED} has {_size(stats.f_blocks * stats.f_frsize)})"
        low = stats.f_bavail * stats.f_frsize < _ROOM
    except OSError:
        pass
    ways = ["Lower data.workers (0 loads without processes), or the batch size"]
    if low or not dead or any(text == "SIGBUS" for _, text in dead):
        ways.append(f"in a container give more shared memory{room}: docker run --shm-size=8g")
    killed = any(text == "SIGKILL" for _, text in dead)
    more = ". A process that was killed may have lacked memory: lower data.cache_mb, too" if killed else ""
    return "; ".join(ways) + more


def _size(n: int) -> str:
    """Bytes for people, in MB, or in kB where they are few."""
    return f"{n / 1e6:.0f} MB" if n >= 10**7 else f"{n / 1e3:.0f} kB"
