"""Keys of a config that say something, and change nothing beside what its other keys say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from searchkit.nas.models.part import PARTS
from searchkit.nas.models.plans import plans_of
from searchkit.nas.space.space import Space
from searchkit.reading.nodes import Node


@dataclass(frozen=True)
class Idle:
    """Keys of a section that count only where `counts` says so of it; why: what they are of, to be filled from it."""

    keys: tuple[str, ...]
    counts: Callable[[Any], bool]
    why: str


OPTIMISATION = (
    Idle(("momentum", "nesterov"), lambda s: s.optimizer == "sgd", "of optimizer sgd, but optimizer is {optimizer}"),
    Idle(("milestones", "gamma"), lambda s: s.schedule == "step", "of schedule step, but schedule is {schedule}"),
    Idle(
        ("floor",),
        lambda s: s.schedule in ("linear", "cosine", "one_cycle"),
        "of the schedules linear, cosine and one_cycle, but schedule is {schedule}",
    ),
    Idle(
        ("warmup_steps", "warmup_factor"),
        lambda s: s.schedule != "one_cycle",
        "of the other schedules: {schedule} warms up by itself",
    ),
)
TRAIN = (
    Idle(("arch",), lambda s: s.policy == "fixed", "of policy fixed, but policy is {policy}"),
    Idle(
        ("random_archs",),
        lambda s: s.policy in ("sandwich", "anchors", "dmcp"),
        "of the policies sandwich, anchors and dmcp, but policy is {policy}",
    ),
    Idle(("random_archs",), lambda s: not s.sample_strategy, "said by sample_strategy already"),
)
# Of the options of all parts, by the value of their `norm`.
NORMS: Mapping[str, tuple[str, ...]] = {"norm_group": ("gn", "group"), "norm_ranks": ("sync_bn",)}
# Options that a dimension of the space goes instead of, by the name of the part.
REPLACED: Mapping[tuple[str, str], str] = {
    ("elastic_fpn", "out_channel"): "neck.out_channel",
    ("elastic_fpn", "kernel"): "neck.kernel",
    ("ssd_extras", "kernel"): "neck.kernel",
    ("ssd_extras", "hidden"): "neck.hidden",
    ("ssd_extras", "hidden_of"): "neck.hidden",
    ("hidden", "width"): "neck.width",
    ("retinanet", "depth"): "head.cls.depth",
    ("retinanet", "width"): "head.cls.width",
    ("retinanet", "kernel"): "head.cls.kernel",
    ("ssd", "kernel"): "head.kernel",
    ("big_resnet", "expand"): "backbone.body.expand",
}


def idle_keys(path: str, sections: Mapping[str, tuple[Node | None, Any]]) -> Iterator[str]:
    """A line for each key of `train` and `finetune` that differs from its default, and changes nothing; sections: each
    with what was read of it."""
    for name, (node, section) in sections.items():
        default = {f.name: f.default for f in fields(section)}
        for row in (*OPTIMISATION, *(TRAIN if name == "train" else ())):
            given = [key for key in row.keys if node is not None and key in node.entries]
            for key in given if not row.counts(section) else ():
                if getattr(section, key) != default[key]:
                    assert node is not None
                    why = row.why.format_map({f.name: getattr(section, f.name) for f in fields(section)})
                    yield f"{_place(path, node.entries[key][0])}: {name}.{key} changes nothing: it is {why}"


def idle_options(path: str, model: Any, node: Node, space: Space) -> Iterator[str]:
    """The same of the options of the parts."""
    names = space.held()
    for part in PARTS:
        section = f"{part}_options"
        _, given = node.entries.get(section, (None, None))
        options: Any = getattr(model, section)
        values = vars(options) if is_dataclass(options) else options or {}
        for key, (at, _) in given.entries.items() if given is not None else ():
            where, norm = _place(path, at), values.get("norm", "bn")
            if key in NORMS and norm not in NORMS[key] and values.get(key):
                kinds = " or ".join(NORMS[key])
                yield f"{where}: model.{section}.{key} changes nothing: it is of norm {kinds}, but norm is {norm}"
            instead = REPLACED.get((getattr(model, part), key), "")
            if instead in names:
                yield f"{where}: model.{section}.{key} changes nothing: the space has {instead}, which goes instead"


def unread_rows(path: str, model: Any, node: Node, space: Space) -> Iterator[str]:
    """A line where a backbone has blocks behind the last of the features that its options name: they run, are counted
    and kept, and nothing reads them."""
    _, options = node.entries.get("backbone_options", (None, None))
    if options is None or not model.backbone_options.get("features"):
        return
    rows = plans_of(model, space.maximum()).rows(space.maximum())
    last = max((i for i, row in enumerate(rows) if row.output), default=len(rows))
    if not (names := list(dict.fromkeys(row.name for row in rows[last + 1 :]))):
        return
    at, more = options.entries["features"][0], f" and {len(names) - 3} more" if len(names) > 3 else ""
    said = f"nothing reads what the backbone has behind these, {', '.join(names[:3])}{more}: it runs for nothing"
    if "head" in names and (dead := "backbone.head.width") in space.held():
        said += f", and {dead} of the space changes nothing that is found"
    yield f"{_place(path, at)}: model.backbone_options.features: {said}"


def _place(path: str, at: Node) -> str:
    return f"{path}:{at.line}:{at.col}"
