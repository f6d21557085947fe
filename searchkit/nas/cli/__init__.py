"""The verbs of search-nas: parse, build, call. No logic."""
