"""The figures of a report, a module each; a new module of this package is all that a new figure needs."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from vitrail.report.figures.spec import SECTIONS

if TYPE_CHECKING:
    from vitrail.report.data import ReportData
    from vitrail.report.figures.spec import FigureSpec


def figures_of(data: ReportData) -> list[FigureSpec]:
    """Return the figures that a report has, in the order of its page.

    They are what the modules of this package list as `FIGURES`, or return from a `figures_of(data)` of their own where
    the data say which there are, without those that do not apply.

    Parameters
    ----------
    data
        What the report shows.

    Returns
    -------
    list[FigureSpec]
        Sorted by section, then by their order in it.
    """
    specs: list[FigureSpec] = []
    for name in sorted(module.name for module in iter_modules(__path__)):
        module = import_module(f"{__name__}.{name}")
        specs += [*getattr(module, "FIGURES", ()), *getattr(module, "figures_of", lambda _: ())(data)]
    return sorted(
        (spec for spec in specs if spec.applies(data)), key=lambda spec: (SECTIONS.index(spec.section), spec.order)
    )
