"""search-nas init."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from searchkit import console, fsio
from searchkit.errors import ConflictError, UsageError
from searchkit.nas.cli.options import check_device, say, seed_of, shared
from searchkit.nas.cli.read_options import read_set, reads

FAMILIES = ("ssd", "retinanet", "faster_rcnn")
MINUTES = {"s": 1 / 60, "m": 1.0, "min": 1.0, "h": 60.0}
LARGE_MB = 100  # of data within the project, from which jobs rather link it than copy it


@dataclass(frozen=True, kw_only=True)
class Init:
    data: str
    budgets: tuple[str, ...]
    devices: tuple[str, ...]
    time_text: str
    out: str
    family: str | None
    pretrained: str | None
    measure: bool
    overwrite: bool
    format: str | None
    images: str | None
    one_based: bool
    seed: int | None
    as_json: bool

    @property
    def command(self) -> str:
        """The command line that makes the same again."""
        words: list[Any] = ["search-nas", "init", self.data]
        for budget in self.budgets:
            words += ["--budget", budget]
        for device in self.devices:
            words += ["--device", device]
        words += ["--time", self.time_text]
        for name in ("family", "pretrained", "format", "images", "seed"):
            words += [f"--{name}", value] if (value := getattr(self, name)) is not None else []
        words += ["--no-measure"] * (not self.measure) + ["--one-based"] * self.one_based
        return shlex.join(map(str, words))


@click.command("init", context_settings=console.CONTEXT)
@click.argument("data", metavar="DIR|FILE")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    required=True,
    metavar="COST",
    help="What a detector may cost: '2 GMACs', '300M', '20 ms', on one of two devices 'cpu:20 ms'. Several times for "
    "several.",
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    default=("cpu",),
    metavar="NAME",
    help="That it is trained and to run on: cpu, cuda, cuda:0 … A second one is to run on, too.  [default: cpu]",
)
@click.option("--time", "time_text", default="1h", show_default=True, metavar="TIME", help="For all of it: 45m, 2h.")
@click.option("--out", default=".", show_default=True, metavar="DIR", help="Where the files go.")
@click.option("--family", type=click.Choice(FAMILIES), help="Of the detector.  [default: by budget and device]")
@click.option(
    "--pretrained",
    metavar="NAME|FILE",
    help="A detector of torchvision, or a file of its weights, that is fine-tuned beside; nothing is downloaded.",
)
@click.option("--measure/--no-measure", default=True, help="Train some steps to see how fast they are, or estimate it.")
@click.option("--overwrite", is_flag=True, help="Replace files of these names, and data that init has written as COCO.")
@reads
@shared("seed", "json")
def init_command(**given: Any) -> None:
    """Make the config of a search for a detector: for the images in DIR, within a budget, in a time.

    Writes net.yaml (the network, its space, its training), cfg.yaml (the stages, for search-run) and finalists.yaml,
    with a comment why each number is as it is. Data that is not COCO's is written as COCO beside them. Training some
    steps takes about a minute.

    \b
    Examples:
      search-nas init digits --budget '50 MMACs' --time 10m
      search-nas init photos --budget '2 GMACs' --device cuda:0 --time 2h --family faster_rcnn
      search-nas init photos --device cuda:0 --device cpu --budget 'cuda:0:5 ms' --budget 'cpu:40 ms' --time 4h
      search-init && search-run --task det cfg.yaml
    """
    from searchkit.nas.cli.data_check import split_lines
    from searchkit.nas.data.sets.check import check
    from searchkit.nas.setup import budget as budgets
    from searchkit.nas.setup import data as files
    from searchkit.nas.setup import make, stages, write

    asked = Init(**given)
    limits = budgets.on_devices([*map(budgets.read_budget, asked.budgets)], asked.devices)
    total_s = seconds_of(asked.time_text)
    _check_devices(asked.devices, asked.measure)
    names = (write.NET, write.CONFIG, write.RULES, *([write.PRETRAINED] if asked.pretrained else []))
    there = [name for name in names if os.path.exists(os.path.join(asked.out, name))]
    if there and not asked.overwrite:
        hint = "Take another --out, or replace them (--overwrite)"
        raise ConflictError(f"{asked.out} has {', '.join(there)} already", hint)
    name = files.name_of(asked.data)
    data = read_set(asked.data, asked.format, asked.images, asked.one_based)
    checked = check(data)
    for line in (*split_lines(checked.facts), "", *(f"note: {note}" for note in checked.notes)):
        say(line)
    files.require(data, checked.wrong, asked.data)
    written_coco = os.path.join(asked.out, f"{name}_coco")
    with _taken_back(written_coco):
        coco = files.as_coco(data, written_coco, asked.overwrite)
        for line in coco.notes:
            say(line)
        facts = files.facts_of(coco, name)
        where = Place.of(coco.folder, asked.out)
        net, config, rules, other = map(where.file, (write.NET, write.CONFIG, write.RULES, write.PRETRAINED))
        paths = write.Paths(where.data, net, config, rules, other, where.report())
        task = make.Asked(
            limits,
            asked.devices,
            total_s,
            asked.family,
            seed_of(asked.seed),
            asked.measure,
            asked.command,
            asked.pretrained,
        )
        made = make.decide(task, facts, paths, say)
        texts = [write.net_text(made), stages.config_text(made), write.rules_text(made)]
        texts += [write.pretrained_text(made)] if made.pretrained else []
        with fsio.storage():
            os.makedirs(asked.out, exist_ok=True)
            for file, text in zip(names, texts, strict=True):
                fsio.atomic_write(os.path.join(asked.out, file), text)
    written = [os.path.join(asked.out, file) for file in names]
    if asked.as_json:
        console.print_json({"files": written, "report": paths.report, "decisions": dict(made.why)})
        return
    click.echo(f"written: {', '.join(written)}")
    click.echo(f"  {where.next_step(facts.mb > LARGE_MB)}")
    click.echo(f"  the report will be {paths.report}")


def _check_devices(devices: tuple[str, ...], measure: bool) -> None:
    """Raises UsageError for devices that can't be; one that is not here may be where nothing is measured."""
    for device in devices:
        if device != "cpu" and not re.fullmatch(r"cuda(:\d+)?", device):
            raise UsageError(f"--device {device}: there is none of that name", "Use cpu, cuda, or cuda:N")
    if sum(device != "cpu" for device in devices) > 1 or len({*devices}) < len(devices):
        hint = "A job gets whichever GPU is free: make a config for each kind of GPU, on a machine that has it"
        raise UsageError(f"--device {' --device '.join(devices)}: it may be cpu, one GPU, or both", hint)
    for device in devices:
        try:
            check_device(device)
        except UsageError as e:
            if measure:
                raise UsageError(
                    e.message, f"{e.hint}; or make the config here for another machine: --no-measure"
                ) from e
            say(f"note: {e.message}: the config is for a machine that has one (here, --gpus 0 lets a dry run show it)")


@contextlib.contextmanager
def _taken_back(folder: str) -> Iterator[None]:
    """Where what follows fails, a folder that it made is removed, and that around it if nothing else is in it."""
    there = os.path.lexists(folder)
    try:
        yield
    except BaseException:
        if not there and os.path.lexists(folder):
            shutil.rmtree(folder)
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(os.path.abspath(folder)))
        raise


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

    def next_step(self, large: bool) -> str:
        """What to type. large: the data is rather linked than copied."""
        steps = [] if os.getcwd() == self.project else [f"cd {shlex.quote(os.path.relpath(self.project))}"]
        steps += [] if self.initialised else ["search-init"]
        link = " --symlinks" if large and not os.path.isabs(self.data) else ""
        return " && ".join([*steps, f"search-run --task det {shlex.quote(self.file('cfg.yaml'))}{link}"])


def seconds_of(text: str) -> float:
    """45m, 2h, 90s, 1h30m. Raises UsageError for anything else."""
    part = r"(\d+(?:\.\d+)?)\s*(min|[hms])\s*"
    if not re.fullmatch(f"({part})+", text.strip()):
        raise UsageError(f"--time: {text!r} is no time", "Such as --time 45m, or 2h")
    seconds = 60 * sum(float(n) * MINUTES[unit] for n, unit in re.findall(part, text))
    if not seconds:
        raise UsageError(f"--time: {text!r} is no time", "Such as --time 45m, or 2h")
    return seconds
