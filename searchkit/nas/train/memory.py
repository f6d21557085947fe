"""What to lower where there is too little memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from searchkit.errors import SearchkitError

_CPU = "DefaultCPUAllocator"
_NO_MEMORY = (_CPU, "out of memory", "ALLOC_FAILED")  # torch's allocator, CUDA's refusal, that of cuBLAS and cuDNN
LOWER = {
    "train": "train.batch_size, train.scales, data.max_edge or data.cache_mb, or set train.precision=bf16; "
    "a training goes on so from its last checkpoint, with --accept-changes (in Python accept_changes)",
    "test": "test.batch_size, test.calibration_images, data.max_edge or data.cache_mb, or pick smaller input shapes; "
    "a sweep goes on where it was",
    "finetune": "finetune.batch_size, test.batch_size, data.max_edge or data.cache_mb, or set finetune.precision=bf16; "
    "a sweep goes on where it was",
    "extract": "test.batch_size, test.calibration_images, data.max_edge or data.cache_mb, or a smaller input shape",
    "predict": "the size of the images, of a supernet test.calibration_images too, or use the CPU (--device cpu)",
}


@contextlib.contextmanager
def memory_advice(verb: str) -> Iterator[None]:
    """Turn a lack of memory, the GPU's or the machine's, into what to lower."""
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as e:
        lacking = [line for line in str(e).splitlines() if any(mark in line for mark in _NO_MEMORY)]
        if not lacking and not isinstance(e, MemoryError | torch.OutOfMemoryError):
            raise
        who = "this machine" if isinstance(e, MemoryError) or _CPU in "".join(lacking) else "the GPU"
        what = "".join(lacking[:1]) or (str(e).splitlines() or [type(e).__name__])[0]
        raise SearchkitError(f"{who} has not enough memory: {what.strip()}", f"Lower {LOWER[verb]}") from e
