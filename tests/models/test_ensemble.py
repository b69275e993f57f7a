"""Ensembles: the mean of their members, each with its own standardisation; joined, stored and read again."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.specs import classifier_spec, segmenter_spec
from vitrail.errors import ModelError, RunError
from vitrail.models.ensemble import EachMember, Ensemble
from vitrail.models.folds import FOLDS, MEMBERS, representing, unseen_by
from vitrail.models.join import join_models
from vitrail.models.preprocessing import Normalizer
from vitrail.models.spec import AnySpec, Colours, TrainingInfo
from vitrail.models.store import build, load_explained, load_model, save_model

COLOURS = ({"mean": (0.7, 0.5, 0.6), "std": (0.2, 0.25, 0.15)}, {"mean": (0.5, 0.4, 0.7), "std": (0.3, 0.1, 0.2)})
CPU = torch.device("cpu")


def write_members(folder, make, count=3, **changes):
    """Save networks, the last of which standardises with other colours, and a temperature of its own each."""
    folders = []
    for number in range(count):
        torch.manual_seed(number)
        spec = make(**COLOURS[number == count - 1], temperature=1.0 + number, **changes)
        network = build(spec).train()
        with torch.no_grad():
            network(torch.randn(6, 3, 64, 64))  # statistics that are not those of an untouched network
        save_model(folder / str(number), network.eval(), spec)
        folders.append(folder / str(number))
    return folders


@pytest.mark.parametrize("make", [classifier_spec, segmenter_spec])
def test_what_is_joined_answers_with_the_mean_of_the_members(tmp_path, make):
    folders = write_members(tmp_path, make)
    joined = join_models(folders, tmp_path / "all")
    model = load_model(tmp_path / "all")
    assert isinstance(model.module, Ensemble)
    assert model.spec == joined.spec
    assert (model.spec.members, model.spec.representative, model.spec.temperature) == (3, 0, 2.0)
    intensities = torch.rand(4, 3, 64, 64)
    with torch.inference_mode():
        alone = [
            each.module(Normalizer(each.spec, CPU)(intensities)) for each in (load_model(folder) for folder in folders)
        ]
        x = Normalizer(model.spec, CPU)(intensities)
        together, each = model.module(x), EachMember(model.module)(x)
        again = load_explained(tmp_path / "all").module(x)
    torch.testing.assert_close(together, torch.stack(alone).mean(0), rtol=0, atol=2e-5)
    torch.testing.assert_close(each, torch.stack(alone, 1), rtol=0, atol=2e-5)
    torch.testing.assert_close(again, alone[0], rtol=0, atol=0)


def test_a_member_is_a_model_of_its_own(tmp_path):
    folders = write_members(tmp_path, classifier_spec)
    model = join_models(folders, tmp_path / "all")
    last, own = model.member(2), load_model(folders[2])
    assert (last.spec.mean, last.spec.std, last.spec.members) == (own.spec.mean, own.spec.std, 1)
    assert last.spec.model_dump_json().count("members") == 0
    for name, value in own.module.state_dict().items():
        assert torch.equal(last.module.state_dict()[name], value)
    single = load_model(folders[0])
    assert single.member(5) is single is single.explained


def test_ensembles_are_joined_by_all_their_members(tmp_path):
    folders = write_members(tmp_path, classifier_spec, 3)
    join_models(folders[1:], tmp_path / "two")
    both = join_models([tmp_path / "two", folders[0]], tmp_path / "all")
    at_once = join_models([*folders[1:], folders[0]], tmp_path / "three")
    x = torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(both.module(x), at_once.module(x))
    assert both.spec.colours == at_once.spec.colours


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"side_um": 99.6}, r"has side_um = 99\.6, and .*0 199\.1\. Join models"),
        ({"dense": 8}, "has dense = 8, and .*0 16"),
        ({"reading": {"mode": "faithful"}}, "has reading = "),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(tmp_path, changes, problem):
    (first,) = write_members(tmp_path / "a", classifier_spec, 1)
    (second,) = write_members(tmp_path / "b", classifier_spec, 1, **changes)
    with pytest.raises(ModelError, match=problem) as caught:
        join_models([first, second], tmp_path / "all")
    assert "\n" not in str(caught.value)
    (third,) = write_members(tmp_path / "c", segmenter_spec, 1)
    with pytest.raises(ModelError, match="has task = 'segmenter'"):
        join_models([first, third], tmp_path / "all")
    with pytest.raises(ModelError, match="1 models make none"):
        join_models([first], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_a_single_network_is_described_as_before():
    """Nothing in its `model.json` says that there could be several."""
    for spec in (classifier_spec(), segmenter_spec()):
        assert not {"members", "representative", "colours"} & set(json.loads(spec.model_dump_json()))
        assert AnySpec.validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"members": 2, "representative": 2}, "representative 2 is none of 2 members"),
        ({"members": 3, "colours": [COLOURS[0]]}, "1 colours for 3 members"),
        ({"members": 0}, "members"),
    ],
)
def test_an_ensemble_that_cannot_be_is_refused(tmp_path, changes, problem):
    save_model(tmp_path, build(classifier_spec()), classifier_spec())
    path = tmp_path / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match=problem):
        load_model(tmp_path)


def test_weights_of_fewer_members_do_not_fit(tmp_path):
    folders = write_members(tmp_path, classifier_spec, 2)
    join_models(folders, tmp_path / "all")
    path = tmp_path / "all" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"members": 3, "colours": []}))
    with pytest.raises(ModelError, match=r"weights\.safetensors: does not fit model\.json"):
        load_model(tmp_path / "all")


def test_patients_are_unseen_by_the_member_of_their_fold(tmp_path):
    patients = pd.Series(["a", "b", "test", "a"])
    assert unseen_by(tmp_path, patients, 3).tolist() == [-1] * 4
    (tmp_path / FOLDS).write_text("patient_id,fold\na,2\nb,0\n")
    assert unseen_by(tmp_path, patients, 3).tolist() == [2, 0, -1, 2]
    assert unseen_by(tmp_path, patients, 1).tolist() == [-1] * 4
    with pytest.raises(RunError, match="not every patient is in one of the folds 0 to 1"):
        unseen_by(tmp_path, patients, 2)


def test_who_stands_for_an_ensemble_is_said_with_its_correlation(tmp_path):
    info = TrainingInfo(epochs=1, best_epoch=1, validation_loss=0.5, seed=0)
    spec = classifier_spec(members=2, representative=1, training=info)
    assert spec.represented == "network 2 of 2"
    save_model(tmp_path, build(spec), spec)
    assert representing(tmp_path) == {"member": 2, "members": 2, "correlation": None}
    (tmp_path / MEMBERS).write_text("member,correlation\n0,0.5\n1,0.75\n")
    assert representing(tmp_path)["correlation"] == 0.75
    (tmp_path / MEMBERS).write_text("member,correlation\n0,0.5\n")
    with pytest.raises(RunError, match=r"members\.csv: is damaged"):
        representing(tmp_path)
    save_model(tmp_path / "one", build(classifier_spec()), classifier_spec())
    assert representing(tmp_path / "one") is None


def test_standardisations_are_exact():
    """A member is given just what its own normalizer would give it."""
    given, own = (Colours(**each) for each in COLOURS)
    spec = classifier_spec(members=2, colours=(given, own), **COLOURS[0])
    seen = [x for _, x in Ensemble([torch.nn.Identity(), torch.nn.Identity()], spec).seen(
        Normalizer(spec, CPU)(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    )]  # fmt: skip
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for found, colours in zip(seen, (given, own), strict=True):
        expected = (images.double().numpy() - np.array(colours.mean)[:, None, None]) / np.array(colours.std)[
            :, None, None
        ]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
