"""The only place that talks to OpenSlide.

Labels, macro images and thumbnails of a slide file can show a patient's name. Vitrail never reads them: nothing here
touches OpenSlide's associated images.
"""

from __future__ import annotations

from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import numpy as np
import openslide
from PIL import Image

from vitrail.core.files import regular_file
from vitrail.errors import SlideError
from vitrail.slides.readers.ifd import check_claims, check_tile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_WHITE = (255, 255, 255)
_MOST_SIDE_PX = 1 << 22
"""Of a slide: ten times the longest known."""


class LevelReader(Protocol):
    """Reads whole pixels of one level of one slide; a faster way to decode a format is another class like this."""

    @property
    def reductions(self) -> Mapping[int, float]:
        """By which it can reduce a level while it decodes, and how much that must be reduced in all for it to be wise.

        What is left to average makes up for the positions of edges that larger pixels no longer tell: on tissue, the
        result stays within a grey level of the exact mean on average (bench/README.md).
        """
        ...

    @property
    def centred(self) -> bool:
        """Whether a reduced pixel lies in the middle of those it stands for, rather than on the first of them."""
        ...

    def read(self, level: int, origin: tuple[int, int], size: tuple[int, int], scale: int = 1) -> NDArray[np.uint8]:
        """Read a rectangle.

        Parameters
        ----------
        level
            0 is the full resolution.
        origin
            Left and top edge in pixels of that level, reduced by the scale, in the file's own frame.
        size
            Width and height in the same pixels.
        scale
            One of `reductions`: each pixel stands for so many of the level's, squared, and is about their mean.

        Returns
        -------
        NDArray[np.uint8]
            `[height, width, 3]`; white wherever the file holds no pixels.

        Raises
        ------
        SlideError
            If the file cannot be decoded there.
        """
        ...


class OpenSlideReader:
    """Reads any slide that OpenSlide opens, as a `LevelReader`.

    OpenSlide addresses every level in whole level-0 pixels. Where a level is not reduced by a whole number, what it
    returns may therefore lie up to half a level-0 pixel beside what was asked for.

    Parameters
    ----------
    path
        The slide.

    Raises
    ------
    SlideError
        If it cannot be opened.
    """

    reductions: Mapping[int, float] = MappingProxyType({1: 0.0})
    centred = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._slide = open_with_openslide(path)

    @property
    def level_count(self) -> int:
        """How many levels OpenSlide knows."""
        return int(self._slide.level_count)

    def read(self, level: int, origin: tuple[int, int], size: tuple[int, int], scale: int = 1) -> NDArray[np.uint8]:  # noqa: ARG002 - it is 1
        """Read a rectangle; see `LevelReader.read`."""
        downsample = self._slide.level_downsamples[level]
        corner = (round(origin[0] * downsample), round(origin[1] * downsample))
        try:
            image = self._slide.read_region(corner, level, size)
        except openslide.OpenSlideError as error:
            raise SlideError(
                self._path,
                f"cannot be read at x {corner[0]}, y {corner[1]} of level {level} ({error})",
                "The file is damaged or cut short: copy it again from its source",
            ) from error
        alpha = image.getchannel("A")
        if alpha.getextrema()[0] == 255:  # most are opaque, and only drop their alpha
            return np.asarray(image.convert("RGB"))
        on_white = Image.new("RGB", image.size, _WHITE)
        on_white.paste(image, mask=alpha)
        return np.asarray(on_white)


def library_version() -> str:
    """Return the version of OpenSlide's library."""
    return str(openslide.__library_version__)


def level_sizes(path: Path) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Return the format of a slide file, and the size of each level.

    Parameters
    ----------
    path
        The slide.

    Returns
    -------
    tuple[str, tuple[tuple[int, int], ...]]
        The format as OpenSlide calls it; width and height of each level.

    Raises
    ------
    SlideError
        As `open_with_openslide` does.
    """
    with open_with_openslide(path) as handle:
        return properties_of(handle)[openslide.PROPERTY_NAME_VENDOR], handle.level_dimensions


def open_with_openslide(path: Path) -> openslide.OpenSlide:
    """Open a slide file.

    Parameters
    ----------
    path
        The slide.

    Returns
    -------
    openslide.OpenSlide
        The open slide.

    Raises
    ------
    SlideError
        If there is no such file, it may not be read, OpenSlide cannot open it, or what it claims cannot be true.
    """
    # Said before OpenSlide is asked: it calls whatever it cannot read an unknown format, or ends the process.
    regular_file(path, SlideError, "Check the slide column of slides.csv")
    try:
        check_claims(path)
    except OSError as error:
        raise SlideError(path, f"cannot be opened ({error.strerror})", "Check its permissions and its disk") from error
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SlideError(
            path,
            "not a slide that OpenSlide knows, or cut short",
            "Check that the copy is complete, or convert it to a tiled pyramidal TIFF",
        ) from error
    except openslide.OpenSlideError as error:
        cure = "The file is damaged or incomplete: copy it again from its source"
        raise SlideError(path, f"cannot be opened ({error})", cure) from error
    # It opens what it cannot decode, and ends the process where it has no memory for a tile.
    properties = properties_of(slide)
    for level in range(slide.level_count):
        sides = (properties.get(f"openslide.level[{level}].tile-{side}", "0") for side in ("width", "height"))
        check_tile(path, *map(int, sides))
    width, height = slide.dimensions
    if max(width, height) > _MOST_SIDE_PX:
        problem = f"claims {width:,} x {height:,} pixels, and no slide has a side of more than {_MOST_SIDE_PX:,}"
        raise SlideError(path, problem, "The file is damaged: copy it again from its source")
    return slide


def properties_of(slide: openslide.OpenSlide) -> dict[str, str]:
    """Return what OpenSlide says of an open slide; a damaged name that it lists, and does not know again, is left out.

    Parameters
    ----------
    slide
        The open slide.

    Returns
    -------
    dict[str, str]
        Values by name.
    """
    properties: dict[str, str] = {}
    for name in slide.properties:
        with suppress(KeyError):
            properties[name] = slide.properties[name]
    return properties
