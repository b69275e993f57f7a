"""The kinds of maps of a study with the paper's two methods, and their pairs."""

from __future__ import annotations

from vitrail.explain.study.store import pairs

KEYS = ("classifier_gradcam", "classifier_hrcam", "segmenter_gradcam", "segmenter_hrcam")
PAIRS = pairs(KEYS)
