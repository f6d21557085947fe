"""Rules as they are declared: every fault at once, with a caret below what can't be read."""

from __future__ import annotations

import time
from typing import Any

import pytest
import yaml

from searchkit.records import rules
from tests.records.test_rules import fault, record

FAULTS: dict[str, list[str]] = {
    "3": ["rules: rules: a rule must be a mapping, not 3"],
    "{}": ["rules: rule: must have where or func_str, or a type, but has nothing"],
    "[]": ["rules: rules: must be a list of at least one rule, not []"],
    "{whre: a > 1}": [
        "rules: rule: unknown key 'whre' (did you mean where?)",
        "rules: rule: must have where or func_str, or a type, but has whre",
    ],
    "[{type: paralel, rules: []}]": ["rules: rules[0].type: unknown type 'paralel' (did you mean parallel?)"],
    "[{where: a >}, {where: b = 1}]": [
        "rules: rules[0].where: column 4 of 'a >': the expression can't go on like this",
        "    a >",
        "       ^",
        "rules: rules[1].where: column 3 of 'b = 1': '=' is not allowed (write ==)",
        "    b = 1",
        "      ^",
    ],
    "{func_str: 'lambda x: x.flops > 1'}": [
        "rules: rule.func_str: column 11 of 'lambda x: x.flops > 1': write x['flops']",
        "    lambda x: x.flops > 1",
        "              ^",
    ],
    "{where: a, func_str: b}": ["rules: rule: must have one of where or func_str, or a type"],
    "{where: 3}": ["rules: rule.where: must be an expression, not 3"],
    "{where: a.__class__ == 1}": ["rules: rule.where: no key of a record is called 'a.__class__'"],
    "{where: a, missing: drop}": ["rules: rule.missing: must be error or skip, not 'drop'"],
    "{where: a, name: [3]}": ["rules: rule.name: must be a text, not [3]"],
    "{type: sample}": ["rules: rule: missing key 'operation': one of top, last, random"],
    "{type: sample, operation: top}": ["rules: rule: missing key 'key': top of what?"],
    "{type: sample, operation: top, key: 3, mode: all, seed: x}": [
        "rules: rule.key: must be the name of a number, such as metric.direct.mAP, not 3",
        "rules: rule.mode: must be number or ratio, not 'all'",
        "rules: rule.seed: must be a whole number, not 'x'",
    ],
    "model_sampling_rules: [{type: merge}]\nmodel_path: x": [
        "rules: unknown key 'model_path' beside model_sampling_rules (did you mean model_space_path?)"
    ],
    "[{type: parallel, rules: [{type: sequential, rules: [{wheer: a}]}]}]": [
        "rules: rules[0].rules[0].rules[0]: unknown key 'wheer' (did you mean where?)",
        "rules: rules[0].rules[0].rules[0]: must have where or func_str, or a type, but has wheer",
    ],
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults(text: str) -> None:
    assert fault(rules.parse, yaml.safe_load(text)).split("\n") == FAULTS[text]


@pytest.mark.parametrize("mode", ["number", "ratio"])
@pytest.mark.parametrize("value", [0, -1, True, "3", None, [1], float("nan"), float("inf"), 1.5, 2.000001, 1e300])
def test_no_amount(mode: str, value: Any) -> None:
    assert ".value: must be " in fault(
        rules.parse, {"type": "sample", "operation": "random", "mode": mode, "value": value}
    )


@pytest.mark.slow
def test_rules_without_end_are_refused_at_once() -> None:
    begin = time.monotonic()
    endless: list[Any] = []
    endless.append({"type": "parallel", "rules": endless})
    assert "must not be nested deeper" in fault(rules.parse, endless)
    laughs: Any = {"where": "a"}
    for _ in range(40):
        laughs = {"type": "parallel", "rules": [laughs] * 10}
    assert "be at most 10000" in fault(rules.parse, laughs)
    many = [{"type": "parallel", "rules": [{"where": "true"}] * 20}] * 6
    assert "are more than 100000" in fault(rules.apply, rules.parse(many), [record(1)], 0)
    assert time.monotonic() - begin < 20
