"""The measures of searches that were begun when search-nas had that name."""

from searchkit.nas.cli.score import measures

__all__ = ["measures"]
