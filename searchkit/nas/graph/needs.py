"""What ONNX files need: no package is imported here."""

from __future__ import annotations

MISSING = "pip install 'searchkit[export]'"
OPSET = 18  # the oldest that has all operators of detectors: most runtimes read it
IR = 10  # version of the file's form; runtimes of 2024 and newer read it
