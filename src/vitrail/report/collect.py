"""From a finished run to what its report shows: its numbers, and pictures of its slides and tiles."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vitrail.classes import TissueClass
from vitrail.evaluation.load import evaluate
from vitrail.evaluation.tiles import is_tumor, worst_slides
from vitrail.geometry import Region
from vitrail.inference.outputs import MapFiles
from vitrail.models.spec import read_spec
from vitrail.report.collect_explanations import collect_explained
from vitrail.report.collect_labels import collect_doubted
from vitrail.report.collect_nuclei import collect_nuclei
from vitrail.report.collect_shift import collect_shift
from vitrail.report.collect_unlabelled import collect_outside
from vitrail.report.data import CutExample, Overlaid, ReportData
from vitrail.report.figures.predictions_over_slide import SECTION_PX, choose_sections, choose_slide
from vitrail.report.figures.slide_maps import THUMBNAIL_PX, read_slide_maps
from vitrail.report.figures.tiles_of_a_slide import choose_tiles
from vitrail.report.outlines import outline_rings
from vitrail.search.results import is_searched, read_search
from vitrail.settings.load import settings_text
from vitrail.slides.cohort import read_cohort
from vitrail.slides.slide import read_region, read_thumbnail
from vitrail.tiles.extract import open_cohort_slide
from vitrail.tiles.outlines import cohort_outlines
from vitrail.tiles.store import read_tiles, tiles_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from vitrail.report.data import SlideMaps
    from vitrail.slides.cohort import CohortSlide
    from vitrail.slides.slide import Slide
    from vitrail.stage import Run

WORST_PX = 160
"""Longer side of the pictures of the slides that the networks know least."""


def collect(run: Run) -> ReportData:
    """Gather what the stages left in a run folder.

    Parameters
    ----------
    run
        The run; all stages but the report are finished.

    Returns
    -------
    ReportData
        What its report shows.

    Raises
    ------
    SlideError, AnnotationError
        A slide that is to be shown cannot be read any more.
    RunError
        Explanations or checks are there but not whole.
    ModelError
        What describes a network cannot be read.
    """
    evaluation, entries = evaluate(run), {entry.slide_id: entry for entry in read_cohort(run.cohort)}
    predictions = evaluation.predictions
    warnings, search = list(evaluation.warnings), None
    if is_searched(run.folder / "search"):
        search = read_search(run.folder / "search")
        split = dict(zip(predictions["patient_id"], predictions["split"], strict=True))
        if patients := search.in_test(split):
            warnings.append(
                "the grid search chose tile size and resolution on patients who are in the test part now, so that the "
                f"scores are too good: {', '.join(patients)}"
            )
    mapped = []
    for name, entry in entries.items():
        files = MapFiles(base=run.folder / "predictions" / "maps" / name)
        if files.facts.is_file():
            mapped.append((_read_maps(run, entry, files, predictions), files))
    mapped.sort(key=lambda pair: -pair[0].accuracy)  # those that the classifier knows best first
    maps = [maps for maps, _ in mapped]
    worst = [entries[name] for name in worst_slides(evaluation.slide_table)["slide_id"] if name in entries]
    return ReportData(
        title=run.folder.resolve().name,
        settings_toml=settings_text(run.settings, ""),
        encoder=_encoder(run),
        evaluation=evaluation,
        warnings=warnings,
        maps=maps,
        mapped=[files for _, files in mapped],
        explained=collect_explained(run, entries, evaluation),
        nuclei=collect_nuclei(run, entries, evaluation.nuclei),
        doubted=collect_doubted(run, entries, evaluation),
        outside=collect_outside(run, entries, evaluation),
        margin_um=run.settings.annotations.margin_um,
        shift=collect_shift(run, evaluation),
        search=search,
        worst={entry.slide_id: read_thumbnail(open_cohort_slide(entry, run.settings), WORST_PX) for entry in worst},
        cut=_cut_example(run, entries, [each.slide_id for each in maps]),
        overlaid=_overlaid(run, entries, maps),
    )


def _encoder(run: Run) -> str:
    """Say where a study's encoder came from."""
    path = run.folder / "classifier" / "model.json"
    source = read_spec(path).encoder_source if path.is_file() else None
    if source is None:
        return ""
    kept = "kept its weights" if source.frozen else "was trained on with what follows it"
    return f"Both networks' encoder is {source.name}, which {kept}. The licence of its weights: {source.terms}."


def thumbnail_scale(slide: Slide) -> float:
    """Return pixels of the thumbnail per level-0 pixel."""
    return THUMBNAIL_PX / max(slide.region.width, slide.region.height)


def _read_maps(run: Run, entry: CohortSlide, files: MapFiles, predictions: pd.DataFrame) -> SlideMaps:
    slide = open_cohort_slide(entry, run.settings)
    tiles = predictions[predictions["slide_id"] == entry.slide_id]
    called = (tiles["classifier"] >= run.settings.evaluation.threshold).to_numpy()
    return replace(
        read_slide_maps(slide, files),
        patient_id=entry.patient_id,
        accuracy=float((called == is_tumor(tiles)).mean()),
        outlines=outline_rings(cohort_outlines(entry, slide, run.settings), thumbnail_scale(slide)),
    )


def _cut_example(run: Run, entries: Mapping[str, CohortSlide], mapped: Sequence[str]) -> CutExample | None:
    """Return the first mapped slide with tiles of both labels, or another one with them, or the first with any."""
    table = read_tiles(run.folder / "tiles")
    labels = table.rows.groupby("slide_id")["label"].nunique()
    names = [name for name in (*mapped, *entries) if name in labels.index]
    if not names:
        return None
    chosen = entries[max(names, key=lambda name: int(labels[name]))]
    slide, tiles = open_cohort_slide(chosen, run.settings), tiles_of(table, chosen.slide_id)
    rows = choose_tiles(tiles.rows)
    return CutExample(
        slide_id=chosen.slide_id,
        patient_id=chosen.patient_id,
        thumbnail=read_thumbnail(slide, THUMBNAIL_PX),
        width_um=slide.region.width * slide.mpp,
        outlines=outline_rings(cohort_outlines(chosen, slide, run.settings), thumbnail_scale(slide)),
        squares=tiles.rows[["x", "y", "side"]].to_numpy(np.float64) * thumbnail_scale(slide),
        labels=tuple(TissueClass[label.upper()] for label in tiles.rows["label"]),
        side_um=run.settings.tiles.side_um,
        shown=rows,
        pictures=np.asarray(tiles.images[list(rows)]),
        masks=np.asarray(tiles.masks[list(rows)]),
    )


def _overlaid(run: Run, entries: Mapping[str, CohortSlide], mapped: Sequence[SlideMaps]) -> Overlaid | None:
    """Return a slide of which both networks have maps, its sections as sharp as a figure can show them."""
    maps = choose_slide(mapped)
    if maps is None:
        return None
    slide, sections = open_cohort_slide(entries[maps.slide_id], run.settings), choose_sections(maps)
    side = maps.tile_side / thumbnail_scale(slide)  # of a tile, in level-0 pixels
    pictures = []
    for section in sections:
        width = section.tiles * side
        region = Region(x=section.column * side, y=section.row * side, width=width, height=width)
        pictures.append(read_region(slide, region, (SECTION_PX, SECTION_PX)))
    return Overlaid(maps=maps, sections=sections, pictures=tuple(pictures))
