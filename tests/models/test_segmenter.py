from __future__ import annotations

import json

import pytest
import torch

from helpers.specs import segmenter_spec
from vitrail.errors import ModelError
from vitrail.explain.layers import default_layers
from vitrail.models.encoder import expansions
from vitrail.models.spec import AnySpec, SegmenterSpec
from vitrail.models.store import build
from vitrail.settings.load import Settings
from vitrail.training.tasks import TRAINING_TASKS

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
