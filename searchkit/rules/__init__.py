"""Rules choose records of a model space: `parse` reads them from plain data, `apply` runs them."""

from searchkit.rules.declare import Rule, parse
from searchkit.rules.run import Outcome, Stage, apply

__all__ = ["Outcome", "Rule", "Stage", "apply", "parse"]
