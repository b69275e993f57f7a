"""Outlines in every shape that QuPath writes, and their pixels."""

from __future__ import annotations

import itertools
import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shapely import MultiPolygon, Polygon

from helpers.data import DATA, needs_data
from vitrail.classes import TissueClass
from vitrail.errors import AnnotationError, SettingsError
from vitrail.geometry import Region
from vitrail.slides import annotations
from vitrail.slides.annotations import Annotation, Annotations, ClassNames, names_found, read_annotations
from vitrail.slides.rasterize import covered, rasterize

NAMES = ClassNames(tumor=("Tumor",), non_tumor=("Non-tumor", "Stroma"), ignore=("Ignore*", "Tumor: Doubtful"))
TUMOR, NON_TUMOR = TissueClass.TUMOR, TissueClass.NON_TUMOR


def square(left, top, side):
    right, bottom = left + side, top + side
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def feature(classification="Tumor", geometry=None, **properties):
    if isinstance(classification, str):
        classification = {"name": classification, "color": [200, 0, 0]}
    if classification is not None:
        properties = {"classification": classification, **properties}
    geometry = polygon(square(0, 0, 10)) if geometry is None else geometry
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation", **properties}}


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "P01.geojson"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


@pytest.fixture
def read(write):
    return lambda content: read_annotations(write(content), NAMES)


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


@pytest.mark.parametrize("wrap", [collection, lambda one: [one], lambda one: one], ids=["collection", "list", "single"])
def test_all_kinds_of_file(read, wrap):
    found = read(wrap(feature()))
    (only,) = found.outlines
    assert only.label is TUMOR
    assert shapely.equals(only.geometry, shapely.box(0, 0, 10, 10))
    assert found.warnings == ()
    assert found.area(TUMOR) == 100


def test_a_byte_order_mark_and_accents(write):
    path = write("\ufeff" + json.dumps([feature("Tumeur é")], ensure_ascii=False))
    names = ClassNames(tumor=("tumeur É",), non_tumor=(), ignore=())
    assert len(read_annotations(path, names).outlines) == 1


def test_a_million_tiles_need_little_memory(write):
    """What is kept of a tile is less than a fiftieth of its text."""
    tile = feature(None, measurements={f"m{n}": n / 7 for n in range(20)}, objectType="tile")
    path = write([feature(), *[tile] * 2000, feature("Stroma")])
    tracemalloc.start()
    found = read_annotations(path, NAMES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [outline.label for outline in found.outlines] == [TUMOR, NON_TUMOR]
    assert peak < 2.2 * path.stat().st_size


def test_children_are_found_in_their_parents(write):
    path = write([feature(childObjects=[feature("Stroma", children=[feature("Ignore*")])])])
    assert names_found(path) == {"Tumor": 1, "Stroma": 1, "Ignore*": 1}


@pytest.mark.parametrize(
    ("geometry", "area", "kind"),
    [
        (polygon(square(0, 0, 10), square(2, 2, 4)), 84, "Polygon"),
        (polygon([[0, 0, 5], [10, 0, 5], [10, 10, 5]]), 50, "Polygon"),
        ({"type": "MultiPolygon", "coordinates": [[square(0, 0, 10), square(2, 2, 4)], [square(20, 0, 3)]]}, 93, None),
        ({"type": "MultiPolygon", "coordinates": [[square(0, 0, 10)]]}, 100, "Polygon"),
        (
            {
                "type": "GeometryCollection",
                "geometries": [
                    polygon(square(0, 0, 2)),
                    {"type": "Point", "coordinates": [1, 1]},
                    {"type": "MultiPolygon", "coordinates": [[square(5, 5, 3)]]},
                ],
            },
            13,
            None,
        ),
    ],
)
def test_all_kinds_of_geometry(read, geometry, area, kind):
    found = read([feature(geometry=geometry)])
    assert found.area(TUMOR) == area
    assert found.outlines[0].geometry.geom_type == (kind or "MultiPolygon")
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("classification", "name"),
    [
        ({"name": "Tumor", "color": [200, 0, 0]}, "Tumor"),
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, "Tumor: Positive"),
        ({"name": "Tumor: Positive", "colorRGB": -3670016}, "Tumor: Positive"),
        ({"name": "Stroma", "colorRGB": -3670016}, "Stroma"),
        ({"colorRGB": -3670016}, "Tumor"),
        ({"color": [140, 220, 90]}, "Non-tumor"),
        ({"colorRGB": -16711936}, "#00ff00"),
        ({"parentClass": {"name": "Tumor", "colorRGB": -1}, "name": "Invasive", "colorRGB": -1}, "Tumor: Invasive"),
        ({"colorRGB": -3670016.0}, "Tumor"),
        ({"color": [140.0, 220.0, 90.0]}, "Non-tumor"),
        ({"names": "Tumor"}, "Tumor"),
        ({"names": [5, "Tumor", None]}, "Tumor"),
        ({"name": 5, "colorRGB": -3670016}, "Tumor"),
        (" Tumor ", "Tumor"),
        ({"name": "Tumor ", "color": [0, 0, 0]}, "Tumor"),
    ],
)
def test_all_kinds_of_class(write, classification, name):
    one = feature(None)
    one["properties"]["classification"] = classification
    assert names_found(write([one])) == {name: 1}


def test_names_are_counted_in_the_order_of_the_file(write):
    path = write([feature("Stroma"), feature("Odd"), feature("Stroma"), feature(None), feature(objectType="cell")])
    assert list(names_found(path).items()) == [("Stroma", 2), ("Odd", 1)]


def test_the_label_of_a_name():
    assert NAMES.label_of("  tUMOR ") is TUMOR
    assert NAMES.label_of("non-tumor") is NON_TUMOR
    assert NAMES.label_of("Tumor: Invasive: Deep") is TUMOR
    assert NAMES.label_of("Tumor:  doubtful") is None
    assert NAMES.label_of("Tumor: doubtful: very") is None
    assert NAMES.label_of("ignore*") is None
    with pytest.raises(KeyError, match="Invasive: Tumor"):
        NAMES.label_of("Invasive: Tumor")
    assert not NAMES.knows("Tumo")


def test_a_name_has_one_meaning():
    with pytest.raises(SettingsError, match="'tumor ' is in two lists"):
        ClassNames(tumor=("Tumor",), non_tumor=(), ignore=("tumor ",))
    assert ClassNames(tumor=("Tumor", "TUMOR"), non_tumor=(), ignore=()).knows("tumor")


@pytest.mark.parametrize("kind", ["detection", "cell", "tile", "tmaCore", "root", "PathCellObject"])
def test_what_is_not_an_annotation_is_passed_over(read, kind):
    found = read([feature(), feature("Unheard of", objectType=kind)])
    assert len(found.outlines) == 1
    assert found.warnings == ()


def test_version_02_wrote_the_type_as_the_id(read):
    old = feature("Unheard of") | {"id": "PathDetectionObject"}
    del old["properties"]["objectType"]
    new = feature() | {"id": "4a1e9f3c-2d75-4a86-9e0c-3a8e6a7f1b11"}
    del new["properties"]["objectType"]
    assert len(read([old, new, feature() | {"id": "PathAnnotationObject"}]).outlines) == 2


def test_a_feature_without_properties_has_no_class(read):
    assert read([feature(), feature() | {"properties": None}]).warnings == (
        "P01.geojson: 1 outline without a class was left out",
    )


def test_ignored_classes_leave_without_a_word(read):
    assert read([feature("Ignore*"), feature()]).warnings == ()
    only = read([feature("Ignore*")])
    assert only.outlines == ()
    assert only.warnings == ("P01.geojson: no outline of tumor or non-tumor is left",)
    assert only.area(TUMOR) == only.area(NON_TUMOR) == 0


def test_ignored_outlines_are_cut_out_of_those_around_them(read):
    around, necrosis = polygon(square(0, 0, 20)), polygon(square(5, 5, 10), square(9, 9, 2))
    found = read(
        [feature("Ignore*", necrosis), feature("Tumor", around), feature("Stroma", polygon(square(-10, 0, 40)))]
    )
    hole = shapely.box(5, 5, 15, 15).difference(shapely.box(9, 9, 11, 11))
    assert shapely.equals(found.tumor, shapely.box(0, 0, 20, 20).difference(hole))
    assert found.non_tumor.intersection(hole).area == 0
    assert (found.area(TUMOR), found.area(NON_TUMOR)) == (400 - 96, 1600 - 400)
    assert found.warnings == ()


def test_what_is_drawn_inside_an_ignored_outline_stays(read):
    necrosis, island, across = square(5, 5, 10), square(8, 8, 3), square(12, 12, 8)
    drawn = [feature("Tumor", polygon(ring)) for ring in (square(0, 0, 20), island, across)]
    found = read([*drawn, feature("Tumor: Doubtful", polygon(necrosis))])
    expected = shapely.box(0, 0, 20, 20).difference(shapely.box(5, 5, 15, 15)).union(shapely.box(8, 8, 11, 11))
    assert shapely.equals(found.tumor, expected)
    assert [outline.geometry.area for outline in found.outlines] == [300, 9, 64 - 9]


def test_what_several_ignored_outlines_cover_is_gone(read):
    halves = [feature("Ignore*", polygon(square(left, 0, 10))) for left in (0, 10)]
    found = read([*halves, feature("Tumor", polygon(square(5, 2, 6))), feature("Stroma", polygon(square(30, 0, 2)))])
    assert [outline.label for outline in found.outlines] == [NON_TUMOR]
    only = read([*halves, feature("Tumor", polygon(square(5, 2, 6)))])
    assert only.warnings == ("P01.geojson: no outline of tumor or non-tumor is left",)


@given(st.lists(st.tuples(st.sampled_from(["Tumor", "Stroma", "Ignore*"]), st.integers(0, 20), st.integers(0, 20),
                          st.integers(1, 12)), min_size=1, max_size=8))  # fmt: skip
@settings(max_examples=60)
def test_pixels_are_annotated_unless_ignored_from_within(tmp_path_factory, drawn):
    """Squares on whole pixels: every pixel is what the outlines around its centre say, one by one."""
    path = tmp_path_factory.mktemp("drawn") / "P01.geojson"
    path.write_text(json.dumps([feature(name, polygon(square(*place))) for name, *place in drawn]))
    found = read_annotations(path, NAMES)
    region, grid = Region(x=0, y=0, width=32, height=32), np.arange(32) + 0.5
    marks = [((grid > x) & (grid < x + side), (grid > y) & (grid < y + side)) for _, x, y, side in drawn]
    areas = [(name, rows[:, None] & columns) for (name, *_), (columns, rows) in zip(drawn, marks, strict=True)]
    ignored = [area for name, area in areas if name == "Ignore*"]
    for label, key in ((TUMOR, "Tumor"), (NON_TUMOR, "Stroma")):
        expected = np.zeros((32, 32), bool)
        for name, area in areas:
            if name == key:
                holes = [hole for hole in ignored if (area & ~hole).any()]
                expected |= area & ~np.any([np.zeros((32, 32), bool), *holes], axis=0)
        union = found.tumor if label is TUMOR else found.non_tumor
        np.testing.assert_array_equal(rasterize(union, region, (32, 32)), expected)


def test_points_lines_and_unclassed_outlines_are_warned_of(read):
    point = {"type": "Point", "coordinates": [1, 1]}
    line = {"type": "LineString", "coordinates": [[1, 1], [2, 2]]}
    bare = feature() | {"geometry": None}
    found = read([feature("Never heard", point), feature("Tumor", line), bare, feature(None), feature()])
    assert len(found.outlines) == 1
    assert found.warnings == (
        "P01.geojson: 3 objects without an area (points, lines) were left out",
        "P01.geojson: 1 outline without a class was left out",
    )


def test_an_outline_that_crosses_itself_is_mended(read):
    bow = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
    found = read([feature(geometry=polygon(bow)), feature(geometry=polygon([[p[0] + 30, p[1]] for p in bow]))])
    assert found.area(TUMOR) == pytest.approx(100)
    assert all(one.geometry.is_valid for one in found.outlines)
    assert found.warnings == ("P01.geojson: 2 outlines crossed themselves and were mended",)


def test_loops_and_overlapping_parts_are_filled(read):
    looped = [[0, 0], [10, 0], [10, 10], [4, 10], [4, -4], [6, -4], [6, 12], [0, 12]]
    assert read([feature(geometry=polygon(looped))]).outlines[0].geometry.contains(shapely.Point(5, 5))
    overlapping = {"type": "MultiPolygon", "coordinates": [[square(0, 0, 10)], [square(5, 0, 10)]]}
    assert read([feature(geometry=overlapping)]).area(TUMOR) == 150


def test_outlines_that_enclose_nothing_are_left_out(read):
    flat = [polygon([[0, 0], [5, 5], [9, 9], [0, 0]]), polygon([[1, 1], [2, 2]]), polygon([]), polygon([])]
    found = read([feature(), *(feature(geometry=one) for one in flat)])
    assert len(found.outlines) == 1
    assert found.warnings == ("P01.geojson: 4 outlines that enclose nothing were left out",)


def test_tumor_wins_where_labels_overlap():
    outlines = [
        Annotation(label=TUMOR, geometry=shapely.box(0, 0, 10, 10)),
        Annotation(label=TUMOR, geometry=shapely.box(5, 0, 15, 10)),
        Annotation(label=NON_TUMOR, geometry=shapely.box(10, 0, 30, 10)),
    ]
    found = Annotations(outlines=tuple(outlines))
    assert (found.area(TUMOR), found.area(NON_TUMOR)) == (150, 150)
    assert isinstance(found.tumor, MultiPolygon)
    assert found.non_tumor.area == 200
    assert found.tumor is found.tumor
    with pytest.raises(ValueError, match="other is never outlined"):
        found.area(TissueClass.OTHER)


def test_an_unknown_class_names_the_cure(read):
    pattern = r"P01\.geojson: unknown class Gland, Fat; the file has Tumor \(1\), Gland \(2\), Fat \(1\)\. "
    with pytest.raises(AnnotationError, match=pattern + r"Add them to \[annotations\] tumor, non_tumor or ignore in"):
        read([feature(), feature("Gland"), feature("Gland"), feature("Fat")])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "empty file"),
        (" \n", "empty file"),
        ('{"type": "FeatureColl', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("3", "without GeoJSON features"),
        ({"hello": "world"}, "without GeoJSON features"),
        ([1, 2], "holds '1' where a feature is due"),
        ([], "no outlines"),
        (collection(), "no outlines"),
        ([feature(objectType="cell")], "no outlines"),
        ([feature({"names": 5})], r"feature 0 \(counted from 0\): the names of its class are '5', not a list"),
        ([feature({"names": {"a": 1}})], "the names of its class are"),
        ([feature({"color": [1.5, 0, 0]})], "no outline has a class"),
        ([feature({"colorRGB": float("inf")})], "no outline has a class"),
        ([feature(childObjects=5)], "holds '5' where a list of child objects is due"),
        ([feature(children={"a": 1})], "where a list of child objects is due"),
        ([feature(None)], "no outline has a class"),
        (polygon(square(0, 0, 1)), "bare Polygon without a classification"),
    ],
)
def test_files_that_cannot_be_understood(read, content, problem):
    with pytest.raises(AnnotationError, match=r"P01\.geojson: .*" + problem):
        read(content)


@pytest.mark.parametrize(
    "geometry",
    [
        polygon([["a", 0], [1, 1], [0, 1]]),
        polygon([["0", "0"], ["1", "1"], ["0", "1"]]),
        polygon([[0, 0], [1, None], [0, 1]]),
        polygon([[0, 0], [1], [0, 1]]),
        polygon([[0, 0], [float("nan"), 1], [0, 1]]),
        polygon([[0, 0], [float("inf"), 1], [0, 1]]),
        polygon([[0, 0], [-1.1e9, 1], [0, 1]]),
        polygon([[0, 0], [10**30, 1], [0, 1]]),
        polygon([0, 1, 2, 3]),
        polygon(5),
        {"type": "Polygon", "coordinates": 5},
        {"type": "Polygon"},
        {"coordinates": []},
        "nonsense",
    ],
)
def test_malformed_coordinates_name_the_feature(read, geometry):
    with pytest.raises(AnnotationError, match=r"P01\.geojson: feature 1 \(counted from 0\): its"):
        read([feature(), feature(geometry=geometry)])


def test_a_missing_file(tmp_path):
    with pytest.raises(AnnotationError, match=r"gone\.geojson: no such file"):
        names_found(tmp_path / "gone.geojson")


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    def denied(*_args, **_more):
        raise PermissionError(13, "Permission denied")

    with pytest.raises(AnnotationError, match="a folder, not a file"):
        read_annotations(tmp_path, NAMES)
    (tmp_path / "P01.geojson").touch()
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(AnnotationError, match=r"cannot be opened \(Permission denied\)"):
        read_annotations(tmp_path / "P01.geojson", NAMES)


def test_a_chain_of_parent_classes_without_end(write):
    chain = {"name": "Tumor"}
    for _ in range(900):
        chain = {"name": "Tumor", "parentClass": chain}
    try:
        found = names_found(write([feature(chain)]))
    except AnnotationError as error:
        assert "\n" not in str(error)  # noqa: PT017 - how deep is too deep is Python's choice
    else:
        assert list(found) == [": ".join(["Tumor"] * 901)]


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "P01.geojson"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(AnnotationError, match="not valid JSON"):
        names_found(path)


@needs_data("orca/annotations")
def test_real_outlines():
    path = min((DATA / "orca" / "annotations").iterdir())
    found = read_annotations(path, NAMES)
    assert len(found.outlines) == sum(names_found(path).values())
    assert 0 < found.area(TUMOR) < 512 * 512


def star(rng, centre, radius, points):
    """A polygon with one hole, its corners off every grid."""
    angles = np.sort(rng.random(points)) * 2 * np.pi
    radii = radius * (0.55 + 0.45 * rng.random(points))
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    return Polygon(ring + centre, [(0.4 * ring + centre)[::-1]])


def centres(region, size):
    x = region.x + (np.arange(size[0]) + 0.5) * region.width / size[0]
    y = region.y + (np.arange(size[1]) + 0.5) * region.height / size[1]
    return np.meshgrid(x, y)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 40), st.integers(1, 40), st.integers(1, 40))
def test_pixels_agree_with_shapely(seed, points, width, height):
    rng = np.random.default_rng(seed)
    outline = star(rng, np.array([50.0, 40.0]) + rng.random(2) * np.pi, 45 * np.sqrt(2), points)
    assume(outline.is_valid)  # five corners may leave the centre, and with it the hole, outside
    x, y, extent = rng.uniform(-40, 90), rng.uniform(-40, 90), rng.uniform(3, 120, 2)
    region = Region(x=x, y=y, width=extent[0], height=extent[1])
    painted = rasterize(outline, region, (width, height))
    assert painted.shape == (height, width)
    assert np.array_equal(painted, shapely.contains_xy(outline, *centres(region, (width, height))))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_neighbours_leave_no_gap_and_no_overlap(seed):
    rng = np.random.default_rng(seed)
    inner = Polygon(rng.permutation(np.array([(4, 3), (20, 5), (17, 21), (2, 17)]))).convex_hull
    frame = shapely.box(-0.5, -0.5, 25, 25)
    region = Region(x=0.5, y=0.5, width=24, height=24)  # corners and edges fall on pixel centres
    both = [rasterize(part, region, (24, 24)) for part in (inner, frame.difference(inner))]
    assert np.array_equal(both[0], ~both[1])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 31))
def test_tiles_join_to_the_whole(seed, cut):
    outline = star(np.random.default_rng(seed), np.array([16.1, 15.7]), 14, 12)
    whole = rasterize(outline, Region(x=0, y=0, width=32, height=32), (32, 32))
    left = rasterize(outline, Region(x=0, y=0, width=cut, height=32), (cut, 32))
    right = rasterize(outline, Region(x=cut, y=0, width=32 - cut, height=32), (32 - cut, 32))
    assert np.array_equal(np.hstack([left, right]), whole)


def test_a_square_on_the_grid_is_painted_exactly():
    painted = rasterize(shapely.box(2, 1, 6, 4), Region(x=0, y=0, width=8, height=6), (8, 6))
    assert painted.sum() == 12
    assert painted[1:4, 2:6].all()


def test_overlapping_polygons_are_all_inside():
    both = MultiPolygon([shapely.box(0, 0, 6, 6), shapely.box(3, 3, 9, 9)])
    assert rasterize(both, Region(x=0, y=0, width=9, height=9), (9, 9)).sum() == 36 + 36 - 9


def test_nothing_is_painted_without_an_outline():
    region = Region(x=0, y=0, width=4, height=4)
    assert not rasterize(MultiPolygon(), region, (4, 4)).any()
    assert not rasterize(Polygon(), region, (4, 4)).any()
    assert not rasterize(shapely.box(5, 0, 9, 4), region, (4, 4)).any()
    assert rasterize(shapely.box(-5, -5, 9, 9), region, (4, 4)).all()
    with pytest.raises(ValueError, match="at least one pixel"):
        rasterize(Polygon(), region, (0, 4))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 40))
def test_spans_are_filled_alike_one_by_one_and_together(seed, points):
    outline = star(np.random.default_rng(seed), np.array([20.0, 15.0]), 30, points)
    region, painted = Region(x=0, y=0, width=40, height=30), []
    for span_px in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vitrail.slides.rasterize._SPAN_PX", span_px)
            painted.append(rasterize(outline, region, (47, 33)))
    assert np.array_equal(*painted)


def test_what_is_filled_and_what_is_touched_is_known_without_painting():
    both = MultiPolygon([shapely.box(0, 0, 6, 6).difference(shapely.box(1, 4, 2, 5)), shapely.box(4, 0, 9, 9)])
    boxes = shapely.box([0, 0, 5, 20], [0, 3, 0, 0], [3, 3, 9, 22], [3, 6, 9, 3])
    full, touched = covered(both, boxes)
    assert full.tolist() == [True, False, True, False]
    assert touched.tolist() == [True, True, True, False]


def test_a_long_outline_is_painted_quickly():
    angles = np.linspace(0, 2 * np.pi, 50_000, endpoint=False)
    radii = 5000 * (1 + 0.3 * np.sin(7 * angles) + 0.001 * np.sin(9000 * angles))
    outline = Polygon(np.stack([11_000 + 2 * radii * np.cos(angles), 5000 + radii * np.sin(angles)], axis=1))
    strip = Region(x=0.3, y=5000.2, width=22_400, height=224)
    start = time.process_time()
    painted = rasterize(outline, strip, (22_400, 224))
    spent = time.process_time() - start
    assert painted.sum() == pytest.approx(
        outline.intersection(shapely.box(0.3, 5000.2, 22_400.3, 5224.2)).area, rel=1e-3
    )
    assert spent < 1.0  # about 0.03 s; the limit is for crowded machines


def tangle(corners, seed=0):
    """An outline whose sides cross each other about corners squared over nine times."""
    ring = np.random.default_rng(seed).integers(0, 10_000, (corners, 2)).tolist()
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}


def comb(along):
    """A valid outline of 300 teeth, along one of the two axes."""
    side = [[0, -10], *([x, y] for i in range(300) for x, y in ((4 * i, 1200), (4 * i + 2, 1200), (4 * i + 2, 0)))]
    ring = [point[::along] for point in [*side, [1200, -10], side[0]]]
    return {"type": "Polygon", "coordinates": [ring]}


def test_outlines_that_cross_thousands_of_times_are_mended(read):
    outline = read([feature(geometry=tangle(250))])
    shape = outline.outlines[0].geometry
    assert "crossed itself" in outline.warnings[0]
    assert shapely.is_valid(shape)
    hull = shapely.convex_hull(shapely.geometry.shape(tangle(250)))
    assert 0.5 * hull.area < shape.area < hull.area


@pytest.mark.parametrize("drawn", [[tangle(3000)], [tangle(250, seed) for seed in range(6)], [comb(1), comb(-1)]])
def test_outlines_that_would_take_minutes_to_mend_are_refused(read, drawn, monkeypatch):
    monkeypatch.setattr(shapely, "make_valid", None)
    monkeypatch.setattr(shapely, "union_all", None)
    with pytest.raises(AnnotationError, match=r"P01\.geojson: its outlines cross .* more than 20,000 times\. Draw"):
        read([feature(geometry=one) for one in drawn])


def test_crossings_are_counted_as_a_loop_over_pairs_of_sides_does(read, monkeypatch):
    polygon = shapely.geometry.shape(tangle(40))
    sides = [shapely.LineString(pair) for pair in itertools.pairwise(polygon.exterior.coords)]
    meet = sum(one.intersects(other) for one in sides for other in sides)
    monkeypatch.setattr(annotations, "_NEIGHBOURS", 0)
    monkeypatch.setattr(annotations, "MOST_CROSSINGS", meet // 2)
    assert read([feature(geometry=tangle(40))]).outlines
    monkeypatch.setattr(annotations, "MOST_CROSSINGS", meet // 2 - 1)
    with pytest.raises(AnnotationError, match="cross themselves and each other more than"):
        read([feature(geometry=tangle(40))])


def test_many_outlines_side_by_side_are_not_taken_for_crossing_ones(read):
    cells = [
        {"type": "Polygon", "coordinates": [[[x, y], [x + 9, y], [x + 9, y + 9], [x, y + 9], [x, y]]]}
        for x in range(0, 450, 9)
        for y in range(0, 450, 9)
    ]
    assert read([feature(geometry=cell) for cell in cells]).area(TissueClass.TUMOR) == 202_500


def test_more_corners_than_any_outline_has_are_refused(read, monkeypatch):
    monkeypatch.setattr(annotations, "MOST_CORNERS", 100)
    with pytest.raises(AnnotationError, match="its outlines have 251 corners, more than 100"):
        read([feature(geometry=tangle(250))])
