"""What a task is to training and scoring: its data sets, its network, its objective, its pictures.

The tasks themselves are rows of searchkit.nas.tasks.table, and a recipe holds that of its config. Sets, images, targets
and evaluators are of the task's own types, and pass through training and scoring unopened: `Any` here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from searchkit.errors import UsageError
    from searchkit.nas.data.loader import Seen
    from searchkit.nas.data.pixels import Reading
    from searchkit.nas.space.shapes import InputShape
    from searchkit.nas.train.distributed import Ranks
    from searchkit.nas.train.sections import Data, LabelData, Optimisation, Test
    from searchkit.nas.train.steps import Batch, Evaluation, Losses, Soft

UNNAMED = "det"  # the task of configs, checkpoints and extracted folders that name none


@dataclass(frozen=True)
class Sets:
    """Sets of images, and their batches."""

    compared: str  # what `digest` sees, for messages
    require_labels: Callable[[Any, Any], None]  # UsageError for a set that nothing can be learnt from
    unlearnt: Callable[
        [Any, Any], tuple[str, ...]
    ]  # (a training set, the head) -> what of it teaches nothing, in words
    joined: Callable[[Any, Any], Any]  # the images of two sets
    matched: Callable[[Any, Sequence[str]], Any]  # a set with its classes in the order of these names
    same_classes: Callable[[Any, Any], None]  # UsageError where the second has examples of classes the first lacks
    digest: Callable[[Any], str]  # what tells a set from others
    source_of: Callable[[Any], str]  # what the config calls the file that a set's ids are of
    count: Callable[[Any], int]  # images
    subset: Callable[[Any, Sequence[int]], tuple[Any, tuple[int | str, ...]]]  # (part of a set, ids of its images)
    unusable: Callable[[Any, Sequence[int]], dict[int, UsageError]]  # what is wrong with images that can't be decoded
    places: Callable[[Any, Sequence[Any]], list[int] | None]  # where the images of ids are; None where some lack
    decoded_mb: Callable[[Any, InputShape], float]  # what all images of a set take in memory at an input shape
    train_batches: Callable[
        [Any, Any, Optimisation, int, int, int, Sequence[InputShape], Ranks, Seen | None], Iterator[Batch]
    ]
    eval_batches: Callable[[Any, int, int, InputShape], Iterable[Any]]  # (set, images a batch, workers, input shape)
    kept_shape: Callable[[InputShape], InputShape | None]  # for which decoded images are kept; None: for all
    images_of: Callable[[Any], Any]  # those of an evaluation batch
    ids_of: Callable[[Any], list[int]]  # of the targets of a training batch
    protocol: Callable[[Any], dict[str, Any]]  # what of the section decides a score


@dataclass(frozen=True)
class Network:
    """What of a network differs from task to task, whatever its parts."""

    build_options: Callable[[Any], dict[str, Any]]  # what of the config's `data` a network is built with
    set_scale: Callable[[nn.Module, InputShape, Any], None]  # let it take images of an input shape
    size_of: Callable[[InputShape, Any], tuple[int, int]]  # (H, W) px that it makes an image of that shape
    inputs_of: Callable[[Any, torch.device], Any]  # images (uint8), or prepared ones, as it takes them
    prepares: Callable[[nn.Module], Hashable | None]  # what it does before its first layer; None: nothing to keep
    prepared: Callable[[nn.Module, Any, torch.device], tuple[Any, float]]
    """An evaluation batch with that done to its images; the MB that this takes."""


@dataclass(frozen=True)
class Objective:
    """What is learnt, and what a score is."""

    losses: Callable[[nn.Module, Any, Any, Optimisation, int, Soft | None], Losses]
    evaluator: Callable[[Any, Test], Any]  # what scores predictions on a set, made once
    without_value: Callable[[Any], dict[str, str]]  # metrics that have no value on the evaluator's set, and why
    class_names: Callable[[Any], tuple[str, ...]]  # the classes that are told one by one, if asked for
    notes: Callable[[Any], tuple[str, ...]]  # what is odd about scoring on the evaluator's set
    evaluate: Callable[[nn.Module, Iterable[Any], Any, torch.device, str], Evaluation]
    results: Callable[[Any, Any], tuple[list[dict[str, Any]], int]]  # (predictions as COCO's results, those left out)
    record_name: Callable[[Any, str], str]  # what a metric is called in a record


@dataclass(frozen=True)
class Pictures:
    """What a model finds on pictures, and how that is drawn."""

    key: str  # of what it finds, in JSON
    size_of: Callable[[InputShape], tuple[int, int] | None]  # (H, W) px that pictures are made; None: it resizes them
    find: Callable[[Any, Tensor, float], list[dict[str, Any]]]  # (model, picture, least score)
    draw: Callable[[Any, Tensor, Sequence[dict[str, Any]], str], None]  # (model, picture, what was found, file)
    names: Callable[[Sequence[dict[str, Any]]], list[str]]  # those that the picture shows
    text: Callable[[Sequence[dict[str, Any]]], str]  # what was found, in one line


@dataclass(frozen=True)
class Functions:
    """What is done in a task."""

    sets: Sets
    network: Network
    objective: Objective
    pictures: Pictures


@dataclass(frozen=True)
class Task:
    """One task: what a config of it may say; and what is done in it, which is imported, with torch, when asked for."""

    name: str
    section: type[Data] | type[LabelData]  # the config's `data`
    needs: str  # the keys of a split, for messages
    open_split: Callable[[Any, str, Any, Reading], Any]  # (the section, name of a split, its section, reading) -> set
    input_shape: InputShape  # where the space names none
    metrics: Callable[[Test], tuple[str, ...]]  # of an evaluation; the first ranks
    per_class: str  # what the names of metrics of single classes begin with
    train_keys: tuple[str, ...]  # of `train` and `finetune`: those of this task alone
    test_keys: tuple[str, ...]  # of `test`: those of this task alone
    functions: Callable[[], Functions]

    @property
    def sets(self) -> Sets:
        return self.functions().sets

    @property
    def network(self) -> Network:
        return self.functions().network

    @property
    def objective(self) -> Objective:
        return self.functions().objective

    @property
    def pictures(self) -> Pictures:
        return self.functions().pictures
