from __future__ import annotations

import numpy as np
import pytest

from helpers.explained import explained
from vitrail.evaluation.explanations import PAPER_MODES
from vitrail.report.figures.agreement import agreement_figure
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
