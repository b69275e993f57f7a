from __future__ import annotations

import pytest

from helpers.explained import explained
from vitrail.report.figures.checks import randomisation_figure
from vitrail.report.style import style


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("run"))


def test_steps_with_two_names_show_both(whole):
    with style():
        figure = randomisation_figure(whole.checked.randomisation, whole.stored.methods)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["untouched", "head / auxiliary", "blocks.0"]
