"""A finished run with nuclei, predictions of one of its slides, and the cohort: results to be exported."""

from __future__ import annotations

import json
import shutil
import tarfile
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import shapely

from helpers.nuclei_study import drawn
from vitrail.explain.nuclei.results import COLUMNS, LABELS, SUMMARY, as_table
from vitrail.nuclei.features import FEATURES
from vitrail.nuclei.store import NucleiHeader, writing_nuclei

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "run-2026-11.tar.xz"
SLIDE, MPP, SIDE = "S3", 199.1 / 32, 32.0
NUCLEI = 40


def write_results(folder):
    """Write `study`, a run, `predictions`, what `vitrail predict --nuclei` leaves of its slide S3, and `cohort`."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder / "packed", filter="data")
    (folder / "packed" / "study" / "run").rename(folder / "study")
    (folder / "packed" / "study" / "cohort").rename(folder / "cohort")
    shutil.rmtree(folder / "packed")
    (folder / "predictions").mkdir()
    for file in (folder / "study" / "predictions" / "maps").glob(f"{SLIDE}.*"):
        shutil.copy(file, folder / "predictions" / file.name)
    write_slide_nuclei(folder / "predictions" / f"{SLIDE}.nuclei.parquet")
    write_study_nuclei(folder / "study" / "nuclei")
    return folder


def write_slide_nuclei(path):
    """Write nuclei anywhere on the slide, one of them beyond its maps."""
    rng = np.random.default_rng(1)
    centres = rng.uniform(0, 250, (NUCLEI, 2))
    centres[0] = 300, 10
    table = pd.DataFrame({name: rng.gamma(2, 3, NUCLEI).astype(np.float32) for name in FEATURES})
    table["nucleus"] = np.arange(1, NUCLEI + 1)
    table["x_um"], table["y_um"] = centres.T * MPP
    table["geometry"] = [*shapely.to_wkb(shapely.buffer(shapely.points(centres), 2, quad_segs=3))]
    with writing_nuclei(path, NucleiHeader(slide_id=SLIDE, mpp=MPP, engine="classical", key="k")) as add:
        add(table)


def write_study_nuclei(folder):
    """Write what networks were asked about nuclei on two test tiles; two of them nobody removed."""
    rng = np.random.default_rng(2)
    owners = [{"tile": tile, "slide_id": SLIDE, "patient_id": "P3"} for tile in (168, 170)]
    rows = [
        owner | {"nucleus": number, "x": rng.uniform(0, 32), "y": 5.0 * number, "area_um2": rng.uniform(20, 90)}
        for owner, number in product(owners, range(1, 5))
    ]
    networks = ("classifier", "segmenter")
    relevance = [
        {**row, "network": network, "method": "hrcam", "mean": rng.normal(), "mass": rng.random()}
        for row, network in product(rows, networks)
    ]
    effects = [
        {**row, "network": network, "draw": draw, "effect_logit": rng.normal()}
        for row, network, draw in product(rows, networks, (-1, 0))
        if row["nucleus"] < 4
    ]
    tiles = [owner | {"label": "tumor", "nuclei": 4, "mpp": MPP} for owner in owners]
    tables = {"tiles": tiles, "nuclei": rows, "relevance": relevance, "effects": effects}
    folder.mkdir()
    for name in COLUMNS:
        table = drawn(name, tables[name]) if name in tables else as_table(name, [])
        table.to_parquet(folder / f"{name}.parquet")
    np.savez(folder / LABELS, **{str(owner["tile"]): np.zeros((8, 8), np.uint16) for owner in owners})
    (folder / SUMMARY).write_text(json.dumps({"tiles": 2, "patients": 1, "nuclei": len(rows), "refused": []}))
