"""NSGA-II, by Optuna: one seeded sampler that lives as long as the search, and is replayed when the search goes on.

Source: Deb, Pratap, Agarwal and Meyarivan, "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE TEVC
2002. Its next point depends on the numbers drawn for all points before, so a history alone does not give it: all asks
and tells are repeated in the same order, and every point is compared with the recorded one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from searchkit.errors import UsageError
from searchkit.records.objective import Objective
from searchkit.suite.algorithms.checks import number, whole
from searchkit.suite.algorithms.drawing import Fresh
from searchkit.suite.algorithms.history import Trial, asks, changed
from searchkit.suite.space.space import Genes, Space

if TYPE_CHECKING:
    import optuna

_TRIES = 50  # proposals of one ask that may be rejected (by a constraint, or as duplicates) before a random point
_Event = tuple[int, int, int, Trial]  # its number in the order of all events, position, 0 asked or 1 told


class Nsga2:
    """The options are those of `optuna.samplers.NSGAIISampler`: size of the population, the probabilities of a
    crossover, of each gene to be swapped in it, and of each gene to mutate (None: one divided by their number).

    Given points (enqueued, or of a warm start) are members of the population like any other. A proposal that breaks a
    constraint is told as failed; a duplicate gets the scores of the first one as soon as there are some; after either,
    another proposal is asked for.
    """

    replays = True

    def __init__(
        self,
        space: Space,
        objectives: tuple[Objective, ...],
        seed: int,
        *,
        population: int = 50,
        crossover: float = 0.9,
        swapping: float = 0.5,
        mutation: float | None = None,
    ) -> None:
        self._space = space
        self._objectives = objectives
        self._seed = seed
        self._options: dict[str, Any] = {
            "population_size": whole("nsga2: population", population, 2),
            "crossover_prob": number("nsga2: crossover", crossover, 0, 1),
            "swapping_prob": number("nsga2: swapping", swapping, 0, 1),
            "mutation_prob": None if mutation is None else number("nsga2: mutation", mutation, 0, 1),
        }
        self._fresh = Fresh(space, seed)
        self._begun = False

    def suggest(self, history: Sequence[Trial], n: int) -> list[Genes]:
        """The next `n` points; fewer where a finite space has no more. Raises UsageError where a recorded point is not
        the one that the replay gives."""
        begun, self._begun = self._begun, False  # so that a call that fails half-way makes the next one begin anew
        if not begun or not self._follows(history):
            self._begin()
            self._follows(history)
        while len(self._ahead) < n:
            genes = self._ask(len(history) + len(self._ahead), asks(history) + len(self._ahead))
            if genes is None:
                break
            self._ahead.append(genes)
        self._begun = True
        return self._ahead[:n]

    def _begin(self) -> None:
        from searchkit.suite.algorithms.study import create, load, quiet

        with quiet():
            sampler = load().samplers.NSGAIISampler(seed=self._seed % 2**32, **self._options)
        self._study: optuna.Study = create(self._objectives, sampler)
        self._known: list[Trial] = []  # the history as it was last seen
        self._ahead: list[Genes] = []  # asked for, and not in the history yet
        self._owner: dict[str, int] = {}  # the key of a point to the position of its trial in the history
        self._numbers: dict[int, list[int]] = {}  # position to the trials of the study that end when it does
        self._ended: dict[int, Trial] = {}  # position to the trial as it ended
        self._last: tuple[int, int, int] = (-2, 0, 0)  # the event that was done last

    # --- what has happened

    def _follows(self, history: Sequence[Trial]) -> bool:
        """Do what has happened since the last time; False where that is not the order in which it happened."""
        known = self._known
        if len(history) < len(known):
            return False
        events: list[_Event] = []
        for at in changed(known, history):
            old, new = known[at], history[at]
            if (old.genes, old.state, old.scores) != (new.genes, new.state, new.scores):
                if old.state != "running" or old.genes != new.genes:
                    return False
                events.append(_event(at, 1, new))
        for at in range(len(known), len(history)):
            new = history[at]
            events += [_event(at, kind, new) for kind in ((0,) if new.state == "running" else (0, 1))]
        events.sort(key=lambda event: event[:3])
        if events and events[0][:3] <= self._last:
            return False
        if any(kind or trial.given for *_, kind, trial in events[: len(self._ahead)]):
            return False  # points that were asked for before all this were not taken
        self._known = list(history)
        for event in events:
            self._do(event, asks(history) - len(history))
        return True

    def _do(self, event: _Event, shift: int) -> None:
        _, at, kind, trial = event
        self._last = event[:3]
        if kind:
            self._ended[at] = trial
            for number in self._numbers[at]:
                self._tell(number, trial)
        elif trial.given:
            self._give(at, trial.genes)
        else:
            genes = self._ahead.pop(0) if self._ahead else self._ask(at, at + shift)
            if genes != trial.genes:
                raise UsageError(
                    f"nsga2: trial {trial.index} has {_named(trial.genes)}, but asked again it has "
                    f"{_named(genes or {})}: the arguments, options or objectives have changed since, or Optuna has",
                    "go on with the config and the Optuna version that it began with, or begin a task with this one as "
                    "its warm_start",
                )

    # --- the study

    def _ask(self, at: int, i: int) -> Genes | None:
        """A new point, asked of the sampler as the trial at position `at` of the history, the i-th of the search."""
        from searchkit.suite.algorithms.study import suggest

        proposed: list[tuple[int, Genes]] = []

        def propose(retry: int) -> Genes:
            self._reject(proposed)
            trial = self._study.ask()
            proposed.append((trial.number, self._space.complete(suggest(trial))))
            return proposed[0][1]

        genes = self._fresh.one(self._owner, i, propose, _TRIES)
        if genes is not None and proposed and genes is proposed[0][1]:
            self._owner[self._space.key(genes)] = at
            self._numbers[at] = [proposed[0][0]]
            return genes
        self._reject(proposed)
        if genes is not None:
            self._give(at, genes)
        return genes

    def _reject(self, proposed: list[tuple[int, Genes]]) -> None:
        while proposed:
            number, genes = proposed.pop()
            if not self._space.feasible(genes):
                self._tell(number, None)
                continue
            first = self._owner[self._space.key(genes)]
            if first in self._ended:
                self._tell(number, self._ended[first])
            else:
                self._numbers[first].append(number)

    def _give(self, at: int, genes: Genes) -> None:
        """A point that the sampler did not choose, as a member of the generation that it would now choose one for."""
        from searchkit.suite.algorithms.study import suggest

        self._study.enqueue_trial(genes)
        trial = self._study.ask()
        self._space.complete(suggest(trial))
        sampler: Any = self._study.sampler
        sampler.get_trial_generation(self._study, self._study.get_trials(deepcopy=False)[trial.number])
        self._owner.setdefault(self._space.key(genes), at)
        self._numbers[at] = [trial.number]

    def _tell(self, number: int, trial: Trial | None) -> None:
        from searchkit.suite.algorithms.study import tell

        tell(self._study, number, trial)


def _event(at: int, kind: int, trial: Trial) -> _Event:
    number = trial.told if kind and trial.told is not None else trial.asked
    return (-1 if trial.index < 0 else number), at, kind, trial  # those of a warm start come first


def _named(genes: Genes) -> str:
    return ", ".join(f"{name}={gene}" for name, gene in genes.items()) or "nothing"
