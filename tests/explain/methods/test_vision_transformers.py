"""Which methods explain vision transformers, against captum, pytorch-grad-cam and brute force."""

from __future__ import annotations

import pytest
import torch
from captum.attr import IntegratedGradients, Occlusion, Saliency
from torch import nn

from helpers.networks import SEGMENTER, random_head, random_network
from helpers.oracles import noise
from helpers.vit import ARGUMENTS, CLASSIFIER, LINEAR, NAME, UPERNET
from vitrail.classes import TissueClass
from vitrail.explain.dense import dense_network
from vitrail.explain.fused import ExplainingClassifier
from vitrail.explain.input_gradients import blurred, cell_sums
from vitrail.explain.layers import find_layers
from vitrail.explain.methods.base import METHODS
from vitrail.explain.methods.deeplift import deeplift
from vitrail.explain.methods.gradcam import METHOD as GRADCAM
from vitrail.explain.methods.gradcam import Score, gradcam
from vitrail.explain.methods.integrated_gradients import METHOD as INTEGRATED
from vitrail.explain.methods.layercam import layercam
from vitrail.explain.methods.smoothgrad import smoothgrad
from vitrail.models.encoder import build_timm
from vitrail.models.store import Model

SPECS = pytest.mark.parametrize("spec", [CLASSIFIER, LINEAR, UPERNET], ids=["classifier", "linear", "upernet"])
PLAIN = pytest.mark.parametrize("spec", [CLASSIFIER, LINEAR], ids=["classifier", "linear"])


def network_of(spec):
    """Random, and with weights large enough that its attention is not the same everywhere."""
    network = random_network(spec, most=1.4)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("qkv.weight", "pos_embed", "fc1.weight")):
                parameter.mul_(8)
    return network.eval()


def score(network):
    """The tile's tumor logit; of a segmenter the mean over all pixels."""

    def of(x):
        output = network(x)
        return output if output.ndim == 1 else output[:, TissueClass.TUMOR].mean((1, 2))

    return of


@PLAIN
def test_every_method_explains_it(spec):
    network, x = network_of(spec), noise(2, 3, 48, 64)
    layers = find_layers(network)
    assert layers.strides == (8,) * 4
    for method in METHODS.values():
        assert method.explains(network)
        if method.needs_head and method.name != "hrcam":
            continue
        head = random_head(layers) if method.name == "hrcam" else None
        maps = method.explain(network, x, head=head, pixels="all")
        assert torch.isfinite(maps.values).all()
        assert maps.values.std() > 0, method.name
        assert maps.frame.span_px == (48, 64)


@SPECS
def test_grad_cam_is_torchs_gradient_at_the_last_token_map(spec):
    network, x = network_of(spec), noise(2, 3, 64, 64)
    name = f"{network.stages}.maps.{len(network.get_submodule(network.stages).maps) - 1}"
    total = Score(name="tumor", of=lambda output: output if output.ndim == 1 else output[:, 0].mean((1, 2)))
    expected = gradcam(network, x, name, total).values
    if spec is CLASSIFIER:
        found = GRADCAM.explain(network, x).values
    else:
        found = GRADCAM.explain(network, x, pixels="all").values
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert found.shape == (2, 8, 8)


def test_a_classifiers_grad_cam_adds_up_to_its_logit():
    network, x = network_of(CLASSIFIER.model_copy(update={"activation": "linear"})), noise(2, 3, 64, 64)
    with torch.no_grad():
        biases = network.logit.weight @ network.dense.bias + network.logit.bias
        expected = network(x) - biases
    torch.testing.assert_close(GRADCAM.explain(network, x).values.sum((1, 2)), expected, rtol=1e-4, atol=1e-5)


@PLAIN
def test_layercam_is_gradient_times_feature(spec):
    network, x = network_of(spec), noise(2, 3, 64, 64)
    maps = network.features(x) if spec is CLASSIFIER else network.encode(x)[-1]
    maps = maps.detach().requires_grad_()
    output = network.head(maps) if spec is CLASSIFIER else network.decode([maps])[:, 0].mean((1, 2))
    (gradient,) = torch.autograd.grad(output.sum(), maps)
    found = layercam(network, x, pixels="all").values
    torch.testing.assert_close(found, (gradient * maps).sum(1).detach(), rtol=1e-4, atol=1e-7)


@SPECS
def test_hr_cams_map_is_its_dense_layer_at_each_place(spec):
    network, x = network_of(spec), noise(2, 3, 64, 64)
    layers = find_layers(network)
    head = random_head(layers)
    seen, encoder = {}, network.get_submodule(network.stages)
    handles = [
        look.register_forward_hook(lambda _m, _i, output, number=number: seen.update({number: output.detach()}))
        for number, look in enumerate(encoder.maps)
    ]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    found = METHODS["hrcam"].explain(network, x, head=head)
    every = torch.cat([seen[number] for number in range(4)], 1)
    expected = torch.einsum("nchw,c->nhw", every, head.weights) + head.bias
    torch.testing.assert_close(found.values, expected, rtol=1e-3, atol=1e-4)


@PLAIN
def test_integrated_gradients_are_captums(spec):
    network, x = network_of(spec), noise(1, 3, 32, 32)
    found = INTEGRATED.explain(network, x, pixels="all").values
    expected = IntegratedGradients(score(network)).attribute(x, blurred(x), n_steps=300, method="gausslegendre")
    cells = cell_sums(expected.sum(1))
    assert torch.corrcoef(torch.stack([found.flatten(), cells.flatten()]))[0, 1] > 0.98


@SPECS
def test_deeplift_adds_up_to_the_difference_of_the_scores(spec):
    network, x = network_of(spec), noise(2, 3, 64, 64)
    references = blurred(x)
    found = deeplift(network, x, references, pixels="all")
    with torch.no_grad():
        expected = score(network)(x) - score(network)(references)
    torch.testing.assert_close(found.values.sum((1, 2)), expected, rtol=1e-3, atol=1e-4)
    assert found.residue.abs().max() < 1e-4


def test_deeplift_of_attention_is_what_its_parts_give():
    class Attention(nn.Module):
        def __init__(self, fused):
            super().__init__()
            self.fused, self.weight = fused, nn.Parameter(noise(3, 4, 4) / 2)

        def forward(self, x):
            q, k, v = (x.flatten(2).transpose(1, 2) @ weight for weight in self.weight)
            if self.fused:
                out = nn.functional.scaled_dot_product_attention(q, k, v)
            else:
                out = ((q * 0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
            return out.square().sum((1, 2))

    x, references = noise(2, 4, 4, 4), noise(2, 4, 4, 4, seed=1)
    found, expected = (deeplift(Attention(fused), x, references) for fused in (True, False))
    torch.testing.assert_close(found.values, expected.values)
    assert found.residue.abs().max() < 1e-4


def test_smoothgrad_without_noise_is_captums_gradient_times_difference():
    network, x = network_of(CLASSIFIER), noise(1, 3, 32, 32)
    found = smoothgrad(network, x, copies=1, noise=0).values
    relevance = (Saliency(score(network)).attribute(x.clone().requires_grad_(), abs=False) * (x - blurred(x))).sum(1)
    torch.testing.assert_close(found, cell_sums(relevance), rtol=1e-3, atol=1e-6)


def test_occlusion_of_a_patch_is_like_captums():
    network, x = network_of(CLASSIFIER), noise(1, 3, 64, 64)
    found = METHODS["occlusion"].explain(network, x).values
    hidden = Occlusion(score(network)).attribute(x, (3, 16, 16), (3, 8, 8), blurred(x))
    cells = hidden.mean(1).unflatten(1, (16, 4)).unflatten(3, (16, 4)).mean((2, 4))
    assert torch.corrcoef(torch.stack([found.flatten(), cells.flatten()]))[0, 1] > 0.5


@SPECS
def test_its_cells_stay_its_patches(spec):
    network = network_of(spec)
    assert dense_network(network, 4, 32) is None
    assert dense_network(random_network(SEGMENTER), 8, 32) is not None


def test_maps_of_several_tiles_are_laid_onto_pixels():
    network = network_of(CLASSIFIER)
    model = Model(spec=CLASSIFIER, module=network)
    reader = GRADCAM.reader(network)
    explaining = ExplainingClassifier(network, [reader], None, pixels=8, side_px=model.spec.side_px, tiles=2)
    x = noise(1, 3, 128, 128)
    with torch.no_grad():
        logits, maps = explaining(x)
        torch.testing.assert_close(logits, network(x))
    plain = GRADCAM.explain(network, x).values
    assert maps.shape == (1, 1, 16, 16)
    assert torch.corrcoef(torch.stack([maps.flatten(), 4 * plain.flatten()]))[0, 1] > 0.95


def test_looking_at_maps_changes_nothing():
    network = random_network(CLASSIFIER).eval()
    plain = build_timm(NAME, ARGUMENTS).eval()
    plain.load_state_dict(network.backbone.state_dict())
    x = noise(2, 3, 32, 48)
    with torch.no_grad():
        tokens = plain.forward_features(x)
        found = network.features(x)
    assert torch.equal(found.flatten(2).transpose(1, 2), tokens[:, 3:])
