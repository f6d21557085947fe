"""Which module may import which, and that importing does nothing but import.

The table below is the project's architecture. A new top-level module or package gets a row of its own.
"""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "searchkit"

# (module or package under searchkit, layer). A module imports from lower layers, or from rows above its own in the same
# layer; within one package, from any module, as long as there is no cycle.
TABLE = (
    ("errors", 1),
    ("fsio", 1),
    ("workspace", 1),
    ("cpus", 1),
    ("worker", 1),
    ("trial", 1),
    ("yaml_tree", 2),
    ("nodes", 2),
    ("console", 2),
    ("fonts", 2),
    ("space", 2),
    ("algorithms", 2),
    ("modelspace", 2),
    ("rules", 2),
    ("shells", 2),
    ("quoting", 2),
    ("template", 2),
    ("settings", 2),
    ("search_section", 2),
    ("template_section", 2),
    ("config", 2),
    ("store", 3),
    ("backends", 3),
    ("launcher", 4),
    ("searching", 4),
    ("judging", 4),
    ("rereading", 4),
    ("points", 4),
    ("attempts", 4),
    ("working", 4),
    ("recovery", 4),
    ("orders", 4),
    ("scheduler", 4),
    ("control", 4),
    ("stages", 4),
    ("cli", 5),
    # Below is the search library. It uses torch, and of the suite only layers 1 and 2; above, nothing may import torch.
    ("nn", 6),
    ("models", 6),
    ("data", 6),
    ("cost", 7),
    ("train", 8),
    ("subnet", 9),
    ("nas_cli", 10),
)
ROW = {name: row for row, (name, _) in enumerate(TABLE)}
LAYER = dict(TABLE)
SUITE = 5  # the highest layer of the suite
SHARED = 2  # the highest layer of the suite that the search library may use
STDLIB_ONLY = ("errors", "fsio", "worker", "trial")
HEAVY = {"torch", "torchvision", "optuna", "pycocotools", "safetensors", "scipy", "sklearn", "tensorboard"}


def modules() -> dict[str, Path]:
    """Dotted name to file of every module. The recipes are reached by a link, and are no modules."""
    found = {}
    for folder, folders, files in os.walk(PACKAGE):  # does not follow links
        folders[:] = [name for name in folders if name != "_templates"]
        for file in files:
            if file.endswith(".py"):
                path = Path(folder, file)
                parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(module: str, path: Path, known: dict[str, Path]) -> list[tuple[int, str]]:
    """(line, imported module) of every import, in functions too. `from a import b` is a.b where that is a module."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.append((node.lineno, full if full in known else base))
    return found


def top(module: str) -> str:
    """`searchkit.store.journal` -> `store`; the package itself -> ``."""
    return module.split(".")[1] if "." in module else ""


def faults(known: dict[str, Path]) -> list[str]:
    """Every import that the table forbids, and every module that the table does not have."""
    wrong = []
    for module, path in sorted(known.items()):
        here = top(module)
        if not here:
            continue  # the package itself: test_the_package_imports_nothing
        if here not in LAYER:
            wrong.append(f"{module}: no row in the table of {Path(__file__).name}; add searchkit.{here} and its layer")
            continue
        for line, target in imports(module, path, known):
            where = f"{path.name}:{line}: {module} (layer {LAYER[here]}) imports {target}"
            if not target.startswith("searchkit."):
                if LAYER[here] <= SUITE and target.split(".")[0] in HEAVY - {"optuna"}:
                    wrong.append(f"{where}: only the search library may")
                continue
            there = top(target)
            if there not in LAYER:
                wrong.append(f"{where}: no row in the table")
            elif ROW[there] > ROW[here]:
                wrong.append(f"{where} (layer {LAYER[there]}): its row stands below")
            elif LAYER[here] > SUITE and SHARED < LAYER[there] <= SUITE:
                wrong.append(f"{where} (layer {LAYER[there]}): the search library may use layers 1 to {SHARED} only")
    return wrong


def cycle(known: dict[str, Path]) -> list[str]:
    """The modules of one import cycle, or nothing."""
    graph = {
        module: {target for _, target in imports(module, path, known) if target in known and top(target)} - {module}
        for module, path in known.items()
        if top(module)
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as e:
        return list(reversed(e.args[1]))
    return []


def python(code: str, cwd: Path, **env: str) -> str:
    """What a fresh interpreter prints, warnings being errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_table_is_ordered_by_layer() -> None:
    assert [layer for _, layer in TABLE] == sorted(layer for _, layer in TABLE)
    assert len(ROW) == len(TABLE)


def test_every_import_follows_the_table() -> None:
    assert {"searchkit.errors", "searchkit.store", "searchkit.cli"} <= set(MODULES)
    assert not (wrong := faults(MODULES)), "\n".join(wrong)


def test_no_import_cycle() -> None:
    assert not (found := cycle(MODULES)), " imports ".join(found)


@pytest.mark.parametrize("name", STDLIB_ONLY)
def test_stdlib_only(name: str) -> None:
    module = f"searchkit.{name}"
    outside = {
        target.split(".")[0]
        for _, target in imports(module, MODULES[module], MODULES)
        if target.split(".")[0] not in {*sys.stdlib_module_names, "searchkit"}
    }
    assert not outside, f"{module} is for the standard library alone, but imports {', '.join(sorted(outside))}"


def test_a_forbidden_import_is_found(tmp_path: Path) -> None:
    def write(name: str, text: str) -> Path:
        (tmp_path / f"{name}.py").write_text(text)
        return tmp_path / f"{name}.py"

    known = {
        "searchkit.errors": write("errors", "def f():\n    from searchkit.store import journal\n"),
        "searchkit.store.journal": write("journal", "from .. import errors\nimport torch\n"),
        "searchkit.nn": write("nn", "import torch\nfrom searchkit import errors\nfrom searchkit import cli\n"),
        "searchkit.cli": write("cli", ""),
        "searchkit.extra": write("extra", ""),
    }
    assert [wrong.split(" ")[0] for wrong in faults(known)] == [
        "errors.py:2:",
        "searchkit.extra:",
        "nn.py:3:",
        "journal.py:2:",
    ]
    assert set(cycle(known)) == {"searchkit.errors", "searchkit.store.journal"}


def test_the_package_imports_nothing(tmp_path: Path) -> None:
    code = "import sys; before = set(sys.modules); import searchkit; print(*set(sys.modules) - before)"
    assert set(python(code, tmp_path).split()) <= {"searchkit", "__future__"}


def test_the_command_line_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded = python("import sys, searchkit.cli.ctl; print(*{name.split('.')[0] for name in sys.modules})", tmp_path)
    assert not HEAVY & set(loaded.split())


def test_importing_has_no_effect(tmp_path: Path) -> None:
    """No file made, no variable set, no thread started, no signal handled, nothing printed."""
    cwd, home, tmp = (tmp_path / name for name in ("cwd", "home", "tmp"))
    for folder in (cwd, home, tmp):
        folder.mkdir()
    cwd.chmod(0o555)
    names = [name for name in sorted(MODULES) if not name.endswith("__main__")]
    code = f"""
import importlib, os, signal, sys, threading
import torch, torchvision  # what these do is not ours
def look():
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    return dict(os.environ), os.getcwd(), threading.active_count(), handlers
before = look()
for name in {names!r}:
    importlib.import_module(name)
    assert look() == before, name
"""
    assert python(code, cwd, HOME=str(home), TMPDIR=str(tmp)) == ""
    made = [*cwd.iterdir(), *home.iterdir(), *tmp.iterdir()]
    assert not [path for path in made if not path.name.startswith("torchinductor")]
