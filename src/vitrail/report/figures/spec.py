"""What a figure of the report is: one `FigureSpec`, in the module that draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from markupsafe import Markup
    from matplotlib.figure import Figure

    from vitrail.report.data import ReportData


def always(data: ReportData) -> bool:  # noqa: ARG001 - what `FigureSpec.applies` is given
    """Say that a figure is drawn in every report."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureSpec:
    """A figure: every module of this package lists its own as `FIGURES`, or gives them as `figures_of(data)`.

    Attributes
    ----------
    name
        Of its files, and of its place on the page.
    number
        The paper's number, or a letter for what the paper lacks. A missing figure keeps its letter.
    draw
        Draws it.
    caption
        What stands below it.
    applies
        Whether there is something to draw.
    """

    name: str
    number: str
    draw: Callable[[ReportData], Figure]
    caption: Callable[[ReportData], str | Markup]
    applies: Callable[[ReportData], bool] = always
