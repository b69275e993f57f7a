from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from PIL import Image

from helpers.cohort import write_tiff
from helpers.explained import SIDE, explained_rows, shares_of, write_checks, write_explanations
from helpers.numbers import evaluation_data
from vitrail.evaluation.explanations import open_explanations
from vitrail.explain.checks.results import open_checked
from vitrail.report.collect_explanations import PICTURE_PX, collect_explained, methods_to_show
from vitrail.settings.load import Settings
from vitrail.slides.cohort import CohortSlide
from vitrail.stage import Run


def test_tiles_are_read_again_from_their_slides(tmp_path):
    run, slide = run_with_slides(tmp_path)
    entries = {
        name: CohortSlide(slide_id=name, patient_id=name, slide=slide, annotations=slide) for name in ("P0", "P1")
    }
    predictions = pd.DataFrame({"classifier": np.linspace(0.9, 0.1, 36)})
    stored, checked = open_explanations(tmp_path)
    numbers = replace(evaluation_data(), predictions=predictions, explanations=stored, checks=checked)
    found = collect_explained(run, entries, numbers)
    said = predictions["classifier"].to_numpy()[found.stored.rows["tile"]]
    np.testing.assert_array_equal(found.stored.rows["classifier"], said)  # calibrated where the predictions are
    pixels = np.load(tmp_path / "slide.npy")
    table = found.stored.rows
    for row, picture in found.pictures.items():
        x, y = int(table["x"].iloc[row]), int(table["y"].iloc[row])
        if table["slide_id"].iloc[row] == "P2":  # not in the cohort any more: the stored tile stands in
            assert picture.shape == (SIDE, SIDE, 3)
            assert (picture == 7).all()
        else:
            assert picture.shape == (PICTURE_PX, PICTURE_PX, 3)
            small = np.asarray(Image.fromarray(picture).reduce(PICTURE_PX // 32)).astype(float)
            assert np.abs(small - pixels[y : y + 32, x : x + 32]).mean() < 3
    for row, closeup in found.closeups.items():
        x, y = table["x"].iloc[row] + closeup.left * SIDE, table["y"].iloc[row] + closeup.top * SIDE
        if table["slide_id"].iloc[row] != "P2":
            middle = pixels[round(y + closeup.side * SIDE / 2), round(x + closeup.side * SIDE / 2)]
            assert np.abs(closeup.picture.mean((0, 1)) - middle).max() < 4  # the slide is a slope in every channel
        else:
            assert (closeup.picture == 7).all()
    assert set(found.closeups) == set(found.pictures)
    assert found.checked is not None
    assert {row.shape for row in found.pictures.values()} == {(SIDE, SIDE, 3), (PICTURE_PX, PICTURE_PX, 3)}


def run_with_slides(folder):
    yy, xx = np.mgrid[:256, :256]
    pixels = np.stack([xx, yy, (xx + yy) // 2], -1).astype(np.uint8)
    np.save(folder / "slide.npy", pixels)
    slide = write_tiff(folder / "slide.tif", pixels)
    write_explanations(folder / "explanations")
    write_checks(folder / "checks")
    (folder / "tiles").mkdir()
    rows = explained_rows(36)[["slide_id", "patient_id", "x", "y", "side", "label"]]
    rows.join(shares_of(36)).assign(background=0.0).to_parquet(folder / "tiles" / "tiles.parquet")
    np.save(folder / "tiles" / "images.npy", np.full((36, SIDE, SIDE, 3), 7, np.uint8))
    np.save(folder / "tiles" / "masks.npy", np.zeros((36, SIDE, SIDE), np.uint8))
    return Run(folder=folder, settings=Settings()), slide


def test_the_setting_decides_what_is_shown_and_then_the_recommendation(tmp_path):
    checked = open_checked(write_checks(tmp_path))
    before = replace(checked, summary={k: v for k, v in checked.summary.items() if k != "ranking"})
    assert methods_to_show((), None) == methods_to_show((), before) == ()  # checks of before rank nothing
    ranking = {"classifier": {"recommended": ["hrcam", "toy"]}, "segmenter": {"recommended": ["gradcam", "toy"]}}
    ranked = replace(checked, summary=checked.summary | {"ranking": ranking})
    assert methods_to_show((), ranked) == ("hrcam", "toy", "gradcam")
    assert methods_to_show(("gradcam",), ranked) == ("gradcam",)
