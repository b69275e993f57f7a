from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from helpers.networks import random_head
from vitrail.classes import TissueClass
from vitrail.errors import ModelError, TileError
from vitrail.explain.explainer import Explainer
from vitrail.explain.fused import assemble, read_pass
from vitrail.explain.hooks import frozen
from vitrail.explain.layers import Layers, default_layers, final_stride, find_layers, pool
from vitrail.explain.methods.base import METHODS, find_heads, fitted_heads
from vitrail.explain.methods.gradcam import Score, classifier_gradcam, gradcam
from vitrail.explain.methods.hrcam import (
    HRCamHead,
    fit,
    hrcam,
    load_head,
    save_head,
)
from vitrail.explain.receptive_field import frames
from vitrail.models.spec import ClassifierSpec, SegmenterSpec
from vitrail.models.store import Model, build, model_digest, save_model

TINY = "test_efficientnet"
SHARED = {"encoder": TINY, "side_um": 199.1, "side_px": 64, "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.25, 0.15)}
CLASSIFIER = ClassifierSpec(**SHARED, dense=16, dropout=0.5)
SEGMENTER = SegmenterSpec(**SHARED, decoder=(16, 8, 8, 8, 8))


def network_of(spec, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(spec).eval()


def images(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=[CLASSIFIER, SEGMENTER], ids=["classifier", "segmenter"])
def network(request):
    return network_of(request.param)


def feature_maps(network, layers, x):
    """The layers' outputs, collected by hand."""
    found = {}
    handles = [
        network.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out}))
        for name in layers.names
    ]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    return [found[name] for name in layers.names]


def test_default_layers_are_one_a_stride_and_the_final_convolution():
    found = find_layers(network_of(CLASSIFIER))
    assert found.names == (*(f"encoder.blocks.{i}" for i in range(5)), "encoder.bn2")
    assert found.strides == (2, 4, 8, 16, 32, 32)
    assert found.channels == (16, 24, 32, 48, 64, 256)
    assert final_stride(network_of(CLASSIFIER)) == 32


def test_default_layers_of_the_segmenter_are_its_skips_and_bottleneck():
    network, x = network_of(SEGMENTER), images(2, 3, 64, 64)
    layers = find_layers(network)
    assert layers.strides == (2, 4, 8, 16, 32)
    with torch.no_grad():
        for found, expected in zip(feature_maps(network, layers, x), network.encode(x)[1:], strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("encoder", "strides"), [("test_resnet", (2, 4, 8, 16, 32)), ("test_convnext", (4, 8, 16, 32))]
)
def test_default_layers_of_other_encoders(encoder, strides):
    network = network_of(ClassifierSpec(**SHARED | {"encoder": encoder}, dense=8, dropout=0))
    layers = find_layers(network)
    assert layers.strides == strides  # where the last stage is the final map it is named once
    x = images(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(feature_maps(network, layers, x)[-1], network.features(x))


def test_default_layers_that_timm_renames():
    network = network_of(SegmenterSpec(**SHARED | {"encoder": "test_convnext"}, decoder=(16, 8, 8, 8, 8)))
    assert default_layers(network)[0] == "unet.encoder.model.stages_0"


def test_an_encoder_without_stages_is_refused():
    network = network_of(CLASSIFIER)
    network.encoder.feature_info = []
    with pytest.raises(ModelError, match=r"^encoder EfficientNet: does not say which layers end its stages\."):
        default_layers(network)
    with pytest.raises(ModelError, match=r"^Sequential: is no network of Vitrail"):
        default_layers(nn.Sequential())


def test_named_layers_come_finest_first():
    network = network_of(CLASSIFIER)
    found = find_layers(network, ("encoder.blocks.3", "encoder.blocks.1"))
    assert found.names == ("encoder.blocks.1", "encoder.blocks.3")
    assert found.strides == (4, 16)
    with pytest.raises(ModelError, match=r"^layer 'encoder\.none': Classifier has none of this name"):
        find_layers(network, ("encoder.none",))


def test_pooled_features_are_means_of_the_maps(network):
    x, layers = images(3, 3, 64, 96), find_layers(network)
    expected = torch.cat([maps.mean((2, 3)) for maps in feature_maps(network, layers, x)], 1)
    torch.testing.assert_close(pool(network, x, layers), expected)


def enlarged(maps, own, onto, shape):
    """Interpolate `[c, h, w]` at the places that the cells of another frame look at, row by row, column by column."""
    rows, columns = onto.centres(shape)
    at_rows, at_columns = own.centres(maps.shape[1:])
    tall = np.apply_along_axis(lambda values: np.interp(rows, at_rows, values), 1, maps.double().numpy())
    return np.apply_along_axis(lambda values: np.interp(columns, at_columns, values), 2, tall)


def naive(network, hrcam_head, x):
    """Enlarge every feature map first, each value where its cell looks, then weight, add up, and add the bias."""
    layers = hrcam_head.layers
    maps, weights = feature_maps(network, layers, x), hrcam_head.weights.double().split(layers.channels)
    places = frames(network, tuple(x.shape[1:]), layers.names, layers.strides)
    shape, total = maps[0].shape[2:], hrcam_head.bias
    for each, own, weight in zip(maps, places, weights, strict=True):
        large = np.stack([enlarged(image, own, places[0], shape) for image in each])
        total = total + np.einsum("nchw,c->nhw", large, weight.numpy())
    return torch.from_numpy(total).float()


def test_heatmap_is_the_naive_one(network):
    x, hrcam_head = images(3, 3, 64, 96), random_head(find_layers(network))
    found, expected = hrcam(network, x, hrcam_head), naive(network, hrcam_head, x)
    assert found.values.shape == (3, 32, 48)
    scale = expected.abs().max()
    torch.testing.assert_close(found.values / scale, expected / scale, atol=1e-5, rtol=1e-5)
    assert found.frame.span_px == (64, 96)


def test_where_all_layers_have_one_size_the_maps_mean_is_the_logit(network):
    """So its zero parts what speaks for tumor from what speaks against it."""
    x, layers = images(3, 3, 64, 64), find_layers(network, find_layers(network).names[-1:])
    found = hrcam(network, x, random_head(layers))
    torch.testing.assert_close(found.values.mean((1, 2)), found.head_logits, rtol=1e-4, atol=1e-4)
    assert found.head_logits.abs().min() > 1e-3


def test_the_dense_layer_tells_its_logits_along(network):
    x, layers = images(3, 3, 64, 64), find_layers(network)
    hrcam_head = random_head(layers)
    logits = hrcam_head.logits(pool(network, x, layers))
    torch.testing.assert_close(hrcam(network, x, hrcam_head).head_logits, logits, atol=1e-4, rtol=1e-4)


def test_non_tumor_is_the_negative(network):
    x, hrcam_head = images(1, 3, 64, 64), random_head(find_layers(network))
    tumor, non_tumor = (hrcam(network, x, hrcam_head, t) for t in (TissueClass.TUMOR, TissueClass.NON_TUMOR))
    assert torch.equal(tumor.values, -non_tumor.values)
    assert torch.equal(tumor.head_logits, non_tumor.head_logits)
    with pytest.raises(ValueError, match="not background"):
        hrcam(network, x, hrcam_head, TissueClass.BACKGROUND)


def test_layers_of_padded_images_lie_over_each_other():
    """Of an image of 40 pixels the map of stride 32 covers 64: enlarged, its cells must still be 32 pixels wide."""
    network = network_of(SEGMENTER)
    hrcam_head = random_head(find_layers(network))
    x = images(1, 3, 40, 40)
    padded = nn.functional.pad(x, (0, 24, 0, 24), mode="replicate")
    alone, whole = (hrcam(network, each, hrcam_head).values for each in (x, padded))
    torch.testing.assert_close(alone, whole, atol=1e-3, rtol=1e-3)
    assert hrcam(network, x, hrcam_head).saliencies()[0].upsample().shape == (40, 40)

    classifier = network_of(CLASSIFIER)
    layers = find_layers(classifier, ("encoder.blocks.0", "encoder.blocks.4"))
    coarse_only = torch.cat([torch.zeros(16), torch.ones(64)])
    found = hrcam(classifier, x, HRCamHead(layers=layers, weights=coarse_only, bias=0, l2=1))
    with torch.no_grad():
        coarse = feature_maps(classifier, layers, x)[1].sum(1)
    assert coarse.shape == (1, 2, 2)
    fine, own = frames(classifier, (3, 40, 40), layers.names, layers.strides)
    assert (own.span_px, found.frame) == ((64, 64), fine)
    expected = enlarged(coarse, own, fine, (20, 20))
    np.testing.assert_allclose(found.values.numpy(), expected, atol=1e-4, rtol=1e-4)


def test_one_pass_serves_both_methods():
    network, x = network_of(CLASSIFIER), images(2, 3, 64, 64)
    hrcam_head = random_head(find_layers(network))
    classifier_gradcam(network, x), hrcam(network, x, hrcam_head)  # now it is known where cells look
    passes = []
    handle = network.encoder.conv_stem.register_forward_hook(lambda *_: passes.append(1))
    readers = [METHODS["gradcam"].reader(network), METHODS["hrcam"].reader(network, hrcam_head)]
    with frozen(network):
        logits, sums = read_pass(network, x, readers)
    handle.remove()
    assert len(passes) == 1
    grad, hr = (assemble(network, reader, sums[reader.method], (3, 64, 64), output=logits) for reader in readers)
    assert torch.equal(hr.values, hrcam(network, x, hrcam_head).values)
    assert torch.equal(grad.values, classifier_gradcam(network, x).values)


def test_gradients_of_another_method_in_the_same_pass_stay_out():
    network, x = network_of(CLASSIFIER), images(2, 3, 64, 64)
    hrcam_head = random_head(find_layers(network))
    reader = METHODS["hrcam"].reader(network, hrcam_head)

    def lead():
        return gradcam(network, x, "encoder.blocks.1", Score(name="tumor", of=lambda logits: logits)).output

    with frozen(network):
        _, sums = read_pass(network, x, [reader], lead)
    found = assemble(network, reader, sums["hrcam"], (3, 64, 64))
    assert torch.equal(found.values, hrcam(network, x, hrcam_head).values)


def hooks(network):
    return sum(len(module._forward_hooks) for module in network.modules())


def test_nothing_is_left_behind(network):
    network.train()
    next(network.parameters()).requires_grad = False
    before = [parameter.requires_grad for parameter in network.parameters()]
    layers = find_layers(network)
    hrcam_head, x = random_head(layers), images(2, 3, 64, 64)
    assert not pool(network, x, layers).requires_grad
    assert not hrcam(network, x, hrcam_head).values.requires_grad
    wrong = Layers(names=layers.names, channels=(1, *layers.channels[1:]), strides=layers.strides)
    with pytest.raises(ModelError, match=r"gives 16 feature maps, but HR-CAM was fitted on 1\. Fit HR-CAM"):
        hrcam(network, x, random_head(wrong))
    assert hooks(network) == 0
    assert all(module.training for module in network.modules())
    assert before == [parameter.requires_grad for parameter in network.parameters()]
    assert all(parameter.grad is None for parameter in network.parameters())
    next(network.parameters()).requires_grad = True
    network.eval()


def test_a_pass_that_does_not_come_is_an_error(network):
    reader = METHODS["hrcam"].reader(network, random_head(find_layers(network)))
    with pytest.raises(ModelError, match="did not run"):
        read_pass(network, images(1, 3, 64, 64), [reader], lambda: None)
    with pytest.raises(ModelError, match=r"^HR-CAM: has no dense layer\."):
        METHODS["hrcam"].explain(network, images(1, 3, 64, 64))


def toy(n=300, c=12, seed=0):
    """Correlated features of very different sizes, and labels that they do not tell apart."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, c)) @ rng.normal(size=(c, c)) * np.logspace(-3, 3, c) + 5
    truth = ((features - features.mean(0)) / features.std(0)) @ rng.normal(size=c)
    return features, rng.uniform(size=n) < 1 / (1 + np.exp(-truth))


def fitted(features, labels, l2):
    layers = Layers(names=("a",), channels=(features.shape[1],), strides=(2,))
    head = fit(layers, torch.from_numpy(features), labels, l2)
    return head.weights.double().numpy(), head.bias


@pytest.mark.parametrize("l2", [1e-4, 1e-2, 1.0])
def test_at_the_solution_no_gradient_is_left(l2):
    """Of the mean cross-entropy and the penalty, written out; the weights are stored with 24 bits."""
    features, labels = toy()
    mean, std = features.mean(0), features.std(0)
    weights, bias = fitted(features, labels, l2)
    parameters = torch.tensor([*(weights * std), bias + weights @ mean], requires_grad=True)
    logits = torch.from_numpy((features - mean) / std) @ parameters[:-1] + parameters[-1]
    cross_entropy = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels).double())
    (cross_entropy + l2 / 2 * parameters[:-1].square().sum()).backward()
    assert parameters.grad.abs().max() < 1e-5


def test_more_features_than_rows_that_separate_the_classes_converge():
    features, labels = toy(n=40, c=120)
    weights, bias = fitted(features, labels, 1e-3)
    assert ((features @ weights + bias > 0) == labels).all()


def test_features_that_do_not_vary_get_no_weight():
    features, labels = toy()
    features[:, 3], features[:, 5] = 0.1, 0
    weights, _ = fitted(features, labels, 0.1)
    assert weights[[3, 5]].tolist() == [0, 0]
    assert np.isfinite(weights).all()


@pytest.mark.parametrize(("labels", "l2"), [(np.arange(2) > 0, 0.1), (np.arange(300) > 0, 0)])
def test_what_cannot_be_solved(labels, l2):
    with pytest.raises(ValueError, match=r"samples|without a penalty"):
        fitted(toy()[0], labels, l2)


def test_fit_tells_bright_from_dark_images():
    network = network_of(CLASSIFIER)
    layers = find_layers(network)
    tumor = np.arange(40) % 2 == 0
    x = images(40, 3, 64, 64) + torch.from_numpy(tumor).float().view(-1, 1, 1, 1)
    pooled = pool(network, x, layers)
    hrcam_head = fit(layers, pooled[:30], tumor[:30], 0.01)
    assert hrcam_head.accuracy(pooled[30:], tumor[30:]) == 1
    assert hrcam_head.accuracy(pooled[30:], ~tumor[30:]) == 0
    assert hrcam_head.weights.dtype == torch.float32


def test_what_cannot_be_fitted():
    layers = Layers(names=("a",), channels=(2,), strides=(2,))
    with pytest.raises(TileError, match="tiles for HR-CAM: none of them is tumor"):
        fit(layers, torch.rand(3, 2), np.zeros(3, bool), 0.1)
    with pytest.raises(ModelError, match="feature maps are not finite"):
        fit(layers, torch.full((2, 2), torch.inf), np.array([True, False]), 0.1)


def test_auxiliary_round_trip(tmp_path):
    layers = find_layers(network_of(CLASSIFIER))
    hrcam_head = random_head(layers)
    save_head(tmp_path / "hrcam", hrcam_head)
    found = load_head(tmp_path / "hrcam")
    assert torch.equal(found.weights, hrcam_head.weights)
    assert (found.layers, found.bias, found.l2) == (layers, 0.25, 0.1)
    assert {path.name for path in (tmp_path / "hrcam").iterdir()} == {"hrcam.json", "hrcam.safetensors"}


def unfitted(model_folder):
    return find_heads(model_folder, [METHODS["hrcam"]])[1].get("hrcam")


def test_the_dense_layer_of_a_model_is_that_fitted_on_these_weights(tmp_path):
    own, other = tmp_path / "classifier", tmp_path / "other"
    save_model(own, network_of(CLASSIFIER), CLASSIFIER)
    assert "no dense layer" in unfitted(own)
    hrcam_head = random_head(find_layers(network_of(CLASSIFIER)))
    folder = tmp_path / "explanations" / "classifier"
    save_head(folder, hrcam_head)
    assert "before its file said on which" in unfitted(own)
    save_head(folder, replace(hrcam_head, fitted_on=model_digest(own)))
    assert unfitted(own) is None
    assert torch.equal(fitted_heads(own, [METHODS["hrcam"]])["hrcam"].weights, hrcam_head.weights)
    network = network_of(CLASSIFIER)
    with torch.no_grad():
        network.logit.bias += 1
    save_model(other, network, CLASSIFIER)
    for name in ("model.json", "weights.safetensors"):
        shutil.copy(other / name, own / name)  # trained again, but not explained
    assert "fitted on other weights" in unfitted(own)
    with pytest.raises(
        ModelError,
        match=r"classifier: HR-CAM's dense layer was fitted on other weights.* Remove .*run: vitrail explain",
    ):
        fitted_heads(own, [METHODS["hrcam"]])["hrcam"]


def test_a_dense_layer_without_a_penalty_is_read(tmp_path):
    save_head(tmp_path, replace(random_head(find_layers(network_of(CLASSIFIER))), l2=0.0))
    assert load_head(tmp_path).l2 == 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"l2": -1}, "hrcam.json: not valid"),
        ({"layers": ["a"]}, "differ in number"),
        ({"channels": [1] * 6}, "hrcam.safetensors: does not fit hrcam.json"),
    ],
)
def test_spoilt_json(tmp_path, change, problem):
    save_head(tmp_path, random_head(find_layers(network_of(CLASSIFIER))))
    path = tmp_path / "hrcam.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=problem) as caught:
        load_head(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hrcam.json", "hrcam.safetensors"])
def test_missing_and_broken_files(tmp_path, name):
    save_head(tmp_path, random_head(find_layers(network_of(CLASSIFIER))))
    (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=rf"{name}: not "):
        load_head(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=rf"{name}: no such file"):
        load_head(tmp_path)


def test_tiles_are_explained_in_batches():
    network = network_of(CLASSIFIER)
    explainer = Explainer(Model(spec=CLASSIFIER, module=network), torch.device("cpu"), batch=2)
    tiles = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    pooled = explainer.pool(tiles)
    hrcam_head = fit(explainer.layers, pooled, np.arange(5) > 2, 0.1)
    alone = explainer.hrcam(tiles, hrcam_head)
    pairs = list(explainer.maps(tiles, ("gradcam", "hrcam"), {"hrcam": hrcam_head}))
    together = [(a, b) for grad, hr in pairs for a, b in zip(grad.saliencies(), hr.saliencies(), strict=True)]
    assert len(alone) == len(together) == 5
    for expected, (grad, hr) in zip(alone, together, strict=True):
        np.testing.assert_array_equal(hr.values, expected.values)
        assert (grad.method, hr.method, grad.values.shape, hr.values.shape) == ("gradcam", "hrcam", (2, 2), (32, 32))
    logits = torch.cat([hr.head_logits for _, hr in pairs])
    torch.testing.assert_close(logits, hrcam_head.logits(pooled), atol=1e-4, rtol=1e-4)
    assert explainer.pool(tiles[:0]).shape == (0, pooled.shape[1])
