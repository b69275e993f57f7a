"""The public face: every name is there, and nothing heavy is loaded before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import vitrail
from vitrail import errors


@pytest.mark.parametrize("name", vitrail.__all__)
def test_every_name_is_there_and_explained(name):
    assert getattr(vitrail, name).__doc__
    assert name in dir(vitrail)


def test_the_whole_tree_of_errors_is_there():
    tree = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert tree <= set(vitrail.__all__)


def test_what_is_not_there_is_said():
    with pytest.raises(AttributeError, match="no attribute 'open_slides'"):
        _ = vitrail.open_slides


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import vitrail; dir(vitrail)", {"numpy", "torch", "pandas", "matplotlib"}),
        ("import vitrail; vitrail.open_slide", {"torch", "matplotlib", "sklearn"}),
        ("import vitrail; vitrail.evaluate", {"matplotlib"}),
        ("import vitrail; vitrail.html_of; vitrail.Study", {"torch", "matplotlib"}),
        ("import vitrail; vitrail.Predictor", {"matplotlib"}),
    ],
)
def test_what_is_not_used_is_not_loaded(code, heavy):
    shown = f"{code}; import sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True).stdout.split()  # noqa: S603 - our own
    assert heavy & set(loaded) == set()
