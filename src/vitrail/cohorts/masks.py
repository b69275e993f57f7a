"""Masks become outlines: every pixel's edge as it is, scaled to the slide, as GeoJSON of QuPath.

A TIFF is read strip by strip, whatever its size; other pictures are decoded whole, up to what Pillow takes for no
attack, 179 million pixels. Besides that, memory holds the outlines, whose number is bounded, too.
"""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import tifffile
from PIL import Image

from vitrail.core.files import regular_file
from vitrail.errors import ExchangeError, VitrailError
from vitrail.interop.qupath import write_outlines
from vitrail.interop.simplify import simplify_coverage
from vitrail.slides.outlines.features import MOST_CORNERS
from vitrail.slides.polygonize import outline_classes
from vitrail.slides.readers.ifd import check_claims

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from shapely import Polygon

    from vitrail.cohorts.mask_classes import MaskClasses
    from vitrail.slides.slide import Slide

    Pixels = NDArray[np.integer[Any]]

_MASK = "Save the mask as PNG or tiled TIFF, with a whole number for each class"
_STRIP_PX = 1 << 22
"""Pixels that are looked at in one go, at least a row of tiles."""

_MOST_SEGMENT_PX = 1 << 28
_MOST_MASK_PX = 1 << 34
"""Of a strip, and of a TIFF: a slide of 131,000 pixels squared."""

_MOST_EDGES = 2 * MOST_CORNERS
"""Upright edges between classes: a mask of more is noise, whose outlines would take gigabytes."""

_TWO_SIDES = 0.01
"""By which the scales of width and height may differ."""

_LEAST_MPP = 1e-3
_PART = re.compile(
    r"_xmin-?(?P<x>\d+)_ymin-?(?P<y>\d+)_?(?:(?P<unit>MPP|MAG)-(?P<number>\d+(?:\.\d+)?))?", re.IGNORECASE
)
"""Of a slide that a mask covers, as BCSS names them: the corner in level-0 pixels, and um per pixel of the mask."""

_GREY, _CHANNELS, _RGB = 2, 3, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How a mask lies on its slide, in level-0 pixels from the top left corner of the slide's bounds.

    Attributes
    ----------
    across, down
        Level-0 pixels per pixel of the mask.
    left, top
        Its corner.
    """

    across: float = 1.0
    down: float = 1.0
    left: float = 0.0
    top: float = 0.0


def is_part(mask: Path) -> bool:
    """Tell whether a mask's name says that it covers a part of a slide."""
    return _PART.search(mask.name) is not None


def name_of_whole(mask: Path) -> str:
    """Return a mask's name without what it says of where it lies."""
    return _PART.sub("", mask.stem, count=1)


def place_mask(mask: Path, size: tuple[int, int], slide: Slide, *, part: bool = False) -> Placement:
    """Find out how a mask lies on its slide.

    Parameters
    ----------
    mask
        The mask.
    size
        Its width and height in pixels.
    slide
        The slide.
    part
        Whether it covers the part that its name says rather than the whole slide.

    Returns
    -------
    Placement
        Where the sides of a level were rounded, one pixel of the mask stands for a whole number of the slide's.

    Raises
    ------
    ExchangeError
        It has other proportions than the slide, or lies beyond it.
    """
    width, height = slide.region.width, slide.region.height
    words = f"{size[0]:,} x {size[1]:,} pixels"
    match = _PART.search(mask.name) if part else None
    if match is not None:
        if match["unit"] and match["unit"].upper() == "MAG":
            problem = "its name says a magnification, which is no exact scale"
            raise ExchangeError(mask, problem, "Name um per pixel, as _MPP-0.2500")
        scale = max(float(match["number"]), _LEAST_MPP) / slide.mpp if match["unit"] else 1.0
        left, top = int(match["x"]) - slide.bounds.x, int(match["y"]) - slide.bounds.y
        slack = max(scale, 1.0) * 2
        if min(left, top) < -slack or left + size[0] * scale > width + slack or top + size[1] * scale > height + slack:
            problem = f"{words} at {left:g}, {top:g} lie beyond the slide of {width:g} x {height:g}"
            raise ExchangeError(mask, problem, "Check that it is a mask of this slide")
        return Placement(across=scale, down=scale, left=left, top=top)
    across, down = width / size[0], height / size[1]
    whole = round((across + down) / 2)
    if whole >= 1 and all(abs(side / whole - own) <= 1 for side, own in ((width, size[0]), (height, size[1]))):
        return Placement(across=whole, down=whole)
    if abs(across / down - 1) > max(_TWO_SIDES, 2 / min(size)):
        problem = f"{words} do not have the proportions of the slide's {width:g} x {height:g}"
        raise ExchangeError(mask, problem, "Check that it is a mask of the whole slide")
    return Placement(across=across, down=down)


class Mask:
    """A mask on disk; its header is read at once, its pixels when they are asked for.

    Parameters
    ----------
    path
        PNG, BMP or TIFF.

    Attributes
    ----------
    size
        Width and height.

    Raises
    ------
    ExchangeError
        It cannot be read, is no mask or is too large.
    """

    def __init__(self, path: Path) -> None:
        self.path = regular_file(path, ExchangeError, _MASK)
        self._is_tiff = path.suffix.lower() in {".tif", ".tiff"}
        try:
            if self._is_tiff:
                check_claims(path)
                with _silenced(), tifffile.TiffFile(path) as tif:
                    page: Any = tif.pages.first
                    self.size = (int(page.imagewidth), int(page.imagelength))
                    _check_layout(path, page)
            else:
                with warnings.catch_warnings(action="ignore"), Image.open(path, formats=("PNG", "BMP")) as picture:
                    self.size = picture.size
        except ExchangeError:
            raise
        except VitrailError as error:
            raise ExchangeError(path, error.problem, _MASK) from error
        except Image.DecompressionBombError as error:
            problem = "has more than 179 million pixels"
            raise ExchangeError(path, problem, "Save it as a tiled TIFF, which is read strip by strip") from error
        except Exception as error:  # of Pillow and tifffile, which fail on broken files in any way
            raise ExchangeError(path, f"cannot be read ({_reason(error)})", _MASK) from error
        if min(self.size) < 1 or math.prod(self.size) > _MOST_MASK_PX:
            raise ExchangeError(path, f"claims {self.size[0]:,} x {self.size[1]:,} pixels", _MASK)

    def strips(self, *, colours: bool) -> Iterator[tuple[Pixels, bool]]:
        """Read the pixels from top to bottom.

        Parameters
        ----------
        colours
            Whether a picture with a palette is read by its colours, rather than by their numbers.

        Yields
        ------
        tuple[Pixels, bool]
            `[h, width]` values, and whether they are packed colours.

        Raises
        ------
        ExchangeError
            It is damaged, or no mask.
        """
        try:
            for strip in _tiff_strips(self.path) if self._is_tiff else _picture_strips(self.path, colours=colours):
                values = strip.astype(np.uint8) * np.uint8(255) if strip.dtype.kind == "b" else strip
                if values.ndim == _GREY:
                    yield values, False
                else:
                    red, green, blue = (values[..., channel].astype(np.uint32) for channel in range(_RGB))
                    yield red << 16 | green << 8 | blue, True
        except VitrailError:
            raise
        except Exception as error:  # the same
            raise ExchangeError(self.path, f"is damaged ({_reason(error)})", _MASK) from error


def outline_mask(mask: Mask, classes: MaskClasses, tolerance_px: float = 0.0) -> dict[str, list[Polygon]]:
    """Outline the classes of a mask, exactly along its pixels' edges.

    Parameters
    ----------
    mask
        The mask.
    classes
        What its values mean; each must be in the table.
    tolerance_px
        No outline is moved farther than this by leaving out vertices, in pixels of the mask.

    Returns
    -------
    dict[str, list[Polygon]]
        By class, sorted, in pixels of the mask, from top to bottom; neighbours share their border.

    Raises
    ------
    ExchangeError
        It is damaged, has a value that the table does not, or more corners than outlines can have.
    """
    labels = {name: label for label, name in enumerate(classes.names, start=1)}
    outlined = outline_classes(_indices(mask, classes), tuple(labels.values()))
    ordered = [
        (name, polygon)
        for name, label in sorted(labels.items())
        for polygon in sorted(outlined[label], key=lambda polygon: (*polygon.bounds[1::-1], -polygon.area))
    ]
    polygons = [polygon for _, polygon in ordered]
    if tolerance_px > 0:
        polygons = simplify_coverage(polygons, tolerance_px)
    corners = int(shapely.get_num_coordinates(polygons).sum())
    if corners > MOST_CORNERS:
        problem = f"its outlines have {corners:,} corners, more than {MOST_CORNERS:,}"
        raise ExchangeError(mask.path, problem, "Simplify them with --tolerance 1, or more")
    result: dict[str, list[Polygon]] = {}
    for (name, _), polygon in zip(ordered, polygons, strict=True):
        result.setdefault(name, []).append(polygon)
    return result


def write_mask_outlines(
    path: Path,
    slide_id: str,
    masks: Sequence[tuple[Mask, Placement]],
    classes: MaskClasses,
    tolerance_px: float = 0.0,
) -> Counter[str]:
    """Write the outlines of all masks of a slide as one GeoJSON for QuPath.

    Parameters
    ----------
    path
        The file; it is whole or absent.
    slide_id
        The slide.
    masks
        Its masks, and how each lies on it.
    classes, tolerance_px
        As of `outline_mask`.

    Returns
    -------
    Counter[str]
        How many outlines each class has; where there is none at all nothing is written.

    Raises
    ------
    ExchangeError
        A mask cannot be read, or the file cannot be written.
    """
    outlines = list[tuple[str, "Polygon"]]()
    for mask, placement in masks:
        scale, corner = np.array([placement.across, placement.down]), np.array([placement.left, placement.top])
        for name, polygons in outline_mask(mask, classes, tolerance_px).items():
            moved = shapely.transform(np.array(polygons), partial(_moved, scale=scale, corner=corner))
            outlines += [(name, polygon) for polygon in moved]
    if outlines:
        write_outlines(path, slide_id, outlines)
    return Counter(name for name, _ in outlines)


def _moved(points: NDArray[np.float64], scale: NDArray[np.float64], corner: NDArray[np.float64]) -> NDArray[np.float64]:
    moved: NDArray[np.float64] = points * scale + corner
    return moved


def _indices(mask: Mask, classes: MaskClasses) -> Iterable[NDArray[np.uint8]]:
    """Yield which class each pixel is of, 0 for none; refuse values that mean nothing, and noise."""
    edges = 0
    for values, colour in mask.strips(colours=bool(classes.colours)):
        few = values.dtype in {np.dtype(np.uint8), np.dtype(np.uint16)}  # a table of all of them is small
        present = np.flatnonzero(np.bincount(values.ravel())) if few else np.unique(values)
        indices = [classes.index_of(int(value), colour=colour) for value in present]
        if None in indices:
            unknown = present[indices.index(None)]
            value = f"#{int(unknown):06x}" if colour else str(int(unknown))
            problem = f"value {value} ({int((values == unknown).sum()):,} pixels and perhaps more) is in no class"
            raise ExchangeError(mask.path, problem, f"Add it to --classes, as {value}=Name or {value}=none")
        table = np.array(indices, np.uint8)
        strip = _spread(present, table)[values] if few else table[np.searchsorted(present, values)]
        edges += int(np.count_nonzero(strip[:, 1:] != strip[:, :-1]))
        if edges > _MOST_EDGES:
            problem = f"its classes meet along more than {_MOST_EDGES:,} pixels: it is noise, or no mask"
            raise ExchangeError(mask.path, problem, "Smooth it first")
        yield strip


def _spread(keys: NDArray[np.integer[Any]], values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an array that has the values at the keys, which rise."""
    table = np.zeros(int(keys[-1]) + 1, np.uint8)
    table[keys] = values
    return table


def _check_layout(path: Path, page: Any) -> None:
    """Refuse a TIFF whose pixels are not those of a mask, or that cannot be read strip by strip."""
    samples, kind = int(page.samplesperpixel), np.dtype(page.dtype).kind
    if samples not in {1, 3, 4} or (samples > 1 and int(page.planarconfig) != 1) or int(page.imagedepth) != 1:
        raise ExchangeError(path, f"{samples} channels, or in planes: no mask", _MASK)
    if kind not in "bui":
        raise ExchangeError(path, f"its pixels are {page.dtype}, not whole numbers", _MASK)
    rows, columns = (
        (page.tilelength, page.tilewidth)
        if page.is_tiled
        else (min(page.rowsperstrip, page.imagelength), page.imagewidth)
    )
    whole = page.is_memmappable and not page.is_tiled
    expected = math.prod(page.chunked)
    if not whole and {len(page.dataoffsets), len(page.databytecounts)} != {expected}:
        problem = f"has {len(page.dataoffsets):,} tiles or strips where {expected:,} are due"
        raise ExchangeError(path, problem, "The file is damaged or cut short: copy it again from its source")
    if not whole and int(rows) * int(columns) > _MOST_SEGMENT_PX:
        raise ExchangeError(path, "is compressed in one piece", "Save it as a tiled TIFF, which is read strip by strip")


@contextmanager
def _silenced() -> Iterator[None]:
    """Let tifffile log nothing: what is wrong with a file is said by an error, in one line."""
    logger = logging.getLogger("tifffile")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _tiff_strips(path: Path) -> Iterator[NDArray[Any]]:
    """Yield `[h, width]` or `[h, width, 3]` of the first page, rows of tiles or strips together."""

    def flat(rows: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(rows[..., 0] if rows.shape[-1] == 1 else rows[..., :_RGB])

    with _silenced(), tifffile.TiffFile(path) as tif:
        page: Any = tif.pages.first
        width, height = int(page.imagewidth), int(page.imagelength)
        tail = (width, int(page.samplesperpixel))
        if page.is_memmappable and not page.is_tiled:
            pixels = tifffile.memmap(path, page=0, mode="r").reshape(height, *tail)
            rows = max(_STRIP_PX // width, 1)
            yield from (flat(pixels[top : top + rows]) for top in range(0, height, rows))
            return
        deep = int(page.tilelength) if page.is_tiled else int(min(page.rowsperstrip, height))
        deep *= max(_STRIP_PX // (width * deep), 1)
        buffer, top = np.zeros((min(deep, height), *tail), page.dtype), 0
        for segment, index, shape in chain(page.segments(), [(None, (height, 0, 0), None)]):
            row, column = int(index[-3]), int(index[-2])
            while row >= top + len(buffer) > top:
                yield flat(buffer)
                top += len(buffer)
                buffer = np.zeros((min(deep, height - top), *tail), page.dtype)
            if segment is not None:
                h, w = min(int(shape[-3]), height - row), min(int(shape[-2]), width - column)
                buffer[row - top : row - top + h, column : column + w] = segment.reshape(segment.shape[-3:])[:h, :w]


def _picture_strips(path: Path, *, colours: bool) -> Iterator[NDArray[Any]]:
    """Yield `[h, width]` or `[h, width, 3]` of a picture."""
    with warnings.catch_warnings(action="ignore"), Image.open(path, formats=("PNG", "BMP")) as picture:
        picture.load()
        width, height = picture.size
        whole = picture.mode in {"L", "I", "I;16", "I;16B", "I;16L"} or (picture.mode == "P" and not colours)
        rows = max(_STRIP_PX // width, 1)
        for top in range(0, height, rows):
            part = picture.crop((0, top, width, min(top + rows, height)))
            if not whole:
                part = part.convert("L" if picture.mode in {"1", "LA"} else "RGB")
            yield np.asarray(part)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
