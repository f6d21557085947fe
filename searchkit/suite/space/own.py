"""Classes and functions of the user's own, named `module:name` and found in the project's folder."""

from __future__ import annotations

import importlib
from typing import Any

from searchkit.errors import UsageError, did_you_mean


def find(what: str, path: str, like: Any = object) -> Any:
    """What `module:name` names, the name with dots for what is inside a class. `what` begins the messages; `like` is
    the type of the names that are proposed where there is none of that name. Raises UsageError."""
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{module}.".startswith(f"{e.name}."):
            raise UsageError(f"{what}: {module} needs the module {e.name}, which is not installed") from e
        raise UsageError(f"{what}: there is no module {e.name} in the project's folder or installed") from e
    except Exception as e:  # whatever a user's module does when it is imported
        raise UsageError(f"{what}: importing {module} failed: {type(e).__name__}: {e}") from e
    for part in attribute.split("."):
        if not part or not hasattr(found, part):
            known = [word for word in dir(found) if isinstance(getattr(found, word, None), like)]
            raise UsageError(f"{what}: {module} has no {part!r}{did_you_mean(part, known)}")
        found = getattr(found, part)
    return found
