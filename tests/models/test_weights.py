from __future__ import annotations

import io
import urllib.request

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

from helpers.specs import TINY, classifier_spec, segmenter_spec
from vitrail.errors import ModelError
from vitrail.models import sources, weights
from vitrail.models.preprocessing import intensities
from vitrail.models.store import build, save_model
from vitrail.models.weights import load_encoder, start_weights
from vitrail.settings.load import EMBEDDED_ENCODER
from vitrail.settings.schema import EncoderSettings


def embedded():
    return start_weights(EncoderSettings(name=EMBEDDED_ENCODER, weights="embedded"))


def photograph(index):
    """A photograph that comes with scikit-learn, as EfficientNet takes it in: 0 is a palace, 1 a flower."""
    image = load_sample_images().images[index]
    tile = intensities(torch.from_numpy(image.copy())[None])
    tile = torch.nn.functional.interpolate(tile, size=(256, 384), mode="bilinear", antialias=True)[..., 16:240, 80:304]
    return (tile - 0.5) / 0.5


def test_embedded_weights_fit_and_recognise_a_palace_and_a_daisy():
    network = timm.create_model(EMBEDDED_ENCODER).eval()
    network.load_state_dict(embedded())  # strict: every key used, every shape right
    with torch.inference_mode():
        found = [int(network(photograph(index)).argmax()) for index in (0, 1)]
    assert found == [698, 985]  # ImageNet's palace and daisy


def test_both_networks_start_from_the_same_weights():
    tensors = embedded()
    classifier, segmenter = (build(spec(encoder=EMBEDDED_ENCODER)) for spec in (classifier_spec, segmenter_spec))
    for network in (classifier, segmenter):
        load_encoder(network.backbone, tensors, "test")
    x = photograph(1)[..., :64, :64]
    with torch.inference_mode():
        stages = classifier.eval().encoder.forward_intermediates(x, intermediates_only=True)
        maps = segmenter.eval().encode(x)
    for expected, found in zip(stages, maps[1:], strict=True):
        torch.testing.assert_close(found, expected)


def test_renamed_stages_of_feature_networks_are_found():
    full = timm.create_model("test_convnext", num_classes=0)
    cut = timm.create_model("test_convnext", features_only=True)
    assert set(cut.state_dict()) - set(full.state_dict())
    load_encoder(cut, full.state_dict(), "test")
    for key, value in cut.state_dict().items():
        assert value.shape == encoder_entry(full, key).shape
        assert torch.equal(value, encoder_entry(full, key))


def encoder_entry(network, key):
    return {name.replace(".", "_"): value for name, value in network.state_dict().items()}[key.replace(".", "_")]


def test_weights_of_another_network_are_refused():
    with pytest.raises(ModelError, match=r"^here: the weights lack '.*'\. Give the weights of the encoder"):
        load_encoder(timm.create_model("test_resnet"), embedded(), "here")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(tmp_path, suffix):
    state = timm.create_model(TINY, num_classes=0).state_dict()
    path = tmp_path / f"own{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    found = start_weights(EncoderSettings(name=TINY, weights=str(path)))
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_weights_of_a_vitrail_classifier(tmp_path):
    network = build(classifier_spec())
    save_model(tmp_path, network, classifier_spec())
    found = start_weights(EncoderSettings(name=TINY, weights=str(tmp_path / "weights.safetensors")))
    assert set(found) == set(network.encoder.state_dict())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no such file"),
        (b"nonsense", "not a readable weights file"),
        (b"hello", "not a readable"),
        (b".", "not a readable"),
        (b"\x80\x02.", "not a readable"),
        (b"\x80\x02X\x01", "not a readable"),
        (b"", "not a readable"),
        ({"a": object}, r"not a readable weights file \(it is damaged, or holds more than tensors\)"),
        ({1: torch.zeros(1)}, "holds more than named tensors"),
    ],
)
def test_unusable_weights_file(tmp_path, content, problem):
    path = tmp_path / "own.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ModelError, match=problem) as caught:
        start_weights(EncoderSettings(name=TINY, weights=str(path)))
    assert "\n" not in str(caught.value)
    assert "file ()" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_a_weights_file_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    state = timm.create_model(TINY, num_classes=0).state_dict()
    save_file(state, tmp_path / "own.safetensors")
    assert set(start_weights(EncoderSettings(name=TINY, weights="~/own.safetensors"))) == set(state)


def test_imagenet_weights_offline(monkeypatch):
    monkeypatch.setattr(sources, "try_to_load_from_cache", lambda *_args, **_kwargs: None)
    monkeypatch.setattr(weights, "online", lambda: False)
    with pytest.raises(ModelError) as caught:
        start_weights(EncoderSettings(name=TINY))
    line = str(caught.value)
    assert "cannot be downloaded (this machine is offline)" in line
    assert 'encoder.weights to a .safetensors or .pth file, or to "embedded"' in line
    assert "\n" not in line


def test_imagenet_weights_that_fail_on_the_way(monkeypatch):
    def fail(*_args, **_kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("first line\nsecond line")

    monkeypatch.setattr(sources, "try_to_load_from_cache", lambda *_args, **_kwargs: None)
    monkeypatch.setattr(weights, "online", lambda: True)
    monkeypatch.setattr(weights.timm, "create_model", fail)
    with pytest.raises(ModelError, match="cannot be downloaded \\(LocalEntryNotFoundError: first line second line\\)"):
        start_weights(EncoderSettings(name=TINY))


def test_imagenet_weights_from_the_hubs_cache(monkeypatch, tmp_path):
    network = timm.create_model(TINY)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(
        sources, "try_to_load_from_cache", lambda *_args, **_kwargs: str(tmp_path / "model.safetensors")
    )
    found = start_weights(EncoderSettings(name=TINY))
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in found.items())


@pytest.mark.parametrize(
    ("proxies", "hop"),
    [
        ({}, ("hub.example", 443)),
        ({"https": "http://proxy"}, ("proxy", 80)),
        ({"https": "proxy:3128"}, ("proxy", 3128)),
        ({"all": "socks5://proxy"}, ("proxy", 1080)),
        ({"https": "http://proxy", "no": "hub.example"}, ("hub.example", 443)),
        ({"http": "http://proxy"}, ("hub.example", 443)),
    ],
)
def test_online_means_that_the_first_hop_answers_soon(monkeypatch, proxies, hop):
    asked = []

    def connect(address, timeout):
        asked.append((address, timeout))
        raise TimeoutError

    monkeypatch.setattr(sources.constants, "ENDPOINT", "https://hub.example")
    monkeypatch.setattr(sources.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "getproxies", lambda: proxies)
    monkeypatch.setattr(
        urllib.request, "proxy_bypass", lambda host: urllib.request.proxy_bypass_environment(host, proxies)
    )
    monkeypatch.setattr(sources.socket, "create_connection", connect)
    assert not sources.online()
    assert asked == [(hop, 5)]
    monkeypatch.setattr(sources.socket, "create_connection", lambda *_args, **_kwargs: io.BytesIO())
    assert sources.online()


def test_a_hub_switched_off_is_not_asked(monkeypatch):
    monkeypatch.setattr(sources.constants, "HF_HUB_OFFLINE", True)
    assert not sources.online()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("efficientnet_b0.foo", "timm has no weights 'foo' of this network. Name one of efficientnet_b0."),
        ("coatnet_0_224", "timm has no pretrained weights of this network. Take another encoder, or set"),
    ],
)
def test_weights_that_timm_does_not_have(name, line):
    with pytest.raises(ModelError) as caught:
        start_weights(EncoderSettings(name=name))
    assert line in str(caught.value)
