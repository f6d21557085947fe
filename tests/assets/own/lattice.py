"""A sampler of one's own: points that fill the space evenly, by the R sequence (Roberts 2018), a lattice without end.

search: {sampler: {type: "lattice:Lattice", shuffle: true}, n_trials: 30}
"""

import math

from searchkit.seeds import ask_seed
from searchkit.suite.algorithms.drawing import Fresh


def spread(n):
    """The steps of the R sequence in n dimensions: powers of the one root above 1 of x ** (n + 1) == x + 1."""
    root = 1.5
    for _ in range(50):
        root = (1 + root) ** (1 / (n + 1))
    return [(1 / root) ** k % 1 for k in range(1, n + 1)]


class Lattice:
    """The i-th point is start + i * step in each dimension, around the circle. It looks at no score."""

    needs_results = False

    def __init__(self, space, objectives, seed, *, shuffle=True):
        self.seed, self.space, self.fresh = seed, space, Fresh(space, seed)
        self.names = [dim.name for dim in space.dims()]
        self.steps = spread(len(self.names))
        self.starts = [ask_seed(seed, 0, k) / 2**32 if shuffle else 0.5 for k in range(len(self.names))]

    def suggest(self, history, n):
        def propose(found, i, retry):
            at = i + 7919 * retry

            def choose(dim):
                k = self.names.index(dim.name)
                return placed(dim, (self.starts[k] + at * self.steps[k]) % 1)

            return self.space.complete(choose)

        return self.fresh.batch(history, n, propose, tries=50)


def placed(dim, u):
    """The gene at u, 0 to 1, of a dimension: even on its scale; every value of a list as often as the others."""
    if dim.kind == "index" or (dim.kind == "int" and not dim.log):
        return min(dim.low + int(u * (dim.high - dim.low + 1)), dim.high)
    if dim.log:
        return min(math.exp(math.log(dim.low) + u * (math.log(dim.high) - math.log(dim.low))), dim.high)
    return dim.low + u * (dim.high - dim.low)
