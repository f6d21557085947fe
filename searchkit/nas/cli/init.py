"""search-nas init."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from typing import Any

import click

from searchkit import console, fsio
from searchkit.errors import ConflictError, UsageError
from searchkit.nas.cli.options import check_device, say, seed_of, shared

FAMILIES = ("ssd", "retinanet", "faster_rcnn")
MINUTES = {"s": 1 / 60, "m": 1.0, "min": 1.0, "h": 60.0}


@click.command("init", context_settings=console.CONTEXT)
@click.argument("data")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    required=True,
    metavar="COST",
    help="What a detector may cost: '2 GMACs', '300M', '20 ms'. Several times for several.",
)
@click.option(
    "--device", default="cpu", show_default=True, help="That it is trained and to run on: cpu, cuda, cuda:0 …"
)
@click.option("--time", "time_text", default="1h", show_default=True, metavar="TIME", help="For all of it: 45m, 2h.")
@click.option("--out", default=".", show_default=True, metavar="DIR", help="Where the files go.")
@click.option("--family", type=click.Choice(FAMILIES), help="Of the detector.  [default: by budget and device]")
@click.option("--measure/--no-measure", default=True, help="Train some steps to see how fast they are, or estimate it.")
@click.option("--overwrite", is_flag=True, help="Replace files of these names.")
@shared("seed", "json")
def init_command(
    data: str,
    budgets: tuple[str, ...],
    device: str,
    time_text: str,
    out: str,
    family: str | None,
    measure: bool,
    overwrite: bool,
    seed: int | None,
    as_json: bool,
) -> None:
    """Make the config of a search for a detector: for the images in DATA, within a budget, in a time.

    Writes net.yaml (the network, its space, its training), cfg.yaml (the stages, for search-run) and finalists.yaml,
    with a comment why each number is as it is. Training some steps takes about a minute.

    \b
    Examples:
      search-nas init digits --budget '50 MMACs' --time 10m
      search-nas init photos --budget '2 GMACs' --device cuda:0 --time 2h --family faster_rcnn
      search-init && search-run --task det cfg.yaml
    """
    from searchkit.nas.setup import budget as costs
    from searchkit.nas.setup import data as files
    from searchkit.nas.setup import make, write

    asked_budgets = tuple(dict.fromkeys(map(costs.read_budget, budgets)))
    total_s = seconds_of(time_text)
    if device != "cpu":
        if not re.fullmatch(r"cuda(:\d+)?", device):
            raise UsageError(f"--device {device}: there is none of that name", "Use cpu, cuda, or cuda:N")
        check_device(device)
    names = (write.NET, write.CONFIG, write.RULES)
    there = [name for name in names if os.path.exists(os.path.join(out, name))]
    if there and not overwrite:
        raise ConflictError(
            f"{out} has {', '.join(there)} already", "Take another --out, or replace them (--overwrite)"
        )
    facts, sets = files.open_facts(data, files.find(data))
    for each in sets.values():
        for line in each.report.lines:
            say(line)
    files.check_val(facts)
    where = Place.of(data, out)
    asked = make.Asked(
        data,
        out,
        asked_budgets,
        device,
        total_s,
        family,
        seed_of(seed),
        measure,
        _command(data, budgets, device, time_text, family, measure, seed),
    )
    net, config, rules = map(where.file, names)
    paths = write.Paths(where.data, net, config, rules, where.report())
    made = make.decide(asked, facts, paths, say)
    texts = (write.net_text(made), write.config_text(made), write.rules_text(made))
    with fsio.storage():
        os.makedirs(out, exist_ok=True)
        for name, text in zip(names, texts, strict=True):
            fsio.atomic_write(os.path.join(out, name), text)
    written = [os.path.join(out, name) for name in names]
    if as_json:
        console.print_json({"files": written, "report": paths.report, "decisions": dict(made.why)})
        return
    click.echo(f"written: {', '.join(written)}")
    click.echo(where.next_step())
    click.echo(f"  the report will be {paths.report}")


@dataclass(frozen=True)
class Place:
    """Where files lie, seen from the project, whose copies jobs run in."""

    project: str
    out: str
    data: str  # as jobs see it
    initialised: bool

    @staticmethod
    def of(data: str, out: str) -> Place:
        """The project is the folder of the nearest .search-run, else `out`."""
        whole = os.path.abspath(out)
        above = whole
        while not os.path.isdir(os.path.join(above, ".search-run")) and os.path.dirname(above) != above:
            above = os.path.dirname(above)
        known = os.path.isdir(os.path.join(above, ".search-run"))
        project = above if known else whole
        absolute = os.path.abspath(data)
        inside = os.path.commonpath([project, absolute]) == project
        return Place(project, whole, os.path.relpath(absolute, project) if inside else absolute, known)

    def file(self, name: str) -> str:
        """A file in `out`, as jobs see it."""
        return os.path.relpath(os.path.join(self.out, name), self.project)

    def report(self) -> str:
        """Where the last stage will write the report, seen from the project."""
        return f".search-run/tasks/det.report/jobs/all/0/{os.path.basename(self.project)}/report.html"

    def next_step(self) -> str:
        """What to type."""
        steps = [] if os.getcwd() == self.project else [f"cd {shlex.quote(os.path.relpath(self.project))}"]
        steps += [] if self.initialised else ["search-init"]
        return " && ".join([*steps, f"search-run --task det {shlex.quote(self.file('cfg.yaml'))}"])


def seconds_of(text: str) -> float:
    """45m, 2h, 90s, 1h30m. Raises UsageError for anything else."""
    parts = re.findall(r"([0-9.]+)\s*(min|[hms])", text)
    if not parts or re.sub(r"([0-9.]+)\s*(min|[hms])\s*", "", text).strip():
        raise UsageError(f"--time: {text!r} is no time", "Such as --time 45m, or 2h")
    try:
        seconds = 60 * sum(float(n) * MINUTES[unit] for n, unit in parts)
    except ValueError as e:
        raise UsageError(f"--time: {text!r} is no time", "Such as --time 45m, or 2h") from e
    if seconds <= 0:
        raise UsageError(f"--time: {text!r} is no time", "Such as --time 45m, or 2h")
    return seconds


def _command(
    data: str,
    budgets: tuple[str, ...],
    device: str,
    time_text: str,
    family: str | None,
    measure: bool,
    seed: int | None,
) -> str:
    """The command line that makes the same again."""
    words: list[Any] = ["search-nas", "init", data]
    for budget in budgets:
        words += ["--budget", budget]
    words += ["--device", device, "--time", time_text]
    words += ["--family", family] if family else []
    words += [] if measure else ["--no-measure"]
    words += ["--seed", seed] if seed is not None else []
    return shlex.join(map(str, words))
