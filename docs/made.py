"""Pages that are partly made from the code: what stands between `<!-- made: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from collections.abc import Mapping

PART = re.compile(r"(<!-- made: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, parts: Mapping[str, str]) -> str:
    """The page with every made part as it is now. Raises ValueError where page and parts name different ones."""
    names = [name for _, name, _ in PART.findall(page)]
    if sorted(names) != sorted(parts):
        lacking, left = sorted(parts.keys() - set(names)), sorted(set(names) - parts.keys())
        raise ValueError(
            f"every made part must stand on the page once: it lacks {lacking}, and has {left}, which nothing makes; "
            "write two lines where a part belongs, `<!-- made: NAME -->` and `<!-- end -->`"
        )
    return PART.sub(lambda match: match[1] + parts[match[2]] + match[3], page)
