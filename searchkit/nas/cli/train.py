"""search-nas train."""

from __future__ import annotations

import os
from typing import Literal

import click

from searchkit import console
from searchkit.nas.cli.options import device_of, recipe_of, say, seed_of, shared
from searchkit.nas.cli.progress import Reporter, nothing
from searchkit.nas.train.memory import memory_advice


@click.command("train", context_settings=console.CONTEXT)
@click.argument("config")
@click.option("--work-dir", required=True, metavar="DIR", help="Checkpoints: latest.pth, best.pth; an old run goes on.")
@click.option(
    "--accept-changes", is_flag=True, help="Let an old run go on although the config trains something else by now."
)
@click.option(
    "--phase",
    type=click.Choice(["all", "pretrain"]),
    default="all",
    show_default=True,
    help="pretrain: only the paraphrasers of train.distill, to connectors.pth.",
)
@shared("set", "seed", "device", "json")
def train_command(
    config: str,
    work_dir: str,
    accept_changes: bool,
    phase: Literal["all", "pretrain"],
    overrides: tuple[str, ...],
    seed: int | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Train the supernet of CONFIG. Running it again goes on where it was; one at its end goes on to more epochs.

    \b
    Examples:
      search-nas train cfg.yaml --work-dir work
      torchrun --nproc-per-node 4 -m searchkit.nas.cli train cfg.yaml --work-dir work
    """
    recipe = recipe_of(config, overrides)
    from searchkit.nas.facts import train_facts
    from searchkit.nas.teach.opening import open_teaching
    from searchkit.nas.train.supernet import Watch, train_supernet

    first = os.environ.get("RANK", "0") == "0"
    for note in recipe.notes if first else ():
        say(f"note: {note}")
    with Reporter("train", work_dir) as reporter, memory_advice("train"):
        watch = Watch(say, reporter.step, reporter.scored) if first else Watch(nothing, nothing, nothing)
        path, steps = train_supernet(
            recipe,
            work_dir,
            seed=seed_of(seed),
            device=device_of(device),
            watch=watch,
            teach=open_teaching,
            accept=accept_changes,
            phase=phase,
        )
    if not first:
        return
    if as_json:
        console.print_json(train_facts(path, steps, reporter.losses, reporter.metrics))
    else:
        click.echo(f"{'connectors' if phase == 'pretrain' else 'checkpoint'}: {path}")
