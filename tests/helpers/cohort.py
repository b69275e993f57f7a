"""A cohort small enough to be studied from end to end in seconds."""

from __future__ import annotations

import json

import numpy as np
import tifffile
from shapely.geometry import box, mapping

SIDE, MPP = 256, 199.1 / 32
"""Side of a slide in pixels; a tile of 199.1 um is 32 of them, so that 8 by 8 tiles fit."""


FAST = (
    "tiles.side_px=32", "encoder.name=test_efficientnet", "encoder.weights=random", "classifier.epochs=2",
    "classifier.learning_rate=1e-3", "classifier.dense=16", "segmenter.epochs=2", "predict.slides=1",
    "compute.workers=1", "compute.engine=torch", "check.tiles=4", "check.steps=2", "check.draws=1",
    'explain.methods=["gradcam", "hrcam"]', "nuclei.tiles=2", "nuclei.removals=48", "shift.tiles=8",
    "search.side_um=[199.1]", "search.side_px=[32]", "search.cut_px=64", "search.folds=2", "search.epochs=1",
)  # fmt: skip
"""Settings for the small cohort, on top of the preset quick."""


def outline(name, shape):
    return {"type": "Feature", "geometry": mapping(shape), "properties": {"classification": {"name": name}}}


def write_outlines(path, *outlines):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(outlines)}))
    return path


def tissue(seed, side=SIDE):
    """Dark blue tumor on the left, pink stroma on the right, a white rim below."""
    rng = np.random.default_rng(seed)
    image = np.empty((side, side, 3))
    image[:, : side // 2], image[:, side // 2 :] = (110, 70, 150), (225, 160, 190)
    image += rng.normal(0, 12, image.shape)
    image[-side // 16 :] = 250
    return image.clip(0, 255).astype(np.uint8)


def write_tiff(path, image, mpp=MPP):
    resolution = None if mpp is None else (1e4 / mpp, 1e4 / mpp)
    unit = None if mpp is None else "CENTIMETER"
    tifffile.imwrite(
        path, image, tile=(64, 64), photometric="rgb", compression="zlib", metadata=None,
        resolution=resolution, resolutionunit=unit,
    )  # fmt: skip
    return path


def write_cohort(folder, patients=6):
    """Write slides of one patient each, and their slides.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["slide_id,patient_id,slide,annotations,site"]
    for i in range(patients):
        name, half = f"S{i}", SIDE // 2
        write_tiff(folder / f"{name}.tif", tissue(i))
        tumor, rest = outline("Tumor", box(0, 0, half, SIDE - 32)), outline("Non-tumor", box(half, 0, SIDE, SIDE - 32))
        write_outlines(folder / f"{name}.geojson", tumor, rest)
        rows.append(f"{name},P{i},{name}.tif,{name}.geojson,{'larynx' if i % 2 else 'oral cavity'}")
    (folder / "slides.csv").write_text("\n".join(rows) + "\n")
    return folder / "slides.csv"
