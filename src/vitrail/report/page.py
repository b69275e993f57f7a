"""The report page: one HTML file that needs no network, beside its figures, its tables and `metrics.json`."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import asdict
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vitrail import __version__
from vitrail.classes import CLASSES, LABELS, NETWORKS, SPLITS
from vitrail.core.files import write_csv, write_text
from vitrail.core.parallel import cores, in_processes
from vitrail.evaluation.results import as_json
from vitrail.inference.publish import publish_all
from vitrail.report.figures import figures_of
from vitrail.report.figures.explained_slide import save_explained_figures
from vitrail.report.figures.spec import SECTIONS
from vitrail.report.sections.certainty import certainty_section, labels_section
from vitrail.report.sections.explanations import section as explained_section
from vitrail.report.sections.nuclei import nuclei_section
from vitrail.report.sections.raters import raters_section
from vitrail.report.sections.scores import section
from vitrail.report.sections.shift import shift_section
from vitrail.report.sections.unlabelled import unlabelled_section
from vitrail.report.select import examples_table
from vitrail.report.style import FIRST, INK, LINE, MUTED, PAPER, SECOND, save, style

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vitrail.inference.outputs import MapFiles
    from vitrail.report.data import ReportData

_ROLES = {PAPER: "paper", INK: "ink", MUTED: "muted", LINE: "line", FIRST: "first", SECOND: "second"}
_UNDEFINED = "\N{EN DASH}"

_ALONE_S, _MOST_WORKERS = 4.0, 4
"""Seconds for which figures are drawn in this process: only what takes longer is worth to start others, each of which
needs 2 s of the processor to begin and some 450 MB; so there are no more than a few."""


def write_report(data: ReportData, folder: Path, workers: int = 1) -> Path:
    """Write `index.html`, `metrics.json`, `figures/`, `tables/` and `qupath/`; the same data give the same bytes.

    Figures that only an earlier report had are removed from `figures/`, its GeoJSON from `qupath/`.

    Parameters
    ----------
    data
        What to show.
    folder
        Where to; made when missing.
    workers
        Processes that draw figures, where there is much to draw; 0 means one a core.

    Returns
    -------
    Path
        That of `index.html`, which needs none of the other files.
    """
    for name in ("figures", "tables"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    specs = figures_of(data)
    names = {f"{spec.name}.{ending}" for spec in specs for ending in ("svg", "png")}
    for path in (folder / "figures").iterdir():  # first of all: they may show slides that are to be shown no more
        if path.suffix in {".svg", ".png"} and path.name not in names:
            path.unlink()
    write_text(folder / "metrics.json", as_json(data.evaluation.metrics))
    tables = dict(data.evaluation.tables)
    if data.explained is not None:
        tables["explained_examples"] = examples_table(data.explained)
    if data.search is not None:
        tables["search"] = pd.DataFrame([asdict(combination) for combination in data.search.combinations])
    tables["mapped"] = publish_all(data.mapped, folder / "qupath", data.threshold)
    for name, table in tables.items():
        write_csv(folder / "tables" / f"{name}.csv", table)
    drawings: dict[str, list[dict[str, Any]]] = {name: [] for name in SECTIONS}
    svgs = _drawn(data, [spec.name for spec in specs], folder / "figures", workers)
    for spec in specs:
        caption = spec.caption(data)
        inline = inline_svg(svgs[spec.name], spec.name, Markup(caption).striptags())  # noqa: S704 - ours, names escaped
        drawings[spec.section].append({"spec": spec, "svg": inline, "caption": caption})
    methods = {} if data.explained is None else data.explained.stored.methods
    template = _environment().get_template("page.html")
    page = template.render(
        data=data,
        evaluation=data.evaluation,
        test=data.evaluation.metrics["test"],
        parts=cohort_parts(data.evaluation.slides),
        skipped=data.evaluation.skipped.to_dict("records"),
        scores=section(data),
        certainty=certainty_section(data.evaluation) if data.evaluation.certainty else None,
        labels=labels_section(data.evaluation) if data.evaluation.certainty else None,
        why=explained_section(data.explained) if data.explained else None,
        examples=tables["explained_examples"].to_dict("records") if data.explained is not None else [],
        unlabelled=unlabelled_section(data) if "unlabelled" in data.evaluation.metrics else None,
        raters=[raters_section(name, said, methods) for name, said in data.evaluation.raters.items()],
        nuclei=nuclei_section(data.nuclei.study) if data.nuclei else None,
        shift=shift_section(data.shift.metrics) if data.shift else None,
        figures=drawings,
        mapped=_with_links(tables["mapped"], data.mapped, save_explained_figures(data, folder / "figures")),
        tables=[f"{name}.csv" for name in tables],
        networks=NETWORKS,
        classes=CLASSES,
        version=__version__,
    )
    write_text(folder / "index.html", page + "\n")
    return folder / "index.html"


def _drawn(data: ReportData, names: list[str], folder: Path, workers: int) -> dict[str, str]:
    """Draw figures, and return their SVG by name."""
    draw, svgs, begun = partial(draw_figure, data, folder), dict[str, str](), perf_counter()
    for name in names:
        if workers != 1 and perf_counter() - begun >= _ALONE_S:
            break
        svgs[name] = draw(name)
    with closing(in_processes(draw, names[len(svgs) :], min(workers or cores(), _MOST_WORKERS))) as ended:
        return svgs | dict(ended)


def draw_figure(data: ReportData, folder: Path, name: str) -> str:
    """Write a figure of a report; the same bytes in every process.

    Parameters
    ----------
    data
        What the report shows.
    folder
        Where to.
    name
        Of the figure.

    Returns
    -------
    str
        Its SVG.
    """
    spec = next(spec for spec in figures_of(data) if spec.name == name)
    with style():
        return save(spec.draw(data), folder, name)


def inline_svg(svg: str, name: str, words: str) -> Markup:
    """Make a figure's SVG part of a page: its own names, the page's colours, and words for screen readers.

    Parameters
    ----------
    svg
        The text of the file.
    name
        Of the figure; what the file names begins with it on the page.
    words
        What is read aloud.

    Returns
    -------
    Markup
        The element, without a declaration and metadata.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'\b(?:xlink:)?href="#', f'href="#{name}-', body)
    body = re.sub(r'\s+xmlns(:xlink)?="[^"]*"', "", body).replace("xlink:href=", "href=")
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    for colour, role in _ROLES.items():
        body = body.replace(colour, f"var(--{role})")
    opened = Markup('<svg role="img" aria-label="{}"').format(words)
    return opened + Markup(body.removeprefix("<svg"))  # noqa: S704 - our own SVG


def cohort_parts(slides: pd.DataFrame) -> list[dict[str, Any]]:
    """Count slides, patients and tiles of each split, and of all; a row of the page's table each."""
    parts = {split.capitalize(): slides[slides["split"] == split] for split in SPLITS} | {"All": slides}
    counts = []
    for name, rows in parts.items():
        tiles = {kind.key: int(rows[f"{kind.key}_tiles"].sum()) for kind in LABELS}
        counts.append({"name": name, "slides": len(rows), "patients": int(rows["patient_id"].nunique()), **tiles})
    return counts


def _with_links(mapped: pd.DataFrame, files: Sequence[MapFiles], pictures: dict[str, str]) -> list[dict[str, Any]]:
    """Add to each mapped slide the paths of its files, from the report's folder in the run."""
    rows: list[dict[str, Any]] = mapped.to_dict("records")  # type: ignore[assignment]
    for row, own in zip(rows, files, strict=True):
        name = quote(own.base.name)
        maps = f"../predictions/maps/{name}"
        row["explained"] = own.explained.is_file()
        row["links"] = {"class map": f"{maps}.classes.ome.tiff", "GeoJSON": f"qupath/{name}.geojson"}
        if own.base.name in pictures:
            row["links"]["why"] = f"figures/{pictures[own.base.name]}"
        if row["explained"]:
            row["links"]["why, to zoom"] = f"{maps}.explanations.ome.tiff"
    return rows


def _environment() -> Environment:
    """Return the templates, and how they write numbers: a dash for what is undefined."""

    def written(pattern: str) -> Callable[[float], str]:
        def number(value: float) -> str:
            return pattern.format(value).replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else _UNDEFINED

        return number

    environment = Environment(
        loader=PackageLoader("vitrail.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    decimal = written("{:.3f}")
    environment.filters |= {
        "percent": written("{:.1%}"),
        "exact": written("{:.2%}"),  # correlations, as the paper writes them
        "decimal": decimal,
        "signed": written("{:+.3f}"),
        "count": "{:,}".format,
        "p": lambda value: "< 0.001" if value < 0.001 else decimal(value),
    }
    return environment
