from __future__ import annotations

from dataclasses import replace

import numpy as np

from helpers.report import slide_maps
from vitrail.classes import TissueClass
from vitrail.report.figures import predictions_over_slide as predictions


def test_sections_are_apart_and_show_what_they_promise():
    one = replace(slide_maps("a", 1), background=np.zeros((26, 32), bool), classifier=np.zeros((26, 32), np.float32))
    classes = np.full((26, 32, 8, 8), TissueClass.NON_TUMOR)
    classes[4, 5, :, :4] = classes[10, 20] = TissueClass.TUMOR
    classes[20:24, 2:6] = TissueClass.OTHER
    one = replace(one, segmenter=classes.transpose(0, 2, 1, 3).reshape(208, 256).astype(np.uint8))
    mixed, other, differ = predictions.choose_sections(one)
    assert (other.row, other.column, other.tiles) == (20, 2, 4)
    assert mixed.row <= 10 < mixed.row + 4
    assert mixed.column <= 20 < mixed.column + 4
    assert differ.row <= 4 < differ.row + 4
    assert differ.column <= 5 < differ.column + 4
    tiny = replace(one, thumbnail=one.thumbnail[:10, :10])
    assert predictions.choose_sections(tiny) == ()


def test_classes_lie_over_a_grey_slide_and_background_stays_free():
    picture = np.full((40, 80, 3), (200, 100, 200), np.uint8)
    classes = np.array([[TissueClass.TUMOR, TissueClass.OTHER, TissueClass.BACKGROUND, 255]], np.uint8)
    painted = predictions.laid_over(picture, classes, 1, 4).astype(int)
    assert (np.ptp(painted[:, 40:], axis=-1) == 0).all()
    assert painted[20, 10, 0] > painted[20, 10, 2] + 50
    assert painted[20, 30, 1] > painted[20, 30, 2] + 50
    assert (painted[:, 19] == predictions._EDGE).all()
    assert predictions.laid_over(picture, classes, 1, 2)[20, 70].tolist() == painted[20, 30].tolist()


def test_called_tiles_leave_background_out():
    one = slide_maps("a", 1)
    spoilt = replace(one, artefacts=np.where(one.classifier > 0.9, 1, 0).astype(np.float32))
    classes = predictions.called(spoilt, 0.5)
    assert (classes[one.background] == 255).all()
    assert (classes[one.classifier > 0.9] == 4).all()
    assert (classes[(one.classifier >= 0.5) & (one.classifier <= 0.9)] == TissueClass.TUMOR).all()
    assert (classes[one.classifier < 0.5] == TissueClass.NON_TUMOR).all()


def test_the_slide_with_the_most_of_both_classes_is_overlaid():
    one = slide_maps("a", 1)
    alone = replace(one, segmenter=np.where(one.segmenter == TissueClass.TUMOR, 255, one.segmenter).astype(np.uint8))
    blind = replace(one, classifier=np.full_like(one.classifier, np.nan))
    assert predictions.choose_slide([blind, alone, one, one]) is one
    assert predictions.choose_slide([alone]) is alone
    assert predictions.choose_slide([blind]) is None
