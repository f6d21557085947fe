"""search-nas: supernets and their subnets, from space to extracted model."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

import click

from searchkit import console
from searchkit.cpus import let_waiting_threads_sleep

# verb -> (module, one line). Modules are loaded when their verb is used: `search-nas --help` needs no torch.
VERBS: Mapping[str, tuple[str, str]] = {
    "init": ("init", "Make a config for your data, your budget and your device."),
    "space": ("space", "How large the space is: archs, points, cost, a histogram of MACs."),
    "modules": ("modules", "List a network's modules: names, shapes, what follows."),
    "flops": ("flops", "Price the whole space, given records, or a sample, in closed form."),
    "latency": ("latency", "Measure how long the rows of a space take on a device: a table that prices archs in ms."),
    "select": ("select", "Pick records of a model space by rules."),
    "train": ("train", "Train a supernet."),
    "test": ("test", "Score subnets with the supernet's weights."),
    "finetune": ("test", "Tune subnets from the supernet's weights, and score them."),
    "search": ("search", "Search for the best subnets, with warm workers."),
    "prune": ("prune", "Make a trained network smaller, by what each of its parts is worth to the score."),
    "trust": ("trust", "How well the supernet's scores rank subnets that are trained on their own."),
    "extract": ("extract", "Make a subnet an ordinary model, with a proof that it is the same."),
    "quantize": ("quantize", "Make a subnet, or an extracted model, a file of 8 bits, and score it."),
    "report": ("report", "Make a page of candidates: which is best, and whether the search paid."),
    "predict": ("predict", "Draw what a model finds on images: boxes, or classes."),
    "convert": ("convert", "Read an arch or a space of another project, and print a config of it."),
    "schema": ("schema", "Print the JSON Schema of configs, for editors."),
    "data": ("data", "Look at a data set, convert it, divide it; or make toy data."),
}
HIDDEN: Mapping[str, tuple[str, str]] = {"score": ("score", "The worker that search starts.")}


class Verbs(click.Group):
    """Loads a verb's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        module, _ = VERBS.get(name) or HIDDEN.get(name) or (None, "")
        if module is None:
            return None
        command: click.Command = getattr(importlib.import_module(f"searchkit.nas.cli.{module}"), f"{name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from searchkit.errors import did_you_mean

        if args and args[0] not in VERBS and args[0] not in HIDDEN and not args[0].startswith("-"):
            raise click.UsageError(f"No verb {args[0]!r}{did_you_mean(args[0], tuple(VERBS))}.", ctx)
        return super().resolve_command(ctx, args)


@click.command(cls=Verbs, context_settings=console.CONTEXT)
def main_command() -> None:
    """Train a supernet once, price all its subnets, pick by rules, test, fine-tune and extract them.

    \b
    The usual order:
      search-nas space cfg.yaml
      search-nas flops cfg.yaml --out flops.jsonl
      search-nas train cfg.yaml --work-dir work
      search-nas select flops.jsonl --rules rules.yaml --out picked.jsonl
      search-nas test cfg.yaml --checkpoint work/latest.pth --archs picked.jsonl --out tested.jsonl
      search-nas finetune cfg.yaml --checkpoint work/latest.pth --archs tested.jsonl --rules best.yaml --out tuned.jsonl
      search-nas extract cfg.yaml --checkpoint work/latest.pth --arch MAX --out model
    """


def main() -> None:
    """The console script."""
    let_waiting_threads_sleep(os.environ)  # before anything imports torch
    console.run(main_command, "search-nas")
