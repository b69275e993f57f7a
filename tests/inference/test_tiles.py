from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from helpers.training import SPECS, make_tiles
from vitrail.core.progress import Silent
from vitrail.inference.predictor import Predictor
from vitrail.inference.stage import out_of_fold, slides_to_map
from vitrail.inference.tiles import CONFIDENCE_BINS, confidence, predict_tiles
from vitrail.models.join import joined
from vitrail.models.store import Model, build


def test_each_tile_gets_what_both_networks_say_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("vitrail.inference.tiles.BLOCK", 4)
    torch.manual_seed(0)
    models = [Model(spec=spec, module=build(spec)) for spec in SPECS.values()]
    classifier, segmenter = (Predictor(model, torch.device("cpu"), engine="torch") for model in models)
    tiles = make_tiles(10)
    predictors, nobody = {"classifier": classifier, "segmenter": segmenter}, dict.fromkeys(SPECS, np.full(10, -1))
    rows = predict_tiles(tiles, predictors, nobody, tmp_path / "blocks", Silent())
    classes = segmenter.pixel_classes(tiles.images)
    np.testing.assert_allclose(rows["classifier_logit"], classifier.tumor_logits(tiles.images), rtol=1e-4)
    np.testing.assert_allclose(rows["classifier"], 1 / (1 + np.exp(-rows["classifier_logit"])))
    np.testing.assert_allclose(rows["segmenter"], (classes == 0).mean((1, 2)), atol=2e-3)
    np.testing.assert_allclose(segmenter.tumor_probability(tiles.images), rows["segmenter"], atol=2e-3)
    for counts, truth, predicted in zip(rows["pixels"], tiles.masks, classes, strict=True):
        expected = np.bincount((truth * 4 + predicted).ravel(), minlength=16)
        np.testing.assert_allclose(counts, expected, atol=2)
    assert rows["label"].tolist() == tiles.rows["label"].tolist()
    assert rows[["classifier_spread", "segmenter_spread"]].isna().all(axis=None)
    sure = segmenter.class_probabilities(tiles.images).max(1)
    for counts, truth, predicted, probability in zip(rows["confidence"], tiles.masks, classes, sure, strict=True):
        edges = np.linspace(0, 1, CONFIDENCE_BINS + 1)
        expected = [np.histogram(values, edges)[0] for values in (probability, probability[truth == predicted])]
        np.testing.assert_allclose(counts, np.concatenate(expected), atol=2)
    nothing = dict.fromkeys(SPECS)  # what is on disk is not predicted again
    pd.testing.assert_frame_equal(predict_tiles(tiles, nothing, nobody, tmp_path / "blocks", Silent()), rows)


def test_tiles_of_a_fold_are_predicted_by_the_member_that_has_not_seen_them(tmp_path, monkeypatch):
    monkeypatch.setattr("vitrail.inference.tiles.BLOCK", 4)
    torch.manual_seed(0)
    models = {
        task: joined({str(number): Model(spec=spec, module=build(spec)) for number in range(2)})
        for task, spec in SPECS.items()
    }
    predictors = {task: Predictor(model, torch.device("cpu"), engine="torch") for task, model in models.items()}
    tiles, member = make_tiles(10), np.array([0, 1, -1, 1, 0, -1, -1, 0, 1, 1])
    rows = predict_tiles(tiles, predictors, dict.fromkeys(SPECS, member), tmp_path / "blocks", Silent())
    for number in (-1, 0, 1):
        own = np.flatnonzero(member == number)
        classifier, segmenter = (predictors[task] if number < 0 else predictors[task].member(number) for task in SPECS)
        images = tiles.images[own]
        np.testing.assert_allclose(rows["classifier_logit"][own], classifier.tumor_logits(images), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(rows["segmenter"][own], segmenter.tumor_probability(images), atol=2e-3)
        spreads = rows.loc[own, ["classifier_spread", "segmenter_spread"]]
        assert (spreads > 0).all(axis=None) if number < 0 else spreads.isna().all(axis=None)


def test_out_of_fold_is_what_no_asked_network_was_trained_on():
    split = np.array(["train", "validation", "test", "train"])
    whole, folds, mixed = np.full(4, -1), np.array([0, 1, -1, 1]), np.array([0, 1, -1, -1])
    assert out_of_fold(split, [(whole, 1)]).tolist() == [False, True, True, False]
    assert out_of_fold(split, [(folds, 2)]).tolist() == [True] * 4
    assert out_of_fold(split, [(whole, 2)]).tolist() == [False, False, True, False]  # nobody knows the folds
    assert out_of_fold(split, [(folds, 2), (whole, 1)]).tolist() == [False, True, True, False]
    assert out_of_fold(split, [(mixed, 2)]).tolist() == [True, True, True, False]


def test_confidence_counts_every_pixel_once():
    counts = confidence(np.array([0.0, 0.049, 0.05, 0.999, 1.0]), np.array([True, False, True, False, True]))
    assert counts[:CONFIDENCE_BINS].tolist() == [2, 1, *[0] * 17, 2]
    assert counts[CONFIDENCE_BINS:].tolist() == [1, 1, *[0] * 17, 1]


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
