"""Writes what `--help` prints into docs/cli.md: `python docs/make_cli.py`; tests/test_docs.py says when it is due."""

from __future__ import annotations

from pathlib import Path

import click
from made import filled

from searchkit.nas.cli import main as nas
from searchkit.suite.cli import ctl, init, run

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 78  # what click takes where it prints to no terminal


def help_of(command: click.Command, name: str, parent: click.Context | None = None) -> tuple[str, click.Context]:
    """What `--help` prints, and the context for commands below this one."""
    settings = {**command.context_settings, "terminal_width": WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    return command.get_help(context), context


def parts() -> dict[str, str]:
    """What `--help` prints, by command."""
    made = {"search-init": help_of(init.main_command, "search-init")[0]}
    made["search-run"] = help_of(run.main_command, "search-run")[0]
    made["search-ctl"], ctl_context = help_of(ctl.group, "search-ctl")
    for name, command in ctl.group.commands.items():
        made[f"search-ctl {name}"] = help_of(command, name, ctl_context)[0]
    made["search-nas"], nas_context = help_of(nas.main_command, "search-nas")
    for name in nas.VERBS:
        command = nas.main_command.get_command(nas_context, name)
        made[f"search-nas {name}"], context = help_of(command, name, nas_context)
        if isinstance(command, click.Group):
            for below in command.list_commands(context):
                words = f"search-nas {name} {below}"
                made[words] = help_of(command.get_command(context, below), below, context)[0]
    return {words: f"```console\n$ {words} --help\n{text}\n```\n" for words, text in made.items()}


def render() -> str:
    """The whole page."""
    return filled(PAGE.read_text(encoding="utf-8"), parts())


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE}")
