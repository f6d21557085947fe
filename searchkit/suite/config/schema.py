"""The JSON Schema of the config: search-ctl prints it, search-init keeps it in the workspace, and editors read it."""

from __future__ import annotations

import json

from searchkit.reading import schema
from searchkit.suite.config.form import File


def text() -> str:
    """The schema as a file of JSON."""
    made = schema.of(File, "A config of search-run")
    return json.dumps(made, ensure_ascii=False, indent=1) + "\n"
