"""Nuclei that another program has outlined: a folder of QuPath detections, or of label images, one file a slide."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import tifffile
from PIL import Image as Pictures
from scipy import ndimage
from shapely.geometry import shape

from vitrail.core.files import read_regular
from vitrail.errors import NucleiError
from vitrail.geometry import Region
from vitrail.nuclei.scales import consecutive, size_at
from vitrail.slides.rasterize import rasterize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vitrail.slides.slide import Slide

    Labels = NDArray[np.int32]

_MOST_BYTES = 4 << 30
"""Of a file of detections: some millions of cells."""

_DETECTIONS = frozenset({"detection", "cell", "pathdetectionobject", "pathcellobject"})
_DETECTION_CURE = "Export the detections from QuPath again (File, Export objects as GeoJSON), or name another folder"
_LABEL_CURE = "Give one label image of the whole slide: a number for each nucleus, 0 for none, in one channel"
_LABEL_SUFFIXES = (".png", ".tif", ".tiff")


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionFolder:
    """QuPath's detections, `<slide_id>.geojson` each.

    Attributes
    ----------
    folder
        Where they are.
    """

    folder: Path
    name: str = "geojson"

    def for_slide(self, slide_id: str) -> Detections:
        """Read the detections of a slide.

        Parameters
        ----------
        slide_id
            The stem of the file.

        Returns
        -------
        Detections
            Its nuclei; of cells their nuclei, where they have some.

        Raises
        ------
        NucleiError
            There is no such file, or it is no GeoJSON of detections.
        """
        path = self.folder / f"{slide_id}.geojson"
        return _read_detections(path, _changed_ns(path, _DETECTION_CURE))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detections:
    """Outlines of the nuclei of one slide.

    Attributes
    ----------
    outlines
        `[n]`, polygons in level-0 pixels.
    centres
        `[n, 2]`, their centroids.
    """

    outlines: NDArray[np.object_]
    centres: NDArray[np.float64]
    name: str = "geojson"

    def read(self, slide: Slide, region: Region, mpp: float) -> Labels:
        """Paint the nuclei whose centre lies in a region; see `vitrail.nuclei.engines.SlideEngine`."""
        width, height = size_at(slide, region, mpp)
        labels = np.zeros((height, width), np.int32)
        step = region.width / width, region.height / height
        x, y = self.centres.T
        inside = (x >= region.x) & (x < region.right) & (y >= region.y) & (y < region.bottom)
        for number, outline in enumerate(self.outlines[inside], start=1):
            corners = (np.array(outline.bounds) - [region.x, region.y] * 2) / [*step, *step]
            left, top = np.maximum(np.floor(corners[:2]).astype(int), 0)
            right, bottom = np.minimum(np.ceil(corners[2:]).astype(int), (width, height))
            if left >= right or top >= bottom:
                continue
            window = Region(
                x=region.x + left * step[0],
                y=region.y + top * step[1],
                width=(right - left) * step[0],
                height=(bottom - top) * step[1],
            )
            own = labels[top:bottom, left:right]  # those that overlap share pixels as the file orders them
            own[rasterize(outline, window, (int(right - left), int(bottom - top))) & (own == 0)] = number
        return consecutive(labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFolder:
    """Label images, `<slide_id>.png` or `.tif` each, of whole slides at any scale.

    Attributes
    ----------
    folder
        Where they are.
    """

    folder: Path
    name: str = "labels"

    def for_slide(self, slide_id: str) -> LabelImage:
        """Read the label image of a slide.

        Parameters
        ----------
        slide_id
            The stem of the file.

        Returns
        -------
        LabelImage
            Its nuclei.

        Raises
        ------
        NucleiError
            There is no such file, or it is no label image.
        """
        paths = [self.folder / f"{slide_id}{suffix}" for suffix in _LABEL_SUFFIXES]
        path = next((path for path in paths if path.exists()), paths[0])
        return _read_labels(path, _changed_ns(path, _LABEL_CURE))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelImage:
    """The label image of one slide.

    Attributes
    ----------
    labels
        `[rows, columns]`, 0 none, 1 to n nuclei; it covers the whole slide.
    centres
        `[n, 2]`, row and column of each nucleus' centre.
    where
        The file.
    """

    labels: Labels
    centres: NDArray[np.float64]
    where: Path
    name: str = "labels"

    def read(self, slide: Slide, region: Region, mpp: float) -> Labels:
        """Cut out the nuclei whose centre lies in a region; see `vitrail.nuclei.engines.SlideEngine`.

        Raises
        ------
        NucleiError
            The image has not the proportions of the slide.
        """
        rows, columns = self.labels.shape
        down, across = slide.region.height / rows, slide.region.width / columns  # level-0 pixels per label
        # a side may have been rounded up or down
        if abs(across - down) * max(rows, columns) > 1.5 * max(across, down):
            own = f"{slide.region.width:.0f} x {slide.region.height:.0f}"
            problem = f"{columns} x {rows} labels do not cover a slide of {own} pixels"
            raise NucleiError(self.where, problem, _LABEL_CURE)
        width, height = size_at(slide, region, mpp)
        y = (region.y + (np.arange(height) + 0.5) / height * region.height) / down
        x = (region.x + (np.arange(width) + 0.5) / width * region.width) / across
        window = np.zeros((height, width), np.int32)
        on_rows, on_columns = (y >= 0) & (y < rows), (x >= 0) & (x < columns)
        cut = self.labels[np.ix_(y[on_rows].astype(np.intp), x[on_columns].astype(np.intp))]
        window[np.ix_(on_rows, on_columns)] = cut
        centre_y, centre_x = self.centres.T * [[down], [across]]
        inside = (centre_x >= region.x) & (centre_x < region.right)
        inside &= (centre_y >= region.y) & (centre_y < region.bottom)
        return consecutive(np.where(np.append(False, inside)[window], window, 0))


@lru_cache(maxsize=1)
def _read_detections(path: Path, _changed_ns: int) -> Detections:
    """Read a file; the last one stays, as its regions are asked for one by one."""
    content = read_regular(path, NucleiError, _DETECTION_CURE, _MOST_BYTES)
    try:
        document = json.loads(content)
        features = list(_features(document))
        typed = [feature for feature in features if _kind(feature) in _DETECTIONS]
        # other programs write no types: there every area is a nucleus
        outlines = [area for feature in typed or features if (area := _outline(feature)) is not None]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, shapely.errors.ShapelyError) as error:
        problem = f"no GeoJSON of detections ({type(error).__name__}: {error})"
        raise NucleiError(path, problem, _DETECTION_CURE) from error
    areas = np.empty(len(outlines), np.object_)
    areas[:] = outlines
    return Detections(outlines=areas, centres=shapely.get_coordinates(shapely.centroid(areas)))


@lru_cache(maxsize=1)
def _read_labels(path: Path, _changed_ns: int) -> LabelImage:
    try:
        if path.suffix == ".png":
            with Pictures.open(path) as picture:
                pixels = np.asarray(picture)
        else:
            pixels = tifffile.imread(path)
    except Exception as error:
        # tifffile fails on a broken file in any way
        raise NucleiError(path, f"cannot be read ({type(error).__name__}: {error})", _LABEL_CURE) from error
    if pixels.ndim != 2 or pixels.dtype.kind not in "bui" or pixels.min(initial=0) < 0:
        problem = f"an image of shape {pixels.shape} and type {pixels.dtype} holds no labels"
        raise NucleiError(path, problem, _LABEL_CURE)
    labels = consecutive(pixels)
    numbers = np.arange(1, int(labels.max(initial=0)) + 1)
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, numbers)).reshape(-1, 2) + 0.5
    return LabelImage(labels=labels, centres=centres, where=path)


def _changed_ns(path: Path, cure: str) -> int:
    """Return when a file was changed: one that was replaced is read anew."""
    try:
        return path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        raise NucleiError(path, "no such file", cure) from None
    except OSError as error:
        raise NucleiError(path, f"cannot be opened ({error.strerror})", cure) from error


def _features(document: Any) -> Iterator[dict[str, Any]]:
    """Yield the features of a collection, a list or one feature, and their children."""
    if isinstance(document, dict) and "features" in document:
        document = document["features"]
    waiting = (document if isinstance(document, list) else [document])[::-1]
    while waiting:
        feature = waiting.pop()
        properties = feature.get("properties") or {}
        waiting += properties.get("childObjects") or properties.get("children") or []
        yield feature


def _kind(feature: dict[str, Any]) -> str:
    properties = feature.get("properties") or {}
    keys = ("objectType", "object_type", "type")
    return str(next((properties[key] for key in keys if key in properties), feature.get("id", ""))).casefold()


def _outline(feature: dict[str, Any]) -> shapely.Geometry | None:
    """Return the outline of a feature, of a cell its nucleus; None where it has no area."""
    geometry = feature.get("nucleusGeometry") or feature.get("geometry")
    if geometry is None or geometry["type"] not in {"Polygon", "MultiPolygon"}:
        return None
    area = shape(geometry)
    return area if area.area > 0 else None
