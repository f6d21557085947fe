"""The teachers that a config of a training asks for, loaded, and what is learnt from each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from searchkit.errors import UsageError
from searchkit.nas.models.class_logits import ClassLogits
from searchkit.nas.models.elastic import set_arch, wiring_of
from searchkit.nas.models.subnet import subnet
from searchkit.nas.nn import Conv2d
from searchkit.nas.tasks.read import load
from searchkit.nas.train import checkpoint
from searchkit.nas.train import net as nets
from searchkit.nas.train.bench import open_calibration
from searchkit.nas.train.distill import (
    Distiller,
    Opened,
    Scores,
    Shapes,
    Teaching,
    check_shapes,
    distillers_of,
    shapes_text,
)
from searchkit.nas.train.evaluate import calibrate
from searchkit.nas.train.modules import ModuleRow, list_modules, require_names, shapes_of
from searchkit.nas.train.recipe import Recipe, sized
from searchkit.nas.train.sections import LARGEST, Distill, Teacher, path_of
from searchkit.records.arch import Arch
from searchkit.seeds import step_seed


@dataclass(frozen=True)
class _Loaded:
    """A teacher, and the names of its classes."""

    net: nn.Module
    categories: tuple[str, ...]
    path: str  # of its checkpoint


def open_teaching(own: Recipe, categories: Sequence[str], device: torch.device, seed: int) -> Teaching | None:
    """What the config of a training asks for; its teachers are loaded.

    A teacher cut out of a supernet gets batch-norm statistics of its own, from the test.calibration_images of this
    training: those of the supernet fit no arch of it. Raises UsageError for one whose scores are to be learnt and that
    has other classes than the data, for modules that are not there, and for features whose shapes differ.
    """
    settings = own.train.distill
    if settings is None:
        return None
    student = nets.build(own, categories, seed).to(device)  # of the shapes and names of the one in training
    loaded = {
        name: _open(own, settings.teacher_of(name), _key(name), device, seed)
        for name in sorted(settings.taught_by - {LARGEST})
    }

    def logits(name: str) -> tuple[ClassLogits, ClassLogits, tuple[int, ...]]:
        ours = _logits_of(student)
        if settings.anchors == "positive" and ours.positives is None:
            raise UsageError(
                f"train.distill.anchors: which anchors of a {type(student).__name__} are to find a box is not known",
                "Leave it out: scores of whole images are learnt from all of them",
            )
        if name == LARGEST:
            return ours, ours, ours.columns_of(tuple(range(len(categories)))) if ours.of_classes else ()
        theirs = _logits_of(loaded[name].net)
        if not theirs.same_kind(ours):
            kinds = [type(net).__name__ for net in (loaded[name].net, student)]
            raise UsageError(
                f"the class scores of the teacher {loaded[name].path}, a {kinds[0]}, are of another kind than those of "
                f"a {kinds[1]}",
                "Set train.distill.weight to 0, and name modules in train.distill.mimic",
            )
        return ours, theirs, ours.columns_of(_order(loaded[name], categories)) if ours.of_classes else ()

    sides = _Sides(own, student, {name: teacher.net for name, teacher in loaded.items()})
    sides.require_modules()
    connectors = {i: sides.connector(i, seed) for i, m in enumerate(settings.mimic) if m.connector == "conv"}
    distillers = distillers_of(Opened(settings, logits, connectors))
    extras = nn.ModuleDict({f"mimic_{i}": connector for i, connector in connectors.items()}).to(device)
    if settings.mimic or not all(isinstance(d, Scores) and d.ours.of_image for d in distillers):
        sides.check(distillers)
    return Teaching(settings, distillers, sides.teachers, sides.runs(distillers), extras)


def _logits_of(net: nn.Module) -> ClassLogits:
    """Where a network gives out class logits. Raises UsageError for one whose head doesn't say."""
    head = wiring_of(net).head
    if hasattr(head, "class_logits"):
        logits: ClassLogits = head.class_logits(net)
        if logits.module in {name for name, _ in net.named_modules()}:
            return logits
    raise UsageError(
        f"train.distill.weight: where a {type(net).__name__} gives out class logits is not known",
        "Set it to 0, and name modules in train.distill.mimic; or let its head have class_logits",
    )


def _key(name: str) -> str:
    return f"train.distill.teachers.{name}" if name else "train.distill"


@dataclass(frozen=True)
class _Sides:
    """Both sides of a teaching: a network like that in training, and its teachers by name."""

    own: Recipe
    student: nn.Module
    teachers: Mapping[str, nn.Module]

    @property
    def settings(self) -> Distill:
        assert self.own.train.distill is not None
        return self.own.train.distill

    def require_modules(self) -> None:
        """Raises UsageError for modules that are not there."""
        for i, mimic in enumerate(self.settings.mimic):
            teacher = self._teacher(self.settings.teacher_name(mimic))
            for key, name, net in (("student", mimic.student, self.student), ("teacher", mimic.teacher, teacher)):

                def listed(net: nn.Module = net) -> tuple[ModuleRow, ...]:
                    return list_modules(net, self.own.scales[0], self.own.data, self.own.task)

                named = mimic.student if name is None else name
                require_names([named], net, f"train.distill.mimic[{i}].{key}", listed)

    def connector(self, i: int, seed: int) -> Conv2d:
        """The convolution from the channels of the student at its largest to those of its teacher."""
        mimic = self.settings.mimic[i]
        ours = self._shapes(self.student, [mimic.student], "MAX")[mimic.student]
        module = mimic.teacher or mimic.student
        theirs = self._shapes(self._teacher(self.settings.teacher_name(mimic)), [module], "MAX")[module]
        widths = [{shape[1] for shape in shapes if len(shape) == 4} for shapes in (ours, theirs)]
        if any(len(side) != 1 for side in widths) or any(len(shape) != 4 for shape in (*ours, *theirs)):
            raise UsageError(
                f"train.distill.mimic[{i}].connector: conv goes from maps of one width to those of another, but "
                f"{mimic.student} gives out {shapes_text(ours)}, {module} of the teacher {shapes_text(theirs)}",
                "Take each level by itself, or leave the connector out",
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(seed, "connector", i))
            return Conv2d(widths[0].pop(), widths[1].pop(), 1)

    def check(self, distillers: Sequence[Distiller]) -> None:
        """Raises UsageError where what the two sides give out is not of the same shapes."""
        seen = [d.of_student for d in distillers] + [d.of_teacher for d in distillers if d.teacher == LARGEST]
        students = {name: self._shapes(self.student, seen, name) for name in ("MAX", "MIN")}
        teachers = {LARGEST: students["MAX"]}
        for name, net in self.teachers.items():
            teachers[name] = self._shapes(net, [d.of_teacher for d in distillers if d.teacher == name])
        check_shapes(distillers, students, teachers)

    def runs(self, distillers: Sequence[Distiller]) -> dict[str, Callable[[Any], Any]]:
        """How each teacher is run: where its head can, without what follows the modules that are learnt from."""
        runs: dict[str, Callable[[Any], Any]] = {}
        for name, net in self.teachers.items():
            head: Any = wiring_of(net).head
            modules = [d.of_teacher for d in distillers if d.teacher == name]
            if hasattr(head, "outputs"):
                short = partial(head.outputs, net)
                whole = self._shapes(net, modules)
                if shapes_of(net, modules, self.own.scales[0], self.own.data, self.own.task, short) == whole:
                    runs[name] = short
        return runs

    def _teacher(self, name: str) -> nn.Module:
        return self.student if name == LARGEST else self.teachers[name]

    def _shapes(self, net: nn.Module, modules: Sequence[str], arch: str = "") -> dict[str, Shapes]:
        """What modules of a network give out for an image of the first input shape; arch: of the student."""
        if net is self.student:
            set_arch(net, self.own.space.named(arch))
        return shapes_of(net, modules, self.own.scales[0], self.own.data, self.own.task)


def _open(own: Recipe, teacher: Teacher, key: str, device: torch.device, seed: int) -> _Loaded:
    """A teacher in eval mode, on its device."""
    recipe = load(path_of(teacher.config, f"{key}.config"))
    path = path_of(teacher.checkpoint, f"{key}.checkpoint")
    kept = checkpoint.load(path)
    if recipe.task != own.task:
        raise UsageError(
            f"the teacher must be of task {own.task.name}, but {recipe.path} is of task {recipe.task.name}"
        )
    nets.check_task(recipe, kept, path)
    net, alone = _network(recipe, kept, path, teacher.arch)
    net = net.to(device)
    if not alone:
        shape = own.scales[0]
        calibrate(net, open_calibration(own, seed).batches(shape), device, task=recipe.task)
    return _Loaded(net, tuple(kept.meta["categories"]), path)


def _order(teacher: _Loaded, categories: Sequence[str]) -> tuple[int, ...]:
    """Where the classes of the data are among the teacher's. Raises UsageError where these are others."""
    theirs = teacher.categories
    lacking = [name for name in categories if name not in theirs]
    if lacking or len(theirs) != len(categories):
        extra = [name for name in theirs if name not in categories]
        parts = [f"it lacks {', '.join(lacking[:8])}"] if lacking else []
        parts += [f"the data lacks {', '.join(extra[:8])}"] if extra else []
        raise UsageError(
            f"the teacher {teacher.path} has other classes than the data: {'; '.join(parts)}",
            "Train the teacher on the same classes, or choose some of the data's with data.classes",
        )
    return tuple(map(theirs.index, categories))


def _network(recipe: Recipe, kept: checkpoint.Checkpoint, path: str, name: str) -> tuple[nn.Module, bool]:
    """The teacher's static network, which learns nothing, and whether it was trained alone."""
    names = kept.meta["categories"]
    static = bool(kept.meta.get("static"))
    if static:  # a tuned subnet: the space is that arch alone
        recipe = replace(recipe, space=recipe.space.only(Arch.of(kept.meta["space"])))
    nets.check_space(recipe, kept, path)
    net, _ = nets.load(recipe, kept, names, 0, to_train=False, where=path)
    arch = recipe.space.named(name)
    alone = static or (recipe.train.policy == "fixed" and recipe.space.named(recipe.train.arch) == arch)
    teacher: nn.Module = subnet(net, arch, sized(recipe, names))
    return teacher.eval().requires_grad_(False), alone
