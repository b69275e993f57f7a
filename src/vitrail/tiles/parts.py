"""The tiles of one slide as a part on disk: cut in a worker process, joined into the tile table later."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from vitrail.classes import CLASSES
from vitrail.core.files import read_json, read_table, write_text
from vitrail.errors import VitrailError
from vitrail.tiles.extract import cut_tiles, plan_slide
from vitrail.tiles.masks import shares
from vitrail.tiles.store import StoredTiles, start_array

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.settings.load import Settings
    from vitrail.slides.cohort import CohortSlide
    from vitrail.tiles.extract import TilePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class CutJob:
    """One slide to be cut, and the path of its part, to which suffixes are added."""

    entry: CohortSlide
    settings: Settings
    part: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one slide.

    Attributes
    ----------
    mpp
        um per level-0 pixel; NaN where it is not known.
    skipped
        Why the slide gave no tiles; empty where it did.
    warnings
        What was mended on the way, joined by ` | `.
    """

    mpp: float = float("nan")
    skipped: str = ""
    warnings: str = ""


def cut_part(job: CutJob) -> Outcome:
    """Cut one slide and leave its part, the record of it last. A slide that cannot be cut leaves none."""
    try:
        plan = plan_slide(job.entry, job.settings)
        rows = _write_arrays(job, plan)
    except VitrailError as error:
        # the report is passed on: a folder may hold a name
        return Outcome(skipped=str(type(error)(Path(error.where).name, error.problem, error.cure)))
    rows.to_parquet(_rows(job.part))
    outcome = Outcome(mpp=plan.slide.mpp, warnings=" | ".join(plan.annotations.warnings))
    write_text(_record(job.part), json.dumps(asdict(outcome)))
    return outcome


def _write_arrays(job: CutJob, plan: TilePlan) -> pd.DataFrame:
    """Write every tile as soon as it is cut; return the rows with the shares that the masks have."""
    share, side_px = np.empty((len(plan.rows), len(CLASSES))), job.settings.tiles.side_px
    with (
        _new_rows(_array(job.part, "images"), (len(share), side_px, side_px, 3)) as images,
        _new_rows(_array(job.part, "masks"), (len(share), side_px, side_px)) as masks,
    ):
        for tile in cut_tiles(plan, job.settings):
            images.put(tile.row, tile.image)
            masks.put(tile.row, tile.mask)
            share[tile.row] = shares(tile.mask)
    return plan.with_shares(share)


def finished_part(part: Path) -> Outcome | None:
    """Return what became of a slide whose part is there already."""
    record = _record(part)
    return Outcome(**read_json(record)) if record.is_file() else None


def read_part(part: Path) -> StoredTiles:
    """Read a part's rows, and tell where its pixels are."""
    images, masks = (_array(part, name) for name in ("images", "masks"))
    return StoredTiles(rows=read_table(_rows(part)), images=images, masks=masks)


def _record(part: Path) -> Path:
    return part.with_suffix(".json")


def _rows(part: Path) -> Path:
    return part.with_suffix(".parquet")


def _array(part: Path, suffix: str) -> Path:
    return part.with_suffix(f".{suffix}.npy")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """A file of rows of one size, to be filled in any order."""

    file: BinaryIO
    start: int

    def put(self, row: int, values: NDArray[np.uint8]) -> None:
        self.file.seek(self.start + row * values.nbytes)
        self.file.write(np.ascontiguousarray(values).data)


@contextmanager
def _new_rows(path: Path, shape: tuple[int, ...]) -> Iterator[_Rows]:
    """Write under a name of this process and rename: a worker that outlives its parent must spoil nothing."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            start_array(file, shape)
            yield _Rows(file=file, start=file.tell())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
