"""How sure the networks are, and what that is worth: selective prediction, and calibration of slides and of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.evaluation.intervals import compared, with_intervals
from vitrail.evaluation.names import CERTAINTIES, SINGLE
from vitrail.evaluation.tiles import is_tumor, single_scores
from vitrail.metrics.bootstrap import by_patient, ratio
from vitrail.metrics.calibration import Reliability, equal_width
from vitrail.metrics.group_calibration import group_calibration
from vitrail.metrics.scores import divided
from vitrail.metrics.selective import binned_parts, kept_for, selective_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.metrics.group_calibration import GroupCalibration
    from vitrail.metrics.selective import SelectiveParts

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

GOALS = (0.95, 0.98)
"""Accuracies that are wished of the tiles that no person looks at."""

COVERAGES = np.round(np.arange(1.0, 0.04, -0.05), 2)
"""Shares of the tiles that curves are drawn at; tiles that are equally certain are kept together."""

CONFIDENCE_BINS = 20
"""Equal bins of the called class' probability in which the pixels of a tile are counted."""

_CURVE = ("accuracy", "balanced_accuracy", "tumor_error")


@dataclass(frozen=True, kw_only=True, eq=False)
class Certainty:
    """What the certainty of a study's networks is worth on its test tiles.

    Attributes
    ----------
    test
        The test tiles, as in `Evaluation.predictions`; may have `classifier_spread`, `segmenter_spread` and
        `confidence`.
    held_out
        Tiles that limits are chosen on.
    threshold
        A tile is called tumor when its tumor probability reaches this.
    weights
        `[1 + resamples, patients]` of the test tiles.
    seed
        Of what chance is drawn from.
    """

    test: pd.DataFrame
    held_out: pd.DataFrame
    threshold: float
    weights: Floats
    seed: int

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What `metrics.json` holds.

        - `tiles`: by the names of `SINGLE`, the `error` of all test tiles, which is also the area under the curve of a
          random order; the area of the `ideal` order; their `interval`; by certainty (`probability`, `spread` over
          members and symmetries, `disagreement` of both networks; what there is) `aurc` and `excess` with their
          `interval`, see `vitrail.metrics.selective`; `differences` of the areas of each two, the later less the
          earlier; and `review`, see `review_table`;
        - `pixels`: the same of the segmenter's pixels by the called class' probability, and `ece`, their expected
          calibration error; None where they were not counted;
        - `slides`: by the names of `SINGLE`, calibration in the large of the test slides: how many, the standard
          deviation `spread` of predicted less observed tumor share, its mean by `chance` alone and what chance exceeds
          once in 20 times, `chance_95`; the standard deviation `beyond` chance; `p`; and the median expected
          calibration error of a slide, `ece`, beside that by chance, `ece_chance`.
        """
        return {
            "tiles": {name: self._tiles(name) for name in SINGLE},
            "pixels": self._pixels(),
            "slides": {name: _spread(self.slides[name]) for name in SINGLE},
        }

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables of the report by the names of their files."""
        tables = {
            "certainty": self._area_table(),
            "certainty_curves": self.curves,
            "review_effort": self.review_table,
            "slide_calibration": self._slide_table(),
        }
        if (pixels := self.pixel_reliability) is not None:
            columns = {"from": pixels.edges[:-1], "to": pixels.edges[1:], "pixels": pixels.count}
            tables["pixel_calibration"] = pd.DataFrame(columns | {"right": pixels.observed})
        return tables

    @cached_property
    def scores(self) -> dict[str, Floats]:
        """By the names of `SINGLE`, the tumor probabilities of the test tiles."""
        return single_scores(self.test)

    @cached_property
    def wrong(self) -> dict[str, Flags]:
        """By the names of `SINGLE`, which test tiles are called wrongly."""
        return {name: self._calls(score) != is_tumor(self.test) for name, score in self.scores.items()}

    @cached_property
    def certainties(self) -> dict[str, dict[str, Floats]]:
        """By the names of `SINGLE`, by certainty, how certain each test tile is; more is more certain."""
        return {name: certainties_of(self.test, name, self.threshold) for name in SINGLE}

    @cached_property
    def parts(self) -> dict[str, dict[str, SelectiveParts]]:
        """By the names of `SINGLE` and certainty, errors by patient and level of certainty."""
        patients = self.test["patient_id"].to_numpy()
        return {
            name: {kind: selective_parts(self.wrong[name], values, patients) for kind, values in kinds.items()}
            for name, kinds in self.certainties.items()
        }

    @cached_property
    def pixel_parts(self) -> SelectiveParts | None:
        """The same of the segmenter's pixels; None where they were not counted."""
        if (counted := pixel_confidence(self.test)) is None:
            return None
        return binned_parts(counted[:, 0], counted[:, 1], self.test["patient_id"].to_numpy())

    @cached_property
    def pixel_reliability(self) -> Reliability | None:
        """How often a pixel is called rightly by the called class' probability, predicted the middle of each bin."""
        if (counted := pixel_confidence(self.test)) is None:
            return None
        pixels, right = counted.sum(0)
        edges = equal_width(CONFIDENCE_BINS)
        observed = divided(right, pixels)
        middle = np.where(pixels > 0, (edges[:-1] + edges[1:]) / 2, np.nan)
        return Reliability(edges=edges, count=pixels.astype(np.int64), predicted=middle, observed=observed)

    @cached_property
    def slides(self) -> dict[str, GroupCalibration]:
        """By the names of `SINGLE`, the calibration of each test slide."""
        truth, names = is_tumor(self.test), self.test["slide_id"].to_numpy()
        return {name: group_calibration(truth, score, names, self.seed) for name, score in self.scores.items()}

    @cached_property
    def curves(self) -> pd.DataFrame:
        """What is right of the tiles, and of the pixels, that are kept.

        `network` (`pixels` for those of the segmenter), `certainty`, `coverage`, `kept`; `accuracy`,
        `balanced_accuracy` and `tumor_error` (of tumor tiles the share that is missed), each with `_low` and `_high`;
        the last two are NaN of pixels.
        """
        rows = [
            {"network": name, "certainty": kind} | row
            for name, kinds in self.certainties.items()
            for kind, values in kinds.items()
            for row in self._curve(name, values)
        ]
        if (parts := self.pixel_parts) is not None:
            own, wrong = np.cumsum(parts.counts, 1), np.cumsum(parts.errors, 1)
            total = own[:, -1].sum()
            for level in np.flatnonzero(parts.counts.sum(0) > 0)[::-1]:
                right = ratio(own[:, level] - wrong[:, level], own[:, level], self.weights)
                row = {"coverage": own[:, level].sum() / total, "kept": int(own[:, level].sum())}
                rows.append(
                    {"network": "pixels", "certainty": "probability"} | row | self._with_ends({"accuracy": right})
                )
        names = [f"{name}{end}" for name in _CURVE for end in ("", "_low", "_high")]
        return pd.DataFrame(rows, columns=["network", "certainty", "coverage", "kept", *names])

    @cached_property
    def review_table(self) -> pd.DataFrame:
        """How many test tiles a person has to look at, so that the others are right as often as is wished.

        `network`, `certainty`, the `goal`; `limit`, the least certainty that the held-out tiles choose for it, NaN
        where none reaches it; `seen`, the test tiles below it, and `tiles`, all of them; `kept`, the share of the
        others, and their `accuracy`, with `_low` and `_high`; and `seen_in_hindsight`, as many as would have been
        enough, had the test tiles themselves chosen.
        """
        patients, rows = self.test["patient_id"].to_numpy(), []
        held_scores = single_scores(self.held_out)
        for name, kinds in self.certainties.items():
            held_wrong = self._calls(held_scores[name]) != is_tumor(self.held_out)
            held = certainties_of(self.held_out, name, self.threshold)
            for kind, values in kinds.items():
                for goal in GOALS:
                    limit = kept_for(held_wrong, held[kind], goal) if kind in held else np.nan
                    kept, best = values >= limit, kept_for(self.wrong[name], values, goal)
                    sums = by_patient(patients, np.column_stack([kept, kept & ~self.wrong[name], np.ones(len(kept))]))
                    row = {"network": name, "certainty": kind, "goal": goal, "limit": limit}
                    row |= {"seen": int((~kept).sum()), "tiles": len(kept)}
                    drawn = {"kept": ratio(sums[:, 0], sums[:, 2], self.weights)}
                    drawn["accuracy"] = ratio(sums[:, 1], sums[:, 0], self.weights)
                    row |= self._with_ends(drawn)
                    rows.append(row | {"seen_in_hindsight": int((~(values >= best)).sum())})
        ends = [f"{name}{end}" for name in ("kept", "accuracy") for end in ("", "_low", "_high")]
        columns = ["network", "certainty", "goal", "limit", "seen", "tiles", *ends, "seen_in_hindsight"]
        return pd.DataFrame(rows, columns=columns)

    def _calls(self, score: Floats) -> Flags:
        return np.asarray(score >= self.threshold)

    def _tiles(self, name: str) -> dict[str, Any]:
        """Measure the certainties of a network, see `metrics`."""
        parts = self.parts[name]
        first = next(iter(parts.values()))
        result: dict[str, Any] = with_intervals(
            {"error": first.risk(self.weights), "ideal": first.ideal(self.weights)}, self.weights
        )
        areas = {kind: each.area(self.weights) for kind, each in parts.items()}
        result["by"] = {
            kind: with_intervals({"aurc": area, "excess": parts[kind].excess(self.weights)}, self.weights)
            for kind, area in areas.items()
        }
        kinds = list(areas)
        result["differences"] = {
            f"{later}_minus_{earlier}": compared(areas[later], areas[earlier], self.weights)
            for at, earlier in enumerate(kinds)
            for later in kinds[at + 1 :]
        }
        own = self.review_table[self.review_table["network"] == name]
        result["review"] = own.drop(columns="network").to_dict("records")
        return result

    def _pixels(self) -> dict[str, Any] | None:
        parts, bins = self.pixel_parts, self.pixel_reliability
        if parts is None or bins is None:
            return None
        drawn = {"error": parts.risk, "ideal": parts.ideal, "aurc": parts.area, "excess": parts.excess}
        measured = with_intervals({name: of(self.weights) for name, of in drawn.items()}, self.weights)
        return measured | {"ece": bins.error}

    def _curve(self, name: str, certainty: Floats) -> list[dict[str, Any]]:
        """Measure the most certain tiles, the fewer the further."""
        tumor, wrong, patients = is_tumor(self.test), self.wrong[name], self.test["patient_id"].to_numpy()
        ranked, rows, last = np.sort(certainty)[::-1], list[dict[str, Any]](), -1
        for coverage in COVERAGES:
            kept = certainty >= ranked[max(int(np.ceil(coverage * len(ranked))), 1) - 1]
            if (count := int(kept.sum())) == last:
                continue
            last = count
            flags = np.column_stack([kept & tumor & ~wrong, kept & tumor, kept & ~tumor & ~wrong, kept & ~tumor])
            hits, positives, rest, negatives = by_patient(patients, flags).T
            recalls = ratio(hits, positives, self.weights), ratio(rest, negatives, self.weights)
            drawn = {
                "accuracy": ratio(hits + rest, positives + negatives, self.weights),
                "balanced_accuracy": (recalls[0] + recalls[1]).over(2),
                "tumor_error": ratio(positives - hits, positives, self.weights),
            }
            rows.append({"coverage": count / len(ranked), "kept": count} | self._with_ends(drawn))
        return rows

    def _with_ends(self, drawn: dict[str, Any]) -> dict[str, float]:
        numbers = with_intervals(drawn, self.weights)
        row: dict[str, float] = {}
        for name in drawn:
            low, high = numbers["interval"][name]
            row |= {name: numbers[name], f"{name}_low": low, f"{name}_high": high}
        return row

    def _area_table(self) -> pd.DataFrame:
        """Return the areas of every order; those of chance and the ideal one have no excess by definition."""
        rows = []
        for name, found in self.metrics["tiles"].items():
            for kind, entry in found["by"].items():
                rows.append(_area_row(name, kind, found, entry))
        if (pixels := self.metrics["pixels"]) is not None:
            rows.append(_area_row("pixels", "probability", pixels, pixels))
        return pd.DataFrame(rows)

    def _slide_table(self) -> pd.DataFrame:
        parts = []
        for name, found in self.slides.items():
            columns = {"network": name, "slide_id": found.names, "tiles": found.count, "gap": found.gap}
            columns |= {"chance_low": found.low, "chance_high": found.high}
            parts.append(pd.DataFrame(columns | {"ece": found.error, "ece_chance": found.chance_error}))
        return pd.concat(parts, ignore_index=True)


def certainties_of(tiles: pd.DataFrame, name: str, threshold: float) -> dict[str, Floats]:
    """Return how certain a network, or voting, is of tiles, in every way that there is.

    Parameters
    ----------
    tiles
        As in `Evaluation.predictions`.
    name
        One of `SINGLE`.
    threshold
        As of `Certainty`.

    Returns
    -------
    dict[str, NDArray[np.float64]]
        `[n]` by the names of `CERTAINTIES`; `spread` where it is known of each tile, `disagreement` of voting alone.
    """
    score = single_scores(tiles)[name]
    reach = np.where(score >= threshold, 1 - threshold, threshold)
    kinds = {"probability": np.abs(score - threshold) / np.where(reach > 0, reach, 1)}
    spreads = [f"{network}_spread" for network in ("classifier", "segmenter") if name in {network, "voting"}]
    if set(spreads) <= set(tiles):
        spread = tiles[spreads].to_numpy(np.float64).mean(1)
        if np.isfinite(spread).all() and len(spread):
            kinds["spread"] = -spread
    if name == "voting":
        kinds["disagreement"] = -np.abs(tiles["classifier"].to_numpy(np.float64) - tiles["segmenter"].to_numpy())
    return {kind: kinds[kind] for kind in CERTAINTIES if kind in kinds}


def pixel_confidence(tiles: pd.DataFrame) -> NDArray[np.int64] | None:
    """Return how many pixels of each tile have which probability of their called class, and how many of them are right.

    Parameters
    ----------
    tiles
        As in `Evaluation.predictions`.

    Returns
    -------
    NDArray[np.int64] | None
        `[n, 2, 20]`; None where they were not counted.
    """
    if "confidence" not in tiles or not len(tiles):
        return None
    return np.stack([np.asarray(cell, np.int64) for cell in tiles["confidence"]]).reshape(-1, 2, CONFIDENCE_BINS)


def _spread(found: GroupCalibration) -> dict[str, Any]:
    undefined = bool(np.isnan(found.spread))
    return {
        "slides": len(found.names),
        "spread": found.spread,
        "chance": float(np.mean(found.chance_spread)),
        "chance_95": float("nan") if undefined else float(np.quantile(found.chance_spread, 0.95)),
        "beyond": found.beyond,
        "p": found.p,
        "ece": float(np.median(found.error)),
        "ece_chance": float(np.median(found.chance_error)),
    }


def _area_row(name: str, kind: str, found: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"network": name, "certainty": kind}
    for measure in ("aurc", "excess"):
        low, high = entry["interval"][measure]
        row |= {measure: entry[measure], f"{measure}_low": low, f"{measure}_high": high}
    return row | {"random": found["error"], "ideal": found["ideal"]}
