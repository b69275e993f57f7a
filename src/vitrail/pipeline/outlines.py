"""Outlines of one program for another: what `vitrail export outlines` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitrail.pipeline.outcome import Outcome

if TYPE_CHECKING:
    from pathlib import Path


def export_outlines(source: Path, target: Path, format_: str, slide: Path | None, mpp: float | None) -> Outcome:
    """Write the outlines of a file for another program.

    Parameters
    ----------
    source
        A file of outlines, of any program.
    target
        Where to write.
    format_
        A key of `vitrail.slides.outlines.formats.FORMATS`.
    slide
        The slide that they are of, or None.
    mpp
        Its micrometres per pixel, where its header lacks them.

    Returns
    -------
    Outcome
        What could not be held are its warnings.

    Raises
    ------
    VitrailError
        The file, the slide or the format is none, or the result cannot be written.
    """
    from vitrail.slides.outlines.convert import convert_outlines
    from vitrail.slides.slide import open_slide

    opened = open_slide(slide, mpp=mpp) if slide else None
    count, remarks = convert_outlines(source, target, format_, opened)
    lines = [f"{count} {'outline' if count == 1 else 'outlines'}", str(target)]
    return Outcome(lines=lines, warnings=remarks, results={"file": str(target), "outlines": count})
