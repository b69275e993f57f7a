"""Whole slides: the header of one, and its pixels anywhere at any scale.

Coordinates start at the top left corner of the slide's bounds, the scanned area that some scanners embed in a larger
empty frame. QuPath shifts its OpenSlide images by the same bounds, so its outlines fit without a shift.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vitrail.core.shown import Shown
from vitrail.errors import SlideError
from vitrail.geometry import Region
from vitrail.slides.metadata import bounds_of, check_mpp, downsample_of, header_mpp, scanner_of
from vitrail.slides.readers.openslide import LevelReader, OpenSlideReader, open_with_openslide, properties_of
from vitrail.slides.readers.resample import area_resample
from vitrail.slides.readers.tiff import open_tiff

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.settings.schema import Reading, StainNormalisation

_log = logging.getLogger(__name__)

_WHITE = 255
_OPEN_SLIDES = 8
_MOST_PX = 2**24
"""Most level pixels decoded at once (about 150 MB with OpenSlide's copies); larger regions are read in parts."""

_DIGITS, _NOISE_PX = 6, 1e-6
"""What edges of boxes are rounded to: coordinates are sums of floats, and carry their noise."""

_LEVEL_SLACK = 1.01
"""A level may be this much too coarse: enlarging by one percent costs nothing visible, the next level much time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slide(Shown):
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
    stain
        How its colours are normalised where networks see them, and nowhere else: see `vitrail.slides.stain`.
    frame
        Width and height of level 0 in the file's own frame; None where the bounds are all of it.
    """

    path: Path
    bounds: Region
    mpp: float
    downsamples: tuple[float, ...]
    reading: Reading = "fast"
    stain: StainNormalisation = "none"
    frame: tuple[int, int] | None = None

    @property
    def full_size(self) -> tuple[int, int]:
        """Width and height of level 0 in the file's own frame, whatever its bounds."""
        return self.frame or (int(self.bounds.width), int(self.bounds.height))

    @property
    def region(self) -> Region:
        """The whole slide, in the frame of all public coordinates: it starts at (0, 0)."""
        return Region(x=0, y=0, width=self.bounds.width, height=self.bounds.height)

    def __repr__(self) -> str:
        """Say which slide it is; folders stay out, they name users, hospitals and patients."""
        width, height = self.region.width, self.region.height
        mm = f"{width * self.mpp / 1000:.3g} x {height * self.mpp / 1000:.3g} mm"
        levels = "1 level" if len(self.downsamples) == 1 else f"{len(self.downsamples)} levels"
        return f"<Slide {self.path.stem}: {width:g} x {height:g} px, {mm}, {self.mpp:.4g} um per pixel, {levels}>"

    def level_for(self, downsample: float) -> int:
        """Return the coarsest level that still covers a downsample (within one percent), or 0; always 0 if faithful."""
        if self.reading == "faithful":
            return 0
        fine = [level for level, own in enumerate(self.downsamples) if own <= downsample * _LEVEL_SLACK]
        return max(fine, key=self.downsamples.__getitem__, default=0)


def open_slide(
    path: str | Path,
    *,
    mpp: float | None = None,
    fallback_mpp: float | None = None,
    reading: Reading = "fast",
    stain: StainNormalisation = "none",
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
    stain
        How networks will see its colours: see `Slide.stain`.

    Returns
    -------
    Slide
        What the header says; no file stays open.

    Raises
    ------
    SlideError
        If there is no such file, it may not be read, it is no slide or cut short, or no believable mpp is known.
    """
    path = Path(path)
    check_mpp(path, mpp, fallback_mpp)
    with open_with_openslide(path) as handle:
        properties = properties_of(handle)
        sizes = handle.level_dimensions
    alone = len(sizes) == 1 and properties.get("openslide.vendor") == "generic-tiff"
    if alone and (tiff := open_tiff(path)):
        sizes = tiff.sizes  # OpenSlide does not know the pyramids of OME-TIFF
    bounds = bounds_of(properties, sizes[0])
    return Slide(
        path=path,
        bounds=bounds,
        mpp=header_mpp(path, properties, sizes[0], fallback_mpp) if mpp is None else float(mpp),
        downsamples=tuple(downsample_of(sizes[0], size) for size in sizes),
        reading=reading,
        stain=stain,
        frame=None if bounds == Region(x=0, y=0, width=sizes[0][0], height=sizes[0][1]) else sizes[0],
    )


def read_scanner(slide: Slide) -> str:
    """Read from a slide's header what scanned it, such as `Hamamatsu NanoZoomer, 20x`; see `scanner_of`.

    Raises
    ------
    SlideError
        The file cannot be opened.
    """
    with open_with_openslide(slide.path) as handle:
        return scanner_of(properties_of(handle))


def read_region(slide: Slide, region: Region, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a region of a slide, scaled to a size.

    The coarsest pyramid level that covers the resolution of the result is decoded, and only where the region lies;
    level 0 if the slide's reading is faithful. Reducing averages areas, exactly or within a grey level on average
    (`Slide.reading` says which); enlarging interpolates linearly, across the region's edges. Beyond the slide, and
    where a scanner left pixels out, the glass is white.

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
    NDArray[np.uint8]
        `[height, width, 3]`, RGB.

    Raises
    ------
    SlideError
        If the file cannot be decoded there.
    ValueError
        If the size is not positive.
    """
    if min(size) < 1:
        raise ValueError(f"a size needs at least one pixel, not {size[0]} x {size[1]}")
    downsample = min(region.width / size[0], region.height / size[1])
    level = slide.level_for(downsample)
    own = slide.downsamples[level]
    if slide.reading == "faithful":
        return _read_source(slide, _Source(level=level, scale=1, downsample=own), region, size)
    reader = _reader_of(slide)
    scale = max(scale for scale, least in reader.reductions.items() if least <= downsample / own * _LEVEL_SLACK)
    lead_px = 0.0 if reader.centred else 0.5 - 0.5 / scale
    source = _Source(level=level, scale=scale, downsample=own * scale, lead_px=lead_px)
    return _read_source(slide, source, region, size)


def read_thumbnail(slide: Slide, longest_px: int) -> NDArray[np.uint8]:
    """Read the whole slide, its longer side scaled to `longest_px`.

    It is made from the pyramid. The thumbnail, label and macro image stored in the file are never read: they may show
    a patient's name. It is a picture to look at: the slide's reading does not matter.

    Parameters
    ----------
    slide
        The slide.
    longest_px
        Pixels of the longer side.

    Returns
    -------
    NDArray[np.uint8]
        `[height, width, 3]`, RGB.

    Raises
    ------
    SlideError
        If the file cannot be decoded.
    ValueError
        If `longest_px` is not positive.
    """
    if longest_px < 1:
        raise ValueError(f"a thumbnail needs at least one pixel, not {longest_px}")
    region = slide.region
    scale = longest_px / max(region.width, region.height)
    size = max(1, round(region.width * scale)), max(1, round(region.height * scale))
    return read_region(replace(slide, reading="fast"), region, size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where pixels come from: a level, and by how much it is reduced while it is decoded."""

    level: int
    scale: int
    downsample: float  # of both together
    lead_px: float = 0.0  # how far before the middle of the area that it stands for a pixel lies


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """Whole pixels of a level, in the file's own frame; the right and bottom edge are excluded."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def around(cls, box: Region, margin_px: int = 0) -> _Window:
        """Return the window of all pixels that a box touches; the rounding forgives float noise."""
        left, top, right, bottom = (round(edge, _DIGITS) for edge in (box.x, box.y, box.right, box.bottom))
        return cls(
            left=math.floor(left) - margin_px,
            top=math.floor(top) - margin_px,
            right=math.ceil(right) + margin_px,
            bottom=math.ceil(bottom) + margin_px,
        )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height; not positive where the window is empty."""
        return self.right - self.left, self.bottom - self.top


def _read_source(slide: Slide, source: _Source, region: Region, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale a level to the size, in parts where it would not fit in memory."""
    box = region.shifted(slide.bounds.x, slide.bounds.y).scaled(1.0 / source.downsample)
    box = box.shifted(source.lead_px, source.lead_px)
    # Enlarging, and cutting through pixels that are means, look at the pixels around those that the box touches.
    enlarged = box.width < size[0] or box.height < size[1]
    aligned = all(abs(edge - round(edge)) < _NOISE_PX for edge in (box.x, box.y, box.right, box.bottom))
    window = _Window.around(box, margin_px=int(enlarged or (source.scale > 1 and not aligned)))
    if math.prod(window.size) > _MOST_PX and max(size) > 1:
        # The longer side of the result is cut in two; coverage is exact, so the seam does not show.
        across = size[0] >= size[1]
        total, halves = max(size), []
        for start, stop in ((0, total // 2), (total // 2, total)):
            low, high = start / total, stop / total
            x, width, y, height = region.x, region.width, region.y, region.height
            if across:
                x, width = x + width * low, width * (high - low)
            else:
                y, height = y + height * low, height * (high - low)
            part = Region(x=x, y=y, width=width, height=height)
            part_size = (stop - start, size[1]) if across else (size[0], stop - start)
            halves.append(_read_source(slide, source, part, part_size))
        return np.concatenate(halves, axis=int(across))
    pixels = _decode(slide, source, window)
    left, top, right, bottom = (
        round(edge, _DIGITS)  # free of the noise that coordinates carry
        for edge in (box.x - window.left, box.y - window.top, box.right - window.left, box.bottom - window.top)
    )
    edges = max(0.0, left), max(0.0, top), min(float(window.size[0]), right), min(float(window.size[1]), bottom)
    return area_resample(pixels, edges, size, of_means=source.scale > 1)


def _decode(slide: Slide, source: _Source, window: _Window) -> NDArray[np.uint8]:
    """Decode a window of a level; what lies outside the bounds stays white and is not read."""
    bounds = _Window.around(slide.bounds.scaled(1.0 / source.downsample))
    part = _Window(
        left=max(window.left, bounds.left),
        top=max(window.top, bounds.top),
        right=min(window.right, bounds.right),
        bottom=min(window.bottom, bounds.bottom),
    )
    width, height = window.size
    if min(part.size) < 1:
        return np.full((height, width, 3), _WHITE, np.uint8)
    try:
        pixels = _reader_of(slide).read(source.level, (part.left, part.top), part.size, source.scale)
    except SlideError:
        _reader.cache_clear()  # an OpenSlide handle that failed once fails ever after
        raise
    if part == window:
        return pixels
    padded = np.full((height, width, 3), _WHITE, np.uint8)
    rows = slice(part.top - window.top, part.bottom - window.top)
    padded[rows, part.left - window.left : part.right - window.left] = pixels
    return padded


def _reader_of(slide: Slide) -> LevelReader:
    """Return the open reader of a slide; a file that was replaced meanwhile is opened anew."""
    try:
        changed_ns = slide.path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SlideError(slide.path, "the file is gone", "Put it back where it was") from error
    except OSError as error:
        problem = f"cannot be reached any more ({error.strerror})"
        raise SlideError(slide.path, problem, "Check its permissions and its disk") from error
    with _opening:
        return _reader(slide.path, changed_ns)


@lru_cache(maxsize=_OPEN_SLIDES)
def _reader(path: Path, _changed_ns: int) -> LevelReader:
    """Pick the reader for a slide: the fastest that knows its format.

    A reader that falls out of the cache closes its file as soon as no thread reads from it any more.
    """
    # glibc keeps blocks as large as the largest that was ever mapped and let go, up to 32 MiB (mallopt(3) of Linux).
    # This one is never touched. Mapping the memory of each region anew would cost a sixth of the time.
    np.empty(31 << 20, np.uint8)
    reader: LevelReader = open_tiff(path) or OpenSlideReader(path)
    _log.info("%s: read by %s", path, "OpenSlide" if isinstance(reader, OpenSlideReader) else "Vitrail's TIFF reader")
    return reader


_opening = threading.Lock()
"""Held while a reader is opened, so that threads that begin together share one."""


def _close_all() -> None:
    _opening.acquire()
    _reader.cache_clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    # A forked child would share the position in every open file with its parent.
    os.register_at_fork(before=_close_all, after_in_parent=_opening.release, after_in_child=_opening.release)
