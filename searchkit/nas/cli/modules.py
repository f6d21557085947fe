"""search-nas modules."""

from __future__ import annotations

import fnmatch

import click

from searchkit import console
from searchkit.errors import UsageError
from searchkit.nas.cli.options import count_threads, input_shape_of, recipe_of, shared


@click.command("modules", context_settings=console.CONTEXT)
@click.argument("config")
@click.option("--arch", default="MAX", show_default=True, metavar="NAME", help="A named arch of the space.")
@click.option("--input", "shape", metavar="S|H,W", help="Input shape.  [default: the first of the space]")
@click.option("--match", metavar="PATTERN", help="Only names like this: 'backbone.fpn.*'.")
@shared("set", "json")
def modules_command(
    config: str, arch: str, shape: str | None, match: str | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """List the modules of a network: names, shapes of what they give out for one image, and what reads that.

    Features of any of them can be learnt from a teacher (train.distill.mimic). A module that is called several times,
    such as a head that all levels share, gives out one shape for each call.

    \b
    Examples:
      search-nas modules cfg.yaml
      search-nas modules cfg.yaml --arch MIN --match 'backbone.fpn.*'
    """
    recipe = recipe_of(config, overrides)
    from searchkit.nas.models.elastic import set_arch
    from searchkit.nas.train import modules
    from searchkit.nas.train import net as nets
    from searchkit.nas.train.distill import shapes_text
    from searchkit.nas.train.splits import class_names

    chosen, input_shape = recipe.space.named(arch), input_shape_of(shape, recipe.scales) if shape else recipe.scales[0]
    count_threads()
    named = recipe.data.classes or not recipe.classes_given
    classes = class_names(recipe) if named else [*map(str, range(recipe.model.num_classes))]
    net = nets.build(recipe, classes, 0)
    set_arch(net, chosen)
    rows = modules.list_modules(net, input_shape, recipe.data, recipe.task)
    if match is not None:
        every, rows = rows, tuple(row for row in rows if fnmatch.fnmatchcase(row.name, match))
        if not rows:
            raise UsageError(f"--match {match}: none of {len(every)} names is like it")
    if as_json:
        console.print_json(modules.as_json(rows))
        return
    table = [("module", "kind", "gives out", "read by")]
    table += [(row.name, row.kind, shapes_text(row.shapes), ", ".join(row.follows)) for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(2)]
    wide = max(len(line[2]) for line in table if len(line[2]) <= 40)
    for name, kind, shapes, follows in table:
        click.echo(f"{name:{widths[0]}}  {kind:{widths[1]}}  {shapes:{wide}}  {follows}".rstrip())
