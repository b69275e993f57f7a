from __future__ import annotations

import pandas as pd
import pytest

from helpers.explained import explained
from vitrail.report.figures.checks import FLOORS, perturbation_figure, randomisation_figure
from vitrail.report.style import style


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return explained(tmp_path_factory.mktemp("run"))


def test_steps_with_two_names_show_both(whole):
    with style():
        figure = randomisation_figure(whole.checked.randomisation, whole.stored.methods)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["untouched", "head / auxiliary", "blocks.0"]


def test_each_replacement_network_and_kind_has_a_panel(whole):
    one = whole.checked.perturbation.query("replacement == 'blur' and order not in ('edges', 'untrained')")
    floors = [one[one["order"] == "random"].assign(order=name) for name in ("edges", "untrained")]
    table = pd.concat([one.assign(replacement=name) for name in ("donor", "blur")])
    for curves, panels in ((one, 4), (table, 8), (pd.concat([one, *floors]), 4)):
        with style():
            figure = perturbation_figure(curves, whole.stored.methods)
            figure.draw_without_rendering()
        assert len(figure.axes) == panels
        assert panels == 4 or "blurred" in figure.axes[0].get_title(loc="left")
        names = {text.get_text() for text in figure.legends[0].get_texts()}
        orders = set(curves["order"])
        assert names == {FLOORS.get(order, whole.stored.methods.get(order)) for order in orders}
        assert len({line.get_color() for line in figure.axes[0].lines}) == 3  # a method each, and grey
        for axes in figure.axes:
            assert len(axes.lines) == len(orders)
