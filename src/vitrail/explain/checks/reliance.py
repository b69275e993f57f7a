"""What a network's tumor score rests on: how much of it goes when a candidate is taken away, and comes when it is put.

The share of the score that rests on a cause is what the score loses without it, over all that the score of tumor is
above that of tissue without tumor. A shortcut works both ways: tumor without it loses score, other tissue with it gains
score, and both by more than the same change costs where it does not touch the candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vitrail.classes import NETWORKS
from vitrail.core.files import read_table
from vitrail.metrics.bootstrap import estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.explain.checks.counterfactuals import Counterfactual

    Images = NDArray[np.uint8]
    Score = Callable[[Images], NDArray[np.float64]]

TABLE, PICTURES = "reliance.parquet", "reliance.npy"

COLUMNS = {
    "tile": "int64", "patient_id": "str", "network": "str", "cause": "str", "way": "str", "before": "float64",
    "after": "float64", "matched": "float64", "goal": "float64",
}  # fmt: skip
"""Of the table `reliance`: log odds of tumor of a tile as it is, after the change, after matched changes (the mean),
and the mean of the other class, which is what the score would be if all of it rested on the cause. `way` is `taken` of
tumor, `put` of other tissue, and `pair` of tumor drawn again without a known cause."""

LEAST_SHARE = {"ink": 0.15, "mark": 0.15, "stain": 0.35, "sharpness": 0.35}
"""A shortcut is named where more than this share of the score rests on it, by each way and, with the whole interval
over patients, by both together; and more than the matched change moves.

A convention. Tissue has no such colours as ink, but tumor differs from other tissue in stain and detail by nature: in
clean synthetic cohorts a quarter of the score may rest on the strength of the stains. `bench.shortcuts` measures how
often the verdict is wrong.
"""

LEAST_KNOWN = 0.15
"""The same of causes that synthetic slides were drawn from."""

TITLES = {
    "ink": "coloured ink",
    "mark": "black or grey marks",
    "stain": "the strength of the stains",
    "sharpness": "sharpness",
    "atypia": "atypia of nuclei",
    "size": "size of nuclei",
    "darkness": "darkness of nuclei",
    "outline": "outline of nuclei",
    "crowding": "crowding of nuclei",
    "cytoplasm": "the cells' bodies",
    "stroma": "the tumor's stroma",
}
"""What causes are called in sentences."""

_MATCHED = {
    "ink": "filling in as much tissue elsewhere",
    "mark": "filling in as much tissue elsewhere",
    "stain": "a change of stain as large that does not part the classes",
    "sharpness": "the same bands of another tumor tile instead",
}


class Share(NamedTuple):
    """A share of the score with its 95 % interval over patients, NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reliance:
    """What was measured of a run, tile by tile.

    Attributes
    ----------
    table
        As `COLUMNS`, and `picture`, the row in `pictures`, -1 for none.
    pictures
        `[n, 2, h, w, 3]`: a tile, and the same without the cause.
    """

    table: pd.DataFrame
    pictures: Images


def read_reliance(folder: Path) -> Reliance | None:
    """Read what the checks wrote; None for checks of before, or of tiles without any called correctly."""
    if not (folder / PICTURES).is_file():
        return None
    return Reliance(table=read_table(folder / TABLE), pictures=np.load(folder / PICTURES, mmap_mode="r"))


def measure(
    candidate: Counterfactual,
    score: Score,
    tumor: Images,
    rest: Images,
    begun: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Take a candidate away from tiles of tumor, and put it onto other tiles.

    Parameters
    ----------
    candidate
        The candidate.
    score
        Log odds of tumor of images.
    tumor, rest
        Tiles `[n, h, w, 3]` of both classes; there must be some of each.
    begun
        The scores of both as they are, which several candidates share; by default they are scored.

    Returns
    -------
    tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]
        `before`, `after`, `matched` and `goal`, as the table has them: of tumor, and of the others.
    """
    donors = np.resize(np.arange(len(tumor)), len(rest))  # each tile of tumor gives in turn
    tiles, changes = (tumor, rest), (candidate.take(tumor), candidate.put(rest, tumor[donors]))
    begun = begun or (score(tumor), score(rest))
    rows = []
    for images, before, other, change in zip(tiles, begun, begun[::-1], changes, strict=True):
        after, *matched = (_rescored(score, images, before, each) for each in (change.images, *change.matched))
        goal = np.full(len(before), other.mean())
        rows.append({"before": before, "after": after, "matched": np.mean(matched, axis=0), "goal": goal})
    return rows[0], rows[1]


def _rescored(score: Score, images: Images, before: NDArray[np.float64], changed: Images) -> NDArray[np.float64]:
    """Score changed tiles; those that have not changed keep their score, to the last bit."""
    moved, after = (images != changed).any(axis=(1, 2, 3)), before.copy()
    if moved.any():
        after[moved] = score(changed[moved])
    return after


def share(rows: pd.DataFrame, start: str, end: str, seed: int) -> Share:
    """Return which share of the way to the other class tiles go, with its interval over patients.

    Parameters
    ----------
    rows
        Of the table, with `sign`, 1 for those whose score should fall and -1 for those whose should rise.
    start, end
        The columns between which they go.
    seed
        Draws the patients.

    Returns
    -------
    Share
        NaN where undefined.
    """
    way, all_of_it = (rows["sign"] * (rows[first] - rows[last]) for first, last in ((start, end), ("before", "goal")))
    return Share(*estimate(way, all_of_it, rows["patient_id"], seed))


def summarise(table: pd.DataFrame, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Say for each network what its score rests on.

    Parameters
    ----------
    table
        The table `reliance`.
    seed
        Draws the patients of the intervals.

    Returns
    -------
    dict[str, list[dict[str, Any]]]
        By network one entry a cause, the largest share first, null for what is undefined: `cause`; `known`, whether it
        is a cause that the slides were drawn from, or a candidate; `share` with `low` and `high`, of the score of tumor
        tiles; `null`, the share that the matched change takes; as `[value, low, high]`, `put`, the share that comes to
        other tiles with the candidate, `both`, the share of both kinds of tiles together, and `beyond`, how much of
        that is more than the matched change moves; `tiles`, `patients`; `named`; and `sentence`.
    """
    summary: dict[str, list[dict[str, Any]]] = {}
    for network, rows in table.groupby("network", sort=False):
        entries = [_entry(str(cause), part, seed) for cause, part in rows.groupby("cause", sort=False)]
        entries.sort(key=lambda entry: -(entry["share"] if entry["share"] is not None else -np.inf))
        title = NETWORKS.get(str(network), str(network)).lower()
        summary[str(network)] = [entry | {"sentence": sentence(entry, title)} for entry in entries]
    return summary


def _entry(cause: str, rows: pd.DataFrame, seed: int) -> dict[str, Any]:
    rows = rows.assign(sign=np.where(rows["way"] == "put", -1, 1))  # other tissue gains what tumor loses
    ways = {str(way): part for way, part in rows.groupby("way", sort=False)}
    least, nothing = LEAST_SHARE.get(cause, LEAST_KNOWN), Share(np.nan, np.nan, np.nan)
    shares = {way: share(part, "before", "after", seed) for way, part in ways.items()}
    known = "pair" in ways
    taken = ways["pair" if known else "taken"]
    first, both = shares["pair" if known else "taken"], share(rows, "before", "after", seed)
    beyond = share(rows, "matched", "after", seed)
    return {
        "cause": cause,
        "known": known,
        "share": _json(first.value),
        "low": _json(first.low),
        "high": _json(first.high),
        "null": _json(share(taken, "before", "matched", seed).value),
        "put": [_json(value) for value in shares.get("put", nothing)],
        "both": [_json(value) for value in both],
        "beyond": [_json(value) for value in beyond],
        "tiles": len(taken),
        "patients": int(taken["patient_id"].nunique()),
        "named": bool(both.low > least and beyond.low > 0 and all(each.value > least for each in shares.values())),
    }


def _json(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def sentence(entry: Mapping[str, Any], title: str) -> str:
    """Say in words what an entry of the summary says; `title` names the network."""
    cause = TITLES.get(entry["cause"], entry["cause"])
    if entry["share"] is None:
        return f"How much of the {title}'s score of tumor tiles rests on {cause} cannot be told."
    ends = "" if entry["low"] is None else f" ({100 * entry['low']:.0f} to {100 * entry['high']:.0f})"
    words = f"{100 * entry['share']:.0f} %{ends} of the {title}'s score of tumor tiles rests on {cause}"
    if entry["null"] is not None:
        matched = _MATCHED.get(entry["cause"], "the same change turned by half a turn")
        words += f"; {matched} takes {100 * entry['null']:.0f} %"
    if entry["put"][0] is not None:
        words += f", and other tissue with it gains {100 * entry['put'][0]:.0f} %"
    return f"{words}.".replace("-", "\N{MINUS SIGN}")


def conclusion(entries: Sequence[Mapping[str, Any]]) -> str:
    """Say which shortcuts are named, or that none is."""
    names = [TITLES.get(entry["cause"], entry["cause"]) for entry in entries if entry["named"] and not entry["known"]]
    candidates = [TITLES.get(entry["cause"], entry["cause"]) for entry in entries if not entry["known"]]
    if names:
        return f"A shortcut was named: {', '.join(names)}."
    return f"No shortcut was named; looked for: {', '.join(candidates)}."
