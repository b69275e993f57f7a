"""The grid search: folds, what is done again and what is not, who is chosen, and the same table after any kill."""

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
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.cohort import FAST, write_cohort
from helpers.command import vitrail
from vitrail import cli
from vitrail.core.progress import Silent
from vitrail.errors import RunError, SettingsError, TileError, VitrailError
from vitrail.pipeline import search as study
from vitrail.pipeline.run import bring_run, new_run
from vitrail.pipeline.search import search_run
from vitrail.report.figures.search import search_caption, search_figure
from vitrail.report.style import save, style
from vitrail.search import cluster
from vitrail.search import trial as cells
from vitrail.search.folds import deal, fold_of_rows
from vitrail.search.grid import Grid, survivors
from vitrail.search.results import Combination, SearchResult, choose, read_search
from vitrail.settings.load import change_settings, preset
from vitrail.slides.readers.resample import area_resample
from vitrail.tiles.store import read_tiles

GRID = ("search.side_px=[32, 48]", "search.cut_px=96", "compute.workers=2")


# folds


def tile_rows(counts):
    labels = [("tumor", tumor, p) for p, (tumor, _) in enumerate(counts)]
    labels += [("non_tumor", other, p) for p, (_, other) in enumerate(counts)]
    rows = [{"patient_id": f"P{p}", "label": label} for label, n, p in labels for _ in range(n)]
    return pd.DataFrame(rows, columns=["patient_id", "label"])


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=4, max_size=15),
    folds=st.integers(2, 4),
    seed=st.integers(0, 99),
)
def test_patients_are_in_one_fold_and_classes_in_as_many_as_can_be(counts, folds, seed):
    holds = np.array(counts) > 0
    if (holds.sum(0) < 2).any() or holds.any(1).sum() < folds:
        with pytest.raises(VitrailError):
            fold_of_rows(tile_rows(counts), folds, (seed,))
        return
    rows = tile_rows(counts)
    fold = fold_of_rows(rows, folds, (seed,))
    of_patient = rows.assign(fold=fold).groupby("patient_id")["fold"]
    assert (of_patient.nunique() == 1).all()
    sizes = of_patient.first().value_counts().reindex(range(folds), fill_value=0)
    assert sizes.max() - sizes.min() <= 1
    for held in range(folds):  # what remains to train on holds both classes
        assert set(rows["label"][fold != held]) == {"tumor", "non_tumor"}
    assert (fold_of_rows(rows, folds, (seed,)) == fold).all()


def test_folds_are_stratified_and_dealt_anew_in_each_iteration():
    rng = np.random.default_rng(0)
    counts = np.stack([rng.integers(1, 126, 80), rng.integers(1, 501, 80)], 1)
    counts[10:, 0] = 0  # ten of eighty patients have tumor
    dealt = [deal(counts, 5, (0, iteration)) for iteration in range(6)]
    for fold in dealt:
        found = np.stack([counts[fold == number].sum(0) for number in range(5)])
        assert (found > 0).all()
        shares = found / counts.sum(0)
        assert np.abs(shares[:, 1] - 0.2).max() < 0.1
    alike = [np.mean(a == b) for i, a in enumerate(dealt) for b in dealt[:i]]
    assert max(alike) < 0.5


def test_too_few_patients_are_told():
    with pytest.raises(SettingsError, match="5 folds of 3 patients"):
        fold_of_rows(tile_rows([(1, 1)] * 3), 5, (0,))
    with pytest.raises(TileError, match="only 1 patients of train and validation have tumor tiles"):
        fold_of_rows(tile_rows([(1, 1), (0, 1), (0, 1)]), 2, (0,))


# choice


def combination(side_um, side_px, accuracy, state="complete", n=15):
    return Combination(
        side_um=side_um, side_px=side_px, accuracy=accuracy, spread=0.02, auc=0.9, n=n, state=state
    )  # fmt: skip


def test_the_fewest_pixels_among_the_best_are_chosen():
    found = (
        combination(99.6, 64, 0.80), combination(99.6, 224, 0.896), combination(199.1, 224, 0.898),
        combination(199.1, 512, 0.900), combination(199.1, 64, 0.99, "abandoned"),
    )  # fmt: skip
    assert choose(found, 0.005) is found[2]
    assert choose(found, 0.0) is found[3]
    assert choose(found[-1:], 0.005) is None


def test_survivors_are_the_best_share_rounded_up():
    accuracy = {(99.6, 64): 0.5, (99.6, 96): 0.7, (199.1, 64): 0.7, (199.1, 96): 0.9, (199.1, 128): 0.1}
    assert survivors(accuracy, 0.5) == ((99.6, 96), (199.1, 64), (199.1, 96))
    assert survivors(accuracy, 0.4) == ((199.1, 64), (199.1, 96))
    assert survivors(accuracy, 0.01) == ((199.1, 96),)
    assert survivors(accuracy, 1.0) == tuple(sorted(accuracy))


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

    def pretend(jobs, *_):
        for job in jobs:
            asked.append((job.cell.side_um, job.cell.side_px, job.cell.iteration, job.cell.fold))
            error = refused.get(job.cell.pair)
            if not error:
                score = {"accuracy": 1 - 1 / job.cell.side_px - job.cell.fold / 100 + job.cell.iteration / 1000}
                score |= {"auc": 0.5, "n_validation": 7, "n_train": 9, "seconds": 1.0}
                (job.folder / "cells" / f"{job.cell.digest}.json").write_text(json.dumps({"score": score}))
            yield job, error

    monkeypatch.setattr(study, "train_cells", pretend)
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
    assert capsys.readouterr().err.strip().count("\n") == 0


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
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_no_run_is_told(tmp_path, capsys):
    assert vitrail("search", tmp_path) == 2
    assert "not a run folder" in capsys.readouterr().err
    with pytest.raises(RunError, match="no finished search"):
        read_search(tmp_path / "search")


# tiles


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


def test_averaging_twice_is_averaging_once_where_it_divides():
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3)).astype(np.uint8)
    box = (0.0, 0.0, 512.0, 512.0)
    once = area_resample(image, box, (64, 64)).astype(int)
    cut = area_resample(image, box, (256, 256))
    assert np.abs(area_resample(cut, (0.0, 0.0, 256.0, 256.0), (64, 64)) - once).max() <= 1


# cells


@pytest.mark.usefixtures("trained")
def test_a_cell_divides_the_patients(run, monkeypatch):
    jobs = []
    pretend = study.train_cells
    monkeypatch.setattr(study, "train_cells", lambda todo, *more: jobs.extend(todo) or pretend(todo, *more))
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


def test_the_digest_leaves_out_what_does_not_matter():
    grid = Grid(settings=preset("quick"), entries=())
    (cell, *_) = grid.cells([(199.1, 64)], [0])
    for change in ({"tiles": grid.settings.tiles.model_copy(update={"side_px": 128})}, {"seed": 1}):
        other = Grid(settings=grid.settings.model_copy(update=change), entries=())
        assert (other.cells([(199.1, 64)], [0])[0].digest == cell.digest) == ("tiles" in change)
    digests = {one.digest for one in grid.cells(grid.pairs, range(3))}
    assert len(digests) == 2 * 2 * 3 * 3


# the figure


def test_the_figure_shows_every_size(tmp_path):
    found = tuple(
        combination(um, px, 0.7 + 0.02 * i + um / 2000, "abandoned" if px == 64 else "complete")
        for um in (99.6, 149.4, 199.1)
        for i, px in enumerate((64, 128, 224, 256, 384, 512))
    )
    result = SearchResult(
        combinations=found, chosen=found[-2], folds=5, iterations=3, tolerance=0.005, patients=("P0",), unseen=1
    )
    with style():
        figure = search_figure(result)
        text = save(figure, tmp_path, "figure_s1")
    assert text.startswith("<?xml")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_legend().get_texts()] == [
        "99.6 \N{MICRO SIGN}m", "149.4 \N{MICRO SIGN}m", "199.1 \N{MICRO SIGN}m", "chosen"
    ]  # fmt: skip
    lines = [line for line in axes.lines if len(line.get_xdata()) == 6]
    assert len({line.get_linestyle() for line in lines} | {line.get_marker() for line in lines}) >= 3
    assert "3 x 5-fold cross-validation" in search_caption(result)


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
    assert said == "vitrail: stopped; the same command goes on from here\n"
    assert psutil.wait_procs(children, timeout=20)[1] == []
    done = {path.name: path.stat().st_mtime_ns for path in folder.glob("search/cells/*.json")}
    assert vitrail("search", folder) == 0
    assert (folder / "search" / "table.csv").read_bytes() == before
    for name, written in done.items():
        assert (folder / "search" / "cells" / name).stat().st_mtime_ns == written


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
