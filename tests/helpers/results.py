"""What `vitrail predict` leaves of a slide of 512 by 384 pixels, with numbers that are known."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import shapely

from vitrail.inference.class_map import CHANNELS
from vitrail.interop.class_map import Channel, MapHeader
from vitrail.interop.ome_tiff import ClassMapWriter
from vitrail.nuclei.store import NucleiHeader, writing_nuclei

WIDTH, HEIGHT, MPP = 512, 384, 2.0
SCALE = 0.8
"""Level-0 pixels per pixel of the class map, which is 640 by 480 then."""

TUMOR = shapely.box(80, 96, 240, 160)
"""On the slide, at whole pixels of the map and of its coarser levels."""

ROWS, COLUMNS = slice(120, 200), slice(100, 300)
"""The same on the map."""

EXPLAINED = 2.0
"""Level-0 pixels per pixel of the explanations: a tile is 64, and 32 of them."""

OUTLINES = (shapely.box(100.5, 100, 104, 103.25), shapely.Point(201, 151).buffer(4))


def classes():
    values = np.zeros((480, 640, len(CHANNELS)), np.float32)
    values[..., 3] = 1
    values[80:400, 60:560] = (0.2, 0.6, 0.2, 0, 0)
    values[ROWS, COLUMNS] = (0.8, 0.2, 0, 0, 0)
    values[300:310, 300:320] = (0, 0, 0, 0, 1)
    return values


def saliency():
    """Grad-CAM rises from left to right, HR-CAM is flat; around them nothing was looked at."""
    values = np.full((192, 256, 2), np.nan, np.float32)
    values[32:160, 32:192, 0] = np.linspace(-2.5, 1.5, 160, dtype=np.float32)
    values[32:160, 32:192, 1] = 0
    return values


def write_map(path, values, mpp, channels, **more):
    header = MapHeader(size=values.shape[1::-1], mpp=mpp, channels=channels, **more)
    with ClassMapWriter(path, header) as writer:
        writer.write_rows(values)


def write_results(folder, name, slide):
    """Write the results of a slide; `slide` is the name of its file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_map(folder / f"{name}.classes.ome.tiff", classes(), SCALE * MPP, CHANNELS)
    methods = (Channel(name="Grad-CAM", rgb=(255, 255, 255)), Channel(name="HR-CAM", rgb=(0, 255, 255)))
    path = folder / f"{name}.explanations.ome.tiff"
    write_map(path, saliency(), EXPLAINED * MPP, methods, depth="float32", title="Explanations")
    tiles = pd.DataFrame({"x": [0.0, 64.0, 128.0], "y": [64.0] * 3, "side": 64.0, "tissue": 0.5, "artefact": 0.0})
    tiles["clean"], tiles["background"] = 0.5, [True, False, False]
    tiles["tumor_probability"], tiles["class"] = [np.nan, 0.25, 0.875], ["background", "non_tumor", "tumor"]
    tiles.to_parquet(folder / f"{name}.tiles.parquet")
    facts = {"key": "k", "slide": slide, "mpp": MPP, "map_mpp": SCALE * MPP, "threshold": 0.5}
    facts["summary"] = {"slide_id": name, "tumor_mm2": 0.04096, "tiles": 2, "mean_probability": None}
    (folder / f"{name}.json").write_text(json.dumps(facts))
    centres = shapely.get_coordinates(shapely.centroid(OUTLINES)) * MPP
    rows = pd.DataFrame({"nucleus": [1, 2], "area_um2": [45.5, np.nan]})
    rows["x_um"], rows["y_um"] = centres.T
    rows["geometry"] = [*shapely.to_wkb(OUTLINES)]
    header = NucleiHeader(slide_id=name, mpp=MPP, engine="classical", key="k")
    with writing_nuclei(folder / f"{name}.nuclei.parquet", header) as add:
        add(rows)
    return folder
