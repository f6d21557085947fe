"""Writes the tables of docs/nas-config.md from the dataclasses that read the file: `python docs/make_nas_config.py`."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from made import filled

from searchkit.nas.data.augment import Augment, LabelAugment
from searchkit.nas.models.heads.faster_rcnn_plan import DetectorConfig
from searchkit.nas.models.heads.linear_plan import ClassifierConfig
from searchkit.nas.models.init.names import BACKBONE_NAMES, LAYOUTS
from searchkit.nas.models.part import BACKBONE, HEAD, NECK
from searchkit.nas.models.table import HEADS, NECKS, options_of, plan_class
from searchkit.nas.train import distill_section, sections
from searchkit.nas.train.dmcp import Dmcp, DmcpDistill
from searchkit.nas.train.kept import MAY_CHANGE

SECTIONS = (
    ("model", "of a detector", DetectorConfig, "The detector, except for the sizes of its backbone."),
    ("model", "of a classifier", ClassifierConfig, "The classifier, except for the sizes of its backbone."),
    (
        "data",
        "of a detector",
        sections.Data,
        "What it is trained and scored on. `train`, `val` and `test` are `{annotations: FILE, images: FOLDER}`.",
    ),
    ("data.augment", "of a detector", Augment, "Random changes of training images."),
    (
        "data",
        "of a classifier",
        sections.LabelData,
        "What it is trained and scored on; the next table has the keys of a split.",
    ),
    (
        "data.train, data.val, data.test",
        "of a classifier",
        sections.LabelSplit,
        "Images, each with one class.",
    ),
    (
        "data.augment",
        "of a classifier",
        LabelAugment,
        "Random changes of training images, in this order: crop, flip, colour, cutout. `crop` brings an image to the "
        "size of the input. `none`: resize the short edge, take the middle. `pad`: the same, then add `padding` black "
        "pixels on each side and crop at random (CIFAR). `random_resized`: resize a random part with `scale` of the "
        "area and `ratio` of width to height (ImageNet). `center`: as in evaluation, 224 out of 256.",
    ),
    ("train", "", sections.Train, "How the supernet is trained."),
    (
        "train.distill",
        "",
        distill_section.Distill,
        "Softer targets: the class scores of the largest arch of the step, or of another teacher, and features "
        "([distillation](distil.md)). `distill: {}` switches it on. `finetune.distill` has the same keys.",
    ),
    ("train.distill.mimic", "each of the list", distill_section.Mimic, "Features that are to be like a teacher's."),
    (
        "train.distill.mimic.paraphraser",
        "",
        distill_section.Paraphraser,
        "What makes factors of a teacher's features; `pretrain_criterion` is `{type: mse, weight: 1}`, or of `l1` "
        "([factor transfer](distil.md#factor-transfer)).",
    ),
    (
        "train.distill.scores",
        "each of the list",
        distill_section.ScoreJob,
        "Class scores of further teachers.",
    ),
    ("train.distill.teachers", "each by its name", distill_section.Teacher, "Further networks that teach."),
    (
        "train.pretrain",
        "",
        sections.Pretrain,
        "How paraphrasers learn before the network does: the optimisation keys of `train`, and these.",
    ),
    (
        "train.dmcp",
        "",
        Dmcp,
        "Widths as Markov chains that learn: policy `dmcp`, see [pruning](pruning.md#dmcp).",
    ),
    ("train.dmcp.distill_cfg", "", DmcpDistill, "What narrower archs learn from the largest one of the step."),
    ("test", "", sections.Test, "How subnets are scored."),
    ("finetune", "", sections.Finetune, "How subnets are fine-tuned: the optimisation keys of `train`, and these."),
    (
        "quantize",
        "",
        sections.Quantize,
        "How `search-nas quantize --qat` trains a network with the roundings of its file of 8 bits: the optimisation "
        "keys of `train`, and these.",
    ),
)
PAGE = Path(__file__).with_name("nas-config.md")
BODY = "`stem.width`, `body.width`, `body.depth`"
MBCONV = f"{BODY}, `body.expand`, (`body.hidden`), (`body.kernel`), (`head.width`)"
BACKBONES = {
    "resnet": f"{BODY}, (`body.kernel`), (`body.hidden`)",
    "mobilenet_v2": f"{BODY}, (`body.kernel`), `body.expand`, (`body.hidden`), (`head.width`)",
    "mobilenet_v3": MBCONV,
    "efficientnet_lite": MBCONV,
    "attentive_nas": MBCONV,
    "big_resnet": f"{BODY}, (`stem.kernel`), (`body.kernel`), (`body.expand`)",
    "regnet": f"{BODY}, `body.group_width` or `body.groups`, (`body.kernel`), (`body.expand` or `body.hidden`)",
    "darknet": f"{BODY}, (`body.hidden`)",
    "shufflenet_v2": f"{BODY}, (`body.choice`), (`head.width`)",
}


def comments(cls: type) -> dict[str, str]:
    """The comment at the end of each field's line, or the text below it, of the class and those it is made from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        source = inspect.getsource(base)
        told = re.findall(r"^    (\w+): [^#\n]*#\s*(.*)$", source, re.MULTILINE)
        told += re.findall(r'^    (\w+): [^\n]*\n    """(.*?)"""$', source, re.MULTILINE | re.DOTALL)
        found |= {name: " ".join(text.split()).replace("|", "\\|") for name, text in told}
    return found


def options(backbone: str) -> str:
    """The options that a backbone takes, with their defaults."""
    known, _ = options_of(plan_class(BACKBONE, backbone))
    return ", ".join(f"`{name}: {default_text(default)}`" for name, default in known.items())


def default_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(default_text, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def default(f: dataclasses.Field[Any]) -> str:
    if f.default is not dataclasses.MISSING:
        return "" if f.default in (None, "") else f"`{default_text(f.default)}`"
    if f.default_factory is not dataclasses.MISSING:
        return ""
    return "that of the data" if f.name == "num_classes" else "must be given"


def kind(hint: Any, written: Any) -> str:
    if str(written).startswith("Scheduled"):
        return "number, or its schedule"
    if Mapping in {typing.get_origin(each) for each in (hint, *typing.get_args(hint))}:
        return "mapping"
    text = str(hint) if typing.get_origin(hint) else getattr(hint, "__name__", str(hint))
    options = re.findall(r"'(\w+)'", text) if "Literal" in text else []
    if options:
        return ("list of " if text.startswith("tuple") else "") + ", ".join(f"`{o}`" for o in options)
    if "Split" in text:
        return "files"
    words = {"int": "whole number", "float": "number", "bool": "true, false", "str": "text"}
    for name, word in words.items():
        if re.search(rf"\b{name}\b", text):
            return f"list of {word}s" if "tuple" in text else word
    return "list of mappings" if "tuple" in text else "mapping"


def table(cls: type, leave_out: set[str]) -> str:
    hints, notes = typing.get_type_hints(cls), comments(cls)
    rows = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for f in dataclasses.fields(cls):
        if f.name not in leave_out:
            rows.append(f"| `{f.name}` | {kind(hints[f.name], f.type)} | {default(f)} | {notes.get(f.name, '')} |")
    return "\n".join(rows)


def parts() -> dict[str, str]:
    """The made parts of the page by name."""
    made = {}
    shared = {f.name for f in dataclasses.fields(sections.Optimisation)}
    for name, of, cls, line in SECTIONS:
        leave_out: set[str] = set()
        if cls in (sections.Finetune, sections.Pretrain):
            leave_out = shared - {"epochs"}
        elif cls is sections.Quantize:
            leave_out = shared - {"epochs", "lr", "schedule"}
        elif cls in (sections.Data, sections.LabelData):
            leave_out = {"augment", "stretched"}  # the one has a table of its own, the other is no key
        heading = f"{name}, {of}" if of else name
        made[heading] = f"### {heading}\n\n{textwrap.fill(line, 120)}\n\n{table(cls, leave_out)}\n"
    rows = [f"| `{name}` | {dimensions} | {options(name)} |" for name, dimensions in BACKBONES.items()]
    head = ["| `model.backbone` | dimensions | `model.backbone_options`, with defaults |", "| --- | --- | --- |"]
    made["backbones"] = "\n".join([*head, *rows, ""])
    made["necks and heads"] = necks_and_heads()
    made["options of necks and heads"] = options_of_parts()
    made["names"] = names_of_others()
    may = [f"| {', '.join(f'`{k}`' for k in keys.split(', '))} | {why} |" for keys, why in MAY_CHANGE.items()]
    made["keys that may change"] = "\n".join(["| keys | |", "| --- | --- |", *may, ""])
    return made


def necks_and_heads() -> str:
    """The dimensions of necks and heads, and of heads the neck where none is named."""
    rows = ["| part | task | dimensions | neck where none is named |", "| --- | --- | --- | --- |"]
    for part, table in ((NECK, NECKS), (HEAD, HEADS)):
        for name in table:
            cls = plan_class(part, name)
            settings = [f"(`{each}`)†" for each in getattr(cls, "SETTINGS", ())]
            dimensions = ", ".join([*(f"(`{each}`)" for each in cls.NAMES), *settings]) or "none"
            task, own = (f"`{cls.TASK}`", f"`{cls.Config.neck}`") if part == HEAD else ("", "")
            rows.append(f"| {part} `{name}` | {task} | {dimensions} | {own} |")
    daggers = "† These need no weights: see [what needs no training](supernets.md#what-needs-no-training)."
    return "\n".join([*rows, "", daggers, ""])


def options_of_parts() -> str:
    """The keys of `neck_options` and `head_options`, where these don't stand in the tables of `model`."""
    texts = []
    for part, names in ((NECK, NECKS), (HEAD, HEADS)):
        for name in names:
            cls = plan_class(part, name)
            flat = part == HEAD and issubclass(cls.Config, cls.Options)
            if dataclasses.fields(cls.Options) and not flat:
                about = " ".join((inspect.getdoc(cls.Options) or "").split("\n\n")[0].split())
                heading = f"### model.{part}_options, of {name}"
                texts.append(f"{heading}\n\n{textwrap.fill(about, 120)}\n\n{table(cls.Options, set())}\n")
    return "\n".join(texts)


def names_of_others() -> str:
    """Whose names of tensors `init` knows, by backbone and by whole network."""
    whose: dict[str, list[str]] = {}
    for row in BACKBONE_NAMES:
        whose.setdefault(f"backbone `{row.kind}`", []).extend(row.whose.split(", "))
    for whole in LAYOUTS:
        whose.setdefault(f"`{whole.neck}` and `{whole.head}`", []).extend(whole.whose.split(", "))
    rows = [f"| {network} | {', '.join(dict.fromkeys(names))} |" for network, names in whose.items()]
    return "\n".join(["| network | names of |", "| --- | --- |", *rows, ""])


def render() -> str:
    """The whole page."""
    return filled(PAGE.read_text(encoding="utf-8"), parts())


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE}")
