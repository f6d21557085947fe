"""The machine that is measured: its devices, how time passes on them, what it tells of clocks and throttling."""

from __future__ import annotations

import contextlib
import glob
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from searchkit import proc
from searchkit.errors import UsageError

WARM_RUNS = 3  # before the clock: memory is asked for, and kernels are chosen
LEAST_RUNS, MOST_RUNS = 7, 200


class Timing(NamedTuple):
    """The time of a call."""

    ms: float  # the median
    runs: int
    on_wall: float  # time on the wall for each second of the clock: above 1, others took turns on the processor


@dataclass(frozen=True)
class Clock:
    """How the time of a call is taken.

    On one thread it is the processor's time of that thread: what others do on the machine meanwhile does not count.
    Elsewhere it is the time on the wall, and a GPU is waited for.
    """

    device: torch.device
    threads: int

    @property
    def name(self) -> str:
        """As a table has it."""
        return "processor" if self._alone else "wall"

    @property
    def _alone(self) -> bool:
        return self.device.type == "cpu" and self.threads == 1

    def time(self, call: Callable[[], object], budget_s: float) -> Timing:
        """The median time of a call, of as many as the budget has time for, within bounds."""
        now = time.thread_time if self._alone else time.perf_counter
        for _ in range(WARM_RUNS):
            call()
        self._wait()
        spent: list[float] = []
        start, begun = time.perf_counter(), now()
        while len(spent) < LEAST_RUNS or (sum(spent) < budget_s and len(spent) < MOST_RUNS):
            began = now()
            call()
            self._wait()
            spent.append(now() - began)
        on_wall = (time.perf_counter() - start) / max(now() - begun, 1e-9)
        return Timing(1000 * statistics.median(spent), len(spent), on_wall)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def device_name(device: torch.device) -> str:
    """The processor's or the GPU's."""
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else proc.cpu().model


def device_at(name: str) -> torch.device:
    """The device of that name. Raises UsageError, naming those that there are, for one that isn't there."""
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0))]
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise UsageError(f"--device {name} is no device of torch's", f"There is {', '.join(there)}") from e
    if name == "cuda" and len(there) > 1:
        device = torch.device("cuda:0")
    if str(device) not in there:
        raise UsageError(f"--device {name}: this machine has no such device", f"There is {', '.join(there)}")
    return device


def clocks(device: torch.device) -> dict[str, Any]:
    """What the machine tells now of the device's frequency and of throttling; empty where it tells nothing."""
    return _gpu_clocks(device.index or 0) if device.type == "cuda" else _cpu_clocks()


def _cpu_clocks() -> dict[str, Any]:
    """Of Linux' /sys, which has none of it in most virtual machines."""
    told: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        mhz = [int(_read(path)) // 1000 for path in glob.glob(f"{_CPUS}/cpu[0-9]*/cpufreq/scaling_cur_freq")]
        told |= {"mhz": round(statistics.median(mhz))} if mhz else {}
    with contextlib.suppress(OSError):
        told |= {"governor": _read(f"{_CPUS}/cpu0/cpufreq/scaling_governor")}
    with contextlib.suppress(OSError, ValueError):
        counts = [int(_read(path)) for path in glob.glob(f"{_CPUS}/cpu[0-9]*/thermal_throttle/core_throttle_count")]
        told |= {"throttled": sum(counts)} if counts else {}  # times since the machine was started
    return told


_CPUS = "/sys/devices/system/cpu"


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def _gpu_clocks(index: int) -> dict[str, Any]:
    """Of NVIDIA's driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        reasons = int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        mhz = int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))
    except Exception:  # any driver trouble means the same: it is not known
        return {}
    return {"mhz": mhz, "throttled": reasons & ~1}  # bits of NVML's reasons, but for that it is idle
