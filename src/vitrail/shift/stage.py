"""The stage `shift`: how far a run's slides lie from its training, and what shifts do to its networks.

It writes what `vitrail.shift.results` reads.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.classes import LABELS, TissueClass
from vitrail.core.files import write_json, write_table
from vitrail.core.resume import Parts
from vitrail.inference.predictor import Predictor
from vitrail.inference.tiles import BLOCK, predict_block
from vitrail.models.device import keep_memory, pick_device, reproducible
from vitrail.models.features import PooledFeatures
from vitrail.models.store import load_explained, load_model
from vitrail.quality.appearance import FEWEST_PATIENTS, GROUPS, MEASURES, Distances, fit_training, left_out
from vitrail.shift.probe import one_site, over_patients, probe, sites_of, within_patients
from vitrail.shift.results import COLUMNS, SUMMARY
from vitrail.shift.simulate import SHIFTS, UNCHANGED, shifted
from vitrail.tiles.appearance import slides_appearance
from vitrail.tiles.split import read_split
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

    from vitrail.models.store import Model
    from vitrail.slides.cohort import CohortSlide
    from vitrail.stage import Work
    from vitrail.tiles.store import TileTable

    Floats = NDArray[np.float64]
    Rows = NDArray[np.int64]

SITE = "site"
"""The column of slides.csv that says where a slide comes from."""

FEWEST_PER_SITE = 3
"""Patients that a site has at least, to be told from others."""

_TILES_A_SLIDE = 16  # and label, whose features are averaged


def study_shift(work: Work, entries: tuple[CohortSlide, ...]) -> None:
    """Write the folder `shift/`.

    The same study gives the same bytes on one machine, however often the work was killed.

    Parameters
    ----------
    work
        A run whose tiles, networks and predictions are finished, and where to write.
    entries
        The cohort; its attribute `site` says which hospital a slide comes from.

    Raises
    ------
    RunError, ModelError
        A stage's folder cannot be read, or the device's memory is too small.
    SettingsError
        The settings name a device that is not there.
    """
    parts = Parts(work.folder / "parts")
    if not (work.folder / SUMMARY).is_file():  # else it was killed while it cleared up
        keep_memory()
        folder, settings = work.run.folder, work.run.settings
        tiles = read_tiles(folder / "tiles")
        split = read_split(folder / "split", tiles.rows)
        slides = parts.table("slides", partial(_slides, tiles, split, entries))
        write_table(work.folder / "slides.parquet", slides)
        device = pick_device(settings.compute.device)
        with reproducible(device, settings.seed):
            write_table(work.folder / "simulated.parquet", _simulated(work, tiles, split, parts))
            model = load_explained(folder / "classifier")
            features = parts.table("features", partial(_features, model, tiles, settings.seed, device))
        probes, refused = _probes(slides, features, settings.seed)
        trained = slides[slides["split"] == "train"]
        training = {"slides": len(trained), "patients": int(trained["patient_id"].nunique()), "fewest": FEWEST_PATIENTS}
        write_json(work.folder / SUMMARY, {"training": training, "probes": probes, "refused": refused})
    parts.discard()


def _slides(tiles: TileTable, split: NDArray[np.str_], entries: Sequence[CohortSlide]) -> pd.DataFrame:
    """Measure all slides, and how far each lies from those of the training."""
    slides = slides_appearance(tiles, np.arange(len(tiles)))
    first = tiles.rows.reset_index(drop=True).drop_duplicates("slide_id").index
    sites = {entry.slide_id: str(entry.attributes.get(SITE) or "") for entry in entries}
    slides["split"] = split[first]
    slides["site"] = [sites.get(name, "") for name in slides["slide_id"]]
    trained = (slides["split"] == "train").to_numpy()
    values, patients = slides[list(MEASURES)].to_numpy(np.float64), slides["patient_id"].to_numpy(str)
    reference = fit_training(values[trained], patients[trained])
    if reference is None:
        empty = dict.fromkeys((*(f"distance_{group}" for group in GROUPS), "distance"), np.nan)
        return slides.assign(**empty, farthest_in="", beyond=False)[list(COLUMNS["slides"])]
    judged = reference.distances_of(values)
    alone = left_out(values[trained], patients[trained], tuple(MEASURES))
    for number, at in enumerate(np.flatnonzero(trained)):
        judged[at] = reference.judged({group: float(alone[group][number]) for group in GROUPS})
    return pd.concat([slides, pd.DataFrame([_row(each) for each in judged])], axis=1)[list(COLUMNS["slides"])]


def _row(distances: Distances) -> dict[str, Any]:
    return {f"distance_{group}": own for group, own in distances.by_group.items()} | {
        "distance": distances.farthest,
        "farthest_in": distances.group,
        "beyond": distances.is_beyond,
    }


def _simulated(work: Work, tiles: TileTable, split: NDArray[np.str_], parts: Parts) -> pd.DataFrame:
    """Show both networks some test tiles as they are and with every shift."""
    settings = work.run.settings
    there = np.flatnonzero(split == "test")
    rng = np.random.default_rng([settings.seed, len(there)])
    chosen = np.sort(rng.permutation(there)[: settings.shift.tiles])
    if not len(chosen):
        return pd.DataFrame(columns=list(COLUMNS["simulated"])).astype(COLUMNS["simulated"])
    # one look at each: symmetries would take eight times as long, and what counts are differences
    once = settings.model_copy(update={"predict": settings.predict.model_copy(update={"symmetries": 1})})
    networks = [Predictor.of_settings(load_model(work.run.folder / task), once) for task in ("classifier", "segmenter")]
    um_per_px = settings.tiles.side_um / settings.tiles.side_px
    images, masks = np.asarray(tiles.images[chosen]), np.asarray(tiles.masks[chosen])
    rows = tiles.rows.iloc[chosen].reset_index(drop=True)
    own = rows[["slide_id", "patient_id", "label"]].assign(tile=chosen)
    tables = []
    with work.progress.task("shifts", len(chosen) * (1 + len(SHIFTS))) as step:
        for shift in (UNCHANGED, *SHIFTS):
            for start in range(0, len(chosen), BLOCK):
                span = slice(start, start + BLOCK)

                def predict(span: slice = span, shift: Any = shift) -> pd.DataFrame:
                    return predict_block(shifted(images[span], shift, um_per_px), masks[span], *networks)

                table = parts.table(f"{shift.name}-{start:09d}".replace(" ", "-"), predict)
                part = pd.concat([own[span].reset_index(drop=True), table], axis=1)
                tables.append(part.assign(family=shift.family, strength=float(shift.strength)))
                step(len(table))
    return pd.concat(tables, ignore_index=True)[list(COLUMNS["simulated"])]


def _features(model: Model, tiles: TileTable, seed: int, device: torch.device) -> pd.DataFrame:
    """Return the classifier's pooled features, averaged over some tiles of each slide and label."""
    rng = np.random.default_rng([seed, len(tiles)])
    rows = tiles.rows.reset_index(drop=True)
    drawn = pd.Series(rng.permutation(len(rows)), index=rows.index)
    rank = drawn.groupby([rows["slide_id"], rows["label"]]).rank()
    chosen = np.flatnonzero(rank.to_numpy() <= _TILES_A_SLIDE)
    values = PooledFeatures(model, device)(np.asarray(tiles.images[chosen])).astype(np.float64)
    columns = [f"f{number}" for number in range(values.shape[1])]
    table = pd.concat([rows.loc[chosen, ["slide_id", "patient_id", "label"]].reset_index(drop=True),
                       pd.DataFrame(values, columns=columns)], axis=1)  # fmt: skip
    return table.groupby(["slide_id", "patient_id", "label"], sort=True).mean().reset_index()


def _probes(slides: pd.DataFrame, features: pd.DataFrame, seed: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Ask whether the classifier's features tell sites apart; return the answers, and why there are none."""
    columns = [name for name in features if name not in {"slide_id", "patient_id", "label"}]
    probes, refused = list[dict[str, Any]](), list[str]()
    unseen = slides[slides["split"] != "train"]
    among, which = (unseen, "not trained on") if len(_sites(unseen)) > 1 else (slides, "all")
    sites = _sites(among)
    if not any(slides["site"]):
        refused.append(f"whether features tell hospitals apart is not known: slides.csv has no column {SITE!r}")
    elif len(sites) < 2:
        refused.append(
            f"whether features tell hospitals apart is not known: no two of them have {FEWEST_PER_SITE} patients each"
        )
    else:
        own = one_site(among["patient_id"].tolist(), among["site"].tolist())
        chosen = among[[own.get(patient) in sites for patient in among["patient_id"]]]
        labels = np.array([sites.index(own[patient]) for patient in chosen["patient_id"]])
        patients = chosen["patient_id"].to_numpy(str)
        permuted = over_patients(labels, patients, seed)
        pooled = features.groupby("slide_id")[columns].mean().loc[chosen["slide_id"]].to_numpy(np.float64)
        looks = chosen[list(MEASURES)].to_numpy(np.float64)
        told = {"classes": sites, "slides": len(chosen), "patients": len(set(patients)), "which": which}
        for name, values in (("features", pooled), ("appearance", looks)):
            probes.append(
                {"of": name, "tells": SITE, **told, **asdict(probe(values, labels, patients, permuted, seed))}
            )
    labelled = (features["label"] == TissueClass.TUMOR.key).to_numpy().astype(np.int64)
    patients = features["patient_id"].to_numpy(str)
    known = features["slide_id"].isin(among["slide_id"]).to_numpy()
    labelled, patients, values = labelled[known], patients[known], features.loc[known, columns].to_numpy(np.float64)
    if len(set(labelled.tolist())) == len(LABELS) and len(set(patients)) >= 2 * FEWEST_PER_SITE:
        permuted = within_patients(labelled, patients, seed)
        told = {
            "classes": [kind.title for kind in LABELS][::-1],
            "slides": int(features["slide_id"][known].nunique()),
            "patients": len(set(patients)),
            "which": which,
        }
        probes.append(
            {"of": "features", "tells": "tumor", **told, **asdict(probe(values, labelled, patients, permuted, seed))}
        )
    return probes, refused


def _sites(slides: pd.DataFrame) -> list[str]:
    return sites_of(slides["patient_id"].tolist(), slides["site"].tolist(), FEWEST_PER_SITE)
