"""Rules choose records of a model space: `parse` reads them from plain data, `apply` runs them."""

from searchkit.records.rules.declare import Rule, parse
from searchkit.records.rules.run import Outcome, Stage, apply

__all__ = ["Outcome", "Rule", "Stage", "apply", "parse"]
