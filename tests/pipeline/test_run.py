"""The main job from end to end: one command, a report, the same numbers however often it was killed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import accuracy_score, confusion_matrix, roc_auc_score

from helpers.cohort import FAST, write_cohort
from helpers.command import vitrail
from vitrail.evaluation.load import evaluate
from vitrail.evaluation.results import as_json
from vitrail.pipeline.run import new_run
from vitrail.pipeline.stages import STAGES
from vitrail.report.collect_explanations import collect_explained
from vitrail.settings.load import read_settings
from vitrail.slides.cohort import read_cohort
from vitrail.stage import open_run
from vitrail.tiles import cohort as cohort_tiles

RESULTS = (
    "tiles/tiles.parquet", "tiles/images.npy", "tiles/masks.npy", "split/patients.csv",
    "classifier/weights.safetensors", "classifier/model.json", "classifier/history.csv",
    "segmenter/weights.safetensors", "segmenter/model.json", "segmenter/history.csv", "predictions/tiles.parquet",
    "explanations/saliency.npy", "explanations/agreement.parquet", "explanations/summary.json", "checks/summary.json",
    "report/metrics.json",
)  # fmt: skip


def digests(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in RESULTS}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the small cohort."""
    folder = tmp_path_factory.mktemp("study")
    new_run(folder / "run", write_cohort(folder / "cohort"), "quick", FAST)
    with pytest.MonkeyPatch.context() as patch:  # figures are drawn by the demo of tests/docs/test_readme.py
        patch.setattr("vitrail.report.page.save", lambda *_: '<?xml version="1.0"?><svg></svg>')
        assert vitrail("run", folder / "run") == 0
    return folder / "run"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run that a test may spoil; its cohort stays where it is."""
    shutil.copytree(finished, tmp_path / "study" / "run")
    shutil.copytree(finished.parent / "cohort", tmp_path / "study" / "cohort")
    return tmp_path / "study" / "run"


def test_every_stage_leaves_its_folder_and_nothing_else(finished):
    names = {path.name for path in finished.iterdir()} - {".lock"}
    assert names == {
        "study.toml",
        "slides.csv",
        "tiles",
        "split",
        "classifier",
        "segmenter",
        "predictions",
        "explanations",
        "checks",
        "nuclei",
        "shift",
        "report",
    }
    for folder in names - {"study.toml", "slides.csv"}:
        assert (finished / folder / "stage.json").is_file()
    assert not list(finished.rglob("*.tmp"))
    assert not list(finished.rglob("*checkpoint*"))


def test_predictions_hold_every_tile_of_every_split(finished):
    rows = pd.read_parquet(finished / "predictions" / "tiles.parquet")
    assert len(rows) == len(pd.read_parquet(finished / "tiles" / "tiles.parquet")) == 6 * 56
    assert set(rows["split"]) == {"train", "validation", "test"}
    assert (rows.groupby("patient_id")["split"].nunique() == 1).all()
    assert rows[["classifier", "segmenter"]].map(lambda p: 0 <= p <= 1).all(axis=None)
    assert (rows["pixels"].map(sum) == 32 * 32).all()


def test_probabilities_are_calibrated_and_the_same_everywhere(finished):
    rows = pd.read_parquet(finished / "predictions" / "tiles.parquet")
    temperature = json.loads((finished / "classifier" / "model.json").read_text())["temperature"]
    np.testing.assert_allclose(rows["classifier"], expit(rows["classifier_logit"] / temperature), rtol=1e-12)
    run = open_run(finished)
    entries = {entry.slide_id: entry for entry in read_cohort(run.cohort)}
    shown = collect_explained(run, entries, evaluate(run)).stored.rows
    np.testing.assert_array_equal(shown["classifier"], rows["classifier"].iloc[shown["tile"]])
    explained = pd.read_parquet(finished / "explanations" / "tiles.parquet")["classifier"]
    np.testing.assert_allclose(explained, expit(rows["classifier_logit"].iloc[shown["tile"]]), rtol=1e-3)
    told = json.loads((finished / "report" / "metrics.json").read_text())["test"]["calibration"]
    assert told["classifier"]["temperature"] == temperature != 1


def test_metrics_are_those_of_scikit_learn(finished):
    test = json.loads((finished / "report" / "metrics.json").read_text())["test"]
    rows = pd.read_parquet(finished / "predictions" / "tiles.parquet").query("split == 'test'")
    truth = rows["label"] == "tumor"
    assert (test["tiles"], test["patients"]) == (len(rows), rows["patient_id"].nunique())
    for network in ("classifier", "segmenter"):
        called = rows[network] >= 0.5
        assert test[network]["accuracy"] == pytest.approx(accuracy_score(truth, called), abs=1e-12)
        assert test[network]["auc"] == pytest.approx(roc_auc_score(truth, rows[network]), abs=1e-12)
        assert test[network]["confusion"] == confusion_matrix(truth, called, labels=[True, False]).tolist()
    assert sum(map(sum, test["pixels"]["confusion"])) == len(rows) * 32 * 32


def test_the_numbers_of_a_run_are_those_of_its_report(finished):
    evaluation = evaluate(finished)
    assert json.loads(as_json(evaluation.metrics)) == json.loads((finished / "report" / "metrics.json").read_text())
    for name, table in evaluation.tables.items():
        written = pd.read_csv(finished / "report" / "tables" / f"{name}.csv")
        assert (list(written.columns), len(written)) == (list(table.columns), len(table)), name


def test_the_report_is_one_page(finished):
    page = (finished / "report" / "index.html").read_text()
    assert "<svg" in page
    assert 'src="http' not in page


def test_nuclei_of_coarse_slides_are_refused_in_one_line(finished, capsys):
    assert vitrail("nuclei", finished) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("too coarse to tell nuclei apart: 6.2 \N{MICRO SIGN}m a pixel" in line for line in lines) == 1
    assert lines[-1] == f"nuclei: {finished / 'nuclei'}"
    assert "too coarse to tell nuclei apart" in (finished / "report" / "index.html").read_text()


def test_whole_slides_are_mapped_and_published(finished):
    (facts,) = (path for path in (finished / "predictions" / "maps").glob("*.json") if path.name != "left_out.json")
    name = facts.stem
    made = {path.name for path in facts.parent.iterdir()}
    endings = ("json", "npz", "tiles.parquet", "classes.ome.tiff")
    assert made == {"left_out.json", *(f"{name}.{ending}" for ending in endings)}
    shown = json.loads((finished / "report" / "qupath" / f"{name}.geojson").read_text())["features"]
    tiles = [one for one in shown if one["properties"]["objectType"] == "tile"]
    assert len(tiles) == len(pd.read_parquet(facts.with_name(f"{name}.tiles.parquet")))
    assert f"../predictions/maps/{name}.classes.ome.tiff" in (finished / "report" / "index.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_whole_slides_can_be_explained(run, capsys):
    assert vitrail("predict", run, "--explain") == 0
    assert "explain: up to date" in capsys.readouterr().err
    (stored,) = (run / "predictions" / "maps").glob("*.explanations.ome.tiff")
    facts = json.loads(stored.with_name(stored.name.replace("explanations.ome.tiff", "json")).read_text())
    assert set(facts["explained"]["methods"]) == {"gradcam", "hrcam"}
    assert "explained = true" in (run / "study.toml").read_text()
    assert vitrail("report", run) == 0
    (picture,) = (run / "report" / "figures").glob("*-explanations.png")
    page = (run / "report" / "index.html").read_text()
    assert f'href="figures/{picture.name}"' in page
    assert f'href="../predictions/maps/{stored.name}"' in page


def test_flags_of_predict_change_the_runs_predictions(run):
    assert vitrail("predict", run, "--background", "--keep-artefacts") == 0
    made = json.loads((run / "predictions" / "stage.json").read_text())["settings"]["predict"]
    assert (made["background"], made["artefacts"], made["explained"]) == (True, False, False)
    kept = read_settings(run / "study.toml").predict
    assert (kept.background, kept.artefacts, kept.explained) == (True, False, False)
    (tiles,) = (run / "predictions" / "maps").glob("*.tiles.parquet")
    assert len(pd.read_parquet(tiles)) == 64  # 8 by 8: none is left out


def test_a_second_run_does_nothing(run, capsys):
    before = digests(run)
    assert vitrail("run", run) == 0
    said = capsys.readouterr()
    assert said.err.count("up to date") == len(STAGES)
    assert said.out.strip().endswith(str(run / "report" / "index.html"))
    assert digests(run) == before


def test_a_setting_by_its_old_name_redoes_nothing_and_is_one_warning(run, capsys):
    study = run / "study.toml"
    study.write_text(study.read_text().replace("test_time_augmentation =", "mirror ="))
    assert vitrail("run", run, "--set", "predict.mirror=false") == 0
    ended = capsys.readouterr()
    assert ended.err.count("up to date") == len(STAGES)
    assert ended.err.endswith("warning: the setting predict.mirror is now called predict.test_time_augmentation\n")
    assert ended.err.count("warning") == 1
    assert json.loads((run / "predictions" / "stage.json").read_text())["settings"]["predict"]["mirror"] is False


@pytest.mark.usefixtures("undrawn")
def test_a_threshold_redoes_the_report_alone(run, capsys):
    assert vitrail("run", run, "--set", "evaluation.threshold=0.9") == 0
    assert capsys.readouterr().err.count("up to date") == len(STAGES) - 1
    assert "threshold = 0.9" in (run / "study.toml").read_text()


def test_one_new_slide_is_cut_and_the_others_are_kept(run, monkeypatch):
    cohort = run / "slides.csv"
    cohort.write_text("\n".join(cohort.read_text().splitlines()[:-1]) + "\n")
    assert vitrail("tiles", run) == 0
    five = pd.read_parquet(run / "tiles" / "tiles.parquet")
    cohort.write_text(cohort.read_text() + "S5,P5,../cohort/S5.tif,../cohort/S5.geojson,larynx\n")
    cut, cut_part = [], cohort_tiles.cut_part
    monkeypatch.setattr(
        cohort_tiles, "cut_part", lambda job, told: cut.append(job.entry.slide_id) or cut_part(job, told)
    )
    assert vitrail("tiles", run) == 0
    assert cut == ["S5"]
    six = pd.read_parquet(run / "tiles" / "tiles.parquet")
    pd.testing.assert_frame_equal(six[: len(five)], five)
    assert set(six["slide_id"]) == {f"S{i}" for i in range(6)}


@pytest.mark.usefixtures("undrawn")
def test_attributes_and_splits_cut_no_tile(run, capsys):
    cohort = run / "slides.csv"
    cohort.write_text(cohort.read_text().replace("larynx", "hypopharynx"))
    assert vitrail("run", run) == 0
    assert capsys.readouterr().err.count("up to date") == len(STAGES) - 2


@pytest.mark.usefixtures("undrawn")
def test_killed_again_and_again_the_numbers_are_the_same(finished, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(finished.parent / "cohort", folder / "cohort")
    new_run(folder / "run", folder / "cohort" / "slides.csv", "quick", FAST)
    command = [sys.executable, "-m", "vitrail", "run", str(folder / "run")]
    kills = 0
    for wanted in (
        "tiles/stage.json",
        ".partial/classifier-*/history.csv",
        ".partial/segmenter-*/history.csv",
    ):
        kills += kill_when(command, folder / "run", wanted)
    assert vitrail("run", folder / "run") == 0
    assert kills >= 2
    assert digests(folder / "run") == digests(finished)


def kill_when(command, run, wanted):
    """Start the command, kill it without warning once a file is there, and tell whether it was killed."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - our own command
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until and not list(run.glob(wanted)):
        time.sleep(0.01)
    process.kill()
    return process.wait() == -signal.SIGKILL


def test_an_interrupt_is_one_line(cohort, tmp_path):
    new_run(tmp_path / "run", cohort, "quick", FAST)
    command = [sys.executable, "-m", "vitrail", "run", str(tmp_path / "run")]
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # background jobs ignore it
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **heed)  # noqa: S603 - our own
    while not list(tmp_path.glob("run/.partial/classifier-*")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert "the same command goes on from here" in process.communicate(timeout=60)[1]
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("vitrail.cli", {"torch", "pandas", "numpy", "matplotlib", "pydantic"}),
        (
            "vitrail.pipeline.predict_slides",  # a network that was compiled before needs none of these
            {"timm", "torchvision", "torch._dynamo", "scipy.stats", "sklearn", "matplotlib"},
        ),
    ],
)
def test_a_command_is_quick_to_start_because_it_imports_nothing_heavy(module, heavy):
    code = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)  # noqa: S603 - our own
    assert ended.stdout.strip() == ""
