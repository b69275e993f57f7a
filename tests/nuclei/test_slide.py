"""Nuclei of whole slides: as if the slide were one image, whatever the windows, also after a kill."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import shapely

from helpers.nuclei import MPP, DarkPixels, segment_region, write_nuclei_slide
from vitrail.core.progress import Silent
from vitrail.errors import SlideError
from vitrail.nuclei import slide as module
from vitrail.nuclei.features import FEATURES, OWN, measure
from vitrail.nuclei.outlines import outline_nuclei
from vitrail.nuclei.slide import NucleiFiles, measure_slide
from vitrail.nuclei.store import NucleiHeader, outlines_of, read_header, read_nuclei
from vitrail.quality.tissue import find_tissue
from vitrail.slides.slide import read_region

HEADER = NucleiHeader(slide_id="A", mpp=MPP, engine="dark pixels", key="k")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    slide, labels = write_nuclei_slide(tmp_path_factory.mktemp("nuclei") / "A.tif")
    return slide, labels, find_tissue(slide)


def run(drawn, folder, engine, key="k", tissue=None):
    slide, _, own = drawn
    files = NucleiFiles(base=folder / "A", key=key)
    count = measure_slide(slide, tissue or own, partial(segment_region, slide, engine=engine), files, HEADER, Silent())
    return files, count


def whole(drawn):
    """Measure the slide as one image."""
    slide, labels, tissue = drawn
    image = read_region(slide, slide.region, labels.shape[::-1])
    return measure(labels, image, MPP, glass=tissue.thresholds.glass), shapely.area(outline_nuclei(labels))


@pytest.mark.parametrize("window_px", [128, 1024])
def test_windows_change_nothing(drawn, tmp_path, monkeypatch, window_px):
    monkeypatch.setattr(module, "WINDOW_PX", window_px)
    files, count = run(drawn, tmp_path, DarkPixels())
    table, (expected, areas) = read_nuclei(files.table), whole(drawn)
    assert count == len(table) == len(expected) > 80
    assert table["nucleus"].tolist() == [*range(1, count + 1)]
    ours = table.sort_values(["y_um", "x_um"]).reset_index(drop=True)
    theirs = expected.assign(polygon=areas).sort_values(["y_um", "x_um"]).reset_index(drop=True)
    # the last bits of sums depend on the window, and that of a level of grey may
    exact = [name for name in ("x_um", "y_um", *OWN) if not name.startswith(("texture", "clumps"))]
    np.testing.assert_allclose(ours[exact], theirs[exact], rtol=1e-4, atol=1e-4)
    assert shapely.area(outlines_of(ours)).tolist() == theirs["polygon"].tolist()
    assert not files.partial.exists()


def test_neighbours_do_not_end_at_windows(drawn, tmp_path, monkeypatch):
    tables = []
    for window_px in (150, 1024):
        monkeypatch.setattr(module, "WINDOW_PX", window_px)
        files, _ = run(drawn, tmp_path / str(window_px), DarkPixels())
        tables.append(read_nuclei(files.table).sort_values(["y_um", "x_um"]).reset_index(drop=True))
    around = [name for name, feature in FEATURES.items() if feature.group == "neighbours"]
    np.testing.assert_allclose(tables[0][around], tables[1][around], rtol=1e-4)
    assert tables[0]["edge_um"].notna().all()


def test_a_restless_engine_gives_no_nucleus_twice_and_loses_none(drawn, tmp_path, monkeypatch):
    """Its outlines and centres differ from window to window."""
    monkeypatch.setattr(module, "WINDOW_PX", 128)
    files, count = run(drawn, tmp_path, DarkPixels(restless=True))
    outlines = outlines_of(read_nuclei(files.table))
    first, second = shapely.STRtree(outlines).query(outlines, predicate="intersects")
    common = shapely.area(shapely.intersection(outlines[first], outlines[second]))
    least = np.minimum(shapely.area(outlines[first]), shapely.area(outlines[second]))
    assert (common[first != second] < 0.5 * least[first != second]).all()
    assert count == pytest.approx(drawn[1].max(), rel=0.02)


def test_outlines_are_where_the_nuclei_are(drawn, tmp_path):
    files, _ = run(drawn, tmp_path, DarkPixels())
    table = read_nuclei(files.table)
    centers = shapely.get_coordinates(shapely.centroid(outlines_of(table))) * MPP
    np.testing.assert_allclose(centers, table[["x_um", "y_um"]], atol=0.3)


def test_a_killed_run_goes_on_and_ends_alike(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WINDOW_PX", 200)
    engine = DarkPixels()
    files, _ = run(drawn, tmp_path / "whole", engine)
    with pytest.raises(KeyboardInterrupt):
        run(drawn, tmp_path / "killed", DarkPixels(patience=5))
    assert not (tmp_path / "killed" / "A.nuclei.parquet").exists()
    again = DarkPixels()
    killed, _ = run(drawn, tmp_path / "killed", again)
    assert again.calls == engine.calls - 5
    assert killed.table.read_bytes() == files.table.read_bytes()


def test_unfinished_work_of_other_settings_is_not_taken_up(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WINDOW_PX", 200)
    with pytest.raises(KeyboardInterrupt):
        run(drawn, tmp_path, DarkPixels(patience=5))
    engine = DarkPixels()
    run(drawn, tmp_path, engine, key="another")
    fresh = DarkPixels()
    run(drawn, tmp_path / "fresh", fresh)
    assert engine.calls == fresh.calls


def test_only_tissue_is_looked_at(drawn, tmp_path, monkeypatch):
    from dataclasses import replace  # noqa: PLC0415

    monkeypatch.setattr(module, "WINDOW_PX", 128)
    slide, labels, tissue = drawn
    mask = tissue.mask.copy()
    mask[:, mask.shape[1] // 4 :] = False
    engine, all_engine = DarkPixels(), DarkPixels()
    files, count = run(drawn, tmp_path, engine, tissue=replace(tissue, mask=mask))
    run(drawn, tmp_path / "all", all_engine)
    assert engine.calls < all_engine.calls / 2 + 2
    assert 0 < count < labels.max() / 2
    edge = mask.shape[1] // 4 * tissue.um_per_px
    assert read_nuclei(files.table)["x_um"].max() <= edge + tissue.um_per_px
    with pytest.raises(SlideError, match="holds no tissue"):
        run(drawn, tmp_path / "none", DarkPixels(), tissue=replace(tissue, mask=np.zeros_like(mask)))
    assert slide.mpp == MPP


def test_a_slide_without_nuclei_has_a_table_without_rows(drawn, tmp_path):
    files, count = run(drawn, tmp_path, lambda image, mpp: np.zeros(image.shape[:2], np.int32))  # noqa: ARG005
    table = read_nuclei(files.table)
    assert count == len(table) == 0
    assert set(FEATURES) < set(table.columns)
    assert read_header(files.table) == HEADER
    assert isinstance(table, pd.DataFrame)
