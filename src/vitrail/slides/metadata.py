"""What the header of a slide says of its bounds and its scale, whoever wrote it.

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
    from collections.abc import Mapping, Sequence
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
    """Return the scanned area, or the whole frame where the header gives none, as QuPath does.

    Parameters
    ----------
    properties
        What OpenSlide says of the slide.
    size
        Width and height of level 0.

    Returns
    -------
    Region
        In the file's own frame.
    """
    try:
        x, y, width, height = (int(properties[f"openslide.bounds-{key}"]) for key in ("x", "y", "width", "height"))
        return Region(x=x, y=y, width=width, height=height)
    except (KeyError, ValueError):
        return Region(x=0, y=0, width=size[0], height=size[1])


def downsample_of(full: tuple[int, int], level: tuple[int, int]) -> float:
    """Return a level's downsample: the whole number it was made with, where cutting off a remainder explains it.

    A 4443-px side halved to 2221 px is reduced by 2, not by 2.0005; the error would grow along the slide.

    Parameters
    ----------
    full, level
        Width and height of level 0, and of the level.

    Returns
    -------
    float
        Level-0 pixels per pixel of the level.
    """
    ratio = (full[0] / level[0] + full[1] / level[1]) / 2.0
    factor = max(1, round(ratio))
    explained = all(reduced in {side // factor, -(-side // factor)} for side, reduced in zip(full, level, strict=True))
    return float(factor) if explained else ratio


_SCANNERS = {
    "aperio": ("Aperio", ""),
    "dicom": ("DICOM", "dicom.ManufacturerModelName"),
    "hamamatsu": ("Hamamatsu", "tiff.Model"),
    "leica": ("Leica", "leica.device-model"),
    "mirax": ("3DHISTECH", ""),
    "philips": ("Philips", "philips.DICOM_MANUFACTURERS_MODEL_NAME"),
    "sakura": ("Sakura", ""),
    "trestle": ("Trestle", ""),
    "ventana": ("Ventana", "ventana.ScannerModel"),
    "zeiss": ("Zeiss", ""),
}
"""By OpenSlide's name of the maker its own, and the field that holds the scanner's model and nothing else.

No other field of a header is shown: any may hold a patient's name.
"""

_LONGEST_MODEL = 40


def scanner_of(properties: Mapping[str, str]) -> str:
    """Return what scanned a slide, from the few fields of its header that cannot name a patient.

    Parameters
    ----------
    properties
        What OpenSlide says of the slide.

    Returns
    -------
    str
        Maker, model and objective as far as they are stated; empty where nothing is.
    """
    maker, field = _SCANNERS.get(properties.get("openslide.vendor", ""), ("", ""))
    model = properties.get(field, "").strip()[:_LONGEST_MODEL]
    parts = [model if maker and model.lower().startswith(maker.lower()) else f"{maker} {model}".strip()]
    try:
        power = float(properties["openslide.objective-power"])
        parts += [f"{power:g}x"] if 0 < power < math.inf else []
    except (KeyError, ValueError):
        pass
    return ", ".join(part for part in parts if part)


def check_mpp(path: Path, *given_mpp: float | None) -> None:
    """Refuse an mpp that a user gave and that no slide can have.

    Parameters
    ----------
    path
        The slide.
    given_mpp
        Micrometres per pixel, or None.

    Raises
    ------
    SlideError
        If any is.
    """
    for mpp in given_mpp:
        if mpp is not None and not _SMALLEST_UM <= mpp <= _LARGEST_UM:
            raise SlideError(path, f"a given mpp of {mpp:g} um per pixel is not possible", _MPP_CURE)


def header_mpp(path: Path, properties: Mapping[str, str], size: tuple[int, int], fallback: float | None) -> float:
    """Return the header's mpp, or the fallback where it gives none that a scanner could have.

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

    Returns
    -------
    float
        Micrometres per level-0 pixel; the mean of both axes.

    Raises
    ------
    SlideError
        If no believable mpp is known.
    """
    openslide = _mean(properties, ("openslide.mpp-x", "openslide.mpp-y"))

    # A file may describe other images, too, as the label's: only the one of the slide's own size counts.
    fields: dict[str, str] = {}
    for pixels in _OME_PIXELS.finditer(properties.get("tiff.ImageDescription", "")):
        texts = {name: html.unescape(double or single) for name, double, single in _OME_FIELD.findall(pixels[1])}
        if (texts.get("SizeX"), texts.get("SizeY")) == (str(size[0]), str(size[1])):
            fields = texts
            break
    units_um = [_OME_UNITS_UM.get(fields.get(f"PhysicalSize{axis}Unit", "um")) for axis in "XY"]
    ome = _mean(fields, ("PhysicalSizeX", "PhysicalSizeY"), units_um)

    # Aperio files whose description lacks the mpp have it in the TIFF's tags.
    unit_um = _UNITS_UM.get(properties.get("tiff.ResolutionUnit", ""))
    per_unit = _mean(properties, ("tiff.XResolution", "tiff.YResolution"))
    tags = unit_um / per_unit if unit_um and per_unit else None

    # OpenSlide's own mpp of a generic TIFF comes from its tags, too, and stands behind OME's.
    generic = properties.get("openslide.vendor") == "generic-tiff"
    candidates = (ome, openslide, tags) if generic else (openslide, ome, tags)
    stated = [mpp for mpp in candidates if mpp is not None]
    for mpp in stated:
        if _SMALLEST_UM <= mpp <= _LARGEST_SCAN_UM:
            return mpp
    if fallback is not None:
        return float(fallback)
    if not stated:
        raise SlideError(path, "its header gives no mpp (micrometres per pixel)", _MPP_CURE)
    raise SlideError(path, f"its header gives {stated[0]:g} um per pixel, which no scanner has", _MPP_CURE)


def _mean(texts: Mapping[str, str], keys: Sequence[str], factors: Sequence[float | None] = (1.0, 1.0)) -> float | None:
    """Return the mean of those of two numbers that are positive and finite, each times its factor; None without any."""
    numbers = []
    for key, factor in zip(keys, factors, strict=True):
        try:
            number = float(texts[key])
        except (KeyError, ValueError):
            continue
        if factor is not None and math.isfinite(number) and number > 0.0:
            numbers.append(number * factor)
    return sum(numbers) / len(numbers) if numbers else None
