"""Specifications of small networks."""

from __future__ import annotations

from vitrail.models.spec import ClassifierSpec, SegmenterSpec

TINY = "test_efficientnet"
SHARED = {"encoder": TINY, "side_um": 199.1, "side_px": 64, "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.25, 0.15)}


def classifier_spec(**changes):
    return ClassifierSpec(**SHARED | {"dense": 16, "dropout": 0.5} | changes)


def segmenter_spec(**changes):
    return SegmenterSpec(**SHARED | {"decoder": (16, 8, 8, 8, 8)} | changes)
