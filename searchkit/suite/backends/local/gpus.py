"""Which GPUs there are, and the machine-wide leases that keep two runs from sharing one by accident.

A GPU is named by its index in PCI bus order, which is NVML's order and, with CUDA_DEVICE_ORDER=PCI_BUS_ID, CUDA's.
A lease is a flock on one file per GPU; a run takes it with its first job on that GPU, its wrappers inherit it, and it
is free again when the run has no job there (or when the last of them is dead, whatever killed the scheduler).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from searchkit import fsio
from searchkit.errors import UsageError

NVML = "libnvidia-ml.so.1"  # comes with NVIDIA's driver
LEASES = "/tmp/searchkit-gpu-leases"  # fixed, whatever TMPDIR says: every run of the machine must see the same files


@dataclass(frozen=True)
class Gpu:
    index: int
    name: str = "GPU"
    total_bytes: int | None = None


def _nvml() -> list[tuple[Gpu, str]]:
    """Every GPU that NVML sees, with its UUID; empty without driver."""
    try:
        ctypes.CDLL(NVML)  # pynvml would open it too, but its import takes a tenth of a start of search-run
        import pynvml
    except (OSError, ImportError):
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    gpus = []
    for i in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(i)
        total = None
        with contextlib.suppress(pynvml.NVMLError):
            total = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
        gpus.append((Gpu(i, str(pynvml.nvmlDeviceGetName(handle)), total), str(pynvml.nvmlDeviceGetUUID(handle))))
    return gpus


def free_bytes(index: int) -> int | None:
    """The free memory of a GPU now; None where NVML can't tell."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index)).free)
    except Exception:  # any driver trouble means the same: unknown
        return None


def find(spec: str, env: Mapping[str, str]) -> list[Gpu]:
    """The GPUs a run may use.

    `spec`: `auto` (all that NVML sees, within an inherited CUDA_VISIBLE_DEVICES), `none`, or indices like `0,1`.
    A named list is believed where NVML is missing; where it is there, an index that it does not have is a UsageError.
    """
    if spec == "none":
        return []
    seen = _nvml()
    if spec == "auto":
        visible = env.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            return [gpu for gpu, _ in seen]
        named = [v.strip() for v in visible.split(",") if v.strip()]
        return [gpu for gpu, uuid in seen if str(gpu.index) in named or any(n and uuid.startswith(n) for n in named)]
    words = [w.strip() for w in spec.split(",")]
    if not all(w.isdecimal() for w in words) or len(set(words)) != len(words):
        raise UsageError(f"--gpus must be auto, none or distinct indices like 0,1; got {spec!r}")
    indices = [int(w) for w in words]
    if not seen:
        return [Gpu(i) for i in indices]
    by_index = {gpu.index: gpu for gpu, _ in seen}
    if missing := [i for i in indices if i not in by_index]:
        raise UsageError(f"--gpus names {missing}, but this machine has {sorted(by_index)}")
    return [by_index[i] for i in indices]


def try_lease(index: int) -> int | None:
    """An open file that holds the lease of a GPU, or None while another run holds it."""
    old = os.umask(0)
    try:
        os.makedirs(LEASES, mode=0o1777, exist_ok=True)
        path = f"{LEASES}/{index}"
        try:  # without O_CREAT first: opening another user's file in a sticky folder with it is refused by the kernel
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    finally:
        os.umask(old)
    high = fsio.out_of_the_way(fd)
    if not stat.S_ISREG(os.fstat(high).st_mode) or not fsio.try_lock(high) or not fsio.is_at(high, path):
        os.close(high)
        return None
    with contextlib.suppress(OSError):
        os.utime(high)  # cleaners of /tmp go by age
    return high
