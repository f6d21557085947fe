"""Writes docs/nas-config.md from the dataclasses that read the file: `python docs/make_nas_config.py`."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from pathlib import Path
from typing import Any

from searchkit.data.augment import Augment
from searchkit.models.detector import DetectorConfig
from searchkit.train import config

HEAD = """\
# The search-nas config

This page is made from the code that reads the file, by `docs/make_nas_config.py`. One flat YAML file holds everything
about a supernet: `model`, `space`, `data`, `train`, `test`, `finetune`, and `init`. All but `model` and `space` may be
left out where a verb does not need them. Every fault of a file is reported at once, with its line and column.
`--set section.key=value` replaces one value.

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

## space

Names of dimensions are dotted. Those below `backbone.` are the backbone's own; ResNet has `backbone.stem.width`,
`backbone.body.width` and `backbone.body.depth` (lists, one value for each stage), and `backbone.body.kernel`.

| a dimension | means |
| --- | --- |
| `{start: 32, end: 64, step: 16}` | 32, 48, 64; lists of equal length for one range at each position |
| `{…, ascending: true}` | each position at least as large as the one before |
| `{choices: [3, 5, 7]}` | one of these; a list of lists for choices at each position |
| `64`, `[64, 128]` | fixed |

`data.input_shape` lists the input shapes: a number S is a short edge (and S x S when costs are counted), `[H, W]` a
short and a long edge. `anchors` names archs: they may lie off the grid, but inside the maximal model. `MAX` and `MIN`
are always there.

## init

A file of weights that training starts from: a state dict of torch or safetensors, of a whole detector (such as
torchvision's `fasterrcnn_resnet50_fpn`) or of a backbone alone (`resnet50`). `torchvision:resnet50` takes torchvision's
own weights of that model, and downloads them once. Where the supernet is wider, the first channels are filled.
"""
SECTIONS = (
    ("model", DetectorConfig, "The detector but for its backbone's sizes."),
    (
        "data",
        config.Data,
        "What it is trained and scored on. `train`, `val` and `test` are `{annotations: FILE, images: FOLDER}`.",
    ),
    ("data.augment", Augment, "Random changes of training images."),
    ("train", config.Train, "How the supernet is trained."),
    ("test", config.Test, "How subnets are scored."),
    ("finetune", config.Finetune, "How subnets are tuned: the keys of `train` about optimisation, and these."),
)


def comments(cls: type) -> dict[str, str]:
    """The comment at the end of each field's line, of the class and those it is made from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        for name, text in re.findall(r"^    (\w+): [^#\n]*#\s*(.*)$", inspect.getsource(base), re.MULTILINE):
            found[name] = text.replace("|", "\\|")
    return found


def default(f: dataclasses.Field[Any]) -> str:
    if f.default is not dataclasses.MISSING:
        value = list(f.default) if isinstance(f.default, tuple) else f.default
        return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"
    return "" if f.default_factory is not dataclasses.MISSING else "must be given, or follows from the data"


def kind(hint: Any) -> str:
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
            rows.append(f"| `{f.name}` | {kind(hints[f.name])} | {default(f)} | {notes.get(f.name, '')} |")
    return "\n".join(rows)


def render() -> str:
    """The whole page."""
    parts = [HEAD]
    shared = {f.name for f in dataclasses.fields(config.Optimisation)}
    for name, cls, line in SECTIONS:
        leave_out = (shared - {"epochs"}) if cls is config.Finetune else {"augment"} if cls is config.Data else set()
        parts.append(f"## {name}\n\n{line}\n\n{table(cls, leave_out)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    page = Path(__file__).with_name("nas-config.md")
    page.write_text(render(), encoding="utf-8")
    print(f"wrote {page}")
