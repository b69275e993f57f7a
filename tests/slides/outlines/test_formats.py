"""Every format is known by what it holds, says what is wrong with it, and lies where its program drew it."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from collections import Counter
from urllib.parse import quote

import geopandas
import numpy as np
import pytest
import shapely

from helpers.cohort import write_tiff
from helpers.outlines import (
    COCO,
    CSV,
    DSA,
    FRAGMENT,
    RING,
    SPECIMENS,
    SVG,
    WKT,
    asap,
    halo,
    made_up_slide,
    vertices,
    web,
)  # fmt: skip
from vitrail.errors import AnnotationError
from vitrail.geometry import Region
from vitrail.slides import slide as slide_module
from vitrail.slides.annotations import ClassNames, mend_areas, names_found, read_annotations
from vitrail.slides.outlines import features, xml
from vitrail.slides.outlines.convert import WRITABLE, write_outlines
from vitrail.slides.outlines.features import MalformedError
from vitrail.slides.outlines.formats import FORMATS, files_of, read_outlines
from vitrail.slides.outlines.rle import mask_polygons, unpack
from vitrail.slides.outlines.wellknown import wkb_polygons
from vitrail.slides.outlines.writing import Outline

CASES = [(key, one) for key, specimens in SPECIMENS.items() for one in specimens]
NAMES = ClassNames(tumor=("Tumor",), non_tumor=("Stroma",), ignore=())


def save(path, content):
    content = content if isinstance(content, str) else json.dumps(content)
    path.write_text(content, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(("key", "content"), CASES, ids=[f"{key}{i}" for i, (key, _) in enumerate(CASES)])
def test_a_format_is_known_by_what_it_holds(key, content, tmp_path):
    """The name of the file says nothing."""
    path, slide = save(tmp_path / "outlines.txt", content), made_up_slide(tmp_path / "slide.svs")
    file = read_outlines(path, slide)
    assert file.format == key
    read = read_annotations(path, NAMES, slide)
    assert read.tumor.area == pytest.approx(12_000)
    assert read.tumor.bounds == pytest.approx((100, 200, 300, 260))
    assert read.warnings == ()
    assert names_found(path) == {"Tumor": 1}


def test_every_format_has_a_specimen():
    assert set(SPECIMENS) | {"geoparquet", "qupath-project"} == set(FORMATS)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(encoding, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(SPECIMENS["halo"][0].encode(encoding))
    assert read_outlines(path).format == "halo"
    (tmp_path / "y").write_bytes(json.dumps(COCO).encode(encoding))
    assert read_outlines(tmp_path / "y").format == "coco"


@pytest.mark.parametrize(("key", "content"), CASES, ids=[f"{key}{i}" for i, (key, _) in enumerate(CASES)])
def test_outlines_lie_where_the_program_drew_them(key, content, tmp_path):
    """A slide whose bounds begin at (1000, 300): QuPath and ImageScope count from there, HALO from its 256 pixels."""
    path = save(tmp_path / "outlines", content)
    slide = made_up_slide(tmp_path / "slide.svs", x=1000, y=300, size=(2000, 1500), frame=(5000, 4000))
    left, top = {"bounds": (100, 200), "file": (-900, -100), "halo": (100 - 1000 % 256, 200 - 300 % 256)}[
        FORMATS[key].frame
    ]
    bounds = left, top, left + 200, top + 60
    if "percent" in str(content):
        bounds = 500 - 1000, 1000 - 300, 1500 - 1000, 1300 - 300
    elif key == "cytomine":  # y counts from the bottom of the whole frame, which is 4000 pixels high, not 800
        bounds = left, top + 3200, left + 200, top + 3260
    assert read_annotations(path, NAMES, slide).tumor.bounds == pytest.approx(bounds)


@pytest.mark.parametrize("key", WRITABLE)
def test_what_is_written_lies_where_it_was(key, tmp_path):
    slide = made_up_slide(tmp_path / "slide.mrxs", x=1000, y=300, size=(2000, 1500), frame=(5000, 4000))
    write_outlines(tmp_path / "x", [Outline(name="Tumor", area=shapely.box(5, 6, 70, 80))], key, slide)
    assert read_annotations(tmp_path / "x", NAMES, slide).tumor.bounds == (5, 6, 70, 80)
    alone = {"bounds": (5, 6), "file": (1005, 306), "halo": (5 + 1000 % 256, 6 + 300 % 256)}[FORMATS[key].frame]
    assert read_annotations(tmp_path / "x", NAMES).tumor.bounds[:2] == alone


def test_outlines_are_over_the_tissue_that_they_were_drawn_on(tmp_path, monkeypatch):
    """A slide of 400 x 300 pixels whose header says that 200 x 150 of them, from (120, 90) on, were scanned."""
    pixels = np.full((300, 400, 3), 250, np.uint8)
    pixels[130:170, 200:260] = (110, 70, 150)  # tumor
    slide_file = write_tiff(tmp_path / "slide.tif", pixels, mpp=0.5)
    properties = slide_module.properties_of
    bounds = {"openslide.bounds-x": "120", "openslide.bounds-y": "90"}
    bounds |= {"openslide.bounds-width": "200", "openslide.bounds-height": "150"}
    monkeypatch.setattr(slide_module, "properties_of", lambda handle: {**properties(handle), **bounds})
    slide = slide_module.open_slide(slide_file)
    assert (slide.region.width, slide.full_size) == (200, (400, 300))
    tumor = shapely.box(200 - 120, 130 - 90, 260 - 120, 170 - 90)
    for key in WRITABLE:
        path = tmp_path / key
        write_outlines(path, [Outline(name="Tumor", area=tumor)], key, slide)
        left, top, right, bottom = read_annotations(path, NAMES, slide).tumor.bounds
        region = Region(x=left, y=top, width=right - left, height=bottom - top)
        assert (slide_module.read_region(slide, region, (60, 40)) == (110, 70, 150)).all(), key
    flipped = [(x, 300 - y) for x, y in ((200, 130), (260, 130), (260, 170), (200, 170))]
    wkt = shapely.Polygon(flipped).wkt
    cytomine = save(tmp_path / "c", [{"location": wkt, "term": [{"name": "Tumor"}]}])
    assert read_annotations(cytomine, NAMES, slide).tumor.bounds == tumor.bounds


def test_asap_groups_and_objects_without_an_area(tmp_path):
    groups = (
        '<AnnotationGroups><Group Name="invasive" PartOfGroup="Tumor"/><Group Name="Tumor" PartOfGroup="None"/>'
        '<Group Name="round" PartOfGroup="round"/></AnnotationGroups>'
    )
    objects = "".join(
        f'<Annotation Type="{kind}" PartOfGroup="{group}"><Coordinates>{RING}</Coordinates></Annotation>'
        for kind, group in (("Polygon", "invasive"), ("Dot", "Tumor"), ("PointSet", "Tumor"), ("Measurement", "None"),
                            ("Rectangle", "None"), ("Polygon", "round"))
    )  # fmt: skip
    path = save(tmp_path / "x", f"<ASAP_Annotations><Annotations>{objects}</Annotations>{groups}</ASAP_Annotations>")
    found = [(feature.name, feature.is_area) for feature in read_outlines(path).features]
    assert found == [
        ("Tumor: invasive", True), ("Tumor", False), ("Tumor", False), (None, False), (None, True), ("round", True),
    ]  # fmt: skip
    corners = [f"{corner}/>" for corner in RING.split("/>")[:-1]]  # in another order, which their numbers tell
    shuffled = save(tmp_path / "y", asap("".join(corners[i] for i in (2, 0, 3, 1))))
    assert read_annotations(shuffled, NAMES).tumor.area == 12_000


def test_negative_regions_are_holes(tmp_path):
    hole = [[120, 210], [140, 210], [140, 230], [120, 230]]
    for key in ("halo", "imagescope"):
        content = SPECIMENS[key][0]
        tag = "V" if key == "halo" else "Vertex"
        negative = (
            f'<Region Type="{"Polygon" if key == "halo" else "0"}" NegativeROA="1">{vertices(tag, hole)}</Region>'
        )
        path = save(tmp_path / key, content.replace("</Regions>", negative + "</Regions>"))
        assert read_annotations(path, NAMES).tumor.area == 12_000 - 400
        assert names_found(path) == {"Tumor": 1}


def test_shapes_of_the_digital_slide_archive(tmp_path):
    elements = [
        {"group": "Tumor", "type": "ellipse", "center": [0, 0, 0], "width": 400, "height": 200, "rotation": 0.3},
        {"group": "Tumor", "type": "circle", "center": [900, 0, 0], "radius": 100},
        DSA | {"holes": [[[120, 210, 0], [140, 210, 0], [140, 230, 0]]]},
        {"group": "Tumor", "type": "point", "center": [1, 2, 0]}, DSA | {"closed": False},
        {"type": "rectanglegrid", "center": [1, 2, 0], "width": 5, "height": 5, "rotation": 0},
        {"type": "heatmap", "points": [[1, 2, 0, 0.5]]},
    ]  # fmt: skip
    read = read_annotations(save(tmp_path / "x", {"elements": elements}), NAMES)
    areas = [outline.geometry.area for outline in read.outlines]
    assert areas == pytest.approx([np.pi * 20_000, np.pi * 10_000, 12_000 - 200], rel=0.01)
    assert read.outlines[0].geometry.bounds[2] == pytest.approx(np.hypot(200 * np.cos(0.3), 100 * np.sin(0.3)), abs=0.5)
    assert "4 objects without an area" in read.warnings[0]


def test_regions_of_slideflow_in_regions_are_holes(tmp_path):
    hole = "".join(f"r2,{x},{y},Tumor\n" for x, y in ((110, 210), (120, 210), (120, 220), (110, 220)))
    other = hole.replace("r2", "r3").replace("Tumor", "Stroma")
    read = read_annotations(save(tmp_path / "x", CSV + hole + other), NAMES)
    assert read.tumor.area == 12_000 - 100
    assert read.non_tumor.area == 100
    bare = CSV.replace(",label", "").replace(",Tumor", "")
    with pytest.raises(AnnotationError, match="no outline has a class"):
        read_annotations(save(tmp_path / "y", bare), NAMES)


def pack(counts):
    """Run lengths as COCO packs them into text: groups of 5 bits, lowest first, with sign and a bit for more."""
    text = ""
    for i, count in enumerate(counts):
        value = count - (counts[i - 2] if i > 2 else 0)
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


@pytest.mark.parametrize("seed", range(4))
def test_masks_of_coco(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((rng.integers(5, 60), rng.integers(5, 60)), np.uint8)
    spot = rng.random((mask.shape[0] - 4, mask.shape[1] - 4)) < (0.5, 0.9, 0.02, 1)[seed]
    mask[1:-3, 2:-2] = spot
    column = np.concatenate([[0], mask.T.ravel(), [2]])
    edges = np.flatnonzero(np.diff(column)) if mask[0, 0] == 0 else None
    counts = np.diff([0, *edges]).tolist()
    assert unpack(pack(counts)).tolist() == counts
    for form in (counts, pack(counts)):
        polygons, _ = mask_polygons({"size": list(mask.shape), "counts": form})
        shape = shapely.union_all([shapely.Polygon(each[0], each[1:]) for each in polygons])
        y, x = np.indices(mask.shape) + 0.5
        np.testing.assert_array_equal(shapely.contains_xy(shape, x, y), mask == 1)
        assert shape.area == mask.sum()


@pytest.mark.parametrize(
    ("segmentation", "problem"),
    [
        ({"size": [4, 4], "counts": [3, 4]}, "do not add up"), ({"size": [4, 4], "counts": "z{"}, "hold"),
        ({"size": [4], "counts": []}, "size of a mask"), ({"size": [10**9, 4], "counts": []}, "a mask of"),
        ({"size": [4, 4], "counts": [1.5]}, "no numbers"), ({"size": [4, 4], "counts": "o" * 20}, "hold"),
        ({"size": [100_000, 100_000], "counts": [0, 10**10]}, "more than 268,435,456"),
        ({"size": [4, 4], "counts": None}, "runs of a mask are"),
    ],
)  # fmt: skip
def test_masks_that_are_none(segmentation, problem):
    with pytest.raises(MalformedError, match=problem):
        mask_polygons(segmentation)


def two_images(tmp_path):
    document = {
        "images": [{"id": 1, "file_name": "scans/A.svs"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "Tumor"}, {"id": 2, "name": "Fat"}],
        "annotations": [
            {"image_id": image, "category_id": image, "segmentation": [[0, 0, size, 0, size, size, 0, size]]}
            for image, size in ((1, 10), (2, 20), (1, 1))
        ],
    }
    return save(tmp_path / "cohort.json", document)


def test_a_file_of_several_images_is_read_by_the_name_of_the_slide(tmp_path):
    path = two_images(tmp_path)
    assert names_found(path) == {"Tumor": 2, "Fat": 1}
    assert names_found(path, [tmp_path / "a.SVS"]) == {"Tumor": 2}
    assert names_found(path, [tmp_path / "b.ome.tiff"]) == {"Fat": 1}
    assert names_found(path, [tmp_path / "c.svs"]) == {}
    fat = ClassNames(tumor=("Fat",), non_tumor=(), ignore=())
    assert read_annotations(path, fat, made_up_slide(tmp_path / "B.tif")).tumor.area == 400
    with pytest.raises(AnnotationError, match=r"cohort\.json: COCO JSON: it has the outlines of 2 images: it is read "
                                              r"together with a slide\. Name the slide"):  # fmt: skip
        read_annotations(path, fat)
    with pytest.raises(AnnotationError, match=r"none is named like the slide c\.svs"):
        read_annotations(path, fat, made_up_slide(tmp_path / "c.svs"))


def test_cytomine_needs_the_slide(tmp_path):
    path = save(tmp_path / "x", SPECIMENS["cytomine"][0])
    with pytest.raises(AnnotationError, match=r"Cytomine JSON: its y axis begins at the bottom of the image"):
        read_annotations(path, NAMES)
    numbers = save(tmp_path / "y", [{"location": WKT, "term": [77]}])
    assert names_found(numbers) == {"77": 1}


def project(folder, **entries):
    images = [
        {
            "serverBuilder": {"builderType": "uri", "uri": f"file:/somewhere/else/{quote(name)}"},
            "entryID": i,
            "imageName": name,
        }
        for i, name in enumerate(entries.values(), start=1)
    ]
    for i in range(1, len(entries) + 1):
        (folder / "data" / str(i)).mkdir(parents=True)
        (folder / "data" / str(i) / "data.qpdata").write_bytes(b"\xac\xed\x00\x05ur\x00\x02")
    return save(folder / "project.qpproj", {"version": "0.5.1", "createTimestamp": 1, "images": images})


def test_a_project_of_qupath_with_exported_outlines(tmp_path):
    path = project(tmp_path, a="A one.svs", b="B.svs")
    slide = made_up_slide(tmp_path / "A one.svs")
    why = r"QuPath project: the outlines of 'A one\.svs' lie in data/1/data\.qpdata, serialised Java, which is not read"
    with pytest.raises(AnnotationError, match=why + r"\. Export each image's outlines from QuPath into"):
        read_annotations(path, NAMES, slide)
    with pytest.raises(AnnotationError, match="serialised Java"):
        names_found(path, [slide.path])
    with pytest.raises(AnnotationError, match=r"a QuPath data file \(\.qpdata\)"):
        read_outlines(tmp_path / "data" / "1" / "data.qpdata")
    (tmp_path / "geojson").mkdir()
    exported = save(tmp_path / "geojson" / "a one.geojson", SPECIMENS["qupath"][0])
    assert read_annotations(path, NAMES, slide).tumor.area == 12_000
    assert files_of(path, slide.path) == [exported]
    assert names_found(path) == {"Tumor": 1}
    beside = save(tmp_path / "data" / "1" / "any.geojson", SPECIMENS["qupath"][0])
    assert files_of(path, slide.path) == [beside]
    other = two_images(tmp_path)
    assert files_of(other, slide.path) == [other]
    assert files_of(exported, slide.path) == [exported]
    assert files_of(tmp_path / "gone", slide.path) == [tmp_path / "gone"]


def test_web_annotations_of_several_sources(tmp_path):
    path = save(
        tmp_path / "x", [web(SVG, source="https://host/iiif/A.svs"), web(FRAGMENT, source="https://host/B.svs")]
    )
    assert read_annotations(path, NAMES, made_up_slide(tmp_path / "b.svs")).tumor.area == 12_000
    assert len(read_outlines(path, made_up_slide(tmp_path / "a.svs")).features) == 1
    with pytest.raises(AnnotationError, match="outlines of 2 images"):
        read_outlines(path)
    odd = [web({"type": "FragmentSelector", "value": "t=5"}), web({"type": "SvgSelector", "value": "<svg>"})]
    for one, problem in zip(odd, ("a fragment is 't=5'", "no well-formed XML"), strict=True):
        with pytest.raises(AnnotationError, match=f"W3C Web Annotation: {problem}"):
            read_outlines(save(tmp_path / "y", one))
    point = save(tmp_path / "z", [web({"type": "FragmentSelector", "value": "xywh=pixel:5,5,0,0"}), web(SVG)])
    assert "1 object without an area" in read_annotations(point, NAMES).warnings[0]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (SPECIMENS["asap"][0].replace('X="100"', 'X="nan"', 1), "X of a Coordinate is 'nan', not a number up to 1e9"),
        (SPECIMENS["asap"][0][:-9], "no well-formed XML"),
        ("<svg></svg>", "XML of <svg> that is none of ASAP XML, HALO annotations, Aperio ImageScope XML"),
        (SPECIMENS["halo"][0].replace('Y="200"', ""), "Y of a V is 'None'"),
        (CSV + "r1,5\n", "Slideflow CSV: row 6 has 2 cells, where the header has 4"),
        (CSV + "r1,x,5,Tumor\n", "Slideflow CSV: x_base is 'x', not a number"),
        (COCO | {"annotations": [5]}, "COCO JSON: annotations is"),
        (COCO | {"annotations": [{"image_id": 7, "segmentation": [[1, 2, 3]]}]}, "no list of x and y by turns"),
        ({"item": {}, "annotations": [{"polygon": {"paths": 5}}]}, "V7 Darwin JSON: a polygon has no paths"),
        ({"elements": [DSA | {"points": [[1]]}]}, r"HistomicsUI JSON: points of a polyline holds '\[1\]'"),
        ({"elements": [{"type": "circle", "center": [1, 2], "radius": 1e300}]}, "radius of a circle is '1e"),
        ([{"location": "POLYGON ((0 0"}], "Cytomine JSON: a location is no WKT"),
        ("PAR1 and nothing more", "GeoParquet: it cannot be read"),
        ({"images": [], "lastID": 5}, "QuPath project: it has no images"),
        ({"hello": "world"}, "without GeoJSON features, nor as any other program writes outlines"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_the_program(content, problem, tmp_path):
    with pytest.raises(AnnotationError, match=problem) as caught:
        read_outlines(save(tmp_path / "x", content), made_up_slide(tmp_path / "slide.svs"))
    assert str(caught.value).startswith(str(tmp_path / "x"))


def test_parquet_that_is_no_geoparquet(tmp_path):
    frame = geopandas.GeoDataFrame({"label": ["Tumor"]}, geometry=[shapely.box(0, 0, 1, 1)])
    frame.drop(columns="geometry").to_parquet(tmp_path / "a")
    with pytest.raises(AnnotationError, match="without the metadata of GeoParquet"):
        read_outlines(tmp_path / "a")
    frame.to_parquet(tmp_path / "b", geometry_encoding="geoarrow")
    with pytest.raises(AnnotationError, match="its geometries are not WKB"):
        read_outlines(tmp_path / "b")


LAUGHS = "".join('<!ENTITY l%d "%s">' % (i, f"&l{i - 1};" * 10) for i in range(1, 12))  # noqa: UP031 - quotes in quotes
HOSTILE = {
    "laughs": f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><Annotations>&l11;</Annotations>',
    "quadratic": '<!DOCTYPE a [<!ENTITY b "' + "x" * 50_000 + '">]><Annotations>' + "&b;" * 50_000 + "</Annotations>",
    "outside": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><Annotations>&x;</Annotations>',
    "parameter": '<!DOCTYPE a [<!ENTITY % p SYSTEM "http://localhost:9/x"> %p;]><Annotations/>',
    "doctype": '<!DOCTYPE Annotations SYSTEM "x.dtd"><Annotations/>',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_xml_with_entities_is_refused_at_once(name, tmp_path):
    path = save(tmp_path / "x.xml", HOSTILE[name])
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(AnnotationError, match="it declares a document type"):
        read_outlines(path)
    spent, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(HOSTILE[name]) + (1 << 20)  # of entities 2 GB and 20 TB would come
    assert spent < 5  # about a millisecond


def test_xml_is_bounded(tmp_path, monkeypatch):
    with pytest.raises(AnnotationError, match="nested deeper than 64"):
        read_outlines(save(tmp_path / "x", "<Annotations>" + "<a>" * 100_000))
    monkeypatch.setattr(xml, "_MOST_ELEMENTS", 10)
    with pytest.raises(AnnotationError, match="more than 10 elements"):
        read_outlines(save(tmp_path / "x", "<Annotations>" + "<a/>" * 20 + "</Annotations>"))
    monkeypatch.setattr(features, "MOST_CORNERS", 3)
    with pytest.raises(AnnotationError, match="more than 3 corners"):
        read_outlines(save(tmp_path / "x", SPECIMENS["asap"][0]))
    monkeypatch.setattr(xml, "MOST_BYTES", 30)
    with pytest.raises(AnnotationError, match="has 0 MiB, more than 0"):
        read_outlines(save(tmp_path / "x", SPECIMENS["asap"][0]))


def test_many_outlines_side_by_side_need_no_minute(tmp_path):
    """Cells with holes: neighbours are looked for in a tree."""
    cells = "".join(
        f'<Region Type="Polygon" HasEndcaps="0" NegativeROA="{n}">'
        f"{vertices('V', [[x + n, y + n], [x + 8 - n, y + n], [x + 8 - n, y + 8 - n], [x + n, y + 8 - n]])}</Region>"
        for x in range(0, 300, 10) for y in range(0, 300, 10) for n in (0, 1)
    )  # fmt: skip
    path = save(tmp_path / "x", halo(cells))
    start = time.process_time()
    file = read_outlines(path)
    areas = mend_areas(path, [file.area(feature) for feature in file.features])
    assert Counter(area.area for area, _ in areas) == {64 - 36: 900}
    assert time.process_time() - start < 5  # about 0.3 s


def test_well_known_binary_of_every_kind(tmp_path):
    ring = shapely.box(0, 0, 9, 9).difference(shapely.box(2, 2, 3, 3))
    deep = shapely.GeometryCollection([shapely.Point(1, 1), shapely.GeometryCollection([shapely.MultiPolygon([ring])])])
    solid = shapely.force_3d(ring, 5.0)
    lines = shapely.GeometryCollection([shapely.LineString([(0, 0), (1, 1)]), shapely.MultiPoint([(0, 0)]), ring])
    for geometry, area in ((ring, 80), (deep, 80), (solid, 80), (lines, 80), (shapely.Polygon(), 0)):
        for options in ({}, {"byte_order": 0}, {"flavor": "iso"}, {"include_srid": True}):
            wkb = shapely.to_wkb(shapely.set_srid(geometry, 7), **options)
            assert sum(shapely.Polygon(each[0], each[1:]).area for each in wkb_polygons(wkb)) == area
    assert wkb_polygons(None) == []
    wkb = shapely.to_wkb(ring)
    for broken, problem in (
        (wkb[:-1], "cut short"), (wkb[:7], "cut short"), (b"\1\xff" + wkb[2:], "the type"),
        (struct.pack("<BII", 1, 6, 1) * 100_000, "nested deeper"), (struct.pack("<BII", 1, 3, 2**31), "more parts"),
    ):  # fmt: skip
        with pytest.raises(MalformedError, match=problem):
            wkb_polygons(broken)
    with pytest.raises(AnnotationError, match="nested deeper than 16"):
        read_outlines(save(tmp_path / "x", [{"location": "GEOMETRYCOLLECTION(" * 99}]), made_up_slide(tmp_path / "s"))
