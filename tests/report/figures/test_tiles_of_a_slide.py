from __future__ import annotations

import pandas as pd
import pytest

from helpers.report import HOSTILE, slide_maps
from helpers.slide_figures import cut_example, laid
from vitrail.classes import TissueClass
from vitrail.report.figures.predictions_over_slide import overlaid_figure
from vitrail.report.figures.tiles_of_a_slide import choose_tiles, cut_figure
from vitrail.report.style import style


def test_the_most_mixed_tiles_of_each_label_are_shown():
    shares = {"tumor": [1, 0.6, 0.5, 0.4, 0], "non_tumor": [0, 0.4, 0.5, 0, 0.9]}
    shares |= {"other": [0, 0, 0, 0, 0.1], "background": [0, 0, 0, 0.6, 0]}
    rows = pd.DataFrame(shares | {"label": ["tumor"] * 4 + ["non_tumor"]}, index=range(7, 12))
    assert choose_tiles(rows) == (2, 1, 4)
    assert choose_tiles(rows.iloc[:1]) == (0,)


@pytest.mark.parametrize("size", [(160, 200), (200, 60), (60, 200), (12, 14)])
def test_nothing_is_cut_off_at_the_edges_of_slides_with_tiles_and_maps(size):
    one = slide_maps(HOSTILE, 9, size)
    labels = (TissueClass.TUMOR,) * 2 + (TissueClass.NON_TUMOR,)
    with style():
        for figure in (
            cut_figure(cut_example(one, labels)),
            cut_figure(cut_example(one, labels[:1])),
            overlaid_figure(laid(one), 0.5),
        ):
            figure.draw_without_rendering()
            box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -0.01
