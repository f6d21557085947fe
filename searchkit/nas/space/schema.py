"""JSON Schema (draft 7) of what the readers of this folder take: spaces, dimensions, schedules, samplers.

It takes every declaration that they take, and refuses every fault of a key, type, choice or range. What several values
say together (a start above its end, an anchor outside the space) is seen when the file is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from searchkit.nas.space.declare import BOUND_KEYS, DIM_KEYS, RANGE_KEYS
from searchkit.nas.space.dim import STRATEGIES
from searchkit.nas.space.samplers import KEYS, MAX_TIMES
from searchkit.nas.space.scheduled import SCHEDULE, SCHEDULE_KEYS
from searchkit.nas.space.shapes import INPUT
from searchkit.nas.space.space import ANCHORS, MAX, MIN
from searchkit.nas.space.strategy import KWARGS, NAME, ORDERED, SLOPE_KEYS, SPACE, STEEP, STRATEGY

Schema = dict[str, Any]
SAMPLER, ARCH, DIMENSION = "sampler", "arch", "dimension"  # names of definitions
_WORD = r"[^.\s](?:[^.]*[^.\s])?"
_PARTS = "backbone|neck|head"
_NAMES = rf"^(?:data\.input_shape|anchors|(?:arch\.)?(?:{_PARTS})(?:\.{_WORD})+)$"


def _array(items: Mapping[str, Any], **more: Any) -> Schema:
    return {"type": "array", "items": items, "minItems": 1, **more}


def _object(properties: Schema, required: Iterable[str] = ()) -> Schema:
    needed = {"required": [*required]} if required else {}
    return {"type": "object", "properties": properties, "additionalProperties": False, **needed}


def _int(least: int) -> Schema:
    return {"type": "integer", "minimum": least}


def _bound(least: int) -> Schema:
    return {"anyOf": [_int(least), _array(_int(least))]}


def _listed(least: int) -> Schema:
    """A list of choices, or one for each position."""
    row = _array(_int(least), uniqueItems=True)
    each = _array({"anyOf": [_int(least), row]}, contains={"type": "array"})
    return {"anyOf": [row, each]}


def schedule_schema(value: Mapping[str, Any]) -> Schema:
    """`{boundary: [1, 81], value: [a, b]}`, where each value is of a schema."""
    return _object({"boundary": _array(_int(1)), "value": _array(value)}, SCHEDULE_KEYS)


def _forms(least: int) -> list[Schema]:
    """Choices, and the two kinds of ranges: each with its keys."""
    bounds = [{name: _bound(1 if name == keys[2] else least) for name in keys} for keys in (RANGE_KEYS, BOUND_KEYS)]
    return [{"choices": _listed(least)}, *bounds]


def _dimension() -> Schema:
    ints = {"anyOf": [_int(0), _array({"anyOf": [_int(0), _array(_int(0))]})]}
    steps = schedule_schema(ints)
    common = {"ascending": {"type": "boolean"}, STRATEGY: _strategy()}
    beside = {**common, SCHEDULE: {"anyOf": [steps, {"type": "null"}]}}
    plain = [_object({**form, **beside}, form) for form in _forms(0)]
    inner = {name: schema for form in _forms(0) for name, schema in form.items()} | {"ascending": {"type": "boolean"}}
    assert set(inner) == set(DIM_KEYS)
    below = _object({**inner, **beside, SPACE: _object(inner)}, [SPACE])
    alone = _object({**steps["properties"], **common, SCHEDULE: {"type": "null"}}, SCHEDULE_KEYS)
    return {
        "description": "The choices of a dimension: an int, a list of ints, choices, or a range",
        "anyOf": [_int(0), _array(_int(0)), *plain, below, alone],
    }


def _strategy() -> Schema:
    """A name, or one with limits of a slope."""
    times = {"type": ["number", "null"], "exclusiveMinimum": 0}
    place = {"type": ["integer", "null"], "minimum": 0}
    limits = _object(dict(zip(SLOPE_KEYS, (times, times, place, place), strict=True)))
    names = {"enum": [*STRATEGIES, *ORDERED]}
    steep = _object({NAME: {"enum": [*STEEP]}, KWARGS: {"anyOf": [limits, {"type": "null"}]}}, [NAME])
    return {"anyOf": [names, steep, _object({NAME: names, KWARGS: {"type": "null"}}, [NAME])]}


def _input_shapes() -> Schema:
    pair = {"type": "array", "items": _int(1), "minItems": 1, "maxItems": 2}
    shapes = _array({"anyOf": [_int(1), pair]}, uniqueItems=True)
    edges = [_object({name: _int(1) for name in keys} | {"ascending": {}}, keys) for keys in (RANGE_KEYS, BOUND_KEYS)]
    choices = _object({"choices": shapes, "ascending": {}}, ["choices"])
    return {
        "description": "Short edges, or [H, W], in px",
        "anyOf": [_int(1), _array(pair, uniqueItems=True), choices, *edges],
    }


def _arch() -> Schema:
    return {
        "description": "An architecture: nested or dotted names to an int or a list of ints",
        "type": "object",
        "propertyNames": {"pattern": r"^[^.]+(\.[^.]+)*$"},
        "additionalProperties": {"anyOf": [_int(0), _array(_int(0)), {"$ref": f"#/definitions/{ARCH}"}]},
    }


def space_schema() -> Schema:
    """What stands below `space:`."""
    names = {"pattern": r"\S", "not": {"enum": [MAX, MIN]}}
    anchors = {
        "description": "Archs with a name of their own",
        "type": ["object", "null"],
        "propertyNames": names,
        "additionalProperties": {"$ref": f"#/definitions/{ARCH}"},
    }
    return {
        "description": "The dimensions of the architectures, by dotted names",
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": _NAMES},
        "properties": {INPUT: _input_shapes(), ANCHORS: anchors},
        "additionalProperties": {"$ref": f"#/definitions/{DIMENSION}"},
    }


def sampler_schema() -> Schema:
    """What stands below `train.sampler:`."""
    return {"$ref": f"#/definitions/{SAMPLER}"}


def _sampler() -> Schema:
    name = {"type": "string", "minLength": 1}
    arch = {"$ref": f"#/definitions/{ARCH}"}
    anchor = {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"arch": arch}}]}
    keys: dict[str, Schema] = {
        "key": name,
        "ascending": {"type": "boolean"},
        **{key: _bound(1 if key == RANGE_KEYS[2] else 0) for key in RANGE_KEYS},
        "anchors": _array(anchor),
        "candidates": _listed(0),
        "model_sampler": sampler_schema(),
        "model_samplers": _array(sampler_schema()),
        "times": {**_int(1), "maximum": MAX_TIMES},
    }
    optional = (*RANGE_KEYS, "ascending", "times")
    cases: list[Schema] = []
    for kind, own in KEYS.items():
        properties = {"type": {}, "mode": {}, **{key: keys[key] for key in own}}
        then = _object(properties, [key for key in own if key not in optional])
        if kind in ("range", "candidate"):  # what is drawn of the data is no part of an arch, and left out
            aside = _object({"type": {}, "mode": {}, **{key: {} for key in own}}, ["key"])
            of_data = {"required": ["key"], "properties": {"key": {"pattern": r"^data\."}}}
            if kind == "range":
                then["dependencies"] = {key: [*RANGE_KEYS] for key in (*RANGE_KEYS, "ascending")}
            then = {"if": of_data, "then": aside, "else": then}
        cases.append({"if": {"properties": {"type": {"const": kind}}, "required": ["type"]}, "then": then})
    return {
        "description": "Which arch a step takes",
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"enum": [*KEYS]}},
        "allOf": cases,
    }


def definitions() -> dict[str, Schema]:
    """What the schemas of this module refer to."""
    return {SAMPLER: _sampler(), ARCH: _arch(), DIMENSION: _dimension()}
