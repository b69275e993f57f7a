"""Other hospitals in numbers: how far slides lie from those of the training, and what shifts do to the scores.

`shift_metrics` gives the part `shift` of `metrics.json`:

- `training`: its `slides` and `patients`, and the `fewest` patients with which slides are called beyond it;
- `groups`: for the parts of the study and, of the test part, its sites: `name`, `slides`, `patients`, how many are
  `beyond`, and the median of every distance;
- `by_distance`: by score, the rank correlation of a test slide's score with its `distance`, `value` and `interval`, and
  the number of `slides` and `patients`;
- `probes` and `refused`: as in the folder's `summary.json`;
- `simulated`: `tiles` and `patients`, the scores `unchanged`, and in `shifts` for each `family` and `strength` by
  score the `value`, the `change`, and the `interval` of the change, paired over patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from vitrail.classes import TissueClass
from vitrail.evaluation.tiles import is_tumor, pixel_counts
from vitrail.metrics.bland_altman import pair_parts
from vitrail.metrics.bootstrap import by_patient, interval, sample
from vitrail.metrics.per_patient import jaccard_scores, tile_parts
from vitrail.metrics.scores import mean_jaccard
from vitrail.quality.appearance import GROUPS, MEASURES, centre_and_scale
from vitrail.shift.simulate import UNCHANGED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.metrics.bootstrap import Drawn
    from vitrail.settings.schema import EvaluationSettings
    from vitrail.shift.results import ShiftStudy

    Floats = NDArray[np.float64]

SCORES = {
    "accuracy": "Classification accuracy",
    "auc": "Classification AUC",
    "mean_jaccard": "Segmentation mean Jaccard",
    "tumor_jaccard": "Segmentation tumor Jaccard",
}
"""What is followed over distance and shifts."""

FEWEST_SLIDES = 5
"""With fewer, no correlation with distance is stated."""

_FAR, _WORDS = 6.0, 2


def shift_metrics(study: ShiftStudy, test: pd.DataFrame, settings: EvaluationSettings, seed: int) -> dict[str, Any]:
    """Return the part `shift` of `metrics.json`, NaN where it has null.

    Parameters
    ----------
    study
        What the stage left.
    test
        The predictions of the test tiles.
    settings
        Threshold and resamples.
    seed
        What resamples are drawn from.
    """
    return {
        "training": dict(study.summary["training"]),
        "groups": _groups(study.slides),
        "by_distance": _by_distance(study.slides, test, settings, seed),
        "probes": study.summary["probes"],
        "refused": study.summary["refused"],
        "simulated": _simulated(study.simulated, settings, seed),
    }


def shift_tables(study: ShiftStudy, metrics: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """Return the tables of the section, by the names of their files.

    Parameters
    ----------
    study
        What the stage left.
    metrics
        What `shift_metrics` returns of it.
    """
    rows = [
        {name: shift[name] for name in ("family", "strength")} | {"score": score, **_flat(shift["scores"][score])}
        for shift in metrics["simulated"]["shifts"]
        for score in SCORES
    ]
    return {
        "shift_slides": study.slides,
        "shift_by_distance": pd.DataFrame(
            [{"score": score, **_flat(own)} for score, own in metrics["by_distance"].items()]
        ),
        "shift_probes": pd.DataFrame([{**own, "classes": ", ".join(own["classes"])} for own in metrics["probes"]]),
        "shift_simulated": pd.DataFrame(
            rows, columns=["family", "strength", "score", "value", "change", "low", "high"]
        ),
    }


def slide_scores(test: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Score the networks on each slide.

    Parameters
    ----------
    test
        Predictions of tiles, as in `Evaluation.predictions`.
    threshold
        A tile is called tumor when its tumor probability reaches this.

    Returns
    -------
    pd.DataFrame
        `slide_id`, `patient_id`, and the columns of `SCORES`; NaN where undefined, as the AUC of tiles of one class.
    """
    rows = []
    for name, own in test.groupby("slide_id", sort=True):
        parts = _parts(own.assign(patient_id="one"), threshold)
        drawn = parts.scores(np.ones((1, 1)))
        matrix = pixel_counts(own).sum(0)
        tumor = TissueClass.TUMOR
        either = matrix[tumor].sum() + matrix[:, tumor].sum() - matrix[tumor, tumor]
        rows.append({
            "slide_id": name, "patient_id": own["patient_id"].iloc[0], "accuracy": float(drawn["accuracy"]),
            "auc": float(drawn["auc"]), "mean_jaccard": float(mean_jaccard(matrix)),
            "tumor_jaccard": float(matrix[tumor, tumor] / either) if either else np.nan,
        })  # fmt: skip
    return pd.DataFrame(rows, columns=["slide_id", "patient_id", *SCORES])


def rank_correlation(
    x: Floats, y: Floats, patients: NDArray[np.str_], settings: EvaluationSettings, seed: int
) -> dict[str, Any]:
    """Return Spearman's correlation of two measures of slides, and its 95 % interval over patients.

    Ranks are those of all slides; patients are drawn again with the ranks of their slides. Simulated with 12 and 40
    patients of one to three slides and true correlations of 0 and 0.6 the intervals cover 0.95 to 0.96.

    Parameters
    ----------
    x, y
        `[n]`, finite.
    patients
        Whose slide it is.
    settings
        How many resamples.
    seed
        What they are drawn from.

    Returns
    -------
    dict[str, Any]
        `value` and `interval`.
    """
    weights = sample(len(np.unique(patients)), settings.resamples, seed)
    drawn = pair_parts(rankdata(x), rankdata(y), patients).scores(weights)["pearson"]
    return {"value": float(drawn), "interval": list(interval(drawn, weights))}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plane:
    """Slides in the plane of the two directions in which they differ most, in spreads of the training slides.

    Attributes
    ----------
    points
        `[slides, 2]`; the training's median slide is at 0.
    ends
        Of each direction, what slides at its lower and at its upper end look like, in words.
    share
        Of each direction, the share of what slides differ by.
    """

    points: Floats
    ends: tuple[tuple[str, str], ...]
    share: tuple[float, ...]


def plane_of(slides: pd.DataFrame) -> Plane:
    """Lay slides out in the plane in which they differ most.

    Parameters
    ----------
    slides
        As `ShiftStudy.slides`; at least two of them.

    Returns
    -------
    Plane
        The principal components of the slides' measures, in robust spreads of the training slides, where differences
        of more than six are cut off.
    """
    values = slides[list(MEASURES)].to_numpy(np.float64)
    trained = (slides["split"] == "train").to_numpy()
    centre, scale = centre_and_scale(values[trained] if trained.any() else values)
    off = np.clip((values - centre) / scale, -_FAR, _FAR)
    _, sizes, directions = np.linalg.svd(off - off.mean(0), full_matrices=False)
    ends, names = [], list(MEASURES)
    strongest_of = np.argsort(-np.abs(directions), axis=1, kind="stable")
    directions *= np.sign(np.take_along_axis(directions, strongest_of[:, :1], 1))  # whatever the machine
    for direction, strongest in zip(directions[:2], strongest_of[:2, :_WORDS], strict=True):
        looks = [(MEASURES[names[number]], direction[number] > 0) for number in strongest]
        up = ", ".join(look.more if positive else look.less for look, positive in looks)
        ends.append((", ".join(look.less if positive else look.more for look, positive in looks), up))
    shares = np.square(sizes[:2]) / max(float(np.square(sizes).sum()), 1e-12)
    return Plane(points=off @ directions[:2].T, ends=tuple(ends), share=tuple(shares.tolist()))


def _groups(slides: pd.DataFrame) -> list[dict[str, Any]]:
    test = slides[slides["split"] == "test"]
    parts = {"training": slides[slides["split"] == "train"], "test": test}
    sites = [site for site in sorted(set(test["site"])) if site]
    if len(sites) > 1 or (sites and set(slides["site"]) != set(sites)):
        parts |= {f"test, {site}": test[test["site"] == site] for site in sites}
    return [
        {
            "name": name,
            "slides": len(own),
            "patients": int(own["patient_id"].nunique()),
            "beyond": int(own["beyond"].sum()),
            "distance": _median(own["distance"]),
            **{group: _median(own[f"distance_{group}"]) for group in GROUPS},
        }
        for name, own in parts.items()
        if len(own)
    ]


def _median(values: pd.Series[float]) -> float:
    """Return the median of what is defined, NaN where nothing is: pandas 2 would warn of an empty mean."""
    return float(values.dropna().median())


def _by_distance(
    slides: pd.DataFrame, test: pd.DataFrame, settings: EvaluationSettings, seed: int
) -> dict[str, dict[str, Any]]:
    scores = slide_scores(test, settings.threshold).merge(slides[["slide_id", "distance"]], on="slide_id")
    result = {}
    for name in SCORES:
        known = scores.dropna(subset=[name, "distance"])
        own: dict[str, Any] = {"value": np.nan, "interval": [np.nan, np.nan]}
        if len(known) >= FEWEST_SLIDES:
            values = known[name].to_numpy(np.float64), known["distance"].to_numpy(np.float64)
            own = rank_correlation(*values, known["patient_id"].to_numpy(str), settings, seed)
        result[name] = {**own, "slides": len(known), "patients": int(known["patient_id"].nunique())}
    return result


def _simulated(tiles: pd.DataFrame, settings: EvaluationSettings, seed: int) -> dict[str, Any]:
    if not len(tiles):
        return {"tiles": 0, "patients": 0, "unchanged": dict.fromkeys(SCORES, np.nan), "shifts": []}
    plain = tiles[tiles["family"] == UNCHANGED.family]
    patients = int(plain["patient_id"].nunique())
    weights = sample(patients, settings.resamples, seed)
    unchanged, shifts = _scores(plain, weights, settings.threshold), list[dict[str, Any]]()
    changed = tiles[tiles["family"] != UNCHANGED.family]
    for family, of_family in changed.groupby("family", sort=False):
        for strength in of_family["strength"].unique():
            scores = _scores(of_family[of_family["strength"] == strength], weights, settings.threshold)
            shifts.append({"family": family, "strength": float(strength), "scores": {}})
            for name, drawn in scores.items():
                change = drawn - unchanged[name]
                ends = list(interval(change, weights))
                shifts[-1]["scores"][name] = {"value": float(drawn), "change": float(change), "interval": ends}
    values = {name: float(drawn) for name, drawn in unchanged.items()}
    return {"tiles": len(plain), "patients": patients, "unchanged": values, "shifts": shifts}


def _scores(tiles: pd.DataFrame, weights: Floats, threshold: float) -> dict[str, Drawn]:
    drawn = _parts(tiles, threshold).scores(weights)
    each, mean = jaccard_scores(by_patient(tiles["patient_id"], pixel_counts(tiles)), weights)
    return {
        "accuracy": drawn["accuracy"],
        "auc": drawn["auc"],
        "mean_jaccard": mean,
        "tumor_jaccard": each[TissueClass.TUMOR],
    }


def _parts(tiles: pd.DataFrame, threshold: float) -> Any:
    score = tiles["classifier"].to_numpy(np.float64)
    return tile_parts(is_tumor(tiles), score, tiles["patient_id"].to_numpy(), threshold)


def _flat(own: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the ends of its interval as `low` and `high`."""
    low, high = own["interval"]
    return {name: value for name, value in own.items() if name != "interval"} | {"low": low, "high": high}
