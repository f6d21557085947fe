"""The teachers that a config asks for, opened, held against the network that learns, and what is learnt from each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from searchkit.errors import UsageError
from searchkit.nas.models.class_logits import ClassLogits
from searchkit.nas.models.elastic import set_arch, wiring_of
from searchkit.nas.space.shapes import InputShape
from searchkit.nas.teach.kinds import Asked, Opened, logits_of, open_teacher
from searchkit.nas.train import checkpoint
from searchkit.nas.train import net as nets
from searchkit.nas.train.distill import (
    Distiller,
    Scores,
    Teaching,
    check_shapes,
    distillers_of,
    shapes_text,
    whose_text,
)
from searchkit.nas.train.distill import Opened as Parts
from searchkit.nas.train.distill_section import LARGEST, Distill, Mimic
from searchkit.nas.train.divergences import Discriminator, row_of
from searchkit.nas.train.mimics import CONNECTORS, Paraphraser, Shapes, width_of
from searchkit.nas.train.modules import ModuleRow, list_modules, outputs_of, require_names, shapes_of
from searchkit.nas.train.recipe import Recipe
from searchkit.nas.train.sections import path_of
from searchkit.records.arch import Arch
from searchkit.seeds import step_seed


def open_teaching(own: Recipe, categories: Sequence[str], device: torch.device, seed: int) -> Teaching | None:
    """What the `train.distill` of a config asks for; its teachers are opened.

    A teacher cut out of a supernet gets batch-norm statistics of its own, from the test.calibration_images of this
    training: those of the supernet fit no arch of it. Raises UsageError for one whose scores are to be learnt and that
    has other classes than the data, for modules that are not there, and for features whose shapes differ.
    """
    settings = own.train.distill
    if settings is None:
        return None
    student = nets.build(own, categories, seed).to(device)  # of the shapes and names of the one in training
    archs = {name: own.space.named(name) for name in ("MAX", "MIN")}
    return _open(_Sides(own, settings, "train.distill", student, archs, own.scales[0], {}), categories, device, seed)


def open_tuning(
    own: Recipe,
    categories: Sequence[str],
    static: nn.Module,
    largest: Callable[[], nn.Module],
    shape: InputShape,
    device: torch.device,
    seed: int,
) -> Teaching | None:
    """What the `finetune.distill` of a config asks for, for one subnet at an input shape. largest: the supernet's
    largest network, static, with statistics of its own. Raises as open_teaching."""
    settings = own.finetune.distill
    if settings is None:
        return None
    drawn = [i for i, mimic in enumerate(settings.mimic) if mimic.paraphraser is not None]
    if drawn and settings.connectors is None:
        raise UsageError(
            f"finetune.distill.mimic[{drawn[0]}].paraphraser: learns before a training, not before each tuning",
            "Train it with search-nas train --phase pretrain, and name the file: finetune.distill.connectors",
        )
    teachers = {}
    if settings.in_place:
        net = largest().to(device).eval().requires_grad_(False)
        teachers = {LARGEST: Opened(net, whose_text(LARGEST), (*categories,))}
    sides = _Sides(own, settings, "finetune.distill", copy.deepcopy(static), {"": None}, shape, teachers)
    return _open(sides, categories, device, seed)


def _open(sides: _Sides, categories: Sequence[str], device: torch.device, seed: int) -> Teaching:
    own, settings, key = sides.own, sides.settings, sides.key
    opened = dict(sides.opened)
    for name in sorted(settings.taught_by - {LARGEST}):
        at = f"{key}.teachers.{name}" if name else key
        opened[name] = open_teacher(Asked(settings.teacher_of(name), own, at, device, seed))
    sides = _Sides(own, settings, key, sides.student, sides.archs, sides.shape, opened)
    moving = [i for i in settings.pretrained if settings.name_of(settings.mimic[i]) not in opened]
    if moving:
        raise UsageError(
            f"{key}.mimic[{moving[0]}].paraphraser: learns before the network does, but its teacher, the largest arch "
            "of the step, knows nothing then",
            "Name a teacher that is a network of its own, or leave pretrain_criterion out",
        )
    sides.require_modules()
    extras = nn.ModuleDict(sides.extras(seed)).to(device)

    def logits(name: str) -> tuple[ClassLogits, ClassLogits, tuple[int, ...]]:
        return sides.logits(name, categories)

    for i, job in enumerate(settings.score_jobs):
        if job.use_meal:
            ours, _, order = logits(settings.name_of(job))
            make = partial(Discriminator, len(order) or sides.columns(ours))
            extras[f"meal_{i}"] = _seeded(make, seed, "discriminator", i).to(device)
    distillers = distillers_of(Parts(settings, logits, dict(extras.items())))
    if settings.mimic or not all(isinstance(d, Scores) and d.ours.of_image for d in distillers):
        sides.check(distillers)
    notes = tuple(_notes(settings, key))
    teachers = {name: teacher.net for name, teacher in opened.items()}
    return Teaching(settings, distillers, teachers, sides.runs(distillers), extras, notes)


def _notes(settings: Distill, key: str) -> list[str]:
    """What people should know of connectors."""
    with_one = [i for i, mimic in enumerate(settings.mimic) if mimic.paraphraser is not None]
    if with_one and settings.connectors is not None:
        return [f"paraphrasers are those of {path_of(settings.connectors, key)}: none is trained here"]
    drawn = [f"{key}.mimic[{i}]" for i in with_one if i not in settings.pretrained]
    said = "the paraphraser has no pretrain_criterion: its weights stay as they are drawn"
    return [f"note: {', '.join(drawn)}: {said}"] if drawn else []


def _seeded(make: Callable[[], nn.Module], *parts: object) -> nn.Module:
    """A module whose weights are a function of these parts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(*parts))
        return make()


@dataclass(frozen=True)
class _Sides:
    """Both sides of a teaching: a network like that in training, with the archs that it is held at (a static one at
    none), and its teachers by name. key: of the config, for messages."""

    own: Recipe
    settings: Distill
    key: str
    student: nn.Module
    archs: Mapping[str, Arch | None]
    shape: InputShape
    opened: Mapping[str, Opened]

    def logits(self, name: str, categories: Sequence[str]) -> tuple[ClassLogits, ClassLogits, tuple[int, ...]]:
        """(where the student gives out class logits, where a teacher does, its columns in the order of the data's
        classes). Raises UsageError where they don't say the same."""
        head = wiring_of(self.student).head
        ours, jobs = logits_of(self.student, head), self.settings.score_jobs
        if ours is None:
            raise self._unknown(type(self.student).__name__, "; or let its head have class_logits")
        if self.settings.anchors == "positive" and ours.positives is None:
            raise UsageError(
                f"{self.key}.anchors: which anchors of a {type(self.student).__name__} are to find a box is not known",
                "Leave it out: scores of whole images are learnt from all of them",
            )
        of_labels = [job for job in jobs if row_of(job.loss)[0].needs_labels]
        if of_labels and ours.labels is None:
            raise UsageError(
                f"{self.key}.loss: dkd is of the true class of an image, which the anchors of a "
                f"{type(self.student).__name__} don't have",
                "Take kl or alpha",
            )
        if name not in self.opened:
            return ours, ours, ours.columns_of(tuple(range(len(categories)))) if ours.of_classes else ()
        teacher = self.opened[name]
        theirs = teacher.logits or logits_of(teacher.net, head)
        if theirs is None:
            raise self._unknown(f"{type(teacher.net).__name__} ({teacher.said})", "")
        if not theirs.same_kind(ours):
            kinds = [type(net).__name__ for net in (teacher.net, self.student)]
            raise UsageError(
                f"the class scores of the teacher {teacher.said}, a {kinds[0]}, are of another kind than those of "
                f"a {kinds[1]}",
                f"Set {self.key}.weight to 0, and name modules in {self.key}.mimic",
            )
        return ours, theirs, ours.columns_of(_order(teacher, categories)) if ours.of_classes else ()

    def _unknown(self, net: str, more: str) -> UsageError:
        return UsageError(
            f"{self.key}.weight: where a {net} gives out class logits is not known",
            f"Set it to 0, and name modules in {self.key}.mimic{more}",
        )

    def columns(self, ours: ClassLogits) -> int:
        """How many class logits an anchor has."""
        seen = outputs_of(self.student, [ours.module], self.shape, self.own.data, self.own.task)
        return ours.flat(seen[ours.module][-1]).shape[-1]

    def require_modules(self) -> None:
        """Raises UsageError for modules that are not there."""
        for i, mimic in enumerate(self.settings.mimic):
            teacher = self._teacher(self.settings.name_of(mimic))
            for key, name, net in (("student", mimic.student, self.student), ("teacher", mimic.teacher, teacher)):

                def listed(net: nn.Module = net) -> tuple[ModuleRow, ...]:
                    return list_modules(net, self.shape, self.own.data, self.own.task)

                named = mimic.student if name is None else name
                require_names([named], net, f"{self.key}.mimic[{i}].{key}", listed)

    def extras(self, seed: int) -> dict[str, nn.Module]:
        """The connectors and paraphrasers of features, by their names among the extras."""
        made: dict[str, nn.Module] = {}
        for i, mimic in enumerate(self.settings.mimic):
            connector = CONNECTORS[mimic.connector].make
            if connector is None and mimic.paraphraser is None:
                continue
            ours, theirs = self._widths(i, mimic)
            if mimic.paraphraser is not None:
                factors = mimic.paraphraser.channels or max(1, theirs // 2)
                made[f"paraphraser_{i}"] = _seeded(partial(Paraphraser, theirs, factors), seed, "paraphraser", i)
                made[f"paraphraser_{i}"].requires_grad_(False)
                theirs = factors
            if connector is not None:
                made[f"mimic_{i}"] = _seeded(partial(connector, ours, theirs), seed, "connector", i)
        if self.settings.connectors is not None:
            _fill(made, path_of(self.settings.connectors, f"{self.key}.connectors"), self.key)
        return made

    def _widths(self, i: int, mimic: Mimic) -> tuple[int, int]:
        """The channels of the student at its largest, and those of its teacher."""
        ours = self._shapes(self.student, [mimic.student], next(iter(self.archs)))[mimic.student]
        module, name = mimic.teacher or mimic.student, self.settings.name_of(mimic)
        theirs = self._shapes(self._teacher(name), [module], next(iter(self.archs)))[module]
        for shapes, named, whose in ((ours, mimic.student, "the student"), (theirs, module, whose_text(name))):
            if not shapes:
                raise UsageError(
                    f"{self.key}.mimic[{i}]: {named} of {whose} gives out nothing: it is not called there",
                    "search-nas modules lists what does, at an arch (--arch MIN)",
                )
        what = "connector: conv goes" if mimic.connector == "conv" else f"connector: {mimic.connector} goes"
        said = (
            f"{self.key}.mimic[{i}].{what} from maps of one width to those of another, but {mimic.student} gives out "
            f"{shapes_text(ours)}, {module} of the teacher {shapes_text(theirs)}"
        )
        return width_of(ours, said), width_of(theirs, said)

    def check(self, distillers: Sequence[Distiller]) -> None:
        """Raises UsageError where what the two sides give out is not of the same shapes."""
        in_place = LARGEST not in self.opened
        seen = [d.of_student for d in distillers] + [
            d.of_teacher for d in distillers if d.teacher == LARGEST and in_place
        ]
        students = {name: self._shapes(self.student, seen, name) for name in self.archs}
        teachers = {LARGEST: students["MAX"]} if in_place and "MAX" in students else {}
        for name, teacher in self.opened.items():
            modules = [d.of_teacher for d in distillers if d.teacher == name]
            teachers[name] = self._shapes(teacher.net, modules, run=teacher.run)
        check_shapes(distillers, students, teachers, self.key)

    def runs(self, distillers: Sequence[Distiller]) -> dict[str, Callable[[Any], Any]]:
        """How each teacher is run: where its head can, without what follows the modules that are learnt from."""
        runs = {name: teacher.run for name, teacher in self.opened.items() if teacher.run is not None}
        for name, teacher in self.opened.items():
            net = teacher.net
            head: Any = wiring_of(net).head if hasattr(net, "wiring") else None
            modules = [d.of_teacher for d in distillers if d.teacher == name]
            if hasattr(head, "outputs"):
                short = partial(head.outputs, net)
                if self._shapes(net, modules, run=short) == self._shapes(net, modules):
                    runs[name] = short
        return runs

    def _teacher(self, name: str) -> nn.Module:
        return self.opened[name].net if name in self.opened else self.student

    def _shapes(
        self, net: nn.Module, modules: Sequence[str], arch: str = "", run: Callable[[Any], Any] | None = None
    ) -> dict[str, Shapes]:
        """What modules of a network give out for an image of the input shape; arch: of the student."""
        at = self.archs.get(arch)
        if net is self.student and at is not None:
            set_arch(net, at)
        return shapes_of(net, modules, self.shape, self.own.data, self.own.task, run)


def _order(teacher: Opened, categories: Sequence[str]) -> tuple[int, ...]:
    """Where the classes of the data are among the teacher's. Raises UsageError where these are others."""
    theirs = teacher.categories
    lacking = [name for name in categories if name not in theirs]
    if lacking or len(theirs) != len(categories):
        extra = [name for name in theirs if name not in categories]
        parts = [f"it lacks {', '.join(lacking[:8])}"] if lacking else []
        parts += [f"the data lacks {', '.join(extra[:8])}"] if extra else []
        raise UsageError(
            f"the teacher {teacher.said} has other classes than the data: {'; '.join(parts)}",
            "Train the teacher on the same classes, or choose some of the data's with data.classes; its features can "
            "be learnt whatever its classes (weight: 0, mimic)",
        )
    return tuple(map(theirs.index, categories))


def _fill(made: Mapping[str, nn.Module], path: str, key: str) -> None:
    """Give paraphrasers the weights that they have learnt before. Raises UsageError for a file of others."""
    found = checkpoint.load(path).extras
    for name, module in made.items():
        if not isinstance(module, Paraphraser):
            continue
        theirs = {k.removeprefix(f"{name}."): v for k, v in found.items() if k.startswith(f"{name}.")}
        there, here = ({k: tuple(v.shape) for k, v in state.items()} for state in (theirs, module.state_dict()))
        if there != here:
            differ = next(k for k in {**here, **there} if here.get(k) != there.get(k))
            raise UsageError(
                f"{key}.connectors: {path} holds another {name}: {differ} is {there.get(differ, 'not there')}, and "
                f"must be {here.get(differ, 'absent')}",
                "Train it with this config: search-nas train --phase pretrain",
            )
        module.load_state_dict(theirs)
