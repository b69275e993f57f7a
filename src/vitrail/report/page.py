"""The report page: one HTML file that needs no network, beside its figures, tables and figures in numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from vitrail import __version__
from vitrail.classes import CLASSES
from vitrail.core.files import write_csv, write_text
from vitrail.evaluation.explanations import explanation_metrics
from vitrail.inference.publish import publish_all
from vitrail.report.data import NETWORKS, SPLITS, ReportData, SlideMaps
from vitrail.report.figures import figures_of
from vitrail.report.figures.explained_slide import save_explained_figures
from vitrail.report.figures.spec import SECTIONS
from vitrail.report.sections.explanations import section as explained_section
from vitrail.report.sections.scores import section
from vitrail.report.statistics import metrics, rate
from vitrail.report.style import FIRST, INK, LINE, MUTED, PAPER, SECOND, save, style
from vitrail.report.tables import as_json, write_tables

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

    from vitrail.inference.outputs import MapFiles
    from vitrail.report.figures.spec import FigureSpec

__all__ = ["ReportData", "SlideMaps", "metrics", "rate", "write_report"]

_SWAPPED = {PAPER: "paper", INK: "ink", MUTED: "muted", LINE: "line", FIRST: "first", SECOND: "second"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A figure on the page.

    Attributes
    ----------
    spec
        What it is.
    svg
        As a part of the page.
    caption
        What stands below it.
    """

    spec: FigureSpec
    svg: Markup
    caption: str | Markup


def write_report(data: ReportData, folder: Path) -> Path:
    """Write `index.html`, `metrics.json`, `figures/`, `tables/` and `qupath/`; the same data give the same bytes.

    Figures that only an earlier report had are removed from `figures/`, its GeoJSON from `qupath/`.

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
    specs = figures_of(data)
    named = {f"{spec.name}.{ending}" for spec in specs for ending in ("svg", "png")}
    for path in (folder / "figures").iterdir():
        if path.suffix in {".svg", ".png"} and path.name not in named:
            path.unlink()
    rated, measured = data.rated, data.measured
    why = data.explained
    more = {"explanations": explanation_metrics(why.stored, why.checked)} if why else {}
    write_text(folder / "metrics.json", as_json(measured | more))
    mapped = publish_all(data.mapped, folder / "qupath", data.threshold)
    write_csv(folder / "tables" / "mapped.csv", mapped)
    tables = [*write_tables(data, rated, measured, folder / "tables"), "mapped.csv"]
    figures: dict[str, list[Drawing]] = {name: [] for name in SECTIONS}
    with style():
        for spec in specs:
            svg = save(spec.draw(data), folder / "figures", spec.name)
            figures[spec.section].append(_drawing(spec, svg, spec.caption(data)))
    drawn = {
        "tables": tables,
        "mapped": _linked(mapped, data.mapped, save_explained_figures(data, folder / "figures")),
        "figures": figures,
        "scores": section(data, rated, measured),
    }
    write_text(folder / "index.html", _page(data, measured, drawn))
    return folder / "index.html"


def _linked(mapped: pd.DataFrame, made: Sequence[MapFiles], pictures: dict[str, str]) -> list[dict[str, Any]]:
    """Add to each mapped slide the paths of its files, from the report's folder in the run."""
    rows = []
    for row, slide in zip(mapped.to_dict("records"), made, strict=True):
        name, explained = quote(slide.base.name), slide.explained.is_file()
        maps = f"../predictions/maps/{name}"
        links = {"class map": f"{maps}.classes.ome.tiff", "GeoJSON": f"qupath/{name}.geojson"}
        if slide.base.name in pictures:
            links["why"] = f"figures/{pictures[slide.base.name]}"
        if explained:
            links["why, to zoom"] = f"{maps}.explanations.ome.tiff"
        rows.append({str(column): value for column, value in row.items()} | {"explained": explained, "links": links})
    return rows


def _drawing(spec: FigureSpec, svg: str, caption: str | Markup) -> Drawing:
    """Make a figure's SVG part of a page: its own names, the page's colours, and words for screen readers."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r'\bid="', f'id="{spec.name}-', body)
    body = re.sub(r"url\(#", f"url(#{spec.name}-", body)
    body = re.sub(r'\b(?:xlink:)?href="#', f'href="#{spec.name}-', body)
    body = re.sub(r'\s+xmlns(:xlink)?="[^"]*"', "", body).replace("xlink:href=", "href=")
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    for colour, role in _SWAPPED.items():
        body = body.replace(colour, f"var(--{role})")
    opened = Markup('<svg role="img" aria-label="{}"').format(Markup(caption).striptags())  # noqa: S704 - ours, names escaped
    return Drawing(spec=spec, svg=opened + Markup(body.removeprefix("<svg")), caption=caption)  # noqa: S704 - our own SVG


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
