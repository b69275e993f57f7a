"""Synthetic slides on disk: pyramids, outlines, truth and slides.csv."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import tifffile

from vitrail.core.files import replacing, write_arrays, write_csv, write_text
from vitrail.core.parallel import cores, in_processes
from vitrail.synthetic.artefacts import artefact_truth
from vitrail.synthetic.draw import compose, draw_strips
from vitrail.synthetic.outlines import annotate, nuclei_geojson
from vitrail.synthetic.spec import LAYOUT_STEP, PhantomCohort, SlideSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_TILE_PX = 256
_MOST_WORKERS = 8


def write_cohort(
    folder: Path,
    cohort: PhantomCohort,
    *,
    workers: int | None = None,
    on_slide: Callable[[str], None] | None = None,
) -> Path:
    """Write a synthetic cohort: slides, coarse outlines, truth and slides.csv.

    A slide that is complete and was drawn from the same spec is kept. The pixels do not depend on `workers`. A script
    must call this under `if __name__ == "__main__":`, as `in_processes` says.

    Parameters
    ----------
    folder
        Where to; made where it does not exist.
    cohort
        What to draw.
    workers
        Processes; by default as many as this process may use cores, at most 8. With 1 this process draws.
    on_slide
        Called with the identifier of each slide as it is finished or found complete.

    Returns
    -------
    Path
        The path of slides.csv, with the columns slide_id, patient_id, slide, annotations, site and p16; its paths are
        relative to the folder.

    Raises
    ------
    RunError
        The workers could not start, or one died.
    """
    pairs = cohort.slides()
    missing = []
    for spec, _ in pairs:
        if not _complete(folder, spec):
            missing.append((folder, spec))
        elif on_slide:
            on_slide(spec.slide_id)
    with closing(in_processes(_draw, missing, min(workers or cores(), _MOST_WORKERS))) as drawn:
        for _, slide_id in drawn:
            if on_slide:
                on_slide(slide_id)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "slides.csv", pd.DataFrame([row for _, row in pairs]))
    return folder / "slides.csv"


def write_slide(
    folder: Path,
    slide_id: str,
    *,
    side_px: int = 4096,
    mpp: float = 0.5,
    seed: int = 0,
    artefacts: tuple[str, ...] = (),
) -> Path:
    """Write one synthetic slide with its outlines and its truth, unless it is there already.

    Parameters
    ----------
    folder
        Where to: `slides/<slide_id>.tif`, `annotations/<slide_id>.geojson`, `truth/<slide_id>.geojson` (every nucleus)
        and `truth/<slide_id>.npz` (array `types`: codes of `TissueType` at 1/8 of the resolution).
    slide_id
        Stem of the files.
    side_px
        Width and height at level 0; a multiple of 64, at least 512.
    mpp
        Micrometres per level-0 pixel, 0.2 to 1.0.
    seed
        Another seed, another slide; every third is one without keratin pearls.
    artefacts
        What spoils it, as `SlideSpec.artefacts` has it. Then `truth/<slide_id>.artefacts.npz` tells where: a boolean
        array for each kind (`pen`, `fold`, `blur`, `blood`, `debris`, `bubble`) at 1/8 of the resolution, and `mpp`.

    Returns
    -------
    Path
        The path of the slide.

    Raises
    ------
    SettingsError
        For a side, a resolution or an artefact that cannot be drawn.
    """
    spec = SlideSpec(
        slide_id=slide_id, side_px=side_px, mpp=mpp, seed=(seed,), keratinising=seed % 3 > 0, artefacts=artefacts
    )
    if not _complete(folder, spec):
        _draw((folder, spec))
    return _paths(folder, spec)["slide"]


def _paths(folder: Path, spec: SlideSpec) -> dict[str, Path]:
    """Return the files of a slide, the slide itself last."""
    slide_id = spec.slide_id
    spoilt = {"artefacts": folder / "truth" / f"{slide_id}.artefacts.npz"} if spec.artefacts else {}
    return {
        **spoilt,
        "annotations": folder / "annotations" / f"{slide_id}.geojson",
        "nuclei": folder / "truth" / f"{slide_id}.geojson",
        "types": folder / "truth" / f"{slide_id}.npz",
        "slide": folder / "slides" / f"{slide_id}.tif",
    }


def _complete(folder: Path, spec: SlideSpec) -> bool:
    """Say whether all files of a slide are there, drawn from this very spec."""
    paths = _paths(folder, spec)
    if not all(path.is_file() for path in paths.values()):
        return False
    with tifffile.TiffFile(paths["slide"]) as tiff:
        return tiff.pages.first.description == spec.description


def _draw(job: tuple[Path, SlideSpec]) -> str:
    """Draw a slide and write its files: outlines, truth, and levels 1, 4 and 16 as OpenSlide's generic tiled TIFF."""
    folder, spec = job
    scene, paths = compose(spec), _paths(folder, spec)
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    paths["slide"].unlink(missing_ok=True)  # an old slide must not vouch for the new truth
    write_text(paths["annotations"], json.dumps(annotate(scene), indent=1) + "\n")
    with replacing(paths["nuclei"]) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(nuclei_geojson(scene))
    step_um = spec.mpp * LAYOUT_STEP
    write_arrays(paths["types"], types=scene.layout.types, mpp=step_um)
    if scene.overlay is not None:
        truth = artefact_truth(scene.overlay, scene.layout)
        write_arrays(paths["artefacts"], **{kind.key: mask for kind, mask in truth.items()}, mpp=step_um)
    with replacing(paths["slide"]) as temporary, tifffile.TiffWriter(temporary, bigtiff=spec.side_px > 2**15) as tiff:
        strips: Iterable[NDArray[np.uint8]] = draw_strips(scene)  # level 0 is never held as a whole
        side, mpp = spec.side_px, spec.mpp
        for level in range(3):
            smaller: list[NDArray[np.uint8]] = []
            tiff.write(
                _cut_tiles(strips, smaller),
                shape=(side, side, 3),
                dtype=np.uint8,
                tile=(_TILE_PX, _TILE_PX),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 88},
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
                metadata=None,
                description=None if level else spec.description,
                subfiletype=1 if level else None,
            )
            picture = np.concatenate(smaller)
            strips, side, mpp = [picture], len(picture), spec.mpp * spec.side_px / len(picture)
    return spec.slide_id


def _cut_tiles(strips: Iterable[NDArray[np.uint8]], smaller: list[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Cut strips into tiles, white beyond the slide, and collect those of the next level: 4 x 4 pixels averaged."""
    for strip in strips:
        wide = strip.astype(np.uint16)
        rows = wide[0::4] + wide[1::4] + wide[2::4] + wide[3::4]
        total = rows[:, 0::4] + rows[:, 1::4] + rows[:, 2::4] + rows[:, 3::4]
        smaller.append(((total + 8) // 16).astype(np.uint8))
        height, width = (-length % _TILE_PX for length in strip.shape[:2])
        padded = np.pad(strip, ((0, height), (0, width), (0, 0)), constant_values=255)
        for y in range(0, padded.shape[0], _TILE_PX):
            yield from (padded[y : y + _TILE_PX, x : x + _TILE_PX] for x in range(0, padded.shape[1], _TILE_PX))
