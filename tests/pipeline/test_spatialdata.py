"""SpatialData of each slide, read back by spatialdata: outlines, tables, maps, and that they lie over each other."""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.command import vitrail
from helpers.exported import MPP, SIDE, SLIDE, write_results
from vitrail.interop.class_map import CLASS_CHANNELS, MapHeader, read_class_map
from vitrail.interop.ome_tiff import ClassMapWriter
from vitrail.interop.scverse import SPATIALDATA, write_spatialdata
from vitrail.nuclei.store import outlines_of, read_nuclei
from vitrail.pipeline.exports import export_spatialdata

PAGE = Path(__file__).parents[2] / "docs" / "tables.md"
# of spatialdata, dask, numba and what else it imports
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def spatialdata():
    # it takes seconds, and versions of before do not go with every setuptools
    return pytest.importorskip("spatialdata", minversion=SPATIALDATA, exc_type=ImportError)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, spatialdata):  # noqa: ARG001 - without it nothing is written
    """Where the commands of the page were run, on a run that has given tiles of two slides alone: files are many."""
    folder = write_results(tmp_path_factory.mktemp("results"))
    cut = pd.read_csv(table := folder / "study" / "tiles" / "slides.csv", keep_default_na=False)
    cut.loc[~cut["slide_id"].isin(["S0", SLIDE]), "skipped"] = "not here"
    cut.to_csv(table, index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        of_run, of_predictions = blocks("sh")[0].splitlines()
        assert vitrail(*shlex.split(of_run)[1:]) == 0
        (folder / "spatial").rename(folder / "of_run")
        assert vitrail(*shlex.split(of_predictions)[1:]) == 0
    return folder


def blocks(language):
    page = PAGE.read_text(encoding="utf-8")
    return [block for block in re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL) if "spatialdata" in block]


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_of_a_run_there_are_tiles_of_the_study_and_nuclei_as_circles(folder, spatialdata):
    run = spatialdata.read_zarr(folder / "of_run" / f"{SLIDE}.zarr")
    assert {*run.shapes} == {"tiles", "study_tiles", "study_nuclei"}
    assert {*run.images} == {"classes", "explanations"}
    predicted = pd.read_parquet(folder / "study" / "predictions" / "tiles.parquet")
    studied = predicted[predicted["slide_id"] == SLIDE]
    table = run["study_tiles_table"]
    assert table.obs["label"].tolist() == studied["label"].tolist()
    np.testing.assert_array_equal(table.obs["classifier"], studied["classifier"])
    areas = pd.read_parquet(folder / "study" / "nuclei" / "nuclei.parquet")["area_um2"]
    np.testing.assert_allclose(np.pi * (run["study_nuclei"]["radius"] * MPP) ** 2, areas)
    other = spatialdata.read_zarr(folder / "of_run" / "S0.zarr")  # which was not mapped, and has no nuclei
    assert {*other.shapes} == {"study_tiles"}
    assert {path.name for path in (folder / "of_run").iterdir()} == {"S0.zarr", f"{SLIDE}.zarr"}


def test_the_example_of_the_page_finds_the_values_of_tables_and_maps(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {}
    exec(compile(blocks("python")[0], PAGE.name, "exec"), names)  # noqa: S102 - our own page
    slide, tiles = names["slide"], pd.read_parquet(folder / "predictions" / f"{SLIDE}.tiles.parquet")
    np.testing.assert_array_equal(names["probabilities"], tiles["tumor_probability"])
    np.testing.assert_array_equal(slide["tiles"].bounds[["minx", "miny"]], tiles[["x", "y"]])
    nuclei = read_nuclei(folder / "predictions" / f"{SLIDE}.nuclei.parquet")
    assert [*slide["nuclei"].geometry] == [*outlines_of(nuclei)]
    stored = read_class_map(folder / "predictions" / f"{SLIDE}.classes.ome.tiff")
    pixels = stored.planes(slice(None), slice(None), 0)
    np.testing.assert_array_equal(slide["classes"].data.compute(), pixels)
    np.testing.assert_array_equal(names["tumor"].data.compute(), pixels[0])
    assert slide.attrs["vitrail"]["mpp"] == MPP


def test_all_lies_over_each_other_in_um(folder, spatialdata):
    slide = spatialdata.read_zarr(folder / "spatial" / f"{SLIDE}.zarr")
    for name in ("tiles", "nuclei"):
        outlines, table = spatialdata.transform(slide[name], to_coordinate_system="global"), slide[f"{name}_table"]
        assert set(table.obs["region"]) == {name}
        assert [*outlines.index] == table.obs["instance"].tolist()
        centres = np.stack([outlines.centroid.x, outlines.centroid.y], 1)
        np.testing.assert_allclose(centres, table.obsm["spatial"], rtol=1e-6)
    _, matched = spatialdata.match_element_to_table(slide, "tiles", "tiles_table")
    assert len(matched) == len(slide["tiles"])
    extent = spatialdata.get_extent(slide["classes"])  # 8 by 8 tiles
    assert (extent["x"], extent["y"]) == ((0, pytest.approx(8 * SIDE * MPP)), (0, pytest.approx(8 * SIDE * MPP)))


def test_the_same_results_give_the_same_bytes(folder, tmp_path):
    for out in ("first", "second"):
        export_spatialdata(folder / "predictions", tmp_path / out)
    first, second = (digests(tmp_path / out) for out in ("first", "second"))
    assert len(first) > 50
    assert first == second


def test_levels_of_a_large_map_are_copied_as_they_are(spatialdata, tmp_path):
    header, rng = MapHeader(size=(1300, 700), mpp=2.0), np.random.default_rng(0)
    with ClassMapWriter(tmp_path / "m.ome.tiff", header) as writer:
        writer.write_rows(rng.random((700, 1300, len(CLASS_CHANNELS)), np.float32))
    stored = read_class_map(tmp_path / "m.ome.tiff")
    write_spatialdata(tmp_path / "s.zarr", 0.5, {}, {"classes": stored}, {"version": "x"})
    image = spatialdata.read_zarr(tmp_path / "s.zarr")["classes"]
    assert len(image) == len(header.levels) == 4
    for level in range(4):
        pixels = image[f"scale{level}"]["image"]
        np.testing.assert_array_equal(pixels.data.compute(), stored.planes(slice(None), slice(None), level))
        assert [*pixels.coords["c"].to_numpy()] == [channel.name for channel in CLASS_CHANNELS]
    extent = spatialdata.get_extent(image)
    assert (extent["x"], extent["y"]) == ((0, 2600), (0, 1400))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
