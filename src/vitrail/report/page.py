"""The report page: one HTML file that needs no network, beside its figures, tables and figures in numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from vitrail import __version__
from vitrail.classes import CLASSES
from vitrail.report.data import NETWORKS, SPLITS, ReportData, SlideMaps
from vitrail.report.explained_page import planned_figures, section
from vitrail.report.explained_tables import explanation_metrics
from vitrail.report.figures import cohort_figure, confusion_figure, roc_figure, training_figure
from vitrail.report.maps import slide_figure
from vitrail.report.style import CITED, FIRST, INK, LINE, MUTED, PAPER, SECOND, save, style
from vitrail.report.tables import SCORES, as_json, metrics, slides_table, write_tables
from vitrail.report.wholeslide import publish_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["ReportData", "SlideMaps", "metrics", "write_report"]

_SWAPPED = {PAPER: "paper", INK: "ink", MUTED: "muted", LINE: "line", FIRST: "first", SECOND: "second"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawing:
    """A figure on the page: the name of its files, its SVG, and what is said about it."""

    name: str
    svg: Markup
    caption: str | Markup


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
    for pattern in ("slide-*.*", "why-*.*"):
        for stale in (folder / "figures").glob(pattern):
            stale.unlink()
    measured = metrics(data.predictions, data.threshold)
    more = {"explanations": explanation_metrics(data.explained)} if data.explained else {}
    _write(folder / "metrics.json", as_json(measured | more))
    mapped = publish_all(data.mapped, folder / "qupath", data.threshold)
    mapped.to_csv(folder / "tables" / "mapped.csv", index=False, lineterminator="\n")
    tables = [*write_tables(data, measured, folder / "tables"), "mapped.csv"]
    drawn = {"tables": tables, "mapped": _linked(mapped), **_draw(data, measured, folder / "figures")}
    return _write(folder / "index.html", _page(data, measured, drawn))


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def _draw(data: ReportData, measured: dict[str, Any], folder: Path) -> dict[str, Any]:
    captions = _captions(data.threshold)
    builders: dict[str, Callable[[], Figure]] = {
        "roc": lambda: roc_figure(data.predictions, data.threshold),
        "confusion": lambda: confusion_figure(measured),
        "training": lambda: training_figure(data.history),
        "cohort": lambda: cohort_figure(data.slides),
    }
    plan = {name: (build, captions[name]) for name, build in builders.items()}
    plan |= planned_figures(data.explained) if data.explained else {}
    with style():
        slides = [
            _drawing(save(slide_figure(maps, data.threshold), folder, name), name, _slide_caption(maps, data.threshold))
            for name, maps in zip(_names(data.maps), data.maps, strict=True)
        ]
        figures = {
            name: _drawing(save(build(), folder, name), name, caption) for name, (build, caption) in plan.items()
        }
    return {"slide_figures": slides, "figures": figures}


def _linked(mapped: pd.DataFrame) -> list[dict[str, Any]]:
    """Add to each mapped slide the paths of its files, from the report's folder in the run."""
    return [
        {
            **{str(name): value for name, value in row.items()},
            "classes": f"../predictions/maps/{quote(row['slide_id'])}.classes.ome.tiff",
            "geojson": f"qupath/{quote(row['slide_id'])}.geojson",
        }
        for row in mapped.to_dict("records")
    ]


def _names(maps: Sequence[SlideMaps]) -> list[str]:
    """Return a file name for each slide, free of everything but letters, digits and dashes."""
    safe = [re.sub(r"[^A-Za-z0-9]+", "-", one.slide_id).strip("-")[:40] for one in maps]
    return [f"slide-{number:02d}-{name}".rstrip("-") for number, name in enumerate(safe, 1)]


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


def _captions(threshold: float) -> dict[str, str]:
    return {
        "roc": "Receiver operating characteristic of both networks on the test tiles. The segmentation network's score "
        "is the fraction of a tile's pixels that it calls tumor. Dots mark the threshold "
        f"{threshold:g}. Corresponds to Fig. 3a of {CITED}.",
        "confusion": "Confusion matrices on the test data; each row sums to 100 %, counts below. Left and middle: "
        "tiles. Right: every pixel of the same tiles, in all four classes. "
        f"Corresponds to Fig. 3d, e and f of {CITED}.",
        "training": "Loss and validation score of each epoch. The dotted line marks the epoch whose weights were kept, "
        "the one with the lowest validation loss. The paper has no such figure.",
        "cohort": "Slides and tiles in each part of the cohort, and the patients' characteristics where slides.csv "
        f"gives any. Corresponds to Fig. 1 of {CITED}.",
    }


def _slide_caption(maps: SlideMaps, threshold: float) -> Markup:
    """Say what a slide's figure shows; its name stands apart, so that no character in it can turn the text around."""
    return Markup(
        "Slide <bdi>{}</bdi>: (a) the slide; (b) its annotation, with tissue that was not annotated in grey; (c) the "
        "class of each tile, tumor where the classification network's probability reaches {:g}, tiles without tissue "
        "left out; (d) the class of each pixel to which the segmentation network gives the highest probability. "
        "Artefacts are dark grey. Corresponds to Fig. 4 of {}."
    ).format(maps.slide_id, threshold, CITED)


def _page(data: ReportData, measured: dict[str, Any], drawn: dict[str, Any]) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": _percent, "decimal": _decimal, "count": _count, "exact": _exact, "signed": _signed,
    }  # fmt: skip
    template = environment.from_string(files("vitrail.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(
        data=data, test=measured["test"], networks=NETWORKS, scores=SCORES, classes=CLASSES, version=__version__,
        parts=_parts(data.slides), skipped=data.skipped.to_dict("records"),
        per_slide=slides_table(data.predictions, data.threshold).to_dict("records"),
        why=section(data.explained) if data.explained else None, **drawn,
    ) + "\n"  # fmt: skip


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
