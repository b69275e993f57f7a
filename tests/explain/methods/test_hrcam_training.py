from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from vitrail.core.progress import Silent
from vitrail.errors import ModelError
from vitrail.explain.explainer import Explainer
from vitrail.explain.layers import find_layers
from vitrail.explain.methods.hrcam import HRCamHead, fit
from vitrail.explain.methods.hrcam_training import Course, Examples, retrain
from vitrail.metrics.correlation import pearson
from vitrail.models.spec import ClassifierSpec
from vitrail.models.store import Model, build

SPEC = ClassifierSpec(
    encoder="test_efficientnet", side_um=199.1, side_px=32, mean=(0.5,) * 3, std=(0.25,) * 3, dense=8, dropout=0.5
)
TILES, L2 = 96, 0.03


@pytest.fixture(scope="module")
def explainer():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(SPEC).eval()
    layers = find_layers(network, ("encoder.blocks.0", "encoder.blocks.1"))  # fewer features than tiles
    return Explainer(Model(spec=SPEC, module=network), torch.device("cpu"), layers=layers)


@pytest.fixture(scope="module")
def examples(explainer):
    """Tiles of which most that are darker on the left are tumor; the last is not learnt from."""
    rng = np.random.default_rng(0)
    tumor = np.arange(TILES) % 2 == 0
    images = rng.normal(150, 30, (TILES + 1, 32, 32, 3))
    images[:TILES, :, :16] -= np.where(tumor ^ (rng.uniform(size=TILES) < 0.1), 40, 0)[:, None, None, None]
    images = images.clip(0, 255).astype(np.uint8)
    return Examples(images=images, rows=np.arange(TILES), tumor=tumor, pooled=explainer.pool(images[:TILES]))


def course(**changes):
    return Course(**{"epochs": 25, "learning_rate": 0.05, "batch": 32, "l2": L2, "seed": (7,)} | changes)


def trained(explainer, examples, course, **rest):
    weights, bias = retrain(explainer, examples, course, **rest)
    return HRCamHead(layers=explainer.layers, weights=weights, bias=bias, l2=course.l2)


def flips(generator):
    """Turn half of the images upside down."""

    def change(images):
        turned = (torch.rand(len(images), generator=generator) < 0.5).view(-1, 1, 1, 1)
        return torch.where(turned, images.flip(2), images)

    return change


class Killed(Silent):
    """Interrupts the work after a number of batches."""

    def __init__(self, batches):
        self.left = batches

    def task(self, *_):
        return self

    def __enter__(self):
        return self._step

    def __exit__(self, *_):
        return None

    def _step(self, *_):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def values(explainer, hrcam_head, images):
    return np.stack([saliency.values for saliency in explainer.hrcam(images, hrcam_head)])


@pytest.mark.parametrize(("augmenter", "least"), [(None, 0.99), (flips, 0.95)])
def test_the_maps_are_those_of_the_exact_solution(explainer, examples, tmp_path, augmenter, least):
    """With augmentation, of the exact solution for tiles both upright and upside down."""
    pooled, tumor = examples.pooled, examples.tumor
    if augmenter:
        pooled = torch.cat([pooled, explainer.pool(examples.images[:TILES, ::-1])])
        tumor = np.tile(tumor, 2)
    exact = fit(explainer.layers, pooled, tumor, L2)
    epochs = trained(explainer, examples, course(augmenter=augmenter), checkpoint=tmp_path / "state")
    correlations = pearson(*(values(explainer, hrcam_head, examples.images) for hrcam_head in (exact, epochs)))
    assert np.median(correlations) > least
    assert correlations.min() > 0.9
    accuracies = [hrcam_head.accuracy(pooled, tumor) for hrcam_head in (exact, epochs)]
    assert min(accuracies) > 0.8
    assert abs(accuracies[0] - accuracies[1]) < 0.05


def test_many_epochs_end_at_scikit_learns_solution(explainer, examples, tmp_path):
    pooled = examples.pooled.double().numpy()
    mean, std = pooled.mean(0), pooled.std(0)
    theirs = LogisticRegression(C=1 / (TILES * 1.0), tol=1e-8, max_iter=5000).fit((pooled - mean) / std, examples.tumor)
    long = course(epochs=150, learning_rate=0.03, batch=TILES, l2=1.0)
    ours = trained(Known(examples, explainer.layers), examples, long, checkpoint=tmp_path / "state")
    np.testing.assert_allclose(ours.weights.numpy() * std, theirs.coef_[0], atol=1e-4)
    np.testing.assert_allclose(ours.bias + ours.weights.numpy() @ mean, theirs.intercept_[0], atol=1e-4)


class Known:
    """Stands for an explainer whose features of each tile are known, so that epochs cost nothing."""

    device = torch.device("cpu")

    def __init__(self, examples, layers):
        self.layers = layers
        self.pooled = dict(zip((image.tobytes() for image in examples.images), examples.pooled, strict=False))

    def pool(self, images):
        tiles = (images.permute(0, 2, 3, 1) * 255).round().byte().numpy()
        return torch.stack([self.pooled[tile.tobytes()] for tile in tiles])


def test_interrupted_anywhere_the_weights_are_the_same(explainer, examples, tmp_path):
    short = course(epochs=4, augmenter=flips)
    whole = trained(explainer, examples, short, checkpoint=tmp_path / "whole")
    kills = 0
    while True:
        try:
            parts = trained(explainer, examples, short, checkpoint=tmp_path / "parts", progress=Killed(5))
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills == 3  # an epoch has three batches, so each attempt ends one
    assert torch.equal(parts.weights, whole.weights)
    assert parts.bias == whole.bias
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_seeds_draw_order_and_augmentation(explainer, examples, tmp_path):
    first, other = (
        trained(explainer, examples, course(epochs=1, augmenter=flips, seed=seed), checkpoint=tmp_path / f"{seed}")
        for seed in ((7,), (8,))
    )
    assert not torch.equal(first.weights, other.weights)


def test_every_epoch_augments_every_tile_anew(explainer, examples, tmp_path):
    seen = []

    def watched(generator):
        def change(images):
            assert images.shape[1:] == (3, 32, 32)
            assert 0 <= images.min() <= images.max() <= 1
            seen.append((len(images), torch.rand(1, generator=generator).item()))
            return images

        return change

    trained(explainer, examples, course(epochs=2, batch=40, augmenter=watched), checkpoint=tmp_path / "state")
    assert [count for count, _ in seen] == [40, 40, 16] * 2
    assert len({drawn for _, drawn in seen}) == 6


def test_the_network_is_left_as_it_was(explainer, examples, tmp_path):
    before = {key: value.clone() for key, value in explainer.network.state_dict().items()}
    explainer.network.train()
    trained(explainer, examples, course(epochs=1), checkpoint=tmp_path / "state")
    assert all(torch.equal(value, before[key]) for key, value in explainer.network.state_dict().items())
    assert explainer.network.training
    explainer.network.eval()


def test_features_that_do_not_vary_get_no_weight(explainer, examples, tmp_path):
    pooled = examples.pooled.clone()
    pooled[:, 3] = 0.1
    given = Examples(images=examples.images, rows=examples.rows, tumor=examples.tumor, pooled=pooled)
    found = trained(explainer, given, course(epochs=1), checkpoint=tmp_path / "state")
    assert found.weights[3] == 0
    assert found.weights.isfinite().all()


def test_a_loss_that_is_not_finite_is_told(explainer, examples, tmp_path):
    broken = course(augmenter=lambda _: lambda images: images * torch.nan)
    expected = r"^HR-CAM's dense layer: the loss is no longer finite in epoch 1\. Lower explain\.learning_rate"
    with pytest.raises(ModelError, match=expected):
        trained(explainer, examples, broken, checkpoint=tmp_path / "state")
