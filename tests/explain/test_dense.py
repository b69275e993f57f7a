"""Cells that lie closer and see tissue on all sides: the same network, exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.networks import CLASSIFIER, PAPER, SEGMENTER, random_head, random_network
from vitrail.explain.dense import dense_network
from vitrail.explain.explainer import Explainer
from vitrail.explain.hooks import frozen, record_activations
from vitrail.explain.layers import find_layers, run
from vitrail.explain.receptive_field import FEATURES, frames
from vitrail.models.store import Model

CPU = torch.device("cpu")


def final_maps(network, images):
    with frozen(network), torch.no_grad():
        maps = run(network, images)
    return maps if torch.is_tensor(maps) else maps[-1]


@pytest.mark.parametrize(
    ("spec", "stride"),
    [
        (CLASSIFIER.model_copy(update={"encoder": "mobilenetv2_035"}), 8),
        (CLASSIFIER.model_copy(update={"encoder": "resnet18"}), 16),
        (CLASSIFIER.model_copy(update={"encoder": "tf_efficientnet_lite0"}), 16),  # TensorFlow's padding
        (SEGMENTER.model_copy(update={"encoder": "mobilenetv2_035"}), 8),
        (PAPER, 16),
    ],
    ids=lambda value: getattr(value, "encoder", value),
)
def test_every_cell_is_what_the_network_gives_for_the_shifted_image(spec, stride):
    network = random_network(spec, most=1.2)
    dense = dense_network(network, stride, 32)
    images = torch.randn(1, 3, 768, 768, generator=torch.Generator().manual_seed(0))
    fine, closer = final_maps(dense.network, images), 32 // stride
    assert dense.stride == stride
    assert dense.closer == closer
    inner = slice(10, -10)  # cells that see no border; nothing here weighs channels by means over the image
    own = final_maps(network, images)[:, :, inner, inner]
    offsets = [fine[:, :, i::closer, j::closer][:, :, inner, inner] for i in range(closer) for j in range(closer)]
    near = [float((each[..., : own.shape[2], : own.shape[3]] - own).abs().max()) for each in offsets]
    first = int(np.argmin(near))
    assert near[first] < 1e-4 * float(own.abs().max())
    # and of an image shifted by one new stride, it is the next cell
    moved = final_maps(network, torch.roll(images, -stride, 2))[:, :, inner, inner]
    i, j = divmod(first, closer)
    next_cells = fine[:, :, i + 1 :: closer, j::closer][:, :, inner, inner]
    rows = min(next_cells.shape[2], moved.shape[2]) - 2  # what was rolled over the border is at the end
    assert torch.allclose(next_cells[:, :, :rows], moved[:, :, :rows], atol=5e-3 * float(own.abs().max()))


def test_the_weights_are_shared_and_the_network_stays_as_it_was():
    network = random_network(CLASSIFIER)
    before = {name: (m.stride, m.dilation) for name, m in network.named_modules() if isinstance(m, torch.nn.Conv2d)}
    dense = dense_network(network, 8, 32)
    ours = dict(dense.network.named_parameters())
    assert all(ours[name] is parameter for name, parameter in network.named_parameters())
    assert before == {n: (m.stride, m.dilation) for n, m in network.named_modules() if isinstance(m, torch.nn.Conv2d)}


def test_without_margin_and_stride_there_is_none_and_a_coarse_one_changes_nothing():
    network = random_network(CLASSIFIER)
    assert dense_network(network, 0, 0) is None
    assert dense_network(network, 32, 0) is None
    dense = dense_network(network, 32, 16)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(final_maps(dense.network, images), final_maps(network, images))
    assert (dense.stride, dense.closer) == (32, 1)


def test_images_are_continued_by_their_mirror_image_whatever_their_size():
    dense = dense_network(random_network(CLASSIFIER), 8, 32)
    for side in (33, 64, 96):
        images = torch.rand(2, 3, side, side + 7)
        continued = dense.continued(images)
        height, width = continued.shape[2:]
        assert (height, width) == dense.continued_px((side, side + 7))
        assert height % 32 == width % 32 == 0
        padded = np.pad(images, ((0, 0), (0, 0), (32, height - side - 32), (32, width - side - 7 - 32)), "reflect")
        assert np.array_equal(continued.numpy(), padded)
    assert torch.equal(dense.continued(torch.ones(1, 3, 1, 1)), torch.ones(1, 3, 96, 96))


@pytest.mark.parametrize("side", [64, 72, 96])
@pytest.mark.parametrize("spec", [CLASSIFIER, SEGMENTER, PAPER], ids=["classifier", "timm", "paper"])
def test_maps_have_a_cell_for_each_stride_and_each_looks_near_its_own_square(spec, side):
    model = Model(spec=spec, module=random_network(spec, most=1.2))
    layers = find_layers(model.module)
    images = np.random.default_rng(3).integers(0, 256, (2, side, side, 3), np.uint8)
    explainer = Explainer(model, CPU, engine="torch", stride=8, margin_px=32, layers=layers)
    grad, hr = next(explainer.maps(images, ["gradcam", "hrcam"], {"hrcam": random_head(layers)}))
    assert grad.values.shape[1:] == (side // 8, side // 8)
    assert grad.frame.span_px == (side, side)
    assert hr.values.shape[1:] == (side // layers.strides[0], side // layers.strides[0])
    for maps in (grad, hr):
        stride = maps.frame.span_px[0] // maps.values.shape[1]
        assert np.abs(maps.frame.shift_px).max() <= stride / 2 + 0.01
    plain = Explainer(model, CPU, engine="torch", layers=layers)
    own_grad, own_hr = next(plain.maps(images, ["gradcam", "hrcam"], {"hrcam": random_head(layers)}))
    assert torch.allclose(hr.head_logits, own_hr.head_logits, rtol=1e-4)  # the answer is that to the tile as it is
    assert torch.allclose(grad.output, own_grad.output, rtol=1e-4, atol=1e-4)


def test_a_spot_moves_the_cells_that_lie_on_it():
    network = random_network(CLASSIFIER, most=1.2)
    model = Model(spec=CLASSIFIER, module=network)
    explainer = Explainer(model, CPU, engine="torch", stride=4, margin_px=32)
    image = np.full((1, 64, 64, 3), 180, np.uint8)
    for row, column in ((6, 58), (40, 20)):
        spotted = image.copy()
        spotted[:, row - 3 : row + 3, column - 3 : column + 3] = 20
        change = [explainer.gradcam(each)[0].upsample().astype(np.float64) for each in (spotted, image)]
        moved = np.abs(change[0] - change[1])
        centre = [float((moved.sum(1 - axis) * (np.arange(64) + 0.5)).sum() / moved.sum()) for axis in (0, 1)]
        assert np.hypot(centre[0] - row, centre[1] - column) < 16


def test_grad_cam_weighs_the_closer_maps_by_the_gradient_at_the_tile_itself():
    network = random_network(CLASSIFIER.model_copy(update={"activation": "relu"}), most=1.2)
    model = Model(spec=CLASSIFIER, module=network)
    images = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)
    explainer = Explainer(model, CPU, engine="torch", stride=16, margin_px=32)
    (maps,) = next(explainer.maps(images, ["gradcam"]))
    inputs = next(explainer.batches.run(images, lambda _, batch: batch))
    with frozen(network):
        own = network.features(inputs).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(network.head(own).sum(), own)
        features = network.features(inputs)
        fine = explainer.dense.network.features(explainer.dense.continued(inputs))
        assert features.shape[1:] == own.shape[1:]
        weighed = (fine * gradient.mean((2, 3))[:, :, None, None]).sum(1) / 4
    shape = 3, *explainer.dense.continued_px((64, 64))
    (frame,) = frames(explainer.dense.network, shape, (FEATURES,), (16,))
    first = [round((32 - shift) / 16) for shift in frame.shift_px]
    expected = weighed[:, first[0] : first[0] + 4, first[1] : first[1] + 4].detach()
    assert torch.allclose(maps.values, expected, atol=1e-5)


def test_the_compiled_network_gives_the_same_maps():
    pytest.importorskip("openvino")
    model = Model(spec=CLASSIFIER, module=random_network(CLASSIFIER, most=1.2))
    layers = find_layers(model.module)
    heads = {"hrcam": random_head(layers)}
    images = np.random.default_rng(4).integers(0, 256, (2, 64, 64, 3), np.uint8)
    compiled, eager = (
        next(
            Explainer(model, CPU, engine=engine, stride=16, margin_px=32, layers=layers).maps(
                images, ["gradcam", "hrcam"], heads
            )
        )
        for engine in ("openvino", "torch")
    )
    for ours, theirs in zip(compiled, eager, strict=True):
        assert ours.frame == theirs.frame
        assert torch.allclose(ours.values, theirs.values, atol=1e-4 * float(theirs.values.abs().max()))
        if theirs.head_logits is not None:
            assert torch.allclose(ours.head_logits, theirs.head_logits, atol=1e-4)


def test_hooks_are_gone_afterwards():
    network = random_network(CLASSIFIER)
    dense = dense_network(network, 8, 32)
    with record_activations(dense.network, (), lambda _, maps: maps):
        pass
    assert not any(module._forward_hooks for module in (*network.modules(), *dense.network.modules()))
