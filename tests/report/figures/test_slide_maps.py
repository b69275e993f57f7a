from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.report import slide_maps as random_maps
from vitrail.classes import ARTEFACT_CLASS, TissueClass
from vitrail.report.figures import slide_maps
from vitrail.report.style import style


def test_outlines_are_filled_but_for_their_holes():
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], float)
    square, hole = 4 + 40 * corners, 14 + 20 * corners[::-1]
    one = replace(
        random_maps("a", 1),
        thumbnail=np.full((50, 60, 3), 255, np.uint8),
        outlines={TissueClass.TUMOR: [square, hole]},
    )
    painted = (slide_maps.annotated(one) != 255).any(-1)
    assert painted[6:12, 6:42].all()
    assert painted[36:42, 6:42].all()
    assert not painted[16:32, 16:32].any()
    assert not painted[:2].any()
    assert not painted[:, 47:].any()
    assert painted.sum() == pytest.approx(40**2 - 20**2, rel=0.1)


def test_tiles_take_the_colour_of_their_class():
    tiles = slide_maps.classified(np.array([[1, 0.5, 0.49, 0, np.nan]], np.float32), 0.5)[0].tolist()
    assert tiles[0] == list(TissueClass.TUMOR.rgb)
    assert tiles[3] == list(TissueClass.NON_TUMOR.rgb)
    assert tiles[4] == [255, 255, 255]
    assert tiles[1][0] > tiles[1][2]  # still orange at the threshold
    assert tiles[2][1] > tiles[2][0]  # still green just below
    assert slide_maps.segmented(np.array([[2, 255]], np.uint8))[0].tolist() == [list(TissueClass.OTHER.rgb), [255] * 3]


def test_artefacts_are_painted_in_a_colour_of_their_own():
    spoilt = replace(random_maps("a", 1), artefacts=np.ones_like(random_maps("a", 1).artefacts))
    tissue = ~spoilt.background
    for panel in (*slide_maps.class_panels(spoilt, 0.5)[:1], *slide_maps.probability_panels(spoilt)):
        assert (panel.picture[tissue] == ARTEFACT_CLASS.rgb).all()
        assert (panel.picture[~tissue] == 255).all()
    assert slide_maps.segmented(np.array([[4]], np.uint8))[0, 0].tolist() == list(ARTEFACT_CLASS.rgb)


def test_probabilities_darken_from_nothing_to_certain():
    painted = slide_maps.probable(np.array([[0, 0.25, 0.5, 0.75, 1, np.nan]], np.float32))[0]
    light = painted @ np.array([0.3, 0.59, 0.11])
    assert (np.diff(light[:5]) < -20).all()
    assert painted[5].tolist() == [255] * 3


def test_a_slide_without_annotation_shows_what_there_is():
    one = replace(random_maps("a", 1), outlines={})
    blind = replace(one, classifier=np.full_like(one.classifier, np.nan))
    classes_only = replace(one, segmenter=np.full_like(one.segmenter, 255))
    everywhere = replace(one, classifier=np.nan_to_num(one.classifier, nan=0.4))
    cases = {
        "all": (one, ["Slide", "Classification", "Segmentation", "Tumor probability"]),
        "segmenter": (blind, ["Slide", "Segmentation"]),
        "classifier": (classes_only, ["Slide", "Classification", "Tumor probability"]),
        "background": (everywhere, [
            "Slide", "Classification", "Segmentation", "Tumor probability", "Including background",
        ]),
    }  # fmt: skip
    with style():
        for slide, titles in cases.values():
            figure = slide_maps.map_figure(slide, 0.5)
            panels = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
            assert [title[3:] for title in panels] == titles
            figure.draw_without_rendering()
            box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -0.01
    coloured = slide_maps.class_panels(everywhere, 0.5)[0].picture
    assert (coloured[everywhere.background] == 255).all()


@pytest.mark.parametrize(("width", "bar"), [(9000, 2000), (3000.1, 1000), (700, 200), (299, 50), (16000, 5000)])
def test_the_scale_bar_is_round_and_fits(width, bar):
    assert slide_maps.scale_bar_um(width) == bar
