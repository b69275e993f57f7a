"""What is measured, and what it is called in tables: networks, their ensembles, their scores."""

from __future__ import annotations

from vitrail.classes import NETWORKS

ENSEMBLES = {
    "voting": "Voting",
    "stacking": "Stacking, cross-validated on test",
    "stacking_validation": "Stacking, fitted on held-out tiles",
}
"""The ensembles of both networks."""

ROWS = NETWORKS | ENSEMBLES
"""The rows of the paper's Table 2."""

SCORES = {
    "accuracy": "Accuracy",
    "auc": "AUC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision",
    "f1": "F1",
}
"""The columns of the paper's Table 2, in its order."""

CALIBRATION = {"brier": "Brier score", "ece": "Calibration error"}
"""What tells whether probabilities mean what they say; lower is better."""

ALL_SCORES = SCORES | CALIBRATION
"""Everything that is measured of each row."""

DIFFERENCES = (
    ("classifier", "segmenter"), ("voting", "classifier"), ("stacking", "classifier"),
    ("stacking_validation", "classifier"),
)  # fmt: skip
"""What is compared: the first less the second."""

SINGLE = ("classifier", "segmenter", "voting")
"""The rows with one probability a tile on every split: what has a reliability diagram, and thresholds."""

CERTAINTIES = {
    "probability": "the probability",
    "spread": "the spread over members and symmetries",
    "disagreement": "the disagreement of both networks",
}
"""By what tiles can be ordered, the most certain first; spread and disagreement: the smaller, the more certain."""
