"""How often slides of the same hospital, and of others, are called beyond what a training has seen.

    python -m bench.appearance COHORT [COHORT ...] [--set KEY=VALUE]

COHORT is a folder with `slides.csv`, whose column `site` names the hospitals. Of each hospital with more than ten
patients every one is left out in turn: the share of the slides that are called beyond the training of the others is
what chance and the variety of one hospital give. Then each hospital is the training, and all others are looked at.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from vitrail import cut_tiles
from vitrail.pipeline.predict_slides import settings_from
from vitrail.quality.appearance import FEWEST_PATIENTS, MEASURES, fit_training
from vitrail.slides.cohort import read_cohort
from vitrail.tiles.appearance import slides_appearance


def measured(cohort: Path, changes: list[str]) -> pd.DataFrame:
    """Cut the slides of a cohort, and measure what they look like; `hospital` is that of `slides.csv`."""
    sites = {entry.slide_id: entry.attributes.get("site", "") for entry in read_cohort(cohort / "slides.csv")}
    with tempfile.TemporaryDirectory() as folder:
        tiles = cut_tiles(cohort / "slides.csv", folder, settings_from(changes))
        slides = slides_appearance(tiles, np.arange(len(tiles)))
    return slides.assign(hospital=[f"{cohort.name} {sites[name]}".strip() for name in slides["slide_id"]])


def beyond(training: pd.DataFrame, others: pd.DataFrame) -> list[bool]:
    """Tell which slides are called beyond a training."""
    names = list(MEASURES)
    seen = fit_training(training[names].to_numpy(np.float64), training["patient_id"].to_numpy(str))
    return [] if seen is None else [own.is_beyond for own in seen.distances_of(others[names].to_numpy(np.float64))]


def left_out_in_turn(slides: pd.DataFrame) -> list[bool]:
    """Tell which slides of a hospital are called beyond the training of its other patients."""
    return [
        called
        for patient in slides["patient_id"].unique()
        for called in beyond(slides[slides["patient_id"] != patient], slides[slides["patient_id"] == patient])
    ]


def main() -> None:
    """Print a line for each hospital by itself, and for each two of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohorts", nargs="+", type=Path)
    parser.add_argument("--set", dest="changes", action="append", default=[])
    arguments = parser.parse_args()
    slides = pd.concat([measured(cohort, arguments.changes) for cohort in arguments.cohorts], ignore_index=True)
    by_hospital = {
        str(name): own for name, own in slides.groupby("hospital") if own["patient_id"].nunique() > FEWEST_PATIENTS
    }
    for name, own in by_hospital.items():
        called, patients = left_out_in_turn(own), own["patient_id"].nunique()
        print(f"{name}, left out in turn: {np.mean(called):.0%} of {len(called)} slides of {patients} patients beyond")
    for name, own in by_hospital.items():
        for other, theirs in by_hospital.items():
            if other != name:
                called = beyond(own, theirs)
                print(f"{other} after {name}: {np.mean(called):.0%} of {len(called)} slides beyond")


if __name__ == "__main__":
    main()
