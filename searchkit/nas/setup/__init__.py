"""A config from the data: what `search-nas init` decides, each decision in a file of its own. Torch only to measure."""
