"""Whether there is enough memory, before anything runs, and what to lower where there was too little."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from searchkit import proc
from searchkit.console import counted, size
from searchkit.errors import SearchkitError, UsageError
from searchkit.nas.cost.rules import layers_at
from searchkit.nas.models.part import NetPlan
from searchkit.nas.models.plans import plans_of
from searchkit.nas.space.shapes import InputShape
from searchkit.records.arch import Arch

if TYPE_CHECKING:
    import torch

    from searchkit.nas.train.recipe import Recipe

FLOAT = 4  # bytes of a number
_CPU = "DefaultCPUAllocator"
_NO_MEMORY = (_CPU, "out of memory", "ALLOC_FAILED")  # torch's allocator, CUDA's refusal, that of cuBLAS and cuDNN
LOWER = {
    "train": "train.batch_size, train.scales, data.max_edge or data.cache_mb, or set train.precision=bf16; "
    "a training goes on so from its last checkpoint, with --accept-changes (in Python accept_changes)",
    "test": "test.batch_size, test.calibration_images, data.max_edge or data.cache_mb, or pick smaller input shapes; "
    "a sweep goes on where it was",
    "prune": "test.batch_size, test.calibration_images, data.max_edge or data.cache_mb, or take a smaller --input; "
    "what was scored stays",
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


def require_memory(
    recipe: Recipe, points: Iterable[tuple[Arch, InputShape]], images: int, device: torch.device
) -> None:
    """Raises UsageError for an arch at an input shape, of which so many images at once certainly take more memory than
    this machine has free. A GPU refuses by itself, but the kernel gives what it does not have, and then ends
    processes."""
    free = proc.free_memory()
    if free is None or device.type != "cpu":
        return
    plans = plans_of(recipe.model, recipe.space.maximum())
    for arch, shape in points:
        height, width = recipe.task.network.size_of(shape, recipe.data)
        least = images * FLOAT * (3 * height * width + largest_layer(plans, arch, height, width))
        if least > free:
            raise UsageError(
                f"{counted(images, 'image')} of {height} x {width} px must fit into memory: the largest layer "
                f"takes at least {size(least)}, and this machine has {size(free)} free",
                "Give a smaller input shape" + (", or fewer images at once: test.batch_size" if images > 1 else ""),
            )


def largest_layer(plans: NetPlan, arch: Arch, height: int, width: int) -> int:
    """How many numbers the backbone's largest layer has in its input and its output together, for one image. Layers
    that may write where they read are none of these."""
    sizes, at = [0], (height, width)
    for row in plans.rows(arch):
        layers, at = layers_at(row, *at)
        sizes += [x.cin * inputs + x.cout * outputs for x, inputs, outputs in layers if x.kind in ("conv", "norm")]
    return max(sizes)
