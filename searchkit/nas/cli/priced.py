"""What verbs that price share: how a recipe's archs are priced, and the tables of times that its config names."""

from __future__ import annotations

from searchkit.nas.cli.options import say
from searchkit.nas.cost.latency import Table
from searchkit.nas.cost.price import plans_of
from searchkit.nas.models.part import NetPlan
from searchkit.nas.train.recipe import Recipe, said_of, sized, tables_of


def pricing(recipe: Recipe) -> NetPlan:
    """The plans of a recipe's network. Where model.num_classes is silent the training data is asked."""
    from searchkit.nas.train.splits import class_names

    config = recipe.model if recipe.classes_given else sized(recipe, class_names(recipe))
    return plans_of(config, recipe.space.maximum())


def timing(recipe: Recipe) -> dict[str, Table]:
    """The tables of times of a recipe by name; what they are of is said."""
    tables = tables_of(recipe)
    for line in said_of(recipe, tables):
        say(line)
    return tables
