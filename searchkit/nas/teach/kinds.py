"""What can be a teacher: a row of TEACHERS for each kind of name, with what opens it."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.export import runtime
from searchkit.nas.models.class_logits import ClassLogits
from searchkit.nas.models.elastic import wiring_of
from searchkit.nas.models.heads.dense_head import DenseHead
from searchkit.nas.models.init.sources import SOURCES, kept_by_hub, read_weights
from searchkit.nas.models.subnet import subnet
from searchkit.nas.subnet.extract import load_folder
from searchkit.nas.tasks.read import load
from searchkit.nas.train import checkpoint
from searchkit.nas.train import net as nets
from searchkit.nas.train.bench import open_calibration
from searchkit.nas.train.distill_section import Teacher
from searchkit.nas.train.evaluate import calibrate
from searchkit.nas.train.recipe import Recipe, sized
from searchkit.nas.train.sections import path_of
from searchkit.nas.train.task import UNNAMED
from searchkit.records.arch import Arch

Run = Callable[[Any], Any]  # inputs as the student takes them -> whatever the network gives out
OF_IMAGE = ClassLogits("", lambda scores: scores, softmax=True, of_image=True)  # a network that gives out class scores


@dataclass(frozen=True)
class Opened:
    """A teacher in eval mode, that learns nothing. said: in messages. categories: the names of its classes, in order.
    logits: where it gives out class logits; None: as its head says, or the student's. run: what it is run by; None: its
    forward, or no more of it than is learnt from."""

    net: nn.Module
    said: str
    categories: tuple[str, ...]
    logits: ClassLogits | None = None
    run: Run | None = None


@dataclass(frozen=True)
class Asked:
    """Where a teacher comes from, and for which training. key: of the config, for messages."""

    teacher: Teacher
    own: Recipe
    key: str
    device: torch.device
    seed: int

    @property
    def name(self) -> str:
        """The teacher in one word, `~` and $VARIABLES filled in."""
        return path_of(self.teacher.teacher or "", f"{self.key}.teacher")

    def checkpoint(self) -> str | None:
        given = self.teacher.checkpoint
        return None if given is None else path_of(given, f"{self.key}.checkpoint")

    def without_checkpoint(self) -> None:
        """Raises UsageError where weights are named for what has its own."""
        if self.teacher.checkpoint is not None:
            raise UsageError(f"{self.key}.checkpoint: {self.name} has weights of its own", "Leave checkpoint out")

    def check_task(self, theirs: str) -> None:
        """Raises UsageError for a network of another task."""
        if theirs != self.own.task.name:
            raise UsageError(f"the teacher must be of task {self.own.task.name}, but {self.name} is of task {theirs}")


@dataclass(frozen=True)
class Kind:
    """A kind of teacher. form: how it is named, for messages; fits: whether a name is of it."""

    form: str
    fits: Callable[[str], bool]
    open: Callable[[Asked], Opened]


def open_teacher(asked: Asked) -> Opened:
    """A teacher on its device. Raises UsageError for a name that is of no kind, and for what can't be opened."""
    if asked.teacher.config is not None:
        opened = _of_config(asked, path_of(asked.teacher.config, f"{asked.key}.config"))
    else:
        kind = next((kind for kind in TEACHERS if kind.fits(asked.name)), None)
        if kind is None:
            prefix, colon, _ = asked.name.partition(":")
            near = did_you_mean(prefix, ("torchvision", "timm")) if colon else ""
            forms = ", ".join(["largest", *(kind.form for kind in TEACHERS)])
            raise UsageError(f"{asked.key}.teacher: {asked.name} is no teacher{near}", f"It can be {forms}")
        opened = kind.open(asked)
    if asked.teacher.classes:
        opened = replace(opened, categories=asked.teacher.classes)
    return replace(opened, net=opened.net.to(asked.device).eval().requires_grad_(False))


# --- a config with a checkpoint --------------------------------------------------------------------------------------


def _of_config(asked: Asked, config: str) -> Opened:
    """A network that was trained here; one cut out of a supernet gets statistics of its own."""
    recipe, path, own = load(config), asked.checkpoint(), asked.own
    if path is None:
        hint = f"{asked.key}: {{teacher: {config}, checkpoint: FILE}}"
        raise UsageError(f"{asked.key}.checkpoint: the teacher {config} needs its weights", hint)
    kept = checkpoint.load(path)
    if recipe.task != own.task:
        raise UsageError(
            f"the teacher must be of task {own.task.name}, but {recipe.path} is of task {recipe.task.name}"
        )
    nets.check_task(recipe, kept, path)
    net, alone = _network(recipe, kept, path, asked.teacher.arch)
    net = net.to(asked.device)
    if not alone:
        shape = own.scales[0]
        calibrate(net, open_calibration(own, asked.seed).batches(shape), asked.device, task=recipe.task)
    return Opened(net, path, tuple(kept.meta["categories"]))


def _network(recipe: Recipe, kept: checkpoint.Checkpoint, path: str, name: str) -> tuple[nn.Module, bool]:
    """The teacher's static network, and whether it was trained alone."""
    names = kept.meta["categories"]
    static = bool(kept.meta.get("static"))
    if static:  # a tuned subnet: the space is that arch alone
        recipe = replace(recipe, space=recipe.space.only(Arch.of(kept.meta["space"])))
    nets.check_space(recipe, kept, path)
    net, _ = nets.load(recipe, kept, names, 0, to_train=False, where=path)
    arch = recipe.space.named(name)
    alone = static or (recipe.train.policy == "fixed" and recipe.space.named(recipe.train.arch) == arch)
    teacher: nn.Module = subnet(net, arch, sized(recipe, names))
    return teacher.eval(), alone


# --- an extracted folder ---------------------------------------------------------------------------------------------


class _Levels(nn.Module):
    """A dense detector that gives out what its levels say, with the names of its modules."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        for name, module in net.named_children():
            self.add_module(name, module)
        self.run, self.transform = net.levels, net.transform

    def forward(self, images: list[Tensor]) -> Any:
        """Images (3, H, W) of 0..1 to class logits and box deltas of each level."""
        batch, _ = self.transform(images)
        return self.run(batch.tensors)


def _of_folder(asked: Asked) -> Opened:
    """A model that search-nas extract wrote."""
    asked.without_checkpoint()
    folder = asked.name
    net = load_folder(folder)
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        about = json.load(f)
    asked.check_task(about.get("task", UNNAMED))
    if about.get("task", UNNAMED) == "cls":
        return Opened(net, folder, tuple(about["categories"]), OF_IMAGE)
    return Opened(_Levels(net) if hasattr(net, "levels") else net, folder, tuple(about["categories"]))


# --- networks of a shelf ---------------------------------------------------------------------------------------------


def _of_torchvision(asked: Asked) -> Opened:
    """A classifier or detector of torchvision's, with its weights that torch.hub keeps, or those of `checkpoint`."""
    from torchvision import models

    name = asked.name.partition(":")[2]
    tasks = {"cls": models.list_models(module=models), "det": models.list_models(module=models.detection)}
    task = next((task for task, names in tasks.items() if name in names), None)
    if task is None:
        known = tuple(tasks[asked.own.task.name])
        hint = f"There are {', '.join(known)}"
        raise UsageError(f"{asked.key}.teacher: torchvision has no {name!r}{did_you_mean(name, known)}", hint)
    asked.check_task(task)
    given = models.get_model_weights(name).DEFAULT
    named = tuple(given.meta["categories"])
    path, classes = _weights(asked, lambda: kept_by_hub(asked.name, given.url, "checkpoint"), named)
    options = {"weights_backbone": None} if task == "det" else {}
    count = len(classes) + (task == "det" and asked.teacher.checkpoint is not None)  # its own begin with a background
    net = _filled(models.get_model(name, weights=None, num_classes=count, **options), path, asked)
    if task == "det":
        return Opened(net, asked.name, classes)
    made_for = given.transforms()
    return Opened(net, asked.name, classes, OF_IMAGE, partial(_normalised, net, made_for.mean, made_for.std))


def _of_timm(asked: Asked) -> Opened:
    """A classifier of timm's."""
    name = asked.name.partition(":")[2]
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError as e:
        raise UsageError(f"{asked.key}.teacher: {asked.name}: there is no module {e.name!r}", "pip install timm") from e
    if not timm.is_model(name):
        near = did_you_mean(name, tuple(timm.list_models()))
        raise UsageError(f"{asked.key}.teacher: timm has no {name!r}{near}")
    asked.check_task("cls")
    path, classes = _weights(asked, lambda: SOURCES["timm"](name), _imagenet())
    made = timm.create_model(name, pretrained=False, num_classes=len(classes))
    net, made_for = _filled(made, path, asked), made.pretrained_cfg
    return Opened(net, asked.name, classes, OF_IMAGE, partial(_normalised, net, made_for["mean"], made_for["std"]))


def _imagenet() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes, in their order."""
    from torchvision import models

    return tuple(models.get_model_weights("resnet18").DEFAULT.meta["categories"])


def _weights(asked: Asked, kept: Callable[[], str], theirs: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """(the file of a shelf network's weights, the names of the classes that these are of)."""
    own, classes = asked.checkpoint(), asked.teacher.classes
    if own is None:
        return kept(), theirs
    if not classes:
        raise UsageError(
            f"{asked.key}.classes: {own} doesn't say which classes its scores are of",
            "Name them in the order of its outputs: classes: [cat, dog]",
        )
    return own, classes


def _filled(net: nn.Module, path: str, asked: Asked) -> nn.Module:
    tensors, _ = read_weights(path)
    try:
        net.load_state_dict({name.removeprefix("module."): value for name, value in tensors.items()})
    except RuntimeError as e:
        lines = "; ".join(line.strip() for line in str(e).splitlines()[1:4])
        hint = "Give the weights of this network, and in `classes` the names of all of its classes"
        raise UsageError(f"{asked.key}: {path} does not fit {asked.name}: {lines}", hint) from e
    return net


def _normalised(net: nn.Module, mean: Any, std: Any, images: Tensor) -> Any:
    """A classifier on images (N, 3, H, W) of 0..1 that it has normalised itself nowhere."""
    centre, spread = (torch.tensor(each, dtype=images.dtype, device=images.device) for each in (mean, std))
    return net((images - centre[:, None, None]) / spread[:, None, None])


# --- files of other runtimes -----------------------------------------------------------------------------------------


def _of_onnx(asked: Asked) -> Opened:
    """A classifier's file that search-nas extract --export wrote: it gives out class scores, and nothing else."""
    asked.without_checkpoint()
    if not os.path.exists(asked.name):
        raise UsageError(f"{asked.key}.teacher: there is no file {asked.name}", "Correct the path")
    file = runtime.open_file(asked.name)
    asked.check_task(file.task)
    if file.task != "cls":
        raise UsageError(
            f"{asked.key}.teacher: {asked.name} gives out boxes alone, which nothing is learnt from",
            "Take the extracted folder that it lies in",
        )
    net = runtime.as_network(file)
    return Opened(net, asked.name, file.categories, OF_IMAGE, lambda images: net(images.cpu()).to(images.device))


TEACHERS = (
    Kind("torchvision:NAME", lambda name: name.startswith("torchvision:"), _of_torchvision),
    Kind("timm:NAME", lambda name: name.startswith("timm:"), _of_timm),
    Kind("a FILE.onnx", lambda name: name.endswith(".onnx"), _of_onnx),
    Kind("an extracted folder", os.path.isdir, _of_folder),
    Kind(
        "a config with its checkpoint",
        lambda name: name.endswith((".yaml", ".yml", ".json")),
        lambda asked: _of_config(asked, asked.name),
    ),
)


def logits_of(net: nn.Module, ours: Any) -> ClassLogits | None:
    """Where a network gives out class logits, as its head says; one that was extracted, or is torchvision's, as the
    student's head would, if it is built as that head's. None where that is not known."""
    if isinstance(net, _Levels):
        return replace(ours.class_logits(net), module="") if isinstance(ours, DenseHead) else None
    if not hasattr(net, "wiring") and not isinstance(net, FasterRCNN):
        return None
    head: Any = wiring_of(net).head if hasattr(net, "wiring") else ours
    if not hasattr(head, "class_logits"):
        return None
    logits: ClassLogits = head.class_logits(net)
    return logits if logits.module in {name for name, _ in net.named_modules()} else None
