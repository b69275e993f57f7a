from __future__ import annotations

import json

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError
from pydantic import ValidationError

from helpers.networks import SHARED
from helpers.vit import ARGUMENTS, MEAN, NAME, STD, write_folder
from vitrail.errors import ModelError
from vitrail.models import sources, weights
from vitrail.models.sources import find_source
from vitrail.models.spec import ClassifierSpec
from vitrail.models.store import build, load_model, save_model
from vitrail.models.weights import check_weights, describe_source, load_encoder, start_weights
from vitrail.settings.load import Settings
from vitrail.settings.schema import EncoderSettings
from vitrail.training.tasks import TRAINING_TASKS

HUB = "hf-hub:bioptimus/H-optimus-0"


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(sources, "try_to_load_from_cache", lambda *_args, **_kwargs: None)
    monkeypatch.setattr(sources, "online", lambda: False)
    monkeypatch.setattr(weights, "online", lambda: False)


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """A hub whose files of one repository are in the cache."""
    network = write_folder(tmp_path / "cached", license="apache-2.0")
    asked = []

    def find(repository, name, **_options):
        asked.append((repository, name))
        return str(tmp_path / "cached" / name)

    monkeypatch.setattr(sources, "try_to_load_from_cache", find)
    return network, asked


def refusing(monkeypatch, error):
    def refuse(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(sources, "try_to_load_from_cache", lambda *_args, **_kwargs: None)
    monkeypatch.setattr(sources, "online", lambda: True)
    monkeypatch.setattr(sources, "hf_hub_download", refuse)


def told(name):
    with pytest.raises(ModelError) as caught:
        find_source(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_names_network_arguments_colours_and_weights(tmp_path):
    network = write_folder(tmp_path / "own")
    name = f"local-dir:{tmp_path / 'own'}"
    source = find_source(name)
    assert (source.network, source.arguments) == (NAME, ARGUMENTS)
    assert source.colours == (list(MEAN), list(STD))
    found = start_weights(EncoderSettings(name=name))
    assert found.keys() == network.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in network.state_dict().items())


@pytest.mark.usefixtures("offline_hub")
def test_a_repository_in_the_hubs_cache_is_read_without_the_network(cached):
    network, asked = cached
    settings = EncoderSettings(name="hf-hub:owner/own")
    check_weights(settings)
    found = start_weights(settings)
    same = [key for key, value in network.state_dict().items() if torch.equal(found[key], value)]
    assert same == list(network.state_dict())
    assert {repository for repository, _ in asked} == {"owner/own"}
    assert describe_source(settings).licence == "apache-2.0"
    assert dict(find_source(HUB).arguments)["init_values"] == 1e-5  # as its card tells


@pytest.fixture
def offline_hub(monkeypatch):
    monkeypatch.setattr(sources, "online", lambda: False)
    monkeypatch.setattr(weights, "online", lambda: False)


@pytest.mark.usefixtures("offline")
def test_a_hub_out_of_reach_is_said_in_a_line():
    line = told(HUB)
    assert "it cannot be downloaded (this machine is offline)" in line
    assert "local-dir:PATH" in line


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (GatedRepoError, r"wants terms to be accepted .* make a token there, and give it by: hf auth login"),
        (RepositoryNotFoundError, "has no such repository, or keeps it private"),
        (EntryNotFoundError, r"its repository has no config\.json"),
        (ConnectionError, "it cannot be downloaded"),
    ],
)
def test_what_a_hub_refuses_is_said_with_a_cure(monkeypatch, kind, problem):
    refusing(monkeypatch, kind.__new__(kind, "no\nnot you"))  # what the hub's own want beside depends on its release
    with pytest.raises(ModelError, match=problem) as caught:
        find_source(HUB)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["hf-hub:nobody", "hf-hub:", "hf-hub:a/b/c", "hf-hub:/b"])
def test_a_name_without_owner_is_no_repository(name):
    assert "names no repository of a hub. Write hf-hub:owner/name" in told(name)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (None, "no such file"),
        ("{", "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ('{"model_type": "dinov2"}', "names no network of timm"),
        ('{"architecture": "nonsense"}', "names no network of timm ('nonsense')"),
        (json.dumps({"architecture": NAME, "model_args": {"checkpoint_path": "x"}}), "asks for 'checkpoint_path'"),
    ],
)
def test_a_configuration_that_is_none(tmp_path, config, problem):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert problem in told(f"local-dir:{tmp_path}")


def test_weights_of_another_network_are_refused(tmp_path):
    write_folder(tmp_path / "own")
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    config["model_args"]["depth"] = 6
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"model\.safetensors: does not fit vit_tiny_patch16_224"):
        start_weights(EncoderSettings(name=f"local-dir:{tmp_path / 'own'}"))


def test_a_folder_without_weights(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights of the encoder"):
        check_weights(EncoderSettings(name=f"local-dir:{tmp_path}"))


def test_a_model_is_built_again_without_its_folder(tmp_path):
    write_folder(tmp_path / "own", license="cc-by-nc-4.0")
    encoder = {"name": f"local-dir:{tmp_path / 'own'}", "licence_accepted": True}
    settings = Settings.model_validate({"encoder": encoder, "tiles": {"side_px": 64}})
    spec = TRAINING_TASKS["classifier"].spec(settings, ([0.5] * 3, [0.25] * 3))
    assert (spec.mean, spec.std) == (MEAN, STD)  # and not those of the tiles
    module = build(spec)
    load_encoder(module.backbone, start_weights(settings.encoder), "test")
    save_model(tmp_path / "model", module, spec)
    (tmp_path / "own" / "config.json").unlink()
    model = load_model(tmp_path / "model")
    assert model.spec == spec
    source = model.spec.encoder_source
    assert (source.name, source.licence) == ("local-dir:own", "cc-by-nc-4.0")
    assert source.restricts == "forbids commercial use"
    later = EncoderSettings(name=NAME, weights=str(tmp_path / "model" / "weights.safetensors"))
    with pytest.raises(ModelError, match=r"cc-by-nc-4\.0, forbids commercial use"):
        start_weights(later)
    accepted = later.model_copy(update={"licence_accepted": True})
    assert start_weights(accepted).keys() == module.backbone.state_dict().keys()
    assert describe_source(accepted).restricts == "forbids commercial use"


def test_a_model_file_may_not_ask_for_files():
    with pytest.raises(ValidationError, match="is none of what encoders are built with"):
        ClassifierSpec(**SHARED, dense=8, dropout=0, encoder_arguments=(("checkpoint_path", "x"),))


def test_frozen_encoders_of_timm_see_the_colours_that_they_were_trained_with():
    for frozen in (False, True):
        encoder = {"name": "test_efficientnet", "weights": "random", "frozen": frozen}
        spec = TRAINING_TASKS["classifier"].spec(Settings.model_validate({"encoder": encoder}), ([0.7] * 3, [0.2] * 3))
        assert spec.mean == ((0.485, 0.456, 0.406) if frozen else (0.7,) * 3)
