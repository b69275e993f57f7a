"""The report page: one HTML file that needs no network, beside its figures, tables and figures in numbers."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from vitrail import __version__
from vitrail.classes import CLASSES
from vitrail.report.data import NETWORKS, SPLITS, ReportData, SlideMaps
from vitrail.report.figures import cohort_figure, confusion_figure, roc_figure, training_figure
from vitrail.report.maps import slide_figure
from vitrail.report.style import FIRST, INK, LINE, MUTED, PAPER, SECOND, save, style
from vitrail.report.tables import SCORES, as_json, metrics, slides_table, write_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["ReportData", "SlideMaps", "metrics", "write_report"]

_SWAPPED = {PAPER: "paper", INK: "ink", MUTED: "muted", LINE: "line", FIRST: "first", SECOND: "second"}
_PAPER = "D\N{LATIN SMALL LETTER O WITH DIAERESIS}rrich et al. 2023"
_QUALITY = 90
_OPAQUE = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawing:
    """A figure on the page: the name of its files, its SVG, and what is said about it."""

    name: str
    svg: Markup
    caption: str | Markup


def write_report(data: ReportData, folder: Path) -> Path:
    """Write `index.html`, `metrics.json`, `figures/` and `tables/`; the same data give the same bytes.

    Pictures of slides that an earlier report showed are removed from `figures/`.

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
    for stale in (folder / "figures").glob("slide-*.*"):
        stale.unlink()
    measured = metrics(data.predictions, data.threshold)
    _write(folder / "metrics.json", as_json(measured))
    tables = write_tables(data, measured, folder / "tables")
    slides, figures = _draw(data, measured, folder / "figures")
    return _write(
        folder / "index.html", _page(data, measured, {"slide_figures": slides, "figures": figures, "tables": tables})
    )


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def _draw(data: ReportData, measured: dict[str, Any], folder: Path) -> tuple[list[_Drawing], dict[str, _Drawing]]:
    builders: dict[str, Callable[[], Figure]] = {
        "roc": lambda: roc_figure(data.predictions, data.threshold),
        "confusion": lambda: confusion_figure(measured),
        "training": lambda: training_figure(data.history),
        "cohort": lambda: cohort_figure(data.slides),
    }
    captions = _captions(data.threshold)
    with style():
        slides = [
            _drawing(save(slide_figure(maps, data.threshold), folder, name), name, _slide_caption(maps, data.threshold))
            for name, maps in zip(_names(data.maps), data.maps, strict=True)
        ]
        figures = {
            name: _drawing(save(build(), folder, name), name, captions[name]) for name, build in builders.items()
        }
    return slides, figures


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
    body = re.sub(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)", lambda found: _lighter(found[1]), body)
    opened = Markup('<svg role="img" aria-label="{}"').format(Markup(caption).striptags())  # noqa: S704 - ours, names escaped
    return _Drawing(name=name, svg=opened + Markup(body.removeprefix("<svg")), caption=caption)  # noqa: S704 - our own SVG


def _lighter(png: str) -> str:
    """Return the data URI of a picture: a JPEG where that halves it, as photographs do, otherwise the PNG."""
    raw = "".join(png.split())
    picture = Image.open(io.BytesIO(base64.b64decode(raw))).convert("RGBA")
    out = io.BytesIO()
    picture.convert("RGB").save(out, "JPEG", quality=_QUALITY)
    jpeg = base64.b64encode(out.getvalue()).decode()
    if 2 * len(jpeg) > len(raw) or int(np.asarray(picture)[..., 3].min()) < _OPAQUE:
        return f"data:image/png;base64,{raw}"
    return f"data:image/jpeg;base64,{jpeg}"


def _captions(threshold: float) -> dict[str, str]:
    return {
        "roc": "Receiver operating characteristic of both networks on the test tiles. The segmentation network's score "
        "is the fraction of a tile's pixels that it calls tumor. Dots mark the threshold "
        f"{threshold:g}. Corresponds to Fig. 3a of {_PAPER}.",
        "confusion": "Confusion matrices on the test data; each row sums to 100 %, counts below. Left and middle: "
        "tiles. Right: every pixel of the same tiles, in all four classes. "
        f"Corresponds to Fig. 3d, e and f of {_PAPER}.",
        "training": "Loss and validation score of each epoch. The dotted line marks the epoch whose weights were kept, "
        "the one with the lowest validation loss. The paper has no such figure.",
        "cohort": "Slides and tiles in each part of the cohort, and the patients' characteristics where slides.csv "
        f"gives any. Corresponds to Fig. 1 of {_PAPER}.",
    }


def _slide_caption(maps: SlideMaps, threshold: float) -> Markup:
    """Say what a slide's figure shows; its name stands apart, so that no character in it can turn the text around."""
    return Markup(
        "Slide <bdi>{}</bdi>: (a) the slide; (b) its annotation, with tissue that was not annotated in grey; (c) the "
        "class of each tile, tumor where the classification network's probability reaches {:g}, tiles without tissue "
        "left out; (d) the class of each pixel to which the segmentation network gives the highest probability. "
        "Corresponds to Fig. 4 of {}."
    ).format(maps.slide_id, threshold, _PAPER)


def _page(data: ReportData, measured: dict[str, Any], drawn: dict[str, Any]) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "decimal": _decimal, "count": _count}
    template = environment.from_string(files("vitrail.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(
        data=data, test=measured["test"], networks=NETWORKS, scores=SCORES, classes=CLASSES, version=__version__,
        parts=_parts(data.slides), skipped=data.skipped.to_dict("records"),
        per_slide=slides_table(data.predictions, data.threshold).to_dict("records"), **drawn,
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
