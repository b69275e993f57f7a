"""Regression concept vectors: whether a network holds a feature of nuclei, and whether its score uses it.

Source: Graziani, Andrearczyk and Mueller 2018, Regression Concept Vectors for Bidirectional Explanations in
Histopathology, arXiv:1904.04520. A feature of a tile's nuclei, such as their mean area, is predicted from what the
network makes of the tile: the means of a layer's feature maps. The direction of that linear regression is the concept's
vector. The derivative of the logit along it tells what the score would do if the concept grew, without any image in
which it has; the bidirectional relevance score Br is the share of variance explained, times the mean of the derivative
over the tiles divided by its standard deviation.

Different from the source: there are more channels than tiles, so that any concept can be fitted, and a random one as
well. Here the regression is ridge regression of standardised means, and the share explained is that of patients who
were left out. And both that share and the derivative are compared with concepts that are none: those of other patients,
with their likeness within patients kept; the derivative also with random directions. The penalty is the best of a few
for left-out patients, of each of them alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from vitrail.classes import TissueClass
from vitrail.explain.layer_gradients import layer_gradients
from vitrail.explain.layers import default_layers
from vitrail.explain.nuclei.association import LEVEL, benjamini_hochberg, null_interval
from vitrail.explain.nuclei.regression import LOGARITHMS
from vitrail.explain.target import target_pixels, target_score
from vitrail.metrics.bootstrap import estimate
from vitrail.metrics.scores import divided
from vitrail.models.batches import Batches

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from vitrail.models.store import Model

    Floats = NDArray[np.float64]

FOLDS, PERMUTATIONS = 10, 199
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Of the ridge regression, in units of the mean square of a standardised tile."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PooledLayer:
    """What a layer makes of tiles, and how the score depends on it.

    Attributes
    ----------
    features
        `[n, c]`, the means of its feature maps.
    gradients
        `[n, c]`, the derivative of the logit of tumor by each of these means, all places moving alike.
    """

    features: Floats
    gradients: Floats


def pooled_layer(
    model: Model, images: NDArray[np.uint8], layer: str | None = None, *, device: torch.device, batch: int = 16
) -> PooledLayer:
    """Run tiles through a network, and the gradient of its logit of tumor back to a layer.

    Parameters
    ----------
    model
        A classifier or segmenter; it is moved to the device. Of a segmenter the score is the mean logit of tumor over
        the pixels that it calls tumor; of a tile without any nothing is derived, and the gradient is 0.
    images
        Tiles, `[n, h, w, 3]`.
    layer
        Its name as in `named_modules()`; None takes the encoder's last.
    device
        Where to run.
    batch
        Tiles at once.

    Returns
    -------
    PooledLayer
        Of the tiles, in their order.

    Raises
    ------
    ModelError
        There is no such layer, or the memory is too small for one tile.
    """
    network = model.module.to(device).to(memory_format=torch.channels_last).eval()
    name = default_layers(network)[-1] if layer is None else layer

    def score(output: Tensor) -> Tensor:
        inside = None if output.ndim == 1 else target_pixels(output, TissueClass.TUMOR)
        return target_score(output, TissueClass.TUMOR, inside)

    def work(_rows: slice, tiles: Tensor) -> tuple[Floats, Floats]:
        both = layer_gradients(network, tiles, (name,), score)
        means, sums = both.features[0].double().mean((2, 3)), both.gradients[0].double().sum((2, 3))
        return means.cpu().numpy(), sums.cpu().numpy()

    parts = list(Batches(model.spec, device, batch, "concepts").run(images, work))
    features, gradients = (np.concatenate(each) for each in zip(*parts, strict=True))
    return PooledLayer(features=features, gradients=gradients)


def tile_concepts(features: pd.DataFrame, tiles: ArrayLike) -> pd.DataFrame:
    """Reduce features of nuclei to what a tile has of them.

    Parameters
    ----------
    features
        `[n, k]`, a row a nucleus.
    tiles
        Whose nucleus it is, `[n]`.

    Returns
    -------
    pd.DataFrame
        A row a tile, in the order of their sorted names, which are its index: the mean of each feature (of those of
        `LOGARITHMS` that are all positive, of the logarithm); `nuclei`, their number; and where there are areas
        `anisokaryosis`, the standard deviation of the area divided by its mean.
    """
    columns = {
        name: np.log(values) if name in LOGARITHMS and (values.dropna() > 0).all() else values
        for name, values in features.items()
    }
    groups = pd.DataFrame(columns).groupby(np.asarray(tiles))
    table = groups.mean().assign(nuclei=groups.size())
    if "area_um2" in features:
        areas = features["area_um2"].groupby(np.asarray(tiles))
        table["anisokaryosis"] = areas.std(ddof=0) / areas.mean()
    return table


def concept_vectors(
    layer: PooledLayer,
    concepts: pd.DataFrame,
    patients: ArrayLike,
    *,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> pd.DataFrame:
    """Ask of each concept whether a layer holds it, and whether the score goes with it.

    Parameters
    ----------
    layer
        Of the tiles.
    concepts
        `[tiles, k]`; a tile without a value (NaN) has the mean of all.
    patients
        Whose tile it is, `[tiles]`.
    seed
        Decides folds, permutations, random directions and intervals.
    permutations
        Concepts that are none, for each.

    Returns
    -------
    pd.DataFrame
        A row a concept: `concept`; `r2`, the share of its variance that is explained in left-out patients, and
        `r2_null`, what 95 % of the permuted stay below; `derivative`, of the logit, for one standard deviation of the
        layer along the concept's unit vector, with `low`, `high`, its 95 % interval over patients; `null_low`,
        `null_high`, where one more permuted concept would lie with 95 %; `random_low`, `random_high`, the same of
        random directions; `br`; `p`, the larger one of the two of permutations, and `q` over all concepts; `verdict`:
        `more` or `less` (the score rises, or falls, with the concept), `not_held` (it is not predicted better than
        permuted ones), `as_null` (the derivative is one of permuted concepts or random directions), `undecided`
        (patients differ, or q is too large) or `undefined` (fewer than three patients, or it does not vary).
    """
    owners = np.unique(np.asarray(patients), return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    values = concepts.to_numpy(np.float64)
    means = np.array([column[np.isfinite(column)].mean() if np.isfinite(column).any() else 0 for column in values.T])
    values = np.where(np.isfinite(values), values, means)
    enough = owners.max(initial=-1) >= 2
    orders = [np.arange(len(values)), *(_other_patients(owners, rng) for _ in range(permutations if enough else 0))]
    spread = layer.features.std(0)
    ready = divided(layer.features - layer.features.mean(0), np.where(spread > 1e-9, spread, np.nan))
    ready = np.nan_to_num(ready)
    directions = rng.normal(size=(ready.shape[1], max(permutations, 1)))
    slopes = layer.gradients * spread  # by a standard deviation of each channel
    along_random = (slopes @ (directions / np.linalg.norm(directions, axis=0))).mean(0)
    rows: list[dict[str, Any]] = []
    for number, concept in enumerate(concepts):
        targets = np.column_stack([values[order, number] for order in orders])
        if not enough or targets[:, 0].std() < 1e-9 * max(float(np.abs(targets).max()), 1.0):
            rows.append({"concept": concept, "p": np.nan})
            continue
        r2, vectors = _ridge(ready, targets, owners, rng)
        along = slopes @ vectors
        middle = along.mean(0)
        three = estimate(along[:, 0], 1, owners, seed)
        held, (low, high) = float(np.quantile(r2[1:], 0.95)), null_interval(middle[1:])
        beyond = np.abs(middle - middle[1:].mean())
        counts = (r2[1:] >= r2[0]).sum(), (beyond[1:] >= beyond[0]).sum()
        random_low, random_high = null_interval(along_random)
        deviation = along[:, 0].std()
        row = {"concept": concept, "r2": r2[0], "r2_null": held, "derivative": middle[0], "low": three.low,
               "high": three.high, "null_low": low, "null_high": high, "random_low": random_low,
               "random_high": random_high, "p": (1 + max(counts)) / len(r2),
               "br": max(r2[0], 0.0) * float(divided(middle[0], deviation))}  # fmt: skip
        rows.append(row)
    columns = ["concept", "r2", "r2_null", "derivative", "low", "high", "null_low", "null_high", "random_low"]
    table = pd.DataFrame(rows, columns=[*columns, "random_high", "br", "p"])
    table["q"] = benjamini_hochberg(table["p"])
    return table.assign(verdict=[_verdict(row) for row in table.to_dict("records")])


def _other_patients(owners: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    """Return for each tile one of another patient, all tiles of a patient lending from the same one."""
    cycle = rng.permutation(owners.max() + 1)
    lender = np.empty_like(cycle)
    lender[cycle] = np.roll(cycle, -1)  # a single cycle, so that nobody lends to themselves
    order = np.empty(len(owners), np.intp)
    for patient, other in enumerate(lender):
        own, lent = np.flatnonzero(owners == patient), np.flatnonzero(owners == other)
        order[own] = np.resize(rng.permutation(lent), len(own))
    return order


def _ridge(ready: Floats, targets: Floats, owners: NDArray[np.intp], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Regress targets `[n, m]` on `[n, c]`.

    Returns the share explained in left-out patients, `[m]`, by the penalty that is best there, and the unit vectors of
    the regressions on all tiles by that penalty, `[c, m]`.
    """
    folds = rng.permutation(owners.max() + 1) % FOLDS
    errors, total = np.zeros((len(PENALTIES), targets.shape[1])), np.zeros(targets.shape[1])
    for fold in np.unique(folds):
        out = folds[owners] == fold
        weights = _fit(ready[~out], targets[~out])
        middle = targets[~out].mean(0)
        missed = targets[out] - middle
        predicted = (ready[out] - ready[~out].mean(0)) @ weights  # [penalties, tiles, targets]
        errors += np.square(missed - predicted).sum(1)
        total += np.square(missed).sum(0)
    best = errors.argmin(0)
    columns = np.arange(targets.shape[1])
    vectors = _fit(ready, targets)[best, :, columns].T
    return 1 - divided(errors[best, columns], total), divided(vectors, np.linalg.norm(vectors, axis=0))


def _fit(ready: Floats, targets: Floats) -> Floats:
    """Fit ridge regressions by the tiles' products, for there are more channels: `[penalties, c, m]`."""
    centred, wanted = ready - ready.mean(0), targets - targets.mean(0)
    squares, vectors = np.linalg.eigh(centred @ centred.T)
    unit, turned = max(float(squares.mean()), 1e-12), vectors.T @ wanted
    back = centred.T @ vectors
    return np.stack([back @ (turned / (np.maximum(squares, 0) + penalty * unit)[:, None]) for penalty in PENALTIES])


def _verdict(row: dict[Any, Any]) -> str:
    """Return what a row of a table comes to, see `concept_vectors`."""
    if not np.isfinite(row["p"]):
        return "undefined"
    if row["r2"] <= max(row["r2_null"], 0):
        return "not_held"
    value = row["derivative"]
    if min(row["null_low"], row["random_low"]) <= value <= max(row["null_high"], row["random_high"]):
        return "as_null"
    if row["q"] >= LEVEL or not (row["low"] > 0 or row["high"] < 0):
        return "undecided"
    return "more" if value > 0 else "less"
