"""Synthetic slides on disk: pyramids, outlines, truth and slides.csv."""

from __future__ import annotations

import csv
import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from vitrail.core.parallel import cores, in_processes
from vitrail.synthetic.artefacts import artefact_truth
from vitrail.synthetic.draw import Scene, compose, draw_strips
from vitrail.synthetic.outlines import annotate, nuclei_geojson
from vitrail.synthetic.spec import LAYOUT_STEP, PhantomCohort, SlideSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_TILE_PX = 256
_QUALITY = 88
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
    The path of slides.csv, with the columns slide_id, patient_id, slide, annotations, site and p16; its paths are
    relative to the folder.

    Raises
    ------
    RunError
        The workers could not start, or one died.
    """
    pairs = cohort.slides()
    report = on_slide or _silent
    missing = []
    for spec, _ in pairs:
        if _complete(folder, spec):
            report(spec.slide_id)
        else:
            missing.append(spec)
    jobs = [(folder, spec) for spec in missing]
    with closing(in_processes(_draw_job, jobs, min(workers or cores(), _MOST_WORKERS))) as drawn:
        for _, slide_id in drawn:
            report(slide_id)
    return _write_csv(folder / "slides.csv", [row for _, row in pairs])


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
        _draw(folder, spec)
    return _paths(folder, spec)["slide"]


def _silent(_slide_id: str) -> None:
    pass


def _paths(folder: Path, spec: SlideSpec) -> dict[str, Path]:
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
        return tiff.pages.first.description == _description(spec)


def _description(spec: SlideSpec) -> str:
    return json.dumps(spec.record(), sort_keys=True)


def _draw_job(job: tuple[Path, SlideSpec]) -> str:
    return _draw(*job)


def _draw(folder: Path, spec: SlideSpec) -> str:
    """Draw a slide and write its files, the slide itself last."""
    scene = compose(spec)
    paths = _paths(folder, spec)
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    paths["slide"].unlink(missing_ok=True)  # an old slide must not vouch for the new truth
    _write_text(paths["annotations"], [json.dumps(annotate(scene), indent=1), "\n"])
    _write_text(paths["nuclei"], nuclei_geojson(scene))
    _write_arrays(paths["types"], scene, {"types": scene.layout.types})
    if scene.overlay is not None:
        truth = artefact_truth(scene.overlay, scene.layout)
        _write_arrays(paths["artefacts"], scene, {kind.key: mask for kind, mask in truth.items()})
    _write_pyramid(paths["slide"], scene)
    return spec.slide_id


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _write_text(path: Path, pieces: Iterable[str]) -> None:
    with _part(path).open("w", encoding="utf-8") as file:
        file.writelines(pieces)
    _part(path).replace(path)


def _write_arrays(path: Path, scene: Scene, arrays: dict[str, Any]) -> None:
    with _part(path).open("wb") as file:
        np.savez_compressed(file, **arrays, mpp=scene.spec.mpp * LAYOUT_STEP)
    _part(path).replace(path)


def _write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _part(path).open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    _part(path).replace(path)
    return path


def _write_pyramid(path: Path, scene: Scene) -> None:
    """Write levels 1, 4 and 16 as OpenSlide's generic tiled TIFF, drawing level 0 strip by strip."""
    side, mpp = scene.spec.side_px, scene.spec.mpp
    smaller: list[NDArray[np.uint8]] = []
    with tifffile.TiffWriter(_part(path), bigtiff=side > 2**15) as tiff:
        _write_level(tiff, _tiles(draw_strips(scene), smaller), side, mpp, description=_description(scene.spec))
        for _ in range(2):
            level = np.concatenate(smaller)
            smaller = [_shrink(level)]
            _write_level(tiff, _tiles([level], []), len(level), mpp * side / len(level), subfiletype=1)
    _part(path).replace(path)


def _write_level(
    tiff: tifffile.TiffWriter, tiles: Iterator[NDArray[np.uint8]], side: int, mpp: float, **tags: Any
) -> None:
    tiff.write(
        tiles,
        shape=(side, side, 3),
        dtype=np.uint8,
        tile=(_TILE_PX, _TILE_PX),
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": _QUALITY},
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
        metadata=None,
        **tags,
    )


def _tiles(strips: Iterable[NDArray[np.uint8]], smaller: list[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Cut strips into tiles, white beyond the slide, and collect the strips of the next level."""
    for strip in strips:
        smaller.append(_shrink(strip))
        height, width = (-length % _TILE_PX for length in strip.shape[:2])
        whole = np.pad(strip, ((0, height), (0, width), (0, 0)), constant_values=255)
        for y in range(0, whole.shape[0], _TILE_PX):
            yield from (whole[y : y + _TILE_PX, x : x + _TILE_PX] for x in range(0, whole.shape[1], _TILE_PX))


def _shrink(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average squares of 4 x 4 pixels."""
    wide = picture.astype(np.uint16)
    rows = wide[0::4] + wide[1::4] + wide[2::4] + wide[3::4]
    total = rows[:, 0::4] + rows[:, 1::4] + rows[:, 2::4] + rows[:, 3::4]
    return np.asarray((total + 8) // 16, dtype=np.uint8)
