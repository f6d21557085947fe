"""What space and flops share: how a recipe's archs are priced."""

from __future__ import annotations

from typing import Any

from searchkit.nas.cost.price import plans_of
from searchkit.nas.models.part import NetPlan
from searchkit.nas.train.recipe import Recipe


def pricing(recipe: Recipe) -> NetPlan:
    """The plans of a recipe's network. Where model.num_classes is silent the training data is asked."""
    from searchkit.nas.train import net as nets
    from searchkit.nas.train.splits import open_split

    config = recipe.model
    if not recipe.classes_given:
        names: Any = recipe.data.classes or open_split(recipe, "train").names
        config = nets.sized(recipe, names)
    return plans_of(config, recipe.space.maximum())
