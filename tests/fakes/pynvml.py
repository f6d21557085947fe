"""A stand-in for NVML's Python binding: FAKE_GPUS names the free GiB of each GPU of 16 GiB, as `FAKE_GPUS=16,2`."""

import os
from types import SimpleNamespace

NVMLError = RuntimeError


def _free():
    return [float(word) for word in os.environ["FAKE_GPUS"].split(",")]


def nvmlInit():
    if not os.environ.get("FAKE_GPUS"):
        raise NVMLError("no driver")


def nvmlDeviceGetCount():
    return len(_free())


def nvmlDeviceGetHandleByIndex(i):
    return i


def nvmlDeviceGetMemoryInfo(handle):
    return SimpleNamespace(total=16 << 30, free=int(_free()[handle] * (1 << 30)))


def nvmlDeviceGetName(handle):
    return f"Fake {handle}"


def nvmlDeviceGetUUID(handle):
    return f"GPU-{handle}{handle}{handle}"
