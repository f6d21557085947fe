"""United-Perception's BigNAS configs (https://github.com/ModelTC/United-Perception): the networks and spaces of `net:`,
the single subnet of `subnet_settings`, and what `bignas:` says of a training.

Its lists begin with the stem, which has names of its own here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from searchkit.nas.convert.bignas import training_of
from searchkit.nas.convert.parts import Converted, count, counts, fixed, shape_of
from searchkit.nas.convert.retina import PUBLISHED, read_post_process, text_at
from searchkit.nas.convert.united_dims import choices, dimension, one
from searchkit.nas.models.part import PARTS
from searchkit.nas.space.shapes import InputShape
from searchkit.reading.cursor import Cursor
from searchkit.records.arch import Arch

NAME = "United-Perception"
BACKBONE_KEYS = ("out_channel", "depth", "kernel_size", "expand_ratio")
# Of all its RetinaNets.
NECK_OPTIONS: Mapping[str, Any] = {"norm": "bn", "p6": "lateral", "p7_relu": False}
HEAD_OPTIONS: Mapping[str, Any] = {"norm": "per_level"}
MODELS: Mapping[str, Mapping[str, Any]] = {  # by part
    "backbone": {"backbone": "big_resnet"},
    "neck": {"neck": "elastic_fpn", "neck_options": NECK_OPTIONS},
    "head": {"head": "retinanet", "head_options": HEAD_OPTIONS},
}
# Its dimensions, and ours.
NECK_DIMENSIONS = {"depth": "depth", "out_channel": "out_channel", "kernel_size": "kernel"}
TOWER_DIMENSIONS = {"depth": "depth", "out_channel": "width", "kernel_size": "kernel"}
# Of backbones, whose lists begin with the stem: see _stages.
StageRow = tuple[str, str | int | None, str]
BACKBONE_STAGES: tuple[StageRow, ...] = (
    ("out_channel", "backbone.stem.width", "backbone.body.width"),
    ("kernel_size", "backbone.stem.kernel", "backbone.body.kernel"),
    ("depth", 1, "backbone.body.depth"),
)
REGNET_STAGES: tuple[StageRow, ...] = (
    ("out_channel", "backbone.stem.width", "backbone.body.width"),
    ("depth", None, "backbone.body.depth"),
    ("kernel_size", 3, "backbone.body.kernel"),
    ("group_width", None, "backbone.body.group_width"),
)
# Its parts, and ours.
TOWERS = {"roi_head.cls_subnet": "head.cls", "roi_head.box_subnet": "head.box", "roi_head": "head.cls"}


def is_united(at: Cursor) -> bool:
    """Whether a file is such a config, or one of its blocks."""
    return any(key in at for key in ("bignas", "net", "subnet_settings", "subnet")) or at.node.kind == "list"


def read_united(at: Cursor) -> Converted:
    """The network, space, subnet and training of a file; faults are reported."""
    notes: list[str] = []
    model: dict[str, Any] = {}
    space: dict[str, Any] = {}
    train: dict[str, Any] = {}
    shapes: tuple[InputShape, ...] = ()
    bignas = at.get("bignas") or at
    net = at if at.node.kind == "list" else at.get("supernet") or at.get("net")
    if "supernet" in at and "net" in at:
        notes.append("net: left out, since supernet is the space")
    parts = [] if net is None else net.items
    for part in parts:
        _part(part, model, space, notes)
    settings = (bignas.get("subnet") or bignas).get("subnet_settings")
    arch = None if settings is None else _subnet(settings, notes)
    if "train" in bignas or "distiller" in bignas or "data" in bignas:
        train = training_of(bignas, notes)
        shapes = tuple(shape_of(item) for item in _within(bignas, "data", "image_size_list"))
    size = None if "subnet" not in bignas else bignas["subnet"].get("image_size")
    if size is not None and not shapes:
        shapes = (shape_of(size),)
    if arch is not None:
        _complete(arch, model, space, notes, net is None)
    if model.get("head") == "retinanet" and "post_process" not in {text_at(part, "name") for part in parts}:
        model["head_options"] |= PUBLISHED
        notes.append("there is no post_process: losses and anchors are those of the RetinaNet that is published")
    if net is not None and arch is not None:
        for name in arch.names:
            if name.startswith("head.box.") and name.replace("box", "cls") in space:
                space[name] = space[name.replace("box", "cls")]
        space["anchors"] = {"SUBNET": fixed(arch)}
    if model and "head" not in model:
        notes.append("there is no head: as it stands it is a Faster R-CNN; set model.head, or task: cls")
    only = arch if net is None else None
    task = {"linear": "cls", "retinanet": "det"}.get(model.get("head", ""))
    return Converted(NAME, task, model, space, shapes, tuple(dict.fromkeys(notes)), only, train=train)


def repaired(text: str) -> tuple[str, list[str]]:
    """The text with what keeps the examples of United-Perception's documentation from being YAML put right; and what.

    A placeholder of dots is left out. A part of `net:` whose keys are indented deeper than its first one, which stands
    behind the dash, is read as if that stood as deep.
    """
    lines, notes = text.splitlines(), []
    for i, line in enumerate(lines):
        if line.strip() and not line.strip("· \t"):
            lines[i] = ""
            notes.append(f"line {i + 1}: a placeholder is left out")
    for i, line in enumerate(lines):
        first = re.match(r"( *)- (\w+: *\S)", line)
        after = next((other for other in lines[i + 1 :] if other.strip()), "")
        indent = len(after) - len(after.lstrip())
        if first and re.match(r" *\w+:", after) and indent > len(first[1]) + 2:
            lines[i] = f"{first[1]}-{' ' * (indent - len(first[1]) - 1)}{line[len(first[1]) + 2 :]}"
            notes.append(f"line {i + 2}: is indented deeper than the key behind the dash: both are read as one part's")
    return "\n".join(lines) + "\n", notes


def _complete(arch: Arch, model: dict[str, Any], space: dict[str, Any], notes: list[str], alone: bool) -> None:
    """Take parts that `net:` lacks, or all where there is none (`alone`), as the subnet has them."""
    lacking = [part for part in PARTS if part not in model and any(n.startswith(f"{part}.") for n in arch.names)]
    for part in lacking:
        model |= {key: dict(value) if isinstance(value, Mapping) else value for key, value in MODELS[part].items()}
        space |= {name: value for name, value in fixed(arch).items() if name.startswith(f"{part}.")}
    if "backbone" in lacking and "backbone.body.group_width" in arch.names:
        model["backbone"] = "regnet"
    if lacking and not alone:
        notes.append(f"net: has no {' and no '.join(lacking)}: taken as subnet_settings has it, of that size alone")


def _within(at: Cursor, section: str, key: str) -> list[Cursor]:
    inside = at.get(section)
    value = None if inside is None else inside.get(key)
    return [] if value is None else value.items


# --- net -------------------------------------------------------------------------------------------------------------


def _part(at: Cursor, model: dict[str, Any], space: dict[str, Any], notes: list[str]) -> None:
    """One part of a network: its name, type and kwargs."""
    name, kind = (at[key].data if key in at else None for key in ("name", "type"))
    # A part of an example may have its keys beside `kwargs:`, which is then empty.
    inside = at["kwargs"] if "kwargs" in at and at["kwargs"].node.kind == "map" else at
    if inside is at and "kwargs" in at and len(at.node.entries) > 3:
        notes.append(f"{name}: kwargs is empty, and its keys stand beside it: they are read as its own")
    if name == "backbone" and kind == "big_resnet_basic":
        model["backbone"] = "big_resnet"
        _backbone(inside, model, space, notes)
    elif name == "backbone" and kind == "big_regnet":
        model["backbone"] = "regnet"
        _regnet(inside, model, space, notes)
    elif name == "head" and kind == "BigClsHead":
        model["head"] = "linear"
        if "num_classes" in inside:
            model["num_classes"] = count(inside["num_classes"])
    elif name == "post_process" and "cls_loss" in inside:  # of a classifier
        smooth = text_at(inside, "cls_loss", "kwargs", "smooth_ratio")
        notes.append(f"post_process: left out; train.label_smoothing: {smooth or 0} is its label smoothing")
    elif name == "neck" and kind == "big_fpn":
        model["neck"] = "elastic_fpn"
        _neck(inside, model, space, notes)
    elif name == "roi_head" and kind == "BigRetinaHeadWithBN":
        model["head"] = "retinanet"
        _head(inside, model, space, notes)
    elif name == "post_process":
        model["head_options"] = {**model.get("head_options", {}), **read_post_process(inside, notes)}
    else:
        known = "big_resnet_basic, big_regnet, big_fpn, BigRetinaHeadWithBN, BigClsHead"
        notes.append(f"net: {name} of type {kind} has no counterpart that is known ({known}): left out")


def _stages(at: Cursor, rows: Iterable[StageRow], space: dict[str, Any], notes: list[str]) -> None:
    """Fill the space from lists that have the stem's value first. rows: its key, our dimension of the stem (or the one
    value that our stem has; None: any), our dimension of the stages."""
    for key, stem, body in rows:
        if key in at:
            first, space[body] = dimension(at[key], key, notes)
            if isinstance(stem, str):
                space[stem] = first
            elif stem is not None and first != stem:
                at[key].fault(f"must begin with {stem}, the {key.removesuffix('_size')} of the stem")


def _backbone(at: Cursor, model: dict[str, Any], space: dict[str, Any], notes: list[str]) -> None:
    options: dict[str, Any] = {}
    _stages(at, BACKBONE_STAGES, space, notes)
    expand = at.get("expand_ratio")
    if expand is not None:
        values = [item.data for item in expand.items]
        if not values or not all(isinstance(v, int | float) and v > 0 for v in values):
            expand.fault(f"must be a list of numbers above 0, of the stem and the stages, not {expand.shown}")
        else:
            options |= {"stem_expand": values[0], "expand": values[1:]}
    layers = at.get("out_layers")
    if layers is not None:
        options["features"] = [f"c{1 + layer}" for layer in counts(layers)]
    if "deep_stem" in at and at["deep_stem"].data is not True:
        options["deep_stem"] = False
    options |= _norm(at, "backbone", notes)
    left = [k for k in at.node.entries if k in ("frozen_layers",) and at[k].data]
    notes += [f"backbone.{key}: left out" for key in left]
    if options:
        model["backbone_options"] = options


def _regnet(at: Cursor, model: dict[str, Any], space: dict[str, Any], notes: list[str]) -> None:
    _stages(at, REGNET_STAGES, space, notes)
    if "expand_ratio" in at:  # that of the stem, which has no block, may be 0
        space["backbone.body.expand"] = [count(item) for item in at["expand_ratio"].items[1:]]
    options = _norm(at, "backbone", notes)
    if "stride_stages" in at:
        first_stride, *strides = counts(at["stride_stages"])
        options |= {"stem_stride": first_stride, "strides": strides}
    squeezed = {bool(item.data) for item in at["se_stages"].items[1:]} if "se_stages" in at else {False}
    if len(squeezed) > 1:
        at["se_stages"].fault("stages must all have squeeze-and-excitation here, or none of them")
    elif squeezed == {True}:
        options["squeeze"] = "hidden"
    if options:
        model["backbone_options"] = options


def _norm(at: Cursor, part: str, notes: list[str]) -> dict[str, Any]:
    """The options of the norms of a backbone or a neck that are not plain batch norms."""
    kind = text_at(at, "normalize", "type")
    if kind is None or kind == "dynamic_solo_bn":
        return {}
    if kind != "dynamic_sync_bn":
        notes.append(f"{part}: normalize {kind} has no counterpart that is known: the norms are plain batch norms")
        return {}
    kwargs = at["normalize"].get("kwargs")
    ranks = None if kwargs is None else kwargs.get("group_size")
    return {"norm": "sync_bn"} | ({} if ranks is None else {"norm_ranks": count(ranks)})


def _neck(at: Cursor, model: dict[str, Any], space: dict[str, Any], notes: list[str]) -> None:
    """Two groups of convs, laterals and outputs; both have one width here, and a lateral's kernel is 1."""
    options: dict[str, Any] = {**NECK_OPTIONS, **_norm(at, "neck", notes)}
    if "features" in model.get("backbone_options", {}):
        options["first"] = 0  # else the finest feature of a backbone is not read, as is the default
    for key, ours in NECK_DIMENSIONS.items():
        if key not in at:
            continue
        lateral, value = _pair(at[key])
        if key == "kernel_size" and lateral != 1:
            at[key].fault(f"laterals must have a kernel of 1, not {lateral}")
        elif key == "out_channel" and lateral != value:
            at[key].fault(f"laterals and outputs must have one width, not {lateral} and {value}")
        space[f"neck.{ours}"] = value
    model["neck_options"] = options


def _pair(at: Cursor) -> tuple[Any, Any]:
    """What the first and the second group of a neck may be."""
    if at.node.kind == "list":
        first, second = counts(at, 2)
        return first, second
    space = at.get("space")
    rows = None if space is None else choices(space)
    if rows is None or len(rows) != 2:
        at.fault("must be two numbers, or {space: {min, max, stride}} with two each")
        return 1, 1
    return one(rows[0]), one(rows[1])


def _head(at: Cursor, model: dict[str, Any], space: dict[str, Any], notes: list[str]) -> None:
    options: dict[str, Any] = dict(HEAD_OPTIONS)
    for key, ours in TOWER_DIMENSIONS.items():
        if key in at:
            space[f"head.cls.{ours}"] = _tower(at[key])
    if "init_prior" in at:
        options["prior"] = at["init_prior"].data
    if "num_classes" in at:
        given = at["num_classes"]
        model["num_classes"] = count(given) - 1
        notes.append(f"num_classes is {given.shown} with the background there, {model['num_classes']} without it here")
    model["head_options"] = {**options, **model.get("head_options", {})}


def _tower(at: Cursor) -> Any:
    if at.node.kind == "list":
        return counts(at, 1)[0]
    space = at.get("space")
    rows = None if space is None else choices(space)
    if rows is None or len(rows) != 1:
        at.fault("must be one number in a list, or {space: {min, max, stride}} with one each")
        return 1
    return one(rows[0])


# --- bignas ----------------------------------------------------------------------------------------------------------


def _subnet(at: Cursor, notes: list[str]) -> Arch:
    """One subnet: for each part lists by dimension, that of the backbone with the stem first."""
    values: dict[str, Any] = {}
    parts = {part: at[part] for part in at.node.entries}
    for tower in ("cls_subnet", "box_subnet"):  # a saver's settings have them below roi_head
        if "roi_head" in at and tower in at["roi_head"]:
            parts = {part: settings for part, settings in parts.items() if part != "roi_head"}
            parts[f"roi_head.{tower}"] = at["roi_head"][tower]
    for part, settings in parts.items():
        if part == "backbone":
            is_regnet = "group_width" in settings
            for key, stem, body in (
                ("out_channel", "stem.width", "body.width"),
                ("kernel_size", None if is_regnet else "stem.kernel", "body.kernel"),
                ("depth", None, "body.depth"),
                ("group_width", None, "body.group_width"),
            ):
                if key in settings:
                    first, *rest = counts(settings[key])
                    values[f"backbone.{body}"] = rest
                    if stem is not None:
                        values[f"backbone.{stem}"] = first
            if "expand_ratio" in settings and is_regnet:
                values["backbone.body.expand"] = [count(item) for item in settings["expand_ratio"].items[1:]]
            elif "expand_ratio" in settings:
                notes.append("subnet_settings.backbone.expand_ratio: the config's backbone_options have it: left out")
        elif part == "neck":
            for key, ours in NECK_DIMENSIONS.items():
                if key in settings:
                    values[f"neck.{ours}"] = counts(settings[key], 2)[1]
        elif part in TOWERS:
            for key, ours in TOWER_DIMENSIONS.items():
                if key in settings:
                    values[f"{TOWERS[part]}.{ours}"] = counts(settings[key], 1)[0]
        else:
            notes.append(f"subnet_settings.{part} has no counterpart that is known: left out")
    for ours in TOWER_DIMENSIONS.values():  # a tower of boxes is like that of classes, if nothing else is said
        if values.get(f"head.box.{ours}") == values.get(f"head.cls.{ours}"):
            values.pop(f"head.box.{ours}", None)
    return Arch.of(values)
