"""The tasks: each is a module with the same functions, which know what its images, targets and scores are.

The functions of detection.py are the list; tests/test_classification.py holds the modules to each other. Sets, images
and targets are of the task's own types, and pass through the rest of training and scoring unopened.
"""

from __future__ import annotations

from typing import Any

from searchkit.errors import UsageError
from searchkit.train import classification, detection
from searchkit.train.config import Recipe
from searchkit.train.sections import Data, LabelData

MODULES: dict[str, Any] = {"det": detection, "cls": classification}


def of(recipe: Recipe) -> Any:
    """The module of a recipe's task."""
    return MODULES[recipe.task]


def open_split(data: Data | LabelData, name: str) -> Any:
    """One split of the data, with the chosen classes. Raises UsageError where the config names none."""
    task = detection if isinstance(data, Data) else classification
    split = getattr(data, name)
    if split is None:
        raise UsageError(f"data.{name} is missing in the config", f"Give data.{name} with its {task.NEEDS}")
    found: Any = task.open_split(data, name, split)
    return found
