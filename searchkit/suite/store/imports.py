"""Which folders of the project Python imports from by their full paths, past the copy that a job works in.

An editable install (`pip install -e .`) and a PYTHONPATH of full paths lead every job to the project as it is now. So
jobs get a PYTHONPATH on which those folders are the ones of their own copies.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from searchkit import fsio
from searchkit.suite.store.interpreter import Interpreter
from searchkit.suite.store.snapshot import Manifest

_MAPPING = re.compile(r"^MAPPING\b[^=\n]*=\s*(\{.*\})\s*$", re.MULTILINE)
_CODE = (".py", ".pyc", ".so")
_ASIDE = frozenset(
    ("tests", "test", "docs", "examples", "benchmarks", "scripts")
)  # left by packages, and meant by nobody
_STARTED = frozenset(("sitecustomize", "usercustomize"))  # Python runs these where it finds them on its path


@dataclass(frozen=True)
class Installed:
    """What an interpreter has been told to import from the project: folders for its path, relative to the project
    (`.` is all of it), and what can't be put on a path, with the reason."""

    folders: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()
    names: frozenset[str] = frozenset()  # modules and packages that are installed as copies


@dataclass(frozen=True)
class Redirected:
    """The folders that jobs import from their own copies, relative to them; those that a PYTHONPATH names and that stay
    as they are; and the reasons, also for what is installed."""

    folders: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()


def within(path: str, project: str) -> str | None:
    """`path` relative to the project; None for one that lies elsewhere."""
    for full, root in ((os.path.normpath(path), project), (os.path.realpath(path), os.path.realpath(project))):
        if full == root or full.startswith(root.rstrip("/") + "/"):
            return os.path.relpath(full, root)
    return None


def installed(python: Interpreter, project: str) -> Installed:
    """What the .pth files and import hooks of an interpreter's packages name of the project."""
    environment = within(python.prefix, project)  # a virtual environment in the project is no part of its code

    def relative(path: str) -> str | None:
        place = within(path, project)
        is_theirs = place is not None and environment is not None and f"{place}/".startswith(f"{environment}/")
        return None if is_theirs else place

    folders: dict[str, None] = {}
    unmapped: list[tuple[str, str]] = []
    sources: list[str] = []  # where what we understand leads to
    editable: list[tuple[str, str]] = []  # (package, where its source is), as pip keeps it
    names: set[str] = set()
    for path, is_link in (entry for site in python.sites for entry in _names(site)):
        folder, name = os.path.split(path)
        modules: list[tuple[str, str]] = []
        if name.endswith(".pth"):
            lines = [relative(os.path.join(folder, line)) for line in _path_lines(path)]
            folders |= {line: None for line in lines if line is not None}
        elif name.startswith("__editable__") and name.endswith("finder.py"):
            modules = list(_mapping(path))
        elif is_link:  # flit install --symlink
            modules = [(name.removesuffix(".py"), os.path.join(folder, os.readlink(path)))]
        elif name.endswith(".dist-info"):
            package, url = name.split("-")[0], _editable_url(f"{path}/direct_url.json")
            if url and (source := relative(url)) is not None:
                editable.append((package, source))
            elif url and within(project, url) and package != "searchkit":  # of a demo in its source folder
                unmapped.append((package, f"its source is all of {url}"))
        elif name.endswith(_CODE) or "." not in name:
            names.add(name.split(".")[0])
        for module, target in modules:
            if (source := relative(target)) is None:
                continue
            sources.append(source)
            if (parent := _folder_of(module, source)) is not None:
                folders[parent] = None
            else:
                unmapped.append((module, f"it is {source}, which no path makes {module}"))
    for package, source in editable:
        if not any(source == "." or f"{place}/".startswith(f"{source}/") for place in (*folders, *sources)):
            unmapped.append((package, "it is installed by an import hook that searchkit does not know"))
    return Installed(tuple(folders), tuple(unmapped), frozenset(names))


def redirected(
    packages: Installed, pythonpath: str, manifest: Manifest, project: str, stdlib: frozenset[str]
) -> Redirected:
    """What of the installed packages, and of a PYTHONPATH, a copy made by the manifest can stand for."""
    unmapped = list(packages.others)
    folders, unchanged, named = [], [], []
    for entry in pythonpath.split(os.pathsep):
        folder = within(entry, project) if os.path.isabs(entry) else None
        if folder is not None:
            named.append(folder)
            if why := _unlike(manifest, folder, project):
                unmapped.append((folder, why))
                unchanged.append(folder)
    for folder in packages.folders:
        if folder not in named:
            why = _hides(manifest, folder, stdlib, packages.names) or _unlike(manifest, folder, project)
            unmapped += [(folder, why)] if why else []
            folders += [] if why else [folder]
    return Redirected(tuple(folders), tuple(unchanged), tuple(dict.fromkeys(unmapped)))


def pythonpath(value: str, copied: Redirected, project: str, work: str) -> str:
    """The PYTHONPATH of a job that works in the copy `work`. Entries keep their places; what is installed comes after
    them, as it does without us."""
    entries = []
    for entry in value.split(os.pathsep) if value else []:
        named = within(entry, project) if os.path.isabs(entry) else None
        entries.append(entry if named is None or named in copied.kept else os.path.normpath(f"{work}/{named}"))
    entries += [os.path.normpath(f"{work}/{folder}") for folder in copied.folders]
    return os.pathsep.join(dict.fromkeys(entries))


def told(copied: Redirected) -> str:
    """One line about what jobs can't import from their copies; empty where there is none."""
    reasons = ", ".join(f"{name} ({why})" for name, why in copied.others)
    return (
        f"Python may import these as they are now, not from a job's copy of the project: {reasons}" if reasons else ""
    )


# ---- what installers write


def _names(folder: str) -> list[tuple[str, bool]]:
    """(path, whether it is a symbolic link) of everything in a folder, in order."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.path, entry.is_symlink()) for entry in entries)
    except OSError:
        return []


def _path_lines(pth: str) -> Iterator[str]:
    """The folders that a .pth file names; its other lines are code, or say nothing."""
    for line in _read(pth).splitlines():
        line = line.strip()
        if line and not line.startswith(("#", "import ", "import\t")):
            yield line


def _mapping(finder: str) -> Iterator[tuple[str, str]]:
    """The (module, path) pairs of an import hook of setuptools."""
    import ast

    for text in _MAPPING.findall(_read(finder)):
        try:
            pairs = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            continue
        yield from ((str(module), str(path)) for module, path in pairs.items())


def _folder_of(module: str, source: str) -> str | None:
    """The folder that must be on the path so that `module` is found at `source`; None where none does that."""
    names, parts = module.split("."), source.removesuffix(".py").split("/")
    if parts[-len(names) :] != names:
        return None
    return "/".join(parts[: -len(names)]) or "."


def _editable_url(direct_url: str) -> str:
    """Where the source of an editable install is (PEP 610); empty for others."""
    text = _read(direct_url)
    if '"editable"' not in text:
        return ""
    try:
        body = json.loads(text)
        url = str(body["url"]) if body["dir_info"]["editable"] else ""
    except (ValueError, KeyError, TypeError):
        return ""
    from urllib.parse import unquote

    return unquote(url.removeprefix("file://")) if url.startswith("file:///") else ""


def _read(path: str) -> str:
    try:
        return (fsio.read_bytes(path) or b"").decode("utf-8", "replace")
    except OSError:
        return ""


# ---- what is in a copy


def _below(manifest: Manifest, folder: str) -> Iterator[tuple[str, str, str]]:
    """(path relative to the folder, kind, target) of everything in a folder of the copy."""
    prefix = "" if folder == "." else f"{folder}/"
    for e in manifest.entries:
        if e.path.startswith(prefix):
            yield e.path[len(prefix) :], e.kind, e.target


def _hides(manifest: Manifest, folder: str, stdlib: frozenset[str], names: frozenset[str]) -> str:
    """What a folder of the copy would hide on a PYTHONPATH, though it comes after it as installed; empty where there is
    nothing."""
    for path, kind, _ in _below(manifest, folder):
        top, _, below = path.partition("/")
        is_module = not below and kind in ("file", "big", "link") and top.endswith(_CODE)
        if is_module or below == "__init__.py":
            name, full = top.split(".")[0], os.path.normpath(f"{folder}/{path}")
            if name in stdlib or name in _STARTED:
                return f"{full} would hide the standard library's"
            if name in names - _ASIDE:
                return f"{full} would hide the {name} that is installed"
    return ""


def _unlike(manifest: Manifest, folder: str, project: str) -> str:
    """Why a folder of the copy can't stand for that of the project; empty where it can."""
    if folder != "." and not any(
        e.path == folder or (e.kind in ("shared", "link") and folder.startswith(f"{e.path}/")) for e in manifest.entries
    ):
        return "it is not in the copy"
    for path, kind, target in _below(manifest, folder):  # a tree of links, which setuptools makes in its strict mode
        is_code = path.count("/") < 2 and path.endswith(_CODE)
        if kind == "link" and is_code and os.path.isabs(target) and within(target, project):
            return "it holds links to the project's files by their full paths"
    return "a PYTHONPATH can't hold its path" if os.pathsep in project else ""
