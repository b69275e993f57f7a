"""Names and colours of classes, artefacts, networks and splits."""

from __future__ import annotations

import pytest

from vitrail.classes import ARTEFACT_CLASS, ARTEFACTS, CLASSES, NETWORK_COLOURS, NETWORKS, SPLITS, TASKS


def lightness(colour):
    """Return L* of an sRGB colour `#rrggbb` (IEC 61966-2-1, CIE 1976)."""
    light = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in light)
    return 116 * (0.2126 * red + 0.7152 * green + 0.0722 * blue) ** (1 / 3) - 16


def test_classes_can_be_told_apart_in_grey():
    assert [lightness(tissue.colour) for tissue in CLASSES] == pytest.approx([48, 67, 89, 92], abs=0.5)
    assert lightness(ARTEFACT_CLASS.colour) < 40


def test_nothing_shares_a_name_or_a_colour():
    for kinds in ((*CLASSES, ARTEFACT_CLASS), ARTEFACTS):
        for name in ("key", "title", "rgb"):
            assert len({getattr(kind, name) for kind in kinds}) == len(kinds)
    keys = [kind.key for kind in (*CLASSES, *ARTEFACTS)]
    assert keys == [
        *("tumor", "non_tumor", "other", "background"),
        *("pen", "fold", "blur", "blood", "debris", "bubble"),
    ]


def test_networks_and_splits_have_the_names_that_files_use():
    assert tuple(NETWORKS) == tuple(NETWORK_COLOURS) == TASKS == ("classifier", "segmenter")
    assert SPLITS == ("train", "validation", "test")
