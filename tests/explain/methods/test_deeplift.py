from __future__ import annotations

import pytest
import torch
from captum.attr import DeepLift
from torch import nn
from torch.nn import functional

from helpers.networks import SHARED, random_network
from helpers.oracles import LinearNetwork, Product, noise, small_network
from vitrail.classes import TissueClass
from vitrail.errors import ModelError
from vitrail.explain.input_gradients import blurred, cell_sums
from vitrail.explain.methods.base import METHODS
from vitrail.explain.methods.deeplift import PAIRS, deeplift
from vitrail.models.spec import ClassifierSpec, SegmenterSpec

TUMOR = TissueClass.TUMOR


def close(found, expected):
    """Equal up to what rounding comes to in deep networks with random weights."""
    assert (found - expected).abs().max() < 5e-3 * expected.abs().max()


class Network(nn.Module):
    """A network of one function, behind a convolution and before a sum; the function works on it in any way."""

    def __init__(self, function):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.function = function
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0, 0.7, generator=generator)

    def forward(self, x):
        return self.function(self.conv(x)).flatten(1).sum(1)


ACTIVATIONS = {
    "relu": nn.ReLU(inplace=True), "relu6": nn.ReLU6(inplace=True), "silu": nn.SiLU(inplace=True),
    "hardswish": nn.Hardswish(inplace=True), "hardsigmoid": nn.Hardsigmoid(), "sigmoid": torch.sigmoid,
    "tanh": torch.Tensor.tanh_, "gelu": nn.GELU(), "leaky": nn.LeakyReLU(0.1, inplace=True), "elu": nn.ELU(),
    "mish": nn.Mish(), "softplus": nn.Softplus(), "clamp": lambda x: x.clamp(-1, 1), "square": lambda x: x**2,
    "exp": torch.exp, "abs": torch.Tensor.abs_, "inverse": lambda x: 2 / (x.square() + 1),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "inverse"])
def test_functions_of_each_value_alone_have_the_slope_of_their_secant(name) -> None:
    x, start = noise(2, 3, 8, 8).double(), noise(2, 3, 8, 8, seed=1).double()
    found = deeplift(Network(ACTIVATIONS[name]).double(), x, start)
    function = ACTIVATIONS[name]
    network = Network(function).double()
    with torch.no_grad():
        after, before = network.conv(x), network.conv(start)
        slope = (function(after.clone()) - function(before.clone())) / (after - before)
        back = functional.conv_transpose2d(slope, network.conv.weight, padding=1)
    torch.testing.assert_close(found.values, cell_sums((back * (x - start)).sum(1)))
    assert found.residue.abs().max() < 1e-10


def gated(x):
    return x.mul_(x.mean((2, 3), keepdim=True).sigmoid())


COMPOSED = {
    "gate": gated, "gate_out": lambda x: torch.sigmoid(x.mean((2, 3), keepdim=True)) * x,
    "swish": lambda x: x * x.sigmoid(), "overlapping": nn.MaxPool2d(3, 2, 1),
    "softmax": lambda x: x * x.softmax(1), "quotient": lambda x: x / (x**2 + 1),
    "inverse": ACTIVATIONS["inverse"], "attention": lambda x: x @ x.transpose(2, 3).softmax(-1),
    "layer_norm": nn.LayerNorm((4, 8, 8)), "twice": lambda x: functional.relu_(gated(x)) + x,
}  # fmt: skip


@pytest.mark.parametrize("name", COMPOSED)
def test_what_is_composed_is_complete(name) -> None:
    network = Network(COMPOSED[name]).double()
    x, start = noise(3, 3, 8, 8).double(), noise(3, 3, 8, 8, seed=1).double()
    found = deeplift(network, x, start)
    with torch.no_grad():
        difference = network(x) - network(start)
        torch.testing.assert_close(found.output, network(x))
    torch.testing.assert_close(found.values.sum((1, 2)), difference)
    assert difference.abs().min() > 1e-3
    assert found.residue.abs().max() < 1e-9


@pytest.mark.parametrize("pixels", [False, True])
def test_of_a_linear_network_it_is_weight_times_difference(pixels) -> None:
    network, x = LinearNetwork(8, pixels=pixels), noise(3, 3, 8, 8)
    found = deeplift(network, x, pixels="all")
    relevance = (network.weight * (x - blurred(x))).sum(1).detach() / (64 if pixels else 1)
    torch.testing.assert_close(found.values, cell_sums(relevance))


def test_of_a_product_each_factor_gets_its_difference_times_the_others_mean() -> None:
    x, start = noise(2, 3, 8, 8), noise(2, 3, 8, 8, seed=1)
    difference, mean = x - start, (x + start) / 2
    expected = cell_sums(difference[:, 0] * mean[:, 1] + difference[:, 1] * mean[:, 0])
    torch.testing.assert_close(deeplift(Product(), x, start).values, expected)


def test_a_maximum_goes_to_the_place_that_it_rises_to_or_falls_from() -> None:
    network = Network(nn.MaxPool2d(2))
    with torch.no_grad():
        network.conv.weight.zero_()[0, 0, 1, 1] = 1
    x, start = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    x[0, 0, :2, :2] = torch.tensor([[1.0, 5], [2, 0]])  # rises from 3 to 5
    start[0, 0, :2, :2] = torch.tensor([[3.0, 1], [0, 0]])
    x[0, 0, 2:, 2:] = torch.tensor([[1.0, 0], [2, 0]])  # falls from 6 to 2
    start[0, 0, 2:, 2:] = torch.tensor([[0.0, 6], [0, 0]])
    relevance = torch.zeros(1, 4, 4)

    def keep(maps):
        relevance.copy_(maps)
        return cell_sums(maps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitrail.explain.input_gradients.cell_sums", keep)
        deeplift(network, x, start)
    expected = torch.zeros(1, 4, 4)
    expected[0, 0, 1], expected[0, 2, 3] = 2, -4
    torch.testing.assert_close(relevance, expected)


@pytest.mark.filterwarnings("ignore:.*(hooks|gradients).*:UserWarning")  # of captum
@pytest.mark.parametrize("pixels", [False, True])
def test_of_relu_it_equals_captums(pixels) -> None:
    network, x, start = small_network(pixels=pixels), noise(3, 3, 16, 16), noise(3, 3, 16, 16, seed=1)
    inside = network(x).argmax(1) == TUMOR if pixels else None
    found = deeplift(network, x, start)

    class Scored(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            output = self.network(images)
            if not pixels:
                return output[:, None]
            rows = inside.repeat(len(images) // 3, 1, 1)
            return ((output[:, TUMOR] * rows).sum((1, 2)) / rows.sum((1, 2)).clamp(min=1))[:, None]

    theirs = DeepLift(Scored()).attribute(x, start, target=0)
    torch.testing.assert_close(found.values, cell_sums(theirs.sum(1)).detach(), atol=1e-4, rtol=1e-4)
    assert found.values.abs().max() > 0.01


KINDS = [
    ("test_efficientnet", 2.5), ("tf_efficientnet_lite0", 1.5), ("efficientnet_b0", 1.6), ("resnet18", 1.5),
    ("mobilenetv3_small_050", 1.5), ("convnext_atto", 1.5),
]  # fmt: skip


@pytest.mark.parametrize(("encoder", "most"), KINDS)
@pytest.mark.parametrize("task", [ClassifierSpec, SegmenterSpec])
def test_the_residue_is_rounding(task, encoder, most) -> None:
    own = (
        {"dense": 16, "dropout": 0.5, "activation": "relu"} if task is ClassifierSpec else {"decoder": (16, 8, 8, 8, 8)}
    )
    network = random_network(task(**SHARED | {"encoder": encoder}, **own), most=most).eval()
    x = functional.interpolate(noise(2, 3, 8, 8), size=64) + noise(2, 3, 64, 64, seed=1) / 2
    found = deeplift(network, x, pixels="all")
    with torch.no_grad():
        close(found.output, network(x))
    difference = found.values.sum((1, 2)) - found.residue
    assert found.residue.abs().max() < 1e-4 * difference.abs().max()
    alone = deeplift(network, x[1:], pixels="all")
    close(alone.values[0], found.values[1])


@pytest.mark.filterwarnings("ignore:.*(hooks|gradients).*:UserWarning")
def test_where_captum_takes_gradients_without_a_word_its_maps_add_up_to_something_else() -> None:
    """SiLU and squeeze and excitation; only functions that work in place have to be changed for captum."""
    spec = ClassifierSpec(**SHARED, dense=16, dropout=0.5)
    network, x = random_network(spec, most=1.6).eval(), noise(4, 3, 64, 64)
    start = blurred(x)
    difference = (network(x) - network(start)).detach()
    found = deeplift(network, x)
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False

    class Scored(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network(images)[:, None]

    theirs = DeepLift(Scored()).attribute(x, start, target=0).sum((1, 2, 3)).detach()
    assert (theirs - difference).abs().mean() > 0.01 * difference.abs().mean()
    assert found.residue.abs().max() < 1e-4 * difference.abs().mean()


def test_more_images_than_run_at_once_and_a_mask() -> None:
    network, x = small_network(nn.SiLU, pixels=True), noise(PAIRS + 3, 3, 16, 16)
    mask = noise(len(x), 16, 16, seed=2) > 0
    found = deeplift(network, x, pixels=mask)
    assert (len(found.values), len(found.output), len(found.residue)) == (PAIRS + 3,) * 3
    for i in (0, PAIRS + 1):
        alone = deeplift(network, x[i : i + 1], pixels=mask[i : i + 1])
        torch.testing.assert_close(alone.values[0], found.values[i], atol=1e-5, rtol=1e-4)


def test_an_image_that_is_its_reference_has_an_empty_map() -> None:
    network, x = small_network(nn.SiLU), noise(2, 3, 16, 16)
    assert not deeplift(network, x, x).values.any()


class Hidden(torch.autograd.Function):
    """A function of torch's that no rule knows."""

    @staticmethod
    def forward(_, x):
        return x**3

    @staticmethod
    def backward(_, gradient):
        return gradient


def mixed_over_images(x):
    return (x - x.mean(0)).sum(0, keepdim=True).relu().expand_as(x)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x * (x > 0), "gt"),
        (lambda x: torch.where(x.detach() > 0, x, 0), "detach"),
        (lambda x: torch.maximum(x, x.flip(2)), "Maximum"),
        (lambda x: x.amax((2, 3)), "Amax"),
        (lambda x: x.norm(dim=1), "Norm"),
        (lambda x: functional.group_norm(x, 2), "NativeGroupNorm"),
        (lambda x: functional.batch_norm(x, None, None, training=True), "NativeBatchNorm"),
        (lambda x: functional.conv2d(x, x.mean((0, 2, 3)).view(1, 4, 1, 1)), "Convolution"),
        (Hidden.apply, "pow.* out of autograd"),
        (lambda x: x.cumprod(1), "Cumprod"),
        (lambda x: x.movedim(0, 1).relu().movedim(0, 1)[:, :4], "an activation of shape|does not begin"),
        (mixed_over_images, "an activation of shape"),
    ],
)
def test_an_operation_without_a_rule_is_an_error_that_names_it(function, name) -> None:
    with pytest.raises(ModelError, match=rf"DeepLIFT: has no rule for .*({name}).*leave deeplift out"):
        deeplift(Network(function), noise(3, 3, 8, 8))


def test_the_network_is_left_as_it_was_and_the_method_says_what_it_costs() -> None:
    method, network = METHODS["deeplift"], small_network().train()
    found = method.explain(network, noise(2, 3, 16, 16), TissueClass.NON_TUMOR)
    assert network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    other = method.explain(network, noise(2, 3, 16, 16))
    torch.testing.assert_close(found.values, -other.values)
    assert (method.passes, method.gradients, method.complete, method.needs_head) == (2, 2, True, False)
