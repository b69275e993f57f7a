"""The folder `nuclei/` of a run: which nuclei both networks look at, on some test tiles.

- `tiles.parquet`: a row for each tile whose nuclei were looked at. `tile`, its row in the tile table; `slide_id`,
  `patient_id`, `x`, `y`, `side`, `label` as there; `mpp` of the pixels in which nuclei were outlined; `nuclei`, how
  many; for each network its tumor score and its `<network>_group`, see `group_of`.
- `nuclei.parquet`: a row for each nucleus. `tile`, `slide_id`, `patient_id`; `nucleus`, its number on the tile from 1;
  `x`, `y` of its centre on the slide, in level-0 pixels; `x_um`, `y_um` on the tile; and what
  `vitrail.nuclei.features.FEATURES` measures.
- `relevance.parquet`: a row for each nucleus and kind of maps. `tile`, `patient_id`, `nucleus`, `network`, `method`;
  `mass`, the share of the map's positive part on the nucleus, `expected`, its share of the tile; `mean` of the map;
  `rank` among the nuclei of the tile, 0 to 1.
- `effects.parquet`: a row for each nucleus that was removed alone. `tile`, `patient_id`, `network`; `draw`, -1, or the
  number of the network with random weights that it was; `nucleus`; `area_um2` that was painted over; `effect` and
  `effect_logit`, the score and the logit before minus after, positive where it spoke for tumor; how it was `sampled`,
  and the `weight` that this gives it, see `vitrail.explain.nuclei.removal.Effects`.
- `controls.parquet`: the same of shapes of nuclei moved onto tissue without any.
- `groups.parquet`: a row for each group of nuclei that was removed at once. `tile`, `patient_id`, `network`, `label`
  of the tile, and its group as `tiles`; `before` and `before_logit`, the score and the logit of the tile as it is; and
  what `vitrail.explain.nuclei.removal.Effects` says of the group.
- `reliability.parquet`: what `vitrail.nuclei.reliability.reliability` returns of some of the tiles, segmented anew;
  empty where an engine knows nuclei of other programs.
- `associations.parquet`: which features go with that. `network`; `outcome`: `effect`, or a method; `tiles`: `all`, or
  a group of them; and what `vitrail.explain.nuclei.association.associate` returns, a row a feature.
- `contrasts.parquet`: the same three, and what `vitrail.explain.nuclei.contrasts.contrasts` returns.
- `dependence.parquet`: the same three, `feature`, and what `vitrail.explain.nuclei.partial_dependence` returns, `value`
  being the feature's.
- `comparison.parquet`: `outcome`, and what `vitrail.explain.nuclei.association.compare` returns of the classifier and
  the segmenter.
- `concepts.parquet`: `network`, and what `vitrail.explain.nuclei.concepts.concept_vectors` returns.
- `labels.npz`: by tile the label image of its nuclei, `[h, w]`, 0 for none.
- `summary.json`: what it comes to; its sentences are those of the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.classes import TASKS, TissueClass
from vitrail.core.files import damaged, read_json, read_table
from vitrail.nuclei.features import FEATURES

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

GROUPS = {"tumor": "tumor called tumor", "non_tumor": "other tissue called so", "wrong": "wrongly called"}
"""Of tiles, by network; and what they are called."""

CALLED = 0.5
"""A tile is called tumor from this score."""

SUMMARY, LABELS = "summary.json", "labels.npz"
_SUMMARY_KEYS = ("tiles", "patients", "nuclei", "refused")

_OWNER = {"tile": "int64", "patient_id": "str"}
_ON_SLIDE = {"tile": "int64", "slide_id": "str", "patient_id": "str"}
_ESTIMATE = {"low": "float64", "high": "float64"}
_ASKED = {"network": "str", "outcome": "str", "tiles": "str"}
_TESTED = (
    {"coefficient": "float64"}
    | _ESTIMATE
    | {"p": "float64", "q": "float64", "null": "str", "null_low": "float64", "null_high": "float64", "verdict": "str"}
)

COLUMNS: dict[str, dict[str, str]] = {
    "tiles": _ON_SLIDE
    | {"x": "float64", "y": "float64", "side": "float64", "label": "str", "mpp": "float64", "nuclei": "int64"}
    | dict.fromkeys(TASKS, "float64")
    | {f"{network}_group": "str" for network in TASKS},
    "nuclei": _ON_SLIDE
    | {"nucleus": "int64", "x": "float64", "y": "float64", "x_um": "float64", "y_um": "float64"}
    | dict.fromkeys(FEATURES, "float64"),
    "relevance": _OWNER
    | {"nucleus": "int64", "network": "str", "method": "str"}
    | dict.fromkeys(("mass", "expected", "mean", "rank"), "float64"),
    "effects": _OWNER
    | {"network": "str", "draw": "int64", "nucleus": "int64", "area_um2": "float64"}
    | {"effect": "float64", "effect_logit": "float64", "sampled": "str", "weight": "float64"},
    "controls": _OWNER
    | {"network": "str", "nucleus": "int64", "area_um2": "float64", "effect": "float64", "effect_logit": "float64"},
    "groups": _OWNER
    | {"network": "str", "label": "str", "tiles": "str", "before": "float64", "before_logit": "float64"}
    | {"group": "str", "nuclei": "int64"}
    | dict.fromkeys(("area_um2", "effect", "effect_logit", "control_area_um2", "control", "control_logit"), "float64")
    | dict.fromkeys(("random_nuclei", "random_area_um2", "random", "random_logit", "beaten"), "float64"),
    "reliability": {"feature": "str", "nuclei": "int64", "again": "float64", "icc": "float64"}
    | _ESTIMATE
    | {"error": "float64"},
    "associations": _ASKED
    | {"feature": "str", "merged": "str"}
    | {f"{prefix}{name}": kind for prefix in ("", "marginal_") for name, kind in _TESTED.items()}
    | {"vif": "float64", "nuclei": "int64", "patients": "int64"},
    "contrasts": _ASKED
    | {"feature": "str", "kind": "str", "value": "float64"}
    | _ESTIMATE
    | {"nuclei": "int64", "patients": "int64"},
    "dependence": _ASKED
    | {"feature": "str", "bin": "int64", "value": "float64", "mean": "float64"}
    | _ESTIMATE
    | {"nuclei": "int64", "patients": "int64"},
    "comparison": {"outcome": "str", "feature": "str"}
    | {
        f"{prefix}{name}": "float64"
        for prefix in ("", "marginal_")
        for name in ("first", "second", "difference", "low", "high", "p", "q")
    },
    "concepts": {"network": "str", "concept": "str", "r2": "float64", "r2_null": "float64", "derivative": "float64"}
    | _ESTIMATE
    | dict.fromkeys(("null_low", "null_high", "random_low", "random_high", "br", "p", "q"), "float64")
    | {"verdict": "str"},
}
"""Tables of the folder, their columns and types."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NucleiStudy:
    """Which nuclei the networks of a run look at.

    Attributes
    ----------
    tiles, nuclei, relevance, effects, controls, groups
        The tables of what was measured.
    reliability, associations, contrasts, dependence, comparison, concepts
        The tables of what it comes to.
    labels
        By tile, `[h, w]`: the number of the nucleus that a pixel belongs to, 0 for none.
    summary
        The content of `summary.json`.
    """

    tiles: pd.DataFrame
    nuclei: pd.DataFrame
    relevance: pd.DataFrame
    effects: pd.DataFrame
    controls: pd.DataFrame
    groups: pd.DataFrame
    reliability: pd.DataFrame
    associations: pd.DataFrame
    contrasts: pd.DataFrame
    dependence: pd.DataFrame
    comparison: pd.DataFrame
    concepts: pd.DataFrame
    labels: dict[int, NDArray[np.uint16]]
    summary: dict[str, Any]


def open_nuclei(folder: Path) -> NucleiStudy:
    """Read the `nuclei` folder of a run.

    Parameters
    ----------
    folder
        The folder.

    Returns
    -------
    NucleiStudy
        With empty tables where no nucleus was looked at; its summary says why.

    Raises
    ------
    RunError
        A file is missing or not valid.
    """
    summary = read_json(folder / SUMMARY, _SUMMARY_KEYS)
    if not summary["tiles"]:
        return NucleiStudy(**{name: as_table(name, []) for name in COLUMNS}, labels={}, summary=summary)
    tables = {}
    for name, columns in COLUMNS.items():
        table = read_table(folder / f"{name}.parquet")
        if missing := [column for column in columns if column not in table]:
            raise damaged(folder / f"{name}.parquet", f"without {missing[0]!r}")
        tables[name] = table
    try:
        with np.load(folder / LABELS) as file:
            labels = {int(name): file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise damaged(folder / LABELS, error) from None
    return NucleiStudy(**tables, labels=labels, summary=summary)


def as_table(name: str, parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Put the parts of one of the folder's tables together; without any rows it still has its columns."""
    filled = [part for part in parts if len(part)]
    table = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(COLUMNS[name]))
    return table[list(COLUMNS[name])].astype(COLUMNS[name])


def group_of(rows: pd.DataFrame, network: str) -> NDArray[np.str_]:
    """Tell which group of `GROUPS` each tile belongs to.

    Parameters
    ----------
    rows
        Tiles with their `label`, and what each network says of them.
    network
        Its column.

    Returns
    -------
    NDArray[np.str_]
        `[n]`: `tumor` and `non_tumor` where the network is right, else `wrong`.
    """
    tumor, called = (rows["label"] == TissueClass.TUMOR.key).to_numpy(), (rows[network] >= CALLED).to_numpy()
    return np.where(tumor != called, "wrong", np.where(tumor, "tumor", "non_tumor"))
