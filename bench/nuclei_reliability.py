"""Reliability of the features of nuclei: whether its intervals cover, and what it is on real images.

    python bench/nuclei_reliability.py coverage [COHORTS]
    python bench/nuclei_reliability.py cohort SLIDES.CSV [ENGINE]

`coverage` simulates cohorts whose intraclass correlation is known. `cohort` segments the middle of a slide of each of
16 patients, and again mirrored, moved by half a pixel and stained differently.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from vitrail.geometry import Region
from vitrail.nuclei.reliability import VERSIONS, measure_again, reliability
from vitrail.quality.tissue import find_tissue
from vitrail.settings.schema import NucleiSettings
from vitrail.slides.cohort import read_cohort
from vitrail.slides.slide import open_slide, read_region


def simulate(rng, patients, noise, nuclei=20, patient_sd=0.5):
    """Draw normal nuclei of normal patients, of variance 1 in a patient; noise differs from patient to patient."""
    index = pd.MultiIndex.from_product([range(patients), range(nuclei), VERSIONS])
    shape = patients, nuclei, len(VERSIONS)
    truth = rng.normal(0, patient_sd, (patients, 1, 1)) + rng.normal(size=(patients, nuclei, 1))
    own_noise = noise * np.sqrt(rng.gamma(8, 1 / 8, (patients, 1, 1)))
    rows = index.to_frame(index=False, name=["image", "nucleus", "version"])
    return rows.assign(patient=rows["image"], area_um2=(truth + own_noise * rng.normal(size=shape)).ravel())


def coverage(cohorts):
    """Count how often the interval holds the truth."""
    print("| patients | true ICC | cohorts | covered | mean width |\n|---|---|---|---|---|")
    for patients in (8, 15, 30):
        for noise in (0.3, 1.0):
            truth = 1.25 / (1.25 + noise**2)
            rows = [
                reliability(simulate(np.random.default_rng([patients, seed]), patients, noise), seed).iloc[0]
                for seed in range(cohorts)
            ]
            inside = sum(row["low"] <= truth <= row["high"] for row in rows)
            width = np.mean([row["high"] - row["low"] for row in rows])
            print(f"| {patients} | {truth:.3f} | {cohorts} | {inside / cohorts:.1%} | {width:.3f} |", flush=True)


def measure_cohort(slides_csv, engine_name="classical", most=16, side_um=256.0):
    """Measure the nuclei of the middle of each patient's first slide in all versions."""
    from vitrail.nuclei.engines import engine_of  # noqa: PLC0415 - the other half needs none

    engine = engine_of(NucleiSettings(engine=engine_name))
    entries = {entry.patient_id: entry for entry in reversed(read_cohort(slides_csv))}
    tables = []
    for patient, entry in sorted(entries.items())[:most]:
        slide = open_slide(entry.slide, mpp=entry.mpp)
        glass = find_tissue(slide).thresholds.glass
        mpp, side = max(slide.mpp, 0.5), side_um / slide.mpp
        middle = Region(x=(slide.region.width - side) / 2, y=(slide.region.height - side) / 2, width=side, height=side)
        pixels = read_region(slide, middle, (round(side_um / mpp),) * 2)
        tables.append(measure_again(pixels, mpp, engine, glass=glass).assign(image=entry.slide_id, patient=patient))
    rows = pd.concat(tables, ignore_index=True)
    print(f"{engine.name}: {len(tables)} patients, {(rows['version'] == 'original').sum()} nuclei")
    print(reliability(rows).round(3).to_string(index=False))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["coverage", *count]:
            coverage(int(count[0]) if count else 200)
        case ["cohort", slides_csv, *engine]:
            measure_cohort(Path(slides_csv), *engine)
        case _:
            sys.exit(__doc__)
