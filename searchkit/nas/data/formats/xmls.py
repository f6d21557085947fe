"""XML of annotations, read without what makes XML dangerous: entities are refused, external files are never opened."""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.parsers import expat

DEEPEST = 32  # elements within elements: annotations have four


class Broken(ValueError):
    """A file that can't be read: what is wrong, and at which line."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.what, self.line = what, line


@dataclass(eq=False)
class Element:
    """An element: its name, where it begins (line and column, from 1), its text and the elements in it."""

    name: str
    line: int
    col: int = 1
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, name: str) -> list[Element]:
        return [child for child in self.children if child.name == name]

    def find(self, path: str) -> Element | None:
        """The first element at a path of names, such as `size/width`."""
        at: Element | None = self
        for name in path.split("/"):
            at = next((child for child in at.children if child.name == name), None) if at else None
        return at

    def text_of(self, path: str) -> str:
        """Its text; empty where there is none."""
        element = self.find(path)
        return element.text.strip() if element else ""


def parse(data: bytes) -> Element:
    """The root element. Raises Broken.

    expat opens no external file by itself, and from 2.4.1 on it stops entities that grow to more than 8 MiB. A file
    that declares or uses any is refused all the same: annotations need none.
    """
    top = Element("", 0)
    stack = [top]
    parser = expat.ParserCreate()

    def start(name: str, _: dict[str, str]) -> None:
        if len(stack) > DEEPEST:
            raise Broken(f"elements are nested more than {DEEPEST} deep", parser.CurrentLineNumber)
        stack.append(Element(name, parser.CurrentLineNumber, parser.CurrentColumnNumber + 1))
        stack[-2].children.append(stack[-1])

    def end(_: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].text += data

    def line() -> int:
        return parser.CurrentLineNumber

    def refuse(name: str, *_: object) -> None:
        raise Broken(f"it has the entity {name}: annotations need none, and such files can fill the memory", line())

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.EntityDeclHandler, parser.SkippedEntityHandler = refuse, refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as e:
        raise Broken(f"it is not XML: {expat.errors.messages[e.code]}", e.lineno) from e
    except (ValueError, LookupError) as e:
        if isinstance(e, Broken):
            raise
        raise Broken(f"it is not XML: {e}", line()) from e  # such as an encoding that Python does not know
    return top.children[0]
