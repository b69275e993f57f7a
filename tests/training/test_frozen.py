from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.training import TASKS, Killed, Killer, contents, history, make_parts, settings
from vitrail.models.device import training_precision
from vitrail.models.encoder import create_encoder
from vitrail.models.store import load_model
from vitrail.training import frozen
from vitrail.training.checkpoint import Checkpoint
from vitrail.training.frozen import BLOCK, FOLDER, CachedFeatures, symmetry
from vitrail.training.tasks import TRAINING_TASKS
from vitrail.training.trainer import Trainer, train

COLOURS = ([0.5] * 3, [0.25] * 3)


def frozen_settings(encoder="test_efficientnet", architecture="linear", **changes):
    own = settings(**changes)
    chosen = own.encoder.model_copy(update={"frozen": True, "name": encoder})
    segmenter = own.segmenter.model_copy(update={"architecture": architecture})
    return own.model_copy(update={"encoder": chosen, "segmenter": segmenter})


def trainer_of(task, own, parts):
    torch.manual_seed(0)
    spec = TRAINING_TASKS[task].spec(own, COLOURS)
    return Trainer(spec, parts, own, training_precision(torch.device("cpu"), "float32"))


def cached(trainer, folder):
    return CachedFeatures.of(trainer, Checkpoint(folder=folder, fingerprint="of a test"), Killer())


@pytest.mark.parametrize("encoder", ["test_efficientnet", "test_vit"])
@pytest.mark.parametrize("task", TASKS)
def test_cached_features_give_the_logits_of_the_tiles_themselves(task, encoder, tmp_path):
    parts = make_parts(2 * BLOCK)
    trainer = trainer_of(task, frozen_settings(encoder), parts)
    features = cached(trainer, tmp_path)
    trainer.network.eval()
    for rows in (parts.train[::7], parts.validation[::-1]):
        (batch, targets), (images, expected) = next(features([rows])), next(trainer.loader([rows]))
        torch.testing.assert_close(targets, expected)
        with torch.no_grad():
            logits = trainer.network(trainer.standardise(images))
            torch.testing.assert_close(
                features.logits(features.network, batch), logits, rtol=2e-3, atol=2e-3
            )  # maps have 16 bits


def test_each_symmetry_of_a_training_tile_is_kept_and_drawn(tmp_path):
    parts = make_parts()
    trainer = trainer_of("classifier", frozen_settings(), parts)
    features = cached(trainer, tmp_path)
    batch, _ = next(features([parts.train[:4]]))
    images, _ = next(trainer.loader([parts.train[:4]]))
    trainer.network.eval()
    with torch.no_grad():
        for number in range(8):
            seen = trainer.network.features(trainer.standardise(symmetry(images, number))).mean((2, 3))
            torch.testing.assert_close(batch[:, number], seen)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([features.turned(batch[:1].expand(4, -1, -1), generator) for _ in range(20)])
    every = {tuple(each.tolist()) for each in batch[0]}
    assert {tuple(each[0].tolist()) for each in drawn} == every
    assert len(next(features([parts.validation[:1]]))[0][0]) == 1


def test_the_symmetries_are_those_of_a_square():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    each = {tuple(symmetry(image, number).flatten().tolist()) for number in range(8)}
    assert len(each) == 8
    assert tuple(image.transpose(2, 3).flatten().tolist()) in each


@pytest.mark.parametrize(
    ("task", "architecture"), [("classifier", "unet"), ("segmenter", "unet"), ("segmenter", "linear")]
)
def test_a_frozen_encoder_keeps_its_weights_and_the_head_learns(task, architecture, tmp_path):
    own, parts = frozen_settings(architecture=architecture, epochs=6, learning_rate=1e-2), make_parts()
    start = create_encoder("test_efficientnet").state_dict()
    save_file(start, tmp_path / "start.safetensors")
    encoder = own.encoder.model_copy(update={"weights": str(tmp_path / "start.safetensors")})
    folder = tmp_path / "model"
    train(task, parts, own.model_copy(update={"encoder": encoder}), folder=folder)
    for name, values in load_model(folder).module.backbone.state_dict().items():
        assert torch.equal(values, start[name.replace("blocks_", "blocks.")]), name
    losses = history(folder)
    assert losses["train_loss"].iloc[-1] < losses["train_loss"].iloc[0]
    assert not (folder / FOLDER).exists()
    spec = load_model(folder).spec
    assert spec.encoder_source.frozen
    assert (spec.mean, spec.std) == (spec.encoder_source.mean, spec.encoder_source.std)


@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_killed_training_on_features_goes_on_with_the_same_bytes(after, tmp_path):
    own, parts = frozen_settings(), make_parts(2 * BLOCK)
    train("classifier", parts, own, folder=tmp_path / "whole")
    with pytest.raises(Killed):
        train("classifier", parts, own, folder=tmp_path / "killed", progress=Killer(after))
    train("classifier", parts, own, folder=tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_features_are_computed_once(tmp_path, monkeypatch):
    parts, calls = make_parts(), []
    trainer = trainer_of("classifier", frozen_settings(), parts)
    first = cached(trainer, tmp_path)
    monkeypatch.setattr(frozen, "_encoder_of", lambda _: lambda *tiles: calls.append(tiles))
    second = cached(trainer, tmp_path)
    assert not calls
    assert all(isinstance(block, np.memmap) for block in second.blocks)
    assert all(np.array_equal(one, other) for one, other in zip(first.blocks, second.blocks, strict=True))


def test_glass_is_learnt_beside_features(tmp_path):
    own = frozen_settings(epochs=1)
    own = own.model_copy(update={"classifier": own.classifier.model_copy(update={"glass": 0.5})})
    train("classifier", make_parts(), own, folder=tmp_path)
    assert load_file(tmp_path / "weights.safetensors")
