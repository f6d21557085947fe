"""Who teaches the archs of a training step, and what they learn from: a list of distillers over outputs and features.

A teacher is the largest arch of the step (Yu & Huang, "Universally Slimmable Networks", ICCV 2019, §3.3; Yu et al.,
"BigNAS", ECCV 2020, §3.1) or a network of its own (Cai et al., "Once-for-All", ICLR 2020, §3.3). What both networks
give out at named modules is seen by hooks, while they run; a distiller makes a loss of it. Each kind is a row of
DISTILLERS, from its part of the config's `distill`; its losses are in divergences.py and mimics.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from searchkit.errors import SearchkitError, UsageError
from searchkit.nas.models.class_logits import ClassLogits
from searchkit.nas.train.distill_section import LARGEST, Distill, Mimic, ScoreJob
from searchkit.nas.train.divergences import Discriminator, row_of
from searchkit.nas.train.mimics import CONNECTORS, MIMICS, Paraphraser, Shapes, factors_of, resized
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.schedules import value_at
from searchkit.nas.train.steps import Soft

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

    def compared(self, student: Shapes, teacher: Shapes) -> tuple[Shapes, Shapes]:
        """What must be the same on both sides, from the shapes that their modules give out."""
        ...

    def losses(self, student: list[Any], teacher: list[Any], at: Taught) -> dict[str, Tensor]:
        """The weighted losses by name, of what the two modules gave out in a step."""
        ...


@dataclass(frozen=True)
class Scores:
    """Class scores: how far they are from the teacher's (Hinton et al., "Distilling the Knowledge in a Neural Network",
    2015), by a row of SCORE_LOSSES. Those of a classifier are a softmax; those of a detector are of all its anchors,
    each weighed by how sure the teacher is that something is there (as Du et al., "Distilling Object Detectors with
    Feature Richness", NeurIPS 2021, weigh features), for nearly all of them are background; or of those alone that are
    to find a box, as in aw_nas. A discriminator, where there is one, learns to tell whose they are."""

    job: ScoreJob
    teacher: str
    ours: ClassLogits
    theirs: ClassLogits
    order: tuple[int, ...]  # the teacher's columns in the order of the data's classes; empty: as they are
    loss_name: str = "loss_distill"
    positives: bool = False  # of anchors those alone that are to find a box
    discriminator: Discriminator | None = None

    @property
    def of_student(self) -> str:
        return self.ours.module

    @property
    def of_teacher(self) -> str:
        return self.theirs.module

    def compared(self, student: Shapes, teacher: Shapes) -> tuple[Shapes, Shapes]:
        """See Distiller. The last columns of a classifier may be of classes that the data doesn't have."""
        if self.ours.of_image:
            return [shape[:-1] for shape in student], [shape[:-1] for shape in teacher]
        return student, teacher

    def losses(self, student: list[Any], teacher: list[Any], at: Taught) -> dict[str, Tensor]:
        """See Distiller."""
        weight, temperature = (float(value_at(spec, at.epoch)) for spec in (self.job.weight, self.job.temperature))
        theirs = self.theirs.flat(teacher[-1])
        if self.order:
            theirs = theirs[..., list(self.order)]
        ours = self.ours.flat(student[-1])[..., : theirs.shape[-1]]
        counted = at.positives(self.ours, student[-1]) if self.positives else None
        row, terms = row_of(self.job.loss)
        labels = self.ours.labels(at.targets).to(ours.device) if row.needs_labels and self.ours.labels else None
        parts = {}
        if self.job.weight != 0:
            apart = self.ours.divergence(ours, theirs, temperature, counted, terms, labels)
            parts[self.loss_name] = weight * apart
        if self.discriminator is not None:
            strength = float(value_at(self.job.meal_weight, at.epoch))
            one, other = (self.ours.probabilities(each / temperature) for each in (ours, theirs))
            counts = self.ours.counts(theirs, counted)
            parts[self.loss_name.replace("distill", "meal")] = self.discriminator.loss(one, other, counts, strength)
        return parts


@dataclass(frozen=True)
class Features:
    """Features of one module, by a row of MIMICS; of several calls or tensors their mean. connector: what the student's
    go through first. paraphraser: what makes factors of the teacher's, in their place."""

    settings: Mimic
    teacher: str
    loss_name: str
    connector: nn.Module | None = None
    paraphraser: Paraphraser | None = None

    @property
    def of_student(self) -> str:
        return self.settings.student

    @property
    def of_teacher(self) -> str:
        return self.settings.teacher or self.settings.student

    def compared(self, student: Shapes, teacher: Shapes) -> tuple[Shapes, Shapes]:
        """See Distiller."""
        if self.paraphraser is not None:
            teacher = [(n, self.paraphraser.channels, *size) for n, _, *size in teacher]
        if CONNECTORS[self.settings.connector].resizes and len(student) == len(teacher):
            student = [(*ours[:2], *theirs[2:]) for ours, theirs in zip(student, teacher, strict=True)]
        if self.connector is not None and len(student) == len(teacher):
            student = [(n, width, *size) for (n, _, *size), (_, width, *_) in zip(student, teacher, strict=True)]
        compared = MIMICS[self.settings.loss].compared
        return compared(student), compared(teacher)

    def losses(self, student: list[Any], teacher: list[Any], at: Taught) -> dict[str, Tensor]:
        """See Distiller."""
        settings = self.settings
        weight, temperature = (float(value_at(spec, at.epoch)) for spec in (settings.weight, settings.temperature))
        if settings.warmup_steps:
            weight *= min(1.0, at.step / settings.warmup_steps)
        each = []
        for ours, theirs in zip(tensors_in(student), tensors_in(teacher), strict=True):
            theirs = factors_of(self.paraphraser, theirs)
            ours = resized(ours, theirs) if CONNECTORS[settings.connector].resizes else ours
            ours = ours if self.connector is None else self.connector(ours)
            each.append(MIMICS[settings.loss].loss(ours.float(), theirs.float(), temperature))
        return {self.loss_name: weight * torch.stack(each).mean()}


@dataclass(frozen=True)
class Opened:
    """What the distillers of a training are made of: its `distill` section; how both sides give class scores, and the
    order of the teacher's classes, by the name of a teacher; what learns along, by its name among the extras."""

    settings: Distill
    logits: Callable[[str], tuple[ClassLogits, ClassLogits, tuple[int, ...]]]
    extras: Mapping[str, nn.Module]


def _scores(opened: Opened) -> list[Distiller]:
    settings, made = opened.settings, []
    for i, job in enumerate(settings.score_jobs):
        name, extras = settings.name_of(job), opened.extras
        loss_name = "loss_distill" if not settings.scores else f"loss_distill_{i}"
        positives, discriminator = settings.anchors == "positive", extras.get(f"meal_{i}")
        logits = opened.logits(name)
        made.append(Scores(job, name, *logits, loss_name, positives, discriminator))  # type: ignore[arg-type]
    return [*made]


def _features(opened: Opened) -> list[Distiller]:
    settings, extras = opened.settings, opened.extras
    names = [f"loss_mimic_{i}" for i in range(len(settings.mimic))] if len(settings.mimic) > 1 else ["loss_mimic"]
    return [
        Features(mimic, settings.name_of(mimic), name, extras.get(f"mimic_{i}"), extras.get(f"paraphraser_{i}"))  # type: ignore[arg-type]
        for i, (name, mimic) in enumerate(zip(names, settings.mimic, strict=False))
    ]


DISTILLERS: Mapping[str, Callable[[Opened], list[Distiller]]] = {  # what of `distill` asks for them -> what it makes
    "score_jobs": _scores,
    "mimic": _features,
}


def distillers_of(opened: Opened) -> tuple[Distiller, ...]:
    """All that the `distill` section of a config asks for."""
    return tuple(distiller for make in DISTILLERS.values() for distiller in make(opened))


@dataclass(frozen=True)
class Teaching:
    """How a training is taught. teachers: networks of their own by name, in eval mode, that learn nothing; runs: how
    each of them is run on inputs, no further than it is learnt from. extras: what learns along with the network, or has
    learnt before it. notes: what people should know of it, a line each."""

    settings: Distill
    distillers: tuple[Distiller, ...]
    teachers: Mapping[str, nn.Module] = field(default_factory=dict)
    runs: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    extras: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    notes: tuple[str, ...] = ()

    @property
    def in_place(self) -> bool:
        """Whether the largest arch of the step teaches the others."""
        return LARGEST not in self.teachers and any(d.teacher == LARGEST for d in self.distillers)

    @property
    def of_student(self) -> tuple[str, ...]:
        """The modules of the network in training that are seen."""
        own = [d.of_teacher for d in self.distillers if d.teacher == LARGEST and self.in_place]
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
        settings, in_place = self.teaching.settings, self.teaching.in_place
        scores = [d for d in self._known if isinstance(d, Scores) and d.ours.of_image]
        instead = in_place and any(d.teacher == LARGEST for d in scores)
        if settings.label_weight is None:
            return Soft(0.0 if instead else 1.0, dropout=not instead)
        return Soft(float(value_at(settings.label_weight, self.epoch)), dropout=not instead)

    def losses(self, student: Seen) -> dict[str, Tensor]:
        """The losses of an arch by name, weighted; student: what its modules gave out."""
        parts: dict[str, Tensor] = {}
        for distiller in self._known:
            theirs = self.seen[distiller.teacher][distiller.of_teacher]
            ours = student[distiller.of_student]
            for outputs, module, whose in (
                (ours, distiller.of_student, "the student"),
                (theirs, distiller.of_teacher, whose_text(distiller.teacher)),
            ):
                if not tensors_in(outputs):
                    raise SearchkitError(
                        f"step {self.step}: {distiller.loss_name} is of {module or 'the outputs'} of {whose}, which "
                        "gave out nothing in this step: it was not called",
                        "search-nas modules lists what is called, at an arch (--arch MIN)",
                    )
            parts |= distiller.losses(ours, theirs, self)
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
        if self.teaching.in_place:
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


def whose_text(teacher: str) -> str:
    """A teacher in messages."""
    return "the largest arch" if teacher == LARGEST else f"the teacher {teacher}".rstrip()


def check_shapes(
    distillers: Sequence[Distiller],
    students: Mapping[str, Mapping[str, Shapes]],
    teachers: Mapping[str, Mapping[str, Shapes]],
    key: str = "train.distill",
) -> None:
    """Raises UsageError for features of a student and its teacher whose shapes differ, naming both with their shapes.

    students: by arch, teachers: by teacher, the shapes that each module gives out, by module. key: of the config.
    """
    for distiller in distillers:
        theirs, whose = teachers[distiller.teacher].get(distiller.of_teacher, []), whose_text(distiller.teacher)
        for arch, shapes in students.items():
            ours = shapes.get(distiller.of_student, [])
            where = f"the student at {arch}" if arch else "the student"
            sides = (distiller.of_student, ours, where), (distiller.of_teacher, theirs, whose)
            for module, given, of in sides:
                if not given:
                    raise UsageError(
                        f"{key}: {module} of {of} gives out nothing: it is not called there",
                        "search-nas modules lists what does, at an arch (--arch MIN)",
                    )
            one, other = distiller.compared(ours, theirs)
            loss = distiller.settings.loss if isinstance(distiller, Features) else None
            if loss and MIMICS[loss].of_maps and any(len(shape) != 4 for shape in (*ours, *theirs)):
                raise UsageError(
                    f"{key}: loss {loss} is of maps (N, C, H, W), but {distiller.of_student} of "
                    f"{where} gives out {shapes_text(ours)}, {distiller.of_teacher} of {whose} {shapes_text(theirs)}",
                    "Choose modules that give out maps, or loss: l2",
                )
            if one != other:
                raise UsageError(
                    f"{key}: {distiller.of_student} of {where} gives out {shapes_text(ours)}, "
                    f"{distiller.of_teacher} of {whose} {shapes_text(theirs)}: they must be of the same shapes",
                    "Choose modules whose widths are fixed, such as those of the neck (search-nas modules lists all); "
                    "or let a convolution learn to go from one width to the other (connector: conv), to the other size "
                    "(resize), or to both (conv_resize)",
                )


def shapes_text(shapes: Sequence[tuple[int, ...]]) -> str:
    """Shapes as people read them."""
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


# (recipe of a training, names of its classes, device, seed) -> what its config asks for
OpenTeaching = Callable[[Recipe, Sequence[str], torch.device, int], Teaching | None]
