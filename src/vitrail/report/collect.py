"""From a finished run to what its report shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from vitrail.classes import LABELS, TissueClass
from vitrail.config import settings_text
from vitrail.predict.slidemap import load_map
from vitrail.report.data import ReportData, SlideMaps
from vitrail.slides.annotations import read_annotations
from vitrail.slides.cohort import read_cohort
from vitrail.slides.slide import read_thumbnail
from vitrail.tiles.cut import class_names, open_cohort_slide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from vitrail.slides.annotations import Annotations
    from vitrail.slides.cohort import CohortSlide
    from vitrail.stage import Run

THUMBNAIL_PX = 1024
"""Longer side of the slides' pictures in the report."""


def collect(run: Run) -> ReportData:
    """Gather what the stages left in a run folder.

    Raises
    ------
    SlideError, AnnotationError
        A slide that is to be shown cannot be read any more.
    """
    folder, settings = run.folder, run.settings
    entries = read_cohort(run.cohort)
    cut = pd.read_csv(
        folder / "tiles" / "slides.csv", dtype={"slide_id": str, "patient_id": str}, keep_default_na=False
    )
    predictions = pd.read_parquet(folder / "predictions" / "tiles.parquet")
    return ReportData(
        title=folder.resolve().name,
        settings_toml=settings_text(settings, ""),
        seed=settings.seed,
        threshold=settings.evaluation.threshold,
        slides=_slides(cut, entries, predictions),
        skipped=cut.loc[cut["skipped"] != "", ["slide_id", "skipped"]].rename(columns={"skipped": "reason"}),
        warnings=[line for cell in cut["warnings"] if cell for line in cell.split(" | ")],
        history={task: pd.read_csv(folder / task / "history.csv") for task in ("classifier", "segmenter")},
        predictions=predictions,
        maps=list(_maps(run, entries, predictions)),
    )


def _slides(cut: pd.DataFrame, entries: tuple[CohortSlide, ...], predictions: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each slide with tiles, its attributes last."""
    kept = cut.loc[cut["skipped"] == "", ["slide_id", "patient_id", "mpp", "tumor_tiles", "non_tumor_tiles"]]
    kept = kept.astype({"mpp": float})
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


def _maps(run: Run, entries: tuple[CohortSlide, ...], predictions: pd.DataFrame) -> Iterator[SlideMaps]:
    """Yield the mapped slides, those that the classifier knows best first."""
    folder = run.folder / "predictions" / "maps"
    mapped = [_slide_maps(run, entry, predictions) for entry in entries if (folder / f"{entry.slide_id}.npz").is_file()]
    yield from sorted(mapped, key=lambda found: -found.accuracy)


def _slide_maps(run: Run, entry: CohortSlide, predictions: pd.DataFrame) -> SlideMaps:
    slide = open_cohort_slide(entry, run.settings)
    found = load_map(run.folder / "predictions" / "maps" / f"{entry.slide_id}.npz")
    rows = predictions[predictions["slide_id"] == entry.slide_id]
    called = rows["classifier"] >= run.settings.evaluation.threshold
    scale = THUMBNAIL_PX / max(slide.region.width, slide.region.height)
    outlines = read_annotations(entry.annotations, class_names(run.settings))
    return SlideMaps(
        slide_id=entry.slide_id,
        patient_id=entry.patient_id,
        accuracy=float((called == (rows["label"] == TissueClass.TUMOR.key)).mean()),
        thumbnail=read_thumbnail(slide, THUMBNAIL_PX),
        width_um=slide.region.width * slide.mpp,
        outlines={label: _rings(outlines, label, scale) for label in LABELS},
        classifier=found.classifier,
        segmenter=found.segmenter,
        tile_side=found.side * scale,
    )


def _rings(outlines: Annotations, label: TissueClass, scale: float) -> list[NDArray[np.float64]]:
    """Return all rings of a class in pixels of the thumbnail; where outlines overlap, tumor wins."""
    area = outlines.tumor if label is TissueClass.TUMOR else outlines.non_tumor.difference(outlines.tumor)
    parts = [part for part in shapely.get_parts(area) if part.geom_type == "Polygon" and not part.is_empty]
    return [np.asarray(ring.coords)[:, :2] * scale for part in parts for ring in (part.exterior, *part.interiors)]
