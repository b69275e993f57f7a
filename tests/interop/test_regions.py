"""Masks to polygons and back, and polygons with fewer vertices."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from vitrail.classes import TissueClass
from vitrail.geometry import Region
from vitrail.interop.regions import MapFrame, find_regions
from vitrail.interop.simplify import simplify_coverage
from vitrail.slides import polygonize as outlines
from vitrail.slides.polygonize import outline_classes
from vitrail.slides.rasterize import rasterize

MAPS = arrays(np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.integers(0, 4))
EVERYTHING = {"tolerance_um": 0, "min_area_um2": 0}


def strips(classes, height):
    return [classes[top : top + height] for top in range(0, len(classes), height)]


def blobs(side, blur, seed=0):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), blur)
    return np.digitize(field, np.quantile(field, [0.3, 0.6, 0.8])).astype(np.uint8)


def painted(polygons, shape):
    """How many polygons each pixel's centre lies in, by GEOS."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    return sum((shapely.contains_xy(polygon, x, y) for polygon in polygons), np.zeros(shape, int))


@settings(deadline=None, max_examples=150)
@given(MAPS, st.integers(1, 6), st.sampled_from([0, 12, 200_000]))
def test_polygons_are_the_mask(classes, height, close_at):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlines, "_CLOSE_AT", close_at)  # rings are closed early, or all at the end
        found = outline_classes(strips(classes, height), (0, 1))
    for label, polygons in found.items():
        assert all(polygon.is_valid for polygon in polygons)
        assert np.array_equal(painted(polygons, classes.shape), classes == label)
        assert sum(polygon.area for polygon in polygons) == (classes == label).sum()
        assert len(polygons) == ndimage.label(classes == label)[1]  # one each, joined by edges and not by corners
    together = np.array(found[0] + found[1], dtype=object)
    assert shapely.coverage_is_valid(together)  # no overlap, and every vertex of a common border is in both


@settings(deadline=None, max_examples=60)
@given(MAPS, st.integers(1, 6))
def test_strips_leave_no_trace(classes, height):
    def normal(found):
        return {
            label: sorted(shapely.to_wkt(shapely.normalize(polygons))) for label, polygons in found.items() if polygons
        }

    assert normal(outline_classes(strips(classes, height), (0, 1))) == normal(outline_classes([classes], (0, 1)))


@settings(deadline=None, max_examples=60)
@given(MAPS, st.integers(1, 12))
def test_crumbs_are_dropped(classes, smallest):
    found = outline_classes([classes], (0, 1), smallest=smallest)
    for label, polygons in found.items():
        parts = ndimage.label(classes == label)[0]
        large = np.bincount(parts.ravel()) >= smallest
        assert np.array_equal(painted(polygons, classes.shape), large[parts] & (classes == label))


def test_strips_of_unlike_width_are_refused():
    with pytest.raises(ValueError, match="a strip of 3 pixels follows one of 4"):
        outline_classes([np.zeros((1, 4), np.uint8), np.zeros((1, 3), np.uint8)], (0,))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.floats(0, 6), st.floats(0.6, 4))
def test_simplified_regions_stay_valid_apart_and_near(seed, tolerance, blur):
    found = outline_classes([blobs(40, blur, seed)], (0, 1))
    exact = found[0] + found[1]
    simple = simplify_coverage(exact, tolerance)
    assert all(polygon.is_valid and polygon.area > 0 for polygon in simple)
    for before, after in zip(exact, simple, strict=True):
        assert shapely.hausdorff_distance(before.boundary, after.boundary, densify=0.2) <= tolerance + 1e-9
    tree = shapely.STRtree(simple)
    first, second = tree.query(simple, predicate="intersects")
    pairs = first < second
    shapes = np.array(simple, dtype=object)
    assert shapely.area(shapely.intersection(shapes[first[pairs]], shapes[second[pairs]])).sum() < 1e-9


def test_a_smooth_border_needs_few_vertices():
    found = outline_classes([blobs(200, 8)], (0, 1))
    exact = found[0] + found[1]
    before, after = (shapely.get_num_coordinates(p).sum() for p in (exact, simplify_coverage(exact, 2.0)))
    assert after < before / 4


def test_regions_lie_on_the_slide():
    classes = np.full((40, 60), TissueClass.OTHER, np.uint8)
    classes[5:30, 10:50] = TissueClass.TUMOR
    classes[10:20, 20:30] = TissueClass.BACKGROUND
    classes[30:40, 10:50] = TissueClass.NON_TUMOR
    frame = MapFrame(scale=8, mpp=2)
    tumor, rest = find_regions(strips(classes, 16), frame, **EVERYTHING)
    assert (tumor.label, rest.label) == (TissueClass.TUMOR, TissueClass.NON_TUMOR)
    assert tumor.area_mm2 == pytest.approx((25 * 40 - 100) * 4e-6)
    hole = shapely.box(160, 80, 240, 160)
    assert shapely.equals(tumor.geometry, shapely.box(80, 40, 400, 240).difference(hole))
    assert shapely.equals(rest.geometry, shapely.box(80, 240, 400, 320))
    place = Region(x=0, y=0, width=60 * 8, height=40 * 8)
    assert np.array_equal(rasterize(tumor.geometry, place, (60, 40)), classes == TissueClass.TUMOR)


def test_the_largest_come_first_and_crumbs_not_at_all():
    classes = np.full((10, 40), TissueClass.OTHER, np.uint8)
    for left, side in ((0, 2), (10, 6), (20, 1), (30, 4)):
        classes[:side, left : left + side] = TissueClass.TUMOR
    found = find_regions([classes], MapFrame(scale=1, mpp=1), tolerance_um=0, min_area_um2=2)
    assert [region.area_mm2 for region in found] == pytest.approx([36e-6, 16e-6, 4e-6])


def test_a_map_without_regions_and_one_without_rows():
    frame = MapFrame(scale=1, mpp=1)
    assert find_regions([np.full((3, 3), TissueClass.BACKGROUND, np.uint8)], frame) == []
    assert find_regions([], frame) == []


def test_rounded_coordinates_are_short():
    (region,) = find_regions([np.zeros((3, 4), np.uint8)], MapFrame(scale=1 / 3, mpp=1), **EVERYTHING)
    assert shapely.get_coordinates(region.geometry).max() == 1.33


def test_memory_does_not_grow_with_the_map():
    def peak(count):
        tracemalloc.start()
        find_regions((tile for _ in range(count)), MapFrame(scale=1, mpp=1), min_area_um2=500)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    tile = np.random.default_rng(0).integers(0, 4, (32, 64)).astype(np.uint8)  # noise: nothing but crumbs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlines, "_CLOSE_AT", 2_000)
        few, many = peak(4), peak(16)
    assert many < few * 1.3
