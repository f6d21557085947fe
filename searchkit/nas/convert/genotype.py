"""Genotypes of aw_nas (https://github.com/walkerning/aw_nas): `image_size=300, cell_0=1, …, cell_1_block_0=(6, 7), …`.

aw_nas reads them back by `eval`; here they are parsed, and numbers as numpy prints them (`np.int64(300)`) are numbers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from searchkit.errors import ConfigError, Fault
from searchkit.nas.convert.parts import Converted, Stage, arch_of_stages, fixed
from searchkit.nas.models.plan import multiple_of
from searchkit.reading.nodes import Node
from searchkit.records.arch import Arch

MARK = re.compile(r"\bcell_0\s*=")
_NAME = re.compile(r"image_size|cell_\d+(?:_block_\d+)?|head_\d+")
_NUMPY = re.compile(r"u?int\d*|float\d*")
LEARNT = {"transform": "direct"}  # kernels smaller than 7x7, in its supernets


class Backbone(NamedTuple):
    """A backbone of aw_nas; its widths are those at mult_ratio 1, which scales the widths of its stages alone."""

    name: str
    ours: str
    options: Mapping[str, Any]
    stem: int
    widths: tuple[int, ...]
    head: int  # channels of the last conv
    features: tuple[str, ...]  # that an SSD reads


BACKBONES: Mapping[int, Backbone] = {  # by their number of cells
    6: Backbone("mbv3_backbone", "mobilenet_v3", LEARNT, 16, (16, 24, 40, 80, 112, 160), 960, ("c4", "tail")),
    7: Backbone(
        "mbv2_backbone",
        "mobilenet_v2",
        {"activation": "relu", **LEARNT},
        32,
        (16, 24, 32, 64, 96, 160, 320),
        1280,
        ("c4", "c5"),
    ),
}
EXTRAS = (512, 256, 256, 128)  # channels of the levels behind the backbone, whose blocks are head_0, head_1 …
EXTRA = (0.5, 3)  # the expansion and kernel of one that no genotype says


class Around(NamedTuple):
    """What a config says around its genotype."""

    is_ssd: bool = False
    ratio: float | None = None
    classes: int | None = None  # without the background


ALONE = Around()  # no config at all


def around(node: Node) -> Around:
    """Of the mapping that a genotype stands in, at whatever depth."""

    def first(key: str) -> Any:
        return next((value.data for name, value in _entries(node) if name == key), None)

    ratio, classes = first("mult_ratio"), first("num_classes")
    return Around(
        is_ssd="ssd" in str(first("head_type")),
        ratio=float(ratio) if isinstance(ratio, int | float) and ratio > 0 else None,
        classes=classes if _is_count(classes) else None,
    )


def _entries(node: Node) -> Iterator[tuple[str, Node]]:
    """The keys of a mapping with their values, then those of the mappings in it."""
    yield from ((key, value) for key, (_, value) in node.entries.items())
    for _, value in node.entries.values():
        yield from _entries(value)


class Value(NamedTuple):
    """What a name of a genotype has, and where it stands."""

    line: int
    col: int
    data: Any

    def fault(self, what: str) -> Fault:
        return Fault(self.line, self.col, f"{what}, not {self.data!r}")


def read_genotype(path: str, text: str, line: int = 1, col: int = 1, config: Around = ALONE) -> Converted:
    """The network of a genotype, with or without the name of its type around; line, col: where the text begins in its
    file; config: what stands around it there. Raises ConfigError with every fault and its place."""
    faults: list[Fault] = []
    values = _values(text, faults, line, col)
    if not values:
        _raise(path, faults)
    for name, value in values.items():
        if not _NAME.fullmatch(name):
            what = f"{name}: no name of a genotype: image_size, cell_0 …, cell_0_block_0 …, head_0 …"
            faults.append(Fault(value.line, value.col, what))
    cells = sum(re.fullmatch(r"cell_\d+", name) is not None for name in values)
    if cells not in BACKBONES:
        known = " or ".join(f"{n} ({backbone.name})" for n, backbone in BACKBONES.items())
        faults.append(Fault(line, col, f"there must be the depths of {known} cells, but there are {cells}"))
        _raise(path, faults)
    backbone, ratio = BACKBONES[cells], 1 if config.ratio is None else config.ratio
    widths = backbone.widths if ratio == 1 else [multiple_of(width * ratio) for width in backbone.widths]
    stages = [_stage(values, i, width, faults, line, col) for i, width in enumerate(widths)]
    image = values.get("image_size")
    if image is not None and not _is_count(image.data):
        faults.append(image.fault("image_size: must be a whole number of pixels"))
    heads = {name: value for name, value in values.items() if name.startswith("head_")}
    extras = [heads.get(f"head_{i}") for i in range(len(EXTRAS))]
    if heads and (None in extras or len(heads) > len(EXTRAS)):
        faults.append(
            Fault(line, col, f"there must be head_0 to head_{len(EXTRAS) - 1}, but there are {', '.join(heads)}")
        )
    for name, value in heads.items():
        if not _is_pair(value.data) or not _is_count(value.data[1]):
            faults.append(value.fault(f"{name}: must be (expansion, kernel) of an extra level"))
    _raise(path, faults)
    shapes = () if image is None else (image.data,)
    notes = [] if config.ratio else ["a genotype does not say mult_ratio: widths are those of 1"]
    model: dict[str, Any] = {"backbone": backbone.ours}
    options = dict(backbone.options)
    if not heads and not config.is_ssd:
        arch = arch_of_stages(backbone.stem, stages, backbone.head)
        model |= {"backbone_options": options} if options else {}
        return Converted("aw_nas", "cls", model, fixed(arch), shapes, tuple(notes), arch)
    if not heads:
        notes.append(f"the genotype has no head_0 …: the extra levels have {EXTRA}, as in the recipes of aw_nas")
    has_tail = "tail" in backbone.features
    arch = arch_of_stages(backbone.stem, stages, backbone.head if has_tail else None)
    blocks = [EXTRA if value is None else value.data for value in extras]
    arch = Arch.of({**dict(arch.items), **_neck(backbone.head if has_tail else widths[-1], blocks)})
    model |= {"backbone_options": {**options, "features": list(backbone.features)}, "neck": "ssd_extras", "head": "ssd"}
    model |= {} if config.classes is None else {"num_classes": config.classes}
    return Converted("aw_nas", "det", model, fixed(arch), shapes, tuple(notes), arch)


def _neck(cin: int, heads: list[tuple[float, int]]) -> dict[str, Any]:
    """The extra levels: (expansion, kernel) of each, where the expansion is of the channels that go in."""
    hidden = []
    for (expand, _), cout in zip(heads, EXTRAS, strict=True):
        hidden.append(multiple_of(expand * cin))
        cin = cout
    return {"neck.width": EXTRAS, "neck.hidden": hidden, "neck.kernel": [kernel for _, kernel in heads]}


def _stage(values: Mapping[str, Value], i: int, width: int, faults: list[Fault], line: int, col: int) -> Stage:
    """The blocks of one cell that run."""
    depth, stage = values.get(f"cell_{i}"), Stage(width)
    if depth is None or not _is_count(depth.data):
        faults.append(
            Fault(line, col, f"cell_{i} is missing") if depth is None else depth.fault(f"cell_{i}: must be a depth")
        )
        return stage
    for j in range(depth.data):
        name = f"cell_{i}_block_{j}"
        block = values.get(name)
        if block is None:
            what = f"cell_{i} has {depth.data} blocks, but {name} is missing"
            faults.append(Fault(depth.line, depth.col, what))
            break
        elif not _is_pair(block.data) or not all(map(_is_count, block.data)) or block.data[1] % 2 == 0:
            faults.append(block.fault(f"{name}: must be (expansion, odd kernel), both whole numbers"))
        else:
            stage.expands.append(block.data[0])
            stage.kernels.append(block.data[1])
    return stage


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, int | float) and v > 0 for v in value)


def _raise(path: str, faults: list[Fault]) -> None:
    if faults:
        raise ConfigError(path, sorted(set(faults)))


# --- its text --------------------------------------------------------------------------------------------------------


def _values(text: str, faults: list[Fault], begin_line: int, begin_col: int) -> dict[str, Value]:
    """The names of a genotype. The text is parsed as a call of Python with keywords, of which nothing is run."""
    stripped = text.strip()
    wrapped = re.match(r"\w+\(", stripped)
    begin = "" if wrapped else "genotype("
    lead = text[: len(text) - len(text.lstrip())]
    first_line, first_col = 1 + lead.count("\n"), len(lead) - (lead.rfind("\n") + 1)

    def place(line: int, col: int) -> tuple[int, int]:
        """Of a place in what is parsed, that in the text; both count from 1."""
        first = col + first_col - len(begin) + (begin_col - 1 if first_line == 1 else 0)
        return begin_line + first_line + line - 2, first if line == 1 else col

    try:
        tree = ast.parse(f"{begin}{stripped}{'' if wrapped else ')'}", mode="eval").body
    except (SyntaxError, ValueError) as e:
        line, col = place(getattr(e, "lineno", None) or 1, getattr(e, "offset", None) or 1)
        faults.append(Fault(line, max(1, col), f"is no genotype: {getattr(e, 'msg', e)}"))
        return {}
    if not isinstance(tree, ast.Call) or tree.args:
        faults.append(
            Fault(first_line, first_col + 1, "is no genotype: names with values, such as cell_0=1, must follow")
        )
        return {}
    values = {}
    for keyword in tree.keywords:
        line, col = place(keyword.value.lineno, keyword.value.col_offset + 1)
        try:
            data = _literal(keyword.value)
        except ValueError:
            shown = ast.unparse(keyword.value)
            faults.append(Fault(line, col, f"{keyword.arg}: must be a number or a pair of numbers, not {shown}"))
            continue
        values[str(keyword.arg)] = Value(line, col, data)
    return values


def _literal(node: ast.expr) -> Any:
    """A number, or a tuple of numbers; a number may stand in the name of its numpy type. Raises ValueError."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(map(_literal, node.elts))
    if (
        isinstance(node, ast.Call)
        and len(node.args) == 1
        and not node.keywords
        and isinstance(node.func, ast.Attribute)
    ):
        module = node.func.value
        if isinstance(module, ast.Name) and module.id in ("np", "numpy") and _NUMPY.fullmatch(node.func.attr):
            return _literal(node.args[0])
    raise ValueError(ast.dump(node))
