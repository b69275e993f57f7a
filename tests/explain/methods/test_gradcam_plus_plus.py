from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch
from pytorch_grad_cam import GradCAMPlusPlus

from helpers.networks import CLASSIFIER, PAPER, SEGMENTER, random_network
from helpers.oracles import noise
from vitrail.classes import TissueClass
from vitrail.explain.layer_gradients import layer_gradients
from vitrail.explain.layers import find_layers
from vitrail.explain.methods.base import METHODS
from vitrail.explain.methods.gradcam import classifier_gradcam
from vitrail.explain.methods.gradcam_plus_plus import channel_weights

METHOD = METHODS["gradcam_plus_plus"]
SPECS = pytest.mark.parametrize("spec", [CLASSIFIER, SEGMENTER, PAPER], ids=["classifier", "timm", "paper"])


def reference(features, gradient):
    """The weights of pytorch-grad-cam for a score, `[n, c]`."""
    weights = GradCAMPlusPlus.get_cam_weights(Mock(), None, None, None, features.numpy(), gradient.numpy())
    return torch.from_numpy(weights)


def test_weights_are_the_references_for_the_score_minus_those_against_it() -> None:
    """The reference adds a millionth to the divisor, so gradients must not be small; it sums, where this averages."""
    features, gradient = noise(3, 5, 4, 6).relu(), noise(3, 5, 4, 6, seed=1) * 30
    expected = reference(features, gradient) - reference(features, -gradient)
    torch.testing.assert_close(channel_weights(features, gradient), expected * (2 / 24), atol=1e-4, rtol=1e-4)


@SPECS
def test_of_both_networks_it_weighs_the_last_maps_by_the_gradient_of_autograd(spec) -> None:
    network, x = random_network(spec, most=1.4).eval(), noise(2, 3, 64, 64)
    layer = find_layers(network).names[-1]

    def score(output):
        return output if output.ndim == 1 else output[:, TissueClass.TUMOR].mean((1, 2))

    result = layer_gradients(network, x, (layer,), score)
    weights = channel_weights(result.features[0], result.gradients[0])
    expected = torch.einsum("nchw,nc->nhw", result.features[0], weights)
    found = METHOD.explain(network, x, pixels="all")
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(found.values / scale, expected / scale, atol=1e-4, rtol=1e-4)
    alone = METHOD.explain(network, x[1:2], pixels="all").values[0]
    torch.testing.assert_close(alone / scale, found.values[1] / scale, atol=1e-5, rtol=1e-4)


def test_of_weak_features_it_is_gradcam() -> None:
    network, x = random_network(CLASSIFIER, most=1.4).eval(), noise(2, 3, 64, 64)
    network.logit.weight.data *= 1e-4
    expected = classifier_gradcam(network, x).values
    torch.testing.assert_close(
        METHOD.explain(network, x).values, expected, rtol=0.01, atol=float(expected.abs().max()) / 100
    )
