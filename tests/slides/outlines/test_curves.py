"""Curves leave what they stand for by at most a quarter of a pixel; paths of SVG are what a browser fills."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as MatplotlibPath
from shapely import LineString, Polygon

from vitrail.slides.outlines.asap import spline
from vitrail.slides.outlines.curves import TOLERANCE_PX, arc, bezier, ellipse
from vitrail.slides.outlines.features import MalformedError
from vitrail.slides.outlines.rings import nested, with_negatives
from vitrail.slides.outlines.svg import path_rings, svg_polygons

LIMIT = TOLERANCE_PX * 1.001
lengths = st.floats(0.01, 20_000)
axis = st.floats(-1e4, 1e4).map(lambda value: round(value, 4))  # a length of 1e-300 is no length to GEOS
coordinates = st.tuples(axis, axis)


@given(coordinates, lengths, lengths, st.floats(-7, 7))
@settings(max_examples=30)
def test_an_ellipse(centre, rx, ry, angle):
    turn = np.linspace(0, 2 * np.pi, 2000)
    x, y = rx * np.cos(turn), ry * np.sin(turn)
    true = np.stack([x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)], 1) + centre
    ring = ellipse(centre, (rx, ry), angle)
    shape = LineString([*ring, ring[0]])
    assert shapely.distance(shape, shapely.points(true)).max() <= LIMIT + 1e-6


@given(st.lists(coordinates, min_size=3, max_size=4))
@settings(max_examples=30)
def test_a_bezier_curve(control):
    """De Casteljau's construction is the oracle."""
    line = LineString([control[0], *bezier(*control)])
    points = np.repeat(np.array(control)[None], 500, axis=0)
    t = np.linspace(0, 1, 500)[:, None, None]
    while points.shape[1] > 1:
        points = points[:, :-1] * (1 - t) + points[:, 1:] * t
    assert shapely.distance(line, shapely.points(points[:, 0])).max() <= LIMIT


@given(coordinates, coordinates, lengths, lengths, st.floats(-4, 4), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_an_arc_lies_on_its_ellipse_and_turns_as_it_should(start, end, rx, ry, angle, large, sweep):
    points = np.array([start, *arc(start, (rx, ry), angle, (large, sweep), end)])
    assert tuple(points[-1]) == end
    if np.hypot(*(points[0] - points[-1])) < 1:
        return
    # in the frame of the ellipse, where it is a circle of radius one after a possible enlargement
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    unit = points @ turn / (rx, ry)
    a, b = unit[0], unit[-1]
    half = np.hypot(*(b - a)) / 2
    radius = max(1.0, half)
    up = np.array([a[1] - b[1], b[0] - a[0]]) / (2 * half)
    offset = math.sqrt(max(0.0, radius**2 - half**2)) * (1 if large != sweep else -1)
    centre = (a + b) / 2 + up * offset
    np.testing.assert_allclose(np.hypot(*(unit - centre).T), radius, rtol=1e-5, atol=1e-5)


def test_a_spline_is_a_centripetal_curve_through_its_corners():
    corners = [(0.0, 0.0), (100.0, 5.0), (130.0, 90.0), (60.0, 140.0), (-20.0, 80.0)]
    drawn = spline(corners)
    line = LineString([*drawn, drawn[0]])

    def barry_goldman(p, t):
        """Catmull-Rom after Barry and Goldman (1988), with knots by the square root of the chords."""
        knots = np.cumsum([0.0, *(np.hypot(*(p[i + 1] - p[i])) ** 0.5 for i in range(3))])
        t = knots[1] + t * (knots[2] - knots[1])
        level = [*p]
        for depth in (1, 2, 3):
            low = [knots[i] if depth == 1 else knots[max(0, i)] for i in range(4 - depth)]
            if depth == 3:
                low, high = [knots[1]], [knots[2]]
            else:
                high = [knots[i + depth] for i in range(4 - depth)]
            level = [
                level[i] * (high[i] - t) / (high[i] - low[i]) + level[i + 1] * (t - low[i]) / (high[i] - low[i])
                for i in range(4 - depth)
            ]
        return level[0]

    p = np.array(corners)
    for i in range(3):  # those pieces whose four corners are corners of the outline
        four = np.array([p[i - 1], p[i], p[i + 1], p[(i + 2) % 5]])
        if i == 3:
            continue
        for t in np.linspace(0, 1, 21):
            assert line.distance(shapely.Point(barry_goldman(four, t))) <= LIMIT
    assert {tuple(map(float, corner)) for corner in corners} <= {tuple(point) for point in np.asarray(drawn).tolist()}
    assert spline(corners[:2]) == corners[:2]
    assert np.isfinite(spline([corners[0], corners[0], *corners])).all()


@pytest.mark.parametrize(
    ("path", "area"),
    [
        ("M0 0L10 0L10 10L0 10Z", 100),
        ("m0,0 10,0 0,10 -10,0z", 100),
        ("M0 0h10v10H0V0z", 100),
        ("M0 0H10V10H0Z M2 2H4V4H2Z", 100),  # both turn the same way
        ("M0 0H10V10H0Z M2 2V4H4V2Z", 96),
        ("M0 0H10V10H0Zm2 2v2h2v-2z", 96),
        ("M 0 0 A 10 10 0 0 1 20 0 A 10 10 0 0 1 0 0", math.pi * 100),
        ("M0-10a10 10 0 010 20a10 10 0 01-0-20", math.pi * 100),
        ("M0 0c.5-1e1 1.5.5 2 0", None),
        ("M100 0Q200 0 200 100T100 200T0 100T100 0Z", None),
        ("M10 80C40 10 65 10 95 80S150 150 180 80", None),
    ],
)
def test_paths(path, area):
    polygons = svg_polygons(f'<svg xmlns="http://www.w3.org/2000/svg"><g><path d="{path}"/></g></svg>')
    found = sum(Polygon(rings[0], rings[1:]).area for rings in polygons)
    if area is None:  # matplotlib flattens curves, too
        codes = {"Q": [3, 3], "T": [3, 3], "C": [4, 4, 4], "S": [4, 4, 4]}
        pieces = {
            "c": ([(0, 0), (0.5, -10), (1.5, 0.5), (2, 0)], "C"),
            "Q": (
                [(100, 0), (200, 0), (200, 100), (200, 200), (100, 200), (0, 200), (0, 100), (0, 0), (100, 0)],
                "QTTT",
            ),
            "S": ([(10, 80), (40, 10), (65, 10), (95, 80), (125, 150), (150, 150), (180, 80)], "CS"),
        }
        key = next(key for key in ("Q", "S", "c") if key in path)
        vertices, letters = pieces[key]
        drawn = MatplotlibPath(vertices, [1, *(code for letter in letters for code in codes[letter])])
        rings = drawn.to_polygons(closed_only=False)
        assert LineString(path_rings(path)[0]).hausdorff_distance(LineString(rings[0])) < 0.5
    else:
        assert found == pytest.approx(area, rel=0.05)


def test_fill_rules_and_basic_shapes():
    frame = "M0 0H10V10H0Z M2 2H4V4H2Z"

    def area(body):
        return sum(Polygon(rings[0], rings[1:]).area for rings in svg_polygons(f"<svg>{body}</svg>"))

    assert area(f'<path d="{frame}" fill-rule="evenodd"/>') == 96
    assert area(f'<path d="{frame}" style="stroke:red; fill-rule: evenodd"/>') == 96
    assert area("<polygon points='0,0 10,0 10,10 0,10'/>") == 100
    assert area('<rect x="1" y="1" width="4px" height="5"/><line x1="0" y1="0" x2="9" y2="9"/>') == 20
    assert area('<circle cx="5" cy="5" r="100"/>') == pytest.approx(math.pi * 1e4, rel=0.01)
    assert area('<g><g><ellipse cx="5" cy="5" rx="100" ry="50"/></g></g>') == pytest.approx(math.pi * 5e3, rel=0.01)
    assert svg_polygons("<svg><polygon points='0,0 1,1'/></svg>") == []


@pytest.mark.parametrize(
    "path", ["M0", "M0 0 L1", "5 5", "M0 0 K5 5", "M0 0 A1 1 0 2 0 5 5", "M1e999 0", "M0 0z5", "M0 0 1e9 0 l1e10 0"]
)
def test_paths_that_are_none(path):
    with pytest.raises(MalformedError, match="path"):
        path_rings(path)
    with pytest.raises(MalformedError, match="transformed"):
        svg_polygons('<svg><g transform="scale(2)"><rect width="1" height="1"/></g></svg>')


def test_rings_in_rings():
    def square(low, high):
        return [(low, low), (high, low), (high, high), (low, high)]

    rings = [square(3, 7), square(0, 10), square(20, 30), square(4, 6), square(22, 23)]
    polygons = [Polygon(each[0], each[1:]) for each in nested(rings)]
    assert sorted(polygon.area for polygon in polygons) == [4, 84, 99]
    assert nested([]) == []
    # a negative region is cut out of what it lies in or crosses; an island within it stays
    cut = with_negatives([square(0, 10), square(4, 6), square(20, 30)], [square(3, 7), square(25, 40), square(90, 99)])
    areas = [shapely.make_valid(Polygon(each[0], each[1:]), method="structure").area for each in cut]
    assert areas == [84, 4, 75]
