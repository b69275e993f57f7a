"""Folders laid out as cohorts are given away, with slides of a few pixels."""

from __future__ import annotations

import csv
import json

import numpy as np
from shapely.geometry import box, mapping

from helpers.cohort import write_tiff

SIDE = 32


def write_slide(path, seed=0, side=SIDE, mpp=0.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_tiff(path, np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8), mpp)


def write_outline(path, name=None):
    """Write an outline as QuPath does; without a name it has no class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    properties = {"objectType": "annotation"} | ({"classification": {"name": name}} if name else {})
    feature = {"type": "Feature", "geometry": mapping(box(0, 0, SIDE / 2, SIDE)), "properties": properties}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_hancock(root, patients=10):
    """Write slides of two sites, one at the root and one below a folder of all sites, and all that comes with them."""
    annotations = root / "WSI_PrimaryTumor_Annotations"
    for number in range(1, patients + 1):
        folder = "WSI_PrimaryTumor_Larynx" if number % 2 else "WSI_PrimaryTumor/WSI_PrimaryTumor_Oropharynx_Part2"
        write_slide(root / folder / f"PrimaryTumor_HE_{number:03d}.svs", number)
        write_outline(annotations / f"PrimaryTumor_HE_{number:03d}.geojson", "Tumor" if number % 3 else None)
    write_slide(root / "WSI_PrimaryTumor_Larynx" / "PrimaryTumor_HE_001_a.svs", 500)
    write_outline(annotations / "PrimaryTumor_HE_001_a.geojson")
    write_slide(root / "WSI_LymphNode" / "LymphNode_HE_001.svs", 600)
    write_slide(root / "TMA_TumorCenter" / "HE" / "TumorCenter_HE_block1.svs", 601)
    names = [f"{number:03d}" for number in range(1, patients + 1)]
    clinical = [
        {"patient_id": name, "age_at_initial_diagnosis": 50 + i, "sex": "female"} for i, name in enumerate(names)
    ]
    pathology = [
        {"patient_id": name, "primary_tumor_site": "Larynx", "pT_stage": "pT2", "infiltration_depth_in_mm": None}
        for name in names
    ]
    write_json(root / "StructuredData" / "clinical_data.json", clinical)
    write_json(root / "StructuredData" / "pathological_data.json", pathology)
    split = [{"patient_id": name, "dataset": "test" if i < 2 else "training"} for i, name in enumerate(names)]
    write_json(root / "DataSplits_DataDictionaries" / "dataset_split_in.json", split)
    return root


def reasons(table):
    """Read what did not match: the names of the files by reason."""
    found = {}
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["reason"], []).append(row["file"].rpartition("/")[2])
    return found
