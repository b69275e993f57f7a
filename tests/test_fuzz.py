"""Broken input of every kind: it works, or it is one line; never another exception, an abort, a hang, or gigabytes."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pyarrow as pa
import pytest
import tifffile
import torch
from PIL import Image
from pyarrow import parquet
from shapely.geometry import Polygon, box

from helpers.cohort import outline, tissue, write_outlines
from helpers.data import DATA, needs_data
from helpers.fuzzing import TARGETS, run
from helpers.mutations import with_count, with_tag
from helpers.outlines import COCO, SPECIMENS, SVG, asap, halo, made_up_slide, vertices, web
from helpers.tiffs import APERIO, Kind, tissue_like, write_jpeg_tiff, write_ome
from vitrail.explain.layers import find_layers
from vitrail.explain.methods.hrcam import fit, save_head
from vitrail.models.spec import ClassifierSpec
from vitrail.models.store import build, save_model
from vitrail.settings.load import preset, settings_text
from vitrail.slides.outlines.convert import WRITABLE
from vitrail.slides.outlines.convert import write_outlines as write_for
from vitrail.slides.outlines.writing import Outline

CASES = int(os.environ.get("VITRAIL_FUZZ", "900"))
"""`make fuzz` takes 30,000."""

SHARES = {
    ("slide",): 0.5,
    ("outlines", "programs", "table", "settings"): 0.3,
    ("picture", "model", "stored", "head", "weights"): 0.1,
    ("mask", "clinical", "records"): 0.1,
}
"""Kinds of input that are tried in one process, and how many of the cases."""


def write_slides(folder):
    image = tissue_like(150, 200)
    levels = [image, image[::2, ::2]]
    write_jpeg_tiff(folder / "aperio.svs", levels, Kind(description=APERIO, tables=True, bare=True))
    write_jpeg_tiff(folder / "generic.tif", levels, Kind(colours="422"))
    write_jpeg_tiff(folder / "big.tif", levels, Kind(bigtiff=True))
    write_jpeg_tiff(folder / "swapped.tif", levels, Kind(bigtiff=True, byteorder=">", colours="rgb"))
    write_ome(folder / "pyramid.ome.tif", levels, Kind(colours="444"), PhysicalSizeX=0.5, PhysicalSizeY=0.5)
    for name, compression in (("deflate", "zlib"), ("lzw", "lzw"), ("plain", None)):
        tifffile.imwrite(
            folder / f"{name}.tif", image, tile=(64, 64), photometric="rgb", compression=compression, metadata=None,
            resolution=(20_000, 20_000), resolutionunit="CENTIMETER",
        )  # fmt: skip
    tifffile.imwrite(
        folder / "jp2k.svs", image, tile=(64, 64), photometric="rgb", compression=33005, description=APERIO,
        metadata=None,
    )  # fmt: skip


def write_tables(folder):
    bow = Polygon([(0, 0), (128, 128), (128, 0), (0, 128)])
    write_outlines(
        folder / "S0.geojson", outline("Tumor", box(0, 0, 90, 90)), outline("Non-tumor", box(60, 60, 200, 150)),
        outline("Tumor", bow), outline("Tumor: Invasive", box(9, 9, 50, 50).difference(box(20, 20, 30, 30))),
    )  # fmt: skip
    rows = [
        f"S{i},P{i},S{i}.tif,S0.geojson,{split},0.5,larynx" for i, split in enumerate(("train", "validation", "test"))
    ]
    (folder / "slides.csv").write_text("\n".join(["slide_id,patient_id,slide,annotations,split,mpp,site", *rows]))
    (folder / "study.toml").write_text(settings_text(preset("quick"), "A study"))


def write_programs(folder):
    own = folder / "programs"
    own.mkdir()
    for key, specimens in SPECIMENS.items():
        for i, one in enumerate(specimens):
            (own / f"{key}{i}").write_text(one if isinstance(one, str) else json.dumps(one))
    (own / "spline").write_text(SPECIMENS["asap"][0].replace("Polygon", "Spline"))
    nest = box(0, 0, 90, 90).difference(box(9, 9, 20, 20))
    for key in WRITABLE:
        drawn = [Outline(name="Tumor", area=nest), Outline(name="Fat", area=box(50, 50, 99, 99))]
        write_for(own / f"written-{key}", drawn, key, made_up_slide(folder / "slide.svs"))


def write_models(folder):
    spec = ClassifierSpec(
        encoder="test_efficientnet", side_um=32.0, side_px=64, mean=(0.6,) * 3, std=(0.2,) * 3, dense=8, dropout=0.5
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(spec)
    save_model(folder / "classifier", network, spec)
    layers = find_layers(network)
    pooled = torch.from_numpy(np.random.default_rng(0).random((8, sum(layers.channels)), np.float32))
    save_head(folder / "head", fit(layers, pooled, np.arange(8) % 2 == 0, 1.0))
    torch.save(network.encoder.state_dict(), folder / "own.pth")
    (folder / "own.safetensors").write_bytes((folder / "classifier" / "weights.safetensors").read_bytes())


def write_pictures(folder):
    picture = Image.fromarray(tissue(3, 64))
    for suffix in ("png", "jpg", "bmp", "webp"):
        picture.save(folder / f"nest.{suffix}")
    picture.quantize(16).save(folder / "palette.png")


def write_masks(folder):
    values = np.kron(np.random.default_rng(0).integers(0, 3, (8, 8)), np.ones((9, 9))).astype(np.uint8)
    (folder / "masks").mkdir()
    Image.fromarray(values).save(folder / "masks" / "m.png")
    Image.fromarray(values).save(folder / "masks" / "m.bmp")
    tifffile.imwrite(folder / "masks" / "tiles.tif", values, tile=(32, 32), compression="zlib")
    tifffile.imwrite(folder / "masks" / "strips.tif", values.astype(np.uint16), rowsperstrip=5, compression="lzw")
    tifffile.imwrite(folder / "masks" / "whole.tif", values, bigtiff=True)
    (folder / "clinical").mkdir()
    records = [{"patient_id": f"{i:03d}", "age": 50.0 + i, "stage": None, "label": ["a"]} for i in range(3)]
    (folder / "clinical" / "records.json").write_text(json.dumps(records))
    rows = ["slide_id,patient_id,age,split,mpp", "S0,P0,50,train,0.5", "S1,P1,60,test,", "S2,P2,,validation,1"]
    (folder / "clinical" / "clinic.csv").write_text("\n".join(rows))


def write_hostile_slides(folder, valid):
    huge = (
        (322, 1 << 31),
        (323, 1 << 31),
        (256, 3 << 20),
        (325, 1 << 40),
        (325, 1 << 31),
        (325, 1 << 62),
        (324, 1 << 62),
    )
    for name in ("aperio.svs", "generic.tif", "big.tif", "pyramid.ome.tif", "deflate.tif", "jp2k.svs"):
        content, suffix = (valid / name).read_bytes(), name.partition(".")[2]
        for tag, value in huge:
            (folder / f"{tag}-{value.bit_length()}-{name}").write_bytes(with_tag(content, tag, value))
            (folder / f"count-{tag}-{value.bit_length()}-{name}").write_bytes(
                with_count(content, tag, min(value, 2**32 - 1))
            )
        for side in (8192, 8193, 65_535, 100_000):
            (folder / f"side-{side}-{name}").write_bytes(with_tag(with_tag(content, 322, side), 323, side))
        (folder / f"half.{suffix}").write_bytes(content[: len(content) // 2])
    big = (valid / "big.tif").read_bytes()
    for count in (2**40, 2**61, 2**63, 2**64 - 1):
        for tag in (322, 324, 325, 347):
            (folder / f"count-{tag}-{count}.tif").write_bytes(with_count(big, tag, count))
    jpeg = (valid / "aperio.svs").read_bytes()
    (folder / "streams.svs").write_bytes(jpeg.replace(struct.pack(">HH", 64, 64), struct.pack(">HH", 65_500, 65_500)))
    (folder / "endless.tif").write_bytes(b"II*\0" + struct.pack("<IHI", 8, 0, 8))
    image = tissue_like(64, 64)
    for name, text in (("pixels", "<Pixels " * 200_000), ("word", "<Pixels " + "a" * 10**6), ("deep", "<a>" * 10**5)):
        tifffile.imwrite(
            folder / f"{name}.tif", image, tile=(64, 64), photometric="rgb", description=text, metadata=None
        )


def write_hostile_outlines(folder, _):
    rng = np.random.default_rng(0)
    tangle = Polygon(rng.integers(0, 10_000, (3000, 2)))
    far = Polygon(rng.choice([-1e9, 1e9, 0.1, 1e-300], (200, 2)))
    there_and_back = Polygon([(x % 2 * 1000 + x / 1e6, 0) for x in range(20_000)] + [(500, 900)])
    for name, shape in (("tangle", tangle), ("far", far), ("there_and_back", there_and_back)):
        write_outlines(folder / f"{name}.geojson", outline("Tumor", shape))
    write_outlines(folder / "copies.geojson", *[outline("Tumor", box(0, 0, 99, 99))] * 10_000)
    write_outlines(folder / "names.geojson", *(outline(f"K{i}" * 50, box(0, 0, 9, 9)) for i in range(5000)))
    texts = {
        "deep": "[" * 10**6, "deep_closed": "[" * 5000 + "]" * 5000, "digits": "9" * 10**6, "nul": "\0" * 10**6,
        "deep_coordinates": json.dumps(outline("Tumor", box(0, 0, 9, 9))).replace("[[[", "[[[" * 300),
        "children": '{"type":"Feature","properties":{"childObjects":[' * 3000 + "]}}" * 3000,
        "infinite": json.dumps(outline("Tumor", box(0, 0, 9, 9))).replace("9.0", "1e999"),
        "digits_inside": json.dumps(outline("Tumor", box(0, 0, 9, 9))).replace("9.0", "9" * 4000),
    }  # fmt: skip
    for name, text in texts.items():
        (folder / f"{name}.geojson").write_text(text)


def write_hostile_programs(folder, _):
    """Rings in rings, masks of slides, curves of no end: what is quick for few is quadratic for many."""
    rings = [[[i, i], [9999 - i, i], [9999 - i, 9999 - i], [i, 9999 - i]] for i in range(3000)]
    paths = [[{"x": x, "y": y} for x, y in ring] for ring in rings]
    corners = [vertices("V", ring) for ring in rings]
    regions = [
        f'<Region Type="Polygon" HasEndcaps="0" NegativeROA="{i % 2}">{ring}</Region>' for i, ring in enumerate(corners)
    ]
    rows = [f"{i},{x},{y}\n" for i, ring in enumerate(rings) for x, y in ring]
    knots = "".join(f'<Coordinate Order="{i}" X="{i % 2}e9" Y="{i}"/>' for i in range(2000))
    entities = "".join(f"<!ENTITY a{i} '" + f"&a{i - 1};" * 10 + "'>" for i in range(1, 9))
    far = {"type": "circle", "center": [0, 0, 0], "radius": 1e9, "group": "Tumor"}
    mask = {"image_id": 7, "category_id": 3, "segmentation": {"size": [16_000, 16_000], "counts": "0" * 10**6}}
    wide = mask | {"segmentation": {"size": [10**6, 10**6], "counts": [5, 10**12 - 5]}}
    chess = mask | {"segmentation": {"size": [1000, 1001], "counts": [1] * 1_001_000}}
    files = {
        "nested_darwin": {"item": {}, "annotations": [{"name": "Tumor", "polygon": {"paths": paths}}]},
        "same_darwin": {"item": {}, "annotations": [{"name": "Tumor", "polygon": {"paths": paths[:1] * 3000}}]},
        "slideflow": "roi_name,x_base,y_base\n" + "".join(rows),
        "negative": halo("".join(regions)), "spline": asap(knots).replace("Polygon", "Spline"),
        "circles": {"elements": [far] * 3000}, "mask": COCO | {"annotations": [mask]},
        "wide": COCO | {"annotations": [wide]}, "chess": COCO | {"annotations": [chess]},
        "path": [web(SVG | {"value": f'<svg><path d="M0 0{"a1e6 1e6 0 1 1 9 9" * 20}"/></svg>'})],
        "curves": [web(SVG | {"value": f'<svg><path d="M0 0{"c1e9 0 0 1e9 5 5" * 5000}"/></svg>'})],
        "tiny": [web(SVG | {"value": f'<svg><path d="M{"0 0 " * 10**5}"/></svg>'})],
        "deep_wkt": [{"location": "GEOMETRYCOLLECTION(" * 50_000, "term": [1]}],
        "deep_xml": "<Annotations>" * 10**6,
        "attributes": "<Annotations " + " ".join(f'a{i}="1"' for i in range(10**5)) + "/>",
        "laughs": f"<!DOCTYPE a [<!ENTITY a0 'ha'>{entities}]><Annotations>&a8;</Annotations>",
        "images": COCO | {"images": COCO["images"] * 10**5},
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    deep = struct.pack("<BII", 1, 7, 1) * 200_000  # collections in collections, which GEOS reads by recursion
    geo = {"version": "1.1.0", "primary_column": "g", "columns": {"g": {"encoding": "WKB"}}}
    table = pa.table({"g": pa.array([deep], pa.binary())}).replace_schema_metadata({"geo": json.dumps(geo)})
    parquet.write_table(table, folder / "deep_wkb")
    (folder / "parquet").write_bytes(b"PAR1" + bytes(10**6) + b"\xff\xff\xff\x7fPAR1")


def write_hostile_tables(folder, valid):
    rows = (valid / "slides.csv").read_text().splitlines()
    texts = {
        "wide": rows[0] + "," * 10**6, "cell": "\n".join([*rows, "S9," + "x" * 10**6]), "quote": '"' * 10**6 + "x",
        "columns": ",".join(f"c{i}" for i in range(10**5)), "blank": "\n" * 10**6, "same": "\n".join([*rows, rows[1]]),
    }  # fmt: skip
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)


def write_hostile_pictures(folder, valid):
    for name in ("nest.png", "nest.bmp"):
        content = (valid / name).read_bytes()
        at, form = (16, ">i") if name.endswith("png") else (18, "<i")
        for side in (-64, 0, 1 << 14, 100_000, 2**31 - 1):
            (folder / f"{side}-{name}").write_bytes(content[:at] + struct.pack(form, side) * 2 + content[at + 8 :])
    for suffix in ("gif", "ppm", "tga", "ico", "dds", "sgi", "pcx", "eps", "pdf", "icns", "jp2"):
        Image.fromarray(tissue(3, 64)).save(folder / f"other.{suffix}")


def write_hostile_masks(folder, valid):
    write_hostile_pictures(folder, valid)
    for path in sorted((valid / "masks").glob("*.tif")):
        content = path.read_bytes()
        for tag in (256, 257, 258, 277, 278, 279, 273, 322, 323, 325, 339):
            for value in (0, 1, 1 << 16, 1 << 31, (1 << 32) - 1):
                (folder / f"{tag}-{value}-{path.name}").write_bytes(with_tag(content, tag, value))


def write_no_files(folder, _):
    """What stands in the place of a file: a folder, a pipe, devices, links to nowhere and to itself."""
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    for name, target in (("zero", "/dev/zero"), ("null", "/dev/null"), ("gone", "nowhere"), ("self", "self")):
        (folder / name).symlink_to(target)
    (folder / "empty").touch()


def write_files(folder):
    """Write valid files of every kind, and those that were built to do harm."""
    for write in (write_slides, write_tables, write_programs, write_models, write_pictures, write_masks):
        write(folder)
    hostile = {
        "slide": write_hostile_slides, "outlines": write_hostile_outlines, "programs": write_hostile_programs,
        "table": write_hostile_tables, "picture": write_hostile_pictures, "settings": write_no_files,
        "weights": write_no_files, "mask": write_hostile_masks, "clinical": write_hostile_tables,
        "records": write_hostile_outlines,
    }  # fmt: skip
    for kind, write in hostile.items():
        own = folder / "hostile" / kind
        own.mkdir(parents=True)
        for each in {write_no_files, write}:
            each(own, folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    write_files(folder)
    return folder


def test_every_kind_of_input_is_tried():
    assert {kind for kinds in SHARES for kind in kinds} == set(TARGETS)


@needs_data("readers/cmu-1-small-region.svs")
def test_a_broken_real_slide_ends_in_one_line(tmp_path):
    (tmp_path / "real.svs").write_bytes((DATA / "readers" / "cmu-1-small-region.svs").read_bytes())
    assert run(tmp_path, ("slide",), CASES // 60) == []


@pytest.mark.parametrize("kinds", SHARES, ids="-".join)
def test_broken_files_end_in_one_line(kinds, files):
    assert run(files, kinds, round(CASES * SHARES[kinds])) == []
