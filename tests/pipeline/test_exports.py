"""Results in the formats of other programs: a run and a folder of predictions, exported and read back by others."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import anndata
import geopandas
import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from helpers.command import vitrail
from helpers.exported import MPP, NUCLEI, SIDE, SLIDE, write_results
from vitrail.errors import ExchangeError, RunError, SettingsError
from vitrail.explain.study.store import open_stored
from vitrail.inference.relevance import relevance_at, relevance_of_tiles
from vitrail.interop.class_map import Channel, MapHeader, read_class_map
from vitrail.interop.ome_tiff import ClassMapWriter
from vitrail.models.store import load_explained, model_digest
from vitrail.nuclei.features import FEATURES
from vitrail.nuclei.store import outlines_of, read_nuclei
from vitrail.pipeline import exports
from vitrail.pipeline.exports import FeatureSource, export_anndata, export_geoparquet, export_h5, export_ome_zarr
from vitrail.pipeline.result_folder import open_results
from vitrail.tiles.store import read_tiles

PAGE = Path(__file__).parents[2] / "docs" / "tables.md"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write_results(tmp_path_factory.mktemp("results"))


def standardised_features(run, images):
    """Compute what the classifier's encoder makes of tiles, by hand."""
    model = load_explained(run / "classifier")
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (model.spec.mean, model.spec.std))
    batch = (torch.tensor(np.asarray(images)).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        return model.module.features(batch).mean((2, 3)).numpy()


def test_every_command_and_example_of_the_page_works(results, tmp_path, monkeypatch):
    """But for those of SpatialData, which tests/pipeline/test_spatialdata.py runs."""
    monkeypatch.chdir(tmp_path)
    for name in ("study", "cohort", "predictions"):
        (tmp_path / name).symlink_to(results / name)
    blocks = re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = 0
    for language, block in blocks:
        if "spatialdata" in block:
            continue
        if language == "python":
            exec(compile(block, PAGE.name, "exec"), names := {})  # noqa: S102 - our own page
            continue
        for command in block.splitlines():
            commands += 1
            assert vitrail(*shlex.split(command)[1:]) == 0, command
    assert commands == 10
    tiles = pd.read_parquet(results / "predictions" / f"{SLIDE}.tiles.parquet")
    np.testing.assert_array_equal(names["tiles"][["x", "y", "side"]], tiles[["x", "y", "side"]])
    assert len(names["data"].features) == len(names["probability"]) == len(tiles)


def test_geoparquet_has_every_tile_and_region(results, tmp_path):
    outcome = export_geoparquet(results / "study", tmp_path)
    assert {Path(file).name for file in outcome.results["files"]} == {path.name for path in tmp_path.iterdir()}
    predicted = pd.read_parquet(results / "study" / "predictions" / "tiles.parquet")
    for name, own in predicted.groupby("slide_id"):
        tiles = geopandas.read_parquet(tmp_path / f"{name}.study_tiles.geo.parquet")
        columns = [*own.columns.drop("pixels")]
        pd.testing.assert_frame_equal(
            pd.DataFrame(tiles[columns]), own[columns].reset_index(drop=True), check_exact=True
        )
        np.testing.assert_array_equal(np.stack(tiles["pixels"]), np.stack(own["pixels"]))
        np.testing.assert_array_equal(tiles.bounds[["minx", "miny"]], own[["x", "y"]])
        assert (tiles.area == SIDE**2).all()
        assert (tiles["mpp"] == MPP).all()
    mapped = pd.read_parquet(results / "predictions" / f"{SLIDE}.tiles.parquet")
    tiles = geopandas.read_parquet(tmp_path / f"{SLIDE}.tiles.geo.parquet")
    pd.testing.assert_frame_equal(pd.DataFrame(tiles[[*mapped]]), mapped, check_exact=True)
    regions = geopandas.read_parquet(tmp_path / f"{SLIDE}.regions.geo.parquet")
    assert set(regions["class"]) <= {"tumor", "non_tumor"}
    assert regions.is_valid.all()
    # drawn to within 4 um, an outline has the area that was counted, but for little
    drawn = regions.area * MPP**2 / 1e6
    np.testing.assert_allclose(drawn, regions["area_mm2"], rtol=0.02)


def test_relevances_are_means_of_maps(results, tmp_path):
    export_anndata(results / "study", tmp_path)
    run = results / "study"
    tiles, stored = anndata.read_h5ad(tmp_path / "study_tiles.h5ad"), open_stored(run / "explanations")
    predicted = pd.read_parquet(run / "predictions" / "tiles.parquet")
    explained = stored.rows["tile"].to_numpy()
    for key in stored.keys:
        means = tiles.obs[f"relevance_{key}"].to_numpy()
        by_hand = [float(np.mean(np.asarray(each, np.float64))) for each in stored.maps(key)]
        np.testing.assert_allclose(means[explained], by_hand, rtol=1e-12)
        assert np.isnan(np.delete(means, explained)).all()
    for name in ("classifier", "segmenter", "classifier_logit", "x", "tumor"):
        np.testing.assert_array_equal(tiles.obs[name], predicted[name])
    for name in ("split", "label", "slide_id", "patient_id"):
        assert tiles.obs[name].tolist() == predicted[name].tolist()
    np.testing.assert_array_equal(tiles.X, predicted[["classifier", "segmenter"]].to_numpy(np.float32))
    np.testing.assert_array_equal(tiles.obsm["spatial"], (predicted[["x", "y"]].to_numpy() + SIDE / 2) * MPP)
    assert tiles.obs_names.is_unique
    assert tiles.uns["vitrail"]["predictions_digest"]
    mapped = anndata.read_h5ad(tmp_path / f"{SLIDE}.tiles.h5ad")
    assert mapped.uns["vitrail"]["slide"] == f"{SLIDE}.tif"
    assert mapped.uns["vitrail"]["mpp"] == MPP
    whole = read_class_map(run / "predictions" / "maps" / f"{SLIDE}.explanations.ome.tiff").read().astype(np.float64)
    for number, method in enumerate(("gradcam", "hrcam")):
        by_hand = whole[..., number].reshape(8, 32, 8, 32).mean((1, 3)).ravel()
        order = (mapped.obs["y"] / SIDE * 8 + mapped.obs["x"] / SIDE).astype(int)
        np.testing.assert_allclose(mapped.obs[f"relevance_classifier_{method}"], by_hand[order], rtol=1e-10)


def test_nuclei_have_features_and_what_networks_make_of_them(results, tmp_path):
    export_anndata(results / "predictions", tmp_path)
    nuclei = anndata.read_h5ad(tmp_path / f"{SLIDE}.nuclei.h5ad")
    table = read_nuclei(results / "predictions" / f"{SLIDE}.nuclei.parquet")
    np.testing.assert_array_equal(nuclei.X, table[[*FEATURES]].to_numpy())
    np.testing.assert_array_equal(nuclei.obsm["spatial"], table[["x_um", "y_um"]])
    tiles = pd.read_parquet(results / "predictions" / f"{SLIDE}.tiles.parquet")
    whole = read_class_map(results / "predictions" / f"{SLIDE}.explanations.ome.tiff").read()
    for number in range(NUCLEI):
        x, y = table.loc[number, ["x_um", "y_um"]] / MPP
        own, told = nuclei.obs.iloc[number], tiles[(tiles["x"] == x // SIDE * SIDE) & (tiles["y"] == y // SIDE * SIDE)]
        if number == 0:  # it lies beyond the maps
            assert len(told) == 0
            assert np.isnan(own["tumor_probability"])
            assert np.isnan(own["relevance_classifier_hrcam"])
            continue
        assert own["tumor_probability"] == told["tumor_probability"].item()
        assert own["relevance_classifier_hrcam"] == whole[int(y), int(x), 1]
    export_anndata(results / "study", tmp_path)
    asked = anndata.read_h5ad(tmp_path / "study_nuclei.h5ad")
    of = {name: pd.read_parquet(results / "study" / "nuclei" / f"{name}.parquet") for name in ("relevance", "effects")}
    for (_, own), index in zip(asked.obs.iterrows(), asked.obs_names, strict=True):
        assert index == f"{SLIDE}:{own['tile']}:{own['nucleus']}"
        for network in ("classifier", "segmenter"):
            where = "tile == @own.tile and nucleus == @own.nucleus and network == @network"
            told = of["relevance"].query(where)
            assert own[f"relevance_{network}_hrcam"] == told["mean"].item()
            assert own[f"mass_{network}_hrcam"] == told["mass"].item()
            removed = of["effects"].query(where + " and draw == -1")["effect_logit"].tolist()
            assert removed == [own[f"effect_{network}"]] or (not removed and np.isnan(own[f"effect_{network}"]))
    assert asked.obs["effect_classifier"].isna().sum() == 2


def test_features_are_the_encoders(results, tmp_path):
    run = results / "study"
    source = FeatureSource(model=run / "classifier")
    export_anndata(run, tmp_path, source)
    tiles = anndata.read_h5ad(tmp_path / "study_tiles.h5ad")
    by_hand = standardised_features(run, read_tiles(run / "tiles").images)
    np.testing.assert_allclose(tiles.X, by_hand, rtol=1e-4, atol=1e-5)
    assert tiles.uns["vitrail"]["model_digest"] == model_digest(run / "classifier")
    mapped = anndata.read_h5ad(tmp_path / f"{SLIDE}.tiles.h5ad")
    own = tiles.obs.loc[tiles.obs["slide_id"] == SLIDE, ["x", "y"]].reset_index(names="studied")
    joined = mapped.obs[["x", "y"]].reset_index(names="mapped").merge(own, on=["x", "y"])
    assert len(joined) == 56
    # the slide was read anew, and a tile of 32 pixels is as it is
    np.testing.assert_allclose(mapped[joined["mapped"]].X, tiles[joined["studied"]].X, rtol=1e-4, atol=1e-5)
    first = (tmp_path / "study_tiles.h5ad").read_bytes()
    export_anndata(run, tmp_path, source)
    assert (tmp_path / "study_tiles.h5ad").read_bytes() == first


def test_a_spatialdata_is_given_outlines_tables_and_maps(results, tmp_path, monkeypatch):
    """Also where the package is not there, which tests/pipeline/test_spatialdata.py needs."""
    written = {}
    monkeypatch.setattr(exports, "import_optional", lambda *_: None)
    monkeypatch.setattr(exports, "write_spatialdata", lambda path, *content: written.update({path.name: content}))
    source = FeatureSource(model=results / "study" / "classifier", slides=results / "cohort")
    exports.export_spatialdata(results / "predictions", tmp_path, source)
    mpp, shapes, images, about = written[f"{SLIDE}.zarr"]
    assert (mpp, about["mpp"], [*shapes], [*images]) == (MPP, MPP, ["tiles", "nuclei"], ["classes", "explanations"])
    assert {len(shapes["tiles"].outlines), len(shapes["tiles"].table.rows), len(shapes["tiles"].table.values)} == {64}
    assert shapes["tiles"].table.about["model_digest"] == model_digest(results / "study" / "classifier")
    assert len(shapes["nuclei"].outlines) == NUCLEI
    exports.export_spatialdata(results / "study", tmp_path, FeatureSource(model=results / "study" / "classifier"))
    assert [*written] == [f"{SLIDE}.zarr", *(f"S{number}.zarr" for number in (0, 1, 2, 4))]
    _, shapes, _, _ = written[f"{SLIDE}.zarr"]
    assert [*shapes] == ["tiles", "study_tiles", "study_nuclei"]
    by_hand = standardised_features(results / "study", read_tiles(results / "study" / "tiles").images[168:224])
    np.testing.assert_allclose(shapes["study_tiles"].table.values, by_hand, rtol=1e-4, atol=1e-5)


def test_features_go_to_stamp_and_come_back(results, tmp_path):
    source = FeatureSource(model=results / "study" / "classifier", slides=results / "cohort")
    export_h5(results / "predictions", tmp_path, source, "stamp")
    with h5py.File(tmp_path / f"{SLIDE}.h5") as file:
        features, coords = file["feats"][:], file["coords"][:]
        assert file.attrs["tile_size_um"] == pytest.approx(199.1)
    export_anndata(tmp_path / f"{SLIDE}.h5", tmp_path / "back")
    back = anndata.read_h5ad(tmp_path / "back" / f"{SLIDE}.tiles.h5ad")
    np.testing.assert_array_equal(back.X, features)
    np.testing.assert_allclose(back.obsm["spatial"], coords + 199.1 / 2, rtol=1e-6)
    export_anndata(tmp_path / f"{SLIDE}.h5", tmp_path / "back", mpp=MPP)
    known = anndata.read_h5ad(tmp_path / "back" / f"{SLIDE}.tiles.h5ad")
    tiles = pd.read_parquet(results / "predictions" / f"{SLIDE}.tiles.parquet")
    np.testing.assert_allclose(known.obs[["x", "y", "side"]], tiles[["x", "y", "side"]], atol=1e-3)
    export_h5(results / "study", tmp_path / "trident", source, "trident")
    outcome = export_anndata(tmp_path / "trident" / f"{SLIDE}.h5", tmp_path / "back")
    assert "5 um per level-0 pixel are taken from its magnification of 2" in outcome.warnings[0]


def test_a_slide_whose_results_are_damaged_is_left_out(results, tmp_path):
    folder = shutil.copytree(results / "predictions", tmp_path / "predictions")
    for file in folder.glob(f"{SLIDE}.*"):
        shutil.copy(file, folder / file.name.replace(SLIDE, "A1"))
    (folder / "A1.classes.ome.tiff").write_bytes(b"II*\0" + b"\0" * 60)
    for export in (export_geoparquet, export_ome_zarr):
        outcome = export(folder, tmp_path / "out")
        assert len(outcome.skipped) == 1
        assert outcome.skipped[0].startswith(f"{folder / 'A1.classes.ome.tiff'}: not a class map")
    assert (tmp_path / "out" / f"{SLIDE}.classes.ome.zarr" / ".zattrs").is_file()
    assert not (tmp_path / "out" / "A1.classes.ome.zarr").exists()
    pd.DataFrame({"x": [0.0]}).to_parquet(folder / "A1.tiles.parquet")
    assert "without a column y" in export_geoparquet(folder, tmp_path / "out").skipped[0]
    facts = (folder / "A1.json").read_text()
    (folder / "A1.json").write_text(facts.replace('"mpp": 6.221875', '"mpp": NaN', 1))
    with pytest.raises(RunError, match="without um per pixel"):
        open_results(folder)
    (folder / "A1.json").write_text(facts)
    (folder / f"{SLIDE}.json").unlink()  # it is not finished, but has nuclei
    assert [slide.maps is None for slide in open_results(folder).slides] == [False, True]


def test_what_cannot_be_exported_is_one_line(results, tmp_path):
    with pytest.raises(RunError, match="is no run, and holds no predictions"):
        export_geoparquet(tmp_path, tmp_path / "out")
    with pytest.raises(RunError, match="is no run"):
        export_geoparquet(tmp_path / "none", tmp_path / "out")
    source = FeatureSource(model=results / "study" / "classifier")
    outcome = export_h5(results / "predictions", tmp_path / "out", source, "stamp")
    assert "do not say where its file is. Add --slides FOLDER" in outcome.skipped[0]
    with pytest.raises(SettingsError, match="--mpp"):
        export_anndata(results / "study", tmp_path, mpp=0.5)
    run = shutil.copytree(results / "study", tmp_path / "run")
    cut = (run / "tiles" / "slides.csv").read_text().replace("6.221875", "3.5")
    (run / "tiles" / "slides.csv").write_text(cut)
    with pytest.raises(ExchangeError, match=r"learned from tiles of 199\.1 um, and these have 112"):
        export_anndata(run, tmp_path / "out", source)
    (tmp_path / "file").write_text("")
    with pytest.raises(ExchangeError, match="cannot be written"):
        export_geoparquet(results / "study", tmp_path / "file" / "out")


def test_relevance_heeds_borders_and_what_was_not_looked_at(tmp_path):
    """Of tiles of 32 pixels on a map of 80 by 50, the last ones are cut, and one was not looked at."""
    header = MapHeader(size=(80, 50), mpp=2.0, channels=(Channel(name="a", rgb=(1, 2, 3)),), depth="float32")
    values = np.arange(4000, dtype=np.float32).reshape(50, 80, 1)
    values[:32, 32:64] = np.nan
    with ClassMapWriter(tmp_path / "m.ome.tiff", header) as writer:
        writer.write_rows(values)
    stored = read_class_map(tmp_path / "m.ome.tiff")
    tiles = pd.DataFrame({"x": [64.0, 32.0, 0.0, 96.0], "y": [0.0, 0.0, 32.0, 0.0], "side": 32.0})
    means = relevance_of_tiles(stored, tiles)[:, 0]
    expected = [values[:32, 64:].mean(dtype=np.float64), np.nan, values[32:, :32].mean(dtype=np.float64), np.nan]
    np.testing.assert_allclose(means, expected, rtol=1e-12)
    points = np.array([[0.0, 0.0], [159.9, 99.9], [160.0, 0.0], [70.0, 10.0], [-1.0, 0.0]])
    np.testing.assert_array_equal(relevance_at(stored, points)[:, 0], [0.0, 3999.0, np.nan, np.nan, np.nan])


def test_nuclei_of_the_page_are_outlined(results):
    nuclei = read_nuclei(results / "predictions" / f"{SLIDE}.nuclei.parquet")
    assert [*outlines_of(nuclei)] == [
        *geopandas.read_parquet(results / "predictions" / f"{SLIDE}.nuclei.parquet").geometry
    ]
