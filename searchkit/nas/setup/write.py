"""Files of a config as text: net.yaml and finalists.yaml, with why each number is as it is. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from searchkit.nas.setup.budget import Budget, are_named
from searchkit.nas.setup.data import Facts
from searchkit.nas.setup.design import Design, listed
from searchkit.nas.setup.families import Body, Family, Shape, space_lines
from searchkit.nas.setup.pretrained import MULTIPLE, Pretrained
from searchkit.nas.setup.schedule import FINALISTS, Times

NET, CONFIG, RULES, PRETRAINED = "net.yaml", "cfg.yaml", "finalists.yaml", "pretrained.yaml"
PER_STEP = 3  # archs of a sandwich: the largest, the smallest, and a random one


@dataclass(frozen=True)
class Training:
    """How networks are trained."""

    batch: int
    precision: str  # fp32 or bf16
    calibration: int  # images
    workers: int  # processes that load images
    cache_mb: int
    cores: int  # CPUs that each job may use
    forms: tuple[str, ...]  # that models are exported in
    gpu: bool


@dataclass(frozen=True)
class Target:
    """A device that networks are to run on, where their times are measured."""

    device: str
    runtime: str  # that milliseconds are measured in: onnxruntime, or eager
    meter: str  # what its time is called: ms, or that of one of several devices

    @property
    def gpu(self) -> bool:
        return self.device != "cpu"


@dataclass(frozen=True)
class Paths:
    """Where files lie: all but the report as jobs see them, in their copy of the project."""

    data: str
    net: str
    config: str
    rules: str
    pretrained: str
    report: str


@dataclass(frozen=True, eq=False)
class Made:
    """All that was decided, and in `why` for each decision a line for people."""

    facts: Facts
    design: Design
    paths: Paths
    budgets: tuple[tuple[Budget, float], ...]  # each with its MACs
    training: Training
    targets: tuple[Target, ...]  # the first is trained on
    times: Times
    seed: int
    asked: str  # the command line
    why: Mapping[str, str]
    pretrained: Pretrained | None = None  # that is fine-tuned beside

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def body(self) -> Body:
        return self.design.fit.body

    @property
    def family(self) -> Family:
        return self.design.family

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return self.design.fit.shapes

    @property
    def timed(self) -> tuple[Target, ...]:
        """Those with a budget that is a time, for which a table of times is measured first."""
        return tuple(each for each in self.targets if any(budget.unit == each.meter for budget, _ in self.budgets))

    @property
    def names_devices(self) -> bool:
        return are_named([each.device for each in self.targets])

    @property
    def metric(self) -> str:
        return f"{self.name}_bbox_mAP"


def net_text(made: Made, folder: str = "$DATA") -> str:
    """net.yaml; folder: what it calls that of the data."""
    training, times, why = made.training, made.times, made.why
    model = made.family.model(made.body, made.design.anchors)
    lines = [
        f"# A space of {made.family.title}s for {made.name}. Made by:",
        f"#   {made.asked}",
        "# yaml-language-server: $schema=.search-run/nas.schema.json",
        "#",
        f"# {CONFIG} runs it. By hand, with $DATA as it is there: search-nas space {made.paths.net}",
        "",
    ]
    if made.body.pretrained:
        lines += [*comment(why["init"]), "init: package:efficientnet_lite0", ""]
    lines += [
        *comment(why["family"]),
        "model:",
        *model[:2],
        *comment(why["anchors"], 2),
        *model[2:],
        f"  num_classes: {made.body.classes}",
        "",
        *comment(why["space"]),
        "space:",
        *space_lines(made.body),
        *comment(why["shapes"], 2),
        f"  data.input_shape: {{choices: {listed(made.shapes)}}}",
        "",
        *_data_lines(made, folder),
        "train:",
        "  policy: sandwich  # in each step the largest arch, the smallest, and a random one, on the same images",
        "  random_archs: 1",
        *(["  sort_channels: true  # of the weights that it starts from"] if made.body.pretrained else []),
        *comment(why["time"], 2),
        f"  steps: {times.steps}",
        *comment(why["batch"], 2),
        *_rates(made, 1.0, why["precision"]),
        f"  scales: {listed(scales_of(made.shapes, made.family.multiple))}  # that images are shown at",
        "  eval_archs: [MAX, MIN]",
        "",
        "test:",
        f"  calibration_images: {training.calibration}",
        "",
        "# Of the finalists, each from the supernet's weights.",
        "finetune:",
        f"  steps: {times.tune_steps}",
        *_rates(made, 0.5),
    ]
    return "\n".join(lines) + "\n"


def _data_lines(made: Made, folder: str) -> list[str]:
    """The section of the data, and an empty line."""
    facts, training = made.facts, made.training
    lines = ["data:", f"  name: {made.name}  # begins the names of metrics"]
    for split, files in facts.files.items():
        paths = ", ".join(f"{key}: {quoted(folder, value)}" for key, value in vars(files).items())
        lines.append(f"  {split}: {{{paths}}}  # {facts.counts[split]:,} images")
    return [
        *lines,
        f"  workers: {training.workers}" + ("" if training.workers else "  # the images stay in memory"),
        f"  cache_mb: {training.cache_mb}",
        "  augment:",
        "    hflip: 0.5  # 0 where a mirrored object is of another class, or of none (letters, digits, arrows)",
        "    scale: [0.8, 1.25]",
        "    brightness: 0.2",
        "    contrast: 0.2",
        "    saturation: 0.2",
        "",
    ]


def pretrained_text(made: Made, folder: str = "$DATA") -> str:
    """pretrained.yaml, of a made config that has one; folder: what it calls that of the data."""
    other = made.pretrained
    assert other is not None
    scales = _around(other.shape, MULTIPLE) if not other.detector.square else (other.shape,)
    lines = [
        f"# torchvision's {other.detector.name} for {made.name}, from its own weights. Made by:",
        f"#   {made.asked}",
        "# yaml-language-server: $schema=.search-run/nas.schema.json",
        "",
        f"init: {quoted(other.init)}  # rows of other classes begin anew",
        "subnet: MAX",
        "",
        *other.sections(made.body.classes),
        "",
        *_data_lines(made, folder),
        "train:",
        "  policy: fixed",
        f"  steps: {made.times.pretrained_steps}",
        *_rates(made, 0.5, shelf=True),
        f"  scales: {listed(scales)}  # that images are shown at",
        "  eval_archs: [MAX]",
        "",
        "test:",
        f"  calibration_images: {made.training.calibration}",
    ]
    return "\n".join(lines) + "\n"


def _rates(made: Made, factor: float, why_precision: str = "", shelf: bool = False) -> list[str]:
    """What training and tuning have in common. factor: of the learning rates; shelf: of
    a detector whose weights have all learnt already."""
    pretrained = made.body.pretrained or shelf
    lr = 0.001 if pretrained else 0.003
    lines = [
        f"  batch_size: {made.training.batch}",
        "  optimizer: adamw",
        f"  lr: {lr * factor:g}",
        "  lr_scaling: none",
        "  weight_decay: 0.05",
        "  schedule: one_cycle",
        "  clip_norm: 10",
        *(comment(why_precision, 2) if why_precision else []),
        f"  precision: {made.training.precision}",
        "  channels_last: true",
    ]
    if pretrained:
        lines.insert(3, f"  backbone_lr: {0.3 * lr * factor:g}  # its weights have learnt already")
    return lines


def scales_of(shapes: Sequence[Shape], multiple: int) -> tuple[Shape, ...]:
    """What training draws its input shapes from: those of the space, and one between them."""
    if len(shapes) < 2:
        return tuple(shapes)
    low, high = shapes[0], shapes[-1]
    middle = tuple(round((a + b) / 2 / multiple) * multiple for a, b in zip(low, high, strict=True))
    return tuple(sorted({low, (middle[0], middle[1]), high}))


def _around(shape: Shape, multiple: int) -> tuple[Shape, ...]:
    """A shape, and the next smaller and larger one."""

    def moved(by: int) -> Shape:
        factor = 1 + by * multiple / min(shape)
        height, width = (max(multiple, round(e * factor / multiple) * multiple) for e in shape)
        return height, width

    return tuple(sorted({moved(-1), shape, moved(1)}))


def quoted(*parts: str) -> str:
    text = "/".join(part for part in parts if part)
    return text if re.fullmatch(r"[$\w./-]+", text, re.ASCII) and text[:1] not in "-." else json.dumps(text)


def comment(text: str, indent: int = 0, width: int = 118) -> list[str]:
    """A text as lines of comments."""
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) + 1 > width - indent - 2:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return [f"{' ' * indent}# {each}" for each in (*lines, line)]


def rules_text(made: Made) -> str:
    """finalists.yaml."""
    lines = [f"# The finalists: of the archs that the search has scored, the best {FINALISTS} within each budget."]
    lines += ["type: sequential", "rules:"]
    limits = [f"where: overhead.{'flops' if b.unit == 'macs' else b.unit} <= {b.value:.10g}" for b, _ in made.budgets]
    if len(limits) == 1:
        lines.append(f"  - {limits[0]}")
    else:
        lines += ["  - type: parallel", "    rules:", *(f"      - {limit}" for limit in limits)]
    lines.append(f"  - {{type: sample, operation: top, key: metric.direct.{made.metric}, value: {FINALISTS}}}")
    lines.append("  - {type: merge}")
    return "\n".join(lines) + "\n"


def plain_options(made: Made) -> list[str]:
    """The options of search-nas by which net.yaml is the plain detector's."""
    plain = made.design.plain
    height, width = plain.shape
    sets = {
        "subnet": plain.arch,
        "space.data.input_shape": height if height == width else [[height, width]],
        "train.policy": "fixed",
        "train.steps": made.times.plain_steps,
        "train.scales": listed(_around(plain.shape, made.family.fine)),
        "train.eval_archs": ["MAX"],  # of its space of one
        **({"train.sort_channels": False} if made.body.pretrained else {}),
    }
    return [f"--set {key}={_compact(value)}" for key, value in sets.items()]


def _compact(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
