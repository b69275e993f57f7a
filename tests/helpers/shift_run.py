"""A small run of untrained networks on tiles of two sites that are stained unlike, ready to be asked about shifts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from helpers.stained import stained_tiles
from vitrail.core.progress import Silent
from vitrail.models.spec import ClassifierSpec, SegmenterSpec
from vitrail.models.store import build, save_model
from vitrail.settings.load import Settings
from vitrail.shift.stage import study_shift
from vitrail.slides.cohort import CohortSlide
from vitrail.stage import Run, Work
from vitrail.tiles.split import write_split

SIDE_PX, TILES, TRAIN, TEST = 32, 4, 12, 8
SHARED = {
    "encoder": "test_efficientnet", "side_um": 32.0, "side_px": SIDE_PX, "mean": (0.7, 0.5, 0.6),
    "std": (0.2, 0.25, 0.15),
}  # fmt: skip
SPECS = {
    "classifier": ClassifierSpec(**SHARED, dense=8, dropout=0.5),
    "segmenter": SegmenterSpec(**SHARED, decoder=(8, 8, 8, 8, 8)),
}


def settings(tiles=6):
    return Settings.model_validate(
        {
            "tiles": {"side_um": 32.0, "side_px": SIDE_PX},
            "compute": {"device": "cpu", "engine": "torch"},
            "shift": {"tiles": tiles},
        }
    )


def write_shift_run(folder, *, sites=True):
    """Write tiles, split and models of patients with a slide each; of the test, the second half is of another site."""
    run, rows, images, entries, split = folder / "run", [], [], [], {}
    for number in range(TRAIN + TEST):
        name, patient = f"S{number:02d}", f"P{number:02d}"
        far = number >= TRAIN + TEST // 2
        images.append(stained_tiles(number, TILES, SIDE_PX, (0.5, 0.2) if far else (0.5, 0.5)))
        rows += [{"slide_id": name, "patient_id": patient, "x": 0.0, "y": 32.0 * tile} for tile in range(TILES)]
        split[patient] = "train" if number < TRAIN else "test"
        none = Path("none")
        attributes = {"site": "far" if far else "near"} if sites else {}
        entries.append(
            CohortSlide(slide_id=name, patient_id=patient, slide=none, annotations=none, attributes=attributes)
        )
    at = np.arange(len(rows))
    table = pd.DataFrame(rows).assign(side=32.0, label=np.where(at % 2, "non_tumor", "tumor"))
    (run / "tiles").mkdir(parents=True)
    (run / "split").mkdir()
    table.to_parquet(run / "tiles" / "tiles.parquet")
    np.save(run / "tiles" / "images.npy", np.concatenate(images))
    np.save(
        run / "tiles" / "masks.npy", np.broadcast_to((at % 2)[:, None, None], (len(at), SIDE_PX, SIDE_PX)).astype("u1")
    )
    write_split(run / "split", pd.Series(split, name="split").rename_axis("patient_id"))
    torch.manual_seed(0)
    for task, spec in SPECS.items():
        save_model(run / task, build(spec).eval(), spec)
    return run, tuple(entries)


def shift_of(run, entries, out, tiles=6):
    """Make the stage `shift` of the run; return its folder."""
    out.mkdir(exist_ok=True)
    study_shift(
        Work(run=Run(folder=run, settings=settings(tiles)), folder=out, scratch=out, progress=Silent()), entries
    )
    return out
