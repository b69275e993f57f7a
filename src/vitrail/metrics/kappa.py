"""How far raters agree beyond chance, with intervals over patients.

Cohen's kappa is of two raters (Cohen 1960, doi 10.1177/001316446002000104), Fleiss' of any number, who need not all
have seen every case (Fleiss 1971, doi 10.1037/h0031619). Chance is what raters would share who answer as often as they
do, but blindly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitrail.metrics.bootstrap import Drawn, Estimate, by_patient, interval, sample

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

RESAMPLES = 2000


def cohen_kappa(counts: ArrayLike, patients: ArrayLike, seed: int) -> Estimate:
    """Return Cohen's kappa of two raters with its 95 % interval over patients.

    Parameters
    ----------
    counts
        `[n, k, k]`, of each case 1 at the first rater's answer (row) and the second's (column), or sums of cases.
    patients
        Whose case it is, `[n]`.
    seed
        The same seed draws the same patients.

    Returns
    -------
    Estimate
        NaN without cases, and where both raters always give one answer.
    """
    if not len(np.asarray(counts)):
        return Estimate(np.nan, np.nan, np.nan)
    tables = by_patient(patients, counts)  # [patients, k, k]
    weights = sample(len(tables), RESAMPLES, seed)
    sums = np.einsum("rp,pij->rij", weights, tables)
    total = sums.sum((1, 2))
    rows, columns = sums.sum(2), sums.sum(1)
    observed = np.trace(sums, axis1=1, axis2=2) / total
    expected = (rows * columns).sum(1) / total**2
    own_total = tables.sum((1, 2))
    own_observed = (np.trace(tables, axis1=1, axis2=2) - observed[:, None] * own_total) / total[:, None]
    own_expected = (columns @ tables.sum(2).T + rows @ tables.sum(1).T) / total[:, None] ** 2
    own_expected -= 2 * (expected / total)[:, None] * own_total
    return _kappa(observed, expected, own_observed, own_expected, weights)


def fleiss_kappa(counts: ArrayLike, patients: ArrayLike, seed: int) -> Estimate:
    """Return Fleiss' kappa of several raters with its 95 % interval over patients.

    Parameters
    ----------
    counts
        `[n, k]`, how many raters gave each answer to each case. Cases with fewer than two are passed over.
    patients
        Whose case it is, `[n]`.
    seed
        The same seed draws the same patients.

    Returns
    -------
    Estimate
        NaN without a case that two raters have judged, or where all give one answer.
    """
    answers = np.asarray(counts, np.float64)
    judged = answers.sum(1) >= 2
    answers = answers[judged]
    if not len(answers):
        return Estimate(np.nan, np.nan, np.nan)
    raters = answers.sum(1)
    pairs = (answers * (answers - 1)).sum(1) / (raters * (raters - 1))
    sums = by_patient(np.asarray(patients)[judged], np.column_stack([pairs, np.ones(len(pairs)), raters, answers]))
    weights = sample(len(sums), RESAMPLES, seed)
    drawn = weights @ sums
    observed = drawn[:, 0] / drawn[:, 1]
    shares = drawn[:, 3:] / drawn[:, 2:3]
    expected = (shares**2).sum(1)
    own_observed = (sums[:, 0] - observed[:, None] * sums[:, 1]) / drawn[:, 1:2]
    own_expected = 2 * (shares @ sums[:, 3:].T - (shares**2).sum(1)[:, None] * sums[:, 2]) / drawn[:, 2:3]
    return _kappa(observed, expected, own_observed, own_expected, weights)


def _kappa(observed: Floats, expected: Floats, own_observed: Floats, own_expected: Floats, weights: Floats) -> Estimate:
    """Put agreement together: observed and by chance, `[rows]`, and what each patient adds, `[rows, patients]`."""
    room = 1 - expected
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(room > 1e-12, (observed - expected) / room, np.nan)
        influence = own_observed / room[:, None] + own_expected * ((observed - 1) / room**2)[:, None]
    drawn = Drawn(value=value, influence=np.where(np.isfinite(influence), influence, 0.0), scale="correlation")
    return Estimate(float(value[0]), *interval(drawn, weights))
