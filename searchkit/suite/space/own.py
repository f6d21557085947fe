"""Classes and functions of the user's own, named `module:name` and found in the project's folder."""

from __future__ import annotations

import importlib
from typing import Any

from searchkit.errors import UsageError, did_you_mean


def find(subject: str, path: str, like: Any = object) -> Any:
    """What `module:name` names, the name with dots for what is inside a class. `subject` begins the messages; `like`
    is the type of the names that are proposed where none matches. Raises UsageError."""
    module, _, attribute = path.partition(":")
    try:
        target: Any = importlib.import_module(module)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{module}.".startswith(f"{e.name}."):
            raise UsageError(f"{subject}: {module} needs the module {e.name}, which is not installed") from e
        raise UsageError(f"{subject}: there is no module {e.name} in the project's folder or installed") from e
    except Exception as e:  # whatever a user's module does when it is imported
        raise UsageError(f"{subject}: importing {module} failed: {type(e).__name__}: {e}") from e
    for part in attribute.split("."):
        if not part or not hasattr(target, part):
            names = [word for word in dir(target) if isinstance(getattr(target, word, None), like)]
            raise UsageError(f"{subject}: {module} has no {part!r}{did_you_mean(part, names)}")
        target = getattr(target, part)
    return target
