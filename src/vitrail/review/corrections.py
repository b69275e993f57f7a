"""Outlines that were corrected, and what judged tiles say of them: the way back into training.

`corrections/<slide_id>/0001.geojson` and so on in a run hold outlines as they were corrected, one file a version; the
originals are never touched. What raters say of whole tiles becomes outlines, too: a tile's square is cut out of all
outlines, and comes back with the class that most raters gave it, or stays out where they called it other.

Where tissue outside the outlines counts as non-tumor (`annotations.unlabelled_tissue`), it is never written as an
outline: it is found anew beside those that were corrected. What is ignored, and what raters called other, is written as
such then, for what no outline says is non-tumor.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import shapely
from shapely import MultiPolygon, Polygon, box
from shapely.geometry import mapping

from vitrail.core.files import write_text
from vitrail.errors import AnnotationError
from vitrail.review.judgements import SKIP, Judgements
from vitrail.review.queue import queues_of, read_queue
from vitrail.slides.annotations import read_annotations
from vitrail.slides.outlines.geojson import annotation
from vitrail.tiles.extract import open_cohort_slide
from vitrail.tiles.outlines import IGNORED, class_names

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vitrail.settings.load import Settings
    from vitrail.slides.annotations import Annotation, ClassNames
    from vitrail.slides.cohort import CohortSlide

MOST_VERSIONS = 9999

NAMES = {"tumor": "Tumor", "non_tumor": "Non-tumor"}
"""What outlines are called that Vitrail writes."""


def versions(run: Path, slide_id: str) -> list[Path]:
    """List the corrected outlines of a slide, oldest first."""
    return sorted((run / "corrections" / slide_id).glob("[0-9][0-9][0-9][0-9].geojson"))


def save_correction(
    run: Path,
    slide_id: str,
    features: Sequence[dict[str, Any]],
    names: ClassNames,
    ignored: Sequence[Polygon | MultiPolygon] = (),
) -> Path:
    """Write a further version of a slide's outlines.

    Parameters
    ----------
    run
        The run folder.
    slide_id
        The slide, one of the run's.
    features
        All outlines of the slide, GeoJSON features with a class that the study knows, in level-0 pixels.
    names
        The study's classes.
    ignored
        Regions that stay ignored where nothing was drawn on them.

    Returns
    -------
    Path
        The file; earlier versions stay.

    Raises
    ------
    AnnotationError
        They are no outlines.
    """
    earlier = versions(run, slide_id)
    number = int(earlier[-1].stem) + 1 if earlier else 1
    folder = run / "corrections" / slide_id
    if number > MOST_VERSIONS:
        raise AnnotationError(folder, f"holds {MOST_VERSIONS} versions", "Move old ones elsewhere")
    folder.mkdir(parents=True, exist_ok=True)
    # read as every file of outlines is, before it counts as a version
    attempt = folder / ".attempt.geojson"
    write_text(attempt, json.dumps({"type": "FeatureCollection", "features": list(features)}))
    try:
        drawn = [outline.geometry for outline in read_annotations(attempt, names).outlines]
        if ignored:
            rest = shapely.difference(shapely.union_all(list(ignored)), shapely.union_all(drawn))
            kept = [*features, *_features(rest, IGNORED)]
            write_text(attempt, json.dumps({"type": "FeatureCollection", "features": kept}))
        file = folder / f"{number:04d}.geojson"
        attempt.replace(file)
    finally:
        attempt.unlink(missing_ok=True)
    return file


def judged_tiles(run: Path) -> dict[str, list[tuple[Polygon, str]]]:
    """Return what most raters say of each tile that was judged.

    Parameters
    ----------
    run
        The run folder.

    Returns
    -------
    dict[str, list[tuple[Polygon, str]]]
        By slide the squares, in level-0 pixels, and `tumor`, `non_tumor` or `other`. A rater counts once a tile, with
        what they said last; a tile without a majority is left out.
    """
    said: dict[tuple[str, Polygon], dict[str, str]] = {}
    for folder in queues_of(run):
        judgements = Judgements(read_queue(folder))
        if judgements.queue.spec.question != "class":
            continue
        for each in judgements.read():
            row = judgements.queue.rows.iloc[each.case]
            x, y, side = (float(row[name]) for name in ("x", "y", "side"))
            if each.answer != SKIP:
                said.setdefault((row["slide_id"], box(x, y, x + side, y + side)), {})[each.rater] = each.answer
    result: dict[str, list[tuple[Polygon, str]]] = {}
    for (slide_id, square), answers in said.items():
        votes = Counter(answer for answer in answers.values() if answer != "unsure").most_common(2)
        if votes and (len(votes) == 1 or votes[0][1] > votes[1][1]):
            result.setdefault(slide_id, []).append((square, votes[0][0]))
    return result


def apply_judged(
    outlines: Sequence[Annotation],
    squares: Sequence[tuple[Polygon, str]],
    ignored: Sequence[Polygon | MultiPolygon] | None = None,
) -> list[dict[str, Any]]:
    """Cut judged squares out of outlines, and put them back with what was said.

    Parameters
    ----------
    outlines
        Of a slide.
    squares
        As `judged_tiles` returns them.
    ignored
        Regions of the slide that are ignored, where what no outline says counts as non-tumor: they are written, too,
        and so are squares that are other. None leaves both out.

    Returns
    -------
    list[dict[str, Any]]
        GeoJSON features.
    """
    judged = shapely.union_all([square for square, _ in squares])
    features = []
    for outline in outlines:
        features += _features(shapely.difference(outline.geometry, judged), NAMES[outline.label.key])
    for label, name in NAMES.items():
        features += _features(shapely.union_all([square for square, said in squares if said == label]), name)
    if ignored is not None:
        others = [square for square, said in squares if said not in NAMES]
        rest = shapely.difference(shapely.union_all(list(ignored)), judged)
        drawn = shapely.union_all([outline.geometry for outline in outlines])
        features += _features(shapely.union_all([shapely.difference(rest, drawn), *others]), IGNORED)
    return features


def corrected_outlines(run: Path, entry: CohortSlide, settings: Settings, folder: Path) -> Path | None:
    """Write a slide's outlines with all that was corrected and judged.

    Parameters
    ----------
    run
        The run whose corrections count.
    entry
        The slide.
    settings
        The study's.
    folder
        Where to write `<slide_id>.geojson`.

    Returns
    -------
    Path | None
        The file; None where nothing was corrected.

    Raises
    ------
    AnnotationError, SlideError
        The outlines or the slide cannot be read.
    """
    drawn, squares = versions(run, entry.slide_id), judged_tiles(run).get(entry.slide_id, [])
    if not drawn and not squares:
        return None
    names = class_names(settings)
    if drawn:
        read = read_annotations(drawn[-1], names)
    else:
        read = read_annotations(entry.annotations, names, open_cohort_slide(entry, settings))
    exhaustive = settings.annotations.unlabelled_tissue != "ignore"
    features = apply_judged(read.outlines, squares, read.ignored if exhaustive else None)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{entry.slide_id}.geojson"
    write_text(file, json.dumps({"type": "FeatureCollection", "features": features}) + "\n")
    return file


def _features(shape: shapely.Geometry, name: str) -> list[dict[str, Any]]:
    """Return the areas of a shape as features that QuPath reads."""
    areas = [part for part in shapely.get_parts(shape) if isinstance(part, Polygon) and part.area > 0]
    if not areas:
        return []
    geometry = areas[0] if len(areas) == 1 else MultiPolygon(areas)
    return [annotation(name, mapping(geometry))]
