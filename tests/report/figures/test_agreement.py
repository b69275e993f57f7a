from __future__ import annotations

import numpy as np
import pytest

from helpers.explained import THREE, explained
from vitrail.evaluation.explanations import PAPER_MODES
from vitrail.report.figures.agreement import agreement_figure, matrix_figure
from vitrail.report.style import style


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("run"))


def test_the_histograms_are_numpys(whole):
    stored = whole.stored
    with style():
        figure = agreement_figure(stored)
    for axes, pair in zip(figure.axes, PAPER_MODES, strict=True):
        signed, relu = (patch for patch in axes.patches if hasattr(patch, "get_data"))
        for patch, column in ((signed, pair), (relu, f"{pair}_relu")):
            counts, edges = np.histogram(stored.agreement[column].dropna(), 30, (-1, 1))
            np.testing.assert_array_equal(patch.get_data().values, counts)
            np.testing.assert_allclose(patch.get_data().edges, edges, atol=1e-12)
        marked = [line for line in axes.lines if line.get_marker() == "^"]
        assert marked[0].get_xdata()[0] == PAPER_MODES[pair]
        constant = int(stored.agreement[pair].isna().sum())
        assert f"n = {36 - constant}, constant {constant}" in axes.texts[0].get_text()
    assert stored.agreement["gradcam_classifier_segmenter"].isna().sum() == 6


def test_a_matrix_holds_both_statistics_of_every_pair(tmp_path):
    stored = explained(tmp_path, methods=THREE).stored
    with style():
        figure = matrix_figure(stored)
        figure.draw_without_rendering()
    summary, names = stored.summary["agreement"], list(THREE)
    for axes, network in zip(figure.axes, ("classifier", "segmenter"), strict=False):
        cells = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
        assert set(cells) == {(row, column) for row in range(3) for column in range(3) if row != column}
        for (row, column), text in cells.items():
            measured = summary[f"{network}_{names[min(row, column)]}_{names[max(row, column)]}"]
            value = measured["mean"] if row < column else measured["spearman"]["beyond"][0]
            assert float(text.replace("\N{MINUS SIGN}", "-")) == pytest.approx(value, abs=0.005)
    assert len(figure.axes[2].texts) == 6
