"""Weights that a training starts from: where they are read, how other projects name them, what of them fits."""
