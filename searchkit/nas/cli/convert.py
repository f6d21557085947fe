"""search-nas convert."""

from __future__ import annotations

import os
from typing import Any

import click
import yaml

from searchkit import console
from searchkit.errors import UsageError
from searchkit.nas.cli.options import say, shared
from searchkit.records import modelspace
from searchkit.records.arch import Arch

NECK_WIDTH = "neck.width"  # of the layer behind a classifier's mean, where a space has it
LAST_CONV = "backbone.head.width"


@click.command("convert", context_settings=console.CONTEXT)
@click.argument("file")
@click.option("--name", default="", help="Of the network, where FILE has several, or with a published cost.")
@click.option("--for", "config", metavar="CONFIG", help="Print a record of its arch for the space of CONFIG.")
@shared("set", "json")
def convert_command(file: str, name: str, config: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Read an arch or a space of another project, and print a config of it.

    FILE may be a genotype of aw_nas, once-for-all's net.config or {ks, e, d}, AttentiveNAS's lists, a subnet file of
    mmrazor, United-Perception's net, bignas or subnet_settings, or a sample.npy of DMCP, of which nothing is run. What
    could not be taken stands in comments. A classifier is priced; a cost other than the published one of that name is
    said.

    \b
    Examples:
      search-nas convert OFA_SUBNET_NOTE8_LAT22.yaml > lat22.yaml
      search-nas convert eval_attentive_nas_models.yml --name a0 > a0.yaml
      search-nas convert genotype.txt --for cfg.yaml > picked.jsonl
    """
    from searchkit.nas.convert.read import convert

    net = convert(file, name)
    if config is not None:
        _print_record(file, net, config, overrides)
        return
    if overrides:
        raise UsageError("--set needs --for: it replaces values of that config")
    called = f"{net.project} {os.path.splitext(os.path.basename(file))[0]} {name}"
    costs = _costs(net, called) if net.arch is not None else []
    if as_json:
        console.print_json({"project": net.project, "config": _sections(net), "notes": [*net.notes, *costs]})
        return
    click.echo(f"# {os.path.basename(file)}: a network of {net.project}")
    for line in (*costs, *(f"note: {note}" for note in net.notes)):
        click.echo(f"# {line}")
    click.echo(yaml.safe_dump(_sections(net), sort_keys=False, default_flow_style=None, width=110), nl=False)


def _sections(net: Any) -> dict[str, Any]:
    """The config as plain data."""
    from searchkit.nas.space.shapes import plain_shape

    space = dict(net.space)
    if net.shapes:
        shapes = [plain_shape(shape) for shape in net.shapes]
        space["data.input_shape"] = (
            shapes[0] if len(shapes) == 1 and isinstance(shapes[0], int) else {"choices": shapes}
        )
    sections = {"task": net.task, "model": dict(net.model), "space": space}
    if net.train:
        sections["train"] = dict(net.train)
    return {key: value for key, value in sections.items() if value}


def _costs(net: Any, name: str) -> list[str]:
    """What a network costs, and how that compares with what is published of that name."""
    from searchkit.nas.convert.cost import cost
    from searchkit.nas.convert.published import published

    if net.classes is None:
        return []
    shape = net.shapes[0] if net.shapes else 224
    macs = cost(net, shape, "macs")
    lines = [f"{macs.flops:,} MACs and {macs.params:,} parameters at {shape}, with {net.classes:,} classes"]
    known = published(name)
    if known is not None:
        lines.append(known.compared(cost(net, shape, known.convention).flops))
    return lines


def _print_record(file: str, net: Any, config: str, overrides: tuple[str, ...]) -> None:
    """The arch as a record of the space of a config."""
    from searchkit.nas.convert.place import placed, settled
    from searchkit.nas.cost.price import plans_of
    from searchkit.nas.space.shapes import plain_shape
    from searchkit.nas.tasks import read as configs

    if net.arch is None:
        raise UsageError(f"{file} has a space, not one arch", "Leave --for out: it prints a config of the space")
    recipe = configs.load(config, overrides)
    dims = {dim.key for dim in recipe.space.dims}
    arch, width = net.arch, net.model.get("neck_options", {}).get("width")
    notes = list(net.notes)
    if width is not None and NECK_WIDTH in dims:
        arch = Arch.of({**dict(arch.items), NECK_WIDTH: width})
    if net.task == "cls" and recipe.task.name != "cls" and LAST_CONV in arch and LAST_CONV not in dims:
        notes.append(f"{config} has no {LAST_CONV}: {arch[LAST_CONV]}, that of a classifier, is left out")
        arch = Arch(tuple(item for item in arch.items if item[0] != LAST_CONV))
    if {*arch.names} - dims:
        arch = settled(arch, recipe.space, plans_of(recipe.model, recipe.space.maximum()))
    record: dict[str, Any] = {"arch": placed(arch, recipe.space, file, config).nested()}
    if net.shapes:
        record["data"] = {"input_shape": plain_shape(net.shapes[0])}
    click.echo(modelspace.dumps(record))
    for note in notes:
        say(f"note: {note}")
