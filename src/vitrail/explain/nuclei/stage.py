"""The stage `nuclei`: which nuclei a run's networks look at. It writes what `vitrail.explain.nuclei.results` reads."""

from __future__ import annotations

from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.classes import NETWORKS, TASKS
from vitrail.core.files import write_arrays, write_json, write_table
from vitrail.core.resume import Parts
from vitrail.errors import NucleiError, SlideError
from vitrail.explain.checks.stage import score_both, tumor_pixels
from vitrail.explain.explainer import Explainer
from vitrail.explain.layers import find_layers
from vitrail.explain.nuclei.analysis import SETTLED, UNTRAINED, analyse
from vitrail.explain.nuclei.painting import paint
from vitrail.explain.nuclei.relevance import cell_size_um, own_stride_px, relevance, too_coarse
from vitrail.explain.nuclei.removal import effects_of, feature_groups
from vitrail.explain.nuclei.results import LABELS, SUMMARY, as_table, group_of
from vitrail.explain.nuclei.study import Field, Study
from vitrail.explain.nuclei.summary import summarise
from vitrail.explain.nuclei.tiles import choose_tiles, spread
from vitrail.explain.nuclei.untrained import untrained_model
from vitrail.explain.study.store import open_stored, split_key
from vitrail.geometry import Region
from vitrail.models.device import keep_memory, pick_device, reproducible
from vitrail.models.segmenter import Segmenter
from vitrail.models.store import load_explained
from vitrail.nuclei.engines import engine_of
from vitrail.nuclei.features import measure
from vitrail.nuclei.neighbours import neighbours
from vitrail.nuclei.regions import segment_region
from vitrail.nuclei.reliability import measure_again, reliability
from vitrail.nuclei.scales import COARSEST_MPP
from vitrail.quality.tissue import find_tissue
from vitrail.tiles.extract import open_cohort_slide
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch
    from numpy.typing import NDArray

    from vitrail.explain.checks.stage import Outputs
    from vitrail.explain.nuclei.painting import Painting
    from vitrail.models.store import Model
    from vitrail.nuclei.regions import RegionNuclei
    from vitrail.quality.tissue import Tissue
    from vitrail.settings.schema import NucleiSettings
    from vitrail.slides.cohort import CohortSlide
    from vitrail.slides.slide import Slide
    from vitrail.stage import Run, Work

    Images = NDArray[np.uint8]

_NOTHING: dict[str, Any] = {"tiles": 0, "patients": 0, "nuclei": 0}

AGAIN = 6
"""Tiles whose nuclei are segmented anew, for the reliability of their features."""

DRAWS = 4
"""Random groups of nuclei that each group is compared with."""

FEWEST_RANDOM = 8
"""Images of a tile without a nucleus that a network with random weights is shown, at least."""


def explain_nuclei(work: Work, entries: tuple[CohortSlide, ...]) -> None:
    """Write the folder `nuclei/`.

    The same study gives the same bytes on one machine, however often the work was killed. Where no slide is fine
    enough for nuclei, or none is wished, the summary says so in one line, and there is nothing else.

    Parameters
    ----------
    work
        A run whose tiles, networks and explanations are finished, and where to write.
    entries
        The cohort.

    Raises
    ------
    RunError, ModelError
        A stage's folder cannot be read, or the device's memory is too small.
    SettingsError, NucleiError
        The settings name a device or an engine that is not there.
    """
    parts = Parts(work.folder / "parts")
    if not (work.folder / SUMMARY).is_file():  # else it was killed while it cleared up
        keep_memory()
        settings = work.run.settings
        stored = open_stored(work.run.folder / "explanations")
        slides, refused = fine_slides(stored.rows["slide_id"], entries, work) if settings.nuclei.tiles else ({}, [])
        there = np.flatnonzero(stored.rows["slide_id"].isin(list(slides)))
        chosen = there[choose_tiles(stored.rows.iloc[there], settings.nuclei.tiles, settings.seed)]
        if len(chosen):
            device = pick_device(settings.compute.device)
            names = dict.fromkeys(split_key(key)[0] for key in stored.keys)
            study = Study(
                work=work,
                parts=parts,
                stored=stored,
                models={name: load_explained(work.run.folder / name) for name in names},
                images=read_tiles(work.run.folder / "tiles").images,
                slides=slides,
                tiles=stored.rows.iloc[chosen].reset_index(drop=True).assign(row=chosen),
                device=device,
            )
            with reproducible(device, settings.seed):
                summary = _written(study)
            summary["refused"] = refused + summary["refused"]
        else:
            summary = _NOTHING | {"refused": refused}
        write_json(work.folder / SUMMARY, summary)
    parts.discard()


def fine_slides(
    names: pd.Series[str], entries: tuple[CohortSlide, ...], work: Work
) -> tuple[dict[str, Slide], list[str]]:
    """Open the slides that are fine enough for nuclei.

    Parameters
    ----------
    names
        Of the slides.
    entries
        The cohort.
    work
        The stage's.

    Returns
    -------
    tuple[dict[str, Slide], list[str]]
        By name; and why others are not, a line each.
    """
    slides: dict[str, Slide] = {}
    reasons, coarse = list[str](), list[float]()
    own = set(names)
    for entry in (entry for entry in entries if entry.slide_id in own):
        try:
            slide = open_cohort_slide(entry, work.run.settings)
        except SlideError as error:
            reasons.append(str(error))
            continue
        if slide.mpp > COARSEST_MPP:
            coarse.append(slide.mpp)
        else:
            slides[entry.slide_id] = slide
    if coarse:
        count = "1 slide is" if len(coarse) == 1 else f"{len(coarse)} slides are"
        finest = f"{min(coarse):.2g} \N{MICRO SIGN}m a pixel"
        more = " and more" if max(coarse) > min(coarse) else ""
        needed = f"where {COARSEST_MPP:g} or less are needed"
        reasons.insert(0, f"{count} too coarse to tell nuclei apart: {finest}{more}, {needed}.")
    return slides, reasons


def _written(study: Study) -> dict[str, Any]:
    """Write tables and label images, and return the summary."""
    fields, refused = _fields(study)
    if not fields:
        return _NOTHING | {"refused": refused}
    relevances = as_table("relevance", _relevance(study, fields))
    tables = {
        "tiles": as_table("tiles", [each.row for each in fields]),
        "nuclei": as_table("nuclei", [each.nuclei for each in fields]),
        "relevance": relevances,
        **_removals(study, fields, relevances),
    }
    tables["reliability"] = as_table("reliability", _reliability(study, fields))
    tables |= analyse(study, fields, tables)
    for name, table in tables.items():
        write_table(study.work.folder / f"{name}.parquet", table)
    write_arrays(study.work.folder / LABELS, **{str(each.tile): each.labels.astype(np.uint16) for each in fields})
    summary = summarise(tables, [*study.models], study.stored.methods, study.settings.seed)
    maps = {key: coarseness(study, key, tables["nuclei"]) for key in study.stored.keys}
    return {"refused": refused, "engine": study.settings.nuclei.engine, "maps": maps} | summary


def _fields(study: Study) -> tuple[list[Field], list[str]]:
    """Outline and measure the nuclei of the tiles; those that an engine knows nothing of are left out, with a line."""
    settings = study.settings
    engine = engine_of(with_model_path(study.work.run))
    tissue = cache(lambda name: find_tissue(study.slides[name], settings.tissue))
    fields, refused = list[Field](), dict[str, None]()
    with study.work.progress.task("nuclei", len(study.tiles)) as step:
        for row in study.tiles.to_dict("records"):
            slide, side = study.slides[row["slide_id"]], float(row["side"])
            region = Region(x=float(row["x"]), y=float(row["y"]), width=side, height=side)
            segmented = cache(partial(segment_region, slide, region, engine, slide_id=row["slide_id"]))
            try:
                image = study.parts.array(f"image-{row['tile']}", partial(_part, segmented, "image"))
                labels = study.parts.array(f"labels-{row['tile']}", partial(_part, segmented, "labels"))
            except NucleiError as error:
                refused[str(error)] = None
                continue
            finally:
                step()
            mpp = side * slide.mpp / image.shape[1]
            nuclei = _measured(row, slide, tissue(row["slide_id"]), image, labels)
            own = pd.DataFrame([row]).assign(mpp=mpp, nuclei=len(nuclei))
            own = own.assign(**{f"{network}_group": group_of(own, network) for network in TASKS})
            fields.append(
                Field(
                    tile=row["tile"],
                    position=row["row"],
                    patient=row["patient_id"],
                    image=image,
                    labels=labels,
                    mpp=mpp,
                    row=own,
                    nuclei=nuclei,
                )
            )
    return fields, list(refused)


def _part(segmented: Callable[[], RegionNuclei], name: str) -> NDArray[Any]:
    values: NDArray[Any] = getattr(segmented(), name)
    return values


def with_model_path(run: Run) -> NucleiSettings:
    """Return the settings of a run's nuclei with a path from the run's folder, where there is such a file or folder."""
    nuclei = run.settings.nuclei
    path = run.folder.resolve() / nuclei.model
    return nuclei.model_copy(update={"model": str(path)}) if nuclei.model and path.exists() else nuclei


def _reliability(study: Study, fields: list[Field]) -> Iterator[pd.DataFrame]:
    """Measure nuclei again on some tiles, evenly spread, by engines that look at pixels."""
    engine = engine_of(with_model_path(study.work.run))
    if not callable(engine) or not fields:
        return
    few = np.linspace(0, len(fields) - 1, min(len(fields), AGAIN)).round().astype(np.int64)
    tables = []
    for number in few.tolist():
        field = fields[number]
        job = partial(measure_again, field.image, field.mpp, engine)
        tables.append(study.parts.table(f"again-{field.tile}", job).assign(image=field.tile, patient=field.patient))
    yield reliability(pd.concat(tables, ignore_index=True), study.settings.seed)


def _measured(
    row: Mapping[Any, Any], slide: Slide, tissue: Tissue, image: Images, labels: NDArray[np.int32]
) -> pd.DataFrame:
    """Measure the nuclei of a tile: a row each, in the order of their labels."""
    mpp = float(row["side"]) * slide.mpp / image.shape[1]
    own = measure(labels, image, mpp, glass=tissue.thresholds.glass)
    left, top = corner = row["x"] * slide.mpp, row["y"] * slide.mpp
    on_slide = own.assign(x_um=own["x_um"] + left, y_um=own["y_um"] + top)
    extent = (*corner, left + labels.shape[1] * mpp, top + labels.shape[0] * mpp)
    around = neighbours(on_slide, extent_um=extent, tissue=tissue)
    owner = {name: row[name] for name in ("tile", "slide_id", "patient_id")}
    table = pd.concat([own, around], axis=1).rename(columns={"label": "nucleus"})
    return table.assign(x=on_slide["x_um"] / slide.mpp, y=on_slide["y_um"] / slide.mpp, **owner)


def _relevance(study: Study, fields: list[Field]) -> Iterator[pd.DataFrame]:
    for field in fields:
        for key in study.stored.keys:
            network, method = split_key(key)
            size = field.labels.shape[0], field.labels.shape[1]
            saliency = study.stored.saliency(key, field.position)
            table = relevance(spread(saliency.upsample(), size), field.labels, signed=saliency.signed)
            yield table.rename(columns={"label": "nucleus"}).assign(network=network, method=method, **field.owner)


def _removals(study: Study, fields: list[Field], relevances: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Remove nuclei before each network, and single ones before networks with random weights: what any network does."""
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in ("effects", "controls", "groups")}
    networks = list(product(study.models.items(), range(-1, UNTRAINED)))
    runs = {(name, draw): cache(partial(_running, study, model, fields, draw)) for (name, model), draw in networks}
    with study.work.progress.task("remove", len(fields)) as step:
        for field in fields:
            painting = cache(partial(_painted, study, field))  # once for all networks, and never where all is done
            for network, draw in runs if len(field.nuclei) else ():
                shown = relevances[(relevances["tile"] == field.tile) & (relevances["network"] == network)]
                means = shown.groupby("nucleus", sort=True)["rank"].mean().to_numpy()
                removed = cache(partial(_removed, study, field, painting, runs[network, draw], means, random=draw >= 0))
                for name in tables if draw < 0 else ("effects",):

                    def part(
                        removed: Callable[[], dict[str, pd.DataFrame]] = removed, name: str = name
                    ) -> pd.DataFrame:
                        return removed()[name]

                    table = study.parts.table(f"{name}-{network}-{draw}-{field.tile}", part)
                    known = {"network": network, "draw": draw, "label": field.row["label"].iloc[0]}
                    known["tiles"] = field.row[f"{network}_group"].iloc[0]
                    tables[name].append(table.assign(**known, **field.owner))
            step()
    return {name: as_table(name, parts) for name, parts in tables.items()}


def _running(
    study: Study, model: Model, fields: list[Field], draw: int
) -> tuple[Outputs, dict[int, torch.Tensor | None]]:
    """Return what runs a network on images, and by tile the pixels that are explained; one of a draw is random."""
    run = study.outputs(model) if draw < 0 else _random(study, model, fields, draw)
    tiles = [field.tile for field in fields]
    inside = tumor_pixels(run(study.seen(tiles))) if isinstance(model.module, Segmenter) else None
    return run, {tile: None if inside is None else inside[at : at + 1] for at, tile in enumerate(tiles)}


def _random(study: Study, model: Model, fields: list[Field], draw: int) -> Outputs:
    tiles = np.linspace(0, len(fields) - 1, max(2, min(len(fields), SETTLED))).round().astype(np.int64)
    images = study.seen([fields[number].tile for number in tiles.tolist()])
    random = untrained_model(model, images, study.device, study.weights_seed(draw))
    return Explainer(random, study.device, engine="torch").outputs


def _painted(study: Study, field: Field) -> Painting:
    tile = study.seen([field.tile])[0]
    return paint(field.image, field.labels, mpp=field.mpp, tile=tile, seed=(study.settings.seed, field.tile))


def _removed(
    study: Study,
    field: Field,
    painting: Callable[[], Painting],
    running: Callable[[], tuple[Outputs, dict[int, torch.Tensor | None]]],
    relevance: NDArray[np.float64],
    *,
    random: bool,
) -> dict[str, pd.DataFrame]:
    """Remove the nuclei of a tile; of a network with random weights fewer, and no groups."""
    (run, inside), most = running(), study.settings.nuclei.removals

    def score(changed: Images) -> NDArray[np.float64]:
        return score_both(run, inside[field.tile], changed)

    effects = effects_of(
        score,
        painting(),
        {} if random else feature_groups(field.nuclei),
        relevance=relevance,
        most=max(most // UNTRAINED, FEWEST_RANDOM) if random else most,
        draws=DRAWS,
        seed=(study.settings.seed, field.tile),
    )
    before = dict(zip(("before", "before_logit"), effects.before, strict=True))
    named = {"label": "nucleus"}
    return {
        "effects": effects.nuclei.rename(columns=named),
        "controls": effects.controls.rename(columns=named),
        "groups": effects.groups.assign(**before),
    }


def coarseness(study: Study, key: str, nuclei: pd.DataFrame) -> dict[str, Any]:
    """Say whether the maps of a kind are too coarse to point at a nucleus.

    Parameters
    ----------
    study
        The stage at work.
    key
        The kind.
    nuclei
        The table.

    Returns
    -------
    dict[str, Any]
        `cell_um`, how far apart the places are that a map can tell; `nucleus_um`, the median diameter; `too_coarse`;
        and a `sentence`.
    """
    stored, (network, method), side_um = study.stored, split_key(key), study.settings.tiles.side_um
    kind = stored.file.kinds[key]
    layers = find_layers(study.models[network].module)
    described = [{"name": name, "stride": own} for name, own in zip(layers.names, layers.strides, strict=True)]
    stride = own_stride_px(kind.layers, described)
    cell = cell_size_um(kind.frame, kind.size, side_um, stride)
    nucleus = float(2 * np.sqrt(nuclei["area_um2"].median() / np.pi)) if len(nuclei) else np.nan
    name = f"{stored.methods[method]} of the {NETWORKS.get(network, network).lower()}"
    told = too_coarse(cell, nucleus)
    does = (
        "is too coarse to point at a nucleus" if told else "is not too coarse to point at a nucleus by its cells alone"
    )
    sentence = f"{name} {does}: its cells are {cell:.0f} \N{MICRO SIGN}m apart, and nuclei {nucleus:.0f} wide."
    return {"cell_um": cell, "nucleus_um": nucleus, "too_coarse": told, "sentence": sentence}
