"""One slide cut into tiles, and these in memory."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from vitrail.core.progress import Silent
from vitrail.tiles.extract import CutJob, cut_part, read_part
from vitrail.tiles.store import TileTable


def cut_slide(entry, settings):
    """Return the tiles of a slide as a worker process leaves them."""
    with TemporaryDirectory() as folder:
        job = CutJob(entry=entry, settings=settings, part=Path(folder) / "part")
        cut_part(job, Silent())
        part = read_part(job.part)
        return TileTable(rows=part.rows, images=np.load(part.images), masks=np.load(part.masks))
