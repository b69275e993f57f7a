from __future__ import annotations

import json
import os

import numpy as np
import pytest
import tifffile
from PIL import Image

from vitrail.errors import NucleiError
from vitrail.geometry import Region
from vitrail.nuclei.engines import Classical, Embedded
from vitrail.nuclei.regions import centred_in, segment_region
from vitrail.nuclei.stored import DetectionFolder, LabelFolder
from vitrail.slides.slide import open_slide

PITCH, RADIUS, SIDE = 40, 9, 400


def disks():
    """Return labels of disks on a square grid."""
    y, x = np.mgrid[:SIDE, :SIDE]
    row, column = y // PITCH, x // PITCH
    inside = (y % PITCH - PITCH / 2 + 0.5) ** 2 + (x % PITCH - PITCH / 2 + 0.5) ** 2 <= RADIUS**2
    return np.where(inside, row * (SIDE // PITCH) + column + 1, 0).astype(np.int32)


def write(path, mpp):
    """Write a slide with a dark disk for each nucleus."""
    generator = np.random.default_rng(0)
    image = np.where(disks()[..., None] > 0, (95, 65, 140), (228, 180, 205)) + generator.normal(0, 3, (SIDE, SIDE, 3))
    resolution = (10_000 / mpp, 10_000 / mpp)
    tifffile.imwrite(
        path, image.clip(0, 255).astype(np.uint8), photometric="rgb", tile=(128, 128), resolution=resolution,
        resolutionunit="CENTIMETER",
    )  # fmt: skip
    return open_slide(path)


@pytest.fixture
def slide(tmp_path):
    return write(tmp_path / "s1.tif", 0.5)


@pytest.fixture
def detections(tmp_path):
    """Write an octagon around each disk, as cells with nuclei and as bare detections."""
    features = []
    angles = np.arange(9) * np.pi / 4
    for number in np.arange(1, disks().max() + 1):
        y, x = (np.array(divmod(number - 1, SIDE // PITCH)) + 0.5) * PITCH
        ring = [[x + RADIUS * np.cos(a), y + RADIUS * np.sin(a)] for a in angles[:-1]]
        nucleus = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
        feature = {"type": "Feature", "geometry": nucleus, "properties": {"objectType": "detection"}}
        if number % 2:
            wide = [[x - 15, y - 15], [x + 15, y - 15], [x + 15, y + 15], [x - 15, y - 15]]
            cell = {"type": "Polygon", "coordinates": [wide]}
            feature |= {"geometry": cell, "nucleusGeometry": nucleus, "properties": {"objectType": "cell"}}
        features.append(feature)
    outline = {"type": "Polygon", "coordinates": [[[0, 0], [SIDE, 0], [SIDE, SIDE], [0, 0]]]}
    features.append({"type": "Feature", "geometry": outline, "properties": {"objectType": "annotation"}})
    (tmp_path / "s1.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return DetectionFolder(folder=tmp_path)


@pytest.fixture
def label_images(tmp_path):
    (tmp_path / "labels").mkdir()
    Image.fromarray(disks().astype(np.uint16)).save(tmp_path / "labels" / "s1.png")
    return LabelFolder(folder=tmp_path / "labels")


@pytest.mark.parametrize("engine", [Embedded(), Classical()])
def test_nuclei_at_the_edges_are_seen_whole_and_belong_where_their_centre_is(slide, engine):
    # the left edge runs through disks just left of their middle, the right edge just left as well
    region = Region(x=138, y=80, width=160, height=160)
    found = segment_region(slide, region, engine)
    assert (found.image.shape, found.labels.shape, found.mpp) == ((160, 160, 3), (160, 160), 0.5)
    assert found.labels.max() == 16
    cut = disks()[80:240, 138:298]
    centred = np.where(np.isin(cut, np.unique(disks()[80:240, 140:290])), cut, 0) > 0
    assert np.count_nonzero(centred & (found.labels > 0)) > 0.9 * np.count_nonzero(centred)


def test_regions_side_by_side_share_no_nucleus_and_lose_none(slide):
    parts = [
        segment_region(slide, Region(x=x, y=y, width=100, height=100), Embedded())
        for x in range(0, SIDE, 100)
        for y in range(0, SIDE, 100)
    ]
    assert sum(part.labels.max() for part in parts) == disks().max()


@pytest.mark.parametrize("kind", ["detections", "label_images"])
@pytest.mark.parametrize("mpp", [None, 0.25, 1.0])
def test_stored_nuclei_are_cut_out_at_any_scale(slide, request, kind, mpp):
    engine = request.getfixturevalue(kind)
    region = Region(x=100, y=40, width=200, height=120)
    found = segment_region(slide, region, engine, mpp=mpp)
    step = round(0.5 / found.mpp * 2) / 2
    assert found.labels.shape == (120 * step, 200 * step)
    assert found.labels.max() == 15  # 3 rows; columns with centres at 100 (inside), 140, ..., 260: 300 is not
    area = np.bincount(found.labels.ravel())[1:] / step**2
    whole = np.median(area)
    assert whole == pytest.approx(np.pi * RADIUS**2, rel=0.2)


def test_outlines_and_labels_agree(slide, detections, label_images):
    region = slide.region
    drawn = segment_region(slide, region, detections).labels > 0
    labelled = segment_region(slide, region, label_images).labels > 0
    assert np.array_equal(labelled, disks() > 0)
    assert np.count_nonzero(drawn & labelled) > 0.87 * np.count_nonzero(labelled)
    assert not np.any(drawn & ~labelled & (np.pad(disks(), 1)[2:, 1:-1] == 0) & (np.pad(disks(), 1)[:-2, 1:-1] == 0))


def test_a_slide_that_is_too_coarse_is_refused_in_one_line(tmp_path):
    slide = write(tmp_path / "coarse.tif", 1.0)
    with pytest.raises(NucleiError, match=r"coarse.tif: 1 um per pixel are too coarse for nuclei"):
        segment_region(slide, slide.region, Embedded())


def test_beyond_the_slide_are_no_nuclei(slide, label_images):
    beyond = Region(x=SIDE, y=-100, width=100, height=100)
    for engine in (Embedded(), label_images):
        assert segment_region(slide, beyond, engine).labels.max() == 0
    half_off = segment_region(slide, Region(x=-40, y=0, width=80, height=40), label_images)
    assert half_off.labels.max() == 1


@pytest.mark.parametrize("engine", ["detections", "label_images"])
def test_a_slide_without_a_file_is_named(slide, request, engine):
    with pytest.raises(NucleiError, match="s2.*no such file"):
        segment_region(slide, slide.region, request.getfixturevalue(engine), slide_id="s2")


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"features": [{"geometry": {"type": "Polygon", "coordinates": [[1]]}}]}']
)
def test_what_is_no_geojson_is_named(slide, tmp_path, content):
    (tmp_path / "s1.geojson").write_text(content)
    with pytest.raises(NucleiError, match=r"s1.geojson: no GeoJSON of detections"):
        segment_region(slide, slide.region, DetectionFolder(folder=tmp_path))


def test_label_images_of_another_shape_or_kind_are_refused(slide, tmp_path):
    folder = tmp_path / "others"
    folder.mkdir()
    for name, pixels, problem in (
        ("s1", np.zeros((40, 80), np.uint16), "do not cover a slide"),
        ("s2", np.zeros((40, 40, 3), np.uint8), "holds no labels"),
    ):
        tifffile.imwrite(folder / f"{name}.tiff", pixels)
        with pytest.raises(NucleiError, match=problem):
            segment_region(slide, slide.region, LabelFolder(folder=folder), slide_id=name)
    (folder / "s3.png").write_bytes(b"no picture")
    with pytest.raises(NucleiError, match="cannot be read"):
        segment_region(slide, slide.region, LabelFolder(folder=folder), slide_id="s3")


def test_a_file_that_was_replaced_is_read_anew(slide, label_images):
    assert segment_region(slide, slide.region, label_images).labels.max() == 100
    path = label_images.folder / "s1.png"
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)).save(path)
    os.utime(path, ns=(1, 1))
    assert segment_region(slide, slide.region, label_images).labels.max() == 0


def test_a_centre_on_the_left_edge_is_inside_and_one_on_the_right_edge_is_not():
    labels = np.zeros((4, 8), np.int32)
    labels[1:3, 1:3], labels[1:3, 5:7] = 1, 2
    assert np.unique(centred_in(labels, (slice(0, 4), slice(2, 6)))).tolist() == [0, 1]
    assert centred_in(np.zeros((4, 4), np.int32), (slice(0, 2), slice(0, 2))).shape == (2, 2)
