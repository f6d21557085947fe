"""Writes docs/nas-config.md from the dataclasses that read the file: `python docs/make_nas_config.py`."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from searchkit.nas.data.augment import Augment
from searchkit.nas.data.label_augment import LabelAugment
from searchkit.nas.models.elastic import backbone_class
from searchkit.nas.models.heads.faster_rcnn import DetectorConfig
from searchkit.nas.models.heads.linear import ClassifierConfig
from searchkit.nas.train import sections
from searchkit.nas.train.kept import MAY_CHANGE

HEAD = """\
# The search-nas config

This page is made from the code that reads the file, by `docs/make_nas_config.py`. One flat YAML file holds everything
about a supernet: `task`, `model`, `space`, `subnet`, `data`, `train`, `test`, `finetune`, and `init`. All but `model`
and `space` may be left out where a verb does not need them. Every fault of a file is reported at once, with its line
and column. `--set section.key=value` replaces one value.

```yaml
# file: least.yaml
model: {num_classes: 3}
space:
  backbone.stem.width: 64
  backbone.body.width: {start: [48, 96, 192, 384], end: [64, 128, 256, 512], step: [16, 32, 64, 128]}
  backbone.body.depth: [3, 4, 6, 3]
  data.input_shape: {choices: [800]}
```

```console
$ search-nas space least.yaml --set model.fpn_channels=128
…
16 archs x 1 input shapes = 16 points
…
```

## task

`det`, the default: object detection, [supernets](supernets.md) goes through it. `cls`: image classification, see
[classification](classification.md). The sections `model` and `data` have other keys for each; all else is the same.

## space

Names of dimensions are dotted. Those below `backbone.` are the backbone's own:

| `model.backbone` | its dimensions | its options |
| --- | --- | --- |
| `resnet` | `stem.width`, `body.width`, `body.depth`, (`body.kernel`) | @resnet |
| `mobilenet_v2` | as `resnet`, and `body.expand`, (`head.width`) | @mobilenet |
| `shufflenet_v2` | `stem.width`, `body.width`, `body.depth`, (`body.choice`), (`head.width`) | @shufflenet |

Those in brackets may be left out. `body.width` and `body.depth` have a value for each stage; `body.kernel` and
`body.expand` one for all, for each stage, or for each block ([spaces](spaces.md#strategies)). The widths and depths of
`shufflenet_v2` are fixed. Its `body.choice` has a value for each block: 0, 1, 2 are kernels of 3, 5, 7, and 3 is
"xception", three depthwise 3x3 convs; the supernet holds all of them, side by side.

| a dimension | means |
| --- | --- |
| `{start: 32, end: 64, step: 16}` | 32, 48, 64; lists of equal length for one range at each position |
| `{…, ascending: true}` | each position at least as large as the one before |
| `{choices: [3, 5, 7]}` | one of these; a list of lists for choices at each position |
| `64`, `[64, 128]` | fixed |

`data.input_shape` lists the input shapes: a number S is a short edge (and S x S when costs are counted), `[H, W]` a
short and a long edge; where it is missing, 800 for a detector and 224 for a classifier. `anchors` names archs: they may
lie off the grid, but inside the maximal model. `MAX` and `MIN` are always there.

How positions vary together (`sample_strategy`), and schedules that narrow a dimension by epoch: [spaces](spaces.md).

## subnet

A file of records, such as the `best.jsonl` of a search, or a named arch: the space is then that one network (of a file
the first record), and all verbs speak of it. `train` with `train.policy: fixed` trains it on its own, from new weights.
It must be of the space; `$VARIABLES` and `~` in the path are filled in.

## init

A file of weights that training starts from: a checkpoint, or a state dict of torch or safetensors, of a whole detector
(such as torchvision's `fasterrcnn_resnet50_fpn`), of a classifier, or of a backbone alone (`resnet50`, `mobilenet_v2`,
`shufflenet_v2_x1_0`). `torchvision:resnet50` takes torchvision's own weights of that model, and downloads them once.
Where the supernet is wider, the first channels are filled, and the centres of larger kernels.
"""
SECTIONS = (
    ("model", "of a detector", DetectorConfig, "The detector but for its backbone's sizes."),
    ("model", "of a classifier", ClassifierConfig, "The classifier but for its backbone's sizes."),
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
        "What it is trained and scored on; the splits are in the next table.",
    ),
    ("data.train, data.val, data.test", "of a classifier", sections.LabelSplit, "One set of images with a class each."),
    (
        "data.augment",
        "of a classifier",
        LabelAugment,
        "Random changes of training images, in this order: crop, flip, colour, cutout. `crop` makes an image one of "
        "the input's size. `none`: short edge to that of the input, and the middle. `pad`: the same, then `padding` "
        "black pixels around it, and a crop at random (CIFAR). `random_resized`: a part of `scale` of the area and "
        "`ratio` of width to height, resized (ImageNet). `center`: as in evaluation, 224 out of 256.",
    ),
    ("train", "", sections.Train, "How the supernet is trained."),
    (
        "train.distill",
        "of a classifier",
        sections.Distill,
        "Softer targets: the KL divergence to the scores of the largest arch of the step, or of a teacher of its own "
        "([classification](classification.md#distillation)). `distill: {}` switches it on.",
    ),
    ("test", "", sections.Test, "How subnets are scored."),
    ("finetune", "", sections.Finetune, "How subnets are tuned: the keys of `train` about optimisation, and these."),
)
CHANGES = """\
## What may change while a training goes on

`train` in the folder of an old training goes on only where the config still trains the same; otherwise it is refused,
with everything that differs ([supernets](supernets.md#train)). These keys may change, and all of `test` and `finetune`;
so may anchors that are added or taken out, `--device`, and where the files lie. Every other key decides what is
trained, as do the seed, the number of processes and the content of the training set.

| keys | |
| --- | --- |
@keys
"""
BACKBONES = {"resnet": "resnet", "mobilenet": "mobilenet_v2", "shufflenet": "shufflenet_v2"}


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
    _, *given = inspect.signature(backbone_class(backbone)).parameters.values()  # the first is the arch
    return ", ".join(f"`{p.name}: {default_text(p.default)}`" for p in given if p.name != "held")


def default_text(value: Any) -> str:
    value = list(value) if isinstance(value, tuple) else value
    return str(value).lower() if isinstance(value, bool) else str(value)


def default(f: dataclasses.Field[Any]) -> str:
    if f.default is not dataclasses.MISSING:
        return "" if f.default in (None, "") else f"`{default_text(f.default)}`"
    if f.default_factory is not dataclasses.MISSING:
        return ""
    return "that of the data" if f.name == "num_classes" else "must be given"


def kind(hint: Any, written: Any) -> str:
    if written == "Scheduled":
        return "number, or its schedule"
    if typing.get_origin(hint) is Mapping:
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
    return "mapping"


def table(cls: type, leave_out: set[str]) -> str:
    hints, notes = typing.get_type_hints(cls), comments(cls)
    rows = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for f in dataclasses.fields(cls):
        if f.name not in leave_out:
            rows.append(f"| `{f.name}` | {kind(hints[f.name], f.type)} | {default(f)} | {notes.get(f.name, '')} |")
    return "\n".join(rows)


def render() -> str:
    """The whole page."""
    head = HEAD
    for mark, backbone in BACKBONES.items():
        head = head.replace(f"@{mark}", options(backbone))
    parts = [head]
    shared = {f.name for f in dataclasses.fields(sections.Optimisation)}
    for name, of, cls, line in SECTIONS:
        leave_out: set[str] = set()
        if cls is sections.Finetune:
            leave_out = shared - {"epochs"}
        elif cls in (sections.Data, sections.LabelData):
            leave_out = {"augment"}
        heading = f"{name}, {of}" if of else name
        parts.append(f"## {heading}\n\n{textwrap.fill(line, 120)}\n\n{table(cls, leave_out)}\n")
    rows = "\n".join(f"| {', '.join(f'`{k}`' for k in keys.split(', '))} | {why} |" for keys, why in MAY_CHANGE.items())
    return "\n".join([*parts, CHANGES.replace("@keys", rows)])


if __name__ == "__main__":
    page = Path(__file__).with_name("nas-config.md")
    page.write_text(render(), encoding="utf-8")
    print(f"wrote {page}")
