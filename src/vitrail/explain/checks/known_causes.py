"""Tiles of synthetic slides drawn again without what makes a carcinoma one: pairs of which the cause is known."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from vitrail.geometry import Region
from vitrail.synthetic import SlideSpec, compose, draw_tile, slide_pair
from vitrail.synthetic.truth import is_synthetic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.synthetic import Scene

    Images = NDArray[np.uint8]
    Score = Callable[[Images], NDArray[np.float64]]

KNOWN = ("size", "darkness", "outline", "atypia", "crowding", "stroma")
"""Causes that are taken away, names of `CAUSES`."""


def read_spec(slide: Path) -> SlideSpec | None:
    """Read what a synthetic slide was drawn from; None for any other, and for one that already lacks a cause.

    Parameters
    ----------
    slide
        The slide's path; a link is followed.

    Returns
    -------
    SlideSpec | None
        As its header has it.
    """
    path = slide.resolve()
    if not (path.is_file() and is_synthetic(path)):
        return None
    with tifffile.TiffFile(path) as tiff:
        record: Any = json.loads(tiff.pages.first.description)
    del record["drawing"]
    lists = {name: tuple(value) for name, value in record.items() if isinstance(value, list)}
    spec = SlideSpec(**(record | lists))
    return None if spec.without else spec


def draw_known(
    specs: Mapping[str, SlideSpec], tumor: pd.DataFrame, rest: pd.DataFrame, side_px: int, step: Callable[[], None]
) -> Images:
    """Draw tiles of tumor with every cause and without each, and other tiles as they are.

    All are drawn as JPEG has not compressed them: what a pair differs in is the cause, and nothing else.

    Parameters
    ----------
    specs
        The slides.
    tumor, rest
        Rows of tiles of both classes: `slide_id`, `x`, `y` and `side`.
    side_px
        Of the tiles.
    step
        Called after each scene that was decided and drawn from.

    Returns
    -------
    NDArray[np.uint8]
        `[tumor tiles * (1 + causes) + other tiles, h, w, 3]`: tiles as they are, without the first cause, and so on.
    """
    drawn = np.zeros(((1 + len(KNOWN)) * len(tumor) + len(rest), side_px, side_px, 3), np.uint8)
    pairs = drawn[: len(drawn) - len(rest)].reshape(1 + len(KNOWN), len(tumor), side_px, side_px, 3)
    others = drawn[len(drawn) - len(rest) :]
    for slide_id in sorted({*tumor["slide_id"], *rest["slide_id"]}):
        present = compose(specs[slide_id])
        own = tumor["slide_id"].to_numpy() == slide_id
        _draw_into(others, present, rest, rest["slide_id"].to_numpy() == slide_id)
        _draw_into(pairs[0], present, tumor, own)
        step()
        for number, cause in enumerate(KNOWN, 1):
            if own.any():
                _draw_into(pairs[number], slide_pair(present, cause).absent, tumor, own)
            step()
    return drawn


def _draw_into(images: Images, scene: Scene, rows: pd.DataFrame, own: NDArray[np.bool_]) -> None:
    for i in np.flatnonzero(own).tolist():
        x, y, side = (float(rows[name].iloc[i]) for name in ("x", "y", "side"))
        images[i] = draw_tile(scene, Region(x=x, y=y, width=side, height=side), images.shape[1:3])


def measure_known(score: Score, drawn: Images, tiles: int) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Score tiles of tumor with and without each cause.

    The matched change is the pair's own difference turned by half a turn: as large, of the same colours and shapes, but
    not lying where the cause does, save by chance.

    Parameters
    ----------
    score
        Log odds of tumor of images.
    drawn
        As `draw_known` returns them.
    tiles
        How many tiles of tumor there are.

    Returns
    -------
    dict[str, dict[str, NDArray[np.float64]]]
        By cause `before`, `after`, `matched` and `goal`, each `[tiles]`.
    """
    count = tiles * (1 + len(KNOWN))
    pairs = drawn[:count].reshape(1 + len(KNOWN), tiles, *drawn.shape[1:])
    before, goal = score(pairs[0]), np.full(tiles, score(drawn[count:]).mean())
    measured = {}
    for cause, absent in zip(KNOWN, pairs[1:], strict=True):
        change = absent.astype(np.int16) - pairs[0]
        turned = (pairs[0] + change[:, ::-1, ::-1]).clip(0, 255).astype(np.uint8)
        moved = (absent != pairs[0]).any(axis=(1, 2, 3))  # a cause that a tile does not have moves nothing, exactly
        after, matched = before.copy(), before.copy()
        if moved.any():
            after[moved], matched[moved] = score(absent[moved]), score(turned[moved])
        measured[cause] = {"before": before, "after": after, "matched": matched, "goal": goal}
    return measured
