"""Tree-structured Parzen estimator, by Optuna.

Source: Bergstra, Bardenet, Bengio and Kégl, "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011; Watanabe,
"Tree-Structured Parzen Estimator", arXiv:2304.11127.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from searchkit.errors import UsageError
from searchkit.records.objective import Objective
from searchkit.seeds import ask_seed
from searchkit.suite.algorithms.checks import flag, whole
from searchkit.suite.algorithms.drawing import Fresh
from searchkit.suite.algorithms.history import Trial, started
from searchkit.suite.space.space import Genes, Space

if TYPE_CHECKING:
    import optuna

    from searchkit.suite.algorithms.study import Mirror

_TRIES = 16  # proposals that may be rejected (by a constraint, or as duplicates) before a random point


class Tpe:
    """For the i-th ask, what `optuna.samplers.TPESampler(seed=ask_seed(seed, i))` suggests for a study with the same
    trials. The options are those of Optuna, None being its default: `n_startup` random points first, `n_candidates` to
    choose the best from; `multivariate` models all arguments together (by default with one objective), `group` does so
    for every set of arguments that are active together; `constant_liar` keeps parallel trials apart."""

    def __init__(
        self,
        space: Space,
        objectives: tuple[Objective, ...],
        seed: int,
        *,
        n_startup: int = 10,
        n_candidates: int = 24,
        multivariate: bool | None = None,
        group: bool = False,
        constant_liar: bool = True,
    ) -> None:
        self._space = space
        self._objectives = objectives
        self._seed = seed
        self._options: dict[str, Any] = {
            "n_startup_trials": whole("tpe: n_startup", n_startup, 0),
            "n_ei_candidates": whole("tpe: n_candidates", n_candidates, 1),
            "group": flag("tpe: group", group),
            "constant_liar": flag("tpe: constant_liar", constant_liar),
        }
        if group and multivariate is False:
            raise UsageError(
                "tpe: group needs multivariate, which is false", "leave multivariate out, or set it to true"
            )
        if multivariate is not None or group:
            self._options["multivariate"] = group or flag("tpe: multivariate", multivariate)
        self._fresh = Fresh(space, seed)
        self._mirror: Mirror | None = None  # made when it is needed: it imports Optuna

    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        """The next `n` points; fewer where a finite space has no more."""
        from searchkit.suite.algorithms.study import Mirror

        mirror = self._mirror = self._mirror or Mirror(self._space, self._objectives, self._sampler)

        def propose(points: list[Genes], i: int, retry: int) -> Genes:
            if not retry:
                mirror.follow([*history, *started(history, points)] if points else history)
            return mirror.ask(ask_seed(self._seed, i, retry))

        return self._fresh.batch(history, n, propose, _TRIES)

    def _sampler(self, seed: int) -> optuna.samplers.TPESampler:
        from searchkit.suite.algorithms.study import load, quiet

        with quiet():
            sampler: optuna.samplers.TPESampler = load().samplers.TPESampler(seed=seed, **self._options)
        return sampler
