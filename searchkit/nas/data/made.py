"""Folders of data that are made: they appear whole, are kept where they are the same already, and are replaced only
where nothing in them is anybody else's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

from searchkit import fsio
from searchkit.errors import UsageError

SOURCE = "SOURCE.txt"  # in the folder: what it is, and of what it was made


def made(
    out: str,
    text: str,
    fill: Callable[[str], None],
    *,
    changed: Callable[[str], str] | None = None,
    overwrite: bool = False,
) -> str:
    """The folder `out`, filled by `fill` and with `text` as its SOURCE.txt; it appears only when complete.

    An existing one with the same text is kept. changed: what of an existing folder is not as it was made, in words,
    empty where all is; with it such a folder may be replaced (overwrite), and is kept only if it is whole. Raises
    UsageError where `out` holds something else, or was changed.
    """
    source = fsio.read_bytes(os.path.join(out, SOURCE))
    if source is not None or (os.path.isdir(out) and os.listdir(out)) or os.path.isfile(out):
        why = changed(out) if changed is not None else "it is not replaced"
        same = source == text.encode()
        if same and (changed is None or not why):
            return out
        if why:
            what = "was changed since it was made" if same else "holds something else"
            also = f" ({why})" if changed is not None else ""
            raise UsageError(f"{out} {what}{also}", "Name another folder (--out), or remove it.")
        if not overwrite:
            hint = "Replace it (--overwrite: it is all searchkit's), or name another folder (--out)."
            raise UsageError(f"{out} holds something else, made from other data", hint)
    half, old = (fsio.half_name(f"{os.path.abspath(out)}{end}") for end in ("", ".old"))
    shutil.rmtree(half, ignore_errors=True)
    try:
        os.makedirs(half)
        fill(half)
        fsio.write_new(os.path.join(half, SOURCE), text.encode(), durable=False)
        if source is not None:
            os.rename(out, old)
        os.replace(half, out)  # an empty folder in its place is allowed
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    return out
