"""Records on the command line: picking by rules, tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import click

from searchkit import console
from searchkit.nas.cli.options import say
from searchkit.nas.space.space import Space
from searchkit.reading import nodes
from searchkit.records import modelspace, rules
from searchkit.records.arch import Arch


def read(path: str) -> list[dict[str, Any]]:
    """The records of a file, nested, without groups that are null."""
    records = modelspace.load(path)
    flat = [any("." in name for name in record) for record in records]
    nested = [modelspace.fold(modelspace.flatten(r)) if f else r for r, f in zip(records, flat, strict=True)]
    return [{k: v for k, v in r.items() if v is not None or k not in modelspace.GROUPS} for r in nested]


def pick(path: str, rules_path: str | None, seed: int) -> list[dict[str, Any]]:
    """The records of a file, or those that rules choose; what is odd is said."""
    records = read(path)
    if rules_path is None:
        return records
    outcome = choose(rules_path, records, seed)
    for note in outcome.notes:
        say(f"{rules_path}: {note}")
    say(f"{rules_path}: {len(outcome.records)} of {len(records)} records")
    return outcome.records


def choose(rules_path: str, records: list[dict[str, Any]], seed: int) -> rules.Outcome:
    """Apply the rules of a YAML file."""
    document = nodes.load(rules_path, needs="`type: sequential` with `rules:`")
    return rules.apply(rules.read(document), records, seed)


def human(value: float) -> str:
    """A cost in the largest fitting of K, M, G, T."""
    for unit in ("", "K", "M", "G"):
        if abs(value) < 1000:
            return f"{value:.4g}{unit}"
        value /= 1000
    return f"{value:.4g}T"


def short(arch: Arch, space: Space) -> str:
    """The dimensions that vary, in one line."""
    vary = [dim.key for dim in space.dims if dim.count() > 1]
    return Arch(tuple((name, value) for name, value in arch.items if name in vary)).text()


def is_shown(metric: str) -> bool:
    """Whether people want to see a metric at a glance; files have all."""
    return metric.endswith(("bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "bbox_AR", "top1", "top5"))


LEAST = 20  # characters that a table leaves an arch


def print_table(records: Sequence[Mapping[str, Any]], tag: str = "", limit: int = 30) -> None:
    """The records as a table that fits the terminal; best of `tag` first where there is one."""
    from rich.table import Table

    if not records:
        click.echo("no records")
        return
    metrics: dict[str, None] = {}
    for record in records:
        for name, value in record.get("metric", {}).get(tag, {}).items():
            if isinstance(value, int | float) and is_shown(name):
                metrics[name] = None
    order = list(records)
    first = next(iter(metrics), None)
    if first:
        order.sort(key=lambda r: -r.get("metric", {}).get(tag, {}).get(first, -1))
    unit = modelspace.CONVENTIONS[modelspace.convention_of(records[0])]
    table = Table(box=None, pad_edge=False, header_style="bold")
    differing = _differing(records, tag)
    common, rows = _common([r for r in order if "name" not in r]), []
    machines = dict.fromkeys(r["overhead"]["ms_on"] for r in order[:limit] if "ms_on" in r.get("overhead", {}))
    for record in order[:limit]:
        cost = record.get("overhead", {})
        row = [arch_text(record, common), str(record.get("data", {}).get("input_shape", ""))]
        row += [human(cost[k]) if k in cost else "" for k in ("flops", "params")]
        row += [f"{cost['ms']:.2f}" if "ms" in cost else ""] if machines else []
        metric = record.get("metric", {}).get(tag, {})
        row += [f"{metric[m]:.3f}" if m in metric else "" for m in metrics]
        protocol = record.get("protocol", {}).get(tag, {})
        rows.append(
            [*row, *(["  ".join(f"{key} {_brief(protocol.get(key))}" for key in differing)] if differing else [])]
        )
    costs = (unit, "params", *(["ms"] if machines else []))
    names = ("arch", "input", *costs, *metrics, *(["measured with"] if differing else []))
    to = console.rich_console(200)
    others = sum(2 + max(len(name), *(len(row[i]) for row in rows)) for i, name in enumerate(names) if i)
    for name in names:  # where there is too little room, it is the arch that is cut
        most = max(LEAST, to.width - others) if name == "arch" else None
        table.add_column(name, justify="left" if name == "arch" else "right", no_wrap=True, max_width=most)
    for row in rows:
        table.add_row(*row)
    to.print(table)
    if len(order) > limit:
        click.echo(f"… and {len(order) - limit} more")
    for machine in machines:
        click.echo(f"ms: the median time; {machine}")


def _differing(records: Sequence[Mapping[str, Any]], tag: str) -> list[str]:
    """What of the protocols tells scores of one subnet at one input shape from each other."""
    same: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if tag in record.get("protocol", {}):
            at = f"{Arch.of(record['arch']).id} {record.get('data', {}).get('input_shape')}"
            same.setdefault(at, []).append(record["protocol"][tag])
    keys = dict.fromkeys(key for protocols in same.values() for protocol in protocols for key in protocol)
    return [key for key in keys if any(each[0].get(key) != p.get(key) for each in same.values() for p in each)]


def _brief(value: Any) -> str:
    """A value of a protocol; of a digest its beginning, of a key that is not there that it has its default."""
    if value is None:
        return "default"
    return value[:8] if isinstance(value, str) else json.dumps(value)


def print_classes(records: Sequence[Mapping[str, Any]], tag: str, recipe: Any, limit: int = 6) -> None:
    """The metrics of single classes as a table: a row for each class, a column for each of the first records."""
    from rich.table import Table

    first = recipe.task.objective.record_name(recipe.data, recipe.task.per_class)
    shown = [record.get("metric", {}).get(tag, {}) for record in records[:limit]]
    names = dict.fromkeys(name for values_by_class in shown for name in values_by_class if name.startswith(first))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{first}…", no_wrap=True)
    for record in records[:limit]:
        table.add_column(str(record.get("name") or Arch.of(record["arch"]).id), justify="right", no_wrap=True)
    for name in names:
        values = (values_by_class.get(name) for values_by_class in shown)
        table.add_row(name.removeprefix(first), *("" if v is None else "none" if v < 0 else f"{v:.3f}" for v in values))
    click.echo()
    console.rich_console(200).print(table)


def _common(records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The names with values that all archs of records have, where the archs differ."""
    archs = {Arch.of(record["arch"]) for record in records if "arch" in record}
    if len(archs) < 2:
        return {}
    first, *others = archs
    return {name: value for name, value in first.items if all(other.get(name) == value for other in others)}


def arch_text(record: Mapping[str, Any], common: Mapping[str, Any] = MappingProxyType({})) -> str:
    """A record's own name, or its arch in one line but for what it has in common with others."""
    if "name" in record:
        return str(record["name"])
    if "arch" not in record:
        return "?"
    return Arch(tuple(item for item in Arch.of(record["arch"]).items if item[0] not in common)).text()
