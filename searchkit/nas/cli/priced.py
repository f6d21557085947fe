"""What space and flops share: how a recipe's archs are priced."""

from __future__ import annotations

from searchkit.nas.cost.price import plans_of
from searchkit.nas.models.part import NetPlan
from searchkit.nas.train.recipe import Recipe, sized


def pricing(recipe: Recipe) -> NetPlan:
    """The plans of a recipe's network. Where model.num_classes is silent the training data is asked."""
    from searchkit.nas.train.splits import class_names

    config = recipe.model if recipe.classes_given else sized(recipe, class_names(recipe))
    return plans_of(config, recipe.space.maximum())
