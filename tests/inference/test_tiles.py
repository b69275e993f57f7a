from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from helpers.training import SPECS, make_tiles
from vitrail.core.progress import Silent
from vitrail.inference.predictor import Predictor
from vitrail.inference.stage import slides_to_map
from vitrail.inference.tiles import predict_tiles
from vitrail.models.store import Model, build


def test_each_tile_gets_what_both_networks_say_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("vitrail.inference.tiles.BLOCK", 4)
    torch.manual_seed(0)
    models = [Model(spec=spec, module=build(spec)) for spec in SPECS.values()]
    classifier, segmenter = (Predictor(model, torch.device("cpu"), engine="torch") for model in models)
    tiles = make_tiles(10)
    rows = predict_tiles(tiles, classifier, segmenter, tmp_path / "blocks", Silent())
    classes = segmenter.pixel_classes(tiles.images)
    np.testing.assert_allclose(rows["classifier_logit"], classifier.tumor_logits(tiles.images), rtol=1e-4)
    np.testing.assert_allclose(rows["classifier"], 1 / (1 + np.exp(-rows["classifier_logit"])))
    np.testing.assert_allclose(rows["segmenter"], (classes == 0).mean((1, 2)), atol=2e-3)
    np.testing.assert_allclose(segmenter.tumor_probability(tiles.images), rows["segmenter"], atol=2e-3)
    for counts, truth, predicted in zip(rows["pixels"], tiles.masks, classes, strict=True):
        expected = np.bincount((truth * 4 + predicted).ravel(), minlength=16)
        np.testing.assert_allclose(counts, expected, atol=2)
    assert rows["label"].tolist() == tiles.rows["label"].tolist()
    pd.testing.assert_frame_equal(predict_tiles(tiles, None, None, tmp_path / "blocks", Silent()), rows)


def test_slides_are_mapped_from_the_best_to_the_worst_and_mixed_ones_first():
    slides = [("a", 0.0, True), ("b", 0.1, True), ("c", 0.2, True), ("d", 0.0, False), ("train", 0.0, True)]
    rows = pd.DataFrame(
        [
            {"slide_id": name, "split": "train" if name == "train" else "test", "label": label, "classifier": tumor}
            for name, error, mixed in slides
            for label, tumor in (("non_tumor", error), ("tumor" if mixed else "other", 1 - error if mixed else error))
        ]
    )
    assert slides_to_map(rows, 2) == ["a", "c"]
    assert slides_to_map(rows, 3) == ["a", "b", "c"]
    assert set(slides_to_map(rows, 9)) == {"a", "b", "c", "d"}
