"""How many jobs run at once, and on which GPUs: one place grants, one takes back."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field

from searchkit.cpus import usable
from searchkit.errors import UsageError
from searchkit.suite.backends.base import Grant
from searchkit.suite.backends.local import gpus as gpu_module
from searchkit.suite.backends.local.gpus import Gpu

REMOTE = ("srun", "sbatch", "docker")  # a template that starts with one of these runs elsewhere: no local slot
COOLING_S = 10.0  # how long a job's memory may take to be seen free
SLACK_BYTES = 64 << 20  # what the driver itself may hold more or less
REMOTE_MAX = 32  # of those at once, without -j


@dataclass(frozen=True)
class Place(Grant):
    """A grant of this machine, with our open leases of its GPUs."""

    leases: tuple[int, ...] = ()


@dataclass
class Slots:
    """`limit` jobs at once; each on `per_job` GPUs of `gpus`, at most `per_gpu` jobs on one GPU."""

    limit: int
    per_job: int = 0
    gpus: tuple[Gpu, ...] = ()
    per_gpu: int = 1
    mem_bytes: int | None = None
    used: Counter[int] = field(default_factory=Counter)  # jobs on a GPU
    running: int = 0
    leases: dict[int, int] = field(default_factory=dict)  # GPU -> open lease file
    adopted: Counter[int] = field(default_factory=Counter)  # jobs on a GPU whose lease an earlier scheduler took
    free_before: dict[int, int] = field(default_factory=dict)  # GPU -> bytes, when its first job started
    cooling: dict[int, float] = field(default_factory=dict)  # GPU -> until when its memory may take to be free
    waits_for: str = ""  # why the last `take` found no place though nothing of ours runs

    @property
    def alike(self) -> Grant | None:
        return None if self.per_job else Place(())

    @property
    def devices(self) -> list[str]:
        return [f"{gpu.index}: {gpu.name}" for gpu in self.gpus]

    def take(self) -> Grant | None:
        """A place for one more job, or None."""
        self.waits_for = ""
        if self.running >= self.limit:
            return None
        chosen: list[int] = []
        for gpu in sorted(self.gpus, key=lambda g: (self.used[g.index], g.index)):
            if len(chosen) == self.per_job:
                break
            if self.used[gpu.index] >= self.per_gpu or self._still_held(gpu.index):
                continue
            if self._fits(gpu) and self._lease(gpu.index):
                chosen.append(gpu.index)
        if len(chosen) < self.per_job:
            self._drop_idle()
            if not self.running:
                names = ",".join(str(g.index) for g in self.gpus)
                need = f" with {self.mem_bytes / 2**30:.3g} GiB free" if self.mem_bytes else ""
                self.waits_for = f"{self.per_job} of the GPUs {names}{need}, not held by another run"
            return None
        for index in chosen:
            free = gpu_module.free_bytes(index) if not self.used[index] else None
            if free is not None:
                self.free_before[index] = free
        self.used.update(chosen)
        self.running += 1
        return Place(tuple(sorted(chosen)), tuple(self.leases[index] for index in sorted(chosen)))

    def adopt(self, gpus: tuple[int, ...]) -> Grant:
        """Count a job that an earlier scheduler started; its wrapper holds the lease, not we."""
        self.used.update(gpus)
        self.adopted.update(gpus)
        self.running += 1
        return Place(gpus)

    def give_back(self, grant: Grant) -> None:
        self.running -= 1
        for index in grant.gpus:
            self.used[index] -= 1
            if not self.used[index] and index in self.free_before:
                self.cooling[index] = time.monotonic() + COOLING_S
            if self.adopted[index]:
                self.adopted[index] -= 1
        self._drop_idle()

    def close(self) -> None:
        """Let go of our own hold; wrappers that still run keep theirs."""
        for fd in self.leases.values():
            os.close(fd)
        self.leases.clear()

    def _lease(self, index: int) -> bool:
        if index in self.leases:
            return True
        fd = gpu_module.try_lease(index)
        if fd is None:
            return False
        self.leases[index] = fd
        return True

    def _fits(self, gpu: Gpu) -> bool:
        if self.mem_bytes is None:
            return True
        # A job that has just started has not taken its memory yet: count what ours may still take, too.
        if gpu.total_bytes is not None and (self.used[gpu.index] + 1) * self.mem_bytes > gpu.total_bytes:
            return False
        free = gpu_module.free_bytes(gpu.index)
        return free is None or free >= self.mem_bytes

    def _still_held(self, index: int) -> bool:
        """Whether the memory of a job that ended here is not seen free yet: the driver may take a moment, and the next
        job would find too little. After a while it is somebody else's."""
        if index in self.cooling:
            free = gpu_module.free_bytes(index)
            enough = free is None or free >= self.free_before[index] - SLACK_BYTES
            if enough or time.monotonic() >= self.cooling[index]:
                del self.cooling[index]
        return index in self.cooling

    def _drop_idle(self) -> None:
        for index in [i for i in self.leases if not self.used[i]]:
            os.close(self.leases.pop(index))


def plan(
    program: str, gpus: list[Gpu], per_job: int | None, per_gpu: int, cpus: int, mem_bytes: int | None, most: int | None
) -> tuple[Slots, str]:
    """The slots of a run, and one line that says where they come from.

    Raises UsageError where one job needs more than there is.
    """
    if os.path.basename(program) in REMOTE:
        limit = most or REMOTE_MAX
        return Slots(limit), f"{limit} at once: the template starts with {program}, so no local GPU or CPU is taken"
    if per_job is None:
        per_job = 1 if gpus else 0
    if per_job > len(gpus):
        raise UsageError(
            f"resources.gpus: {per_job} a job, but {len(gpus)} GPU(s) can be used here",
            "Name them if the driver is not seen (--gpus 0,1), or run on CPUs: resources: {gpus: 0}",
        )
    if per_job and mem_bytes and all(g.total_bytes is not None and g.total_bytes < mem_bytes for g in gpus):
        most_gib = max(g.total_bytes or 0 for g in gpus) / 2**30
        raise UsageError(f"resources.gpu_mem: {mem_bytes / 2**30:.3g} GiB, but the largest GPU has {most_gib:.3g} GiB")
    if per_job:
        limit = len(gpus) * per_gpu // per_job
        names = ",".join(str(g.index) for g in gpus)
        line = f"GPUs {names} ({gpus[0].name}), {per_job} a job" + (f", {per_gpu} jobs on each" if per_gpu > 1 else "")
        slots = Slots(min(limit, most or limit), per_job, tuple(gpus), per_gpu, mem_bytes)
    else:
        cores = usable()
        limit = most or max(1, cores // cpus)
        line = f"{cores} CPUs, {cpus} a job, no GPU"
        slots = Slots(limit)
    return slots, f"{slots.limit} at once: {line}"
