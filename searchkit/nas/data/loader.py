"""Batches of a detection set: a pure function of (seed, step), no matter who asks or what interrupted the run.

An epoch is a permutation of all images, cut into batches of one shape: landscape images with landscape images (square
ones included), portrait with portrait, since a detector pads the images of a batch to one size. The remainders of both
kinds form the last batches, which may mix them; the very last one is filled up by repeating images of the same epoch.
So an epoch has ceil(n / global batch) steps, no image is lost, and fewer than one batch are repeated.
The batches of an epoch come in random order.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from searchkit.errors import SearchkitError, UsageError
from searchkit.nas.data.augment import Augment, least_box
from searchkit.nas.data.box_augment import apply
from searchkit.nas.data.coco import CocoSet, require_boxes
from searchkit.nas.data.images import DetectionData, unreadable, unusable
from searchkit.nas.data.processes import quiet_loader, share, watched
from searchkit.seeds import sample_seed

Targets = list[dict[str, Tensor]]
TrainBatches = Generator[tuple[int, list[Tensor], Targets], None, None]  # close() ends the workers early
EvalBatches = Generator[tuple[list[Tensor], Targets], None, None]

Edges = tuple[int, int]  # a short and a long one, px

_ORDER, _AUGMENT = 0, 1  # the streams of random numbers that one seed gives

log = logging.getLogger(__name__)


class Exactly(NamedTuple):
    """A size, px, that every image is made, whatever its own shape is."""

    height: int
    width: int


_Key = tuple[int, int, int, Edges | Exactly | None]


@dataclass
class Seen:
    """What a training has left out of the images that it was shown."""

    skipped: Counter[str] = field(default_factory=Counter)  # messages of images that can't be used and were replaced
    boxes: int = 0  # of the images shown, again each time
    lost: int = 0  # of these, those that random changes removed: cut away, or a side below augment.min_box


def steps_per_epoch(n_images: int, batch_size: int, world: int = 1) -> int:
    """Steps after which every image has been seen; `batch_size` is that of one of `world` ranks."""
    return -(-n_images // (batch_size * world))


def epoch_batches(aspect_ratios: Sequence[float] | np.ndarray, batch: int, seed: int, epoch: int) -> np.ndarray:
    """All batches of an epoch: (ceil(n / batch), batch) int64 indices of images; see the top of this file.

    aspect_ratios: (n,) width over height. batch: images of one step, of all ranks together.
    """
    portrait = np.asarray(aspect_ratios, np.float64) < 1
    rng = np.random.Generator(np.random.PCG64(sample_seed(seed, _ORDER, epoch)))
    order = rng.permutation(len(portrait))
    full: list[np.ndarray] = []
    remainders: list[np.ndarray] = []
    for group in (order[~portrait[order]], order[portrait[order]]):
        cut = len(group) // batch * batch
        full.append(group[:cut])
        remainders.append(group[cut:])
    tail = np.concatenate(remainders)
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
    seen: Seen | None = None,
    edges: Callable[[int], Edges | Exactly] | None = None,
) -> TrainBatches:
    """(step, images, targets) of the steps start_step, ..., steps - 1 of one rank.

    images: `batch_size` tensors (3, H, W) uint8, of sizes of their own; targets: see DetectionData, without crowd
    regions. A step's batch depends on the set, `augment`, `batch_size`, `world`, `seed`, `step` and `rank` alone, not
    on `start_step` or `workers`. No global generator is touched, but for what `apply` says.

    steps: where the run ends, counted from its beginning, however often it was resumed.
    workers: processes that decode, each on one thread; 0: this process does.
    cache_mb: see DetectionData; workers share what was decoded before they start, where processes are forked.
    seen: counts what was left out. The message of an image that can't be used is logged once, too.
    edges: the longest short and long edge (px) that the network makes of images at a step, or the size that it makes
    all of them; those that are larger are shrunk to that as it would do, so that only what it needs is sent. None:
    images keep their size.

    Raises UsageError where no box can be learned from, where no image can be decoded, or for senseless numbers.
    """
    if batch_size < 1 or not 0 <= rank < world or workers < 0 or start_step < 0:
        arguments = f"batch_size {batch_size}, rank {rank}, world {world}, workers {workers}, start_step {start_step}"
        raise UsageError(
            f"batch_size >= 1, 0 <= rank < world, workers >= 0 and start_step >= 0 must hold; got {arguments}"
        )
    require_boxes(data, least_box(augment))
    images = DetectionData(data, strict=False, crowd=False, cache_mb=cache_mb)
    if workers and start_step < steps:
        images.warm()
    plan = _Steps(data.aspect_ratios, batch_size, seed, start_step, steps, rank, world, edges)
    loader = _loader(_Samples(images, augment, seed), workers, plan)
    pinned = pin_memory and torch.cuda.is_available()
    return _train(loader, seen or Seen(), pinned)


def _train(loader: DataLoader, seen: Seen, pinned: bool) -> TrainBatches:
    for step, batch, boxes, lost, faults in watched(loader):
        if batch is None:
            raise faults[-1]
        for fault in faults:
            if fault.message not in seen.skipped:
                log.warning("%s; the next image of the set takes its place", fault.message)
            seen.skipped[fault.message] += 1
        seen.boxes += boxes
        seen.lost += lost
        yield step, *(batch.pin_memory() if pinned else batch).unpack()


def eval_loader(
    data: CocoSet, batch_size: int, workers: int, *, cache_mb: float = 0, pin_memory: bool = False
) -> EvalBatches:
    """(images, targets) of all images in the order of the set; the last batch may be smaller. Crowd regions are among
    the targets. Raises UsageError naming all images that can't be used, when it meets the first.

    workers: threads that decode (which holds no lock of Python's): images are sent as they are, whatever their size,
    so that none has to go through shared memory. 0: this one does.
    """
    if batch_size < 1 or workers < 0:
        raise UsageError(f"batch_size >= 1 and workers >= 0 must hold; got {batch_size} and {workers}")
    return _evaluate(DetectionData(data, cache_mb=cache_mb), batch_size, workers, pin_memory)


def _evaluate(images: DetectionData, batch_size: int, workers: int, pin_memory: bool) -> EvalBatches:
    for batch in _decoded(images, batch_size, workers):
        faults = [fault for _, _, fault in batch if fault is not None]
        if faults:
            raise unusable(unreadable(images.data) or faults)
        pinned = pin_memory and torch.cuda.is_available()
        shown = [image.pin_memory() if pinned else image for image, _, _ in batch]
        yield shown, [target for _, target, _ in batch]


def _decoded(
    images: DetectionData, batch_size: int, workers: int
) -> Iterator[list[tuple[Any, Any, UsageError | None]]]:
    """(image, target, None), or what is wrong with the image, batch by batch."""

    def load(index: int) -> tuple[Any, Any, UsageError | None]:
        try:
            return *images[index], None
        except UsageError as e:
            return None, None, e

    plan = [range(i, min(i + batch_size, len(images))) for i in range(0, len(images), batch_size)]
    if not workers:
        for part in plan:
            yield [load(index) for index in part]
        return
    waiting: deque[list[Future[Any]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for part in plan:
                waiting.append([pool.submit(load, index) for index in part])
                if len(waiting) > -(-2 * workers // batch_size):  # each thread has two images to do
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)


class _Steps:
    """The batch sampler: the keys (step, position in the global batch, index, edges) of this rank, step by step."""

    def __init__(
        self,
        aspect_ratios: list[float],
        batch_size: int,
        seed: int,
        start: int,
        end: int,
        rank: int,
        world: int,
        edges: Callable[[int], Edges | Exactly] | None,
    ) -> None:
        self.aspect_ratios = np.array(aspect_ratios)
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.steps, self.edges = range(start, end), edges

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[_Key]]:
        length = steps_per_epoch(len(self.aspect_ratios), self.batch_size, self.world)
        current, plan = -1, np.empty(0)
        positions = range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for step in self.steps:
            epoch, at = divmod(step, length)
            if epoch != current:
                plan = epoch_batches(self.aspect_ratios, self.batch_size * self.world, self.seed, epoch)
                current = epoch
            edges = self.edges(step) if self.edges else None
            yield [(step, position, int(plan[at, position]), edges) for position in positions]


class _Samples(Dataset):
    """(step, image, target, boxes that the image had, faults) for a key of `_Steps`."""

    def __init__(self, images: DetectionData, augment: Augment | None, seed: int) -> None:
        self.images, self.augment, self.seed = images, augment, seed

    def __getitem__(self, key: _Key) -> tuple[int, Tensor | None, dict[str, Tensor], int, list[UsageError]]:
        step, position, index, edges = key
        try:
            image, target, faults = self.images.load(index)
        except UsageError as e:
            return step, None, {}, 0, [e]  # as a value: raised in a worker, it would arrive wrapped in a traceback
        boxes = len(target.get("labels", ()))
        if self.augment is not None:
            image, target = apply(self.augment, image, target, sample_seed(self.seed, _AUGMENT, step, position))
        if edges is not None:
            image, target = shrunk(image, target, edges)
        return step, image, target, boxes, faults


def shrunk(image: Tensor, target: dict[str, Tensor], edges: Edges | Exactly) -> tuple[Tensor, dict[str, Tensor]]:
    """An image (3, H, W) uint8 and its boxes, shrunk to the size that torchvision's detectors would shrink it to, so
    that they leave it as it is. Interpolated as they do it, but rounded to 8 bits."""
    height, width = image.shape[-2:]
    exact = isinstance(edges, Exactly)
    size = (edges[0], edges[1]) if exact else _within(height, width, edges)
    if height * width <= size[0] * size[1]:
        return image, target
    resized = F.interpolate(image[None].float(), size=size, mode="bilinear", align_corners=False)[0]
    resized = resized.round_().to(torch.uint8)  # torch's own interpolation of uint8 rounds differently
    scale = torch.tensor([size[1] / width, size[0] / height] * 2)
    area = target["area"] * (scale[0] * scale[1])
    return resized, target | {"boxes": target["boxes"] * scale, "area": area}


def _within(height: int, width: int, edges: Edges) -> tuple[int, int]:
    """The size of an image that is shrunk to a short and a long edge; its own where it is no larger."""
    short, long = edges[0] / min(height, width), edges[1] / max(height, width)
    factor = min(short, long)
    if factor >= 1:
        return height, width
    least, most = (
        (edges[0], int(max(height, width) * factor)) if short <= long else (int(min(height, width) * factor), edges[1])
    )
    return (least, most) if height <= width else (most, least)


def _loader(samples: _Samples, workers: int, plan: Any) -> DataLoader:
    return quiet_loader(samples, workers, batch_sampler=plan, collate_fn=_collate)


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
        """The same in memory that a GPU reads faster."""
        return replace(self, pixels=self.pixels.pin_memory())


def _collate(samples: list[Any]) -> tuple[int, _Packed | None, int, int, Sequence[SearchkitError]]:
    """(step, batch, boxes of its images, how many of them it lacks, faults); no batch where an image is missing."""
    steps, images, targets, boxes, fault_lists = zip(*samples, strict=True)
    faults = [fault for some in fault_lists for fault in some]
    if any(image is None for image in images):
        return steps[0], None, 0, 0, faults
    arrays = [{key: value.numpy() for key, value in target.items()} for target in targets]
    packed = _Packed(torch.cat([image.flatten() for image in images]), [tuple(i.shape) for i in images], arrays)
    no_room = share(packed.pixels)
    if no_room:
        return steps[0], None, 0, 0, [no_room]
    lost = sum(boxes) - sum(len(target.get("labels", ())) for target in targets)
    return steps[0], packed, sum(boxes), lost, faults
