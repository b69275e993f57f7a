"""What is known of a synthetic slide: every nucleus and every tissue, read back from beside the slide."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import tifffile
from shapely import MultiPolygon

from vitrail.errors import SlideError
from vitrail.slides.rasterize import rasterize
from vitrail.synthetic.layout import TissueType
from vitrail.synthetic.spec import DRAWING, LAYOUT_STEP

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.geometry import Region

    Mask = NDArray[np.bool_]

REGIONS = ("atypical_nuclei", "nuclei", "stroma")
"""What `Truth.masks` tells apart: the carcinoma's nuclei; those of all cells; connective tissue without its nuclei."""

_ATYPICAL = "Nucleus: atypical"
_STROMA = (TissueType.TUMOR_STROMA, TissueType.CONNECTIVE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """The truth of one synthetic slide.

    Attributes
    ----------
    nuclei
        Outlines of all nuclei, `[n]` polygons, in level-0 pixels.
    atypical
        Which of them are the carcinoma's, `[n]`.
    types
        Codes of `TissueType` at one eighth of the resolution, `[rows, columns]`.
    """

    nuclei: NDArray[np.object_]
    atypical: Mask
    types: NDArray[np.uint8]

    def masks(self, region: Region, size: tuple[int, int]) -> dict[str, Mask]:
        """Paint `REGIONS`: a pixel belongs to what lies at its centre.

        Parameters
        ----------
        region
            The place to paint.
        size
            Width and height of each mask, in pixels.

        Returns
        -------
        Name to `[height, width]`.
        """
        near = shapely.intersects(self.nuclei, shapely.box(region.x, region.y, region.right, region.bottom))
        nuclei = _painted(self.nuclei[near], region, size)
        atypical = _painted(self.nuclei[near & self.atypical], region, size)
        stroma = np.isin(self._types_at(region, size), _STROMA) & ~nuclei
        return dict(zip(REGIONS, (atypical, nuclei, stroma), strict=True))

    def _types_at(self, region: Region, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the tissue at the centre of each pixel; glass beyond the slide."""
        x, y = region.x + _centres(size[0], region.width), region.y + _centres(size[1], region.height)
        columns, rows = (np.floor(places / LAYOUT_STEP).astype(np.int64) + 1 for places in (x, y))
        framed = np.pad(self.types, 1, constant_values=TissueType.GLASS)
        inside = (np.clip(places, 0, most - 1) for places, most in zip((rows, columns), framed.shape, strict=True))
        return framed[np.ix_(*inside)]


def read_truth(slide: Path) -> Truth | None:
    """Read the truth of a slide that `write_cohort` or `write_slide` drew.

    Such a slide says in its first TIFF page how it was drawn, and `truth/` lies beside its folder. Without these files
    the slide is not even opened; no other page of it is.

    Parameters
    ----------
    slide
        The slide's path; a link is followed.

    Returns
    -------
    None for any other slide.

    Raises
    ------
    SlideError
        It is a synthetic slide, but its truth is damaged.
    """
    place = slide.resolve()
    nuclei, types = (place.parent.parent / "truth" / f"{place.stem}.{kind}" for kind in ("geojson", "npz"))
    if not (nuclei.is_file() and types.is_file() and place.is_file() and _is_phantom(place)):
        return None
    try:
        outlines, names = _read_nuclei(nuclei)
        return Truth(nuclei=outlines, atypical=names == _ATYPICAL, types=_read_types(types))
    except _DAMAGED as error:
        problem = f"the truth of this synthetic slide is damaged ({type(error).__name__}: {error})"
        raise SlideError(slide, problem, f"Remove {nuclei} and draw the cohort again") from None


_DAMAGED = (
    ValueError, TypeError, LookupError, OSError, RecursionError, MemoryError, OverflowError, zipfile.BadZipFile,
    shapely.errors.ShapelyError,
)  # fmt: skip
"""What a file ends in that is no GeoJSON of nuclei, or no archive of arrays."""


def _is_phantom(slide: Path) -> bool:
    """Tell whether the slide says that it was drawn the way that is known here, under the name it has."""
    try:
        with tifffile.TiffFile(slide) as tiff:
            record: Any = json.loads(tiff.pages.first.description)
    except Exception:  # noqa: BLE001 - no TIFF, or one of somebody else: tifffile fails on a broken one in any way
        return False
    return isinstance(record, dict) and (record.get("drawing"), record.get("slide_id")) == (DRAWING, slide.stem)


def _read_nuclei(path: Path) -> tuple[NDArray[np.object_], NDArray[np.str_]]:
    """Return the outline and the class of every nucleus."""
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    rings = [np.asarray(feature["geometry"]["coordinates"][0], np.float64) for feature in features]
    owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    outlines = shapely.polygons(shapely.linearrings(np.concatenate([np.empty((0, 2)), *rings]), indices=owner))
    names = [str(feature["properties"]["classification"]["name"]) for feature in features]
    return np.asarray(outlines, np.object_), np.array(names, np.str_)


def _read_types(path: Path) -> NDArray[np.uint8]:
    with np.load(path) as file:
        types: NDArray[np.uint8] = file["types"]
    if types.ndim != 2:
        raise ValueError(f"types of shape {types.shape}")
    return types


def _painted(outlines: NDArray[np.object_], region: Region, size: tuple[int, int]) -> Mask:
    return rasterize(MultiPolygon(list(outlines)), region, size)


def _centres(points: int, length: float) -> NDArray[np.float64]:
    return (np.arange(points) + 0.5) / points * length
