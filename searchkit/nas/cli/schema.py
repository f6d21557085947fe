"""search-nas schema."""

from __future__ import annotations

import json

import click

from searchkit import console


@click.command("schema", context_settings=console.CONTEXT)
def schema_command() -> None:
    """Print the JSON Schema of search-nas configs, by which editors complete and check them.

    An editor with a YAML language server reads it for each config that has this line:

    \b
      # yaml-language-server: $schema=.search-run/nas.schema.json

    \b
    Examples:
      search-nas schema > .search-run/nas.schema.json
    """
    from searchkit.nas.tasks.schema import config_schema

    click.echo(json.dumps(config_schema(), indent=1, ensure_ascii=False))
