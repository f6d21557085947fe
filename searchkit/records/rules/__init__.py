"""Rules choose records of a model space: `read` reads them from a file, `parse` from plain data, `apply` runs them."""

from searchkit.records.rules.declare import Rule, parse, read
from searchkit.records.rules.run import Outcome, Stage, apply

__all__ = ["Outcome", "Rule", "Stage", "apply", "parse", "read"]
