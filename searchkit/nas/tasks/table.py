"""The tasks. What they have in common is searchkit.nas.train.task; each is written down at the end of its own file."""

from __future__ import annotations

from searchkit.nas.tasks.classification import CLASSIFICATION
from searchkit.nas.tasks.detection import DETECTION
from searchkit.nas.train.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (DETECTION, CLASSIFICATION)}
