"""What is drawn on pictures: colours of classes, and labels in fonts that have their letters."""

from __future__ import annotations

from collections.abc import Iterable

from PIL import ImageDraw, ImageFont

from searchkit import fonts

# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
TEXT_PX = 13


def label(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: str) -> None:
    """Text at its upper left corner."""
    font = font_of(text)
    pen.rectangle(pen.textbbox(at, text, font=font, font_size=TEXT_PX), fill=colour)
    pen.text(at, text, fill="white", font=font, font_size=TEXT_PX)


def font_of(text: str) -> ImageFont.FreeTypeFont | None:
    """A font that has the letters of a text; None is Pillow's own, which has those of ASCII."""
    if text.isascii():
        return None
    try:
        return ImageFont.truetype(fonts.font_for(text)[0], TEXT_PX)
    except OSError:  # a font of coloured pictures, which have sizes of their own
        return ImageFont.truetype(fonts.usual_font(), TEXT_PX)


def lacking(names: Iterable[str]) -> str:
    """The letters of names that no font of this machine has."""
    return "".join(fonts.font_for(name)[1] for name in set(names) if not name.isascii())
