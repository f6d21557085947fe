"""Rules: a plain Python implementation with real lambdas is the oracle."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from searchkit.errors import UsageError
from searchkit.records import rules

Record = dict[str, Any]


def fault(call: Any, *args: Any) -> str:
    with pytest.raises(UsageError) as e:
        call(*args)
    assert e.value.exit_code == 2
    return e.value.message


def run(text: str, records: list[Record], seed: int = 0) -> rules.Outcome:
    return rules.apply(rules.parse(yaml.safe_load(text)), records, seed)


def record(i: int, **values: Any) -> Record:
    return {"index": i, "overhead": {"flops": i * 1e9}, "data": {"input_shape": 480}, "metric": {"a": values}}


def indices(outcome: rules.Outcome) -> list[int]:
    return [each["index"] for each in outcome.records]


# --- any pipeline, against a naive one -------------------------------------------------------------------------------

CONDITIONS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "x['a'] >= 3": lambda x: x["a"] >= 3,
    "x['a'] % 2 == 0 or x['n.b'] < 2": lambda x: x["a"] % 2 == 0 or x["n.b"] < 2,
    "sum(x['n.d']) in [2, 4, 5]": lambda x: sum(x["n.d"]) in [2, 4, 5],
    "not x['n.d'][-1] == 1": lambda x: x["n.d"][-1] != 1,
    "max(x['n.d']) > x['a'] > min(x['n.d'])": lambda x: max(x["n.d"]) > x["a"] > min(x["n.d"]),
}
steps = st.recursive(
    st.sampled_from(sorted(CONDITIONS)).map(lambda text: {"func_str": f"lambda x: {text}"})
    | st.builds(
        lambda op, key, mode, n: {
            "type": "sample", "operation": op, "key": key, "mode": mode, "value": n if mode == "number" else n / 8
        },
        st.sampled_from(["top", "last"]),
        st.sampled_from(["a", "n.b"]),
        st.sampled_from(["number", "ratio"]),
        st.integers(1, 8),
    )
    | st.just({"type": "merge"}),
    lambda inner: st.builds(
        lambda kind, members: {"type": kind, "rules": members},
        st.sampled_from(["sequential", "parallel"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=8,
)  # fmt: skip
rows = st.lists(
    st.builds(
        lambda a, b, d: {"a": a, "n": {"b": b, "d": d}, "arch": {}},
        st.integers(0, 5),
        st.sampled_from([0, 1, 2.5, 3]),
        st.lists(st.integers(0, 3), min_size=1, max_size=3),
    ),
    max_size=12,
)


def naive(rule: dict[str, Any], groups: list[list[Record]]) -> list[list[Record]]:
    kind = rule.get("type")
    if kind == "sequential":
        for each in rule["rules"]:
            groups = naive(each, groups)
        return groups
    if kind == "parallel":
        return [out for group in groups for each in rule["rules"] for out in naive(each, [group])]
    if kind == "merge":
        merged: list[Record] = []
        for row in (row for group in groups for row in group):
            if all(json.dumps(row) != json.dumps(other) for other in merged):
                merged.append(row)
        return [merged]
    if kind is None:
        holds = CONDITIONS[rule["func_str"].removeprefix("lambda x: ")]
        return [
            [row for row in group if holds({"a": row["a"], **{f"n.{k}": v for k, v in row["n"].items()}})]
            for group in groups
        ]
    value = {"a": lambda row: row["a"], "n.b": lambda row: row["n"]["b"]}[rule["key"]]
    sign = -1 if rule["operation"] == "top" else 1
    out = []
    for group in groups:
        n = rule["value"] if rule["mode"] == "number" else max(1, int(rule["value"] * 8) * len(group) // 8)
        ranked = sorted(enumerate(group), key=lambda pair: (sign * value(pair[1]), pair[0]))
        out.append([row for _, row in ranked[:n]])
    return out


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(steps, rows)
def test_any_pipeline(rule: dict[str, Any], records: list[Record]) -> None:
    before = copy.deepcopy(records)
    parsed = rules.parse(rule)
    outcome = rules.apply(parsed, records, 0)
    groups = naive(rule, [records])
    assert outcome.records == [row for group in groups for row in group]
    if outcome.stages:
        assert outcome.stages[-1].after == tuple(map(len, groups))
        assert outcome.stages[0].before == (len(records),)
    assert records == before and rules.parse(rule) == parsed
    flat = [{"a": row["a"], "n.b": row["n"]["b"], "n.d": tuple(row["n"]["d"]), "arch": {}} for row in records]
    assert [(row["a"], row["n.b"]) for row in rules.apply(parsed, flat, 0).records] == [
        (row["a"], row["n"]["b"]) for row in outcome.records
    ]


# --- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "where: metric.a.v >= 2",
        "[{where: metric.a.v >= 2}]",
        "rules: [{where: metric.a.v >= 2}]",
        "{type: sequential, rules: [{type: eval, where: metric.a.v >= 2}]}",
        "model_sampling_rules: {func_str: 'lambda row: row[\"metric.a.v\"] >= 2'}",
        "model_sampling_rules: [{where: 'lambda x: 2 <= x[\"metric.a.v\"]'}]",
        "where: 1 < metric.a.v and index < 1M",
    ],
)
def test_forms_of_one_rule(text: str) -> None:
    assert indices(run(text, [record(i, v=i) for i in range(4)])) == [2, 3]


def test_lists_are_equal_to_lists_and_tuples() -> None:
    records = [{"index": 0, "arch": {"d": [3, 4]}}, {"index": 1, "arch": {"d": (3, 4)}}, {"index": 2, "arch.d": (3, 4)}]
    for text in ("arch.d == [3, 4]", "arch.d == (3, 4)", "arch.d in [[3, 4], [1, 2]]", "arch.d[1] == 4"):
        assert indices(run(f"where: {text}", records)) == [0, 1, 2]


SHAPES = {
    "data.input_shape == 480": [0, 1, 2, 3],
    "data.input_shape[-1] == 480": [0, 1, 2, 3],
    "data.input_shape[-2] == 480": [0, 1, 2, 3, 4],
    "data.input_shape == [480, 640]": [4],
    "data.input_shape[1] == 480": [0, 1, 2, 3, 4],
}


@pytest.mark.parametrize("text", SHAPES)
def test_input_shapes(text: str) -> None:
    shapes = [480, [480, 480], [3, 480, 480], "3,480,480", [3, 480, 640]]
    records = [{"index": i, "data": {"input_shape": shape}} for i, shape in enumerate(shapes)]
    assert indices(run(f"where: {text}", records)) == SHAPES[text]


# --- sample ----------------------------------------------------------------------------------------------------------


def sample(n: int, **spec: Any) -> rules.Outcome:
    rule = rules.parse({"type": "sample", **spec})
    return rules.apply(rule, [record(i, v=i // 3) for i in range(n)], spec.get("seed", 0))


def test_top_and_last_keep_the_order_of_equal_ones() -> None:
    assert indices(sample(9, operation="top", key="metric.a.v", value=5)) == [6, 7, 8, 3, 4]
    assert indices(sample(9, operation="last", key="metric.a.v", value=5)) == [0, 1, 2, 3, 4]


AMOUNTS = [  # rows, mode, value, taken, noted
    (10, "number", 3, 3, ""),
    (10, "number", 2.0, 2, ""),
    (2, "number", 10, 2, "1 of 1 groups have fewer than 10 records; all of them were taken"),
    (10, "number", 10, 10, ""),
    (3, "ratio", 0.3, 1, "1 of 1 groups are too small for that ratio; one record of each was taken"),
    (10, "ratio", 0.3, 3, ""),
    (100, "ratio", 0.29, 29, ""),  # 0.29 * 100 is below 29
    (10, "ratio", 1.0, 10, ""),
    (10, "ratio", 1, 10, ""),
    (10, "ratio", 0.99, 9, ""),
    (10, "ratio", 1e-7, 1, "1 of 1 groups are too small for that ratio; one record of each was taken"),
]


@pytest.mark.parametrize(("n", "mode", "value", "taken", "note"), AMOUNTS)
def test_amounts(n: int, mode: str, value: Any, taken: int, note: str) -> None:
    for operation in ("top", "last", "random"):
        outcome = sample(n, operation=operation, key="metric.a.v", mode=mode, value=value)
        assert len(outcome.records) == len(set(indices(outcome))) == taken
        assert [text.partition("): ")[2] for text in outcome.notes] == ([note] if note else [])
    assert len(sample(n, operation="random", mode=mode, value=value).records) == taken


def test_random_samples_are_seeded_by_place() -> None:
    text = """
    - {type: parallel, rules: [{where: index < 50}, {where: index < 50}, {where: index >= 90}]}
    - {type: sample, operation: random, value: 10}
    """
    records = [record(i) for i in range(100)]
    chosen = indices(run(text, records, 0))
    assert chosen == indices(run(text, records, 0)) != indices(run(text, records, 1))
    first, second = chosen[:10], chosen[10:20]
    assert first != second  # the same records in another group
    assert first == sorted(first)  # in the order of the file
    # what happens to one group changes no other
    assert indices(run(text, records[:60], 0))[:20] == chosen[:20]
    # a seed of the rule's own wins
    own = text.replace("value: 10", "value: 10, seed: 5")
    assert indices(run(own, records, 0)) == indices(run(own, records, 1)) != chosen
    # two rules, one after another, do not repeat each other's draw
    both = run("[{type: sample, operation: random, value: 50}, {type: sample, operation: random, value: 25}]", records)
    assert indices(both) != indices(run("[{type: sample, operation: random, value: 50}]", records))[:25]


def test_random_samples_are_uniform() -> None:
    rule = rules.parse({"type": "sample", "operation": "random", "value": 3})
    records = [record(i) for i in range(8)]
    seen = Counter(i for seed in range(4000) for i in indices(rules.apply(rule, records, seed)))
    assert all(abs(seen[i] - 1500) < 5 * (1500 * 5 / 8) ** 0.5 for i in range(8))


# --- groups ----------------------------------------------------------------------------------------------------------


def test_parallel_of_parallel_is_the_product() -> None:
    text = """
    - {type: parallel, rules: [{where: index % 5 == 0}, {where: index % 5 == 1}, {where: index % 5 == 2}]}
    - {type: parallel, rules: [{where: index < 6}, {where: index >= 6}]}
    """
    outcome = run(text, [record(i) for i in range(12)])
    assert outcome.stages[1].after == (2, 1, 1, 2, 1, 1)
    assert indices(outcome) == [0, 5, 10, 1, 6, 11, 2, 7]
    assert "6 groups are left" in outcome.notes[-1]


def test_sliced_parallel() -> None:
    text = """
    - {type: parallel, rules: [{where: index < 6}, {where: index >= 6}]}
    - type: sliced_parallel
      rules:
      - {type: sample, operation: top, key: index, value: 1}
      - {type: sample, operation: last, key: index, value: 2}
    - type: merge
    """
    records = [record(i) for i in range(12)]
    assert indices(run(text, records)) == [5, 6, 7]
    message = fault(run, text.replace("{where: index < 6}, ", ""), records)
    assert message == (
        "rules[1]: sliced_parallel of 2 needs as many groups as it has rules, which are 2, but there are 1"
    )


def test_merge_any_number_of_times() -> None:
    records = [record(i) for i in range(6)] + [copy.deepcopy(record(2))]
    text = """
    - {type: parallel, rules: [{where: index > 1}, {where: index < 5}, {where: index == 2}]}
    - {type: merge, reset_index: true}
    - type: merge
    - {type: parallel, rules: [{where: index >= 0}, {where: index >= 0}]}
    - type: merge
    - type: merge
    """
    outcome = run(text, records)
    assert indices(outcome) == [2, 3, 4, 5, 0, 1]
    assert all(any(each is one for one in records) for each in outcome.records)  # no `index`, no `level_0` is added
    assert [note.partition("): ")[2] for note in outcome.notes] == [
        "7 exact duplicates were dropped", "6 exact duplicates were dropped"
    ]  # fmt: skip


def test_nearly_equal_records_are_kept() -> None:
    made = [{"index": 1, "arch": {"w": 1}}, {"index": 2, "arch": {"w": 1}}, {"arch": {"w": 1}}, {"arch": {"w": [1]}}]
    assert run("[{type: merge}]", made).records == made


def test_a_merge_inside_a_branch_stays_there() -> None:
    text = """
    - type: parallel
      rules:
      - type: sequential
        rules:
        - {type: parallel, rules: [{where: index < 2}, {where: index < 3}]}
        - type: merge
      - {where: index > 3}
    """
    outcome = run(text, [record(i) for i in range(6)])
    assert outcome.stages[-1].after == (3, 2) and indices(outcome) == [0, 1, 2, 4, 5]


def test_empty_groups_are_said() -> None:
    text = """
    - {type: parallel, rules: [{where: index < 0, name: none}, {where: index < 3, name: few}]}
    - {type: parallel, rules: [{where: index == 1, name: one}, {where: index == 7, name: seven}]}
    - {type: sample, operation: random, value: 2}
    - type: merge
    """
    outcome = run(text, [record(i) for i in range(6)])
    assert indices(outcome) == [1]
    assert outcome.notes == (
        "rules[0] (parallel of 2): 1 of 2 groups became empty: none",
        "rules[1] (parallel of 2): 1 of 4 groups became empty: few / seven",
        "rules[2] (sample random 2): 1 of 4 groups have fewer than 2 records; all of them were taken",
    )
    assert [(stage.label, stage.before, stage.after) for stage in outcome.stages] == [
        ("parallel of 2", (6,), (0, 3)),
        ("parallel of 2", (0, 3), (0, 0, 1, 0)),
        ("sample random 2", (0, 0, 1, 0), (0, 0, 1, 0)),
        ("merge", (0, 0, 1, 0), (1,)),
    ]
    assert run("where: index > 9", [record(1)]).notes == (
        "rule (index > 9): 1 of 1 groups became empty", "no record is left"
    )  # fmt: skip
    assert run("where: index > 9", []).notes == ("there are no records",)


# --- missing names, conventions --------------------------------------------------------------------------------------


def mixed() -> list[Record]:
    return [record(0, mAP=0.4), record(1, mAP=0.3), record(2), record(3, mAP=None), {"index": 4, "arch": {}}]


def test_a_missing_key_is_an_error_unless_skipped() -> None:
    with pytest.raises(UsageError) as e:
        run("where: metric.a.mAP > 0.3", [mixed()[i] for i in (0, 1, 2, 4)])
    assert e.value.message == "rule (metric.a.mAP > 0.3): 2 of 4 records lack 'metric.a.mAP'"
    assert "missing: skip" in e.value.hint
    assert fault(run, "where: metric.a.mAPP > 0.3", [record(0, mAP=0.4)] * 2).endswith(
        "2 of 2 records lack 'metric.a.mAPP' (did you mean metric.a.mAP?)"
    )
    outcome = run("{where: metric.a.mAP > 0.3, missing: skip}", mixed())
    assert indices(outcome) == [0]
    assert "3 of 5 records lack metric.a.mAP" in outcome.notes[0]
    # a name that is not needed may be missing
    assert indices(run("where: index > 3 or metric.a.mAP > 0.3", [mixed()[0], mixed()[4]])) == [0, 4]


@pytest.mark.parametrize("operation", ["top", "last"])
def test_ranking_by_a_missing_key(operation: str) -> None:
    rule = f"type: sample, operation: {operation}, key: metric.a.mAP, mode: ratio, value: 0.5"
    records = [*mixed(), record(5, mAP=float("nan"))]
    assert "4 of 6 records lack 'metric.a.mAP'" in fault(run, f"{{{rule}}}", records)
    outcome = run(f"{{{rule}, missing: skip}}", records)
    assert indices(outcome) == ([0] if operation == "top" else [1])  # half of the two that have it
    assert "4 of 6 records lack metric.a.mAP" in outcome.notes[0]


def test_ranking_by_what_is_no_number() -> None:
    assert fault(
        run, "{type: sample, operation: top, key: metric.a.v}", [record(0, v=1), record(1, v="0.42 0.61")]
    ) == ("rule (sample top 1 by metric.a.v): metric.a.v must be a number, but is '0.42 0.61' in record 2 of 2")


def test_an_error_names_the_record() -> None:
    message = fault(run, "where: metric.a.v > 1", [record(0, v=1), record(1, v="x")])
    assert message.startswith("rule: can't evaluate 'metric.a.v > 1': '>' not supported")
    assert message.endswith("(record 2 of 2)")


def test_conventions_are_not_mixed() -> None:
    macs = [{"index": i, "overhead": {"flops": i, "convention": "macs"}} for i in range(2)]
    gaia = [{"index": i, "overhead": {"flops": i}} for i in range(2, 5)]
    both = macs + gaia
    by_cost = ["where: overhead.flops > 0", "{type: sample, operation: top, key: overhead.flops}"]
    for rule in by_cost:
        assert "there are 3 of gaia and 2 of macs" in fault(run, rule, both)
        assert len(run(rule, macs).records) == 1 and run(rule, gaia).records
    # it counts what reaches the rule
    assert indices(run("[{where: overhead.convention == 'macs'}, {where: overhead.flops > 0}]", both)) == [1]
    assert indices(run("[{where: overhead.convention == 'gaia'}, {where: overhead.flops > 2}]", both)) == [3, 4]
    assert len(run("where: index > 0", both).records) == 4
    # nor in one query, from group to group
    split = "{type: parallel, rules: [{where: overhead.convention == 'macs'}, {where: overhead.convention == 'gaia'}]}"
    assert "counted as gaia, but an earlier one read some counted as macs" in fault(
        run, f"[{split}, {{where: overhead.flops > 0}}]", both
    )
