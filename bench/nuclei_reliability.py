"""Reliability of the features of nuclei: whether its intervals cover, and what it is on real images.

    python bench/nuclei_reliability.py coverage [COHORTS]
    python bench/nuclei_reliability.py images FOLDER MPP [ENGINE]

`coverage` simulates cohorts whose intraclass correlation is known. `images` segments every picture of a folder anew,
mirrored, moved and stained differently; each picture is taken for a patient of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from vitrail.nuclei.reliability import VERSIONS, measure_again, reliability


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


def images(folder, mpp, engine_name="classical"):
    """Measure the nuclei of each picture in all versions."""
    from vitrail.nuclei.engines import engine_of  # noqa: PLC0415 - the other half needs none

    from vitrail.settings.schema import NucleiSettings  # noqa: PLC0415 - the same

    engine = engine_of(NucleiSettings(engine=engine_name))
    tables = []
    for path in sorted(folder.glob("*.png")):
        if path.stem.endswith("_nuclei"):
            continue
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        tables.append(measure_again(pixels, mpp, engine).assign(image=path.stem, patient=path.stem))
    print(reliability(pd.concat(tables, ignore_index=True)).round(3).to_string(index=False))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["coverage", *count]:
            coverage(int(count[0]) if count else 200)
        case ["images", folder, mpp, *engine]:
            images(Path(folder), float(mpp), *engine)
        case _:
            sys.exit(__doc__)
