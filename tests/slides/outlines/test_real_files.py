"""Files that real programs wrote: what is read is what an independent look at them gives."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter

import numpy as np
import pytest
import shapely
from shapely import Polygon

from helpers.data import DATA, needs_data
from vitrail.errors import AnnotationError
from vitrail.slides.annotations import ClassNames, mend_areas, names_found, read_annotations
from vitrail.slides.outlines.convert import convert_outlines
from vitrail.slides.outlines.formats import read_outlines

FILES = DATA / "annotations"
NAMES = (
    "asap_camelyon17_patient_004_node_4.xml", "asap_mixed.xml", "asap_rectangles.xml", "asap_spline.xml",
    "halo_layers.annotations", "halo_types.annotations", "imagescope.xml", "qupath05.geojson", "v7darwin.json",
    "puma_metastatic_roi_010_nuclei.geojson", "puma_metastatic_roi_074_nuclei.geojson",
    "puma_metastatic_roi_102_nuclei.geojson", "puma_primary_roi_103_nuclei.geojson",
)  # fmt: skip
pytestmark = needs_data(*(f"annotations/{name}" for name in NAMES))


def tree(name):
    return ET.parse(FILES / name).getroot()  # noqa: S314 - our own files


def corners(element, tag):
    return [(float(each.get("X")), float(each.get("Y"))) for each in element.iter(tag)]


def areas(name):
    file = read_outlines(FILES / name)
    return [(feature.name, feature.is_area and file.area(feature).area) for feature in file.features]


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("asap")])
def test_asap(name):
    drawn = tree(name).findall("./Annotations/Annotation")
    found = areas(name)
    assert [each for each, _ in found] == [each.get("PartOfGroup") for each in drawn]
    for (_, area), each in zip(found, drawn, strict=True):
        ring = corners(each, "Coordinate")
        if each.get("Type") in {"Polygon", "Rectangle"}:
            assert area == pytest.approx(Polygon(ring).area, rel=1e-12)
        elif each.get("Type") == "Spline":  # through its corners, near its polygon
            assert area == pytest.approx(Polygon(ring).area, rel=0.05)
            assert area != pytest.approx(Polygon(ring).area, rel=1e-6)
        else:
            assert area is False


def test_a_spline_passes_through_its_corners():
    feature = next(f for f in read_outlines(FILES / "asap_spline.xml").features if f.index == 0)
    drawn = {tuple(point) for point in shapely.get_coordinates(feature.area())}
    assert set(corners(tree("asap_spline.xml").find("./Annotations/Annotation"), "Coordinate")) <= drawn


def test_halo_layers():
    found = read_outlines(FILES / "halo_layers.annotations")
    by_layer, expected = Counter(), Counter()
    for feature in found.features:
        ((area, _),) = mend_areas(FILES, [found.area(feature)])
        by_layer[feature.name] += area.area
    for layer in tree("halo_layers.annotations"):
        shapes = {"0": [], "1": []}
        for region in layer.iter("Region"):
            ring = np.array(corners(region, "V"))
            if region.get("Type") == "Polygon":
                shape = shapely.make_valid(Polygon(ring), method="structure", keep_collapsed=False)
            elif region.get("Type") in {"Rectangle", "Ellipse"}:
                shape = shapely.box(*ring.min(axis=0), *ring.max(axis=0))
                if region.get("Type") == "Ellipse":
                    (x, y), (rx, ry) = ring.mean(axis=0), np.ptp(ring, axis=0) / 2
                    circle = shapely.Point(0, 0).buffer(1, quad_segs=400)
                    shape = shapely.transform(circle, lambda p: p * (rx, ry) + (x, y))  # noqa: B023 - at once
            else:
                continue
            shapes[region.get("NegativeROA")].append(shape)
        cut = shapely.union_all(shapes["1"])
        expected[layer.get("Name")] = sum(shape.difference(cut).area for shape in shapes["0"])
    assert {name for name in by_layer if by_layer[name]} == {name for name in expected if expected[name]}
    for name, area in by_layer.items():
        assert area == pytest.approx(expected[name], rel=1e-3), name
    assert names_found(FILES / "halo_layers.annotations") == Counter(f.name for f in found.features if f.is_area)


def test_halo_types():
    rectangle, ellipse, ruler, polygon, pin, line = (area for _, area in areas("halo_types.annotations"))
    assert rectangle == (27900 - 16121) * (57423 - 45644)
    assert ellipse == pytest.approx(np.pi * (11592 - 2154) * (63840 - 54402) / 4, rel=1e-4)
    assert (ruler, pin, line) == (False, False, False)
    assert polygon == pytest.approx(Polygon(corners([*tree("halo_types.annotations").iter("Region")][3], "V")).area)


def test_imagescope():
    regions = [*tree("imagescope.xml").iter("Region")]
    found = areas("imagescope.xml")
    assert [name for name, _ in found] == [region.get("Text") for region in regions]
    for (_, area), region in zip(found, regions, strict=True):
        ring = corners(region, "Vertex")
        if region.get("GeoShape") == "Points":
            assert area is False
        elif region.get("GeoShape") == "Ellipse":
            width, height = np.ptp(ring, axis=0)
            assert area == pytest.approx(np.pi * width * height / 4, rel=1e-3)
        else:
            assert area == pytest.approx(Polygon(ring).area, rel=1e-12)


def test_darwin():
    annotations = json.loads((FILES / "v7darwin.json").read_text())["annotations"]
    found = areas("v7darwin.json")
    assert [name for name, _ in found] == [each["name"] for each in annotations]
    for (_, area), each in zip(found, annotations, strict=True):
        if "keypoint" in each:
            assert area is False
        elif "polygon" in each:
            rings = [Polygon([(p["x"], p["y"]) for p in path]) for path in each["polygon"]["paths"]]
            expected = rings[0]
            for ring in rings[1:]:
                expected = expected.symmetric_difference(ring)
            assert area == pytest.approx(expected.area, rel=1e-9)
        else:
            assert area == pytest.approx(each["bounding_box"]["w"] * each["bounding_box"]["h"])
    with pytest.raises(AnnotationError, match=r"V7 Darwin JSON: it has a raster layer, which is not read"):
        read_outlines(FILES / "v7darwin_raster.json")


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("geojson")])
def test_qupath(name):
    features = json.loads((FILES / name).read_text())
    features = features["features"] if isinstance(features, dict) else features
    expected = []
    for each in features:
        label = each["properties"].get("classification", {}).get("name")
        expected.append((label, shapely.geometry.shape(each["geometry"]).area))
    found = areas(name)
    assert [label for label, _ in found] == [label for label, _ in expected]
    assert [area for _, area in found] == pytest.approx([area for _, area in expected])


def test_a_file_of_asap_opens_in_qupath_and_imagescope(tmp_path):
    """What a pathologist drew in ASAP, through ImageScope and GeoJSON, is the same metastasis."""
    source = FILES / "asap_camelyon17_patient_004_node_4.xml"
    names = ClassNames(tumor=("Tumor",), non_tumor=(), ignore=())
    assert convert_outlines(source, tmp_path / "a", "imagescope")[0] == 3
    assert convert_outlines(tmp_path / "a", tmp_path / "b", "qupath")[0] == 3
    assert json.loads((tmp_path / "b").read_text())["features"][0]["properties"]["objectType"] == "annotation"
    assert shapely.equals(read_annotations(tmp_path / "b", names).tumor, read_annotations(source, names).tumor)
