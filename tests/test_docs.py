"""The documents say what is true: every command in them is run, every link leads somewhere.

A fenced block of a document is one of these:

    ```console      `$ command` lines, run in order by bash in one folder per document, or where the last `cd` led, as
                    in the reader's shell; below each its output (stdout and stderr together). `…` or `...` stands for
                    any text in a line; alone in a line, for any lines. A last line `[exit N]` is the exit code, else
                    it is 0. `make` lines are not run. A line that is `search-nas …` and nothing else is run in this
                    process, which has loaded torch: loading it takes most of the time of such a command.
    ```yaml, ```python, ```sh
                    a file of that folder; its first line is `# file: NAME`
    ```text         neither: a picture, or an excerpt of output that is not made here
"""

from __future__ import annotations

import re
import runpy
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from searchkit.errors import ConfigError
from searchkit.suite.config import read as config
from tests.support.suite import environment, kill, processes_with
from tests.test_imports import TABLE

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = [README, *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*DOCS, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "benchmarks").glob("*.md"))]
FILES = ("yaml", "python", "sh")
LANGUAGES = ("console", "text", *FILES)
TIMEOUT_S = 120  # of a command; only a busy machine needs it


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    language: str
    line: int  # of its opening fence
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    text: str
    line: int
    expected: tuple[str, ...]
    code: int


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a document, in order."""
    found: list[Block] = []
    fence, start, lines = "", 0, []
    for number, line in enumerate(page.split("\n"), 1):
        if not fence and re.match(r"\s*(```|~~~)", line):
            assert re.fullmatch(r"```[a-z]+", line), f"line {number}: a fence must be ``` and a language, not {line!r}"
            fence, start, lines = line[3:], number, []
        elif fence and line == "```":
            found.append(Block(fence, start, tuple(lines)))
            fence = ""
        elif fence:
            assert not line.lstrip().startswith("```"), f"line {number}: a fence inside the block of line {start}"
            lines.append(line)
    assert not fence, f"line {start}: this block has no end"
    return found


def commands(block: Block) -> Iterator[Command]:
    """The commands of a console block."""
    assert block.lines and block.lines[0].startswith("$ "), f"line {block.line}: a console block begins with `$ `"
    at = 0
    while at < len(block.lines):
        text, first = block.lines[at][2:], at + 1
        at = first
        while at < len(block.lines) and not block.lines[at].startswith("$ "):
            at += 1
        expected = list(block.lines[first:at])
        code = 0
        if expected and (said := re.fullmatch(r"\[exit (\d+)\]", expected[-1])):
            code = int(said[1])
            expected.pop()
        yield Command(text, block.line + first, tuple(expected), code)


def pattern(expected: tuple[str, ...]) -> str:
    """A regular expression for a whole output, each line of which ends in a newline."""
    parts = []
    for line in expected:
        if line.strip() in ("…", "..."):
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            parts.append("[^\n]*".join(map(re.escape, re.split(r"…|\.\.\.", line.rstrip()))) + r"\n")
    return "".join(parts)


def tidy(output: str) -> str:
    """Without blanks at the ends of lines, and without empty lines at the end."""
    text = "\n".join(line.rstrip() for line in output.split("\n")).rstrip("\n")
    return text + "\n" if text else ""


def trimmed(expected: tuple[str, ...]) -> tuple[str, ...]:
    while expected and not expected[-1].strip():
        expected = expected[:-1]
    return expected


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def check_make(command: str) -> None:
    """`make TARGET …`, with every target in the Makefile; what it does is for CI to see."""
    targets = [word for word in command.split()[1:] if "=" not in word]
    assert set(targets) <= make_targets(), f"{command}: the Makefile has {sorted(make_targets())}"


def run_command(command: Command, folder: Path, env: dict[str, str]) -> Path:
    """Returns the folder that the reader's shell is in afterwards."""
    if argv := of_search_nas(command.text):
        from tests.support import nas

        done = nas.call_in(folder, env, *argv)
        check(command, done.code, done.both)
        return folder
    with tempfile.NamedTemporaryFile("r") as end:
        check(command, *run_in_bash(f"trap 'pwd >{end.name}' EXIT; {command.text}", folder, env))
        return Path(end.read().strip() or folder)


def of_search_nas(text: str) -> list[str]:
    """The arguments of a command that needs no shell; none of any other."""
    import torch

    name, *argv = shlex.split(text)
    needs_shell = re.search(r"[|&;<>$`*?~]", re.sub("'[^']*'|\"[^\"$`]*\"", "", text))
    return [] if name != "search-nas" or needs_shell or torch.cuda.is_available() else argv


def run_in_bash(text: str, folder: Path, env: dict[str, str]) -> tuple[int, str]:
    """The exit code and the output of a command."""
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
    )
    return done.returncode, done.stdout


def check(command: Command, code: int, output: str) -> None:
    where = f"line {command.line}: $ {command.text}"
    assert code == command.code, f"{where}\nexit {code}, not {command.code}\n{output}"
    assert re.fullmatch(pattern(trimmed(command.expected)), tidy(output)), f"{where}\nprinted\n{tidy(output)}"


def run_page(page: str, folder: Path) -> None:
    """Do what a reader of the document does: write its files and run its commands, in order."""
    folder.mkdir()
    here = folder
    env = environment(CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")  # the same on a machine with GPUs
    for name in ("COLUMNS", "CUDA_DEVICE_ORDER"):
        env.pop(name, None)
    try:
        for block in blocks(page):
            if block.language == "console":
                for command in commands(block):
                    if command.text.split()[0] == "make":
                        check_make(command.text)
                    else:
                        here = run_command(command, here, env)
            elif block.language in FILES:
                named = re.fullmatch(r"# file: ([\w./-]+)", block.lines[0])
                assert named, f"line {block.line}: a {block.language} block begins with `# file: NAME`"
                target = folder / named[1]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text("\n".join(block.lines) + "\n")
            else:
                assert block.language == "text", f"line {block.line}: unknown language {block.language!r}"
    finally:
        left = processes_with(f"SEARCHKIT_JOB_DIR={folder}")
        for pid in left:
            kill(pid, signal.SIGKILL)
    assert not left, f"the document leaves processes behind: {left}"


@pytest.mark.slow
@pytest.mark.timeout(600)  # twenty commands that load torch, on a busy machine
@pytest.mark.parametrize("path", DOCS, ids=name_of)
def test_every_block_runs(path: Path, tmp_path: Path) -> None:
    run_page(path.read_text(encoding="utf-8"), tmp_path / "project")


def test_there_are_documents_and_blocks() -> None:
    names = {path.name for path in DOCS}
    wanted = ["README", "quickstart", "suite", "samplers", "supernets", "classification", "extend", "config"]
    wanted += ["nas-config", "cli", "contract", "files", "coming-from", "architecture"]
    assert {f"{name}.md" for name in wanted} <= names
    for path in DOCS:
        found = blocks(path.read_text(encoding="utf-8"))
        assert {block.language for block in found} <= set(LANGUAGES), path
        if path.name != "architecture.md":
            assert any(block.language == "console" for block in found), f"{path} has no command"


@pytest.mark.parametrize(
    "page",
    [
        "```bash\ntrue\n```",  # a language we don't run
        "```\ntrue\n```",  # none
        "```console\ntrue\n```",  # no prompt
        "```console\n$ true",  # no end
        "```console\n$ false\n```",  # another exit code
        "```console\n$ true\n[exit 1]\n```",
        "```console\n$ echo a\n```",  # output that is not there
        "```console\n$ echo a\nb\n```",
        "```console\n$ true\na\n```",
        "```console\n$ make nothing\n```",
        "```console\n$ mkdir a && cd a\n$ cd a\n```",  # the reader's shell is there already
        "```yaml\ntask: {}\n```",  # a file without a name
        "- a\n\n  ```console\n  $ false\n  ```",  # a fence that is indented
    ],
)
def test_a_wrong_document_is_found(page: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run_page(page, tmp_path / "project")


def test_a_right_document_passes(tmp_path: Path) -> None:
    run_page(
        "# Title\n```sh\n# file: bin/a.sh\necho one; echo; echo two; echo three; exit 3\n```\n"
        "```console\n$ sh bin/a.sh\none\n\nt…\n…\n[exit 3]\n$ sh bin/a.sh >out || true\n$ head -1 out\n...\n```\n"
        "```console\n$ make demo\n$ mkdir sub && cd sub\n$ ls ../bin\na.sh\n```\n"
        "```text\nanything\n```\n",
        tmp_path / "project",
    )


# ---- links, names and tables


def prose(page: str) -> str:
    """A document without its blocks."""
    return re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


def anchors(page: str) -> set[str]:
    """The names that the headings of a document get on GitHub."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    text = prose(path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists() and there.is_relative_to(ROOT), f"{path.name}: {target} leads nowhere"
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{path.name}: no heading for {target}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_files_that_are_named_exist(path: Path) -> None:
    tops = {ROOT: "searchkit|tests|templates|docs|benchmarks", ROOT / "searchkit": "suite|nas|job|reading|records"}
    for top, folders in tops.items():
        for named in re.findall(rf"`((?:{folders})/[\w./*-]*)`", path.read_text(encoding="utf-8")):
            assert list(top.glob(named.rstrip("/"))), f"{path.name} names {named}, which is not there"


def test_the_map_has_the_rows_of_the_law() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \|", text.partition("## One turn")[0], re.MULTILINE)
    assert rows == [name for name, _ in TABLE], "docs/architecture.md: the rows of tests/test_imports.py"


def test_every_document_can_be_reached_from_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    for path in DOCS[1:]:
        assert f"](docs/{path.name})" in text, f"README.md has no link to docs/{path.name}"


def test_pre_commit_runs_the_ruff_of_the_constraints() -> None:
    (pinned,) = re.findall(r"^ruff==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"rev: v{pinned} " in (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")


def test_no_document_names_this_machine() -> None:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert str(ROOT) not in text, f"{path.name} holds {ROOT}"


def test_the_page_of_commands_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    render = runpy.run_path(str(ROOT / "docs" / "make_cli.py"))["render"]
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == render(), "run: python docs/make_cli.py"


def test_commands_that_hints_name_exist() -> None:
    from searchkit.nas.cli.main import HIDDEN, VERBS
    from searchkit.suite.cli.ctl import group

    verbs = {"search-ctl": group.commands.keys(), "search-nas": VERBS.keys() | HIDDEN.keys()}
    for path in sorted((ROOT / "searchkit").rglob("*.py")):
        text = re.sub('""".*', "", path.read_text(encoding="utf-8"))
        for command, verb in re.findall(r"(?:: | {4})(search-ctl|search-nas) ([a-z][a-z-]*)", text):
            assert verb in verbs[command], f"{path}: {command} {verb}"


def test_the_page_of_the_supernet_config_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    render = runpy.run_path(str(ROOT / "docs" / "make_nas_config.py"))["render"]
    assert (ROOT / "docs" / "nas-config.md").read_text(encoding="utf-8") == render(), (
        "run: python docs/make_nas_config.py"
    )


def test_every_file_of_the_page_on_python_is_run() -> None:
    found = blocks((ROOT / "docs" / "python.md").read_text(encoding="utf-8"))
    files = [block.lines[0].removeprefix("# file: ") for block in found if block.language == "python"]
    run = "\n".join(line for block in found if block.language in ("console", "yaml") for line in block.lines)
    assert files and all(f"python {file}" in run for file in files)


def test_the_page_on_backbones_has_the_tested_one() -> None:
    page = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    for name in ("my_backbone.py", "own/ladder.py"):
        assert (ROOT / "tests" / "assets" / name).read_text(encoding="utf-8") in page


def valid_keys(text: str, section: str) -> set[str]:
    """The keys that a section takes, from the fault that an unknown one gives."""
    with pytest.raises(ConfigError) as caught:
        config.parse(text.encode(), "c.yaml")
    said = re.search(rf"{re.escape(section)}unknown key '0' \(valid: ([^)]*)\)", str(caught.value))
    assert said, caught.value
    return set(said[1].split(", "))


def test_the_table_of_keys_is_complete() -> None:
    top = valid_keys("{task: {template: a}, '0': 1}", "") - {"pavi"}
    real = {"env.NAME"}
    real |= {
        f"stages.{name}" for name in valid_keys("{stages: [{name: a, task: {template: b}, '0': 1}]}", "stages[0]: ")
    }
    real -= {"stages.pavi"}
    for section in top - {"env", "stages"}:
        task = "template: a, " if section == "task" else ""
        rest = "" if section == "task" else "task: {template: a}, "
        names = valid_keys(f"{{{rest}{section}: {{{task}'0': 1}}}}", f"{section}: ")
        real |= {f"{section}.{name}" for name in names}
    below = valid_keys("{task: {template: a}, monitor: {compare: {'0': 1}}}", "monitor.compare: ")
    real = real - {"monitor.compare"} | {f"monitor.compare.{name}" for name in below}
    text = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `((?:" + "|".join(top) + r")\.[\w.]+)` \|", text, re.MULTILINE))
    assert told == real
