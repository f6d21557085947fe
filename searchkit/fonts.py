"""Fonts for names: matplotlib's usual one, or for letters that it lacks one of the machine's that has them.

Needs matplotlib, which is imported when it is used.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".ttf", ".otf", ".ttc")
_LOOKING_S = 20  # that fontconfig may take: its first answer after an installation of fonts is slow


def font_for(text: str) -> tuple[str, str]:
    """(path of a font, the letters of the text that it lacks). Matplotlib's own where it has them all, else the one of
    the machine's that has most of them."""
    usual, letters = usual_font(), _letters(text)
    lacking = letters - _covered(usual)
    if not lacking:
        return usual, ""
    others = {path for letter in sorted(lacking) for path in _with_letter(letter)}
    best = min([usual, *others], key=lambda path: (len(letters - _covered(path)), "regular" not in path.lower(), path))
    return best, "".join(map(chr, sorted(letters - _covered(best))))


def spell(figure: Figure) -> str:
    """Set the texts of a figure in fonts that have their letters; returns the letters that no font has."""
    from matplotlib import font_manager
    from matplotlib.text import Text

    for axes in figure.axes:
        axes.get_xticklabels(), axes.get_yticklabels()  # those of categories are made only now
    lacking: set[str] = set()
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        uncovered = "".join(map(chr, sorted(_letters(text.get_text()) - _covered(usual_font()))))
        if not uncovered:
            continue
        path, none_has = font_for(uncovered)
        lacking |= set(none_has)
        font_manager.fontManager.addfont(path)  # fonts installed since matplotlib looked are unknown to it
        family = font_manager.FontProperties(fname=path).get_name()
        text.set_fontfamily([*text.get_fontfamily(), family])
    return "".join(sorted(lacking))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While a figure is written: no warnings about letters that no font has, which `note` reports once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def note(lacking: Iterable[str]) -> str:
    """The note about letters that no font has; empty where there are none."""
    letters = sorted(set(lacking))
    if not letters:
        return ""
    shown = " ".join(letters[:10]) + (" …" if len(letters) > 10 else "")
    return f"no font of this machine has {shown}: such letters are boxes in pictures. Install one (Debian: fonts-noto)"


@functools.cache
def usual_font() -> str:
    """The font that matplotlib brings with it."""
    from matplotlib import get_data_path

    return f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"


def _letters(text: str) -> set[int]:
    return {ord(c) for c in text if not c.isascii() and c.isprintable() and not c.isspace()}


@functools.lru_cache(maxsize=64)
def _covered(path: str) -> frozenset[int]:
    """What a font can write; nothing where it can't be read."""
    from matplotlib import ft2font

    try:
        font: Any = ft2font.FT2Font(path)
    except (RuntimeError, OSError):
        return frozenset()
    return frozenset(font.get_charmap())


@functools.lru_cache(maxsize=256)
def _with_letter(letter: int) -> tuple[str, ...]:
    """The machine's fonts that can write a letter: fontconfig knows, else those in the usual folders are opened."""
    import subprocess  # kept off the start-up path

    from matplotlib import font_manager

    if shutil.which("fc-list"):
        command = ["fc-list", f":charset={letter:x}", "file"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_LOOKING_S, check=True, text=True)
        except (OSError, subprocess.SubprocessError, ValueError):
            pass
        else:
            paths = {line.strip().removesuffix(":").strip() for line in done.stdout.splitlines()}
            return tuple(sorted(path for path in paths if path.lower().endswith(ENDINGS)))
    return tuple(path for path in sorted(font_manager.findSystemFonts()) if letter in _covered(path))
