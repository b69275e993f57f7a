"""What the header of a slide says of its place and scale, whoever wrote it.

OpenSlide reads the vendors' own fields. OME-TIFF keeps the size of a pixel in XML, which OpenSlide passes on unread;
and the resolution in a TIFF's tags may be a printer's.
"""

from __future__ import annotations

import html
import math
import re
from typing import TYPE_CHECKING

from vitrail.errors import SlideError
from vitrail.geometry import Region

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_SMALLEST_UM, _LARGEST_UM = 0.01, 100.0
_LARGEST_SCAN_UM = 20.0
"""No scanner's pixel is larger; a printer's 72, 96, 150, 300 or 600 dpi in TIFF tags would be 352 to 42 um."""

_MPP_CURE = "Give it in the mpp column of slides.csv or as slides.mpp in study.toml, or as --mpp to vitrail predict"
_UNITS_UM = {"centimeter": 10_000.0, "inch": 25_400.0}

_OME_PIXELS = re.compile(r"<(?:\w+:)?Pixels\s([^<>]*)>")
_OME_FIELD = re.compile(r"""\b(\w+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_OME_UNITS_UM = {"pm": 1e-6, "nm": 1e-3, "\u00b5m": 1.0, "\u03bcm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
"""Units of length of the OME data model; micro is written with either of two characters. Without one it is um."""


def bounds_of(properties: Mapping[str, str], size: tuple[int, int]) -> Region:
    """Return the scanned area, or the whole frame where the header gives none, as QuPath does."""
    try:
        x, y, width, height = (int(properties[f"openslide.bounds-{key}"]) for key in ("x", "y", "width", "height"))
        return Region(x=x, y=y, width=width, height=height)
    except (KeyError, ValueError):
        return Region(x=0, y=0, width=size[0], height=size[1])


def downsample_of(full: tuple[int, int], level: tuple[int, int]) -> float:
    """Return a level's downsample: the whole number it was made with, where cutting off a remainder explains it.

    A 4443-px side halved to 2221 px is reduced by 2, not by 2.0005; the error would grow along the slide.
    """
    ratio = (full[0] / level[0] + full[1] / level[1]) / 2.0
    whole = max(1, round(ratio))
    explained = all(part in {side // whole, -(-side // whole)} for side, part in zip(full, level, strict=True))
    return float(whole) if explained else ratio


def check_mpp(path: Path, *given: float | None) -> None:
    """Refuse a given mpp that no slide can have.

    Raises
    ------
    SlideError
        If any is.
    """
    for mpp in given:
        if mpp is not None and not _SMALLEST_UM <= mpp <= _LARGEST_UM:
            raise SlideError(path, f"a given mpp of {mpp:g} um per pixel is not possible", _MPP_CURE)


def header_mpp(path: Path, properties: Mapping[str, str], size: tuple[int, int], fallback: float | None) -> float:
    """Return the header's mpp, the fallback where it gives none that a scanner could have.

    Parameters
    ----------
    path
        The slide.
    properties
        What OpenSlide says of it.
    size
        Its width and height.
    fallback
        Micrometres per pixel, or None.

    Raises
    ------
    SlideError
        If no believable mpp is known.
    """
    known = [mpp for mpp in _candidates(properties, size) if mpp is not None]
    believable = next((mpp for mpp in known if _SMALLEST_UM <= mpp <= _LARGEST_SCAN_UM), None)
    if believable is not None:
        return believable
    if fallback is not None:
        return float(fallback)
    if not known:
        raise SlideError(path, "its header gives no mpp (micrometres per pixel)", _MPP_CURE)
    raise SlideError(path, f"its header gives {known[0]:g} um per pixel, which no scanner has", _MPP_CURE)


def _candidates(properties: Mapping[str, str], size: tuple[int, int]) -> Iterator[float | None]:
    """Yield what is known of the mpp, the most reliable first: of the vendor, of OME, of the TIFF's tags.

    OpenSlide's own mpp of a generic TIFF comes from its tags, too, and stands behind OME's.
    """
    vendors = properties.get("openslide.vendor") != "generic-tiff"
    openslide, ome = _openslide_mpp(properties), _ome_mpp(properties.get("tiff.ImageDescription", ""), size)
    yield from (openslide, ome) if vendors else (ome, openslide)
    yield _tiff_mpp(properties)


def _ome_mpp(description: str, size: tuple[int, int]) -> float | None:
    """Return the mpp of the image of a size in OME-XML; a file may hold others, as the label's."""
    for found in _OME_PIXELS.finditer(description):
        fields = {name: html.unescape(one or other) for name, one, other in _OME_FIELD.findall(found[1])}
        if (fields.get("SizeX"), fields.get("SizeY")) == (str(size[0]), str(size[1])):
            return _mean_of_known(_ome_length(fields, axis) for axis in "XY")
    return None


def _ome_length(fields: Mapping[str, str], axis: str) -> float | None:
    length, unit = _number(fields, f"PhysicalSize{axis}"), fields.get(f"PhysicalSize{axis}Unit", "um")
    return length * _OME_UNITS_UM[unit] if length is not None and unit in _OME_UNITS_UM else None


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
