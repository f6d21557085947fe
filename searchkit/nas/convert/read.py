"""Files of other projects: which project one is of, and what it says in our terms."""

from __future__ import annotations

from dataclasses import replace

from searchkit.errors import ConfigError, UsageError
from searchkit.nas.convert import attentive, dmcp, genotype, mmrazor, npy, ofa, united
from searchkit.nas.convert.parts import Converted
from searchkit.reading import nodes
from searchkit.reading.cursor import Cursor
from searchkit.reading.nodes import Document, Node

KINDS = (
    "a genotype of aw_nas (image_size=300, cell_0=1, ...)",
    "once-for-all's net.config or {ks, e, d}",
    "AttentiveNAS's {width, kernel_size, expand_ratio, depth}",
    "a subnet file of mmrazor",
    "United-Perception's net, bignas or subnet_settings",
    "a sample.npy of DMCP",
)


def convert(path: str, name: str = "") -> Converted:
    """What a file of another project says. name: of a network, where the file has several.

    Raises ConfigError with every fault and its place, UsageError for a file that can't be read or is of no known kind.
    """
    if path.endswith(".npy"):
        return dmcp.read_dmcp(npy.load(path), path)
    document, repairs = _load(path)
    if genotype.MARK.search(document.text) and document.root.kind != "map":
        return genotype.read_genotype(path, document.text)
    document.check()
    if (given := _genotypes(document.root)) is not None:
        text, config = given
        return genotype.read_genotype(path, text.text, text.line, text.col, genotype.around(config))
    at = Cursor(document.root, "", document.report)
    at = at["arch"] if "arch" in at and at["arch"].node.kind == "map" else at  # a table of several projects' archs
    if ofa.is_ofa(at):
        converted = ofa.read_ofa(at)
    elif attentive.is_attentive(at):
        converted = attentive.read_attentive(at, name)
    elif mmrazor.is_mmrazor(at):
        converted = mmrazor.read_mmrazor(at)
    elif united.is_united(at):
        converted = united.read_united(at)
    else:
        raise UsageError(f"{path} is of no kind that is known", f"It may be {'; '.join(KINDS)}")
    document.check()
    return replace(converted, notes=(*repairs, *converted.notes)) if repairs else converted


def _genotypes(node: Node) -> tuple[Node, Node] | None:
    """The genotype within a config of aw_nas, and the section of the config that it is in; None where there is none."""
    for key, (_, value) in node.entries.items():
        if key == "genotypes" and genotype.MARK.search(value.text):
            return value, node
        if (found := _genotypes(value)) is not None:
            return found[0], node
    return None


def _load(path: str) -> tuple[Document, list[str]]:
    """(the file, what had to be put right in it)."""
    try:
        return nodes.load(path), []
    except ConfigError:
        with open(path, encoding="utf-8-sig") as f:
            text, repairs = united.repaired(f.read())
        if not repairs:
            raise
        return nodes.parse(text.encode(), path), repairs
