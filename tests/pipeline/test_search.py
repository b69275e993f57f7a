"""The grid search of a run: what is done again and what is not, and the same table after any kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from helpers.cohort import FAST, write_cohort
from helpers.command import error_lines, vitrail
from vitrail import cli
from vitrail.core.progress import Silent
from vitrail.distribute import cluster
from vitrail.errors import RunError
from vitrail.inference.predictor import Predictor
from vitrail.models.store import load_model
from vitrail.pipeline import search as study
from vitrail.pipeline.run import bring_run, new_run
from vitrail.pipeline.search import search_run
from vitrail.search import trial as cells
from vitrail.search.results import read_search
from vitrail.settings.load import change_settings
from vitrail.tiles.store import read_tiles

GRID = ("search.side_px=[32, 48]", "search.cut_px=96", "compute.workers=2")


# a search without training: what is done, and what is not done again


@pytest.fixture(scope="module")
def split_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    new_run(folder / "run", write_cohort(folder / "cohort"), "quick", [*FAST, *GRID, "compute.workers=1"])
    assert vitrail("run", folder / "run", "--until", "split") == 0
    return folder


@pytest.fixture
def run(split_run, tmp_path):
    shutil.copytree(split_run, tmp_path / "study")
    return tmp_path / "study" / "run"


@pytest.fixture
def trained(monkeypatch):
    """Score cells by a formula instead of by training, and remember which were asked for."""
    asked, refused = [], {}

    def pretend(_self, jobs):
        for name in jobs.unfinished():
            job = jobs.jobs[name]
            asked.append((job.cell.side_um, job.cell.side_px, job.cell.iteration, job.cell.fold))
            error = refused.get(job.cell.pair)
            if not error:
                score = {"accuracy": 1 - 1 / job.cell.side_px - job.cell.fold / 100 + job.cell.iteration / 1000}
                score |= {"auc": 0.5, "n_validation": 7, "n_train": 9, "seconds": 1.0}
                (job.folder / "cells" / f"{job.cell.digest}.json").write_text(json.dumps({"score": score}))
            yield name, error

    monkeypatch.setattr(study.Processes, "run", pretend)
    monkeypatch.setattr("vitrail.report.figures.search.search_figure", lambda _: None)  # drawing and building networks
    monkeypatch.setattr("vitrail.report.style.save", lambda *_: None)  # take the most
    monkeypatch.setattr("vitrail.training.preflight.check_classifier", lambda *_, **__: None)
    return asked, refused


def test_what_is_done_is_not_done_again(run, trained):
    asked, _ = trained
    search_run(run)
    assert len(asked) == len(set(asked)) == 2 * 2
    table = (run / "search" / "table.csv").read_bytes()
    cut = [path.stat().st_mtime_ns for path in sorted((run / "search" / "tiles").rglob("*.npy"))]
    asked.clear()
    search_run(run)
    assert asked == []
    assert (run / "search" / "table.csv").read_bytes() == table

    search_run(run, None, ["search.side_px=[32, 48, 96]"])
    assert {place[1] for place in asked} == {96}
    assert len(asked) == 2
    assert [path.stat().st_mtime_ns for path in sorted((run / "search" / "tiles").rglob("*.npy"))] == cut
    asked.clear()
    search_run(run, None, ["search.iterations=2"])
    assert {place[2] for place in asked} == {1}
    asked.clear()
    search_run(run, None, ["search.side_um=[199.1, 99.6]", "tiles.side_px=48", "search.tolerance=0.5"])
    assert {place[0] for place in asked} == {99.6}
    asked.clear()
    shutil.rmtree(run / "search" / "tiles")  # large, and no longer needed
    search_run(run, None, ["search.iterations=1"])
    assert asked == []
    assert not (run / "search" / "tiles").exists()


@pytest.mark.parametrize("change", ["augment.hue=0.1", "search.epochs=2", "search.folds=3"])
def test_what_decides_a_score_does_it_again(run, trained, change):
    asked, _ = trained
    search_run(run)
    asked.clear()
    search_run(run, None, [change])
    assert len(asked) == 2 * (3 if "folds" in change else 2)
    asked.clear()
    back = {"augment.hue=0.1": "augment.hue=0.03", "search.epochs=2": "search.epochs=1"}
    search_run(run, None, [back.get(change, "search.folds=2")])
    assert asked == []


def test_hopeless_combinations_are_abandoned(run, trained):
    asked, _ = trained
    search_run(run, None, ["search.side_px=[32, 48, 64, 96]", "search.iterations=3", "search.keep=0.5"])
    assert [sum(place[2] == i for place in asked) for i in range(3)] == [4 * 2, 2 * 2, 1 * 2]
    result = read_search(run / "search")
    assert {one.side_px: (one.n, one.state) for one in result.combinations} == {
        32: (2, "abandoned"), 48: (2, "abandoned"), 64: (4, "abandoned"), 96: (6, "complete")
    }  # fmt: skip
    assert result.chosen.side_px == 96


@pytest.mark.usefixtures("trained")
def test_the_tables_hold_what_the_cells_hold(run):
    search_run(run, None, ["search.iterations=2"])
    rows = pd.read_parquet(run / "search" / "cells.parquet")
    assert list(rows) == list(study.CELL_COLUMNS)
    assert len(rows) == 2 * 2 * 2
    groups = rows.groupby(["side_um", "side_px"])["accuracy"]
    table = pd.read_csv(run / "search" / "table.csv").set_index(["side_um", "side_px"])
    np.testing.assert_allclose(table["accuracy"], groups.mean(), atol=1e-15)
    np.testing.assert_allclose(table["spread"], groups.std(ddof=1), atol=1e-15)
    assert (table["n"] == 4).all()
    chosen = tomllib.loads((run / "search" / "chosen.toml").read_text())["tiles"]
    result = read_search(run / "search")
    assert chosen == {"side_um": 199.1, "side_px": 48}
    assert (result.chosen.side_um, result.chosen.side_px) == (199.1, 48)
    change_settings(run / "study.toml", [f"tiles.{key}={value}" for key, value in chosen.items()])


@pytest.mark.usefixtures("trained")
def test_test_patients_take_no_part(run):
    search_run(run)
    split = pd.read_csv(run / "split" / "patients.csv", dtype=str).set_index("patient_id")["split"]
    result = read_search(run / "search")
    assert set(result.patients) == set(split.index[split != "test"])
    assert result.unseen == (split == "test").sum() > 0
    assert result.in_test(split.to_dict()) == ()
    assert result.in_test({result.patients[0]: "test"}) == result.patients[:1]
    for rows in (run / "search").rglob("tiles.parquet"):
        assert set(pd.read_parquet(rows)["patient_id"]) == set(result.patients)


def test_a_cell_that_cannot_be_trained_is_told_and_the_others_count(run, trained, capsys):
    _, refused = trained
    refused[199.1, 48] = RunError("worker process", "it cost several workers their lives", "Use fewer")
    assert vitrail("search", run) == 2
    said = capsys.readouterr()
    assert said.err.count("it cost several workers their lives") == 2
    assert "199.1 um, 48 px, iteration 1, fold 1" in said.err
    result = read_search(run / "search")
    assert [one.state for one in result.combinations] == ["complete", "failed"]
    assert result.chosen.side_px == 32
    refused[199.1, 32] = refused[199.1, 48]
    shutil.rmtree(run / "search" / "cells")
    assert vitrail("search", run) == 2
    assert len(error_lines(capsys.readouterr().err)) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "search.folds=9"], "search.folds: 9 folds of 5 patients"),
        (["--set", "search.side_px=[512]"], "search.cut_px = 96 is less than"),
        (["--set", "search.side_px=[16]"], "search.side_px.0 = 16"),
        (["--scheduler", "tcp://127.0.0.1:9"], "no dask scheduler can be reached"),
        (["--set", "search.side_um=[9999.0]"], "none gave tiles"),
    ],
)
def test_bad_input_is_one_line(run, monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(cluster, "_PATIENCE", 1)
    assert vitrail("search", run, *arguments) == 2
    (told,) = error_lines(capsys.readouterr().err)
    assert said in told


def test_a_scheduler_without_dask_is_refused_before_anything_is_cut(run, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "find_spec", lambda _name: None)
    assert vitrail("search", run, "--scheduler", "tcp://127.0.0.1:9") == 2
    ended = capsys.readouterr()
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert "pip install 'vitrail[cluster]'" in ended.err


def test_no_run_is_told(tmp_path, capsys):
    assert vitrail("search", tmp_path) == 2
    assert "not a run folder" in capsys.readouterr().err
    with pytest.raises(RunError, match="no finished search"):
        read_search(tmp_path / "search")


@pytest.mark.usefixtures("trained")
def test_resolutions_of_a_size_are_the_same_tiles_averaged(run):
    search_run(run)
    change_settings(run / "study.toml", ["tiles.side_px=48"])
    bring_run(run, "tiles", (), Silent())
    (size,) = (run / "search" / "tiles").iterdir()
    rows = pd.read_parquet(size / "tiles" / "tiles.parquet")
    images = np.load(next(size.glob("*-48px.npy")))
    direct = read_tiles(run / "tiles")
    same = direct.rows["patient_id"].isin(set(rows["patient_id"])).to_numpy()
    pd.testing.assert_frame_equal(
        direct.rows[same].reset_index(drop=True)[["slide_id", "x", "y", "label"]],
        rows[["slide_id", "x", "y", "label"]],
    )
    assert np.abs(direct.images[same].astype(int) - images).mean() < 2  # these slides are enlarged: see below


@pytest.mark.usefixtures("trained")
def test_a_cell_divides_the_patients(run, monkeypatch):
    jobs = []
    pretend = study.Processes.run
    monkeypatch.setattr(
        study.Processes, "run", lambda self, todo: jobs.extend(todo.jobs.values()) or pretend(self, todo)
    )
    search_run(run)
    seen = {}
    for job in jobs:
        parts = cells.cell_parts(job)
        patients = parts.tiles.rows["patient_id"].to_numpy()
        assert not set(patients[parts.train]) & set(patients[parts.validation])
        assert len(parts.train) + len(parts.validation) == len(patients)
        assert parts.tiles.images.shape[1] == job.cell.side_px
        seen.setdefault(job.cell.pair, []).append(set(patients[parts.validation]))
    (first, second) = seen.values()
    assert first == second  # combinations are compared on the same folds
    assert set.union(*first) == set(patients)


# real trainings


@pytest.fixture(scope="module")
def searched(split_run):
    """A finished search of the small cohort."""
    assert vitrail("search", split_run / "run", "--set", "search.side_px=[32]", "--set", "compute.workers=2") == 0
    return split_run / "run"


def test_a_search_scores_its_cells(searched):
    rows = pd.read_parquet(searched / "search" / "cells.parquet")
    patients = pd.read_csv(searched / "split" / "patients.csv")
    assert len(rows) == 2
    assert rows["accuracy"].between(0, 1).all()
    assert rows["n_validation"].sum() == 56 * (patients["split"] != "test").sum()
    assert {path.suffix for path in (searched / "search").glob("figure_s1.*")} == {".svg", ".png"}
    assert not (searched / "search" / ".partial").exists()


def test_the_same_table_with_other_workers_after_a_killed_worker_and_an_interrupt(searched, tmp_path):
    shutil.copytree(searched.parent, tmp_path / "study")
    folder = tmp_path / "study" / "run"
    before = (folder / "search" / "table.csv").read_bytes()
    for name in ("cells", "table.csv", "stage.json"):
        path = folder / "search" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    change_settings(folder / "study.toml", ["compute.workers=1"])
    command = [sys.executable, "-m", "vitrail", "search", str(folder)]
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # background jobs ignore it
    process = subprocess.Popen(  # noqa: S603 - our own
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, **heed
    )
    wait_for(process, lambda: list(folder.glob("search/.partial/*")))
    (worker,) = workers_of(process)
    worker.kill()
    wait_for(process, lambda: list(folder.glob("search/cells/*.json")))
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert error_lines(said) == ["vitrail: stopped; the same command goes on from here"]
    assert psutil.wait_procs(children, timeout=20)[1] == []
    done = {path.name: path.stat().st_mtime_ns for path in folder.glob("search/cells/*.json")}
    assert vitrail("search", folder) == 0
    assert (folder / "search" / "table.csv").read_bytes() == before
    for name, written in done.items():
        assert (folder / "search" / "cells" / name).stat().st_mtime_ns == written


def test_networks_are_kept_on_demand_and_joined_to_an_ensemble(searched, tmp_path):
    shutil.copytree(searched.parent, tmp_path / "study")
    folder = tmp_path / "study" / "run"
    before = (folder / "search" / "table.csv").read_bytes()
    assert vitrail("search", folder, "--set", "search.keep_models=true", "--set", "compute.workers=2") == 0
    assert (folder / "search" / "table.csv").read_bytes() == before
    kept = sorted((folder / "search" / "models").iterdir())
    assert len(kept) == 2
    members, model = [load_model(each) for each in kept], load_model(folder / "search" / "ensemble")
    assert (model.spec.members, model.spec.side_um, model.spec.side_px) == (2, 199.1, 32)
    images = read_tiles(folder / "tiles").images[:4]
    logits = [next(Predictor(each, engine="torch").outputs(images)) for each in members]
    torch.testing.assert_close(
        next(Predictor(model, engine="torch").outputs(images)), (logits[0] + logits[1]) / 2, rtol=0, atol=1e-4
    )
    written = {path: path.stat().st_mtime_ns for path in (folder / "search" / "models").rglob("*")}
    shutil.rmtree(folder / "search" / "ensemble")
    assert vitrail("search", folder) == 0
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert load_model(folder / "search" / "ensemble").spec == model.spec


def wait_for(process, there):
    until = time.monotonic() + 120
    while not there():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)


def workers_of(process):
    """Return the processes that train."""
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]


def test_help_tells_of_it(capsys):
    with pytest.raises(SystemExit):
        cli.main(["search", "--help"])
    assert "--scheduler" in capsys.readouterr().out
    assert Path(study.__file__).is_file()
