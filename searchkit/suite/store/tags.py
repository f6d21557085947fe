"""Tags of TensorBoard that several folders hold: Keras, for one, logs `epoch_accuracy` to `train/` and `validation/`.

Such a tag is no one series. Each gets the end of its folder's path in front, as much of it as tells the folders apart:
`train/epoch_accuracy`. The working folder itself is `.`. A tag that one folder alone holds keeps its name.

The second folder may appear while the job runs, and not at all in another job. So a name in the config that is a tag
after the end of a folder's path always means that series.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from searchkit.suite.store.growing import Series

Place = tuple[str, str]  # a folder, a tag in it


def named(
    folders: Mapping[str, Mapping[str, Series]], config_names: Collection[str] = ()
) -> tuple[dict[str, Series], dict[str, tuple[str, ...]]]:
    """(the series by name, what can be said instead of each name that fits several folders).

    folders: path below the working folder, `.` for itself -> tag -> series.
    """
    holders: dict[str, list[str]] = {}
    for folder, tags in folders.items():
        for tag in tags:
            holders.setdefault(tag, []).append(folder)
    several = {tag: holding for tag, holding in holders.items() if len(holding) > 1}
    names: dict[Place, str] = {(holding[0], tag): tag for tag, holding in holders.items() if len(holding) == 1}
    names |= _told_apart(several, set(names.values()))
    fits = {tag: [(folder, tag) for folder in holding] for tag, holding in several.items()}
    for name in config_names:
        if "/" not in name or name in holders:
            continue
        places = [place for place in names if f"/{place[0]}/{place[1]}".endswith(f"/{name}")]
        if len(places) == 1:
            names[places[0]] = name
        elif places:
            fits[name] = places
    shared = {name: tuple(names[place] for place in places) for name, places in fits.items()}
    return {name: dict(folders[folder][tag]) for (folder, tag), name in names.items()}, shared


def _told_apart(several: Mapping[str, list[str]], names_taken: Collection[str]) -> dict[Place, str]:
    """A name for each folder and tag that no other has."""
    parts = {folder: folder.split("/") for holding in several.values() for folder in holding}
    for k in range(1, max(map(len, parts.values()), default=0) + 1):
        ends = {folder: "/".join(part[-k:]) for folder, part in parts.items()}
        names = {(folder, tag): f"{ends[folder]}/{tag}" for tag, holding in several.items() for folder in holding}
        if len({*names.values(), *names_taken}) == len(names) + len(names_taken):
            return names
    return {(folder, tag): f"./{folder}/{tag}" for tag, holding in several.items() for folder in holding}
