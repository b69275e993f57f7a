"""The section "Scores" of the page: its figures, and what its tables and sentences hold."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from PIL import Image

from vitrail.report.data import NETWORKS
from vitrail.report.scored import CALIBRATION, SCORES, slides_table, worst_slides
from vitrail.report.statistics import DIFFERENCES, FEWEST_PATIENTS, OPERATED, ROWS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vitrail.report.data import ReportData
    from vitrail.report.statistics import Rated

    Measured = dict[str, Any]


def section(data: ReportData, rated: Rated, measured: Measured) -> dict[str, Any]:
    """Return what the template of the section needs besides figures."""
    figures = {maps.slide_id: name for name, maps in data.slide_figures.items()}
    test, table = measured["test"], slides_table(rated.test, data.threshold)
    worst = worst_slides(table).to_dict("records")
    return {
        "rows": [(name, title, test[name]) for name, title in ROWS.items()],
        "columns": SCORES | CALIBRATION,
        "differences": [_difference(test, first, second) for first, second in DIFFERENCES],
        "operating": [(ROWS[name], test["operating"][name]) for name in OPERATED],
        "equal_count": [(ROWS[name], test["calibration"][name]["ece_equal_count"]) for name in OPERATED],
        "temperatures": [(title, test["calibration"][name]["temperature"]) for name, title in NETWORKS.items()],
        "agreement": [(title, test["slides"][name]) for name, title in NETWORKS.items()],
        "per_slide": table.to_dict("records"),
        "worst": [
            row | {"picture": _picture(data.worst.get(row["slide_id"])), "figure": figures.get(row["slide_id"])}
            for row in worst
        ],
        "groups": test["groups"],
        "fewest": FEWEST_PATIENTS,
        "validation": len(rated.validation),
    }


def _difference(test: dict[str, Any], first: str, second: str) -> dict[str, Any]:
    missing = next((test[name]["missing"] for name in (first, second) if "missing" in test[name]), None)
    title = f"{ROWS[first]} \N{MINUS SIGN} {ROWS[second].lower()}"
    return {"title": title, "scores": test["differences"][f"{first}_minus_{second}"], "missing": missing}


def _picture(pixels: NDArray[np.uint8] | None) -> str | None:
    """Return a picture as a data URI."""
    if pixels is None:
        return None
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
