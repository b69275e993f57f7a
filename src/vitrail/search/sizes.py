"""The tiles of a search: cut once per size, then averaged down to each resolution.

All resolutions of a size share the choice of tiles and labels, so that they are compared on the same ones. Averaging
down what was averaged before is exact, but for rounding, where the resolution divides `search.cut_px`; else a pixel
takes in a little of its neighbours. Against tiles that are cut at the resolution itself the pixels differ by 0.1 to 1.7
grey levels on average where both come from the same level of the slide and by up to 3 at 3/4 of `cut_px`. Where those
would come from a coarser level, which the scanner made and compressed on its own, they differ by 3 to 6.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vitrail.core.files import replacing
from vitrail.core.parallel import in_processes
from vitrail.search.grid import cut_settings
from vitrail.slides.readers.resample import area_resample
from vitrail.stage import Run, Stage, bring_up_to_date
from vitrail.tiles.cohort import VERSION, Folders, cut_cohort, slide_digest
from vitrail.tiles.store import new_array

if TYPE_CHECKING:
    from pathlib import Path

    from vitrail.core.progress import Progress
    from vitrail.search.grid import Cell, Grid
    from vitrail.stage import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeFolder:
    """Where the tiles of one size are.

    Attributes
    ----------
    folder
        Of the size.
    digest
        Of its tiles.
    cut_px
        The resolution that they were cut at.
    """

    folder: Path
    digest: str
    cut_px: int

    @property
    def rows(self) -> Path:
        """The tile table's rows."""
        return self.folder / "tiles" / "tiles.parquet"

    @property
    def whole(self) -> Path:
        """The tiles as they were cut, `[n, cut_px, cut_px, 3]`."""
        return self.folder / "tiles" / "images.npy"

    def images(self, side_px: int) -> Path:
        """Return the file of the tiles at a resolution, `[n, side_px, side_px, 3]`."""
        return self.whole if side_px == self.cut_px else self.folder / f"{self.digest[:16]}-{side_px}px.npy"


def size_folder(grid: Grid, folder: Path, side_um: float) -> SizeFolder:
    """Return where the tiles of a size are, in the folder of a search."""
    return SizeFolder(
        folder=folder / "tiles" / f"{side_um!r}um",
        digest=grid.tiles_digest(side_um),
        cut_px=grid.settings.search.cut_px,
    )


def prepare(grid: Grid, cells: list[Cell], folder: Path, progress: Progress) -> None:
    """Cut and reduce the tiles that cells need and that are not there.

    Parameters
    ----------
    grid
        Slides and settings.
    cells
        Which need tiles.
    folder
        Of the search.
    progress
        Told how far the work is.

    Raises
    ------
    VitrailError
        As `cut_cohort`.
    """
    pairs = sorted({cell.pair for cell in cells})
    sizes = {side_um: size_folder(grid, folder, side_um) for side_um in sorted({pair[0] for pair in pairs})}
    for side_um, size in sizes.items():
        _cut(grid, size, side_um, progress)
    jobs = [(sizes[um], px) for um, px in pairs if not sizes[um].images(px).is_file()]
    if not jobs:
        return
    workers = grid.settings.compute.workers
    with progress.task("averaging", len(jobs)) as step, closing(in_processes(_reduce, jobs, workers)) as reduced:
        for (_, side_px), _ in reduced:
            step(1, f"{side_px} px")


def _cut(grid: Grid, size: SizeFolder, side_um: float, progress: Progress) -> None:
    """Cut the tiles of one size; a folder of a search is a run with one stage."""

    def make(work: Work) -> None:
        folders = Folders(result=work.folder, parts=work.scratch, earlier=work.run.folder / "tiles")
        cut_cohort(grid.entries, work.run.settings, folders, work.progress)

    stage = Stage(
        name=f"tiles of {side_um:g} um",
        folder="tiles",
        version=VERSION,
        settings=("slides", "annotations", "tiles"),
        needs=(),
        inputs=lambda run: [slide_digest(entry, run.settings) for entry in grid.entries],
        make=make,
    )
    size.folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder=size.folder, settings=cut_settings(grid.settings, side_um))
    bring_up_to_date((stage,), run, progress)
    for stale in set(size.folder.glob("*px.npy*")) - set(size.folder.glob(f"{size.digest[:16]}-*px.npy")):
        stale.unlink()  # of other tiles, or half written


def _reduce(job: tuple[SizeFolder, int]) -> None:
    """Average all tiles of a size down to a resolution, in a worker process."""
    size, side_px = job
    source = np.load(size.whole, mmap_mode="r")
    box = (0.0, 0.0, float(source.shape[2]), float(source.shape[1]))
    with replacing(size.images(side_px)) as temporary:
        images = new_array(temporary, (len(source), side_px, side_px, 3))
        for row, image in enumerate(source):
            images[row] = area_resample(image, box, (side_px, side_px))
        del images  # flushes
