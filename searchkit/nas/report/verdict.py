"""Whether a search paid: what may be said of two detectors, and what can't be told, with the reason."""

from __future__ import annotations

from collections.abc import Sequence

from searchkit.nas.data.sets.check import FEW_VAL
from searchkit.nas.report import page
from searchkit.nas.report.bootstrap import DRAWS, Matches, spread_of
from searchkit.nas.report.candidates import CHOSEN_BY, Candidate

LEARNT = 0.05  # AP below which a detector finds next to nothing, so that a difference says nothing of networks
MEANT = "more --time, and more images to learn from, raise it"


def hardly_learnt(some: Sequence[Candidate]) -> str:
    """A clause about those whose AP is next to nothing; empty where there are none."""
    low = [each.name for each in some if each.ap is not None and each.ap < LEARNT]
    verb = "has" if len(low) == 1 else "have"
    return f"{' and '.join(low)} {verb} hardly learnt anything (AP below {LEARNT:g}; {MEANT})" if low else ""


def verdict(
    own: Candidate,
    other: Candidate,
    matches: tuple[Sequence[Matches], Sequence[Matches]] | None,
    images: int,
    budget: tuple[float, str, str],
    seed: int,
) -> str:
    """A sentence: own, the best of the search within a budget (value, meter, text), beside another detector. matches:
    of what each detected on the same images; None where that is not known."""
    most, meter, text = budget
    cost = other.cost(meter)
    above = f", more than {text}" if cost is not None and cost > most else ""
    begin = f"{_named(own)} has AP {page.number(own.ap)}, {_named(other, above)} {page.number(other.ap)}"
    value = (own.ap or 0.0) - (other.ap or 0.0)
    if matches is None:
        return f"{begin}: a difference of {value:+.3f}, whose spread is not known, so it can't be told {_paid(above)}."
    spread = spread_of(*matches, images, seed=seed)
    begin += (
        f": a difference of {spread.value:+.3f}, between {spread.low:+.3f} and {spread.high:+.3f} in 95 of 100 draws "
        f"of the {images} images ({DRAWS} bootstrap draws, one training each)"
    )
    if reason := hardly_learnt((own, other)):
        return f"{begin}. It can't be told {_paid(above)}: {reason}."
    if images < FEW_VAL:
        return f"{begin}. It can't be told {_paid(above)}: so few images differ by chance more than detectors do."
    if spread.low <= 0 <= spread.high:
        return (
            f"{begin}. It can't be told {_paid(above)}: so much may be chance. More images to test on narrow it; "
            "another --seed shows what another training makes of it."
        )
    said = "it is better" if spread.low > 0 else "it is worse"
    if not above:
        said = "the search paid" if spread.low > 0 else "the search did not pay"
    same = own.split_of(own.tag(CHOSEN_BY)) == own.split and spread.low > 0
    return f"{begin}: {said}{', on the images that it was chosen by, which favours it' if same else ''}."


def _named(each: Candidate, above: str = "") -> str:
    return f"{each.name} ({page.amount(each.macs)}MACs{above})"


def _paid(above: str) -> str:
    return "which is better" if above else "whether the search paid"
