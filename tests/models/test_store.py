"""Model folders, and the specification in them."""

from __future__ import annotations

import json

import pytest
import torch

from helpers.specs import classifier_spec, segmenter_spec
from vitrail.classes import TissueClass
from vitrail.errors import ModelError
from vitrail.models.spec import AnySpec, TrainingInfo, read_spec
from vitrail.models.store import build, load_model, save_model, saved_fingerprint

INFO = TrainingInfo(epochs=3, best_epoch=2, validation_loss=0.25, seed=7)


@pytest.mark.parametrize("spec", [classifier_spec(training=INFO), segmenter_spec()])
def test_model_folder_round_trip(tmp_path, spec):
    network = build(spec).to(memory_format=torch.channels_last).eval()
    save_model(tmp_path / "model", network, spec)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "weights.safetensors"]
    assert len({path.stat().st_mode for path in (tmp_path / "model").iterdir()}) == 1  # all may read both or none
    model = load_model(tmp_path / "model")
    assert model.spec == spec
    assert not model.module.training
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model.module(x), network(x))


def test_output_order():
    assert classifier_spec().classes == (TissueClass.TUMOR.key,)
    assert segmenter_spec().classes == tuple(TissueClass(number).key for number in range(4))


@pytest.mark.parametrize(
    ("spec", "classes", "problem"),
    [
        (segmenter_spec, ("non_tumor", "tumor", "other", "background"), "Input should be 'tumor'"),
        (segmenter_spec, ("tumor", "non_tumor", "other"), "Field required"),
        (classifier_spec, ("other",), "Input should be 'tumor'"),
        (classifier_spec, (), "Field required"),
    ],
)
def test_any_other_order_is_refused(spec, classes, problem):
    with pytest.raises(ValueError, match=rf"classes\.\d\n  {problem}"):
        spec(classes=classes)


def test_a_fingerprint_is_found_and_leaves_the_bytes_the_same(tmp_path):
    network = build(classifier_spec())
    for name in "abc":
        save_model(tmp_path / name, network, classifier_spec(), "" if name == "c" else "f1")
    assert saved_fingerprint(tmp_path / "a") == "f1"
    assert (tmp_path / "a" / "weights.safetensors").read_bytes() == (
        tmp_path / "b" / "weights.safetensors"
    ).read_bytes()
    assert saved_fingerprint(tmp_path / "c") is None
    (tmp_path / "a" / "weights.safetensors").write_bytes(b"cut off")
    (tmp_path / "b" / "model.json").unlink()
    assert saved_fingerprint(tmp_path / "a") is saved_fingerprint(tmp_path / "b") is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"std": [1, 1, 0]}, r"std\.2: Input should be greater than or equal to 0.0001"),
        ({"side_px": 65_536}, r"side_px: Input should be less than or equal to 4096"),
        ({"side_um": 1e-300}, r"side_um: Input should be greater than or equal to 1"),
        ({"n" * 100_000: 1}, r"n{80}: Extra inputs are not permitted"),
        ({"dense": 10**20}, r"dense: Input should be less than or equal to 65536"),
        ({"dropout": 1.0}, r"dropout: Input should be less than 1"),
        ({"mean": [0.5, 0.5, 1e300]}, r"mean\.2: Input should be less than or equal to 1"),
        ({"std": [1e-300, 1, 1]}, r"std\.0: Input should be greater than or equal to 0.0001"),
        ({"temperature": 1e-300}, r"temperature: Input should be greater than or equal to 0\.000000001"),
        ({"encoder": "a" * 1000}, r"encoder: String should have at most 200 characters"),
        ({"vitrail": "a" * (1 << 20)}, r"model\.json: has 1 MiB, more than 1"),
        ({"nonsense": 1}, "nonsense: Extra inputs are not permitted"),
        ({"task": "regressor"}, "content: Input tag 'regressor'"),
        ({"classes": ["tumor", "other"]}, "classes"),
        ({"dense": 17}, r"weights\.safetensors: does not fit model\.json .*dense"),
    ],
)
def test_spoilt_model_json(tmp_path, change, problem):
    save_model(tmp_path, build(classifier_spec()), classifier_spec())
    path = tmp_path / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=problem) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff\xfe", "content: Invalid JSON"),
        (b"[" * 100_000, "content: Invalid JSON: recursion limit exceeded"),
        (b'{"task": "classifier", "dense": ' + b"9" * 5000 + b"}", "content: Invalid JSON: number out of range"),
        (b'{"task": "classifier", "' + b"a" * 100_000 + b'": 1}', "Field required"),
    ],
)
def test_a_model_json_that_no_program_wrote(tmp_path, content, problem):
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(ModelError, match=problem) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(tmp_path))


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_missing_model_file(tmp_path, name):
    save_model(tmp_path, build(classifier_spec()), classifier_spec())
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=f"{name}: no such file"):
        load_model(tmp_path)


def test_spec_reads_back_as_its_own_kind():
    for spec in (classifier_spec(), segmenter_spec(training=INFO)):
        assert AnySpec.validate_json(spec.model_dump_json()) == spec


def test_a_segmenters_decoder_has_limits(tmp_path):
    save_model(tmp_path, build(segmenter_spec()), segmenter_spec())
    path = tmp_path / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder": [256, 128, 64, 32, 10**20]}))
    with pytest.raises(ModelError, match=r"decoder\.4: Input should be less than or equal to 1024"):
        load_model(tmp_path)


def test_a_model_from_before_is_read_and_computes_in_float32(tmp_path):
    content = json.loads(classifier_spec().model_dump_json())
    del content["temperature"], content["half"]
    (tmp_path / "model.json").write_text(json.dumps(content))
    spec = read_spec(tmp_path / "model.json")
    assert (spec.temperature, spec.half) == (1.0, None)


def test_a_network_can_be_built_later(tmp_path, monkeypatch):
    save_model(tmp_path, build(classifier_spec()), classifier_spec())
    with monkeypatch.context() as patch:
        patch.setattr("vitrail.models.store.build", lambda _: pytest.fail("built"))
        model, again = (load_model(tmp_path, later=True) for _ in range(2))
        assert model.spec == classifier_spec()
        assert model.digest == again.digest != ""
    for key, value in load_model(tmp_path).module.state_dict().items():
        assert torch.equal(model.module.state_dict()[key], value)
    assert model.module is model.module
    assert not model.module.training
    assert not model.digest  # now anybody may change it
    save_model(tmp_path, build(classifier_spec()), classifier_spec())
    with pytest.raises(ModelError, match="was replaced while it was in use"):
        _ = again.module
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r"weights\.safetensors: no such file"):
        load_model(tmp_path, later=True)


def test_a_network_that_is_built_within_inference_can_be_trained(tmp_path):
    save_model(tmp_path, build(classifier_spec()), classifier_spec())
    model = load_model(tmp_path, later=True)
    with torch.inference_mode():
        assert model.module is model.module
    assert not any(tensor.is_inference() for tensor in model.module.state_dict().values())


def test_a_digest_tells_specifications_and_weights_apart(tmp_path):
    networks, digests = [build(classifier_spec()) for _ in range(2)], set()
    for network in networks:
        for temperature in (1.0, 2.0):
            save_model(tmp_path, network, classifier_spec(temperature=temperature))
            digests.add(load_model(tmp_path, later=True).digest)
    assert len(digests) == 4
