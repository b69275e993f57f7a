"""Nuclei of any slides: what is written, what is not done again, and what is said of slides without."""

from __future__ import annotations

import json
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

import vitrail
from helpers import nuclei as helper
from helpers.command import vitrail as command
from helpers.mapped import Reds, settings
from helpers.nuclei import DarkPixels, write_nuclei_slide
from vitrail.distribute.claims import Claims
from vitrail.errors import NucleiError, SettingsError
from vitrail.inference.map_slide import Networks
from vitrail.nuclei.store import read_header, read_nuclei
from vitrail.nuclei.update import nuclei_key
from vitrail.pipeline import predict_slides as predicting
from vitrail.pipeline.nuclei_of_slides import NucleiJob, find_nuclei
from vitrail.pipeline.predict_slides import Application, apply_models, settings_from
from vitrail.slides.slide import open_slide


@pytest.fixture
def engine(monkeypatch):
    """Stand in for the engines, and for what reads regions for them."""
    stand_in = DarkPixels()
    engines = types.SimpleNamespace(engine_of=lambda _: stand_in)
    monkeypatch.setitem(sys.modules, "vitrail.nuclei.engines", engines)
    monkeypatch.setitem(sys.modules, "vitrail.nuclei.regions", helper)
    return stand_in


@pytest.fixture
def slides(tmp_path):
    paths = [tmp_path / "slides" / f"{name}.tif" for name in "AB"]
    for seed, path in enumerate(paths):
        write_nuclei_slide(path, seed=seed, side_px=(400, 460), count=40)
    return paths


def find(slides, out, *changes):
    return find_nuclei(slides, NucleiJob(out=out, settings=settings_from(changes)))


def names(folder):
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_each_slide_gets_its_files_and_a_row(engine, slides, tmp_path):  # noqa: ARG001 - it stands in
    out = tmp_path / "out"
    outcome = find(slides, out)
    assert names(out) == {"nuclei.csv", *(f"{name}.nuclei.{kind}" for name in "AB" for kind in ("parquet", "geojson"))}
    summary = pd.read_csv(out / "nuclei.csv", index_col="slide_id")
    for name in "AB":
        table = read_nuclei(out / f"{name}.nuclei.parquet")
        assert summary.loc[name, "nuclei"] == len(table) > 30
        assert summary.loc[name, "area_um2"] == pytest.approx(table["area_um2"].median(), rel=1e-4)
        features = json.loads((out / f"{name}.nuclei.geojson").read_text())["features"]
        assert len(features) == len(table)
    assert outcome.lines[0] == f"nuclei of 2 slides measured, {summary['nuclei'].sum():.0f} nuclei in all"
    assert outcome.skipped == []


def test_two_commands_share_the_slides(engine, slides, tmp_path):
    out, job = tmp_path / "out", NucleiJob(out=tmp_path / "out", settings=settings_from())
    find(slides, tmp_path / "plain")
    calls = engine.calls
    with Claims(out, (1, 2)) as first, Claims(out, (2, 2)) as second, ThreadPoolExecutor(2) as threads:
        one, other = threads.map(lambda claims: find_nuclei(slides, job, executor=claims), (first, second))
    assert engine.calls == 2 * calls
    assert one == other
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()
    }


def test_what_is_done_is_not_done_again(engine, slides, tmp_path):
    out = tmp_path / "out"
    find(slides, out)
    calls, table = engine.calls, (out / "A.nuclei.parquet").read_bytes()
    assert find(slides[:1], out).lines[0].startswith("nuclei of 0 slides measured, ")
    assert engine.calls == calls
    assert len(pd.read_csv(out / "nuclei.csv")) == 2
    (out / "A.nuclei.geojson").unlink()
    find(slides[:1], out)
    assert engine.calls == calls
    assert (out / "A.nuclei.geojson").exists()
    find(slides[:1], out, "tissue.min_piece_um2=9000")  # may be another tissue
    assert engine.calls > calls
    assert read_header(out / "A.nuclei.parquet").key != ""
    assert (out / "A.nuclei.parquet").read_bytes() != table


def test_the_file_that_an_engine_reads_decides(slides, tmp_path):
    """Another file of detections for this slide, another key; that of another slide, the same."""
    detections, slide = tmp_path / "detections", open_slide(slides[0])
    detections.mkdir()
    (detections / "A.geojson").write_text("{}")
    chosen = settings_from(["nuclei.engine=geojson", f"nuclei.model={detections}"])
    key = nuclei_key(slide, chosen)
    (detections / "B.geojson").write_text("{}")
    assert nuclei_key(slide, chosen) == key
    (detections / "A.geojson").write_text("[]")
    assert nuclei_key(slide, chosen) != key


def test_a_killed_call_goes_on(engine, slides, tmp_path, monkeypatch):
    monkeypatch.setattr("vitrail.nuclei.slide.WINDOW_PX", 150)
    find(slides[:1], tmp_path / "whole")
    calls = engine.calls
    engine.calls, engine.patience = 0, 3
    with pytest.raises(KeyboardInterrupt):
        find(slides[:1], tmp_path / "killed")
    engine.calls, engine.patience = 0, 10**9
    find(slides[:1], tmp_path / "killed")
    assert engine.calls == calls - 3
    assert names(tmp_path / "killed") == names(tmp_path / "whole")
    for name in ("A.nuclei.parquet", "A.nuclei.geojson", "nuclei.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_slides_that_fail_do_not_end_the_work(engine, slides, tmp_path, monkeypatch, capfd):  # noqa: ARG001 - it stands in
    broken = tmp_path / "slides" / "broken.tif"
    broken.write_bytes(b"no slide")

    def segment(slide, region, engine, **more):
        if slide.path.stem == "A":
            raise NucleiError(slide.path, "has 2 um a pixel", "Scan it finer")
        return helper.segment_region(slide, region, engine, **more)

    monkeypatch.setitem(sys.modules, "vitrail.nuclei.regions", types.SimpleNamespace(segment_region=segment))
    assert command("nuclei", slides[0], broken, slides[1], "--out", tmp_path / "out") == 2
    ended = capfd.readouterr()
    assert ended.err.count("\nskipped:") + ended.err.startswith("skipped:") >= 2
    assert "has 2 um a pixel. Scan it finer." in ended.err
    summary = pd.read_csv(tmp_path / "out" / "nuclei.csv", index_col="slide_id")
    assert summary["reason"].notna().to_dict() == {"A": True, "B": False, "broken": True}
    assert np.isnan(summary.loc["A", "nuclei"])
    assert names(tmp_path / "out") == {"nuclei.csv", "B.nuclei.parquet", "B.nuclei.geojson"}


def test_the_command_says_where(engine, slides, tmp_path, monkeypatch, capfd):  # noqa: ARG001 - it stands in
    monkeypatch.chdir(tmp_path)
    assert command("nuclei", slides[0]) == 0
    assert capfd.readouterr().out.endswith("nuclei/nuclei.csv\n")
    assert (tmp_path / "nuclei" / "A.nuclei.parquet").exists()


def test_a_run_is_handed_on(tmp_path, monkeypatch, capfd):
    seen = []

    def explain(run, changes, progress):  # noqa: ARG001 - the command's arguments
        seen.append((run, changes))
        return types.SimpleNamespace(lines=["done"], warnings=[], skipped=[])

    monkeypatch.setitem(sys.modules, "vitrail.pipeline.nuclei", types.SimpleNamespace(explain_nuclei_of_run=explain))
    (tmp_path / "run").mkdir()
    assert command("nuclei", tmp_path / "run", "--engine", "labels", "--set", "seed=1") == 0
    assert seen == [(tmp_path / "run", ["seed=1", "nuclei.engine=labels"])]
    assert command("nuclei", tmp_path / "run", "--out", "there") == 2
    assert "--out: the nuclei of a run go to" in capfd.readouterr().err
    assert command("nuclei", tmp_path / "run", tmp_path / "run") == 2
    assert "a run, and more" in capfd.readouterr().err


def test_slides_of_one_name_or_an_engine_that_is_none_are_refused(slides, tmp_path, capfd):
    with pytest.raises(SettingsError, match=r"both would write A.nuclei.parquet"):
        find([slides[0], tmp_path / "A.svs"], tmp_path / "out")
    assert command("nuclei", slides[0], "--engine", "eyes") == 2
    assert "nuclei.engine" in capfd.readouterr().err
    assert command("predict", tmp_path, "--nuclei") == 2
    assert f"--nuclei: measures slides, not a run. Run: vitrail nuclei {tmp_path}." in capfd.readouterr().err


def test_it_is_there_for_programs(engine, slides, tmp_path):  # noqa: ARG001 - it stands in
    table = vitrail.measure_nuclei(slides[:1], tmp_path / "out")
    assert table["nuclei"].tolist() == [len(read_nuclei(tmp_path / "out" / "A.nuclei.parquet"))]


@pytest.fixture
def mapped(monkeypatch, slides, tmp_path):
    """Map slide A with a stand-in whose answer is the red of a tile."""
    monkeypatch.setattr(predicting, "load_networks", lambda _: (Networks(classifier=Reds("classifier")), ["a"], []))

    def run(*, nuclei=True):
        job = Application(classifier=tmp_path / "classifier", out=tmp_path / "maps", nuclei=nuclei, settings=settings())
        return apply_models(slides[:1], job)

    return run


def test_a_mapped_slide_gets_its_nuclei_with_the_probability_of_their_tile(engine, mapped, tmp_path):
    out = tmp_path / "maps"
    assert mapped(nuclei=False).skipped == []
    assert not any("nuclei" in name for name in names(out))
    assert mapped().skipped == []
    assert {"A.nuclei.parquet", "A.nuclei.geojson"} < names(out)
    calls = engine.calls
    mapped()
    assert engine.calls == calls
    table, tiles = read_nuclei(out / "A.nuclei.parquet"), pd.read_parquet(out / "A.tiles.parquet")
    features = json.loads((out / "A.nuclei.geojson").read_text())["features"]
    side = tiles["side"].iloc[0]
    judged = 0
    for row, feature in zip(table.itertuples(), features, strict=True):
        x, y = row.x_um / helper.MPP, row.y_um / helper.MPP
        own = tiles[(tiles["x"] <= x) & (x < tiles["x"] + side) & (tiles["y"] <= y) & (y < tiles["y"] + side)]
        said = feature["properties"]["measurements"].get("Tumor probability", np.nan)
        np.testing.assert_array_equal([said], own["tumor_probability"].to_numpy())
        judged += not np.isnan(said)
    assert judged > 10


def test_where_nuclei_cannot_be_found_the_maps_stay(mapped, engine, tmp_path, monkeypatch):  # noqa: ARG001 - it stands in
    def refuse(slide, region, engine, **more):  # noqa: ARG001 - its arguments
        raise NucleiError(slide.path, "has 2 um a pixel", "Scan it finer")

    monkeypatch.setitem(sys.modules, "vitrail.nuclei.regions", types.SimpleNamespace(segment_region=refuse))
    (said,) = mapped().skipped
    assert said.startswith("nuclei of ")
    assert "has 2 um a pixel" in said
    assert {"A.tiles.parquet", "A.geojson", "summary.csv"} < names(tmp_path / "maps")
