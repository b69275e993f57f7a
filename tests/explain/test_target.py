"""What is explained: scores and pixels."""

from __future__ import annotations

import pytest
import torch

from vitrail.classes import TissueClass
from vitrail.explain.target import target_pixels, target_score

LOGITS = torch.arange(2 * 4 * 2 * 3, dtype=torch.float32).view(2, 4, 2, 3).remainder(7)


def test_of_a_classifier_the_score_is_its_logit_or_its_negative() -> None:
    logits = torch.tensor([1.5, -2.0])
    assert target_score(logits, TissueClass.TUMOR).tolist() == [1.5, -2.0]
    assert target_score(logits, TissueClass.NON_TUMOR).tolist() == [-1.5, 2.0]
    with pytest.raises(ValueError, match="background"):
        target_score(logits, TissueClass.BACKGROUND)


def test_of_a_segmenter_it_is_the_mean_logit_of_the_pixels() -> None:
    inside = target_pixels(LOGITS, TissueClass.TUMOR)
    assert torch.equal(inside, LOGITS.argmax(1) == TissueClass.TUMOR)
    score = target_score(LOGITS, TissueClass.TUMOR, inside)
    for each, logits, chosen in zip(score, LOGITS[:, TissueClass.TUMOR], inside, strict=True):
        assert each == (logits[chosen].mean() if chosen.any() else 0)
    every = target_pixels(LOGITS, TissueClass.TUMOR, "all")
    assert torch.equal(target_score(LOGITS, TissueClass.TUMOR, every), target_score(LOGITS, TissueClass.TUMOR))


def test_a_mask_is_taken_as_it_is_and_anything_else_refused() -> None:
    mask = torch.zeros(2, 2, 3, dtype=torch.bool)
    assert torch.equal(target_pixels(LOGITS, TissueClass.TUMOR, mask), mask)
    assert target_score(LOGITS, TissueClass.TUMOR, mask).tolist() == [0, 0]
    for wrong in (mask[:1], mask.float(), "some"):
        with pytest.raises(ValueError, match="mask"):
            target_pixels(LOGITS, TissueClass.TUMOR, wrong)  # type: ignore[arg-type]
