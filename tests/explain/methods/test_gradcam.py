from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from helpers.networks import CLASSIFIER, PAPER, SEGMENTER, random_network
from vitrail.classes import TissueClass
from vitrail.errors import ModelError
from vitrail.explain.explainer import Explainer
from vitrail.explain.hooks import frozen, leaf_at, record_activations, seen
from vitrail.explain.layers import default_layers
from vitrail.explain.methods.gradcam import Score, classifier_gradcam, gradcam, segmenter_gradcam
from vitrail.explain.saliency import Frame, Saliency
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.store import Model

TUMOR, NON_TUMOR, OTHER = TissueClass.TUMOR, TissueClass.NON_TUMOR, TissueClass.OTHER
FINAL = "encoder.bn2"


def images(*shape, seed=1):
    """Noise, coarse as well as fine: of fine noise alone all images would look the same to a network."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(*shape[:2], 3, 3, generator=generator)
    return torch.randn(*shape, generator=generator) + nn.functional.interpolate(coarse, size=shape[2:]) * 2


@pytest.fixture(scope="module")
def classifier():
    return random_network(CLASSIFIER).eval()


@pytest.fixture(scope="module", params=[SEGMENTER, PAPER], ids=["timm", "paper"])
def segmenter(request):
    return random_network(request.param, *((0, 2.5) if request.param is SEGMENTER else (2, 1.4))).eval()


def close(found, expected):
    """Equal within 1e-5, and not because both are nearly 0."""
    expected = torch.as_tensor(np.asarray(expected))
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=1e-5)


class Linear(nn.Module):
    """Convolution, pooling, one linear layer: here Grad-CAM is CAM."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 5, 3, stride=2), nn.Linear(5, 2)

    def forward(self, x):
        return self.linear(self.conv(x).mean((2, 3)))


def test_on_a_linear_head_gradcam_is_cam_and_adds_up_to_the_logit():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = Linear()
    x = images(4, 3, 9, 11)
    found = gradcam(network, x, "conv", Score(name="second", of=lambda output: output[:, 1]))
    with torch.no_grad():
        features = network.conv(x)
        cam = torch.einsum("nchw,c->nhw", features, network.linear.weight[1]) / features[0, 0].numel()
        close(found.values, cam)
        close(found.values.sum((1, 2)) + network.linear.bias[1], network(x)[:, 1])
    assert (found.method, found.layers, found.target) == ("gradcam", ("conv",), "second")
    assert (found.frame.image_px, found.frame.span_px) == ((9, 11), (8, 10))  # nothing is padded
    np.testing.assert_allclose(found.frame.shift_px, 0.5, atol=0.25)


def test_the_classifiers_map_adds_up_to_its_logit(classifier):
    """Between its kinks the head is linear: logit = sum of the map + what the biases of the active neurons add."""
    x = images(5, 3, 64, 64)
    maps = classifier_gradcam(classifier, x)
    with torch.no_grad():
        active = classifier.dense(classifier.features(x).mean((2, 3))) > 0
        offset = (active * classifier.logit.weight * classifier.dense.bias).sum(1)
        assert 0 < active.float().mean() < 1
        close(maps.values.sum((1, 2)) + offset + classifier.logit.bias, classifier(x))
        close(maps.output, classifier(x))


def test_the_closed_form_is_the_gradient(classifier):
    x = images(5, 3, 96, 64)
    found = classifier_gradcam(classifier, x)
    close(found.values, gradcam(classifier, x, FINAL, Score(name="tumor", of=lambda logits: logits)).values)
    assert found.values.dtype == torch.float32
    assert found.values.shape == (5, 3, 2)
    others = [classifier_gradcam(random_network(CLASSIFIER, seed), x).values for seed in (1, 2, 3)]
    signs = torch.cat([found.values, *others]).sign()
    assert set(signs.unique().tolist()) >= {-1.0, 1.0}


def test_behind_a_linear_dense_layer_every_map_is_the_same_sum_of_features():
    linear = random_network(CLASSIFIER.model_copy(update={"activation": "linear"})).eval()
    x = images(5, 3, 96, 64)
    found = classifier_gradcam(linear, x)
    close(found.values, gradcam(linear, x, FINAL, Score(name="tumor", of=lambda logits: logits)).values)
    with torch.no_grad():
        features = linear.features(x)
        weights = (linear.logit.weight @ linear.dense.weight)[0] / features[0, 0].numel()
        close(found.values, torch.einsum("nchw,c->nhw", features, weights))
        biases = linear.logit.weight[0] @ linear.dense.bias + linear.logit.bias
        close(found.values.sum((1, 2)) + biases, linear(x))
        close(found.output, linear(x))
    rectified = random_network(CLASSIFIER).eval()  # of the same weights
    assert (classifier_gradcam(rectified, x).values - found.values).abs().max() > 0.1 * found.values.abs().max()


def test_non_tumor_is_the_negative(classifier):
    x = images(2, 3, 64, 64)
    tumor, non_tumor = (classifier_gradcam(classifier, x, target) for target in (TUMOR, NON_TUMOR))
    assert torch.equal(tumor.values, -non_tumor.values)
    assert torch.equal(tumor.output, non_tumor.output)
    assert (tumor.target, non_tumor.target) == ("tumor", "non_tumor")
    with pytest.raises(ValueError, match="tells tumor from non_tumor, not other"):
        classifier_gradcam(classifier, x, OTHER)


def test_the_final_map_reaches_beyond_sides_that_do_not_divide(classifier):
    found = classifier_gradcam(classifier, images(1, 3, 50, 70))
    assert found.values.shape == (1, 2, 3)
    assert (found.frame.image_px, found.frame.span_px) == ((50, 70), (64, 96))


def test_images_of_a_batch_do_not_meet(classifier, segmenter):
    x = images(4, 3, 64, 64)
    for explain, network in ((classifier_gradcam, classifier), (partial(segmenter_gradcam, pixels="all"), segmenter)):
        whole, alone = explain(network, x).values, explain(network, x[2:3]).values
        close(whole[2:3], alone)


def captum_gradcam(network, layer, x, forward=None):
    attr = pytest.importorskip("captum.attr")
    inner = attr.LayerGradCam(forward or network, network.get_submodule(layer))
    return inner.attribute(x, target=None)[:, 0].detach()


def pytorch_gradcam(network, layer, x, targets):
    """Return pytorch-grad-cam's maps before it drops negative values and rescales each image, and after that."""
    package = pytest.importorskip("pytorch_grad_cam")
    raw = []

    class Signed(package.GradCAM):
        def get_cam_image(self, *args, **kwargs):
            raw.append(super().get_cam_image(*args, **kwargs))
            return raw[-1]

    with Signed(model=network, target_layers=[network.get_submodule(layer)]) as cam:
        shown = cam(input_tensor=x, targets=targets)
    network.zero_grad()
    return torch.from_numpy(raw[0]), shown


def rescaled(saliencies):
    """What pytorch-grad-cam shows: positive values, stretched to 0 to 1 per image, resized, stretched again."""

    def stretch(values):
        values = values - values.min()
        return values / (1e-7 + values.max())

    def show(saliency):
        frame = replace(saliency.frame, shift_px=(0, 0))  # pytorch-grad-cam does not ask where cells look
        return stretch(replace(saliency, values=stretch(saliency.relu.values), frame=frame).upsample())

    return np.stack([show(saliency) for saliency in saliencies])


def test_classifier_against_captum(classifier):
    x = images(4, 3, 64, 96)
    close(classifier_gradcam(classifier, x).values, captum_gradcam(classifier, FINAL, x))


def test_classifier_against_pytorch_grad_cam(classifier):
    x = images(4, 3, 64, 96)
    found = classifier_gradcam(classifier, x, NON_TUMOR)
    raw, shown = pytorch_gradcam(classifier, FINAL, x, [lambda logit: -logit] * 4)
    close(found.values, raw)
    np.testing.assert_allclose(rescaled(found.saliencies()), shown, atol=1e-5)


def bottleneck(segmenter):
    return default_layers(segmenter)[-1]


@pytest.mark.parametrize("target", [TUMOR, NON_TUMOR])
@pytest.mark.parametrize("pixels", ["predicted", "all", "mask"])
def test_segmenter_against_captum(segmenter, target, pixels):
    x = images(4, 3, 64, 64)
    inside, given = inside_of(segmenter, x, target, pixels)
    found = segmenter_gradcam(segmenter, x, target, given)
    expected = captum_gradcam(
        segmenter, bottleneck(segmenter), x, lambda x: mean_inside(segmenter(x)[:, target], inside)
    )
    close(found.values, expected)
    with torch.no_grad():
        close(found.output, segmenter(x))


def mean_inside(logits, inside):
    """The mean over the chosen pixels of each image: their number must not enter, or tiles could not be compared."""
    return (logits * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)


def inside_of(segmenter, x, target, pixels):
    with torch.no_grad():
        predicted = segmenter(x).argmax(1) == target
    mask = torch.rand(predicted.shape, generator=torch.Generator().manual_seed(2)) > 0.7
    inside = {"predicted": predicted, "all": torch.ones_like(predicted), "mask": mask}[pixels]
    assert inside.any()
    return inside, (mask if pixels == "mask" else pixels)


def test_segmenter_against_pytorch_grad_cam(segmenter):
    x = images(3, 3, 64, 64)
    inside, _ = inside_of(segmenter, x, TUMOR, "predicted")
    targets_of = pytest.importorskip("pytorch_grad_cam.utils.model_targets").SemanticSegmentationTarget
    raw, shown = pytorch_gradcam(
        segmenter,
        bottleneck(segmenter),
        x,
        [targets_of(int(TUMOR), mask.numpy().astype(np.float32)) for mask in inside],
    )
    found = segmenter_gradcam(segmenter, x)  # there the sum over the pixels is explained
    close(found.values * inside.sum((1, 2)).clamp(min=1)[:, None, None], raw)
    np.testing.assert_allclose(rescaled(found.saliencies()), shown, atol=1e-5)


def test_padding_is_explained_but_not_shown(segmenter):
    x = images(2, 3, 50, 70)
    found = segmenter_gradcam(segmenter, x, pixels="all")
    expected = captum_gradcam(segmenter, bottleneck(segmenter), x, lambda x: segmenter(x)[:, TUMOR].mean((1, 2)))
    close(found.values, expected)
    assert (found.frame.image_px, found.frame.span_px) == ((50, 70), (64, 96))
    whole = nn.functional.interpolate(found.values[:1, None], size=(64, 96), mode="bilinear")[0, 0, :50, :70]
    square = replace(found.saliencies()[0], frame=replace(found.frame, shift_px=(0, 0)))
    np.testing.assert_allclose(square.upsample(), whole.numpy(), atol=1e-6 * float(whole.abs().max()))


def test_without_pixels_the_map_is_zero(segmenter):
    x = images(2, 3, 64, 64)
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[1, 5, 5] = True
    nothing, something = segmenter_gradcam(segmenter, x, pixels=mask).saliencies()
    assert nothing.constant
    assert not nothing.values.any()
    assert not something.constant


@pytest.mark.parametrize(
    ("pixels", "problem"),
    [
        (torch.ones(2, 64, 64), "must be booleans of shape"),
        (torch.ones(2, 64, 63, dtype=torch.bool), "must be booleans of shape"),
        ("some", "must be 'predicted', 'all' or a mask, not 'some'"),
    ],
)
def test_wrong_pixels(segmenter, pixels, problem):
    with pytest.raises(ValueError, match=problem):
        segmenter_gradcam(segmenter, images(2, 3, 64, 64), pixels=pixels)


def state(network):
    return (
        [module.training for module in network.modules()],
        [(parameter.requires_grad, parameter.grad) for parameter in network.parameters()],
        [buffer.clone() for buffer in network.buffers()],
        [len(module._forward_hooks) + len(module._backward_hooks) for module in network.modules()],
    )


def assert_same(before, after):
    assert before[0] == after[0]
    assert before[3] == after[3]
    assert all(a[0] == b[0] and a[1] is b[1] for a, b in zip(before[1], after[1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before[2], after[2], strict=True))


@pytest.mark.parametrize("spec", [CLASSIFIER, SEGMENTER])
def test_a_network_is_left_as_it_was_found(spec):
    network = random_network(spec).train()
    some = next(iter(network.children()))
    some.eval()
    next(some.parameters()).requires_grad = False
    last = list(network.parameters())[-1]
    last.grad = torch.ones_like(last)
    before, explain = state(network), classifier_gradcam if spec is CLASSIFIER else segmenter_gradcam
    x = images(2, 3, 64, 64).requires_grad_()
    explain(network, x)
    gradcam(
        network,
        x,
        default_layers(network)[-1],
        Score(name="sum", of=lambda output: output.reshape(len(output), -1).sum(1)),
    )
    assert_same(before, state(network))
    assert x.grad is None


def test_a_network_is_left_as_it_was_found_after_an_exception():
    network = random_network(CLASSIFIER).train()
    before = state(network)

    def fail(_logits):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        gradcam(network, images(2, 3, 64, 64), FINAL, Score(name="fails", of=fail))
    with pytest.raises(RuntimeError):
        classifier_gradcam(network, images(2, 4, 64, 64))
    with (
        pytest.raises(ModelError),
        frozen(network),
        record_activations(network, (FINAL, "nowhere"), lambda _, maps: maps),
    ):
        pass
    assert_same(before, state(network))


def test_dropout_and_batch_statistics_take_no_part():
    network = random_network(CLASSIFIER)
    x = images(3, 3, 64, 64)
    trained, evaluated = (classifier_gradcam(network.train(mode), x).values for mode in (True, False))
    assert torch.equal(trained, evaluated)


def test_callers_contexts_do_not_matter(classifier, segmenter):
    x = images(2, 3, 64, 64)
    expected = [classifier_gradcam(classifier, x).values, segmenter_gradcam(segmenter, x).values]
    for context in (torch.no_grad(), torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16)):
        with context:
            found = [classifier_gradcam(classifier, x.clone()).values, segmenter_gradcam(segmenter, x.clone()).values]
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.twice = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Identity()
        self.never, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.twice(self.twice(self.relu(self.conv(x)))).mean((2, 3)))


def test_layers_may_be_changed_in_place_afterwards():
    network, x = Odd(), images(2, 3, 8, 8)
    found = gradcam(network, x, "conv", Score(name="one", of=lambda output: output[:, 0]))
    with torch.no_grad():
        maps = network.conv(x)
        weights = (maps > 0).float().mean((2, 3)) * network.head.weight / maps[0, 0].numel()
        close(found.values, torch.einsum("nchw,nc->nhw", maps, weights))


@pytest.mark.parametrize(
    ("layer", "problem"),
    [
        ("nowhere", "Odd has none of this name"),
        ("never", "did not run in the forward pass"),
        ("twice", "runs more than once"),
        ("head", r"gives \[2, 1\], not feature maps"),
    ],
)
def test_layers_that_cannot_be_explained(layer, problem):
    with pytest.raises(ModelError, match=problem):
        gradcam(Odd(), images(2, 3, 8, 8), layer, Score(name="one", of=lambda output: output[:, 0]))


@pytest.mark.parametrize("of", [lambda output: torch.zeros(len(output)), lambda _: torch.ones(2, requires_grad=True)])
def test_a_score_that_does_not_depend_on_the_layer(of):
    with pytest.raises(ModelError, match="score 'constant' does not depend on it"):
        gradcam(Odd(), images(2, 3, 8, 8), "conv", Score(name="constant", of=of))


def test_gradients_begin_at_the_layer(segmenter):
    layer = bottleneck(segmenter)
    with frozen(segmenter), leaf_at(segmenter, layer) as found:
        segmenter(images(1, 3, 64, 64))
    assert seen(found, layer).is_leaf


@pytest.mark.parametrize(("cells", "points"), [(7, 224), (1, 5), (3, 7), (6, 6), (5, 2)])
def test_interpolation_is_torchs(cells, points):
    values = torch.randn(cells, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.interpolate(values.T[None], size=points, mode="linear", align_corners=False)[0].T
    frame = Frame(image_px=(224, 10), span_px=(224, 10))
    rows, _ = frame.matrices((cells, 1), (points, 1))
    np.testing.assert_allclose(rows @ values.numpy(), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(("shift", "span"), [(0.0, 96), (15.5, 96), (-15.5, 96), (-28, 128), (3.3, 64)])
def test_values_lie_where_their_cells_look(shift, span):
    """Between the places that cells look at a map is linear, and constant beyond them: numpy's interp."""
    values = np.random.default_rng(0).normal(size=(span // 32, 3)).astype(np.float32)
    found = replace(saliency(values, (96, 96)), frame=Frame(image_px=(96, 96), span_px=(span, 96), shift_px=(shift, 0)))
    looked = 32 * np.arange(span // 32) + 16 + shift
    pixels = np.arange(96) + 0.5
    np.testing.assert_allclose(found.frame.centres(values.shape)[0], looked)
    for column in range(3):
        expected = np.interp(pixels, looked, values[:, column])
        np.testing.assert_allclose(found.upsample((96, 3))[:, column], expected, atol=1e-6)
    assert found.upsample((12, 3)).shape == (12, 3)


def saliency(values, image_px):
    return Saliency(
        method="gradcam", layers=("a",), target="tumor", values=np.asarray(values, np.float32),
        frame=Frame(image_px=image_px, span_px=image_px),
    )  # fmt: skip


def test_upsampling_keeps_constants_and_means_and_draws_no_frame():
    flat = saliency(np.full((7, 7), -0.3), (224, 224))
    assert flat.constant
    assert np.ptp(flat.upsample()) == 0
    ramp = saliency(np.arange(7)[None].repeat(7, 0), (224, 224)).upsample()
    np.testing.assert_allclose(ramp[:, 16:-16], (np.arange(16, 208) + 0.5)[None].repeat(224, 0) / 32 - 0.5, atol=1e-5)
    noisy = saliency(np.random.default_rng(0).normal(size=(5, 5)), (40, 40))
    assert noisy.upsample().mean() == pytest.approx(noisy.values.mean(), abs=1e-6)
    assert noisy.upsample((10, 20)).shape == (10, 20)
    assert noisy.upsample().dtype == np.float32


def test_relu_is_a_view_for_one_target():
    signed = saliency([[-1, 2], [0, -3]], (4, 4))
    assert signed.relu.values.tolist() == [[0, 2], [0, 0]]
    assert (signed.values == [[-1, 2], [0, -3]]).all()
    assert saliency([[-1, -2]], (4, 4)).relu.constant


@pytest.mark.parametrize("spec", [CLASSIFIER, SEGMENTER])
def test_an_array_of_tiles_is_explained_in_batches(spec):
    network = random_network(spec)
    tiles = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    explainer = Explainer(Model(spec=spec, module=network), torch.device("cpu"), batch=2, engine="torch")
    found = explainer.gradcam(tiles, NON_TUMOR)
    x = Normalizer(spec, torch.device("cpu"))(intensities(torch.from_numpy(tiles)))
    explain = classifier_gradcam if spec is CLASSIFIER else segmenter_gradcam
    close(torch.from_numpy(np.stack([each.values for each in found])), explain(network, x, NON_TUMOR).values)
    assert {each.target for each in found} == {"non_tumor"}


def test_masks_are_cut_into_batches_with_their_tiles():
    explainer = Explainer(Model(spec=SEGMENTER, module=random_network(SEGMENTER)), torch.device("cpu"), batch=2)
    tiles = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    mask = torch.zeros(3, 64, 64, dtype=torch.bool)
    mask[2] = True
    assert [each.constant for each in explainer.gradcam(tiles, TUMOR, mask)] == [True, True, False]
    assert explainer.gradcam(tiles[:0]) == []
