"""The sampler spos: its rule, written down once more in the plainest way; and what it is good for."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from statistics import mean

import pytest

from searchkit.records import pareto
from searchkit.records.objective import Objective
from searchkit.seeds import ask_seed
from searchkit.suite.algorithms.drawing import Stream
from searchkit.suite.algorithms.history import Trial
from searchkit.suite.algorithms.random_search import Random
from searchkit.suite.algorithms.spos import Spos
from searchkit.suite.space.args import Categorical, Range, Value
from searchkit.suite.space.space import Genes, Space

ONE = (Objective("acc", "max"),)
TWO = (Objective("acc", "max"), Objective("macs", "min"))
MODES = ("max", "min")


def choices(name: str, k: int, when: str | None = None) -> Categorical:
    return Categorical(name, tuple(Value(i, str(i)) for i in range(k)), when)


SPACE = Space(
    (
        choices("depth", 3),
        *(choices(f"kernel{i}", 4) for i in range(3)),
        choices("expand", 5, when="depth > 0"),
        Range("width", "Int", 8, 64, 8),
        choices("fixed", 1),
    ),
    ("kernel0 + kernel1 <= 4",),
)


def some_history(objectives: Sequence[Objective], n: int, seed: int) -> list[Trial]:
    """Random points of SPACE: most finished, some failed, pruned or running."""
    rng, stream = random.Random(seed), Stream()
    found: dict[str, Trial] = {}
    for k in itertools.count():
        genes = SPACE.complete(stream.seeded(1000 * seed + k).draw)
        if not SPACE.feasible(genes) or SPACE.key(genes) in found:
            continue
        i = len(found)
        if i == n:
            return list(found.values())
        state = rng.choice(("finished",) * 6 + ("failed", "pruned", "running"))
        scores = tuple(rng.randint(0, 9) / 10 for _ in objectives) if state in ("finished", "pruned") else None
        told = None if state == "running" else 2 * i + 1
        found[SPACE.key(genes)] = Trial(i, genes, state, scores, asked=2 * i, told=told)
    raise AssertionError


# ---- the rule once more, from its description


def plain_parents(history: Sequence[Trial], top_k: int, several: bool) -> list[Genes]:
    left = [trial for trial in history if trial.state == "finished"]
    if not several:
        return [trial.genes for trial in sorted(left, key=lambda t: (-(t.scores or ())[0], t.index))][:top_k]
    found: list[Trial] = []
    while left and len(found) < top_k:
        front = [t for t in left if not any(pareto.dominates(o.scores or (), t.scores or (), MODES) for o in left)]
        room = dict(zip((t.index for t in front), plain_room([t.scores or () for t in front]), strict=True))
        found += sorted(front, key=lambda t: (-room[t.index], t.index))
        left = [t for t in left if t not in front]
    return [trial.genes for trial in found[:top_k]]


def plain_room(rows: Sequence[Sequence[float]]) -> list[float]:
    """The crowding distances of one front."""
    total = [0.0] * len(rows)
    for column in range(len(rows[0])):
        order = sorted(range(len(rows)), key=lambda i: (rows[i][column], i))
        low, high = rows[order[0]][column], rows[order[-1]][column]
        for place, i in enumerate(order):
            if place in (0, len(order) - 1):
                total[i] = math.inf
            elif high > low:
                total[i] += (rows[order[place + 1]][column] - rows[order[place - 1]][column]) / (high - low)
    return total


def is_child(genes: Genes, parents: Sequence[Genes]) -> bool:
    """Whether two parents can have it: each gene is that of one of them; of one of them alone where only one has it."""
    for a, b in itertools.combinations(parents, 2):
        if all(
            any(parent.get(name) == gene for parent in (a, b)) if name in a or name in b else True
            for name, gene in genes.items()
        ):
            return True
    return False


def plain_point(history: Sequence[Trial], known: set[str], i: int, parents: Sequence[Genes], seed: int) -> Genes:
    """The i-th point of a search with population 20, top_k 4, mutation 0.3, crossover 0.5, tries 5."""
    for retry in range(1000):
        number = ask_seed(seed, i, retry)
        stream = Stream().seeded(number)
        genes: Genes = {}
        if i < 20 or not parents or retry > 5:
            take = None
        elif i % 20 < 10:
            rng = random.Random(f"cross {number}")
            pair = rng.sample(list(parents), 2) if len(parents) > 1 else list(parents)
            take = "cross"
        else:
            rng = random.Random(f"mutate {number}")
            parent = rng.choice(list(parents))
            free = [name for name in parent if name != "fixed"]
            flips = [name for name in free if rng.random() < 0.3] or [rng.choice(free)]
            take = "mutate"
        for name in ("depth", "kernel0", "kernel1", "kernel2", "expand", "width", "fixed"):
            dim = next(dim for dim in SPACE.dims() if dim.name == name)
            if name == "expand" and genes["depth"] == 0:
                continue
            if take == "cross":
                having = [each[name] for each in pair if name in each]
                gene = rng.choice(having) if having else stream.draw(dim)
            elif take == "mutate" and name in parent and name not in flips:
                gene = parent[name]
            elif take == "mutate" and name in parent:
                gene = stream.draw(dim)
                while gene == parent[name]:
                    gene = stream.draw(dim)
            else:
                gene = stream.draw(dim)
            genes[name] = gene
        if genes["kernel0"] + genes["kernel1"] <= 4 and SPACE.key(genes) not in known:
            return genes
    raise AssertionError


@pytest.mark.parametrize("objectives", [ONE, TWO])
@pytest.mark.parametrize("length", [0, 7, 18, 40, 95])
def test_points_are_those_of_the_rule(objectives: tuple[Objective, ...], length: int) -> None:
    for seed in range(3):
        history = some_history(objectives, length, seed)
        sampler = Spos(SPACE, objectives, seed, population=20, top_k=4, mutation=0.3, tries=5)
        answer = sampler.suggest(history, 25)
        parents = plain_parents(history, 4, len(objectives) == 2)
        known = {SPACE.key(trial.genes) for trial in history}
        for i, genes in enumerate(answer, length):
            assert genes == plain_point(history, known, i, parents, seed), (seed, i)
            known.add(SPACE.key(genes))


def test_generations_are_half_crossover_and_half_mutation() -> None:
    space = Space(tuple(choices(f"x{i}", 9) for i in range(12)))
    points = [{f"x{i}": value for i in range(12)} for value in range(9)]
    history = [Trial(i, genes, "finished", (float(i),), asked=2 * i, told=2 * i + 1) for i, genes in enumerate(points)]
    answer = Spos(space, ONE, 1, population=9, top_k=3, crossover=0.34, mutation=0.0).suggest(history, 18)
    best = points[-3:]
    apart = [min(sum(a[name] != b[name] for name in a) for b in best) for a in answer]
    for i in range(18):
        if i % 9 < 3:
            assert is_child(answer[i], best) and apart[i] > 1, i
        else:
            assert apart[i] == 1, i  # one gene changes, even where none would by chance
    many = Spos(space, ONE, 1, population=9, top_k=3, crossover=0, mutation=1.0).suggest(history, 9)
    assert all(any(all(a[name] != b[name] for name in a) for b in best) for a in many)  # every gene changed


def test_genes_that_a_child_gets_new_come_from_the_parent_that_has_them() -> None:
    space = Space((choices("kind", 2), Range("x", "Uniform", 0.0, 1.0, when="kind == 0"), choices("y", 50)))
    parents = [{"kind": 0, "x": 0.25, "y": 1}, {"kind": 1, "y": 2}]
    history = [Trial(i, genes, "finished", (1.0,), asked=2 * i, told=2 * i + 1) for i, genes in enumerate(parents)]
    for seed in range(12):
        child = Spos(space, ONE, seed, population=2, top_k=2, crossover=1.0).suggest(history, 1)[0]
        assert child in ({"kind": 0, "x": 0.25, "y": 2}, {"kind": 1, "y": 1})  # the two that are new


def test_crowding_of_a_front_worked_by_hand() -> None:
    rows = [(0.0, 0.0), (1.0, 4.0), (2.0, 5.0), (4.0, 8.0)]
    assert pareto.crowding(rows) == [math.inf, 2 / 4 + 5 / 8, 3 / 4 + 4 / 8, math.inf]
    assert pareto.crowding([(1.0, 1.0)] * 3) == [math.inf, 0.0, math.inf]
    rng = random.Random(0)
    for _ in range(20):
        front = [(float(rng.randint(0, 5)), rng.random()) for _ in range(rng.randint(1, 12))]
        assert pareto.crowding(front) == pytest.approx(plain_room(front))


@pytest.mark.slow
def test_it_is_better_than_chance() -> None:
    """Twenty positions of four choices, the sum of what each is worth, seen with noise; 300 points, twenty seeds."""
    space = Space(tuple(choices(f"block{i}", 4) for i in range(20)))
    worth = random.Random(3)
    table = [[worth.random() for _ in range(4)] for _ in range(20)]

    def true(genes: Genes) -> float:
        return mean(table[i][int(gene)] for i, gene in enumerate(genes.values()))

    def found(cls: type[Random] | type[Spos], seed: int) -> float:
        """What the point is worth that looks best."""
        sampler, noise, history = cls(space, ONE, seed), random.Random(seed), []
        for first in range(0, 300, 10):
            for i, genes in enumerate(sampler.suggest(history, 10), first):
                score = true(genes) + noise.gauss(0, 0.02)
                history.append(Trial(i, genes, "finished", (score,), asked=2 * i, told=2 * i + 1))
        return true(max(history, key=lambda trial: (trial.scores or ())[0]).genes)

    pairs = [(found(Spos, seed), found(Random, seed)) for seed in range(20)]
    most = mean(max(row) for row in table)
    print(f"spos {mean(a for a, _ in pairs):.3f}, random {mean(b for _, b in pairs):.3f}, at most {most:.3f}")
    assert all(a > b for a, b in pairs)
    assert mean(most - a for a, _ in pairs) < 0.5 * mean(most - b for _, b in pairs)
