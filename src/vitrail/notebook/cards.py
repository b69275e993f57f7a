"""What each object shows of itself: one function a class, named in `CARDS`.

Privacy: a slide is shown from its pyramid alone, never its label, its macro image or a stored thumbnail, which may
show a patient's name. It is called by the stem of its file, as QuPath does; its folder is not shown, nor any field of
its header that is free text.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.classes import ARTEFACTS, LABELS, NETWORKS, TissueClass
from vitrail.errors import SlideError, VitrailError
from vitrail.evaluation.names import ROWS, SCORES
from vitrail.notebook.card import Card, Picture
from vitrail.slides.slide import read_scanner, read_thumbnail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from vitrail.core.shown import Shown
    from vitrail.evaluation.results import Evaluation
    from vitrail.explain.explainer import Explainer
    from vitrail.explain.saliency import Saliency
    from vitrail.inference.predictor import Predictor
    from vitrail.models.spec import ModelSpec
    from vitrail.models.store import Model
    from vitrail.pipeline.study import Study
    from vitrail.quality.artefacts import Artefacts
    from vitrail.quality.tissue import Tissue
    from vitrail.slides.cohort import Cohort
    from vitrail.slides.slide import Slide
    from vitrail.tiles.store import TileTable

THUMBNAIL_PX = 640
"""Longer side of a slide's picture."""

MOST_DECODED_PX = 1 << 28
"""Pixels that are decoded for a slide's picture: a slide without a pyramid would hold a notebook up for minutes."""

MOST_TILES = 24
"""Tiles of a contact sheet."""

_FIRST_ROWS = 5
"""Of a cohort."""

_DPI, _SHOWN_DPI = 144, 96
"""Pixels of a picture an inch, and how many of the page's it takes: sharp on dense screens, small in a notebook."""


def html_of(shown: Shown) -> str:
    """Return what a notebook shows of an object: a picture and a table, as HTML that stands alone.

    Notebooks call it by themselves for the last line of a cell; call it for a page of your own. It never fails: what
    cannot be drawn is said.

    Parameters
    ----------
    shown
        A `Slide`, `Cohort`, `TileTable`, `Saliency`, `Evaluation`, `Study`, `Predictor`, `Explainer`, or what
        `find_tissue`, `find_artefacts` and `load_model` return.

    Returns
    -------
    str
        HTML. Pictures are part of it; it needs no script and no network.
    """
    name = next((each.__name__ for each in type(shown).__mro__ if each.__name__ in CARDS), "")
    try:
        if not name:
            return Card(title=repr(shown)).html()
        return CARDS[name](shown).html()
    except VitrailError as error:
        return Card(title=_name_of(shown), notes=[f"It cannot be shown: {error.problem}. {error.cure}."]).html()
    except Exception as error:  # noqa: BLE001 - a traceback in place of an object would help nobody; the reason is said
        reason = error.strerror if isinstance(error, OSError) else error  # without the file's folder
        return Card(title=_name_of(shown), notes=[f"It cannot be shown ({type(error).__name__}: {reason})."]).html()


def _name_of(shown: Shown) -> str:
    try:
        return repr(shown)
    except Exception:  # noqa: BLE001 - what is broken has a type, still
        return type(shown).__name__


def slide_card(slide: Slide) -> Card:
    """Show a slide: small, with a scale bar, and what its header says."""
    width, height = slide.region.width, slide.region.height
    rows = {
        "size": f"{width * slide.mpp / 1000:.3g} x {height * slide.mpp / 1000:.3g} mm",
        "pixels": f"{width:,.0f} x {height:,.0f}",
        "resolution": f"{slide.mpp:.4g} um per pixel",
        "levels": ", ".join(f"{downsample:g}" for downsample in slide.downsamples),
    }
    picture, notes = None, []
    try:
        rows |= {"scanner": scanner} if (scanner := read_scanner(slide)) else {}
        decoded_px = _decoded_px(slide)
        if decoded_px > MOST_DECODED_PX:
            notes.append(f"No picture: it has no small level, and {decoded_px / 1e6:,.0f} megapixels would be decoded.")
        else:
            thumbnail = read_thumbnail(slide, THUMBNAIL_PX)
            picture = _picture(lambda draw: draw.slide_picture(thumbnail, width * slide.mpp), "the slide, small")
    except SlideError as error:
        problem = error.problem.replace(f"{slide.path.parent}{os.sep}", "")  # OpenSlide's words may name the folder
        notes.append(f"It cannot be read: {problem}. {error.cure}.")
    title = f"Slide {slide.path.stem}"
    return Card(title=title, rows=rows, picture=picture, notes=notes)


def _decoded_px(slide: Slide) -> float:
    """Return how many pixels a slide's picture is made from."""
    longer = max(slide.region.width, slide.region.height)
    level = replace(slide, reading="fast").level_for(longer / THUMBNAIL_PX)  # as thumbnails are read
    return slide.region.width * slide.region.height / slide.downsamples[level] ** 2


def cohort_card(cohort: Cohort) -> Card:
    """Show a cohort: how many slides of how many patients, and its first rows."""
    table = cohort.table()
    rows = {"slides": f"{len(table):,}", "patients": f"{table['patient_id'].nunique():,}"}
    names = dict.fromkeys(name for entry in cohort for name in entry.attributes)
    attributes = [name for name in names if 1 < table[name].nunique() <= 6]  # those with few values
    columns = ["split", *attributes] if table["split"].notna().any() else attributes
    for name in columns:
        counts = table.groupby(name, sort=False)["patient_id"].nunique()
        rows[f"{name} (patients)"] = ", ".join(f"{value or 'not known'} {count}" for value, count in counts.items())
    columns = [
        str(name) for name in table.columns if name not in {"slide", "annotations"} and table[name].notna().any()
    ]
    first = [{name: table[name].iloc[row] for name in columns} for row in range(min(len(table), _FIRST_ROWS))]
    return Card(title="Cohort", rows=rows, table=first)


def tiles_card(tiles: TileTable) -> Card:
    """Show a tile table: some of its tiles, and how many there are of each label."""
    labels = tiles.rows["label"]
    side = f"{tiles.images.shape[1]} px"
    rows = {
        "tiles": f"{len(tiles):,}, {side} wide",
        "labels": ", ".join(f"{kind.title.lower()} {int((labels == kind.key).sum()):,}" for kind in LABELS),
        "slides": f"{tiles.rows['slide_id'].nunique():,} of {tiles.rows['patient_id'].nunique():,} patients",
    }
    if not len(tiles):
        return Card(title="Tiles", rows=rows)
    chosen = np.unique(np.linspace(0, len(tiles) - 1, min(len(tiles), MOST_TILES)).round().astype(int))
    images = [np.asarray(tiles.images[number]) for number in chosen]
    kinds = [TissueClass[label.upper()] for label in labels.iloc[chosen]]
    picture = _picture(lambda draw: draw.tiles_picture(images, kinds), f"{len(images)} of the tiles")
    notes = [f"{len(images)} tiles, evenly spread over the table."] if len(images) < len(tiles) else []
    return Card(title="Tiles", rows=rows, picture=picture, notes=notes)


def tissue_card(tissue: Tissue) -> Card:
    """Show where a slide has tissue."""
    height, width = tissue.mask.shape
    rows = {
        "tissue": f"{tissue.area_mm2:.3g} mm2, {tissue.mask.mean():.0%} of the slide",
        "mask": f"{height} x {width} pixels of {tissue.um_per_px:.3g} um",
    }
    masks, colours = {"Tissue": _smaller(tissue.mask)}, {"Tissue": TissueClass.NON_TUMOR.rgb}
    picture = _picture(lambda draw: draw.masks_picture(masks, colours), "where there is tissue")
    return Card(title="Tissue", rows=rows, picture=picture)


def artefacts_card(artefacts: Artefacts) -> Card:
    """Show where a slide has artefacts, and of which kind."""
    shares = {kind: float(artefacts.masks[kind].mean()) for kind in ARTEFACTS}
    rows = {kind.title: f"{share:.2%}" for kind, share in shares.items() if share}
    masks = {kind.title: _smaller(artefacts.masks[kind]) for kind in ARTEFACTS}
    colours = {kind.title: kind.rgb for kind in ARTEFACTS}
    picture = _picture(lambda draw: draw.masks_picture(masks, colours), "where artefacts are")
    notes = [f"Shares of the slide, in cells of {artefacts.cell_um:g} um."] if rows else ["None was found."]
    return Card(title="Artefacts", rows=rows, picture=picture, notes=notes)


def _smaller(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return every so many-th pixel of a mask that is larger than its picture."""
    step = max(1, max(mask.shape) // THUMBNAIL_PX)
    return mask[::step, ::step]


def saliency_card(saliency: Saliency) -> Card:
    """Show a map in the one scale of colours, over its image where it knows it."""
    height, width = saliency.values.shape
    finite = saliency.values[np.isfinite(saliency.values)]
    rows = {"method": saliency.method, "target": saliency.target}
    rows |= {"layers": ", ".join(saliency.layers)} if saliency.layers else {}
    rows["values"] = f"{height} x {width}, from {finite.min():.3g} to {finite.max():.3g}" if len(finite) else "none"
    picture = _picture(lambda draw: draw.map_picture(saliency), f"the map of {saliency.method}")
    notes = []
    if saliency.constant:
        notes.append("The map is the same everywhere: it points nowhere.")
    elif not saliency.signed:
        notes.append("The zero of this map means nothing: only differences between places do.")
    return Card(title="Saliency", rows=rows, picture=picture, notes=notes)


def model_card(model: Model) -> Card:
    """Show what a model is."""
    return Card(title=f"Model: {NETWORKS[model.spec.task].lower()}", rows=_spec_rows(model.spec))


def predictor_card(predictor: Predictor) -> Card:
    """Show what a predictor computes, and how."""
    rows = _spec_rows(predictor.spec) | {"computes with": predictor.computes, "looks at each image": predictor.looks}
    return Card(title="Predictor", rows={name: str(value) for name, value in rows.items()})


def explainer_card(explainer: Explainer) -> Card:
    """Show what an explainer explains."""
    return Card(title="Explainer", rows=_spec_rows(explainer.spec) | {"computes on": str(explainer.device)})


def _spec_rows(spec: ModelSpec) -> dict[str, str]:
    rows = {
        "network": NETWORKS[spec.task],
        "encoder": spec.encoder,
        "tiles": f"{spec.side_um:g} um as {spec.side_px} px, {spec.mpp:.3g} um per pixel",
        "classes": ", ".join(spec.classes),
    }
    rows |= {"members": f"{spec.members}"} if spec.members > 1 else {}
    rows |= {"temperature": f"{spec.temperature:.3g}"} if spec.temperature != 1 else {}
    if spec.training is not None:
        rows["trained"] = f"best epoch {spec.training.best_epoch} of {spec.training.epochs}"
    return rows


def evaluation_card(evaluation: Evaluation) -> Card:
    """Show the scores of networks and ensembles with their intervals, ROC curves and calibration."""
    test = evaluation.metrics["test"]
    rows = {"test tiles": f"{test['tiles']:,} of {test['patients']} patients"}
    if not test["tiles"]:
        return Card(title="Evaluation", rows=rows, notes=["There is no test tile."])
    picture = _picture(lambda draw: draw.scores_picture(evaluation), "ROC curves and calibration of both networks")
    notes = ["In brackets: 95 % intervals over patients. Dots: the threshold."]
    return Card(
        title="Evaluation", rows=rows, table=_scores_table(test), picture=picture, notes=[*notes, *evaluation.warnings]
    )


def _scores_table(test: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a row a network or ensemble, each score with its interval as text."""

    def written(entry: Mapping[str, Any], score: str) -> str:
        low, high = entry["interval"][score]
        if not np.isfinite(entry[score]):
            return ""
        return f"{entry[score]:.3f}" + (f" ({low:.2f} to {high:.2f})" if np.isfinite(low) else "")

    return [
        {"": title} | {heading: written(test[name], score) for score, heading in SCORES.items()}
        for name, title in ROWS.items()
    ]


def study_card(study: Study) -> Card:
    """Show a study: its stages, and its scores where it has come so far."""
    from vitrail.pipeline.stages import STAGES  # noqa: PLC0415 - a card of something else needs no pipeline

    finished = [each.name for each in STAGES if (study.folder / each.folder / "stage.json").is_file()]
    rows = {"folder": study.folder.name, "stages": ", ".join(finished) or "none finished"}
    if study.report is not None:
        rows["report"] = f"{study.folder.name}/{study.report.relative_to(study.folder).as_posix()}"
    if not (study.folder / "predictions" / "stage.json").is_file():
        return Card(title="Study", rows=rows, notes=["Its networks are not tested yet."])
    scores = evaluation_card(study.evaluation)
    return Card(
        title="Study", rows=rows | dict(scores.rows), table=scores.table, picture=scores.picture, notes=scores.notes
    )


def _picture(draw: Callable[[Any], Figure], says: str) -> Picture:
    """Draw a picture of `report/figures/cards.py`; matplotlib is loaded when the first one is drawn."""
    from vitrail.report.figures import cards  # noqa: PLC0415 - see above
    from vitrail.report.style import data_uri, style  # noqa: PLC0415 - see above

    with style():
        figure = draw(cards)
        uri = data_uri(figure, _DPI)
    return Picture(uri=uri, width_px=round(figure.get_figwidth() * _SHOWN_DPI), says=says)


CARDS: Mapping[str, Callable[[Any], Card]] = {
    "Slide": slide_card,
    "Cohort": cohort_card,
    "TileTable": tiles_card,
    "Tissue": tissue_card,
    "Artefacts": artefacts_card,
    "Saliency": saliency_card,
    "Model": model_card,
    "Predictor": predictor_card,
    "Explainer": explainer_card,
    "Evaluation": evaluation_card,
    "Study": study_card,
}
"""By the name of a class what shows it; names, so that no class is loaded that nobody shows."""
