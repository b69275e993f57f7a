"""A program as users write it, never run: `make package` checks its types against the installed wheel.

What it names is Vitrail's public face; each `assert_type` is a promise to type checkers and editors of those who use
it.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import vitrail


def explained(path: Path, folder: str) -> float:
    """Return the strongest relevance in one tile of a slide."""
    slide = assert_type(vitrail.open_slide(path, mpp=0.5), vitrail.Slide)
    region = vitrail.Region(x=64, y=32, width=512, height=512)
    tile = assert_type(vitrail.read_region(slide, region, (224, 224)), NDArray[np.uint8])
    model = vitrail.load_model(folder)
    assert_type(model.spec.side_px, int)
    assert_type(vitrail.Predictor(model).tumor_probability(tile[None]), NDArray[np.float64])
    saliencies = vitrail.Explainer(model).gradcam(tile[None])
    (saliency,) = assert_type(saliencies, list[vitrail.Saliency])
    return float(saliency.values.max())  # noqa: PD011 - no table


def studied(folder: Path) -> pd.DataFrame:
    """Return what a study's classifier says of two slides, unless that fails in a way that a user can mend."""
    try:
        run = vitrail.run_study(folder, "slides.csv", preset="quick", changes=["training.seed=1"])
        print(vitrail.evaluate(run).metrics["test"])
        for entry in vitrail.read_cohort(folder / "slides.csv"):
            assert_type(entry.mpp, float | None)
    except vitrail.VitrailError as error:
        assert_type(error.cure, str)
        raise SystemExit(str(error)) from error
    table = vitrail.predict_slides(["S1.svs", Path("S2.svs")], "maps", classifier=folder / "classifier")
    return assert_type(table, pd.DataFrame)
