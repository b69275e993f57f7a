"""The report page: one HTML file that needs no network, beside its figures, tables and figures in numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from vitrail import __version__
from vitrail.classes import CLASSES, NETWORKS, SPLITS
from vitrail.core.files import write_csv
from vitrail.report.captions import (
    LABELS,
    captions,
    cut_caption,
    overlaid_caption,
    probability_caption,
    slide_caption,
)
from vitrail.report.data import ReportData, SlideMaps
from vitrail.report.figures.cohort import cohort_figure, confusion_figure, training_figure
from vitrail.report.figures.predictions_over_slide import overlaid_figure
from vitrail.report.figures.search import search_caption, search_figure
from vitrail.report.figures.slide_maps import probability_figure, slide_figure
from vitrail.report.figures.tiles_of_a_slide import cut_figure
from vitrail.report.sections.agreement import explanation_metrics
from vitrail.report.sections.explanations import planned_figures
from vitrail.report.sections.explanations import section as explained_section
from vitrail.report.sections.scores import planned, section
from vitrail.report.statistics import metrics, rate
from vitrail.report.style import FIRST, INK, LINE, MUTED, PAPER, SECOND, save, style
from vitrail.report.tables import as_json, write_tables
from vitrail.report.whole_slide import publish_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from vitrail.inference.outputs import MapFiles
    from vitrail.report.statistics import Rated

__all__ = ["ReportData", "SlideMaps", "metrics", "rate", "write_report"]

_SWAPPED = {PAPER: "paper", INK: "ink", MUTED: "muted", LINE: "line", FIRST: "first", SECOND: "second"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawing:
    """A figure on the page: the name of its files, its SVG, and what is said about it."""

    name: str
    svg: Markup
    caption: str | Markup

    @property
    def label(self) -> str:
        """The number, as in the paper."""
        return LABELS.get(self.name, "Figure S3" if self.name.endswith("-probability") else "Figure 4")


def write_report(data: ReportData, folder: Path) -> Path:
    """Write `index.html`, `metrics.json`, `figures/`, `tables/` and `qupath/`; the same data give the same bytes.

    Pictures of slides and tiles that an earlier report showed are removed from `figures/`, its GeoJSON from `qupath/`.

    Parameters
    ----------
    data
        What to show.
    folder
        Where to; made when missing.

    Returns
    -------
    The path of `index.html`, which needs none of the other files.
    """
    for name in ("figures", "tables"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for pattern in ("slide-*.*", "why-*.*", "cut.*", "overlaid.*"):
        for stale in (folder / "figures").glob(pattern):
            stale.unlink()
    rated = rate(data)
    measured = metrics(rated)
    more = {"explanations": explanation_metrics(data.explained)} if data.explained else {}
    _write(folder / "metrics.json", as_json(measured | more))
    mapped = publish_all(data.mapped, folder / "qupath", data.threshold)
    write_csv(folder / "tables" / "mapped.csv", mapped)
    tables = [*write_tables(data, rated, measured, folder / "tables"), "mapped.csv"]
    figures = {maps.slide_id: name for name, maps in _named(data.maps).items()}
    drawn = {
        "tables": tables,
        "mapped": _linked(mapped, data.mapped),
        **_draw(data, rated, measured, folder / "figures"),
    }
    drawn["scores"] = section(data, rated, measured, figures)
    return _write(folder / "index.html", _page(data, measured, drawn))


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def _draw(data: ReportData, rated: Rated, measured: dict[str, Any], folder: Path) -> dict[str, Any]:
    said = captions(data.evaluation)
    builders: dict[str, Callable[[], Figure]] = {
        **planned(rated, measured),
        "confusion": lambda: confusion_figure(measured),
        "training": lambda: training_figure(data.history),
        "cohort": lambda: cohort_figure(data.slides),
    }
    plan: dict[str, tuple[Callable[[], Figure], str]] = {name: (build, said[name]) for name, build in builders.items()}
    plan |= planned_figures(data.explained) if data.explained else {}
    if data.search is not None:
        plan["search"] = partial(search_figure, data.search), search_caption(data.search)
    plan |= _planned_slides(data)
    with style():
        slides = [one for name, maps in _named(data.maps).items() for one in _draw_slide(maps, name, data, folder)]
        figures = {
            name: _drawing(save(build(), folder, name), name, caption) for name, (build, caption) in plan.items()
        }
    return {"slide_figures": slides, "figures": figures}


def _planned_slides(data: ReportData) -> dict[str, tuple[Callable[[], Figure], str]]:
    """Plan the figures of one slide's tiles and of one slide beneath its maps, where there are any."""
    plan: dict[str, tuple[Callable[[], Figure], str]] = {}
    if data.cut is not None:
        plan["cut"] = partial(cut_figure, data.cut), cut_caption(data.cut)
    if data.overlaid is not None:
        said = overlaid_caption(data.overlaid, data.threshold)
        plan["overlaid"] = partial(overlaid_figure, data.overlaid, data.threshold), said
    return plan


def _draw_slide(maps: SlideMaps, name: str, data: ReportData, folder: Path) -> list[_Drawing]:
    """Draw a slide beside its maps, and its probabilities where there are any."""
    drawn = [
        _drawing(save(slide_figure(maps, data.threshold), folder, name), name, slide_caption(maps, data.threshold))
    ]
    if np.isfinite(maps.classifier).any():
        other = f"{name}-probability"
        drawn.append(_drawing(save(probability_figure(maps), folder, other), other, probability_caption(maps)))
    return drawn


def _linked(mapped: pd.DataFrame, made: Sequence[MapFiles]) -> list[dict[str, Any]]:
    """Add to each mapped slide the paths of its files, from the report's folder in the run."""
    more = [{"explained": one.explained.is_file(), "links": _links(quote(one.base.name), one)} for one in made]
    rows = mapped.to_dict("records")
    return [{str(name): value for name, value in row.items()} | new for row, new in zip(rows, more, strict=True)]


def _links(name: str, made: MapFiles) -> dict[str, str]:
    maps = f"../predictions/maps/{name}"
    links = {"class map": f"{maps}.classes.ome.tiff", "GeoJSON": f"qupath/{name}.geojson"}
    if made.explained.is_file():
        links |= {"why": f"{maps}.explanations.png", "why, to zoom": f"{maps}.explanations.ome.tiff"}
    return links


def _named(maps: Sequence[SlideMaps]) -> dict[str, SlideMaps]:
    """Return the slides by file names free of everything but letters, digits and dashes."""
    safe = [re.sub(r"[^A-Za-z0-9]+", "-", one.slide_id).strip("-")[:40] for one in maps]
    names = [f"slide-{number:02d}-{name}".rstrip("-") for number, name in enumerate(safe, 1)]
    return dict(zip(names, maps, strict=True))


def _drawing(svg: str, name: str, caption: str | Markup) -> _Drawing:
    """Make a figure's SVG part of a page: its own names, the page's colours, and words for screen readers."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'\b(?:xlink:)?href="#', f'href="#{name}-', body)
    body = re.sub(r'\s+xmlns(:xlink)?="[^"]*"', "", body).replace("xlink:href=", "href=")
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    for colour, role in _SWAPPED.items():
        body = body.replace(colour, f"var(--{role})")
    opened = Markup('<svg role="img" aria-label="{}"').format(Markup(caption).striptags())  # noqa: S704 - ours, names escaped
    return _Drawing(name=name, svg=opened + Markup(body.removeprefix("<svg")), caption=caption)  # noqa: S704 - our own SVG


def _page(data: ReportData, measured: dict[str, Any], drawn: dict[str, Any]) -> str:
    environment = Environment(
        loader=FunctionLoader(_template), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": _percent, "decimal": _decimal, "count": _count, "exact": _exact, "signed": _signed, "p": _p,
    }  # fmt: skip
    return environment.get_template("page.html").render(
        data=data, test=measured["test"], networks=NETWORKS, classes=CLASSES, version=__version__,
        parts=_parts(data.slides), skipped=data.skipped.to_dict("records"),
        why=explained_section(data.explained) if data.explained else None, **drawn,
    ) + "\n"  # fmt: skip


def _template(name: str) -> str:
    return files("vitrail.report").joinpath("templates", name).read_text(encoding="utf-8")


def _parts(slides: pd.DataFrame) -> list[dict[str, Any]]:
    """Count slides, patients and tiles of each split, and of all."""
    chosen = {split.capitalize(): slides[slides["split"] == split] for split in SPLITS} | {"All": slides}
    return [
        {
            "name": name,
            "slides": len(rows),
            "patients": int(rows["patient_id"].nunique()),
            "tumor": int(rows["tumor_tiles"].sum()),
            "non_tumor": int(rows["non_tumor_tiles"].sum()),
        }
        for name, rows in chosen.items()
    ]


def _percent(value: float) -> str:
    return f"{value:.1%}" if np.isfinite(value) else "\N{EN DASH}"


def _decimal(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "\N{EN DASH}"


def _count(value: int) -> str:
    return f"{value:,}"


def _exact(value: float) -> str:
    """Write a correlation as the paper does, in percent."""
    return f"{value:.2%}".replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else "\N{EN DASH}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else "\N{EN DASH}"


def _p(value: float) -> str:
    if not np.isfinite(value):
        return "\N{EN DASH}"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
