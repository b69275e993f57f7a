"""What a figure of the report is: one `FigureSpec`, in the module that draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

    from markupsafe import Markup
    from matplotlib.figure import Figure

    from vitrail.report.data import ReportData

Section = Literal[
    "slides", "overlay", "scores", "calibration", "per-slide", "per-patient", "groups", "certainty", "labels",
    "unlabelled", "why", "agreement", "checks", "reliance", "nuclei", "shift", "training", "cohort", "tiles", "search",
]  # fmt: skip
"""Where a figure can stand on the page."""

SECTIONS: tuple[Section, ...] = get_args(Section)
"""All of them, from the top of the page to its end."""

NO_SUCH_FIGURE = "The paper has no such figure."
"""The end of the caption of a figure that the paper lacks."""


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
    section
        Where it stands on the page.
    draw
        Draws it; called within `style()`.
    caption
        What stands below it. Plain text is escaped.
    applies
        Whether there is something to draw.
    order
        The figures of a section are sorted by this, those with the same by the names of their modules.
    width
        How the page shows it: `wide` figures fill the page, and scroll on a small screen.
    """

    name: str
    number: str
    section: Section
    draw: Callable[[ReportData], Figure]
    caption: Callable[[ReportData], str | Markup]
    applies: Callable[[ReportData], bool] = always
    order: int = 0
    width: Literal["wide", "wide slide", "narrow"] = "wide"
