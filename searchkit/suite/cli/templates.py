"""The recipes that ship with searchkit: a folder each, whose main config says in its first line what it is."""

from __future__ import annotations

import os
import shutil

from searchkit import fsio
from searchkit.errors import ConflictError, NotFoundError, StorageError, did_you_mean

CONFIGS = ("config.yaml", "tsas.yaml", "spos.yaml")  # the main config of a recipe: of one task, or of stages


def template_root() -> str:
    """The folder of the recipes. In a checkout, searchkit/_templates is a link to templates/; a wheel has the files."""
    import searchkit

    root = os.path.join(os.path.dirname(os.path.abspath(searchkit.__file__)), "_templates")
    if not os.path.isdir(root):
        raise StorageError(f"the recipes are not installed: {root} is no folder", "Install searchkit again")
    return os.path.realpath(root)


def list_templates() -> list[tuple[str, str]]:
    """`("hpo/digits", "Handwritten digits: …")` of every recipe, by name."""
    root = template_root()
    recipes = []
    for folder, folders, files in os.walk(root):
        if main := next((name for name in CONFIGS if name in files), None):
            folders.clear()  # a recipe's own folders hold no recipes
            with open(os.path.join(folder, main), encoding="utf-8") as f:
                recipes.append((os.path.relpath(folder, root), f.readline().lstrip("# ").strip()))
    return sorted(recipes)


def copy_template(name: str, dest_dir: str) -> list[str]:
    """Copy a recipe's files into a folder; return their paths there, sorted.

    Raises NotFoundError for an unknown name. Where a file is there already: ConflictError, and nothing is copied.
    """
    known = [known for known, _ in list_templates()]
    name = name.strip("/")
    if name not in known:
        raise NotFoundError(
            f"no recipe named '{name}'{did_you_mean(name, known)}", "search-init --list-templates lists them"
        )
    source = os.path.join(template_root(), name)
    files = sorted(
        os.path.relpath(os.path.join(folder, file), source)
        for folder, _, files in os.walk(source)
        for file in files
        if "__pycache__" not in folder
    )
    if existing := [file for file in files if os.path.lexists(os.path.join(dest_dir, file))]:
        raise ConflictError(
            f"nothing was copied, because {dest_dir} has its own {', '.join(existing)}",
            "Copy the recipe into an empty folder, or move these files away first",
        )
    with fsio.storage():
        for file in files:
            target = os.path.join(dest_dir, file)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(os.path.join(source, file), target)
    return [os.path.join(dest_dir, file) for file in files]
