"""An ensemble's training: folds, seeds, one model folder; killed or not, in one process or in many, the same bytes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from helpers.training import TASKS, Killed, Killer, make_tiles, settings
from vitrail.core.files import write_table
from vitrail.errors import SettingsError
from vitrail.metrics.calibration import fit_temperature
from vitrail.models.ensemble import Ensemble
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.store import load_explained, load_model
from vitrail.settings.schema import EnsembleSettings
from vitrail.training.ensemble import correlation_with_mean, member_seed, train_ensemble
from vitrail.training.tasks import TRAINING_TASKS

FOLDS = 3


def write_tiles(folder, n=48):
    """Write tiles of eight patients, each with both classes; two of them are for tests, two for validation."""
    tiles = make_tiles(n)
    patients = np.arange(n) // 2 % 8
    rows = tiles.rows.assign(slide_id=[f"S{i}" for i in patients], patient_id=[f"P{i}" for i in patients])
    folder.mkdir(parents=True)
    write_table(folder / "tiles.parquet", rows)
    np.save(folder / "images.npy", tiles.images)
    np.save(folder / "masks.npy", tiles.masks)
    split = np.array(["train"] * 4 + ["validation"] * 2 + ["test"] * 2)[patients]
    return folder, split, tiles, rows


def of_folds(folds=FOLDS, workers=1, **changes):
    chosen = settings(**{"epochs": 2} | changes)
    compute = chosen.compute.model_copy(update={"workers": workers})
    return chosen.model_copy(update={"ensemble": EnsembleSettings(folds=folds), "compute": compute})


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("task", TASKS)
def test_each_member_is_trained_without_its_fold_and_all_are_joined(task, tmp_path):
    tiles, split, table, rows = write_tiles(tmp_path / "tiles")
    train_ensemble(task, tiles, split, of_folds(), folder=tmp_path / "model", progress=Killer())
    folder = tmp_path / "model"
    assert {name for name in files(folder) if "/" not in name} == {
        "model.json", "weights.safetensors", "history.csv", "folds.csv", "members.csv",
    }  # fmt: skip
    model, folds = load_model(folder), pd.read_csv(folder / "folds.csv").set_index("patient_id")["fold"]
    assert isinstance(model.module, Ensemble)
    assert sorted(folds.index) == [f"P{i}" for i in range(6)]
    assert folds.value_counts().tolist() == [2, 2, 2]
    fold = rows["patient_id"].map(folds).fillna(-1).to_numpy()
    images = torch.from_numpy(table.images)
    held, truth, answers = [], [], []
    for number in range(FOLDS):
        member = model.member(number)
        seen = table.images[(fold >= 0) & (fold != number)] / 255
        np.testing.assert_allclose(member.spec.mean, seen.mean((0, 1, 2)), rtol=1e-6)
        x = Normalizer(member.spec, torch.device("cpu"))(intensities(images))
        with torch.inference_mode():
            answers.append(member.module(x).double().numpy())
        held.append(answers[-1][fold == number])
        truth.append(TRAINING_TASKS[task].targets(table)[fold == number])
    with torch.inference_mode():
        mean = model.module(Normalizer(model.spec, torch.device("cpu"))(intensities(images))).double().numpy()
    np.testing.assert_allclose(mean, np.mean(answers, 0), atol=1e-4)
    logits, truths = np.concatenate(held), np.concatenate(truth)
    if task == "segmenter":
        logits = np.moveaxis(logits, 1, 3).reshape(-1, 4)
    assert model.spec.temperature == pytest.approx(fit_temperature(logits, truths.ravel()), rel=1e-3)
    members = pd.read_csv(folder / "members.csv")
    validation = np.stack(answers)[:, split == "validation"]
    if task == "segmenter":
        validation = np.moveaxis(validation, 2, 4).reshape(FOLDS, -1, 4)
    expected = correlation_with_mean(validation)
    np.testing.assert_allclose(members["correlation"], expected, atol=1e-3)
    assert model.spec.representative == np.argmax(members["correlation"])
    assert load_explained(folder).spec.members == 1
    stored = load_file(folder / "weights.safetensors")
    assert {name.split(".")[1] for name in stored} == {"0", "1", "2"}
    first = pd.read_csv(folder / "history.csv")
    each = [pd.read_csv(folder / "members" / str(number) / "history.csv") for number in range(FOLDS)]
    np.testing.assert_allclose(first, np.mean(each, 0))


def test_killed_anywhere_and_in_more_processes_it_ends_with_the_same_bytes(tmp_path):
    tiles, split, *_ = write_tiles(tmp_path / "tiles")
    train_ensemble("classifier", tiles, split, of_folds(), folder=tmp_path / "whole")
    for left in (3, 20):
        with pytest.raises(Killed):
            train_ensemble("classifier", tiles, split, of_folds(), folder=tmp_path / "killed", progress=Killer(left))
    train_ensemble("classifier", tiles, split, of_folds(), folder=tmp_path / "killed")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    train_ensemble("classifier", tiles, split, of_folds(), folder=tmp_path / "killed", progress=Killer(0))
    train_ensemble("classifier", tiles, split, of_folds(workers=2), folder=tmp_path / "two")
    assert files(tmp_path / "two") == files(tmp_path / "whole")


def test_killed_while_it_clears_up_it_clears_up_the_rest(tmp_path):
    tiles, split, *_ = write_tiles(tmp_path / "tiles")
    train_ensemble("classifier", tiles, split, of_folds(epochs=1), folder=tmp_path / "model")
    before = files(tmp_path / "model")
    (tmp_path / "model" / "members" / "1" / "weights.safetensors").write_bytes(b"left")
    train_ensemble("classifier", tiles, split, of_folds(epochs=1), folder=tmp_path / "model")
    assert files(tmp_path / "model") == before


def test_more_folds_than_patients_are_told(tmp_path):
    tiles, split, *_ = write_tiles(tmp_path / "tiles")
    with pytest.raises(SettingsError, match=r"ensemble\.folds: 7 folds of 6 patients"):
        train_ensemble("classifier", tiles, split, of_folds(7), folder=tmp_path / "model")


def test_members_have_seeds_of_their_own():
    seeds = {member_seed(seed, number) for seed in range(5) for number in range(5)}
    assert len(seeds) == 25


def test_the_correlation_with_the_mean_is_that_of_logits_that_change_probabilities():
    rng = np.random.default_rng(0)
    answers = rng.normal(size=(3, 500))
    expected = [np.corrcoef(each, answers.mean(0))[0, 1] for each in answers]
    np.testing.assert_allclose(correlation_with_mean(answers), expected)
    pixels = rng.normal(size=(3, 500, 4))
    shared = pixels + rng.normal(0, 50, (3, 500, 1))
    np.testing.assert_allclose(correlation_with_mean(shared), correlation_with_mean(pixels))
    assert correlation_with_mean(np.ones((2, 5))) == [0.0, 0.0]
