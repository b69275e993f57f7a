"""Groups of patients by the further columns of slides.csv: of a few values each, numbers in ranges."""

from __future__ import annotations

from itertools import pairwise
from math import ceil, copysign, floor, log10
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.classes import TissueClass

if TYPE_CHECKING:
    from numpy.typing import NDArray

COHORT_COLUMNS = {"slide_id", "patient_id", "split", "mpp", "tumor_tiles", "non_tumor_tiles"}
"""The columns of the cohort that are no attributes of patients."""

UNKNOWN = "not known"
"""The group of those without a value."""

MOST_GROUPS, MOST_ATTRIBUTES = 8, 9

FEWEST_PATIENTS = 5
"""A group of fewer patients is too small to say anything."""

_ROUND = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15)
_RANGES = 5


def patient_groups(slides: pd.DataFrame) -> dict[str, pd.Series[Any]]:
    """Group slides by each attribute of their patients.

    Numbers with more values than `MOST_GROUPS` are put into ranges; of as many words the most frequent stay, and the
    rest are one group. An attribute is left out that nobody has, or that hardly two patients share, as names.

    Parameters
    ----------
    slides
        One row a slide; every column that is not in `COHORT_COLUMNS` is an attribute, NaN where it is not known.

    Returns
    -------
    dict[str, pd.Series]
        By the attribute's name, ordered categories in the order of `slides`.
    """
    groups = {}
    for name in slides.columns:
        values = slides[name]
        if name in COHORT_COLUMNS or not values.notna().any():
            continue
        if values.nunique() <= MOST_GROUPS:
            titles = {value: f"{value:g}" if isinstance(value, float) else str(value) for value in values.dropna()}
            labels, order = values.map(titles), [titles[value] for value in sorted(titles)]
        elif pd.api.types.is_numeric_dtype(values):
            edges = round_edges(float(values.min()), float(values.max()))
            order = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
            ranges = np.searchsorted(edges, values.to_numpy(np.float64), side="right") - 1
            ranges = np.clip(ranges, 0, len(order) - 1)  # the last one holds its upper edge
            labels = pd.Series(np.array(order)[ranges], index=values.index).where(values.notna())
        else:
            counts = slides["patient_id"].groupby(values).nunique().sort_values(ascending=False, kind="stable")
            if counts.iloc[1] < 2:
                continue
            frequent = sorted(counts.index[: MOST_GROUPS - 1])
            order = [*frequent, f"{len(counts) - len(frequent)} others"]
            labels = values.where(values.isin(frequent) | values.isna(), order[-1])
        unknown = [UNKNOWN] if labels.isna().any() else []
        kinds = pd.CategoricalDtype([*dict.fromkeys(order), *unknown], ordered=True)
        groups[str(name)] = labels.fillna(UNKNOWN).astype(kinds)
    return dict(list(groups.items())[:MOST_ATTRIBUTES])


def round_edges(low: float, high: float) -> NDArray[np.float64]:
    """Return the edges of about five ranges of one width whose numbers are round.

    Parameters
    ----------
    low, high
        The least and the greatest value, which differ.

    Returns
    -------
    NDArray[np.float64]
        Rising, the first at or below `low`, the last at or above `high`.
    """
    span, middle = high - low, (high + low) / 2
    # numbers far from zero that differ little, such as years, are counted from a round number near them
    base = copysign(10 ** floor(log10(abs(middle))), middle) if abs(middle) >= 100 * span else 0.0
    scale = 10.0 ** floor(log10(span / _RANGES))
    step = next(scale * width for width in _ROUND if scale * width >= span / _RANGES)
    begin = (low - base) // step * step
    slack = max(1e-10, 1e-12 * abs(base) / step)  # what rounding may add
    first, last = floor((low - base - begin) / step + slack), ceil((high - base - begin) / step - slack)
    return np.asarray(np.arange(first, last + 1) * step + begin + base, np.float64)


def count_patients(groups: pd.Series[Any], slides: pd.DataFrame) -> pd.Series[int]:
    """Count the patients of each group, each by the first of their slides.

    Parameters
    ----------
    groups
        Of the slides, by one attribute.
    slides
        As in `patient_groups`.

    Returns
    -------
    pd.Series
        By group, in their order.
    """
    first = ~slides["patient_id"].duplicated()
    return groups[first].value_counts(sort=False)


def too_small(patients: int, tumor: NDArray[np.bool_]) -> str | None:
    """Say why a group is too small to say anything.

    Parameters
    ----------
    patients
        How many it has.
    tumor
        Which of its tiles are labelled tumor, `[n]`.

    Returns
    -------
    str | None
        The reasons; None where it is not.
    """
    reasons = [f"fewer than {FEWEST_PATIENTS} patients"] if patients < FEWEST_PATIENTS else []
    if tumor.all() or not tumor.any():
        kind = TissueClass.TUMOR if tumor.any() else TissueClass.NON_TUMOR
        reasons.append(f"only {kind.title.lower()} tiles")
    return ", ".join(reasons) or None
