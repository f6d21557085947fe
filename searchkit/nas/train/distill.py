"""Who teaches the archs of a training step, and what they learn from: a list of distillers over outputs and features.

A teacher is the largest arch of the step (Yu & Huang, "Universally Slimmable Networks", ICCV 2019, §3.3; Yu et al.,
"BigNAS", ECCV 2020, §3.1) or a network of its own (Cai et al., "Once-for-All", ICLR 2020, §3.3). What both networks
give out at named modules is seen by hooks, while they run; a distiller makes a loss of it. Each kind is a row of
DISTILLERS, from its section of the config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.errors import UsageError
from searchkit.nas.models.class_logits import ClassLogits
from searchkit.nas.nn import Conv2d
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.schedules import value_at
from searchkit.nas.train.sections import LARGEST, Distill, Mimic
from searchkit.nas.train.steps import Soft

Shapes = list[tuple[int, ...]]
Seen = Mapping[str, list[Any]]  # by module, what it gave out in one forward, in the order of its calls


@contextmanager
def watched(net: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """What these modules of a network give out within the context, as copies: activations that follow a module may
    write to what it gave out."""
    seen: dict[str, list[Any]] = {name: [] for name in names}

    def keep(name: str) -> Any:
        module = net.get_submodule(name)
        return module.register_forward_hook(lambda _, __, output: seen[name].append(_each(Tensor.clone, output)))

    hooks = [keep(name) for name in seen]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def tensors_in(output: Any) -> list[Tensor]:
    """The tensors of whatever a module gives out, in their order."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else ()
    return [tensor for value in values for tensor in tensors_in(value)]


class Distiller(Protocol):
    """One loss of what a student and its teacher give out.

    loss_name: in reports. teacher: its name, LARGEST of the step. of_student, of_teacher: the modules that are seen.
    """

    @property
    def loss_name(self) -> str: ...
    @property
    def teacher(self) -> str: ...
    @property
    def of_student(self) -> str: ...
    @property
    def of_teacher(self) -> str: ...

    def shapes(self, student: Shapes) -> Shapes:
        """The shapes of what is compared with the teacher's, from those that the student's module gives out."""
        ...

    def loss(self, student: list[Any], teacher: list[Any], at: Taught) -> Tensor:
        """The weighted loss of what the two modules gave out in a step."""
        ...


@dataclass(frozen=True)
class Scores:
    """Class scores: the KL divergence to the teacher's (Hinton et al., "Distilling the Knowledge in a Neural Network",
    2015). Those of a classifier are a softmax; those of a detector are of all its anchors, each weighed by how sure the
    teacher is that something is there (as Du et al., "Distilling Object Detectors with Feature Richness", NeurIPS 2021,
    weigh features), for nearly all of them are background; or of those alone that are to find a box, as in aw_nas."""

    settings: Distill
    teacher: str
    ours: ClassLogits
    theirs: ClassLogits
    order: tuple[int, ...]  # the teacher's columns in the order of the data's classes; empty: as they are
    loss_name: str = "loss_distill"

    @property
    def of_student(self) -> str:
        return self.ours.module

    @property
    def of_teacher(self) -> str:
        return self.theirs.module

    def shapes(self, student: Shapes) -> Shapes:
        """See Distiller."""
        return student

    def loss(self, student: list[Any], teacher: list[Any], at: Taught) -> Tensor:
        """See Distiller."""
        weight = float(value_at(self.settings.weight, at.epoch))
        temperature = float(value_at(self.settings.temperature, at.epoch))
        theirs = self.theirs.flat(teacher[-1])
        if self.order:
            theirs = theirs[..., list(self.order)]
        ours = self.ours.flat(student[-1])[..., : theirs.shape[-1]]
        counted = at.positives(self.ours, student[-1]) if self.settings.anchors == "positive" else None
        return weight * self.ours.divergence(ours, theirs, temperature, counted)


@dataclass(frozen=True)
class Features:
    """Features of one module: `l2`, the squared distance of both as vectors of length 1, a mean over images; `mse`, the
    mean squared difference. Of several calls or tensors their mean. connector: what the student's go through first."""

    settings: Mimic
    teacher: str
    loss_name: str
    connector: Conv2d | None = None

    @property
    def of_student(self) -> str:
        return self.settings.student

    @property
    def of_teacher(self) -> str:
        return self.settings.teacher or self.settings.student

    def shapes(self, student: Shapes) -> Shapes:
        """See Distiller."""
        if self.connector is None:
            return student
        return [(n, self.connector.out_channels, *size) for n, _, *size in student]

    def loss(self, student: list[Any], teacher: list[Any], at: Taught) -> Tensor:
        """See Distiller."""
        weight = float(value_at(self.settings.weight, at.epoch))
        if self.settings.warmup_steps:
            weight *= min(1.0, at.step / self.settings.warmup_steps)
        connected = [x if self.connector is None else self.connector(x) for x in tensors_in(student)]
        pairs = [*zip(connected, tensors_in(teacher), strict=True)]
        losses = [MIMIC_LOSSES[self.settings.loss](ours.float(), theirs.float()) for ours, theirs in pairs]
        return weight * torch.stack(losses).mean()


def _l2(ours: Tensor, theirs: Tensor) -> Tensor:
    ours, theirs = (F.normalize(each.flatten(1), dim=1) for each in (ours, theirs))
    return (ours - theirs).square().sum(1).mean()


MIMIC_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"l2": _l2, "mse": F.mse_loss}


@dataclass(frozen=True)
class Opened:
    """What the distillers of a training are made of: its `distill` section; how both sides give class scores, and the
    order of the teacher's classes, by the name of a teacher; the connectors of its features, by their number."""

    settings: Distill
    logits: Callable[[str], tuple[ClassLogits, ClassLogits, tuple[int, ...]]]
    connectors: Mapping[int, Conv2d]


def _scores(opened: Opened) -> list[Distiller]:
    settings = opened.settings
    if settings.weight == 0:
        return []
    ours, theirs, order = opened.logits(settings.own_teacher)
    return [Scores(settings, settings.own_teacher, ours, theirs, order)]


def _features(opened: Opened) -> list[Distiller]:
    settings = opened.settings
    names = [f"loss_mimic_{i}" for i in range(len(settings.mimic))] if len(settings.mimic) > 1 else ["loss_mimic"]
    return [
        Features(mimic, settings.teacher_name(mimic), name, opened.connectors.get(i))
        for i, (name, mimic) in enumerate(zip(names, settings.mimic, strict=False))
    ]


DISTILLERS: Mapping[str, Callable[[Opened], list[Distiller]]] = {  # the keys of `distill` that say so -> what they make
    "weight": _scores,
    "mimic": _features,
}


def distillers_of(opened: Opened) -> tuple[Distiller, ...]:
    """All that the `distill` section of a config asks for."""
    return tuple(distiller for make in DISTILLERS.values() for distiller in make(opened))


@dataclass(frozen=True)
class Teaching:
    """How a training is taught. teachers: networks of their own by name, in eval mode, that learn nothing; runs: how
    each of them is run on inputs, no further than it is learnt from. extras: what learns along with the network."""

    settings: Distill
    distillers: tuple[Distiller, ...]
    teachers: Mapping[str, nn.Module] = field(default_factory=dict)
    runs: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    extras: nn.ModuleDict = field(default_factory=nn.ModuleDict)

    @property
    def of_student(self) -> tuple[str, ...]:
        """The modules of the network in training that are seen."""
        own = [d.of_teacher for d in self.distillers if d.teacher == LARGEST]
        return tuple(dict.fromkeys((*(d.of_student for d in self.distillers), *own)))

    def begin(self, net: nn.Module, inputs: Any, targets: Any, epoch: int, step: int) -> Taught:
        """A step of the network in training: its teachers see the inputs once."""
        seen: dict[str, Seen] = {}
        for name, teacher in self.teachers.items():
            modules = [d.of_teacher for d in self.distillers if d.teacher == name]
            with torch.no_grad(), watched(teacher, modules) as of_teacher:
                self.runs.get(name, teacher)(inputs)
            seen[name] = of_teacher
        return Taught(self, epoch, step, seen, net, inputs, targets)


@dataclass
class Taught:
    """One step of a teaching. seen: what the teachers gave out, by teacher. net: that in training; inputs and targets:
    what it sees, and is to find."""

    teaching: Teaching
    epoch: int
    step: int
    seen: dict[str, Seen]
    net: nn.Module
    inputs: Any
    targets: Any
    _positives: Tensor | None = None

    @property
    def _known(self) -> list[Distiller]:
        """The distillers whose teacher has been seen: in place not for the largest arch, which is visited first."""
        return [d for d in self.teaching.distillers if d.teacher in self.seen]

    def soft(self) -> Soft | None:
        """How the next arch learns from the labels; None: from them alone."""
        if not self._known:
            return None
        settings = self.teaching.settings
        instead = any(isinstance(d, Scores) and d.ours.of_image and d.teacher == LARGEST for d in self._known)
        if settings.label_weight is None:
            return Soft(0.0 if instead else 1.0, dropout=not instead)
        return Soft(float(value_at(settings.label_weight, self.epoch)), dropout=not instead)

    def losses(self, student: Seen) -> dict[str, Tensor]:
        """The losses of an arch by name, weighted; student: what its modules gave out."""
        parts = {}
        for distiller in self._known:
            theirs = self.seen[distiller.teacher][distiller.of_teacher]
            ours = student[distiller.of_student]
            parts[distiller.loss_name] = distiller.loss(ours, theirs, self)
        return parts

    def positives(self, logits: ClassLogits, output: Any) -> Tensor:
        """Which anchors are to find a box, the same for all archs of the step; output: of the module of the logits."""
        if self._positives is None:
            assert logits.positives is not None
            device = tensors_in(output)[0].device
            targets = [{key: t[key].to(device) for key in ("boxes", "labels")} for t in self.targets]
            with torch.no_grad():
                self._positives = logits.positives(self.net, self.inputs, targets, output)
        return self._positives

    def keep(self, student: Seen) -> None:
        """What the first arch gave out teaches the others, where it is asked for."""
        if any(d.teacher == LARGEST for d in self.teaching.distillers):
            self.seen[LARGEST] = {name: _each(Tensor.detach, outputs) for name, outputs in student.items()}


def _each(change: Callable[[Tensor], Tensor], output: Any) -> Any:
    """Whatever a module gives out, with a change of each tensor."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, Mapping):
        return {key: _each(change, value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return [_each(change, value) for value in output]
    return output


def check_shapes(
    distillers: Sequence[Distiller],
    students: Mapping[str, Mapping[str, Shapes]],
    teachers: Mapping[str, Mapping[str, Shapes]],
) -> None:
    """Raises UsageError for features of a student and its teacher whose shapes differ, naming both with their shapes.

    students: by arch, teachers: by teacher, the shapes that each module gives out, by module.
    """
    for distiller in distillers:
        theirs = teachers[distiller.teacher].get(distiller.of_teacher, [])
        whose = "the largest arch" if distiller.teacher == LARGEST else f"the teacher {distiller.teacher}".rstrip()
        for arch, shapes in students.items():
            ours = distiller.shapes(shapes.get(distiller.of_student, []))
            sides = (distiller.of_student, ours, f"the student at {arch}"), (distiller.of_teacher, theirs, whose)
            for module, given, where in sides:
                if not given:
                    raise UsageError(
                        f"train.distill: {module} of {where} gives out nothing: it is not called there",
                        "search-nas modules lists what does, at an arch (--arch MIN)",
                    )
            if ours != theirs:
                raise UsageError(
                    f"train.distill: {distiller.of_student} of the student at {arch} gives out {shapes_text(ours)}, "
                    f"{distiller.of_teacher} of {whose} {shapes_text(theirs)}: they must be of the same shapes",
                    "Choose modules whose widths are fixed, such as those of the neck (search-nas modules lists all); "
                    "or let a convolution learn to go from one width to the other (connector: conv)",
                )


def shapes_text(shapes: Sequence[tuple[int, ...]]) -> str:
    """Shapes as people read them."""
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


# (recipe of a training, names of its classes, device, seed) -> what its config asks for
OpenTeaching = Callable[[Recipe, Sequence[str], torch.device, int], Teaching | None]
