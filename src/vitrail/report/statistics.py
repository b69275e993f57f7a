"""How good the networks and their ensembles are on the test tiles, and how sure that is: `metrics.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.classes import CLASSES, LABELS, NETWORKS, TissueClass
from vitrail.metrics.bland_altman import pair_parts
from vitrail.metrics.bootstrap import by_patient, interval, p_value, sample
from vitrail.metrics.calibration import equal_count, reliability
from vitrail.metrics.ensembles import cross_stacked, stacked, voting
from vitrail.metrics.per_patient import clustered_delong, jaccard_scores, mean_scores, tile_parts
from vitrail.metrics.thresholds import for_sensitivity, youden
from vitrail.report.attributes import attributes
from vitrail.report.scored import CALIBRATION, SCORES, is_tumor, pixel_counts, slides_table, tempered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.metrics.bootstrap import Drawn
    from vitrail.metrics.per_patient import TileParts
    from vitrail.report.data import ReportData
    from vitrail.settings.schema import EvaluationSettings

    Floats = NDArray[np.float64]

ENSEMBLES = {
    "voting": "Voting",
    "stacking": "Stacking, cross-validated on test",
    "stacking_validation": "Stacking, fitted on validation",
}
"""The ensembles: their key, and their name in tables."""

ROWS = NETWORKS | ENSEMBLES
"""The rows of the paper's Table 2."""

DIFFERENCES = (
    ("classifier", "segmenter"), ("voting", "classifier"), ("stacking", "classifier"),
    ("stacking_validation", "classifier"),
)  # fmt: skip
"""What is compared: the first less the second."""

OPERATED = ("classifier", "segmenter", "voting")
"""What gets thresholds from validation tiles."""

FEWEST_PATIENTS = 5
"""A group of fewer patients is too small to say anything."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rated:
    """The tiles with what each network and ensemble says of them.

    Attributes
    ----------
    test, validation
        Rows of `ReportData.predictions`.
    said
        By the names of `ROWS`, tumor probabilities `[n]` of the test tiles: one vector, for `stacking` one an
        iteration, none where it is missing.
    missing
        By the names of `ROWS`, why something is missing.
    slides, temperatures, calibrated
        As in `ReportData`.
    evaluation, seed
        How to measure.
    """

    test: pd.DataFrame
    validation: pd.DataFrame
    said: Mapping[str, Sequence[Floats]]
    missing: Mapping[str, str]
    slides: pd.DataFrame
    evaluation: EvaluationSettings
    seed: int
    temperatures: Mapping[str, float]
    calibrated: bool

    def weights(self, tiles: pd.DataFrame) -> Floats:
        """Draw the patients of some tiles."""
        return sample(tiles["patient_id"].nunique(), self.evaluation.resamples, self.seed)

    def parts(self, name: str) -> list[TileParts]:
        """Sum up by patient what a network or ensemble says of the test tiles."""
        return [parts_of(self.test, score, self.evaluation.threshold) for score in self.said[name]]


def rate(data: ReportData) -> Rated:
    """Apply the ensembles."""
    test, validation = (data.predictions[data.predictions["split"] == part] for part in ("test", "validation"))
    found, given = both(test), both(validation)
    honest = stacked((given, is_tumor(validation)), found)
    iterations, patients = data.evaluation.stacking_iterations, test["patient_id"]
    said = {name: [test[name].to_numpy(np.float64)] for name in NETWORKS} | {
        "voting": [voting(found)],
        "stacking": cross_stacked(found, is_tumor(test), patients, iterations, data.seed) if len(test) else [],
        "stacking_validation": [] if honest is None else [honest],
    }
    return Rated(
        test=test, validation=validation, said=said, missing=_missing(said, test, validation), slides=data.slides,
        evaluation=data.evaluation, seed=data.seed, temperatures=data.temperatures, calibrated=data.calibrated,
    )  # fmt: skip


def metrics(rated: Rated) -> dict[str, Any]:
    """Measure networks and ensembles on the test tiles; tumor is the positive class.

    Returns
    -------
    `{"test": ...}` with

    - `tiles`, `patients`: how many;
    - `classes`: the order of the classes in the confusion matrices of `tiles` and of `pixels`;
    - by the names of `ROWS`: the scores of `SCORES` and `CALIBRATION`, `confusion` `[[tp, fn], [fp, tn]]` (for
      `stacking` the mean over iterations), `interval` of each score, and `missing`, a reason, where there is none;
    - `pixels`: `jaccard` by class, `mean_jaccard`, the 4 x 4 `confusion`, rows = truth, and `interval`;
    - `differences`: by `first_minus_second`, each score's `difference`, `interval` and `p`, the AUC's also by DeLong's
      test for clusters, `p_delong`; the scores of `CALIBRATION` are of probabilities before any temperature, which
      ensembles are made of, and the segmenter's shares have none;
    - `calibration`: by network and for voting, the expected calibration error in bins of equal count; for networks
      their `temperature`; for the classifier the scores of `CALIBRATION` and their intervals `before` and `after` its
      logits are divided by it, and `applied`, whether they are in all other figures;
    - `operating`: by network and for voting, thresholds from validation, and what they come to on the test tiles;
    - `slides`: predicted and annotated tumor share of each slide: `bias`, `lower`, `upper`, `pearson`, `interval`;
    - `groups`: by attribute, a list of groups with patients, tiles, a `warning` or None, and both networks' scores.

    What is undefined is NaN.
    """
    test = rated.test
    counts = {"tiles": len(test), "patients": int(test["patient_id"].nunique())}
    rows = {name: _row(rated, name) for name in ROWS}
    return {
        "test": {
            **counts,
            "classes": {"tiles": [kind.key for kind in LABELS], "pixels": [kind.key for kind in CLASSES]},
            **rows,
            "pixels": _pixels(rated),
            "differences": {f"{a}_minus_{b}": _difference(rated, a, b) for a, b in DIFFERENCES},
            "calibration": {name: _calibration(rated, name) for name in OPERATED},
            "operating": {name: _operating(rated, name) for name in OPERATED},
            "slides": _slides(rated),
            "groups": _groups(rated),
        }
    }


def both(tiles: pd.DataFrame) -> Floats:
    """Return the probabilities of both networks as they give them, uncalibrated, `[n, 2]`: what ensembles take."""
    return np.column_stack([tempered(tiles), tiles["segmenter"].to_numpy(np.float64)])


def parts_of(tiles: pd.DataFrame, score: Floats, threshold: float) -> TileParts:
    """Sum up by patient what a score says of tiles."""
    return tile_parts(is_tumor(tiles), score, tiles["patient_id"].to_numpy(), threshold)


def with_intervals(found: Mapping[str, Drawn], weights: Floats) -> dict[str, Any]:
    """Return statistics as numbers, and their intervals beside them."""
    numbers = {name: float(drawn) for name, drawn in found.items()}
    return {**numbers, "interval": {name: list(interval(drawn, weights)) for name, drawn in found.items()}}


def _missing(said: Mapping[str, Sequence[Floats]], test: pd.DataFrame, validation: pd.DataFrame) -> dict[str, str]:
    reasons = {
        "stacking": "the test patients cannot be divided into two halves that both hold tumor and non-tumor tiles",
        "stacking_validation": "there are no validation tiles"
        if not len(validation)
        else "the validation tiles are of one class",
    }
    reasons |= {} if len(test) else dict.fromkeys(reasons, "there are no test tiles")
    return {name: reason for name, reason in reasons.items() if not said[name]}


def _row(rated: Rated, name: str) -> dict[str, Any]:
    parts = rated.parts(name)
    if not parts:
        undefined = {score: float("nan") for score in (*SCORES, *CALIBRATION)}
        none = {score: [float("nan")] * 2 for score in undefined}
        return {**undefined, "confusion": None, "interval": none, "missing": rated.missing[name]}
    weights = rated.weights(rated.test)
    confusion = np.mean([one.confusion.sum(0) for one in parts], axis=0)[::-1, ::-1]  # tumor first, as everywhere
    whole = confusion.astype(np.int64).tolist() if len(parts) == 1 else confusion.tolist()
    return {**with_intervals(mean_scores(parts, weights), weights), "confusion": whole}


def _pixels(rated: Rated) -> dict[str, Any]:
    weights, counts = rated.weights(rated.test), pixel_counts(rated.test)
    each, mean = jaccard_scores(by_patient(rated.test["patient_id"], counts), weights)
    return {
        "jaccard": {tissue.key: float(each[tissue]) for tissue in CLASSES},
        "mean_jaccard": float(mean),
        "confusion": counts.sum(0).tolist(),
        "interval": {
            "jaccard": {tissue.key: list(interval(each[tissue], weights)) for tissue in CLASSES},
            "mean_jaccard": list(interval(mean, weights)),
        },
    }


def _difference(rated: Rated, first: str, second: str) -> dict[str, Any]:
    weights, sides = rated.weights(rated.test), [rated.parts(name) for name in (first, second)]
    if not all(sides):
        none = {"difference": float("nan"), "interval": [float("nan")] * 2, "p": float("nan")}
        return {score: dict(none) for score in (*SCORES, *CALIBRATION)}
    a, b = (
        mean_scores(parts, weights) | _before(rated, name) for name, parts in zip((first, second), sides, strict=True)
    )
    found: dict[str, Any] = {}
    for score in a:
        gap = a[score] - b[score]
        found[score] = {"difference": float(gap), "interval": list(interval(gap, weights)), "p": p_value(gap, weights)}
    single = all(len(parts) == 1 for parts in sides)
    found["auc"]["p_delong"] = clustered_delong(sides[0][0], sides[1][0]) if single else float("nan")
    return found


def _before(rated: Rated, name: str) -> dict[str, Drawn]:
    """Return the classifier's scores of `CALIBRATION` before its temperature; nothing of others, which have none."""
    return _sureness(rated, 1.0) if name == "classifier" else {}


def _calibration(rated: Rated, name: str) -> dict[str, Any]:
    (score,) = rated.said[name]
    found: dict[str, Any] = {"ece_equal_count": reliability(is_tumor(rated.test), score, equal_count(score)).error}
    if name in rated.temperatures:
        found["temperature"] = rated.temperatures[name]
    if name == "classifier":
        weights, at = rated.weights(rated.test), {"before": 1.0, "after": rated.temperatures[name]}
        found |= {when: with_intervals(_sureness(rated, temperature), weights) for when, temperature in at.items()}
        found["applied"] = rated.calibrated
    return found


def _sureness(rated: Rated, temperature: float) -> dict[str, Drawn]:
    """Tell how far the classifier's probabilities at a temperature are from what is true."""
    parts = parts_of(rated.test, tempered(rated.test, temperature), rated.evaluation.threshold)
    scores = parts.scores(rated.weights(rated.test))
    return {name: scores[name] for name in CALIBRATION}


def _operating(rated: Rated, name: str) -> dict[str, Any]:
    """Choose thresholds on the validation tiles, and apply them to the test tiles."""
    given, wished = rated.validation, rated.evaluation.sensitivity
    score = voting(both(given)) if name == "voting" else given[name].to_numpy(np.float64)
    truth, weights = is_tumor(rated.validation), rated.weights(rated.test)
    thresholds = {"youden": youden(truth, score), "sensitivity": for_sensitivity(truth, score, wished)}
    found = {}
    for rule, threshold in thresholds.items():
        scores = parts_of(rated.test, rated.said[name][0], threshold).scores(weights)
        kept = {key: scores[key] for key in ("sensitivity", "specificity", "accuracy")}
        if np.isnan(threshold):
            none = {key: float("nan") for key in kept}
            found[rule] = {"threshold": threshold, **none, "interval": {key: [float("nan")] * 2 for key in kept}}
        else:
            found[rule] = {"threshold": threshold, **with_intervals(kept, weights)}
    reason = {} if len(truth) else {"missing": "there are no validation tiles"}
    return {**found, "wished_sensitivity": wished, **reason}


def _slides(rated: Rated) -> dict[str, Any]:
    table, weights = slides_table(rated.test, rated.evaluation.threshold), rated.weights(rated.test)
    found: dict[str, Any] = {"slides": len(table)}
    for name in NETWORKS:
        known = table[table[f"{name}_annotated"].notna() & table[f"{name}_share"].notna()]
        lost = known["patient_id"].nunique() < table["patient_id"].nunique()
        pairs = pair_parts(known[f"{name}_share"], known[f"{name}_annotated"], known["patient_id"])
        drawn = rated.weights(known) if lost else weights
        found[name] = with_intervals(pairs.scores(drawn), drawn)
    return found


def _groups(rated: Rated) -> dict[str, list[dict[str, Any]]]:
    """Measure each group of each attribute."""
    found: dict[str, list[dict[str, Any]]] = {}
    for attribute, groups in attributes(rated.slides).items():
        group_of = dict(zip(rated.slides["slide_id"], groups, strict=True))
        belongs = rated.test["slide_id"].map(group_of)
        present = [name for name in groups.cat.categories if (belongs == name).any()]
        found[attribute] = [_group(rated, str(name), rated.test[belongs == name]) for name in present]
    return found


def _group(rated: Rated, name: str, tiles: pd.DataFrame) -> dict[str, Any]:
    weights, threshold = rated.weights(tiles), rated.evaluation.threshold
    scored = {network: parts_of(tiles, tiles[network].to_numpy(np.float64), threshold) for network in NETWORKS}
    patients = int(tiles["patient_id"].nunique())
    return {
        "group": name,
        "patients": patients,
        "tiles": len(tiles),
        "warning": too_small(patients, is_tumor(tiles)),
        **{network: with_intervals(parts.scores(weights), weights) for network, parts in scored.items()},
    }


def too_small(patients: int, tumor: NDArray[np.bool_]) -> str | None:
    """Say why a group is too small to say anything, None where it is not."""
    reasons = [f"fewer than {FEWEST_PATIENTS} patients"] if patients < FEWEST_PATIENTS else []
    if tumor.all() or not tumor.any():
        kind = TissueClass.TUMOR if tumor.any() else TissueClass.NON_TUMOR
        reasons.append(f"only {kind.title.lower()} tiles")
    return ", ".join(reasons) or None
