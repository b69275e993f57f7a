from __future__ import annotations

import pytest
import torch

from helpers.specs import classifier_spec, segmenter_spec
from helpers.training import settings
from vitrail.errors import ModelError, SettingsError
from vitrail.models.classifier import Classifier
from vitrail.settings.load import Settings
from vitrail.training.preflight import check_fit, check_start


@pytest.mark.parametrize(
    ("branch", "change", "problem"),
    [
        ("encoder", {"name": "eficientnet_b0"}, "timm has no network of this name"),
        ("encoder", {"weights": "missing.pth"}, "missing.pth: no such file"),
        ("encoder", {"weights": "imagenet"}, r"cannot be downloaded \(this machine is offline\)"),
        ("encoder", {"name": "inception_v3"}, "cannot be trained on tiles of 32 pixels, 8 a batch"),
        ("encoder", {"name": "vit_tiny_patch16_224"}, "is a vision transformer, whose maps all have one size"),
        ("encoder", {"name": "vit_small_patch14_dinov2"}, "of 32 pixels do not divide into patches of 14.*to 42"),
        ("compute", {"device": "cuda"}, "this machine has no 'cuda'"),
    ],
)
def test_what_cannot_start_is_told_before_tiles_are_cut(monkeypatch, branch, change, problem):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("vitrail.models.sources.try_to_load_from_cache", lambda *_args, **_kwargs: None)
    monkeypatch.setattr("vitrail.models.weights.online", lambda: False)
    check_start(settings())
    content = settings().model_dump()
    content[branch] |= change
    with pytest.raises((ModelError, SettingsError), match=problem):
        check_start(Settings.model_validate(content))


def test_weights_within_reach_may_start(monkeypatch):
    content = settings().model_dump()
    content["encoder"]["weights"] = "imagenet"
    monkeypatch.setattr("vitrail.models.sources.try_to_load_from_cache", lambda *_args, **_kwargs: None)
    monkeypatch.setattr("vitrail.models.weights.online", lambda: True)
    check_start(Settings.model_validate(content))


@pytest.mark.parametrize("spec", [classifier_spec, segmenter_spec])
def test_encoders_that_do_not_fit_the_tiles(spec):
    with pytest.raises(ModelError, match="cannot be trained on tiles of 64 pixels, 4 a batch") as caught:
        check_fit(spec(encoder="inception_v3"), 4)
    assert "\n" not in str(caught.value)
    check_fit(spec(), 4)


def test_batch_normalisation_needs_two_values():
    with pytest.raises(ModelError, match=r"cannot be trained on tiles of 32 pixels, 1 a batch .* or classifier\.batch"):
        check_fit(classifier_spec(side_px=32), 1)
    check_fit(classifier_spec(side_px=32), 2)
    check_fit(classifier_spec(), 1)


def test_large_tiles_are_tried_in_bounded_memory(monkeypatch):
    sides = []
    monkeypatch.setattr(Classifier, "forward", lambda _, x: sides.append(x.shape[-1]))
    for side_px in (96, 1024, 4096):
        check_fit(classifier_spec(side_px=side_px), 128)
    assert sides == [96, 1024, 1024]
