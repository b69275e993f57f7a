"""What the section "Scores" of the page holds besides its figures."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from PIL import Image

from vitrail.classes import NETWORKS
from vitrail.evaluation.groups import FEWEST_PATIENTS
from vitrail.evaluation.names import ALL_SCORES, DIFFERENCES, ROWS, SINGLE
from vitrail.evaluation.tiles import worst_slides

if TYPE_CHECKING:
    from vitrail.report.data import ReportData


def section(data: ReportData) -> dict[str, Any]:
    """Return what the template of the section needs.

    Parameters
    ----------
    data
        What the report shows.

    Returns
    -------
    dict[str, Any]
        By the names that the template uses.
    """
    evaluation, test = data.evaluation, data.evaluation.metrics["test"]
    differences = []
    for first, second in DIFFERENCES:
        title = f"{ROWS[first]} \N{MINUS SIGN} {ROWS[second].lower()}"
        missing = next((evaluation.missing[name] for name in (first, second) if name in evaluation.missing), None)
        scores = test["differences"][f"{first}_minus_{second}"]
        differences.append({"title": title, "scores": scores, "missing": missing})
    figures = {maps.slide_id: name for name, maps in data.slide_figures.items()}
    worst = worst_slides(evaluation.slide_table).to_dict("records")
    for row in worst:
        row["figure"], row["picture"] = figures.get(row["slide_id"]), None
        if (pixels := data.worst.get(row["slide_id"])) is not None:
            jpeg = io.BytesIO()
            Image.fromarray(pixels).save(jpeg, "JPEG", quality=85)
            row["picture"] = f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"
    return {
        "rows": [(name, title, test[name]) for name, title in ROWS.items()],
        "columns": ALL_SCORES,
        "differences": differences,
        "operating": [(ROWS[name], test["operating"][name]) for name in SINGLE],
        "equal_count": [(ROWS[name], test["calibration"][name]["ece_equal_count"]) for name in SINGLE],
        "temperatures": [(title, test["calibration"][name]["temperature"]) for name, title in NETWORKS.items()],
        "agreement": [(title, test["slides"][name]) for name, title in NETWORKS.items()],
        "per_slide": evaluation.slide_table.to_dict("records"),
        "worst": worst,
        "groups": test["groups"],
        "fewest": FEWEST_PATIENTS,
        "held_out": len(evaluation.held_out),
        "held_out_title": evaluation.held_out_title,
    }
