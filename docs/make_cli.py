"""Writes docs/cli.md from the commands: `python docs/make_cli.py`; tests/test_docs.py says when it is due."""

from __future__ import annotations

from pathlib import Path

import click

from searchkit.nas.cli import main as nas
from searchkit.suite.cli import ctl, init, run

WIDTH = 78  # what click takes where it prints to no terminal

HEAD = """\
# Commands

This page is made from the commands themselves by `docs/make_cli.py`. It holds what `--help` prints.

`search-init` makes a workspace, `search-run` runs a task, `search-ctl` looks at tasks and steers them.
`search-nas` trains and searches supernets. `search-run` and `search-ctl` use the nearest `.search-run` folder, from the
current folder upwards.

- [search-init](#search-init)
- [search-run](#search-run)
- [search-ctl](#search-ctl)
- [search-nas](#search-nas)
- [How to name jobs](#how-to-name-jobs)
- [Exit codes](#exit-codes)
- [Output for machines](#output-for-machines)
"""

TAIL = """\
## How to name jobs

`--jobs` takes a list with commas. Each part is one of these:

| part | jobs |
| --- | --- |
| `3` | job 3 |
| `0-9` | jobs 0 to 9 |
| `@all` | every job |
| `@failed`, `@error` | jobs that ended with an error |
| `@finished`, `@running`, `@pending`, `@stopped`, `@pruned` | jobs in that state |
| `@best:5` | the five best that ended with a score: by `search.objectives`, else `reward_attribute` and `mode` |

`--jobs 0-9,12,@failed` names all of these, each once, in ascending order. `@best:5` alone keeps the best first.

## Exit codes

| code | meaning |
| --- | --- |
| 0 | all is well |
| 1 | it ran, but a job failed (`search-run`), or a process survived (`search-ctl stop`) |
| 2 | the command line or the config is wrong |
| 3 | no such workspace, task or job |
| 4 | conflict: the task exists with another config, somebody else runs it, or a job runs |
| 5 | storage: the disk is full or read-only, or files are damaged (`search-ctl fsck` found faults) |
| 130, 143 | ended by Ctrl-C or `search-ctl stop` (130), or by SIGTERM (143); the same command goes on |

An error is printed to stderr: what is wrong, and below it what to do next.

## Output for machines

`--json` prints one JSON document to stdout. Times in it are seconds since 1970. NaN and infinities are the strings
`"NaN"`, `"Infinity"` and `"-Infinity"`.
Where stdout is no terminal there is no colour, no live display and no question. Then search-run prints a line for each
job that ended, and once a minute the last line of the log of those that have run for longest (three at most).
The variable `NO_COLOR` turns the colour of error messages off in a terminal, too.
"""


def help_of(command: click.Command, name: str, parent: click.Context | None = None) -> tuple[str, click.Context]:
    """What `--help` prints, and the context for commands below this one."""
    settings = {**command.context_settings, "terminal_width": WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    return command.get_help(context), context


def block(words: str, text: str) -> str:
    return f"```console\n$ {words} --help\n{text}\n```\n"


def render() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, command in (("search-init", init.main_command), ("search-run", run.main_command)):
        parts += [f"## {name}\n", block(name, help_of(command, name)[0])]
    text, context = help_of(ctl.group, "search-ctl")
    parts += ["## search-ctl\n", block("search-ctl", text)]
    for name, command in ctl.group.commands.items():
        parts += [f"### search-ctl {name}\n", block(f"search-ctl {name}", help_of(command, name, context)[0])]
    text, context = help_of(nas.main_command, "search-nas")
    parts += ["## search-nas\n", block("search-nas", text)]
    for name in nas.VERBS:
        command = nas.main_command.get_command(context, name)
        parts += [f"### search-nas {name}\n", block(f"search-nas {name}", help_of(command, name, context)[0])]
    return "\n".join([*parts, TAIL])


if __name__ == "__main__":
    page = Path(__file__).with_name("cli.md")
    page.write_text(render(), encoding="utf-8")
    print(f"wrote {page}")
