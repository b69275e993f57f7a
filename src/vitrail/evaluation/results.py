"""How good the networks and their ensembles are on the test tiles, and how sure that is: `metrics.json`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.classes import CLASSES, LABELS, NETWORKS
from vitrail.core.shown import Shown
from vitrail.evaluation.certainty import Certainty
from vitrail.evaluation.explanations import check_tables, explanation_metrics, explanation_tables
from vitrail.evaluation.groups import patient_groups, too_small
from vitrail.evaluation.intervals import compared, with_intervals
from vitrail.evaluation.labels import label_issues, label_metrics, noise_table
from vitrail.evaluation.names import ALL_SCORES, CALIBRATION, DIFFERENCES, ENSEMBLES, ROWS, SINGLE
from vitrail.evaluation.nuclei import nuclei_tables
from vitrail.evaluation.shift import shift_metrics, shift_tables
from vitrail.evaluation.tables import (
    agreement_table,
    calibration_table,
    confusion_tables,
    differences_table,
    groups_table,
    jaccard_table,
    networks_table,
    thresholds_table,
)
from vitrail.evaluation.tiles import (
    at_temperature,
    both_networks,
    is_tumor,
    patients_table,
    pixel_counts,
    single_scores,
    slides_table,
)
from vitrail.evaluation.unlabelled import COLUMN, outside_metrics, outside_table
from vitrail.metrics.bland_altman import pair_parts
from vitrail.metrics.bootstrap import by_patient, interval, sample
from vitrail.metrics.calibration import equal_count, equal_width, reliability
from vitrail.metrics.ensembles import cross_stacked, stacked, voting
from vitrail.metrics.per_patient import clustered_delong, jaccard_scores, mean_scores, tile_parts
from vitrail.metrics.scores import roc_curve
from vitrail.metrics.thresholds import for_sensitivity, youden

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from vitrail.explain.checks.results import Checked
    from vitrail.explain.nuclei.results import NucleiStudy
    from vitrail.explain.study.store import Stored
    from vitrail.metrics.bootstrap import Drawn
    from vitrail.metrics.calibration import Reliability
    from vitrail.metrics.per_patient import TileParts
    from vitrail.settings.schema import EvaluationSettings
    from vitrail.shift.results import ShiftStudy

    Floats = NDArray[np.float64]

UNDEFINED = float("nan")
"""What stands for a number that there is not; null in `metrics.json`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation(Shown):
    """The numbers of a study; each is computed when it is first asked for, and then remembered.

    Attributes
    ----------
    predictions
        One row a tile of every split: `slide_id`, `patient_id`, `split`, `x`, `y`, `side`, `label` (`tumor` or
        `non_tumor`), `classifier` (tumor probability), `classifier_logit` (what it comes from, uncalibrated),
        `segmenter` (fraction of pixels called tumor), and `pixels`, 16 counts: the tile's 4 x 4 confusion matrix of
        pixels, row by row, rows = truth, in the order of `TissueClass`. There may be `classifier_spread` and
        `segmenter_spread`, the standard deviation of tumor probabilities over members and symmetries; `out_of_fold`,
        whether no network had learnt from the tile's patient when it predicted the tile; and `confidence`, 40 counts:
        in 20 equal bins of the called class' probability the segmenter's pixels, and of these the right ones. Where
        tissue outside the outlines counted as non-tumor, `unlabelled` says of which tiles that is why they are.
    slides
        One row a slide of the cohort: `slide_id`, `patient_id`, `split`, `mpp`, `tumor_tiles`, `non_tumor_tiles`; any
        further column is an attribute of the patient, NaN where it is not known.
    skipped
        `slide_id` and `reason` of each slide that was left out.
    history
        By network, one row an epoch: `epoch`, `train_loss`, `validation_loss`, and the classifier's
        `validation_accuracy` or the segmenter's `validation_jaccard`; NaN without validation tiles.
    warnings
        What a reader has to know before believing the numbers.
    settings
        How predictions become numbers: the threshold, the number of resamples and the like.
    seed
        What everything random is drawn from.
    temperatures
        By network, what its logits are divided by for calibrated probabilities; 1 where none was fitted.
    calibrated
        Whether the probabilities in `predictions` are of such logits.
    explanations, checks
        Why the networks say what they say, and whether that is true; None where nobody has asked.
    raters
        By the name of a queue what raters said in it, see `raters_summary`.
    nuclei
        Which nuclei they look at; None where nobody has asked.
    shift
        How far slides lie from those of the training, and what shifts do; None where nobody has asked.
    """

    predictions: pd.DataFrame
    slides: pd.DataFrame
    skipped: pd.DataFrame
    history: Mapping[str, pd.DataFrame]
    warnings: Sequence[str]
    settings: EvaluationSettings
    seed: int
    temperatures: Mapping[str, float]
    calibrated: bool
    explanations: Stored | None = None
    checks: Checked | None = None
    raters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    nuclei: NucleiStudy | None = None
    shift: ShiftStudy | None = None

    def __repr__(self) -> str:
        """Say how much was tested, and the scores where they are computed: a line of text must not take seconds."""
        scores = ""
        if "metrics" in self.__dict__:
            test = self.metrics["test"]
            scores = "; " + ", ".join(f"{name} AUC {test[name]['auc']:.3f}" for name in NETWORKS)
        patients = self.test["patient_id"].nunique()
        return f"<Evaluation: {len(self.test):,} test tiles of {patients} patients{scores}>"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`, NaN where it has null; tumor is the positive class.

        `{"test": ...}` with

        - `tiles`, `patients`: how many;
        - `classes`: the order of the classes in the confusion matrices of `tiles` and of `pixels`;
        - by the names of `ROWS`: `scores`;
        - `pixels`: `jaccard` by class, `mean_jaccard`, the 4 x 4 `confusion`, rows = truth, and `interval`;
        - `differences`: by `first_minus_second`, `difference`;
        - `calibration` and `operating`: by the names of `SINGLE`, `calibration` and `thresholds`;
        - `slides`: `agreement`;
        - `groups`: `groups`;

        where there are test tiles `certainty`, see `Certainty.metrics`, and `labels`, see `label_metrics`; where tissue
        outside the outlines counted as non-tumor `unlabelled`, see `vitrail.evaluation.unlabelled`; and of a run
        with explanations `explanations`, see `vitrail.evaluation.explanations`; of one that raters have judged
        `raters`, by the name of their queue, see `vitrail.review.agreement`; of one whose nuclei were looked at
        `nuclei`, the content of their `summary.json`; and of one whose slides were compared with those of the training
        `shift`, see `vitrail.evaluation.shift`.
        """
        explained: dict[str, Any] = {}
        if self.certainty is not None:
            explained["certainty"] = self.certainty.metrics
            explained["labels"] = label_metrics(self.predictions, self.settings.resamples, self.seed)
        if COLUMN in self.predictions:
            own = self.settings
            explained["unlabelled"] = outside_metrics(self.predictions, own.threshold, own.resamples, self.seed)
        if self.explanations is not None:
            explained["explanations"] = explanation_metrics(self.explanations, self.checks)
        if self.raters:
            explained["raters"] = {name: dict(summary) for name, summary in self.raters.items()}
        if self.nuclei is not None:
            explained["nuclei"] = self.nuclei.summary
        if self.shift is not None:
            explained["shift"] = shift_metrics(self.shift, self.test, self.settings, self.seed)
        rows = {name: self.scores(name) for name in ROWS}
        return {
            "test": {
                "tiles": len(self.test),
                "patients": int(self.test["patient_id"].nunique()),
                "classes": {"tiles": [kind.key for kind in LABELS], "pixels": [kind.key for kind in CLASSES]},
                **rows,
                "pixels": self.pixels(),
                "differences": {f"{a}_minus_{b}": self.difference(a, b) for a, b in DIFFERENCES},
                "calibration": {name: self.calibration(name) for name in SINGLE},
                "operating": {name: self.thresholds(name) for name in SINGLE},
                "slides": self.agreement(),
                "groups": self.groups(),
            },
            **explained,
        }

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables of the report by the names of their files, without `.csv`."""
        test = self.metrics["test"]
        return {
            "cohort": self.slides,
            "skipped": self.skipped,
            "networks": networks_table(test),
            "jaccard": jaccard_table(test),
            "differences": differences_table(test),
            "operating": thresholds_table(test),
            "calibration": calibration_table(self.reliability),
            "slides": self.slide_table,
            "slide_agreement": agreement_table(test),
            "patients": self.patient_table,
            "groups": groups_table(test),
            **{f"confusion_{name}": table for name, table in confusion_tables(test).items()},
            **{f"roc_{name}": self.roc[name] for name in ROWS if len(self.probabilities[name]) == 1},
            **{f"training_{name}": table for name, table in self.history.items()},
            **(self.certainty.tables if self.certainty is not None else {}),
            **(
                {"label_noise": noise_table(self.metrics["labels"]), "label_issues": label_issues(self.predictions)}
                if self.certainty is not None
                else {}
            ),
            **(
                {"unlabelled_tissue": outside_table(self.predictions, self.settings.threshold)}
                if COLUMN in self.predictions
                else {}
            ),
            **(explanation_tables(self.explanations) if self.explanations is not None else {}),
            **(check_tables(self.checks) if self.checks is not None else {}),
            **(nuclei_tables(self.nuclei) if self.nuclei is not None else {}),
            **(shift_tables(self.shift, self.metrics["shift"]) if self.shift is not None else {}),
        }

    @cached_property
    def test(self) -> pd.DataFrame:
        """The rows of `predictions` that everything is measured on."""
        return self.predictions[self.predictions["split"] == "test"]

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """The rows of `predictions` that choose thresholds, and that stacking is fitted on.

        Those of training and validation that were predicted out of fold, by the member of an ensemble that had not seen
        their patients; without an ensemble those of validation.
        """
        splits = self.predictions["split"]
        if "out_of_fold" in self.predictions:
            return self.predictions[(splits != "test") & self.predictions["out_of_fold"].astype(bool)]
        return self.predictions[splits == "validation"]

    @cached_property
    def held_out_title(self) -> str:
        """What these tiles are called: `validation`, or `out-of-fold` where some are of training patients."""
        return "out-of-fold" if (self.held_out["split"] == "train").any() else "validation"

    @cached_property
    def certainty(self) -> Certainty | None:
        """What the networks' certainty is worth; None without test tiles."""
        if not len(self.test):
            return None
        return Certainty(
            test=self.test,
            held_out=self.held_out,
            threshold=self.settings.threshold,
            weights=self.weights,
            seed=self.seed,
        )

    @cached_property
    def truth(self) -> NDArray[np.bool_]:
        """Which test tiles are labelled tumor, `[n]`."""
        return is_tumor(self.test)

    @cached_property
    def weights(self) -> Floats:
        """How often each test patient counts in the cohort and in each resample, `[1 + resamples, patients]`."""
        return self.resampled(self.test)

    @cached_property
    def probabilities(self) -> dict[str, list[Floats]]:
        """By the names of `ROWS`, tumor probabilities of the test tiles, `[n]`.

        One vector; for `stacking` one an iteration; none where `missing` says why.
        """
        test, held_out = self.test, self.held_out
        features = both_networks(test)
        honest = stacked((both_networks(held_out), is_tumor(held_out)), features)
        repeats, patients = self.settings.stacking_iterations, test["patient_id"]
        return {name: [test[name].to_numpy(np.float64)] for name in NETWORKS} | {
            "voting": [voting(features)],
            "stacking": cross_stacked(features, self.truth, patients, repeats, self.seed) if len(test) else [],
            "stacking_validation": [] if honest is None else [honest],
        }

    @cached_property
    def missing(self) -> dict[str, str]:
        """By the names of `ENSEMBLES`, why one is missing."""
        reasons = {
            "stacking": "the test patients cannot be divided into two halves that both hold tumor and non-tumor tiles",
            "stacking_validation": f"the {self.held_out_title} tiles are of one class"
            if len(self.held_out)
            else "there are no validation tiles",
        }
        if not len(self.test):
            reasons = dict.fromkeys(reasons, "there are no test tiles")
        return {name: reasons[name] for name in ENSEMBLES if not self.probabilities[name]}

    @cached_property
    def parts(self) -> dict[str, list[TileParts]]:
        """By the names of `ROWS`, what each test patient adds to its scores, for each of its `probabilities`."""
        return {
            name: [parts_of(self.test, score, self.settings.threshold) for score in scores]
            for name, scores in self.probabilities.items()
        }

    @cached_property
    def reliability(self) -> dict[str, dict[str, Reliability]]:
        """The reliability diagrams of the test tiles: by the names of `SINGLE`, in bins of `equal width` and `count`.

        `uncalibrated` is the classifier before its temperature, in bins of `equal count` alone.
        """
        bins = {}
        for name in SINGLE:
            (score,) = self.probabilities[name]
            edges = {"equal width": equal_width(), "equal count": equal_count(score)}
            bins[name] = {kind: reliability(self.truth, score, each) for kind, each in edges.items()}
        score = at_temperature(self.test)
        return bins | {"uncalibrated": {"equal count": reliability(self.truth, score, equal_count(score))}}

    @cached_property
    def roc(self) -> dict[str, pd.DataFrame]:
        """By the names of `ROWS` but for those that are missing, the receiver operating characteristic.

        `threshold`, `false_positive_rate`, `true_positive_rate`; the mean curve of several along the former rate has
        no thresholds.
        """
        steps = np.linspace(0, 1, 401)
        curves = {}
        for name, scores in self.probabilities.items():
            drawn = [roc_curve(self.truth, score) for score in scores]
            if len(drawn) > 1:
                mean = np.mean([np.interp(steps, *curve[:2]) for curve in drawn], axis=0)
                drawn = [(steps, mean, np.full_like(steps, np.nan))]
            for false, true, thresholds in drawn:
                columns = {"threshold": thresholds, "false_positive_rate": false, "true_positive_rate": true}
                curves[name] = pd.DataFrame(columns)
        return curves

    @cached_property
    def slide_table(self) -> pd.DataFrame:
        """The test slides, see `slides_table`."""
        return slides_table(self.test, self.settings.threshold)

    @cached_property
    def patient_table(self) -> pd.DataFrame:
        """The test patients, see `patients_table`."""
        return patients_table(self.test, self.settings.threshold)

    @cached_property
    def patient_groups(self) -> dict[str, pd.Series[Any]]:
        """The groups of `slides` by attribute, see `vitrail.evaluation.groups`."""
        return patient_groups(self.slides)

    @cached_property
    def before_temperature(self) -> dict[str, Drawn]:
        """How far the classifier's probabilities before any temperature are from what is true, by `CALIBRATION`."""
        return self._calibration_scores(1.0)

    def scores(self, name: str) -> dict[str, Any]:
        """Score a network or an ensemble.

        Parameters
        ----------
        name
            One of `ROWS`.

        Returns
        -------
        dict[str, Any]
            By the names of `SCORES` and `CALIBRATION` a number; `confusion`, `[[tp, fn], [fp, tn]]`, for `stacking` the
            mean over iterations; `interval`, that of each score; and `missing`, a reason, where there is none.
        """
        parts = self.parts[name]
        if not parts:
            return _undefined(ALL_SCORES) | {"confusion": None, "missing": self.missing[name]}
        confusion = np.mean([part.confusion.sum(0) for part in parts], axis=0)[::-1, ::-1]  # tumor first, as everywhere
        counts = confusion.astype(np.int64).tolist() if len(parts) == 1 else confusion.tolist()
        return {**with_intervals(mean_scores(parts, self.weights), self.weights), "confusion": counts}

    def pixels(self) -> dict[str, Any]:
        """Score the segmentation of the pixels of all test tiles.

        Returns
        -------
        dict[str, Any]
            `jaccard` by class, `mean_jaccard`, the 4 x 4 `confusion`, rows = truth, and `interval`.
        """
        counts = pixel_counts(self.test)
        each, mean = jaccard_scores(by_patient(self.test["patient_id"], counts), self.weights)
        classes = with_intervals({tissue.key: each[tissue] for tissue in CLASSES}, self.weights)
        ends = {"jaccard": classes.pop("interval"), "mean_jaccard": list(interval(mean, self.weights))}
        return {
            "jaccard": classes,
            "mean_jaccard": float(mean),
            "confusion": counts.sum(0).tolist(),
            "interval": ends,
        }

    def difference(self, first: str, second: str) -> dict[str, Any]:
        """Compare two rows on the same resamples of the patients.

        The scores of `CALIBRATION` are of probabilities before any temperature, which ensembles are made of; the
        segmenter's shares have none.

        Parameters
        ----------
        first, second
            Two of `ROWS`.

        Returns
        -------
        dict[str, Any]
            By score, the `difference` of the first less the second, its `interval` and `p`; the AUC's also by DeLong's
            test for clusters, `p_delong`.
        """
        names = first, second
        if not all(self.parts[name] for name in names):
            none = {"difference": UNDEFINED, "interval": [UNDEFINED] * 2, "p": UNDEFINED}
            return {score: dict(none) for score in ALL_SCORES}
        a, b = (
            mean_scores(self.parts[name], self.weights) | (self.before_temperature if name == "classifier" else {})
            for name in names
        )
        result: dict[str, Any] = {}
        for score in a:
            result[score] = compared(a[score], b[score], self.weights)
        single = all(len(self.parts[name]) == 1 for name in names)
        result["auc"]["p_delong"] = clustered_delong(*(self.parts[name][0] for name in names)) if single else UNDEFINED
        return result

    def calibration(self, name: str) -> dict[str, Any]:
        """Tell whether probabilities mean what they say.

        Parameters
        ----------
        name
            One of `SINGLE`.

        Returns
        -------
        dict[str, Any]
            `ece_equal_count`, the expected calibration error in bins of equal count; of networks their `temperature`;
            of the classifier the scores of `CALIBRATION` and their intervals `before` and `after` its logits are
            divided by it, and `applied`, whether they are in all other numbers.
        """
        result: dict[str, Any] = {"ece_equal_count": self.reliability[name]["equal count"].error}
        if name in self.temperatures:
            result["temperature"] = self.temperatures[name]
        if name == "classifier":
            after = self._calibration_scores(self.temperatures[name])
            result["before"] = with_intervals(self.before_temperature, self.weights)
            result["after"] = with_intervals(after, self.weights)
            result["applied"] = self.calibrated
        return result

    def thresholds(self, name: str) -> dict[str, Any]:
        """Choose thresholds on the tiles that were held out, and apply them to the test tiles.

        Parameters
        ----------
        name
            One of `SINGLE`.

        Returns
        -------
        dict[str, Any]
            By rule, `youden` or `sensitivity`, the `threshold`, and the `sensitivity`, `specificity` and `accuracy`
            that it comes to, with their `interval`; the `wished_sensitivity`; and `missing`, why there are none.
        """
        held_out, wished = self.held_out, self.settings.sensitivity
        truth, score = is_tumor(held_out), single_scores(held_out)[name]
        result: dict[str, Any] = {"wished_sensitivity": wished}
        if not len(truth):
            result["missing"] = "there are no validation tiles"
        chosen = {"youden": youden(truth, score), "sensitivity": for_sensitivity(truth, score, wished)}
        names = ("sensitivity", "specificity", "accuracy")
        for rule, threshold in chosen.items():
            scores = _undefined(names)
            if not np.isnan(threshold):
                drawn = parts_of(self.test, self.probabilities[name][0], threshold).scores(self.weights)
                scores = with_intervals({key: drawn[key] for key in names}, self.weights)
            result[rule] = {"threshold": threshold, **scores}
        return result

    def agreement(self) -> dict[str, Any]:
        """Compare the predicted tumor share of each test slide with the annotated one.

        Returns
        -------
        dict[str, Any]
            The number of `slides`, and by network `bias`, `lower` and `upper` (limits of agreement), `pearson`, and
            their `interval`.
        """
        result: dict[str, Any] = {"slides": len(self.slide_table)}
        for name in NETWORKS:
            table = self.slide_table.dropna(subset=[f"{name}_share", f"{name}_annotated"])
            pairs = pair_parts(table[f"{name}_share"], table[f"{name}_annotated"], table["patient_id"])
            complete = table["patient_id"].nunique() == self.slide_table["patient_id"].nunique()
            weights = self.weights if complete else self.resampled(table)
            result[name] = with_intervals(pairs.scores(weights), weights)
        return result

    def groups(self) -> dict[str, list[dict[str, Any]]]:
        """Score both networks on the test tiles of each group of patients.

        Returns
        -------
        dict[str, list[dict[str, Any]]]
            By attribute, its groups in their order: the name of the `group`, `patients`, `tiles`, a `warning` or None,
            and by network the scores.
        """
        result: dict[str, list[dict[str, Any]]] = {}
        for attribute, groups in self.patient_groups.items():
            group_of_tile = self.test["slide_id"].map(dict(zip(self.slides["slide_id"], groups, strict=True)))
            result[attribute] = []
            for group in groups.cat.categories:
                tiles = self.test[group_of_tile == group]
                if not len(tiles):
                    continue
                weights, patients = self.resampled(tiles), int(tiles["patient_id"].nunique())
                entry = {"group": str(group), "patients": patients, "tiles": len(tiles)}
                entry["warning"] = too_small(patients, is_tumor(tiles))
                for network in NETWORKS:
                    parts = parts_of(tiles, tiles[network].to_numpy(np.float64), self.settings.threshold)
                    entry[network] = with_intervals(parts.scores(weights), weights)
                result[attribute].append(entry)
        return result

    def resampled(self, tiles: pd.DataFrame) -> Floats:
        """Draw the patients of some tiles or slides, `[1 + resamples, patients]`; see `vitrail.metrics.bootstrap`."""
        return sample(tiles["patient_id"].nunique(), self.settings.resamples, self.seed)

    def _calibration_scores(self, temperature: float) -> dict[str, Drawn]:
        parts = parts_of(self.test, at_temperature(self.test, temperature), self.settings.threshold)
        drawn = parts.scores(self.weights)
        return {name: drawn[name] for name in CALIBRATION}


def parts_of(tiles: pd.DataFrame, score: Floats, threshold: float) -> TileParts:
    """Sum up by patient what a score `[n]` says of tiles."""
    return tile_parts(is_tumor(tiles), score, tiles["patient_id"].to_numpy(), threshold)


def as_json(metrics: Any) -> str:
    """Write strict JSON with sorted keys, null for what is undefined, and every digit."""
    return json.dumps(_null_for_nan(metrics), indent=2, sort_keys=True, allow_nan=False) + "\n"


def _null_for_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _null_for_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_null_for_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _undefined(names: Iterable[str]) -> dict[str, Any]:
    """Return what `with_intervals` does, where there is nothing to measure."""
    return {**dict.fromkeys(names, UNDEFINED), "interval": {name: [UNDEFINED] * 2 for name in names}}
