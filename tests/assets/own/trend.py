"""A stopper of one's own: out is who will not get, by the line through its last reports, to where others were then.

search: {stop: {type: "trend:Trend", last: 4, ahead: 8}}
"""

from searchkit.records.objective import loss
from searchkit.suite.algorithms.history import Verdict


def line_at(points, x):
    """The least-squares line through (x, y) points, at x."""
    n = len(points)
    mean_x, mean_y = (sum(p[k] for p in points) / n for k in (0, 1))
    square = sum((px - mean_x) ** 2 for px, _ in points)
    return mean_y + sum((px - mean_x) * (py - mean_y) for px, py in points) / square * (x - mean_x)


class Trend:
    """Judges every report from the `last`-th on: where its line is at `ahead` steps further, against the median of what
    the finished trials had reported by that step."""

    def __init__(self, objective, *, last=4, ahead=8):
        self.mode, self.last, self.ahead = objective.mode, last, ahead

    def wants(self, step, before=None):
        return before is None or step > before

    def judge(self, history, trial):
        if len(trial.reports) < self.last:
            return Verdict.CONTINUE
        points = [(step, loss(value, self.mode)) for step, value in trial.reports[-self.last :]]
        then = points[-1][0] + self.ahead
        others = sorted(self.best_by(other, then) for other in history if other.state == "finished" and other.reports)
        if len(others) < 2:
            return Verdict.CONTINUE
        return Verdict.CONTINUE if line_at(points, then) <= others[len(others) // 2] else Verdict.STOP

    def best_by(self, other, step):
        """The best loss that a trial had reported by a step, else its first one."""
        return min(
            [loss(v, self.mode) for s, v in other.reports if s <= step] or [loss(other.reports[0][1], self.mode)]
        )

    def promote(self, history):
        return None
