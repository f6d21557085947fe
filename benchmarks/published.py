"""What published networks cost by our plans, beside what is published of them: one table.

.venv/bin/python benchmarks/published.py [--only TEXT]

The networks are data, benchmarks/published.yaml: a row there is a row here. Needs no GPU and no weights: half a minute.
Ends with 1 where a cost is no longer what the file says.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from searchkit.nas.cost.price import plans_of, price
from searchkit.nas.cost.rules import CONVENTIONS
from searchkit.nas.tasks.read import load

ROWS = Path(__file__).with_suffix(".yaml")
PARAMS = "params"
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


class Line(NamedTuple):
    """One meter of one network."""

    name: str
    meter: str
    published: str  # as it is written; empty: nothing is
    ours: int
    expected: int  # what ours was when the row was written
    note: str

    @property
    def difference(self) -> str:
        """`0` where ours, rounded as the published number is, is that number; else how much more or less it is."""
        if not self.published:
            return ""
        digits, unit = re.fullmatch(r"([\d.]+)([KMG]?)", self.published).groups()  # type: ignore[union-attr]
        after_point = len(digits.partition(".")[2])
        if round(self.ours / UNITS[unit], after_point) == float(digits):
            return "0"
        return f"{100 * (self.ours / (float(digits) * UNITS[unit]) - 1):+.1f} %"


def rows() -> list[dict[str, Any]]:
    """The networks of the file."""
    found: list[dict[str, Any]] = yaml.safe_load(ROWS.read_text(encoding="utf-8"))
    return found


def lines_of(row: dict[str, Any]) -> Iterator[Line]:
    """A line for each meter that is published or that the file has."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(json.dumps(row["config"]), encoding="utf-8")  # JSON is YAML
        recipe = load(str(path))
    arch = recipe.space.maximum()
    plans = plans_of(recipe.model, arch)
    costs = {meter: price(plans, arch, recipe.scales[0], meter) for meter in CONVENTIONS}
    ours = {meter: cost.flops for meter, cost in costs.items()} | {PARAMS: costs["macs"].params}
    for meter in row["ours"]:
        published = str(row["published"].get(meter, ""))
        yield Line(row["name"], meter, published, ours[meter], row["ours"][meter], row.get("note", ""))


def table(lines: list[Line]) -> str:
    """The lines with aligned columns."""
    cells = [("network", "convention", "published", "ours", "difference", "")]
    cells += [(x.name, x.meter, x.published or "-", f"{x.ours:,}", x.difference, x.note) for x in lines]
    widths = [max(len(row[i]) for row in cells) for i in range(6)]
    right = (False, False, True, True, True, False)
    texts = [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="networks whose name has this")
    args = parser.parse_args()
    lines = [line for row in rows() if args.only.lower() in row["name"].lower() for line in lines_of(row)]
    print(table(lines))
    changed = [f"{x.name}: {x.meter} is {x.ours:,}, but was {x.expected:,}" for x in lines if x.ours != x.expected]
    sys.exit("\n".join(changed) or 0)


if __name__ == "__main__":
    main()
