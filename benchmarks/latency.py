"""How far the sums of tables of times are from whole networks; and what a search by ms finds beside one by MACs.

.venv/bin/python benchmarks/latency.py [--family faster_rcnn] [--runtime onnxruntime] [--nets 50] [--threads 1]
    [--evaluations 40] [--out FOLDER]

For three families of detectors and both runtimes: the table of the small recipe's space, its error (median, of the
networks that judge it) and the rank correlation. With `--supernet FAMILY=CHECKPOINT` also two searches, NSGA-II on AP
and ms, and on AP and MACs; what each finds is priced in ms, and the best APs within the same ms stand side by side.
Nothing else may run on the machine: without it, times are off by what others do to its caches.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from searchkit.nas.cost.latency import read_table
from searchkit.nas.cost.price import plans_of, price
from searchkit.nas.tasks.read import load
from searchkit.nas.train.recipe import Recipe, sized
from searchkit.nas.train.splits import class_names
from searchkit.records import modelspace
from searchkit.records.arch import Arch

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = {
    "faster_rcnn": "faster_rcnn_small",
    "retinanet": "retinanet_bignas_small",
    "ssd": "ssd_ofa_small",
}
RUNTIMES = ("onnxruntime", "eager")
CLASSES = "model.num_classes=10"  # of digits, where the data is not there to be asked
LIMITS = 4  # budgets in ms at which the two searches are compared


def nas(*words: str | Path) -> str:
    """What search-nas prints."""
    argv = [sys.executable, "-m", "searchkit.nas.cli", *map(str, words)]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def measured(config: Path, runtime: str, args: argparse.Namespace, out: Path, more: Sequence[str]) -> dict[str, Any]:
    """A table, as its file has it."""
    how = ("--device", args.device, "--runtime", runtime, "--threads", str(args.threads), "--nets", str(args.nets))
    nas("latency", config, *how, "--pause", str(args.pause), "--out", out, *more)
    table: dict[str, Any] = json.loads(out.read_text())
    return table


def line(family: str, runtime: str, table: Mapping[str, Any]) -> str:
    """A row of the report."""
    check = table["check"]
    parts = [
        f"{its['error']:6.1%} {its['worst']:6.1%} {its['spearman'] or 0:6.3f} {its['tau'] or 0:6.3f}"
        for its in (check["plain"], check["corrected"])
    ]
    verdict = f"{check['used']}{'' if check['holds'] else ', misses'}"
    busy = "" if table["machine"]["on_wall"] < 1.1 else f"  machine busy ({table['machine']['on_wall']:.1f})"
    return f"{family:12} {runtime:12} {len(table['rows']):5}   {parts[0]}   {parts[1]}   {verdict}{busy}"


def searched(
    recipe: Recipe,
    config: Path,
    checkpoint: str,
    cost: str,
    folder: Path,
    args: argparse.Namespace,
    sets: Sequence[str],
) -> list[dict[str, Any]]:
    """The records of a search for AP and that cost."""
    work = folder / f"by-{cost}"
    how = (
        "--algorithm",
        "nsga2",
        "--population",
        "10",
        "--evaluations",
        str(args.evaluations),
        "--device",
        args.device,
    )
    objectives = ("--objective", recipe.metric, "--objective", cost, "--input", "all")
    nas("search", config, "--checkpoint", checkpoint, "--work-dir", work, *how, *objectives, *sets)
    return modelspace.load(str(work / "results.jsonl"))


def compared(recipe: Recipe, table_path: Path, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The best AP of each search within the same ms, at some budgets between what both reach."""
    plans, table = plans_of(sized(recipe, class_names(recipe)), recipe.space.maximum()), read_table(str(table_path))
    points: dict[str, list[tuple[float, float]]] = {}
    for cost, records in found.items():
        for record in records:
            ms = price(plans, Arch.of(record["arch"]), modelspace.edge(record["data"]["input_shape"]), table).flops
            metrics = record["metric"]["direct"]
            ap = next(value for name, value in metrics.items() if name.endswith(f"_{recipe.metric}"))
            points.setdefault(cost, []).append((ms, ap))
    low = max(min(ms for ms, _ in its) for its in points.values())
    high = max(ms for its in points.values() for ms, _ in its)
    lines = []
    for i in range(1, LIMITS + 1):
        limit = low + (high - low) * i / LIMITS
        best = {cost: max(ap for ms, ap in its if ms <= limit) for cost, its in points.items()}
        lines.append(f"  up to {limit:7.2f} ms: " + ", ".join(f"by {cost} {ap:.4f}" for cost, ap in best.items()))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, action="append", help="one or several; default: all")
    parser.add_argument("--runtime", choices=RUNTIMES, action="append", help="one or both; default: both")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--nets", type=int, default=50, help="whole networks of each table")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two measurements")
    parser.add_argument("--evaluations", type=int, default=40, help="subnets of each search")
    parser.add_argument("--supernet", action="append", default=[], metavar="FAMILY=CHECKPOINT", help="needs $DATA")
    parser.add_argument("--out", type=Path, default=ROOT / ".bench" / "latency", help="tables and searches; they go on")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    supernets = dict(text.split("=", 1) for text in args.supernet)
    print(f"{'':31} {'sums of rows':>29}   {'of corrected rows':>29}")
    heads = "error  worst   rank    tau"
    print(f"{'family':12} {'runtime':12} rows    {heads:>28}   {heads:>28}   used")
    for family in args.family or FAMILIES:
        config = ROOT / "templates" / "det" / f"{FAMILIES[family]}.yaml"
        checkpoint = supernets.get(family)
        for runtime in args.runtime or RUNTIMES:
            out = args.out / f"{family}-{runtime}.json"
            more = [] if checkpoint else ["--set", CLASSES]
            if checkpoint:
                more += ["--checkpoint", checkpoint]
            print(line(family, runtime, measured(config, runtime, args, out, more)), flush=True)
            if checkpoint:
                sets = ["--set", f"meters={{ms: {out}}}"]
                recipe = load(str(config))
                folder = args.out / f"{family}-{runtime}"
                found = {c: searched(recipe, config, checkpoint, c, folder, args, sets) for c in ("ms", "macs")}
                print("\n".join(compared(recipe, out, found)), flush=True)


if __name__ == "__main__":
    main()
