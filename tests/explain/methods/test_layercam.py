from __future__ import annotations

import pytest
import torch
from pytorch_grad_cam import LayerCAM

from helpers.networks import CLASSIFIER, PAPER, SEGMENTER, random_network
from helpers.oracles import noise
from vitrail.classes import TissueClass
from vitrail.errors import ModelError
from vitrail.explain.layer_gradients import layer_gradients
from vitrail.explain.layers import Layers, find_layers
from vitrail.explain.methods.base import METHODS
from vitrail.explain.methods.layercam import coarse_layers, layercam

SPECS = pytest.mark.parametrize("spec", [CLASSIFIER, SEGMENTER, PAPER], ids=["classifier", "timm", "paper"])


def network_of(spec):
    return random_network(spec, most=1.4).eval()


def one_layer(network, index):
    layers = find_layers(network)
    names, channels, strides = ((each[index],) for each in (layers.names, layers.channels, layers.strides))
    return Layers(names=names, channels=channels, strides=strides)


def reference(network, x, layer, sign):
    """What pytorch-grad-cam makes of a layer for the score times a sign, before it is rectified and rescaled."""

    def score(output):  # of one image
        return sign * (output if output.ndim == 0 else output[TissueClass.TUMOR].mean())

    with LayerCAM(network, [network.get_submodule(layer)]) as cam:
        cam(x, [score] * len(x))
        records = cam.activations_and_grads
        activations, gradients = (each[0].numpy() for each in (records.activations, records.gradients))
        return torch.from_numpy(cam.get_cam_image(x, None, None, activations, gradients, eigen_smooth=False))


@SPECS
@pytest.mark.parametrize("index", [2, -1])
def test_a_layers_map_is_the_references_for_the_score_minus_that_against_it(spec, index) -> None:
    network, x = network_of(spec), noise(2, 3, 64, 64)
    layer = one_layer(network, index)
    found = layercam(network, x, layer, pixels="all").values
    expected = reference(network, x, layer.names[0], 1) - reference(network, x, layer.names[0], -1)
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=1e-4)


def test_layers_of_coarse_cells_are_averaged_in_logits() -> None:
    network, x = network_of(CLASSIFIER), noise(2, 3, 64, 64)
    layers = coarse_layers(network)
    assert layers.strides == (8, 16, 32)
    assert coarse_layers(network) is layers
    maps = layercam(network, x)
    assert maps.values.shape == (2, 8, 8)
    assert maps.layers == layers.names
    finest, coarsest = (find_layers(network).names.index(layers.names[i]) for i in (0, 2))
    two = Layers(names=layers.names[::2], channels=layers.channels[::2], strides=layers.strides[::2])
    fine, coarse = (layercam(network, x, one_layer(network, index)) for index in (finest, coarsest))
    rows, columns = (torch.from_numpy(m).float() for m in coarse.frame.onto((2, 2), *fine.frame.centres((8, 8))))
    expected = (fine.values + rows @ coarse.values @ columns.T / 16) / 2
    torch.testing.assert_close(layercam(network, x, two).values, expected, atol=1e-6, rtol=1e-4)


@SPECS
def test_an_image_is_explained_alike_in_any_batch(spec) -> None:
    network, x = network_of(spec), noise(3, 3, 64, 64)
    method = METHODS["layercam"]
    found = method.explain(network, x, pixels="all")
    alone = method.explain(network, x[1:2], pixels="all")
    assert (alone.values[0] - found.values[1]).abs().max() < 1e-4 * alone.values.abs().max()
    torch.testing.assert_close(found.output, network(x).detach(), atol=1e-4, rtol=1e-4)
    assert not found.values.requires_grad
    assert (method.passes, method.gradients) == (1, 1)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_a_score_that_does_not_depend_on_a_layer_is_an_error() -> None:
    network, x = network_of(CLASSIFIER), noise(1, 3, 64, 64)
    (layer,) = one_layer(network, -1).names
    with pytest.raises(ModelError, match="the score does not depend on it"):
        layer_gradients(network, x, (layer,), lambda output: output.detach())
