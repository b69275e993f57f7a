"""The further columns of slides.csv as groups: of a few values each, numbers in ranges."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from collections.abc import Sequence

KNOWN = {"slide_id", "patient_id", "split", "mpp", "tumor_tiles", "non_tumor_tiles"}
"""The columns of the cohort that are no attributes of patients."""

UNKNOWN = "not known"
"""The group of those without a value."""

MOST_GROUPS, MOST_ATTRIBUTES = 8, 9


def attributes(slides: pd.DataFrame) -> dict[str, pd.Series[Any]]:
    """Return the group of each slide by each attribute.

    Numbers with more values than `MOST_GROUPS` are put into ranges; of as many words the most frequent are kept, and
    the rest are one group. An attribute is left out that nobody has, or that hardly two patients share, as names.

    Returns
    -------
    By the attribute's name, ordered categories in the order of `slides`.
    """
    found = {}
    for name in (column for column in slides.columns if column not in KNOWN):
        groups = _groups(slides[name], slides["patient_id"])
        if groups is not None:
            found[str(name)] = groups
    return dict(list(found.items())[:MOST_ATTRIBUTES])


def patients_by(groups: pd.Series[Any], slides: pd.DataFrame) -> pd.Series[int]:
    """Count the patients of each group, each by the first of their slides."""
    first = ~slides["patient_id"].duplicated()
    return groups[first].value_counts(sort=False)


def _groups(values: pd.Series[Any], patients: pd.Series[str]) -> pd.Series[Any] | None:
    if not values.notna().any():
        return None
    if values.nunique() <= MOST_GROUPS:
        names: dict[object, str] = {value: _plain(value) for value in sorted(values.dropna().unique())}
        return _ordered(values.map(names), list(names.values()))
    return _ranges(values) if pd.api.types.is_numeric_dtype(values) else _frequent(values, patients)


def _frequent(values: pd.Series[Any], patients: pd.Series[str]) -> pd.Series[Any] | None:
    counts = patients.groupby(values).nunique().sort_values(ascending=False, kind="stable")
    if counts.iloc[1] < 2:
        return None
    kept = sorted(counts.index[: MOST_GROUPS - 1])
    rest = f"{len(counts) - len(kept)} others"
    return _ordered(values.where(values.isin(kept) | values.isna(), rest), [*kept, rest])


def _ranges(values: pd.Series[Any]) -> pd.Series[Any]:
    edges = MaxNLocator(5).tick_values(float(values.min()), float(values.max()))
    names = [f"{a:g} to {b:g}" for a, b in pairwise(edges)]
    at = np.clip(np.searchsorted(edges, values.to_numpy(np.float64), side="right") - 1, 0, len(names) - 1)
    return _ordered(pd.Series(np.array(names)[at], index=values.index).where(values.notna()), names)


def _ordered(names: pd.Series[Any], order: Sequence[str]) -> pd.Series[Any]:
    unknown = [UNKNOWN] if names.isna().any() else []
    return names.fillna(UNKNOWN).astype(pd.CategoricalDtype([*dict.fromkeys(order), *unknown], ordered=True))


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
