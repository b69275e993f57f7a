"""Outlines of label images: exact, one a nucleus."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from vitrail.geometry import Region
from vitrail.nuclei.outlines import outline_nuclei
from vitrail.slides.rasterize import rasterize


def numbered(image):
    """Number the values of an image from 1 on, its 4-connected pieces apart; 0 stays."""
    labels, most = np.zeros(image.shape, np.int32), 0
    for value in np.unique(image[image > 0]):
        pieces, number = ndimage.label(image == value)
        labels[pieces > 0] = pieces[pieces > 0] + most
        most += number
    return labels


@given(arrays(np.uint8, (9, 11), elements=st.integers(0, 5)))
@settings(max_examples=60, deadline=None)
def test_painted_again_they_are_the_labels(image):
    labels = numbered(image)
    outlines = outline_nuclei(labels)
    assert len(outlines) == labels.max()
    for number, outline in enumerate(outlines, 1):
        assert outline.is_valid
        painted = rasterize(outline, Region(x=0, y=0, width=11, height=9), (11, 9))
        assert (painted == (labels == number)).all()


def test_of_a_nucleus_in_pieces_the_largest_is_outlined():
    labels = np.zeros((10, 10), np.int32)
    labels[0, 0], labels[4:8, 4:9] = 1, 1
    (outline,) = outline_nuclei(labels)
    assert outline.equals(shapely.box(4, 4, 9, 8))


@pytest.mark.parametrize("shape", [(0, 0), (4, 5)])
def test_without_nuclei_there_are_none(shape):
    assert len(outline_nuclei(np.zeros(shape, np.int32))) == 0
