"""The tiles of one slide as a part on disk: cut in a worker process, joined into the tile table later."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vitrail.errors import VitrailError
from vitrail.files import write_text
from vitrail.tiles.cut import cut_slide
from vitrail.tiles.table import TileTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.config import Settings
    from vitrail.slides.cohort import CohortSlide


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
        cut = cut_slide(job.entry, job.settings)
    except VitrailError as error:
        # the report is passed on: a folder may hold a name
        return Outcome(skipped=str(type(error)(Path(error.where).name, error.problem, error.cure)))
    cut.rows.to_parquet(_rows(job.part))
    for suffix, array in (("images", cut.images), ("masks", cut.masks)):
        _save(_array(job.part, suffix), array)
    outcome = Outcome(mpp=cut.mpp, warnings=" | ".join(cut.warnings))
    write_text(_record(job.part), json.dumps(asdict(outcome)))
    return outcome


def finished_part(part: Path) -> Outcome | None:
    """Return what became of a slide whose part is there already."""
    record = _record(part)
    return Outcome(**json.loads(record.read_text(encoding="utf-8"))) if record.is_file() else None


def read_part(part: Path) -> TileTable:
    """Open a part; its arrays are memory maps."""
    images, masks = (np.load(_array(part, suffix), mmap_mode="r") for suffix in ("images", "masks"))
    return TileTable(rows=pd.read_parquet(_rows(part)), images=images, masks=masks)


def _record(part: Path) -> Path:
    return part.with_suffix(".json")


def _rows(part: Path) -> Path:
    return part.with_suffix(".parquet")


def _array(part: Path, suffix: str) -> Path:
    return part.with_suffix(f".{suffix}.npy")


def _save(path: Path, array: NDArray[np.uint8]) -> None:
    """Write under a name of this process and rename: a worker that outlives its parent must spoil nothing."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.save(file, array)
    temporary.replace(path)
