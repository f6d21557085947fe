"""Batches of a detection set: a pure function of (seed, step), whoever asks, after whatever interruption.

An epoch is a permutation of all images, cut into batches of one shape: landscape images with landscape images (square
ones included), portrait with portrait, since a detector pads the images of a batch to one size. What is left of both
kinds fills the last batches of the cut, which may mix them; what is missing to a full last batch are images of the same
epoch once more. So an epoch has ceil(n / global batch) steps, no image is lost, and fewer than one batch are repeated.
The batches of an epoch come in random order.
"""

from __future__ import annotations

import logging
import math
import signal
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from searchkit.data.augment import Augment, apply, least_box, sample_seed
from searchkit.data.coco import CocoSet, require_boxes
from searchkit.data.images import DetectionData, unreadable, unusable
from searchkit.errors import UsageError

Targets = list[dict[str, Tensor]]
TrainBatches = Generator[tuple[int, list[Tensor], Targets], None, None]  # close() ends the workers early
EvalBatches = Generator[tuple[list[Tensor], Targets], None, None]

_ORDER, _AUGMENT = 0, 1  # the streams of random numbers that one seed gives

log = logging.getLogger(__name__)


def steps_per_epoch(n_images: int, batch_size: int, world: int = 1) -> int:
    """Steps after which every image was seen; `batch_size` is that of one of `world` ranks."""
    return -(-n_images // (batch_size * world))


def epoch_batches(aspect_ratios: Sequence[float] | np.ndarray, batch: int, seed: int, epoch: int) -> np.ndarray:
    """All batches of an epoch: (ceil(n / batch), batch) int64 indices of images; see the top of this file.

    aspect_ratios: (n,) width over height. batch: images of one step, of all ranks together.
    """
    portrait = np.asarray(aspect_ratios, np.float64) < 1
    rng = np.random.Generator(np.random.PCG64(sample_seed(seed, _ORDER, epoch)))
    order = rng.permutation(len(portrait))
    full: list[np.ndarray] = []
    rest: list[np.ndarray] = []
    for group in (order[~portrait[order]], order[portrait[order]]):
        cut = len(group) // batch * batch
        full.append(group[:cut])
        rest.append(group[cut:])
    tail = np.concatenate(rest)
    last = tail[len(tail) // batch * batch :]
    if len(last):
        others = order[~np.isin(order, last)]  # none twice in one batch, as long as there are enough images
        again = np.resize(np.concatenate([others, last]), batch - len(last))
        tail = np.concatenate([tail, again])
    batches = np.concatenate([*full, tail]).reshape(-1, batch)
    return rng.permutation(batches)


def batch_ids(
    n_images: int,
    aspect_ratios: Sequence[float],
    batch_size: int,
    seed: int,
    step: int,
    rank: int = 0,
    world: int = 1,
) -> list[int]:
    """Indices of the images of one rank at one step, counted from 0 over all epochs."""
    if len(aspect_ratios) != n_images:
        raise UsageError(f"every image needs an aspect ratio: {n_images} images, {len(aspect_ratios)} ratios")
    epoch, at = divmod(step, steps_per_epoch(n_images, batch_size, world))
    row = epoch_batches(aspect_ratios, batch_size * world, seed, epoch)[at]
    ids: list[int] = row[rank * batch_size : (rank + 1) * batch_size].tolist()
    return ids


def train_loader(
    data: CocoSet,
    augment: Augment | None,
    batch_size: int,
    seed: int,
    start_step: int,
    steps: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
    *,
    cache_mb: float = 0,
    pin_memory: bool = False,
    skipped: Counter[str] | None = None,
) -> TrainBatches:
    """(step, images, targets) of the steps start_step, ..., steps - 1 of one rank.

    images: `batch_size` tensors (3, H, W) uint8, of sizes of their own; targets: see DetectionData, without crowd
    regions. A step's batch depends on the set, `augment`, `batch_size`, `world`, `seed`, `step` and `rank` alone, not
    on `start_step` or `workers`. No global generator is touched, but for what `apply` says.

    steps: where the run ends, counted from its beginning, however often it was resumed.
    workers: processes that decode, each on one thread; 0: this process does.
    cache_mb: see DetectionData; workers share what was decoded before they start, where processes are forked.
    skipped: counts the messages of images that can't be used and were replaced; each is logged once, too.

    Raises UsageError where no box can be learned from, where no image can be decoded, or for senseless numbers.
    """
    if batch_size < 1 or not 0 <= rank < world or workers < 0 or start_step < 0:
        found = f"batch_size {batch_size}, rank {rank}, world {world}, workers {workers}, start_step {start_step}"
        raise UsageError(f"batch_size >= 1, 0 <= rank < world, workers >= 0 and start_step >= 0 must hold; got {found}")
    require_boxes(data, least_box(augment))
    images = DetectionData(data, strict=False, crowd=False, cache_mb=cache_mb)
    if workers and start_step < steps:
        images.warm()
    plan = _Steps(data.aspect_ratios, batch_size, seed, start_step, steps, rank, world)
    loader = _loader(_Samples(images, augment, seed), workers, batch_sampler=plan, pin_memory=pin_memory)
    return _train(loader, Counter() if skipped is None else skipped)


def _train(loader: DataLoader, skipped: Counter[str]) -> TrainBatches:
    for step, batch, faults in loader:
        if batch is None:
            raise faults[-1]
        for fault in faults:
            if fault.message not in skipped:
                log.warning("%s; the next image of the set takes its place", fault.message)
            skipped[fault.message] += 1
        yield step, *batch.unpack()


def eval_loader(
    data: CocoSet, batch_size: int, workers: int, *, cache_mb: float = 0, pin_memory: bool = False
) -> EvalBatches:
    """(images, targets) of all images in the order of the set; the last batch may be smaller. Crowd regions are among
    the targets. Raises UsageError naming all images that can't be used, when it meets the first."""
    if batch_size < 1 or workers < 0:
        raise UsageError(f"batch_size >= 1 and workers >= 0 must hold; got {batch_size} and {workers}")
    images = DetectionData(data, cache_mb=cache_mb)
    if workers:
        images.warm()
    keys = [(i, 0, i) for i in range(len(images))]
    plan = [keys[i : i + batch_size] for i in range(0, len(keys), batch_size)]
    loader = _loader(_Samples(images, None, 0), workers, batch_sampler=plan, pin_memory=pin_memory)
    return _evaluate(loader, data)


def _evaluate(loader: DataLoader, data: CocoSet) -> EvalBatches:
    for _, batch, faults in loader:
        if faults:
            raise unusable(unreadable(data) or faults)
        yield batch.unpack()


class _Steps:
    """The batch sampler: (step, position in the global batch, index) of every sample of this rank, step by step."""

    def __init__(
        self, aspect_ratios: list[float], batch_size: int, seed: int, start: int, end: int, rank: int, world: int
    ) -> None:
        self.aspect_ratios = np.array(aspect_ratios)
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.steps = range(start, end)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        length = steps_per_epoch(len(self.aspect_ratios), self.batch_size, self.world)
        current, plan = -1, np.empty(0)
        positions = range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for step in self.steps:
            epoch, at = divmod(step, length)
            if epoch != current:
                plan = epoch_batches(self.aspect_ratios, self.batch_size * self.world, self.seed, epoch)
                current = epoch
            yield [(step, position, int(plan[at, position])) for position in positions]


class _Samples(Dataset):
    """(step, image, target, faults) for a key of `_Steps`."""

    def __init__(self, images: DetectionData, augment: Augment | None, seed: int) -> None:
        self.images, self.augment, self.seed = images, augment, seed

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[int, Tensor | None, dict[str, Tensor], list[UsageError]]:
        step, position, index = key
        try:
            image, target, faults = self.images.load(index)
        except UsageError as e:
            return step, None, {}, [e]  # as a value: raised in a worker, it would arrive wrapped in a traceback
        if self.augment is not None:
            image, target = apply(self.augment, image, target, sample_seed(self.seed, _AUGMENT, step, position))
        return step, image, target, faults


def _loader(samples: _Samples, workers: int, batch_sampler: Any, pin_memory: bool) -> DataLoader:
    return quiet_loader(samples, workers, pin_memory, batch_sampler=batch_sampler, collate_fn=_collate)


def quiet_loader(samples: Dataset, workers: int, pin_memory: bool, **how: Any) -> DataLoader:
    """A DataLoader that touches no global generator, and whose workers leave cores and Ctrl-C to the training."""
    return DataLoader(
        samples,
        num_workers=workers,
        worker_init_fn=_start_worker,
        pin_memory=pin_memory and torch.cuda.is_available(),
        generator=torch.Generator(),  # otherwise it draws the seeds of its workers from the global one
        **how,
    )


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)  # as many workers as cores may run, and the training besides
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; it ends the workers


@dataclass(frozen=True)
class _Packed:
    """A batch on its way out of a worker: one tensor of all pixels, and arrays. Every tensor that is sent costs an open
    file, of which a process has few, and shared memory of its own, which takes time to map."""

    pixels: Tensor  # (sum of 3 H W,) uint8
    shapes: list[tuple[int, ...]]
    targets: list[dict[str, np.ndarray]]

    def unpack(self) -> tuple[list[Tensor], Targets]:
        """The images are views of one tensor."""
        parts = self.pixels.split([math.prod(shape) for shape in self.shapes])
        images = [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        targets = [{key: torch.as_tensor(value) for key, value in target.items()} for target in self.targets]
        return images, targets

    def pin_memory(self) -> _Packed:
        """What DataLoader calls where memory is to be pinned."""
        return replace(self, pixels=self.pixels.pin_memory())


def _collate(samples: list[Any]) -> tuple[int, _Packed | None, list[UsageError]]:
    """(step, batch, faults); no batch where an image is missing."""
    steps, images, targets, found = zip(*samples, strict=True)
    faults = [fault for some in found for fault in some]
    if any(image is None for image in images):
        return steps[0], None, faults
    arrays = [{key: value.numpy() for key, value in target.items()} for target in targets]
    packed = _Packed(torch.cat([image.flatten() for image in images]), [tuple(i.shape) for i in images], arrays)
    return steps[0], packed, faults
