from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Polygon, box
from shapely.geometry import mapping, shape

from vitrail.viewer.drawing import combine, drawn_shape, polygons_of, region_at
from vitrail.viewer.rasters import NOTHING, array_raster

SIZE = (400, 300)
POINT = st.tuples(st.floats(-50, 450), st.floats(-50, 350))


def test_a_stroke_is_all_within_its_radius_of_where_the_brush_went():
    drawn = drawn_shape([(100, 100), (200, 100)], 20, SIZE)
    assert drawn.area == pytest.approx(100 * 40 + np.pi * 400, rel=0.05)
    assert drawn_shape([(100, 100)], 20, SIZE).area == pytest.approx(np.pi * 400, rel=0.05)
    assert drawn_shape([(0, 0)], 20, SIZE).area == pytest.approx(np.pi * 100, rel=0.05)  # a quarter is on the slide
    assert drawn_shape([(-100, -100)], 20, SIZE).is_empty


def test_a_polygon_that_crosses_itself_becomes_valid():
    drawn = drawn_shape([(0, 0), (100, 100), (100, 0), (0, 100)], 0, SIZE)
    assert drawn.is_valid
    assert len(drawn.geoms) == 2
    assert drawn.area == pytest.approx(5000)


def test_a_tangle_is_refused_at_once():
    tangle = np.random.default_rng(0).uniform(0, 300, (1000, 2)).tolist()
    with pytest.raises(ValueError, match="crosses itself"):
        drawn_shape([(x, y) for x, y in tangle], 0, SIZE)
    with pytest.raises(ValueError, match="crosses itself"):
        polygons_of({"type": "Polygon", "coordinates": [[*tangle, tangle[0]]]})


@settings(max_examples=60, deadline=None)
@given(st.lists(POINT, min_size=3, max_size=12), st.lists(POINT, min_size=1, max_size=8), st.floats(1, 60))
def test_areas_add_up_and_stay_valid(corners, stroke, radius):
    outline = drawn_shape(corners, 0, SIZE)
    brushed = drawn_shape(stroke, radius, SIZE)
    more, less = (combine(polygons_of(mapping(outline)), brushed, by) for by in ("add", "subtract"))
    assert more.is_valid
    assert less.is_valid
    assert more.difference(box(-1e-6, -1e-6, SIZE[0] + 1e-6, SIZE[1] + 1e-6)).is_empty
    assert more.area == pytest.approx(less.area + brushed.area, abs=1e-3)


def test_corners_that_were_not_touched_stay_as_they_were():
    outline = mapping(drawn := Polygon([(0.1, 0.2), (0.1 + 1e-9, 99.7), (200 / 3, 99.9), (70.3, 0.3)]))
    before = polygons_of(outline)
    assert before.geoms[0] == drawn
    assert mapping(combine(before, drawn_shape([(300, 200)], 5, SIZE), "subtract")) == outline
    cut = combine(before, drawn_shape([(70, 50)], 5, SIZE), "subtract")
    assert set(Polygon(outline["coordinates"][0]).exterior.coords) <= set(cut.exterior.coords)
    assert combine(polygons_of(mapping(cut)), drawn_shape([(20, 20)], 5, SIZE), "add").equals(cut)


@pytest.mark.parametrize(
    "outline",
    [5, {}, {"type": "Point", "coordinates": [1, 2]}, {"type": "Polygon", "coordinates": 5}, {"type": "Polygon"}, []],
)
def test_what_is_no_outline_is_refused(outline):
    with pytest.raises(ValueError, match="outline"):
        polygons_of(outline)


def test_a_region_is_connected_and_within_a_pixel_of_the_map():
    rng = np.random.default_rng(0)
    values = np.zeros((60, 80), np.uint8)
    values[10:40, 5:50] = 1
    values[20:30, 15:25] = 0  # a hole
    values[45:55, 60:75] = 1  # another region
    values[12, 50] = 1
    values[11, 51] = 1  # touches at a corner alone
    values[0] = NOTHING
    raster = array_raster(values, key="classes", title="", kind="class", network="", cell=2.5, limits=(0, 255))
    region = region_at(raster, 100, 30)
    exact = Polygon(box(5, 10, 50, 40).exterior, [box(15, 20, 25, 30).exterior]).union(box(50, 12, 51, 13))
    assert region.hausdorff_distance(Polygon([(2.5 * x, 2.5 * y) for x, y in exact.exterior.coords],
        [[(2.5 * x, 2.5 * y) for x, y in ring.coords] for ring in exact.interiors])) <= 2.5  # fmt: skip
    for x, y in rng.uniform(0, 1, (50, 2)) * (200, 150):
        value = values[int(y // 2.5), int(x // 2.5)]
        if value != NOTHING:
            assert shape(mapping(region_at(raster, x, y))).is_valid
    for x, y in ((-1, 5), (5, 0), (201, 5), (5, 151)):
        with pytest.raises(ValueError, match="says nothing"):
            region_at(raster, x, y)
