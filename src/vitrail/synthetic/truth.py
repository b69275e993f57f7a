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

_STROMA = (TissueType.TUMOR_STROMA, TissueType.CONNECTIVE)

_DAMAGED = (
    ValueError, TypeError, LookupError, OSError, RecursionError, MemoryError, OverflowError, zipfile.BadZipFile,
    shapely.errors.ShapelyError,
)  # fmt: skip
"""What a file ends in that is no GeoJSON of nuclei, or no archive of arrays."""


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
            What to paint.
        size
            Width and height of each mask, in pixels.

        Returns
        -------
        dict[str, NDArray[np.bool_]]
            `[height, width]` for each of `REGIONS`.
        """
        outlines = {"atypical": self.nuclei[self.atypical], "all": self.nuclei}
        box = shapely.box(region.x, region.y, region.right, region.bottom)
        painted = {
            name: rasterize(MultiPolygon(list(nuclei[shapely.intersects(nuclei, box)])), region, size)
            for name, nuclei in outlines.items()
        }
        # the tissue at the centre of each pixel; glass beyond the slide
        x = region.x + (np.arange(size[0]) + 0.5) / size[0] * region.width
        y = region.y + (np.arange(size[1]) + 0.5) / size[1] * region.height
        framed = np.pad(self.types, 1, constant_values=TissueType.GLASS)
        rows, columns = (
            np.clip(np.floor(centres / LAYOUT_STEP).astype(np.int64) + 1, 0, most - 1)
            for centres, most in zip((y, x), framed.shape, strict=True)
        )
        stroma = np.isin(framed[np.ix_(rows, columns)], _STROMA) & ~painted["all"]
        return dict(zip(REGIONS, (painted["atypical"], painted["all"], stroma), strict=True))


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
    Truth | None
        None for any other slide.

    Raises
    ------
    SlideError
        It is a synthetic slide, but its truth is damaged.
    """
    path = slide.resolve()
    nuclei, types = (path.parent.parent / "truth" / f"{path.stem}.{kind}" for kind in ("geojson", "npz"))
    if not (nuclei.is_file() and types.is_file() and path.is_file() and is_synthetic(path)):
        return None
    try:
        features = json.loads(nuclei.read_text(encoding="utf-8"))["features"]
        rings = [np.asarray(feature["geometry"]["coordinates"][0], np.float64) for feature in features]
        owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
        outlines = shapely.polygons(shapely.linearrings(np.concatenate([np.empty((0, 2)), *rings]), indices=owner))
        names = [str(feature["properties"]["classification"]["name"]) for feature in features]
        with np.load(types) as file:
            tissues: NDArray[np.uint8] = file["types"]
        if tissues.ndim != 2:
            raise ValueError(f"types of shape {tissues.shape}")
        atypical = np.array(names, np.str_) == "Nucleus: atypical"
        return Truth(nuclei=np.asarray(outlines, np.object_), atypical=atypical, types=tissues)
    except _DAMAGED as error:
        problem = f"the truth of this synthetic slide is damaged ({type(error).__name__}: {error})"
        raise SlideError(slide, problem, f"Remove {nuclei} and draw the cohort again") from None


def is_synthetic(slide: Path) -> bool:
    """Tell whether a file says that it was drawn the way that is known here, under the name it has."""
    try:
        with tifffile.TiffFile(slide) as tiff:
            record: Any = json.loads(tiff.pages.first.description)
    except Exception:  # noqa: BLE001 - no TIFF, or one of somebody else: tifffile fails on a broken one in any way
        return False
    return isinstance(record, dict) and (record.get("drawing"), record.get("slide_id")) == (DRAWING, slide.stem)
