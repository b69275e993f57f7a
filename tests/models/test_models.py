from __future__ import annotations

import io
import json
import urllib.request

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images

from vitrail.classes import TissueClass
from vitrail.errors import ModelError, SettingsError
from vitrail.models import device, encoder
from vitrail.models.classifier import Classifier
from vitrail.models.encoder import feature_channels, load_encoder, start_weights
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.spec import AnySpec, ClassifierSpec, SegmenterSpec, TrainingInfo
from vitrail.models.store import build, check_fit, load_model, save_model, saved_fingerprint
from vitrail.settings.load import EMBEDDED_ENCODER
from vitrail.settings.schema import EncoderSettings

TINY = "test_efficientnet"
SHARED = {"encoder": TINY, "side_um": 199.1, "side_px": 64, "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.25, 0.15)}
INFO = TrainingInfo(epochs=3, best_epoch=2, validation_loss=0.25, seed=7)


CPU_FLAGS = device._cpu_flags  # taken before anything replaces it


def classifier_spec(**changes):
    return ClassifierSpec(**SHARED | {"dense": 16, "dropout": 0.5} | changes)


def segmenter_spec(**changes):
    return SegmenterSpec(**SHARED | {"decoder": (16, 8, 8, 8, 8)} | changes)


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
    weights = embedded()
    classifier, segmenter = (build(spec(encoder=EMBEDDED_ENCODER)) for spec in (classifier_spec, segmenter_spec))
    for network in (classifier, segmenter):
        load_encoder(network.backbone, weights, "test")
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
    monkeypatch.setattr(encoder, "try_to_load_from_cache", lambda *_args: None)
    monkeypatch.setattr(encoder, "_online", lambda: False)
    with pytest.raises(ModelError) as caught:
        start_weights(EncoderSettings(name=TINY))
    line = str(caught.value)
    assert "cannot be downloaded (this machine is offline)" in line
    assert 'encoder.weights to a .safetensors or .pth file, or to "embedded"' in line
    assert "\n" not in line


def test_imagenet_weights_that_fail_on_the_way(monkeypatch):
    def fail(*_args, **_kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("first line\nsecond line")

    monkeypatch.setattr(encoder, "try_to_load_from_cache", lambda *_args: None)
    monkeypatch.setattr(encoder, "_online", lambda: True)
    monkeypatch.setattr(encoder.timm, "create_model", fail)
    with pytest.raises(ModelError, match="cannot be downloaded \\(LocalEntryNotFoundError: first line second line\\)"):
        start_weights(EncoderSettings(name=TINY))


def test_imagenet_weights_from_the_hubs_cache(monkeypatch, tmp_path):
    network = timm.create_model(TINY)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(encoder, "try_to_load_from_cache", lambda *_args: str(tmp_path / "model.safetensors"))
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

    monkeypatch.setattr(encoder.constants, "ENDPOINT", "https://hub.example")
    monkeypatch.setattr(encoder.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "getproxies", lambda: proxies)
    monkeypatch.setattr(
        urllib.request, "proxy_bypass", lambda host: urllib.request.proxy_bypass_environment(host, proxies)
    )
    monkeypatch.setattr(encoder.socket, "create_connection", connect)
    assert not encoder._online()
    assert asked == [(hop, 5)]
    monkeypatch.setattr(encoder.socket, "create_connection", lambda *_args, **_kwargs: io.BytesIO())
    assert encoder._online()


def test_a_hub_switched_off_is_not_asked(monkeypatch):
    monkeypatch.setattr(encoder.constants, "HF_HUB_OFFLINE", True)
    assert not encoder._online()


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


def test_a_tag_of_weights_is_part_of_the_name():
    assert feature_channels("efficientnet_b0.ra_in1k") == 1280


def test_unknown_encoder_is_told_near_names():
    with pytest.raises(ModelError, match=r"timm has no network of this name\. Did you mean .*efficientnet_b0"):
        build(classifier_spec(encoder="eficientnet_b0"))


@pytest.mark.parametrize("spec", [classifier_spec, segmenter_spec])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_encoders_without_feature_maps_are_refused(spec, name):
    with pytest.raises(ModelError, match="gives no convolutional feature maps"):
        build(spec(encoder=name))


def test_efficientnet_b0_ends_in_1280_channels():
    assert feature_channels("efficientnet_b0") == 1280


def test_classifier_is_its_head_behind_its_features():
    network = build(classifier_spec()).eval()
    x = torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        features = network.features(x)
        assert features.shape == (3, feature_channels(TINY), 2, 2)
        assert torch.equal(network(x), network.head(features))
        by_hand = network.logit(network.dense(features.mean((2, 3))).clamp_min(0)).squeeze(1)
        torch.testing.assert_close(network(x), by_hand)


def test_the_dense_layer_is_linear_or_rectified(tmp_path):
    network = build(classifier_spec(activation="linear"))
    save_model(tmp_path, network, classifier_spec(activation="linear"))
    read, x = load_model(tmp_path).module, torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        pooled = network.eval().features(x).mean((2, 3))
        torch.testing.assert_close(read(x), network.logit(network.dense(pooled)).squeeze(1))
    old = json.loads((tmp_path / "model.json").read_text())
    assert old.pop("activation") == "linear"
    (tmp_path / "model.json").write_text(json.dumps(old))  # as it was before activations were stored
    with torch.inference_mode():
        expected = network.logit(network.dense(pooled).relu()).squeeze(1)
        torch.testing.assert_close(load_model(tmp_path).module(x), expected)


@pytest.mark.parametrize("size", [(64, 64), (50, 70), (33, 32), (20, 20)])
def test_segmenter_takes_any_size(size):
    network = build(segmenter_spec()).eval()
    x = torch.rand(2, 3, *size)
    with torch.inference_mode():
        logits = network(x)
        maps = network.encode(x)
    assert logits.shape == (2, 4, *size)
    assert maps[-1].shape[2:] == (-(-size[0] // 32), -(-size[1] // 32))


def test_padding_repeats_the_border():
    network = build(segmenter_spec()).eval()
    x = torch.rand(1, 3, 50, 64)
    padded = torch.cat([x, x[:, :, -1:].expand(1, 3, 14, 64)], 2)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), network(padded)[:, :, :50])


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


@pytest.mark.parametrize("spec", [classifier_spec, segmenter_spec])
def test_encoders_that_do_not_fit_the_tiles(spec):
    with pytest.raises(ModelError, match="cannot be trained on tiles of 64 pixels, 4 a batch") as caught:
        check_fit(spec(encoder="inception_v3"), 4)
    assert "\n" not in str(caught.value)
    check_fit(spec(), 4)


def test_batch_normalisation_needs_two_values():
    with pytest.raises(ModelError, match=r"cannot be trained on tiles of 32 pixels, 1 a batch .* or classifier\.batch"):
        check_fit(classifier_spec(side_px=32), 1)
    check_fit(classifier_spec(side_px=32), 2)
    check_fit(classifier_spec(), 1)


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


def test_inputs_are_standardised_without_a_copy_of_the_order():
    tiles = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8))
    images = intensities(tiles)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images[1, 2, 3, 4] == tiles[1, 3, 4, 2] / 255
    x = Normalizer(classifier_spec(), torch.device("cpu"))(images)
    torch.testing.assert_close(x[:, 1], (images[:, 1] - 0.5) / 0.25)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"compute\.device: this machine has no 'cuda'"):
        device.pick_device("cuda")
    assert device.pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("cuda", "found"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_cuda_or_the_cpu(monkeypatch, cuda, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device.pick_device("auto") == torch.device(found)
    assert device.pick_device("mps") == torch.device("mps")


@pytest.mark.parametrize(("refused", "took"), [((), True), ((1 << 30,), True), ((1 << 30, 32 << 20), False)])
def test_an_older_c_library_is_asked_for_less(monkeypatch, refused, took):
    asked = []

    class Library:
        @staticmethod
        def mallopt(option, size):
            asked.append((option, size))
            return int(option == -1 or size not in refused)

    monkeypatch.setattr(device.ctypes, "CDLL", lambda _name: Library)
    assert device.keep_memory() == took
    assert asked[-1] == (-1, 1 << 30)  # whatever became of the other
    assert asked[:-1] == [(-3, size) for size in (1 << 30, 32 << 20)[: len(refused) + 1]]


@pytest.mark.parametrize(("kind", "used", "forked"), [("cuda", False, 2), ("cpu", True, 2), ("cpu", False, 0)])
def test_generators_of_all_gpus_are_kept(monkeypatch, kind, used, forked):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device._seeded(torch.device(kind)) == list(range(forked))


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [("flags : avx2 amx_bf16", torch.bfloat16), ("flags : avx2 avx512f", None), (None, None)],
)
def test_bfloat16_only_where_the_cpu_has_it(tmp_path, monkeypatch, flags, dtype):
    monkeypatch.delenv("VITRAIL_CPU_BFLOAT16", raising=False)
    cpuinfo = tmp_path / "cpuinfo"
    if flags:
        cpuinfo.write_text(f"processor : 0\n{flags}\n")
    monkeypatch.setattr(device, "_cpu_flags", lambda _path: CPU_FLAGS(cpuinfo))
    cpu = torch.device("cpu")
    assert device.half_type(cpu) == dtype
    for setting, expected in (("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        assert device.training_precision(cpu, setting).dtype == expected


def test_reproducible_gives_back_what_it_took():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with device.reproducible(torch.device("cpu"), 5):
        first = torch.rand(3)
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()
    with device.reproducible(torch.device("cpu"), 5):
        assert torch.equal(torch.rand(3), first)


def test_a_segmenters_decoder_has_limits(tmp_path):
    save_model(tmp_path, build(segmenter_spec()), segmenter_spec())
    path = tmp_path / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder": [256, 128, 64, 32, 10**20]}))
    with pytest.raises(ModelError, match=r"decoder\.4: Input should be less than or equal to 1024"):
        load_model(tmp_path)


def test_large_tiles_are_tried_in_bounded_memory(monkeypatch):
    sides = []
    monkeypatch.setattr(Classifier, "forward", lambda _, x: sides.append(x.shape[-1]))
    for side_px in (96, 1024, 4096):
        check_fit(classifier_spec(side_px=side_px), 128)
    assert sides == [96, 1024, 1024]
