"""The `distill` of a config's `train` and `finetune`, as dataclasses: who teaches, and what is learnt of whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from searchkit.errors import UsageError, did_you_mean
from searchkit.nas.train.values import NotNegative, ScheduledAbove0, ScheduledWeight, check
from searchkit.reading.keys import At, refuse
from searchkit.reading.kinds import LATER, Count, Number, Text, Whole, number

LARGEST = "max"  # as a teacher: the largest arch, of the step in training, of the supernet in tuning
LARGEST_WORDS = (LARGEST, "largest")


@dataclass(frozen=True)
class Teacher:
    """A network that teaches."""

    config: str | None = None  # that it was trained with
    checkpoint: str | None = None  # its weights
    arch: str = "MAX"  # that it runs
    teacher: Text | None = field(default=None, metadata=LATER)
    """Any network, in one word: a config (with checkpoint), an extracted folder, torchvision:NAME, timm:NAME, or a
    classifier's ONNX file."""
    classes: tuple[str, ...] = field(default=(), metadata=LATER)
    """The names of its classes in its own order, where it doesn't say them."""

    def __post_init__(self) -> None:
        if self.teacher is None and (self.config is None or self.checkpoint is None):
            raise UsageError("needs teacher, or both config and checkpoint")
        refuse(teacher_faults(self))


def teacher_faults(section: Teacher | Distill) -> Iterator[At]:
    """What is wrong with how a section names its teacher."""
    if section.teacher is not None and section.config is not None:
        yield At("teacher", "is named by config already", beside=("config",))


@dataclass(frozen=True)
class Dkd:
    """Decoupled distillation: what a classifier thinks of the true class, and how it ranks the others, apart (Zhao et
    al., "Decoupled Knowledge Distillation", CVPR 2022)."""

    type: Literal["dkd"] = "dkd"
    alpha: NotNegative = 1.0  # of the true class against all others
    beta: NotNegative = 8.0  # of the others among themselves

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class AlphaDivergence:
    """The larger one of two alpha-divergences, for each image (Wang et al., "AlphaNet", ICML 2021)."""

    type: Literal["alpha"] = "alpha"
    alphas: tuple[Number, Number] = (-1.0, 1.0)  # 1 is the KL divergence; twice the same: that one alone
    clip: Annotated[float, number(above=0)] = 5.0  # most of (p / q) ** alpha that counts, but where alpha is 1

    def __post_init__(self) -> None:
        check(self)


ScoreLoss = Literal["kl", "dkd", "alpha"] | Dkd | AlphaDivergence


@dataclass(frozen=True)
class ScoreJob:
    """Class scores that are to be like a teacher's, and how much that counts."""

    of: Text | None = None  # whose: a name in `teachers`, or largest; null: the teacher's of distill itself
    loss: ScoreLoss = "kl"  # kl, dkd or alpha, as in distill
    weight: ScheduledWeight = 1.0
    temperature: ScheduledAbove0 = 1.0
    use_meal: bool = False
    meal_weight: ScheduledWeight = 1.0

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Criterion:
    """How near what a paraphraser makes of its factors is to be to the teacher's features."""

    type: Literal["mse", "l1"] = "mse"
    weight: ScheduledWeight = 1.0

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Paraphraser:
    """What makes factors of a teacher's features, and can make these of them again (Kim et al., "Paraphrasing Complex
    Network: Network Compression via Factor Transfer", NeurIPS 2018)."""

    channels: Count | None = None  # of its factors; null: half as many as the features have
    pretrain_criterion: Criterion | None = None
    """With it, it is trained before the network is, in a phase of its own; null: it stays as it is."""


@dataclass(frozen=True)
class Mimic:
    """Features that are to be like those of a teacher, and how much that counts."""

    student: Text  # the name of a module, as search-nas modules lists them
    teacher: Text | None = None  # the name of the teacher's module; null: the same
    of: Text | None = None  # whose: a name in `teachers`, or largest; null: as of the scores
    connector: Literal["none", "conv", "resize", "conv_resize", "translator"] = "none"
    """What goes from the student's features to the teacher's: conv, a 1x1 convolution from channels to channels;
    resize, bilinear, to the same size; conv_resize, both; translator, three convolutions to the paraphraser's
    factors."""
    loss: Literal["l2", "mse", "at", "cwd", "ft"] = "l2"
    """l2: of each image's features as vectors of length 1; at: of their attention maps, whatever the channels; cwd: of
    each channel as a distribution over places; ft: l1 of factors as vectors of length 1."""
    weight: ScheduledWeight = 1.0
    warmup_steps: Whole = 0  # over which the weight grows from 0
    temperature: ScheduledAbove0 = field(default=4.0, metadata=LATER)  # of cwd
    paraphraser: Paraphraser | None = field(default=None, metadata=LATER)  # of the teacher's features

    def __post_init__(self) -> None:
        check(self)
        refuse(self._faults())

    def _faults(self) -> Iterator[At]:
        if self.temperature != 4.0 and self.loss != "cwd":
            yield At("temperature", f"is of loss cwd, but loss is {self.loss}", beside=("loss",))


@dataclass(frozen=True)
class Distill:
    """What a step's archs learn from softer targets: the divergence from another network's class scores (Hinton et
    al., "Distilling the Knowledge in a Neural Network", 2015), and its features.

    Without a teacher it is the largest arch of the step, which is visited first and learns from the labels alone
    (in-place distillation: Yu & Huang, ICCV 2019; Yu et al., "BigNAS", ECCV 2020); in tuning, the supernet's.
    """

    config: str | None = None  # of a teacher that is a network of its own
    checkpoint: str | None = None  # of that teacher
    arch: str = "MAX"  # that the teacher runs
    weight: ScheduledWeight = 1.0  # of the divergence
    label_weight: ScheduledWeight = None
    """Of the labels for archs with a teacher; null: 1, but 0 for a classifier's archs that the largest one of the step
    teaches."""
    temperature: ScheduledAbove0 = 1.0  # of both softmaxes; the divergence is multiplied by its square
    anchors: Literal["all", "positive"] = field(default="all", metadata=LATER)
    """Of a detector, whose scores are learnt: all, each weighed by the teacher's score; or those that are to find a
    box."""
    mimic: tuple[Mimic, ...] = field(default=(), metadata=LATER)  # features that are to be like a teacher's
    teachers: Mapping[str, Teacher] | None = field(default=None, metadata=LATER)  # further ones, by name
    teacher: Text | None = field(default=None, metadata=LATER)
    """In one word: largest, a config (with checkpoint), an extracted folder, torchvision:NAME, timm:NAME, or a
    classifier's ONNX file."""
    classes: tuple[str, ...] = field(default=(), metadata=LATER)
    """The names of the teacher's classes in its own order, where it doesn't say them."""
    loss: ScoreLoss = field(default="kl", metadata=LATER)
    """kl; dkd, of classifiers, or {type: dkd, alpha: 1, beta: 8}; alpha, or {type: alpha, alphas: [-1, 1], clip: 5}."""
    use_meal: bool = field(default=False, metadata=LATER)
    """A discriminator learns to tell the student's scores from the teacher's, and the student to be taken for it (Shen
    et al., "MEAL", AAAI 2019)."""
    meal_weight: ScheduledWeight = field(default=1.0, metadata=LATER)  # of what the student learns so
    scores: tuple[ScoreJob, ...] = field(default=(), metadata=LATER)  # class scores of further teachers
    connectors: Text | None = field(default=None, metadata=LATER)
    """A file of connectors that were trained before (connectors.pth): paraphrasers are not trained then."""

    def __post_init__(self) -> None:
        check(self)
        if self.teacher is None and (self.config is None) != (self.checkpoint is None):
            raise UsageError("a teacher needs both config and checkpoint; without both the largest arch is the teacher")
        refuse((*teacher_faults(self), *self._faults()))

    def _faults(self) -> Iterator[At]:
        names = (LARGEST, *(self.teachers or ()))
        if {*LARGEST_WORDS} & {*(self.teachers or ())}:
            yield At("teachers", f"none can be called {' or '.join(LARGEST_WORDS)}: that is the largest arch")
        for key, of in (*(("mimic", m.of) for m in self.mimic), *(("scores", s.of) for s in self.scores)):
            if of is not None and of not in (*names, *LARGEST_WORDS):
                near = did_you_mean(of, names)
                yield At(key, f"there is no teacher {of!r}{near}; there are {', '.join(names)}", beside=("teachers",))
        if self.teacher in LARGEST_WORDS and self.checkpoint is not None:
            yield At("checkpoint", f"the teacher is {self.teacher}, which has none", beside=("teacher",))
        if not self.mimic and not self.score_jobs:
            yield At("weight", "is 0, and there is no mimic: nothing would be taught", beside=("mimic", "scores"))
        if not self.score_jobs and self.anchors != "all":
            what = "says whose class scores are learnt, but with weight 0 none are"
            yield At("anchors", what, beside=("weight",))
        if self.connectors is not None and not any(mimic.paraphraser for mimic in self.mimic):
            yield At("connectors", "are paraphrasers, but no mimic has one", beside=("mimic",))

    @property
    def own_teacher(self) -> str:
        """Whose class scores are learnt: LARGEST, or the network of `teacher` or `config`, which has no name."""
        return LARGEST if self.config is None and self.teacher in (None, *LARGEST_WORDS) else ""

    @property
    def score_jobs(self) -> tuple[ScoreJob, ...]:
        """All class scores that are learnt; those of the own teacher come first."""
        own = ScoreJob(None, self.loss, self.weight, self.temperature, self.use_meal, self.meal_weight)
        first = () if self.weight == 0 and not self.use_meal else (own,)
        return (*first, *self.scores)

    @property
    def pretrained(self) -> tuple[int, ...]:
        """The numbers of the entries of mimic whose paraphraser learns in a phase of its own."""
        each = enumerate(mimic.paraphraser for mimic in self.mimic)
        return tuple(i for i, paraphraser in each if paraphraser is not None and paraphraser.pretrain_criterion)

    def name_of(self, job: Mimic | ScoreJob) -> str:
        """Whose features or scores are learnt."""
        if job.of is None:
            return self.own_teacher
        return LARGEST if job.of in LARGEST_WORDS else job.of

    @property
    def taught_by(self) -> set[str]:
        """The names of all teachers that something is learnt from."""
        return {*map(self.name_of, self.score_jobs), *map(self.name_of, self.mimic)}

    @property
    def in_place(self) -> bool:
        """Whether the largest arch teaches."""
        return LARGEST in self.taught_by

    def teacher_of(self, name: str) -> Teacher:
        """Where a teacher that is a network of its own comes from."""
        if name:
            return (self.teachers or {})[name]
        return Teacher(self.config, self.checkpoint, self.arch, self.teacher, self.classes)
