from __future__ import annotations

import pytest

from helpers.specs import classifier_spec, segmenter_spec
from vitrail.errors import ModelError
from vitrail.models.encoder import feature_channels
from vitrail.models.store import build


def test_a_tag_of_weights_is_part_of_the_name():
    assert feature_channels("efficientnet_b0.ra_in1k") == 1280


def test_unknown_encoder_is_told_near_names():
    with pytest.raises(ModelError, match=r"timm has no network of this name\. Did you mean .*efficientnet_b0"):
        build(classifier_spec(encoder="eficientnet_b0"))


@pytest.mark.parametrize("spec", [classifier_spec, segmenter_spec])
@pytest.mark.parametrize("name", ["hiera_tiny_224", "swin_tiny_patch4_window7_224"])
def test_encoders_without_feature_maps_are_refused(spec, name):
    with pytest.raises(ModelError, match="gives no feature maps"):
        build(spec(encoder=name))


def test_efficientnet_b0_ends_in_1280_channels():
    assert feature_channels("efficientnet_b0") == 1280
