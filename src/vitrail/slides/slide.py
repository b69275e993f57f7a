"""Whole slides: the header of one, and its pixels at any place and scale.

Coordinates start at the top left corner of the slide's bounds, the scanned area that some scanners embed in a larger
empty frame. QuPath shifts its OpenSlide images by the same bounds, so its outlines fit without a shift.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vitrail.errors import SlideError
from vitrail.geometry import Region
from vitrail.slides.openslide_reader import LevelReader, OpenSlideReader, open_with_openslide
from vitrail.slides.resample import area_resample, means_resample
from vitrail.slides.tiff_reader import open_tiff

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from vitrail.branches import Reading

_WHITE = 255
_OPEN_SLIDES = 8
_MOST_PX = 2**24
"""Most level pixels decoded at once (about 150 MB with OpenSlide's copies); larger regions are read in parts."""

_DIGITS, _NOISE_PX = 6, 1e-6
"""What edges of boxes are rounded to: coordinates are sums of floats, and carry their noise."""

_LEVEL_SLACK = 1.01
"""A level may be this much too coarse: enlarging by one percent costs nothing visible, the next level much time."""

_LEAST_REDUCTION = {2: 4.0, 4: 12.0, 8: 32.0}
"""How much a level must be reduced in all for the decoder to do a part of it. What is left to average makes up for the
places of edges that the decoder's larger pixels no longer tell: on tissue, the result stays within a grey level of the
exact mean on average (bench/README.md)."""

_SMALLEST_UM, _LARGEST_UM = 0.01, 100.0
_LARGEST_SCAN_UM = 20.0
"""No scanner's pixel is larger; a printer's 72, 96, 150, 300 or 600 dpi in TIFF tags would be 352 to 42 um."""

_MPP_CURE = "Give it in the mpp column of slides.csv or as slides.mpp in study.toml, or as --mpp to vitrail predict"
_UNITS_UM = {"centimeter": 10_000.0, "inch": 25_400.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slide:
    """What a slide's header says; it holds no open file, so it crosses processes.

    Attributes
    ----------
    path
        The file.
    bounds
        The scanned area in the file's own frame, level-0 pixels.
    mpp
        Micrometres per level-0 pixel.
    downsamples
        Of every level, finest first; `downsamples[0]` is 1.
    reading
        `fast` starts from the coarsest stored level that is fine enough, and reduces while it decodes where the format
        allows; `faithful` decodes level 0 in full and averages areas exactly.
    """

    path: Path
    bounds: Region
    mpp: float
    downsamples: tuple[float, ...]
    reading: Reading = "fast"

    @property
    def region(self) -> Region:
        """The whole slide, in the frame of all public coordinates: it starts at (0, 0)."""
        return Region(x=0, y=0, width=self.bounds.width, height=self.bounds.height)

    def level_for(self, downsample: float) -> int:
        """Return the coarsest level that still covers a downsample (within one percent), or 0; always 0 if faithful."""
        if self.reading == "faithful":
            return 0
        fit = [level for level, own in enumerate(self.downsamples) if own <= downsample * _LEVEL_SLACK]
        return max(fit, key=self.downsamples.__getitem__, default=0)


def open_slide(
    path: str | Path, *, mpp: float | None = None, fallback_mpp: float | None = None, reading: Reading = "fast"
) -> Slide:
    """Read the header of a slide.

    Parameters
    ----------
    path
        Any format of OpenSlide 4: Aperio, Hamamatsu, MIRAX, Leica, Ventana, Philips, DICOM, tiled TIFF and more.
    mpp
        Micrometres per level-0 pixel, for slides whose header lacks it or is wrong; it wins over the header.
    fallback_mpp
        The same for many slides at once; taken only where the header gives none that a scanner could have.
    reading
        How its pixels will be read: see `Slide.reading`.

    Raises
    ------
    SlideError
        If there is no such file, it may not be read, it is no slide or cut short, or no believable mpp is known.
    """
    path = Path(path)
    _check_mpp(path, mpp, fallback_mpp)
    with open_with_openslide(path) as handle:
        properties = dict(handle.properties)
        sizes = handle.level_dimensions
    return Slide(
        path=path,
        bounds=_bounds(properties, sizes[0]),
        mpp=_header_mpp(path, properties, fallback_mpp) if mpp is None else float(mpp),
        downsamples=tuple(_downsample(sizes[0], size) for size in sizes),
        reading=reading,
    )


def read_region(slide: Slide, region: Region, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a region of a slide, scaled to a size.

    The coarsest pyramid level that covers the wanted resolution is decoded, and only where the region lies; level 0 if
    the slide's reading is faithful. Reducing averages areas, exactly or within a grey level on average (`Slide.reading`
    says which); enlarging interpolates linearly, across the region's edges. Beyond the slide, and where a scanner left
    pixels out, the glass is white.

    Parameters
    ----------
    slide
        The slide.
    region
        Any place, on or off the slide; fractions of pixels are welcome.
    size
        Width and height of the result, in pixels.

    Returns
    -------
    NDArray
        [height, width, 3], RGB.

    Raises
    ------
    SlideError
        If the file cannot be decoded there.
    ValueError
        If the size is not positive.
    """
    if min(size) < 1:
        raise ValueError(f"a size needs at least one pixel, not {size[0]} x {size[1]}")
    return _read_source(slide, _source(slide, region, size), region, size)


def read_thumbnail(slide: Slide, longest_px: int) -> NDArray[np.uint8]:
    """Read the whole slide, its longer side scaled to `longest_px`.

    It is made from the pyramid. The thumbnail, label and macro image stored in the file are never read: they may show
    a patient's name. It is a picture to look at: the slide's reading does not matter.

    Returns
    -------
    NDArray
        [height, width, 3], RGB.

    Raises
    ------
    SlideError
        If the file cannot be decoded.
    ValueError
        If `longest_px` is not positive.
    """
    if longest_px < 1:
        raise ValueError(f"a thumbnail needs at least one pixel, not {longest_px}")
    whole = slide.region
    scale = longest_px / max(whole.width, whole.height)
    quick = replace(slide, reading="fast")
    return read_region(quick, whole, (max(1, round(whole.width * scale)), max(1, round(whole.height * scale))))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """Whole pixels of a level, in the file's own frame; the right and bottom edge are excluded."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def around(cls, box: Region, margin: int = 0) -> _Window:
        """Return the window of all pixels that a box touches; the rounding forgives float noise."""
        left, top, right, bottom = (round(edge, _DIGITS) for edge in (box.x, box.y, box.right, box.bottom))
        return cls(
            left=math.floor(left) - margin,
            top=math.floor(top) - margin,
            right=math.ceil(right) + margin,
            bottom=math.ceil(bottom) + margin,
        )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height; not positive where the window is empty."""
        return self.right - self.left, self.bottom - self.top

    def within(self, other: _Window) -> _Window:
        """Return what both windows share."""
        return _Window(
            left=max(self.left, other.left),
            top=max(self.top, other.top),
            right=min(self.right, other.right),
            bottom=min(self.bottom, other.bottom),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where pixels come from: a level, and by how much it is reduced while it is decoded."""

    level: int
    scale: int
    downsample: float  # of both together


def _source(slide: Slide, region: Region, size: tuple[int, int]) -> _Source:
    wanted = min(region.width / size[0], region.height / size[1])
    level = slide.level_for(wanted)
    own = slide.downsamples[level]
    scales = _reader_of(slide).scales if slide.reading == "fast" else (1,)
    scale = max(some for some in scales if _LEAST_REDUCTION.get(some, 0.0) <= wanted / own * _LEVEL_SLACK)
    return _Source(level=level, scale=scale, downsample=own * scale)


def _read_source(slide: Slide, source: _Source, region: Region, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale a level to the size, in parts where it would not fit in memory."""
    box = region.shifted(slide.bounds.x, slide.bounds.y).scaled(1.0 / source.downsample)
    window = _Window.around(box, margin=int(_looks_beyond(box, source, size)))
    if math.prod(window.size) > _MOST_PX and max(size) > 1:
        return _read_halves(slide, source, region, size)
    pixels = _source_pixels(slide, source, window)
    return (area_resample if source.scale == 1 else means_resample)(pixels, _inside(box, window), size)


def _looks_beyond(box: Region, source: _Source, size: tuple[int, int]) -> bool:
    """Tell whether scaling looks at the pixels around those that a box touches."""
    if box.width < size[0] or box.height < size[1]:
        return True
    whole = all(abs(edge - round(edge)) < _NOISE_PX for edge in (box.x, box.y, box.right, box.bottom))
    return source.scale > 1 and not whole


def _read_halves(slide: Slide, source: _Source, region: Region, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Cut the longer side of the result in two; coverage is exact, so the seam does not show."""
    axis = 1 if size[0] >= size[1] else 0
    firsts, rests = (_part(region, size, axis, half) for half in (0, 1))
    return np.concatenate([_read_source(slide, source, *firsts), _read_source(slide, source, *rests)], axis=axis)


def _part(region: Region, size: tuple[int, int], axis: int, half: int) -> tuple[Region, tuple[int, int]]:
    """Return the first or second half of a region and of its size along an array axis."""
    total = size[1 - axis]
    start, stop = ((0, total // 2), (total // 2, total))[half]
    low, high = start / total, stop / total
    if axis == 1:
        x, width = region.x + region.width * low, region.width * (high - low)
        return Region(x=x, y=region.y, width=width, height=region.height), (stop - start, size[1])
    y, height = region.y + region.height * low, region.height * (high - low)
    return Region(x=region.x, y=y, width=region.width, height=height), (size[0], stop - start)


def _inside(box: Region, window: _Window) -> tuple[float, float, float, float]:
    """Return a box's edges in pixels of a window, held within it, and free of the noise that coordinates carry."""
    width, height = window.size
    left, top, right, bottom = (
        round(edge, _DIGITS)
        for edge in (box.x - window.left, box.y - window.top, box.right - window.left, box.bottom - window.top)
    )
    return max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)


def _source_pixels(slide: Slide, source: _Source, window: _Window) -> NDArray[np.uint8]:
    """Decode a window of a level; what lies outside the bounds stays white and is not read."""
    part = window.within(_Window.around(slide.bounds.scaled(1.0 / source.downsample)))
    if part == window:
        return _decode(slide, source, part)
    width, height = window.size
    pixels = np.full((height, width, 3), _WHITE, np.uint8)
    if min(part.size) > 0:
        rows = slice(part.top - window.top, part.bottom - window.top)
        columns = slice(part.left - window.left, part.right - window.left)
        pixels[rows, columns] = _decode(slide, source, part)
    return pixels


def _decode(slide: Slide, source: _Source, window: _Window) -> NDArray[np.uint8]:
    try:
        return _reader_of(slide).read(source.level, (window.left, window.top), window.size, source.scale)
    except SlideError:
        _reader.cache_clear()  # an OpenSlide handle that failed once fails ever after
        raise


def _reader_of(slide: Slide) -> LevelReader:
    """Return the open reader of a slide; a file that was replaced meanwhile is opened anew."""
    try:
        changed_ns = slide.path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SlideError(slide.path, "the file is gone", "Put it back where it was") from error
    except OSError as error:
        problem = f"cannot be reached any more ({error.strerror})"
        raise SlideError(slide.path, problem, "Check its permissions and its disk") from error
    return _reader(slide.path, changed_ns)


@lru_cache(maxsize=_OPEN_SLIDES)
def _reader(path: Path, _changed_ns: int) -> LevelReader:
    """Pick the reader for a slide: the fastest that knows its format.

    A reader that falls out of the cache closes its file as soon as no thread reads from it any more.
    """
    return open_tiff(path) or OpenSlideReader(path)


if hasattr(os, "register_at_fork"):  # not on Windows
    # A forked child would share the position in every open file with its parent.
    os.register_at_fork(before=_reader.cache_clear)


def _bounds(properties: Mapping[str, str], size: tuple[int, int]) -> Region:
    """Return the scanned area, or the whole frame where the header gives none, as QuPath does."""
    try:
        x, y, width, height = (int(properties[f"openslide.bounds-{key}"]) for key in ("x", "y", "width", "height"))
        return Region(x=x, y=y, width=width, height=height)
    except (KeyError, ValueError):
        return Region(x=0, y=0, width=size[0], height=size[1])


def _downsample(full: tuple[int, int], level: tuple[int, int]) -> float:
    """Return a level's downsample: the whole number it was made with, where cutting off a remainder explains it.

    A 4443-px side halved to 2221 px is reduced by 2, not by 2.0005; the error would grow along the slide.
    """
    ratio = (full[0] / level[0] + full[1] / level[1]) / 2.0
    whole = max(1, round(ratio))
    explained = all(part in {side // whole, -(-side // whole)} for side, part in zip(full, level, strict=True))
    return float(whole) if explained else ratio


def _check_mpp(path: Path, *given: float | None) -> None:
    for mpp in given:
        if mpp is not None and not _SMALLEST_UM <= mpp <= _LARGEST_UM:
            raise SlideError(path, f"a given mpp of {mpp:g} um per pixel is not possible", _MPP_CURE)


def _header_mpp(path: Path, properties: Mapping[str, str], fallback: float | None) -> float:
    """Return the header's mpp, the fallback where it gives none that a scanner could have."""
    mpp = _openslide_mpp(properties) or _tiff_mpp(properties)
    if mpp is not None and _SMALLEST_UM <= mpp <= _LARGEST_SCAN_UM:
        return mpp
    if fallback is not None:
        return float(fallback)
    if mpp is None:
        raise SlideError(path, "its header gives no mpp (micrometres per pixel)", _MPP_CURE)
    raise SlideError(path, f"its header gives {mpp:g} um per pixel, which no scanner has", _MPP_CURE)


def _openslide_mpp(properties: Mapping[str, str]) -> float | None:
    return _mean_of_known(_number(properties, f"openslide.mpp-{axis}") for axis in "xy")


def _tiff_mpp(properties: Mapping[str, str]) -> float | None:
    """Return the mpp of the TIFF tags, for Aperio files whose description lacks it."""
    unit_um = _UNITS_UM.get(properties.get("tiff.ResolutionUnit", ""))
    per_unit = _mean_of_known(_number(properties, f"tiff.{axis}Resolution") for axis in "XY")
    return unit_um / per_unit if unit_um and per_unit else None


def _number(properties: Mapping[str, str], key: str) -> float | None:
    """Return a positive, finite property, or None."""
    try:
        value = float(properties[key])
    except (KeyError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0.0 else None


def _mean_of_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
