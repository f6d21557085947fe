"""The name that searchkit.nas.cli had before the wings: searches and recipes of then call it by that name."""
