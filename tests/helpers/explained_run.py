"""A small run whose tiles, split and both networks, with random weights, wait to be explained."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from vitrail.classes import TissueClass
from vitrail.core.progress import Silent
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.spec import ClassifierSpec, SegmenterSpec
from vitrail.models.store import build, save_model
from vitrail.settings.load import Settings
from vitrail.stage import Run, Work

SHARED = {"encoder": "test_efficientnet", "side_um": 199.1, "side_px": 64, "mean": (0.5,) * 3, "std": (0.25,) * 3}
CLASSIFIER = ClassifierSpec(**SHARED, dense=16, dropout=0.5)
SEGMENTER = SegmenterSpec(**SHARED, decoder=(16, 8, 8, 8, 8))
CPU = torch.device("cpu")
PATIENTS = ("train", "test", "train", "test", "validation", "test", "train")
EACH = 16
"""Tiles of each patient: 48 are test tiles, which is a batch and a half."""


def tile_rows():
    """Half of the tiles are tumor; a quarter of all are clear of neither class."""
    i = np.arange(len(PATIENTS) * EACH)
    tumor, share = i % 2 == 0, np.where(i % 4 == 3, 0.6, 0.9)
    return pd.DataFrame({
        "slide_id": [f"S{n}" for n in i // EACH], "patient_id": [f"P{n}" for n in i // EACH],
        "x": i * 10.0, "y": 5.0, "side": 100.0, "label": np.where(tumor, "tumor", "non_tumor"),
        "tumor": np.where(tumor, share, 0), "non_tumor": np.where(tumor, 0, share),
        "other": 1 - share, "background": 0.0,
    })  # fmt: skip


def tile_images(rows):
    """Tumor is darker, in a place of its own in each tile; the first test tile is one colour throughout."""
    rng = np.random.default_rng(0)
    images = rng.normal(170, 25, (len(rows), 64, 64, 3))
    for image, (x, y) in zip(images[::2], rng.integers(0, 32, (len(rows), 2)), strict=False):
        image[y : y + 40, x : x + 40] -= 60
    images[EACH] = 128
    return images.clip(0, 255).astype(np.uint8)


def networks(images):
    """Random networks; the segmenter sees tumor in half of the tiles."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        classifier, segmenter = build(CLASSIFIER).eval(), build(SEGMENTER).eval()
        logits = segmenter(standardised(images))
        others = logits[:, 1:].amax(1)
        best = (logits[:, TissueClass.TUMOR] - others).amax((1, 2))
        segmenter.unet.segmentation_head[0].bias[TissueClass.TUMOR] -= best.median()
    return classifier, segmenter


def standardised(images):
    return Normalizer(CLASSIFIER, CPU)(intensities(torch.from_numpy(images)))


def write_run(folder):
    """Write tiles, split and both networks."""
    rows = tile_rows()
    images = tile_images(rows)
    (folder / "tiles").mkdir()
    rows.to_parquet(folder / "tiles" / "tiles.parquet")
    np.save(folder / "tiles" / "images.npy", images)
    np.save(folder / "tiles" / "masks.npy", np.zeros(images.shape[:3], np.uint8))
    (folder / "split").mkdir()
    lines = [f"P{i},{split}" for i, split in enumerate(PATIENTS)]
    (folder / "split" / "patients.csv").write_text("\n".join(["patient_id,split", *lines]))
    for name, module, spec in zip(("classifier", "segmenter"), networks(images), (CLASSIFIER, SEGMENTER), strict=True):
        save_model(folder / name, module, spec)
    return folder


CHECK = {"tiles": 4, "steps": 2, "draws": 2}


def work_on(run, folder, progress=None, **explain):
    """The stage `explain` of the run, with changed settings."""
    settings = Settings.model_validate(
        {"compute": {"device": "cpu"}, "explain": {"training": "exact", "l2": 0.05} | explain, "check": CHECK}
    )
    folder.mkdir(exist_ok=True)
    return Work(run=Run(folder=run, settings=settings), folder=folder, scratch=folder, progress=progress or Silent())
