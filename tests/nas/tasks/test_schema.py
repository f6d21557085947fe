"""The schema of a search-nas config takes what the parser takes, and refuses its faults of key, type, choice, range."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from searchkit.errors import ConfigError
from searchkit.nas.tasks import read
from searchkit.nas.tasks.schema import config_schema
from searchkit.reading import nodes
from tests.nas.space import test_samplers, test_space_declared, test_space_schedule, test_strategies

jsonschema = pytest.importorskip("jsonschema", reason="pip install 'searchkit[dev]'")

RECIPES = sorted((Path(__file__).parents[3] / "templates").glob("*/*.yaml"))
TOGETHER = re.compile(  # faults that several values make together, which no schema sees
    r"must not be above|a position must have at most|(?<!;) [\w.]+ is missing|but must (be|have)"
    r"|is no dimension|exclude each other|declared twice|no ascending|can't be |which can't go with"
    r"|must have a value for each stage|it must have as many|same choices|widens above|narrows below"
    r"|leaves|of one length|must ascend|must start at epoch|can't have|the space has no|there is no '|no network can"
    r"|is no name|must have at least one dimension|is of policy|is there twice|without a teacher"
    r"|a teacher needs|ascending numbers|no file|of another space|three ints, or|max_dets: is"
    r"|one start, end and step|with nesterov|0 < lo <= hi|must be \d+ lists, one"
    r"|must be a list of ints, not|or bbox_AP/<|must give at least one|or both, each once"
    r"|is no choice beside|must have one number for each of"
    r"|don't fit together|has no such dimension|begin with backbone|stands in model, too|is of the neck"
    r"|is of paraphrasers|is of loss cwd|named by config already|nothing would be taught|mimic has one|which has none"
    r"|needs teacher, or|there is no teacher|class scores are learnt"
)


def everything(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values."""
    if path:
        yield path
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield from everything(node[key], (*path, key))


def mutated(data: Any, rng: random.Random) -> Any:
    """With one value changed, renamed, removed or doubled."""
    data = copy.deepcopy(data)
    *parents, last = rng.choice(list(everything(data)))
    into = data
    for key in parents:
        into = into[key]
    match rng.randrange(7):
        case 0 if isinstance(into, dict):
            into[rng.choice((last[:-1] + "x", last + "s", last[1:])) or "x"] = into.pop(last)
        case 1:
            del into[last]
        case 2 if isinstance(into, list):
            into.append(into[last])
        case 3:
            into[last] = rng.choice((None, "", "x", "0", True, [], {}, [into[last]], {"a": into[last]}))
        case 4:
            into[last] = rng.choice((0, 1, -1, 2, 1.5, 0.5, 10**9))
        case 5:
            into[last] = rng.choice(("MAX", "resnet", "sgd", "adamw", "net_wise", "sandwich", "anchors", "fp32", "cls"))
        case _:
            number = into[last]
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            into[last] = -number if is_number else [number, number]
    return data


SPACE: dict[str, Any] = {"backbone.stem.width": {"choices": [8, 16]}, "backbone.body.depth": [1, 1, 1, 1]}
MORE: list[Any] = [
    {
        "task": "det",
        "model": {"num_classes": 3, "backbone": "resnet", "backbone_options": {"block": "basic"}},
        "space": {
            **SPACE,
            "backbone.body.width": {
                "space": {"min": [8, 8, 8, 8], "max": 16, "stride": 8},
                "schedule": {"boundary": [1, 3], "value": [[8], [[8, 16], 16, 8, [8, 16]]]},
            },
            "data.input_shape": {"start": 96, "end": 128, "step": 32},
            "anchors": {"A": {"backbone": {"stem.width": 8, "body": {"depth": [1, 1, 1, 1], "width": [8, 8, 8, 8]}}}},
        },
        "data": {"train": {"annotations": "a.json", "images": "a"}, "range": [0, 4095], "augment": {"scale": [0.5, 2]}},
        "train": {
            "policy": "anchors",
            "steps": 3,
            "milestones": [0.5, 0.9],
            "loss_weights": {"loss_classifier": {"boundary": [1, 2], "value": [0, 1.5]}, "loss_box_reg": 2},
            "scales": [96, [96, 128]],
            "checkpoint_minutes": 0.5,
            "best_metric": "bbox_mAP_tiny",
            "sampler": {
                "type": "concat",
                "model_samplers": [
                    {"type": "anchor", "anchors": ["MAX", "A", {"name": "B", "arch": {"backbone.stem.width": 8}}]},
                    {"type": "repeat", "times": 2, "model_sampler": {"type": "anchor", "anchors": ["MIN"]}},
                ],
            },
        },
        "test": {"areas": {"tiny": [0, 64]}, "max_dets": 50, "per_class": True},
        "finetune": {"epochs": 1, "train_on": ["train", "val"]},
    },
    {
        "task": "cls",
        "model": {"dropout": 0.1},
        "space": {"backbone.stem.width": 8, "backbone.body.width": [8, 8, 8, 8], "backbone.body.depth": [1, 1, 1, 1]},
        "data": {"train": {"path": "a", "portion": [0, 0.9], "per_class": 4}, "augment": {"crop": "pad", "cutout": 4}},
        "train": {
            "epochs": 2.5,
            "distill": {
                "weight": {"boundary": [1, 2], "value": [0, 1]},
                "temperature": 2,
                "loss": {"type": "dkd", "beta": 2},
                "use_meal": True,
                "teachers": {"a": {"teacher": "model"}},
                "scores": [{"of": "a", "loss": "alpha"}, {"of": "a", "loss": {"type": "alpha", "alphas": [-1, 1]}}],
            },
            "label_smoothing": 0.1,
            "sample_strategy": ["max", "random", "min"],
            "best_metric": "top1/cat",
        },
    },
]


def files() -> list[Any]:
    """Whole configs, changed ones, and the bad ones of the tests of spaces and samplers."""
    whole = [yaml.safe_load(path.read_text()) for path in RECIPES]
    whole = [{**data, "subnet": None} for data in whole if "space" in data] + MORE  # which may need a file
    rng = random.Random(5)
    changed = []
    for _ in range(240):
        data = rng.choice(whole)
        for _ in range(rng.choice((1, 1, 2))):
            data = mutated(data, rng) if isinstance(data, dict) and data else data
        changed.append(data)
    bad = [
        data
        for module in (test_space_declared, test_space_schedule, test_strategies)
        for data, _ in module.FAULTS.values()
    ]
    spaces = [{"model": {}, "space": data} for data in bad]
    samplers = [
        {"model": {}, "space": SPACE, "train": {"policy": "anchors", "sampler": data}}
        for data, _ in test_samplers.FAULTS.values()
    ]
    return [*whole, *changed, *spaces, *samplers]


def test_schema_and_parser_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = config_schema()
    jsonschema.Draft7Validator.check_schema(made)
    check, path = jsonschema.Draft7Validator(made), tmp_path / "cfg.yaml"
    good, refused = 0, 0
    for data in files():
        text = yaml.safe_dump(data, sort_keys=False)
        path.write_text(text)
        plain = nodes.load(str(path)).root.data
        try:
            read.load(str(path))
        except ConfigError as e:
            seen = [fault.what for fault in e.faults if not TOGETHER.search(fault.what)]
            refused += bool(seen)
            assert not seen or not check.is_valid(plain), f"{seen}\n{text}"
        else:
            good += 1
            error = jsonschema.exceptions.best_match(check.iter_errors(plain))
            assert error is None, f"{error}\n{text}"
    assert good >= 30 and refused >= 150
    assert not check.is_valid({"model": {}, "space": SPACE, "train": {"best_metric": "mAP"}})
