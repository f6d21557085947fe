"""Between our history and an Optuna study in memory; what `tpe` and `nsga2` share. Optuna's storages are never used."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from searchkit.errors import UsageError
from searchkit.records.objective import Objective
from searchkit.suite.algorithms.history import Trial, changed
from searchkit.suite.space.space import Dim, Genes, Space

if TYPE_CHECKING:
    import optuna


def load() -> Any:
    """The module optuna. Raises UsageError where it is not installed."""
    try:
        import optuna
    except ImportError as e:
        raise UsageError(f"the samplers tpe and nsga2 need Optuna ({e})", "pip install 'searchkit[samplers]'") from e
    return optuna


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Optuna's notes on new studies and experimental options."""
    logger = logging.getLogger("optuna")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def create(
    objectives: Sequence[Objective],
    sampler: optuna.samplers.BaseSampler,
    storage: optuna.storages.BaseStorage | None = None,
) -> optuna.Study:
    """An empty study, in memory."""
    directions = ["maximize" if objective.mode == "max" else "minimize" for objective in objectives]
    with quiet():
        study: optuna.Study = load().create_study(storage=storage, directions=directions, sampler=sampler)
    return study


def suggest(trial: optuna.Trial) -> Callable[[Dim], float | int]:
    """What `Space.complete` asks: the value that `trial` suggests for a dimension."""

    def choose(dim: Dim) -> float | int:
        if dim.kind == "index":
            return int(trial.suggest_categorical(dim.name, tuple(range(int(dim.high) + 1))))
        if dim.kind == "int":
            step = 1 if dim.log else int(dim.step or 1)
            return trial.suggest_int(dim.name, int(dim.low), int(dim.high), step=step, log=dim.log)
        return trial.suggest_float(dim.name, dim.low, dim.high, step=None if dim.log else dim.step, log=dim.log)

    return choose


def distribution(dim: Dim) -> optuna.distributions.BaseDistribution:
    """The distribution that `suggest` asks of Optuna."""
    of = load().distributions
    chosen: optuna.distributions.BaseDistribution
    if dim.kind == "index":
        chosen = of.CategoricalDistribution(tuple(range(int(dim.high) + 1)))
    elif dim.kind == "int":
        chosen = of.IntDistribution(int(dim.low), int(dim.high), log=dim.log, step=1 if dim.log else int(dim.step or 1))
    else:
        chosen = of.FloatDistribution(dim.low, dim.high, log=dim.log, step=None if dim.log else dim.step)
    return chosen


def tell(study: optuna.Study, number: int, trial: Trial | None) -> None:
    """End the running trial `number` of a study as `trial` ended; None: as failed."""
    state = load().trial.TrialState
    if trial is not None and trial.state == "finished":
        study.tell(number, list(trial.scores or ()))
    else:
        study.tell(number, state=state.PRUNED if trial is not None and trial.state == "pruned" else state.FAIL)


class Mirror:
    """A study that holds the trials of a history, in its order, and is updated instead of rebuilt.

    An ask leaves nothing behind but a failed trial, which no sampler looks at.
    """

    def __init__(
        self, space: Space, objectives: Sequence[Objective], sampler: Callable[[int], optuna.samplers.BaseSampler]
    ) -> None:
        self._space = space
        self._objectives = objectives
        self._sampler = sampler
        self._distributions = {dim.name: distribution(dim) for dim in space.dims()}
        self._begin()

    def _begin(self) -> None:
        self._storage: optuna.storages.BaseStorage = load().storages.InMemoryStorage()
        self._study = create(self._objectives, self._sampler(0), self._storage)
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._known: list[Trial] = []
        self._numbers: list[int] = []  # in the study, of each known trial
        self._count = 0  # trials of the study

    def follow(self, history: Sequence[Trial]) -> None:
        """Make the study hold this history."""
        differ = changed(self._known, history)
        if len(history) < len(self._known) or not all(self._change(at, history[at]) for at in differ):
            self._begin()
        for trial in history[len(self._known) :]:
            self._study.add_trial(self._frozen(trial))
            self._numbers.append(self._count)
            self._known.append(trial)
            self._count += 1

    def ask(self, seed: int) -> Genes:
        """A point for this history, by the sampler seeded with `seed`."""
        self._reseed(seed)
        trial = self._study.ask()
        self._count += 1
        genes = self._space.complete(suggest(trial))
        self._study.tell(trial, state=load().trial.TrialState.FAIL)
        return genes

    def _reseed(self, seed: int) -> None:
        """As if the sampler were made anew with `seed`; but it keeps what it has computed from the trials, which at
        10,000 of them takes half the time of an ask."""
        sampler: Any = self._study.sampler
        try:
            sampler._rng.rng.seed(seed)
            sampler._random_sampler._rng.rng.seed(seed)
        except AttributeError:  # an Optuna version with other names for these
            self._study.sampler = self._sampler(seed)

    def _change(self, at: int, trial: Trial) -> bool:
        """Bring a known trial up to date; False where a study can't (one that had ended and runs again)."""
        old = self._known[at]
        if _content(old) != _content(trial):
            if old.state != "running" or old.genes != trial.genes:
                return False
            number = self._numbers[at]
            if trial.state == "pruned":
                for step, value in self._last(trial):
                    trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
                    self._storage.set_trial_intermediate_value(trial_id, step, value)
            tell(self._study, number, trial)
        self._known[at] = trial
        return True

    def _last(self, trial: Trial) -> tuple[tuple[int, float], ...]:
        """The report by which TPE ranks a pruned trial. With several objectives Optuna knows of no reports."""
        return trial.reports[-1:] if len(self._objectives) == 1 else ()

    def _frozen(self, trial: Trial) -> optuna.trial.FrozenTrial:
        of = load().trial
        state = of.TrialState
        states = {"running": state.RUNNING, "finished": state.COMPLETE, "pruned": state.PRUNED, "failed": state.FAIL}
        frozen: optuna.trial.FrozenTrial = of.create_trial(
            state=states[trial.state],
            values=list(trial.scores or ()) if trial.state == "finished" else None,
            params=dict(trial.genes),
            distributions={name: self._distributions[name] for name in trial.genes},
            intermediate_values=dict(self._last(trial)) if trial.state == "pruned" else None,
        )
        return frozen


def _content(trial: Trial) -> tuple[Any, ...]:
    """The part of a trial that a study holds."""
    return trial.genes, trial.state, trial.scores, trial.reports[-1:] if trial.state == "pruned" else ()
