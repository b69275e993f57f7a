"""The folder `shift/` of a run: how far its slides lie from those of the training, and what shifts do to the networks.

- `slides.parquet`: a row for each slide with tiles. `slide_id`, `patient_id`, `split`, `site` (empty where slides.csv
  names none), `tiles`; what `vitrail.quality.appearance.MEASURES` names; `distance_stain`, `distance_focus`,
  `distance_scanner` and `distance_all`, each over what 99 % of the training slides have at most; `distance`, the same
  of the largest of them; `farthest_in`, its group; `beyond`, whether that is beyond training. Training slides are
  measured against the slides of all other patients. All distances are NaN where fewer than three patients were trained
  on.
- `simulated.parquet`: a row for each test tile that was changed, and each change. `family` and `strength` of the change
  (`none` for the tile as it is); `tile`, its row in the tile table; `slide_id`, `patient_id`, `label`; `classifier` and
  `segmenter`, the tumor scores as in the predictions, and `pixels`, the confusion matrix of its pixels.
- `summary.json`: the training (`slides`, `patients`, `fewest`), the `probes` and why there are not more (`refused`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitrail.core.files import damaged, read_json, read_table
from vitrail.quality.appearance import GROUPS, MEASURES

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

SUMMARY = "summary.json"

COLUMNS: dict[str, dict[str, str]] = {
    "slides": dict.fromkeys(("slide_id", "patient_id", "split", "site"), "str")
    | {"tiles": "int64"}
    | dict.fromkeys(MEASURES, "float64")
    | {f"distance_{group}": "float64" for group in GROUPS}
    | {"distance": "float64", "farthest_in": "str", "beyond": "bool"},
    "simulated": {"family": "str", "strength": "float64", "tile": "int64"}
    | dict.fromkeys(("slide_id", "patient_id", "label"), "str")
    | {"classifier": "float64", "segmenter": "float64", "pixels": "object"},
}
"""Tables of the folder, their columns and types."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShiftStudy:
    """How far the slides of a run lie from its training, and what shifts do to its networks.

    Attributes
    ----------
    slides, simulated
        The tables.
    summary
        The content of `summary.json`.
    """

    slides: pd.DataFrame
    simulated: pd.DataFrame
    summary: dict[str, Any]


def open_shift(folder: Path) -> ShiftStudy:
    """Read the `shift` folder of a run.

    Parameters
    ----------
    folder
        The folder.

    Returns
    -------
    ShiftStudy
        What was measured.

    Raises
    ------
    RunError
        A file is missing or not valid.
    """
    summary = read_json(folder / SUMMARY, ("training", "probes", "refused"))
    tables = {}
    for name, columns in COLUMNS.items():
        tables[name] = read_table(folder / f"{name}.parquet")
        if missing := [column for column in columns if column not in tables[name]]:
            raise damaged(folder / f"{name}.parquet", f"without {missing[0]!r}")
    return ShiftStudy(**tables, summary=summary)
