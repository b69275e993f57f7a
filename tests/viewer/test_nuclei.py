from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import shapely

from helpers.cohort import write_tiff
from vitrail.nuclei.features import FEATURES
from vitrail.nuclei.store import NucleiHeader, writing_nuclei
from vitrail.slides.slide import open_slide
from vitrail.viewer.nuclei import SHOWN, nuclei_rasters
from vitrail.viewer.session import id_of, session_of


@pytest.fixture
def slide(tmp_path):
    return open_slide(write_tiff(tmp_path / "slide.tif", np.full((600, 1100, 3), 240, np.uint8), mpp=0.5))


def write(folder, circles):
    """Nuclei as circles `(x, y, radius, area)`, in level-0 pixels."""
    rows = pd.DataFrame(dict.fromkeys(FEATURES, np.nan), index=range(len(circles)))
    rows["area_um2"] = [area for *_, area in circles]
    rows["nucleus"], rows["x_um"], rows["y_um"], rows["orientation"] = np.arange(1, len(circles) + 1), 0.0, 0.0, 0.0
    rows["geometry"] = [shapely.to_wkb(shapely.Point(x, y).buffer(radius)) for x, y, radius, _ in circles]
    header = NucleiHeader(slide_id="slide", mpp=0.5, engine="none", key="key")
    with writing_nuclei(folder / "slide.nuclei.parquet", header) as add:
        add(rows)
    return folder / "slide.nuclei.parquet"


def test_nuclei_lie_where_they_are_and_have_their_number(slide, tmp_path):
    table = write(tmp_path, [(100, 80, 12, 50.0), (700, 300, 20, 90.0), (256, 256, 9, 70.0)])
    raster = next(iter(nuclei_rasters(table, slide)))
    values = raster.read(0, slice(0, 256), slice(0, 256))
    y, x = np.mgrid[:256, :256] + 0.5
    distance = np.hypot(x - 100, y - 80)
    assert (values[distance < 11] == 50).all()
    assert np.isnan(values[(distance > 13.5) & (np.hypot(x - 256, y - 256) > 11)]).all()
    parts = [raster.read(0, rows, columns) for rows in (slice(0, 256), slice(256, 512)) for columns in
             (slice(0, 256), slice(256, 512))]  # fmt: skip
    inside = sum(int((part == 70).sum()) for part in parts)
    assert inside == pytest.approx(np.pi * 81, rel=0.15)  # one nucleus across the corner of four squares
    half = raster.read(1, slice(0, 256), slice(256, 512))
    assert half[150, 350 - 256] == 90


def test_from_afar_a_pixel_has_the_mean_of_its_nuclei(slide, tmp_path):
    rng = np.random.default_rng(0)
    circles = [(*rng.uniform(8, 590, 2), 4, rng.uniform(20, 90)) for _ in range(3000)]
    raster = next(iter(nuclei_rasters(write(tmp_path, circles), slide)))
    values = raster.read(3, slice(0, 75), slice(0, 138))
    x, y, _, area = np.array(circles).T
    own = (x // 8 == 20) & (y // 8 == 30)
    assert values[30, 20] == pytest.approx(area[own].mean()) if own.any() else np.isnan(values[30, 20])
    assert np.isfinite(values).sum() == len(set(zip((x // 8).tolist(), (y // 8).tolist(), strict=True)))


def test_a_slide_without_nuclei_has_empty_layers(slide, tmp_path):
    rasters = list(nuclei_rasters(write(tmp_path, []), slide))
    assert len(rasters) == len(SHOWN)
    assert np.isnan(rasters[0].read(0, slice(0, 256), slice(0, 256))).all()


def test_a_table_beside_a_slide_is_a_layer(slide, tmp_path):
    write(tmp_path, [(100, 80, 12, 50.0)])
    rasters = session_of([slide.path]).rasters(id_of("slide"))
    assert "nuclei_area_um2" in rasters
    assert rasters["nuclei_area_um2"].describe()["width"] == 1100
