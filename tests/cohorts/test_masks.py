"""Masks to outlines, and back."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from shapely import MultiPolygon
from shapely.geometry import shape

from helpers.cohort import write_tiff
from helpers.command import vitrail
from helpers.imported import reasons, write_outline, write_slide
from vitrail.cohorts import masks
from vitrail.cohorts.mask_classes import TABLES, parse_classes
from vitrail.cohorts.masks import Mask, Placement, outline_mask, place_mask, write_mask_outlines
from vitrail.errors import ExchangeError, SettingsError
from vitrail.geometry import Region
from vitrail.settings.schema import AnnotationSettings
from vitrail.slides.annotations import ClassNames, read_annotations
from vitrail.slides.cohort import read_cohort
from vitrail.slides.rasterize import rasterize
from vitrail.slides.slide import open_slide

PLANES = {"photometric": "minisblack", "planarconfig": "separate"}
CHANNELS = {"photometric": "minisblack", "planarconfig": "contig"}
CLASSES = parse_classes("1=Tumor,2=Non-tumor: Fat,3=Immune")


def write_png(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, **options).save(path)
    return path


def read_back(path, region, size):
    """Paint what a GeoJSON holds: the value of each class, in the order of `CLASSES`."""
    painted = np.zeros(size[::-1], np.uint8)
    for feature in json.loads(path.read_text())["features"]:
        polygon, name = shape(feature["geometry"]), feature["properties"]["classification"]["name"]
        assert polygon.is_valid
        inside = rasterize(polygon, region, size)
        assert not painted[inside].any(), "no two outlines overlap"
        painted[inside] = CLASSES.names.index(name) + 1
    return painted


@settings(max_examples=40, deadline=None)
@given(
    values=arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.integers(0, 3)),
    scale=st.sampled_from([1.0, 4.0, 32.0, 3.7, 1000 / 333]),
    corner=st.sampled_from([(0.0, 0.0), (45749.0, 25055.0)]),
    suffix=st.sampled_from(["png", "tif"]),
)
def test_painting_the_outlines_gives_the_mask_back(tmp_path_factory, values, scale, corner, suffix):
    path = tmp_path_factory.getbasetemp() / f"mask.{suffix}"
    write_png(path, values) if suffix == "png" else tifffile.imwrite(path, values, tile=(16, 16), compression="zlib")
    placement = Placement(across=scale, down=scale, left=corner[0], top=corner[1])
    counts = write_mask_outlines(path.with_suffix(".geojson"), "S1", [(Mask(path), placement)], CLASSES)
    if not values.any():
        assert not counts
        return
    height, width = values.shape
    region = Region(x=corner[0], y=corner[1], width=width * scale, height=height * scale)
    assert (read_back(path.with_suffix(".geojson"), region, (width, height)) == values).all()


def test_holes_islands_and_corners_that_touch_come_back():
    values = np.zeros((9, 9), np.uint8)
    values[1:8, 1:8], values[2:7, 2:7], values[3:6, 3:6], values[4, 4] = 1, 0, 1, 2
    values[0, 0] = values[8, 8] = 1
    outlines = outline_mask(FakeMask(values), CLASSES)
    assert [len(polygon.interiors) for polygon in outlines["Tumor"]] == [0, 1, 1, 0]
    assert [polygon.area for polygon in outlines["Tumor"]] == [1, 24, 8, 1]
    assert [polygon.area for polygon in outlines["Non-tumor: Fat"]] == [1]


class FakeMask:
    """Pixels that lie on no disk."""

    path = "mask.png"

    def __init__(self, values, height=2):
        self.values, self.height = values, height

    def strips(self, *, colours):
        assert not colours
        for top in range(0, len(self.values), self.height):
            yield self.values[top : top + self.height], False


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    "layout",
    [
        {"tile": (16, 32), "compression": "zlib"},
        {"tile": (32, 16)},
        {"rowsperstrip": 3, "compression": "lzw"},
        {"rowsperstrip": 3},
        {"rowsperstrip": 1, "compression": "zlib", "bigtiff": True, "byteorder": ">"},
        {},
    ],
)
def test_every_layout_of_tiff_is_read_in_strips(tmp_path, monkeypatch, bits, layout):
    monkeypatch.setattr(masks, "_STRIP_PX", 200)
    values = np.random.default_rng(1).integers(0, 4, (53, 39)).astype(f"u{bits // 8}")
    tifffile.imwrite(tmp_path / "m.tif", values, **layout)
    strips = [strip for strip, _ in Mask(tmp_path / "m.tif").strips(colours=False)]
    assert (np.concatenate(strips) == values).all()
    assert len(strips) > 1
    assert Mask(tmp_path / "m.tif").size == (39, 53)


def test_a_large_mask_is_never_in_memory_as_a_whole(tmp_path, monkeypatch):
    """What is asked for at once is a row of tiles."""
    height, width, side = 1 << 14, 1 << 10, 256
    monkeypatch.setattr(masks, "_STRIP_PX", width * side)
    blob = np.zeros((side, side), np.uint8)
    blob[64:128, 64:128] = 1
    count = height * width // side**2
    layout = {"shape": (height, width), "dtype": np.uint8, "tile": (side, side), "compression": "zlib"}
    tifffile.imwrite(tmp_path / "m.tif", (blob for _ in range(count)), **layout)
    tracemalloc.start()
    outlines = outline_mask(Mask(tmp_path / "m.tif"), CLASSES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(outlines["Tumor"]) == count
    assert peak < height * width / 2


def test_colours_palettes_and_single_bits_are_read(tmp_path):
    red, grey, black = (255, 0, 0), (128, 128, 128), (0, 0, 0)
    rgb = np.array([[red, grey, black], [red, red, black]], np.uint8)
    classes = parse_classes("#FF0000=Tumor,128=Non-tumor")
    expected = {"Tumor": 3.0, "Non-tumor": 1.0}
    alpha = np.dstack([rgb, np.full(rgb.shape[:2], 7, np.uint8)])
    palette = Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "palette.png")
    write_png(tmp_path / "rgb.png", rgb)
    write_png(tmp_path / "alpha.png", alpha)
    tifffile.imwrite(tmp_path / "rgb.tif", rgb, photometric="rgb")
    tifffile.imwrite(tmp_path / "alpha.tif", alpha, photometric="rgb", tile=(16, 16), extrasamples=["unassalpha"])
    for name in ("palette.png", "rgb.png", "alpha.png", "rgb.tif", "alpha.tif"):
        areas = {
            key: sum(each.area for each in found) for key, found in outline_mask(Mask(tmp_path / name), classes).items()
        }
        assert areas == expected, name
    indices = Image.fromarray(np.array([[0, 1], [2, 2]], np.uint8), "P")
    indices.putpalette([0, 0, 0, 9, 9, 9, 8, 8, 8])
    indices.save(tmp_path / "indices.png")
    assert {key: each[0].area for key, each in outline_mask(Mask(tmp_path / "indices.png"), CLASSES).items()} == {
        "Tumor": 1.0, "Non-tumor: Fat": 2.0,
    }  # fmt: skip
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bit.png")
    tifffile.imwrite(tmp_path / "bit.tif", np.array([[True, False]]), photometric="minisblack")
    for name in ("bit.png", "bit.tif"):
        assert outline_mask(Mask(tmp_path / name), parse_classes("255=Tumor"))["Tumor"][0].area == 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1=Tumor;2=x=y", "'1=Tumor;2=x=y' is no value and class"),
        ("Tumor", "'Tumor' is no value and class"),
        ("5-3=Tumor", "no range of values"),
        ("1=Tumor,1-2=Fat", "names a value again"),
        ("#ff0000=A,#FF0000=B", "names a value again"),
        ("70000=Tumor", "no range of values below 65,536"),
        ("1=none", "0 classes to outline"),
        ("", "'' is no value and class"),
    ],
)
def test_a_table_that_is_none_is_refused(text, said):
    with pytest.raises(SettingsError) as refused:
        parse_classes(text)
    assert said in str(refused.value)


def test_the_tables_of_data_sets_mean_tumor_and_non_tumor():
    defaults = AnnotationSettings()
    names = ClassNames(tumor=defaults.tumor, non_tumor=defaults.non_tumor, ignore=defaults.ignore)
    for table in TABLES.values():
        assert {names.label_of(name).key for name in table.names} == {"tumor", "non_tumor"}
        assert table.source
    assert set(TABLES["bcss"].values) == set(range(22))
    assert [TABLES["bcss"].values[code] for code in (1, 19, 20)] == ["Tumor", "Tumor: Angioinvasion", "Tumor: DCIS"]
    assert parse_classes("ORCA") is TABLES["orca"]


def test_outlines_of_a_mask_are_read_as_a_study_reads_them(tmp_path):
    values = np.zeros((40, 40), np.uint8)
    values[5:30, 5:30], values[10:20, 10:20], values[32:38, 2:30] = 1, 2, 7
    write_png(tmp_path / "m.png", values)
    mask, placement = Mask(tmp_path / "m.png"), Placement(across=8, down=8)
    counts = write_mask_outlines(tmp_path / "m.geojson", "S1", [(mask, placement)], TABLES["bcss"])
    assert counts == {"Tumor": 1, "Non-tumor: Stroma": 1}
    names = ClassNames(tumor=("Tumor",), non_tumor=("Non-tumor",), ignore=())
    read = read_annotations(tmp_path / "m.geojson", names)
    assert (read.tumor.area, read.non_tumor.area) == ((25**2 - 10**2) * 64, 10**2 * 64)
    assert read.warnings == ()
    again = tmp_path / "again.geojson"
    write_mask_outlines(again, "S1", [(mask, placement)], TABLES["bcss"])
    assert again.read_bytes() == (tmp_path / "m.geojson").read_bytes()


def test_a_tolerance_leaves_corners_out_and_keeps_borders_common():
    y, x = np.mgrid[:120, :120]
    values = np.where((x - 60) ** 2 + (y - 60) ** 2 < 50**2, np.where(x < y, 1, 2), 0).astype(np.uint8)
    exact, simple = (outline_mask(FakeMask(values), CLASSES, tolerance) for tolerance in (0.0, 1.0))
    for name in ("Tumor", "Non-tumor: Fat"):
        (before,), (after,) = exact[name], simple[name]
        assert shapely.get_num_coordinates(after) < shapely.get_num_coordinates(before) / 3
        assert shapely.hausdorff_distance(before.exterior, after.exterior) <= 1.0
    both = MultiPolygon([simple["Tumor"][0], simple["Non-tumor: Fat"][0]])
    assert shapely.union_all(both).area == pytest.approx(both.area)


def slide_of(tmp_path, width, height, mpp=0.5):
    return open_slide(write_tiff(tmp_path / f"{width}x{height}.tif", np.zeros((height, width, 3), np.uint8), mpp))


def test_a_mask_lies_on_its_slide_at_the_scale_of_its_level(tmp_path):
    slide = slide_of(tmp_path, 1001, 503)
    path = tmp_path / "m.png"
    for size in ((250, 125), (251, 126)):
        assert place_mask(path, size, slide) == Placement(across=4, down=4)
    assert place_mask(path, (1001, 503), slide) == Placement()
    free = place_mask(path, (667, 335), slide)
    assert (free.across, free.down) == (1001 / 667, 503 / 335)
    with pytest.raises(ExchangeError, match="do not have the proportions"):
        place_mask(path, (400, 400), slide)


def test_a_part_of_a_slide_lies_where_its_name_says(tmp_path):
    slide = slide_of(tmp_path, 1000, 800)
    name = tmp_path / "TCGA-A1-A0SK-DX1_xmin400_ymin200_MPP-1.0000.png"
    assert place_mask(name, (200, 100), slide, part=True) == Placement(across=2, down=2, left=400, top=200)
    plain = tmp_path / "TCGA-A1-A0SK-DX1_xmin400_ymin200_.png"
    assert place_mask(plain, (200, 100), slide, part=True) == Placement(left=400, top=200)
    with pytest.raises(ExchangeError, match="lie beyond the slide of 1000 x 800"):
        place_mask(name, (400, 100), slide, part=True)
    with pytest.raises(ExchangeError, match="no exact scale"):
        place_mask(tmp_path / "S1_xmin4_ymin2_MAG-20.00.png", (200, 100), slide, part=True)


def test_masks_that_cannot_be_used_say_why_and_the_others_are_outlined(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "masks"
    half = np.zeros((32, 32), np.uint8)
    half[:, :16] = 1
    for name in ("S1", "S2", "S3", "S4", "S5", "S6", "S9"):
        write_png(folder / f"{name}_mask.png", half)
    write_png(folder / "S2_mask.png", half * 7)
    (folder / "S3_mask.png").write_bytes((folder / "S3_mask.png").read_bytes()[:-40])
    write_png(folder / "S4_mask.png", half[:, 10:20])
    write_png(folder / "S5_mask.png", half * 0)
    write_png(folder / "S7_mask.png", half)
    tifffile.imwrite(folder / "S8.tif", half.astype(np.float32))
    for number in (1, 2, 3, 4, 5, 7, 8):
        write_slide(tmp_path / "slides" / f"S{number}.svs", number, mpp=None if number == 7 else 0.5)
    (tmp_path / "slides" / "S6.svs").write_bytes(b"no slide")
    monkeypatch.chdir(tmp_path)
    assert vitrail("import", "masks", "masks", "--slides", "slides", "--classes", "1=Tumor") == 2
    said = capsys.readouterr()
    assert "S2_mask.png: mask that cannot be used: value 7 (512 pixels and perhaps more) is in no class" in said.err
    assert said.out.splitlines()[-1] == "outlines"
    told = reasons(tmp_path / "outlines" / "unmatched.csv")
    assert told == {
        "mask that cannot be used": ["S2_mask.png", "S3_mask.png", "S4_mask.png", "S8.tif", "S6.svs"],
        "mask without a slide": ["S9_mask.png"],
        "mask without any class": ["S5_mask.png"],
    }
    assert sorted(path.name for path in (tmp_path / "outlines").glob("*.geojson")) == ["S1.geojson", "S7.geojson"]


def test_masks_by_themselves_have_the_size_of_their_slides(tmp_path, monkeypatch, capsys):
    half = np.zeros((8, 8), np.uint8)
    half[:, :4] = 255
    write_png(tmp_path / "masks" / "a" / "TCGA-CN-4723-01Z-00-DX1_0_mask.png", half)
    write_png(tmp_path / "masks" / "b" / "TCGA-CN-4723-01Z-00-DX1_0.png", half)
    monkeypatch.chdir(tmp_path)
    assert vitrail("import", "masks", "masks", "--classes", "orca") == 0
    (feature,) = json.loads((tmp_path / "outlines" / "TCGA-CN-4723-01Z-00-DX1_0.geojson").read_text())["features"]
    assert shape(feature["geometry"]).bounds == (0, 0, 4, 8)
    assert "second mask of a name (1)" in capsys.readouterr().out
    assert vitrail("import", "masks", "masks") == 2
    assert "--classes: is missing" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert vitrail("import", "masks", "empty", "--classes", "orca", "--out", "none") == 2
    assert "no outlines could be made (the folder holds no PNG, BMP or TIFF)" in capsys.readouterr().err


def test_a_cohort_with_masks_becomes_a_study(tmp_path, monkeypatch, capsys):
    half = np.zeros((16, 16), np.uint8)
    half[:, :8], half[:, 8:12] = 255, 128
    for number in range(3):
        write_slide(tmp_path / "data" / f"P{number}_1.tif", number)
        write_png(tmp_path / "data" / "masks" / f"P{number}_1_mask.png", half)
        tifffile.imwrite(tmp_path / "data" / "masks" / f"P{number}_1.tif", half)
    (tmp_path / "data" / "masks" / "P0_1_mask.png").unlink()
    monkeypatch.chdir(tmp_path)
    command = ("import", "folder", "data", "--patient", r"P\d", "--masks", "data/masks")
    assert vitrail(*command) == 2
    assert "Add --classes TABLE" in capsys.readouterr().err
    assert vitrail(*command, "--classes", "orca", "--check") == 0
    slides = read_cohort(tmp_path / "slides.csv")
    assert [slide.annotations for slide in slides] == [tmp_path / "outlines" / f"P{n}_1.geojson" for n in range(3)]
    names = ClassNames(tumor=("Tumor",), non_tumor=("Non-tumor",), ignore=())
    assert [read_annotations(slide.annotations, names).tumor.area for slide in slides] == [16 * 32] * 3
    assert vitrail("init", "study", "--slides", "slides.csv", "--preset", "quick") == 0


def test_outlines_that_a_person_drew_are_never_written_over(tmp_path, monkeypatch, capsys):
    half = np.zeros((16, 16), np.uint8)
    half[:, :8] = 1
    for number in range(2):
        write_slide(tmp_path / "data" / f"S{number}.tif", number)
        write_png(tmp_path / "masks" / f"S{number}.png", half)
    drawn = write_outline(tmp_path / "outlines" / "S0.geojson", "Tumor")
    beside = write_outline(tmp_path / "data" / "S1.geojson", "Tumor")
    before = [file.read_bytes() for file in (drawn, beside)]
    monkeypatch.chdir(tmp_path)
    command = ("import", "folder", "data", "--masks", "masks", "--classes", "1=Tumor")
    for _ in range(2):  # a second time the outlines of S1 are there already, and are the same
        assert vitrail(*command) == 2
        assert "S0.geojson: other outlines that are there already" in capsys.readouterr().err
        (slide,) = read_cohort(tmp_path / "slides.csv")
        assert slide.annotations == tmp_path / "outlines" / "S1.geojson"
        told = reasons(tmp_path / "slides.unmatched.csv")
        assert told["second outlines of a slide"] == ["S1.geojson"]
        assert [file.read_bytes() for file in (drawn, beside)] == before
        assert sorted(path.name for path in (tmp_path / "outlines").iterdir()) == ["S0.geojson", "S1.geojson"]


def test_masks_of_parts_are_put_together_on_their_slide(tmp_path, monkeypatch):
    name = "TCGA-A1-A0SK-01Z-00-DX1.13483e7b-9322-4d39-8cd6-91e898bf2ee9"
    write_slide(tmp_path / "slides" / f"{name}.svs", side=64)
    part = np.ones((8, 8), np.uint8)
    for left, top in ((0, 8), (32, 40)):
        write_png(tmp_path / "masks" / f"TCGA-A1-A0SK-DX1_xmin{left}_ymin{top}_MPP-1.0000.png", part)
    monkeypatch.chdir(tmp_path)
    assert vitrail("import", "masks", "masks", "--slides", "slides", "--classes", "bcss") == 0
    (file,) = (tmp_path / "outlines").glob("*.geojson")
    assert file.stem == name
    bounds = [shape(feature["geometry"]).bounds for feature in json.loads(file.read_text())["features"]]
    assert bounds == [(0, 8, 16, 24), (32, 40, 48, 56)]


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(b"II*\0\x08\0\0\0\xff\xff"), "cannot be read|not a slide, or cut short"),
        (lambda path: tifffile.imwrite(path, np.zeros((9, 9), np.float32)), "float32, not whole numbers"),
        (lambda path: tifffile.imwrite(path, np.zeros((2, 9, 9), np.uint8), **PLANES), "2 channels, or in planes"),
        (lambda path: tifffile.imwrite(path, np.zeros((9, 9, 2), np.uint8), **CHANNELS), "2 channels"),
    ],
)  # fmt: skip
def test_broken_tiffs_end_in_one_line(tmp_path, write, said):
    path = tmp_path / "m.tif"
    write(path)
    with pytest.raises(ExchangeError, match=said):
        outline_mask(Mask(path), parse_classes("1=Tumor"))


def test_noise_and_pictures_of_gigabytes_are_refused(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 2, (64, 64)).astype(np.uint8)
    monkeypatch.setattr(masks, "_MOST_EDGES", 1000)
    with pytest.raises(ExchangeError, match="it is noise"):
        outline_mask(FakeMask(noise), CLASSES)
    monkeypatch.setattr(masks, "_MOST_EDGES", 1 << 30)
    monkeypatch.setattr(masks, "MOST_CORNERS", 100)
    with pytest.raises(ExchangeError, match=r"more than 100.*--tolerance 1"):
        outline_mask(FakeMask(noise), CLASSES)
    path = write_png(tmp_path / "m.png", noise)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ExchangeError, match="more than 179 million pixels"):
        Mask(path)
    monkeypatch.setattr(masks, "_MOST_SEGMENT_PX", 1000)
    tifffile.imwrite(tmp_path / "m.tif", noise, compression="zlib", rowsperstrip=64)
    with pytest.raises(ExchangeError, match="compressed in one piece"):
        Mask(tmp_path / "m.tif")
