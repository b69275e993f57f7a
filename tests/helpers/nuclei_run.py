"""A small run of untrained networks on slides of drawn nuclei, explained, and ready to be asked which ones matter."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from helpers.cohort import write_tiff
from helpers.nuclei import MPP, draw_nuclei
from vitrail.core.files import write_table
from vitrail.core.progress import Silent
from vitrail.explain.explainer import Explainer
from vitrail.explain.study.store import AGREEMENT, ROWS, Kind, create_file, write_summary
from vitrail.geometry import Region
from vitrail.models.spec import ClassifierSpec, SegmenterSpec
from vitrail.models.store import Model, build, save_model
from vitrail.settings.load import Settings
from vitrail.slides.cohort import CohortSlide
from vitrail.slides.slide import open_slide, read_region
from vitrail.stage import Run, Work

SIDE_PX, TILE_PX, SLIDES = 32, 160, 4
SIDE_UM = TILE_PX * MPP
SHARED = {
    "encoder": "test_efficientnet", "side_um": SIDE_UM, "side_px": SIDE_PX,
    "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.25, 0.15),
}  # fmt: skip
SPECS = {
    "classifier": ClassifierSpec(**SHARED, dense=8, dropout=0.5),
    "segmenter": SegmenterSpec(**SHARED, decoder=(8, 8, 8, 8, 8)),
}


def settings(**nuclei):
    return Settings.model_validate(
        {
            "tiles": {"side_um": SIDE_UM, "side_px": SIDE_PX},
            "compute": {"device": "cpu", "engine": "torch"},
            "nuclei": {"tiles": 5, "removals": 48, "engine": "classical"} | nuclei,
        }
    )


def write_nuclei_run(folder, mpp=MPP):
    """Write slides of a patient each and a run that has come as far as its explanations; return run and cohort."""
    slides = folder / "cohort"
    slides.mkdir(parents=True)
    entries, rows, images = [], [], []
    for number in range(SLIDES):
        image, _ = draw_nuclei(seed=number, count=160)
        entry = CohortSlide(
            slide_id=f"S{number}", patient_id=f"P{number}", slide=write_tiff(slides / f"S{number}.tif", image, mpp),
            annotations=slides / "none.geojson",
        )  # fmt: skip
        entries.append(entry)
        slide = open_slide(entry.slide)
        for column in range(2):
            x, y = 20.0 + 170 * column, 30.0
            images.append(read_region(slide, Region(x=x, y=y, width=TILE_PX, height=TILE_PX), (SIDE_PX, SIDE_PX)))
            rows.append({"slide_id": entry.slide_id, "patient_id": entry.patient_id, "x": x, "y": y})
    i = np.arange(len(rows))
    table = pd.DataFrame(rows).assign(
        side=float(TILE_PX),
        label=np.where(i % 2, "non_tumor", "tumor"),
        classifier=np.where(i % 2, 0.1, 0.9),
        segmenter=np.where((i % 2 == 1) | (i == 2), 0.1, 0.8),
    )
    run = folder / "run"
    (run / "tiles").mkdir(parents=True)
    table.to_parquet(run / "tiles" / "tiles.parquet")
    np.save(run / "tiles" / "images.npy", np.stack(images))
    np.save(run / "tiles" / "masks.npy", np.zeros((len(rows), SIDE_PX, SIDE_PX), np.uint8))
    torch.manual_seed(0)
    kinds, maps = {}, {}
    for network, spec in SPECS.items():
        module = build(spec).eval()
        save_model(run / network, module, spec)
        made = Explainer(Model(spec=spec, module=module), torch.device("cpu")).gradcam(np.stack(images))
        values = maps[f"{network}_gradcam"] = np.stack([each.values for each in made])  # noqa: PD011 - no data frame
        kinds[f"{network}_gradcam"] = Kind(
            method="gradcam", layers=made[0].layers, target="tumor", frame=made[0].frame, size=values.shape[1:]
        )
    (run / "explanations").mkdir()
    file = create_file(run / "explanations", kinds, len(rows))
    for key, values in maps.items():
        file.maps(key)[:] = values
    write_table(run / "explanations" / ROWS, table.assign(tile=i))
    write_table(run / "explanations" / AGREEMENT, table[["slide_id", "patient_id"]].assign(tile=i))
    keys = ("agreement", "agreement_relu", "empty", "tiles", "patients", "min_share", "layers")
    write_summary(run / "explanations", dict.fromkeys(keys))
    return run, tuple(entries)


def nuclei_work(run, out, progress=None, **nuclei):
    """The stage `nuclei` of the run."""
    out.mkdir(exist_ok=True)
    return Work(
        run=Run(folder=run, settings=settings(**nuclei)), folder=out, scratch=out, progress=progress or Silent()
    )
