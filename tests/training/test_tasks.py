"""What is learnt, the losses and metrics, and the tiles of glass beside them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segmentation_models_pytorch.losses import JaccardLoss

from helpers.training import SIDE, make_parts, settings
from vitrail.inference.predictor import Predictor
from vitrail.models.spec import AnySpec
from vitrail.models.store import load_model
from vitrail.settings.load import Settings
from vitrail.settings.schema import AugmentSettings
from vitrail.tiles.store import TileTable
from vitrail.training.glass import glass_count, glass_tiles
from vitrail.training.loader import training_tiles
from vitrail.training.losses import jaccard_losses
from vitrail.training.tasks import TRAINING_TASKS
from vitrail.training.trainer import train


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
    glass, labels = objective.negatives(with_glass, len(images), images.shape[-1], generator)
    assert (len(glass), labels.tolist()) == (2, [0.0, 0.0])
    assert glass.mean() > 0.7
    before = generator.get_state()
    assert objective.negatives(chosen, len(images), images.shape[-1], generator) is None
    assert TRAINING_TASKS["segmenter"].negatives(with_glass, len(images), images.shape[-1], generator) is None
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
    train(
        "classifier",
        training_tiles(turned, np.where(np.arange(48) < 32, "train", "validation")),
        chosen,
        folder=tmp_path,
    )
    engine = Predictor(load_model(tmp_path), torch.device("cpu"), engine="torch")
    glass = np.full((1, 32, 32, 3), 250, np.uint8)
    assert (engine.tumor_probability(glass)[0] > 0.5) == (share == 0)
    found = engine.tumor_probability(turned.images) > 0.5
    assert (found == (labels == "tumor")).mean() > 0.9


def test_jaccard_score_by_hand():
    metric = TRAINING_TASKS["segmenter"].metric()
    truth = torch.tensor([[[0, 0, 1, 1]]], dtype=torch.uint8)
    guess = torch.tensor([[[0, 1, 1, 3]]])
    logits = torch.nn.functional.one_hot(guess, 4).permute(0, 3, 1, 2).float()
    for pixel in range(4):  # as if each were a batch
        metric.update(logits[..., pixel : pixel + 1], truth[..., pixel : pixel + 1])
    assert metric.compute() == pytest.approx(np.mean([1 / 2, 1 / 3, 0 / 1]))  # class 2 is nowhere


def test_accuracy_by_hand():
    metric = TRAINING_TASKS["classifier"].metric()
    metric.update(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0]))
    metric.update(torch.tensor([0.5]), torch.tensor([0.0]))
    assert metric.compute() == pytest.approx(2 / 3)


def test_blur_and_noise_are_the_classifiers_alone():
    chosen = settings().model_copy(
        update={
            "augment": AugmentSettings(rotation_step_deg=0, mirror=0, hue=0, saturation=0, brightness=0, contrast=0)
        }
    )
    images = torch.rand(2, 3, SIDE, SIDE)
    for task, same in (("classifier", False), ("segmenter", True)):
        augmenter = TRAINING_TASKS[task].augmenter(chosen, torch.Generator().manual_seed(0))
        assert torch.equal(augmenter(images)[0], images) == same


def test_a_model_says_where_labels_came_from_that_nobody_drew():
    grey = [0.5] * 3, [0.25] * 3
    drawn = TRAINING_TASKS["classifier"].spec(Settings(), grey)
    assert "labels" not in drawn.model_dump()
    wanted = {"annotations": {"unlabelled_tissue": "non_tumor", "margin_um": 50.0}}
    for task in TRAINING_TASKS.values():
        spec = task.spec(Settings.model_validate(wanted), grey)
        assert AnySpec.validate_json(spec.model_dump_json()).labels == spec.labels
        assert spec.model_dump()["labels"] == wanted["annotations"]
