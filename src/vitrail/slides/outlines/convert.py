"""Outlines of one program written for another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import shapely

from vitrail.core.files import exporting
from vitrail.errors import AnnotationError, SettingsError
from vitrail.slides.annotations import mend_areas
from vitrail.slides.outlines.formats import FORMATS, frame_shift, read_outlines
from vitrail.slides.outlines.writing import Image, Outline, plural

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitrail.slides.slide import Slide

WRITABLE = tuple(key for key, row in FORMATS.items() if row.write)


def write_outlines(
    path: Path, outlines: Sequence[Outline], format_: str, slide: Slide | None = None
) -> tuple[str, ...]:
    """Write outlines of a slide for another program.

    Parameters
    ----------
    path
        The file; it is whole or absent.
    outlines
        In level-0 pixels from the slide's bounds; their areas are valid.
    format_
        A key of `FORMATS` that can be written.
    slide
        The slide; without it its bounds are taken for the whole, and some formats cannot be written.

    Returns
    -------
    tuple[str, ...]
        What the format could not hold, a line each.

    Raises
    ------
    SettingsError
        There is no such format, or Vitrail does not write it.
    AnnotationError
        The format needs the slide.
    ExchangeError
        The file cannot be written.
    """
    row = FORMATS.get(format_)
    if row is None or row.write is None:
        raise SettingsError("--as", f"{format_!r} is none of {', '.join(WRITABLE)}", "Choose one of these")
    x, y = frame_shift(row.frame, slide)
    if x or y:
        outlines = [
            Outline(name=each.name, area=shapely.transform(each.area, lambda points: points - (x, y)))
            for each in outlines
        ]
    image = Image(name=slide.path.name, size=slide.full_size, mpp=slide.mpp) if slide else None
    written = row.write(outlines, image)
    with exporting(path) as temporary:
        temporary.write_bytes(written.content)
    return written.remarks


def convert_outlines(source: Path, target: Path, format_: str, slide: Slide | None = None) -> tuple[int, list[str]]:
    """Read the outlines of a file of any program, and write them for another.

    Outlines that cross themselves are mended: all they enclose is inside. Points and lines are left out.

    Parameters
    ----------
    source
        The file.
    target
        Where to write.
    format_
        A key of `FORMATS` that can be written.
    slide
        The slide that they are of.

    Returns
    -------
    int
        How many outlines were written.
    list[str]
        What was left out, mended or could not be held, a line each.

    Raises
    ------
    SettingsError
        There is no such format, or Vitrail does not write it.
    AnnotationError
        The file cannot be read, or a format needs the slide.
    ExchangeError
        The file cannot be written.
    """
    if format_ not in WRITABLE:
        raise SettingsError("--as", f"{format_!r} is none of {', '.join(WRITABLE)}", "Choose one of these")
    file = read_outlines(source, slide)
    drawn = [feature for feature in file.features if feature.is_area]
    mended = mend_areas(source, [file.area(feature) for feature in drawn])
    outlines = [
        Outline(name=feature.name, area=area) for feature, (area, _) in zip(drawn, mended, strict=True) if area.area > 0
    ]
    if not outlines:
        raise AnnotationError(source, "no outlines", "Draw outlines, and export them again")
    remarks = [
        *plural(len(file.features) - len(drawn), "object", "objects", "without an area (points, lines) left out")
    ]
    remarks += plural(sum(crossed for _, crossed in mended), "outline", "outlines", "that crossed itself mended")
    remarks += plural(len(drawn) - len(outlines), "outline", "outlines", "that encloses nothing left out")
    if slide is None and FORMATS[file.format].frame != FORMATS[format_].frame:
        whole = "coordinates count from another corner where a slide has bounds, as those of MIRAX: give it as --slide"
        remarks.append(f"{FORMATS[file.format].title} to {FORMATS[format_].title}: {whole}")
    return len(outlines), remarks + list(write_outlines(target, outlines, format_, slide))
