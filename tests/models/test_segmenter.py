from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from segmentation_models_pytorch.losses import JaccardLoss

from helpers.training import make_parts, settings
from vitrail.errors import ModelError
from vitrail.explain.layers import default_layers
from vitrail.inference.predictor import Predictor
from vitrail.models.encoder import expansions
from vitrail.models.spec import AnySpec, SegmenterSpec
from vitrail.models.store import build, load_model
from vitrail.settings.load import Settings
from vitrail.tiles.store import TileTable
from vitrail.training.glass import glass_count, glass_tiles
from vitrail.training.loader import parts
from vitrail.training.tasks import TRAINING_TASKS, jaccard_losses
from vitrail.training.trainer import train

SHARED = {"side_um": 199.1, "side_px": 64, "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.25, 0.15)}
PAPER = {"layout": "paper", "head_px": 1, "decoder": (16, 8, 8, 8, 8)}


def spec_of(encoder, **changes):
    return SegmenterSpec(encoder=encoder, **SHARED, **PAPER | changes)


def test_the_papers_layout_has_as_many_parameters_as_its_library_says():
    """Keras' summary of sm.Unet("efficientnetb0"), one class: 10,115,501, of which 44,000 are not trained."""
    network = build(spec_of("efficientnet_b0", decoder=(256, 128, 64, 32, 16)))
    trained = sum(one.numel() for one in network.parameters())
    moving = sum(one.numel() for name, one in network.named_buffers() if "running" in name)
    own, theirs = 16 * 4 + 4, 16 * 9 + 1  # heads: 1x1 to four classes, 3x3 to one
    assert (trained + moving - own + theirs, moving) == (10_115_501, 44_000)


def test_its_maps_are_the_activations_before_each_halving():
    """Blocks run one by one; efficientnet_b0 has 96, 144, 240 and 672 channels there, and ends in 1280."""
    channels = [place.channels for place in expansions("efficientnet_b0")]
    assert channels == [96, 144, 240, 672]
    network = build(spec_of("mobilenetv2_035")).eval()
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        image, *maps = network.encode(x)
        model = network.backbone
        at, expected = model.bn1(model.conv_stem(x)), []
        for stage in model.blocks:
            for block in stage:
                if block.conv_dw.stride == (2, 2):
                    expected.append(block.bn1(block.conv_pw(at)))
                at = block(at)
        expected.append(model.bn2(model.conv_head(at)))
    assert torch.equal(image, x)
    assert [tuple(one.shape[2:]) for one in maps] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    for found, reference in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, reference)
        assert found.min() == 0  # ReLU6: what is absent is 0
    assert default_layers(network)[-1] == "unet.encoder.model.bn2"
    assert network.backbone.training is False
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("layout", ["paper", "timm"])
def test_new_segmenters_have_the_papers_head_and_the_layout_of_the_settings(layout):
    for encoder, expected in (("mobilenetv2_035", layout), ("test_resnet", "timm")):
        chosen = Settings.model_validate(
            {"encoder": {"name": encoder, "weights": "random"}, "segmenter": {"layout": layout}}
        )
        spec = TRAINING_TASKS["segmenter"].spec(chosen, ([0.5] * 3, [0.25] * 3))
        assert (spec.layout, spec.head_px) == (expected, 1)
        assert build(spec).unet.segmentation_head[0].weight.shape[2:] == (1, 1)


def test_a_model_from_before_keeps_its_layout_and_head():
    content = json.loads(spec_of("mobilenetv2_035").model_dump_json())
    del content["layout"], content["head_px"]
    spec = AnySpec.validate_python(content)
    assert (spec.layout, spec.head_px) == ("timm", 3)


@pytest.mark.parametrize("encoder", ["test_resnet", "tf_efficientnetv2_s"])
def test_networks_without_expanding_convolutions_are_refused(encoder):
    with pytest.raises(ModelError, match=r"has no activation to take before each halving.*layout = \"timm\""):
        build(spec_of(encoder))


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_the_jaccard_losses_are_the_librarys_for_classes_that_are_there(absent):
    generator = torch.Generator().manual_seed(absent)
    logits = torch.randn(3, 4, 16, 16, generator=generator, requires_grad=True)
    truth = torch.randint(0, 4 - absent, (3, 16, 16), generator=generator, dtype=torch.uint8)
    present, counted = (
        TRAINING_TASKS["segmenter"].loss(Settings.model_validate({"segmenter": {"loss": name}}), logits, truth)
        for name in ("jaccard_present", "jaccard")
    )
    reference = JaccardLoss(mode="multiclass")(logits, truth.long())
    assert present.item() == pytest.approx(reference.item(), abs=1e-6)
    assert counted.item() == pytest.approx(reference.item() + absent / 4, abs=1e-6)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (present, counted, reference)]
    for gradient in gradients[:2]:  # a class that is not there hardly has any
        torch.testing.assert_close(gradient, gradients[2], rtol=1e-3, atol=1e-8)


def test_the_jaccard_losses_by_hand():
    probability = torch.tensor([[0.8, 0.5], [0.2, 0.5]])  # of both classes, at both pixels
    losses = jaccard_losses(probability.log().view(1, 2, 1, 2), torch.tensor([[[0, 1]]]))
    expected = [1 - 0.8 / (1.3 + 1 - 0.8), 1 - 0.5 / (0.7 + 1 - 0.5)]
    np.testing.assert_allclose(losses, expected, atol=1e-5)


def test_glass_is_pale_and_nearly_even():
    tiles = glass_tiles(200, 24, torch.Generator().manual_seed(0))
    assert tiles.shape == (200, 3, 24, 24)
    assert 0.7 < tiles.min() < tiles.max() <= 1
    assert tiles.mean((1, 2, 3)).std() > 0.03  # every lamp is another
    assert tiles.std((2, 3)).max() < 0.04
    assert (tiles.mean((2, 3)).amax(1) - tiles.mean((2, 3)).amin(1)).max() < 0.05


def test_glass_is_learnt_beside_the_classifiers_batches_as_no_tumor():
    chosen, generator = settings(), torch.Generator().manual_seed(0)
    with_glass = chosen.model_copy(update={"classifier": chosen.classifier.model_copy(update={"glass": 0.25})})
    objective = TRAINING_TASKS["classifier"]
    images = torch.zeros(8, 3, 32, 32)
    glass, labels = objective.negatives(with_glass, images, generator)
    assert (len(glass), labels.tolist()) == (2, [0.0, 0.0])
    assert glass.mean() > 0.7
    before = generator.get_state()
    assert objective.negatives(chosen, images, generator) is None
    assert TRAINING_TASKS["segmenter"].negatives(with_glass, images, generator) is None
    assert torch.equal(generator.get_state(), before)  # without glass a training draws what it always drew
    counts = [glass_count(0.05, 32, generator) for _ in range(2000)]
    assert set(counts) == {1, 2}
    assert np.mean(counts) == pytest.approx(1.6, abs=0.05)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_a_classifier_that_has_seen_glass_does_not_call_it_tumor(tmp_path, share):
    """Where dark tissue is no tumor and pale one is, glass looks like tumor to a network that has never seen it."""
    tiles = make_parts().tiles
    labels = np.where(tiles.rows["label"] == "tumor", "non_tumor", "tumor")
    turned = TileTable(rows=tiles.rows.assign(label=labels), images=tiles.images.copy(), masks=tiles.masks)
    turned.images[:, 24:] = turned.images[:, :8]  # no white rim
    chosen = settings(epochs=12)
    chosen = chosen.model_copy(update={"classifier": chosen.classifier.model_copy(update={"glass": share})})
    train("classifier", parts(turned, np.where(np.arange(48) < 32, "train", "validation")), chosen, folder=tmp_path)
    engine = Predictor(load_model(tmp_path), torch.device("cpu"), engine="torch")
    glass = np.full((1, 32, 32, 3), 250, np.uint8)
    assert (engine.tumor_probability(glass)[0] > 0.5) == (share == 0)
    found = engine.tumor_probability(turned.images) > 0.5
    assert (found == (labels == "tumor")).mean() > 0.9
