"""From a finished run to what its report shows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from vitrail.classes import LABELS, TissueClass
from vitrail.core.files import damaged, read_csv, read_json, read_table
from vitrail.geometry import Region
from vitrail.inference.outputs import LEFT_OUT, MapFiles
from vitrail.models.spec import read_spec
from vitrail.report.collect_explanations import collect_explained
from vitrail.report.data import NETWORKS, CutExample, Overlaid, ReportData, SlideMaps
from vitrail.report.figures.predictions_over_slide import SECTION_PX, choose_sections, choose_slide
from vitrail.report.figures.slide_maps import THUMBNAIL_PX, read_slide_maps
from vitrail.report.figures.tiles_of_a_slide import choose_tiles
from vitrail.report.scored import slides_table, worst_slides
from vitrail.search.results import is_searched, read_search
from vitrail.settings.load import settings_text
from vitrail.slides.annotations import read_annotations
from vitrail.slides.cohort import read_cohort
from vitrail.slides.slide import read_region, read_thumbnail
from vitrail.tiles.extract import class_names, open_cohort_slide
from vitrail.tiles.store import read_tiles, tiles_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.search.results import SearchResult
    from vitrail.slides.annotations import Annotations
    from vitrail.slides.cohort import CohortSlide
    from vitrail.slides.slide import Slide
    from vitrail.stage import Run


def collect(run: Run) -> ReportData:
    """Gather what the stages left in a run folder.

    Raises
    ------
    SlideError, AnnotationError
        A slide that is to be shown cannot be read any more.
    RunError
        Explanations or checks are there but not whole.
    ModelError
        What describes a network cannot be read.
    """
    folder, settings = run.folder, run.settings
    entries = read_cohort(run.cohort)
    cut = _cut_slides(folder / "tiles" / "slides.csv")
    predictions = read_table(folder / "predictions" / "tiles.parquet")
    mapped = _mapped(run, entries, predictions)
    search = read_search(folder / "search") if is_searched(folder / "search") else None
    return ReportData(
        title=folder.resolve().name,
        settings_toml=settings_text(settings, ""),
        seed=settings.seed,
        evaluation=settings.evaluation,
        slides=_slides(cut, entries, predictions),
        skipped=cut.loc[cut["skipped"] != "", ["slide_id", "skipped"]].rename(columns={"skipped": "reason"}),
        warnings=[line for cell in cut["warnings"] if cell for line in cell.split(" | ")]
        + _left_out(run)
        + _seen(search, predictions),
        history={task: _history(folder / task / "history.csv") for task in ("classifier", "segmenter")},
        predictions=predictions,
        maps=[maps for maps, _ in mapped],
        mapped=[files for _, files in mapped],
        explained=collect_explained(run, entries, predictions),
        search=search,
        temperatures={task: read_spec(folder / task / "model.json").temperature for task in NETWORKS},
        calibrated=settings.predict.calibrated,
        worst=_worst(run, entries, predictions),
        cut=_cut(run, entries, [maps.slide_id for maps, _ in mapped]),
        overlaid=_overlaid(run, entries, [maps for maps, _ in mapped]),
    )


_MEASURED = {"mpp": float, "tumor_tiles": int, "non_tumor_tiles": int}


def _cut_slides(path: Path) -> pd.DataFrame:
    """Return what became of each slide; of those with tiles, the cells of `_MEASURED` are numbers."""
    cut = read_csv(path, ("slide_id", "patient_id", "skipped", "warnings", *_MEASURED))
    try:
        cut[cut["skipped"] == ""].astype(_MEASURED)
    except ValueError as error:
        raise damaged(path, error) from None
    return cut


def _history(path: Path) -> pd.DataFrame:
    """Return the losses and scores of a training, a row an epoch."""
    try:
        return read_csv(path, ("epoch", "train_loss", "validation_loss")).astype(float).astype({"epoch": int})
    except ValueError as error:
        raise damaged(path, error) from None


def _slides(cut: pd.DataFrame, entries: tuple[CohortSlide, ...], predictions: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each slide with tiles, its attributes last."""
    kept = cut.loc[cut["skipped"] == "", ["slide_id", "patient_id", *_MEASURED]].astype(_MEASURED)
    splits = predictions.drop_duplicates("slide_id").set_index("slide_id")["split"]
    kept.insert(2, "split", kept["slide_id"].map(splits))
    attributes = pd.DataFrame([entry.attributes for entry in entries]).apply(_known)
    attributes.insert(0, "slide_id", [entry.slide_id for entry in entries])
    return kept.merge(attributes, on="slide_id", how="left", suffixes=("", " in slides.csv"))


def _known(cells: pd.Series[str]) -> pd.Series[Any]:
    """Turn the text of an attribute's cells into numbers, where all are numbers; empty ones become NaN."""
    texts = cells.mask(cells == "")
    numbers = pd.to_numeric(texts, errors="coerce")
    return numbers if np.isfinite(numbers[texts.notna()]).all() else texts


def _mapped(run: Run, entries: tuple[CohortSlide, ...], predictions: pd.DataFrame) -> list[tuple[SlideMaps, MapFiles]]:
    """Return the mapped slides, those that the classifier knows best first."""
    files = [MapFiles(base=run.folder / "predictions" / "maps" / entry.slide_id) for entry in entries]
    there = [(entry, one) for entry, one in zip(entries, files, strict=True) if one.facts.is_file()]
    mapped = [(_slide_maps(run, entry, one, predictions), one) for entry, one in there]
    return sorted(mapped, key=lambda found: -found[0].accuracy)


def _left_out(run: Run) -> list[str]:
    """Say which slides were to be mapped and could not be."""
    path = run.folder / "predictions" / "maps" / LEFT_OUT
    reasons = read_json(path) if path.is_file() else {}
    return [f"{slide_id} could not be mapped as a whole: {reason}" for slide_id, reason in reasons.items()]


def _worst(run: Run, entries: tuple[CohortSlide, ...], predictions: pd.DataFrame) -> dict[str, NDArray[np.uint8]]:
    """Return pictures of the slides that the networks know least."""
    test = predictions[predictions["split"] == "test"]
    named = set(worst_slides(slides_table(test, run.settings.evaluation.threshold))["slide_id"])
    wanted = [entry for entry in entries if entry.slide_id in named]
    return {one.slide_id: read_thumbnail(open_cohort_slide(one, run.settings), WORST_PX) for one in wanted}


WORST_PX = 160
"""Longer side of these pictures."""


def _seen(search: SearchResult | None, predictions: pd.DataFrame) -> list[str]:
    """Say so where the grid search has seen patients who are in the test part now."""
    split: dict[str, str] = dict(predictions[["patient_id", "split"]].drop_duplicates().itertuples(index=False))
    seen = search.in_test(split) if search else ()
    told = "the grid search chose tile size and resolution on patients who are in the test part now"
    return [f"{told}, so that the scores are too good: {', '.join(seen)}"] if seen else []


def _slide_maps(run: Run, entry: CohortSlide, files: MapFiles, predictions: pd.DataFrame) -> SlideMaps:
    slide = open_cohort_slide(entry, run.settings)
    rows = predictions[predictions["slide_id"] == entry.slide_id]
    called = rows["classifier"] >= run.settings.evaluation.threshold
    return replace(
        read_slide_maps(slide, files),
        patient_id=entry.patient_id,
        accuracy=float((called == (rows["label"] == TissueClass.TUMOR.key)).mean()),
        outlines=_outlines(run, entry, slide),
    )


def _cut(run: Run, entries: tuple[CohortSlide, ...], mapped: list[str]) -> CutExample | None:
    """Return the first mapped slide with tiles of both labels, or another one with them, or the first with any."""
    table = read_tiles(run.folder / "tiles")
    labels = table.rows.groupby("slide_id")["label"].nunique()
    order = [name for name in (*mapped, *(entry.slide_id for entry in entries)) if name in labels.index]
    if not order:
        return None
    chosen = max(order, key=lambda name: int(labels[name]))
    entry = next(entry for entry in entries if entry.slide_id == chosen)
    slide, tiles = open_cohort_slide(entry, run.settings), tiles_of(table, chosen)
    shown = choose_tiles(tiles.rows)
    return CutExample(
        slide_id=chosen,
        patient_id=entry.patient_id,
        thumbnail=read_thumbnail(slide, THUMBNAIL_PX),
        width_um=slide.region.width * slide.mpp,
        outlines=_outlines(run, entry, slide),
        squares=tiles.rows[["x", "y", "side"]].to_numpy(np.float64) * _thumbnail_scale(slide),
        labels=tuple(TissueClass[label.upper()] for label in tiles.rows["label"]),
        side_um=run.settings.tiles.side_um,
        shown=shown,
        pictures=np.asarray(tiles.images[list(shown)]),
        masks=np.asarray(tiles.masks[list(shown)]),
    )


def _overlaid(run: Run, entries: tuple[CohortSlide, ...], mapped: list[SlideMaps]) -> Overlaid | None:
    """Return a slide of which both networks have maps, its sections as sharp as a figure can show them."""
    maps = choose_slide(mapped)
    if maps is None:
        return None
    entry = next(entry for entry in entries if entry.slide_id == maps.slide_id)
    slide, sections = open_cohort_slide(entry, run.settings), choose_sections(maps)
    tile = maps.tile_side / _thumbnail_scale(slide)
    places = [
        Region(x=one.column * tile, y=one.row * tile, width=one.tiles * tile, height=one.tiles * tile)
        for one in sections
    ]
    pictures = tuple(read_region(slide, place, (SECTION_PX, SECTION_PX)) for place in places)
    return Overlaid(maps=maps, sections=sections, pictures=pictures)


def _outlines(run: Run, entry: CohortSlide, slide: Slide) -> dict[TissueClass, list[NDArray[np.float64]]]:
    drawn = read_annotations(entry.annotations, class_names(run.settings))
    return {label: _rings(drawn, label, _thumbnail_scale(slide)) for label in LABELS}


def _thumbnail_scale(slide: Slide) -> float:
    """Return pixels of the thumbnail per level-0 pixel."""
    return THUMBNAIL_PX / max(slide.region.width, slide.region.height)


def _rings(outlines: Annotations, label: TissueClass, scale: float) -> list[NDArray[np.float64]]:
    """Return all rings of a class in pixels of the thumbnail; where outlines overlap, tumor wins."""
    area = outlines.tumor if label is TissueClass.TUMOR else outlines.non_tumor.difference(outlines.tumor)
    parts = [part for part in shapely.get_parts(area) if part.geom_type == "Polygon" and not part.is_empty]
    return [np.asarray(ring.coords)[:, :2] * scale for part in parts for ring in (part.exterior, *part.interiors)]
