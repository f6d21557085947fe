"""search-init: make the workspace, say what the file system can do, copy recipes."""

from __future__ import annotations

import os

import click

from searchkit import console, fsio
from searchkit.errors import StorageError, UsageError
from searchkit.suite.workspace import NAME, Workspace


@click.command(context_settings=console.CONTEXT)
@click.option("--path", default=".", show_default=True, help="The project's root folder.")
@click.option("--list-templates", is_flag=True, help="List the recipes that --template copies, and end.")
@click.option("--template", metavar="NAME", help="Copy a recipe into the project.")
def main_command(path: str, list_templates: bool, template: str | None) -> None:
    """Make a .search-run workspace in the project's root folder. Running it again changes nothing but the schema of
    configs in it, which is that of the searchkit that is installed.

    \b
    Examples:
      search-init
      search-init --template hpo/digits
    """
    if list_templates:
        from searchkit.suite.cli.templates import list_templates as templates

        for name, line in templates():
            click.echo(f"{name:20} {line}")
        return
    project = os.path.realpath(path)
    if not os.path.isdir(project):
        raise UsageError(f"--path must be a folder, got {path}")
    ws = Workspace(os.path.join(project, NAME))
    from searchkit.suite.config import schema

    existed = os.path.isdir(ws.tasks)
    with fsio.storage():
        os.makedirs(ws.tasks, exist_ok=True)
        os.makedirs(ws.tmp, exist_ok=True)
        if not os.path.exists(ws.summary):
            fsio.atomic_write(ws.summary, "{}\n", tmp=ws.tmp)
        if fsio.read_bytes(ws.config_schema) != (text := schema.text()).encode():
            fsio.atomic_write(ws.config_schema, text, tmp=ws.tmp)
    click.echo(f"{'Workspace is here already' if existed else 'Made the workspace'}: {ws.root}")
    click.echo(f"File system: {probe(ws.tmp)}")
    if ignored := _ignore(project):
        click.echo(f"Added {NAME}/ to {ignored}")
    if template:
        from searchkit.suite.cli.templates import copy_template

        for copied in copy_template(template, project):
            click.echo(f"Copied {os.path.relpath(copied, project)}")


def probe(folder: str) -> str:
    """One line on what the file system of `folder` can do. Raises StorageError where the suite could not work on it."""
    from searchkit.suite.store import probe as fs

    facts = fs.probe(folder)
    broken = [ability for ability, works in facts.needed.items() if not works]
    if broken:
        raise StorageError(
            f"this file system ({facts.kind}) can't do what a workspace needs: {', '.join(broken)}",
            "Put the project on a local disk (ext4, xfs, btrfs, tmpfs)",
        )
    return (
        f"{facts.kind}, {', '.join(facts.needed)} work, fsync takes {facts.fsync_ms:.2f} ms, "
        f"{'copies share blocks (reflink)' if facts.reflink else 'copies are whole'}"
    )


def _ignore(project: str) -> str | None:
    """Add the workspace to .gitignore where there is one that does not name it yet."""
    path = os.path.join(project, ".gitignore")
    raw = fsio.read_bytes(path)
    if raw is None or any(line.strip().strip("/") == NAME for line in raw.decode("utf-8", "replace").splitlines()):
        return None
    with fsio.storage():
        glue = b"" if not raw or raw.endswith(b"\n") else b"\n"
        fsio.atomic_write(path, raw + glue + f"{NAME}/\n".encode())
    return path


def main() -> None:
    console.run(main_command, "search-init")


if __name__ == "__main__":
    main()
