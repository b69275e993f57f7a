"""One picture, one model: overlays, maps, and one line for every mistake."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.cohort import tissue, write_tiff
from helpers.command import vitrail
from vitrail.explain.explainer import Explainer
from vitrail.explain.methods.hrcam import fit, save_head
from vitrail.geometry import Region
from vitrail.models.spec import ClassifierSpec, ReadingInfo, SegmenterSpec
from vitrail.models.store import build, load_model, model_digest, save_model
from vitrail.pipeline.explain_image import explain_picture
from vitrail.slides.slide import open_slide, read_region
from vitrail.slides.stain import read_for_networks

SHARED = {"encoder": "test_efficientnet", "side_um": 32.0, "side_px": 64, "mean": (0.6,) * 3, "std": (0.2,) * 3}
SPECS = {
    "classifier": ClassifierSpec(**SHARED, dense=8, dropout=0.5),
    "segmenter": SegmenterSpec(**SHARED, decoder=(8, 8, 8, 8, 8)),
}

DENSE = {"stride": None, "margin_px": 32}
"""As the settings have it."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two random networks; HR-CAM was fitted for the classifier only."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    for name, spec in SPECS.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            save_model(folder / name, build(spec), spec, "fingerprint")
    explainer = Explainer(load_model(folder / "classifier"), torch.device("cpu"), engine="torch", **DENSE)
    tiles = rng.integers(0, 255, (8, 64, 64, 3), np.uint8)
    pooled = explainer.pool(tiles)
    fitted = fit(explainer.layers, pooled, np.arange(8) % 2 == 0, 1.0)
    own = model_digest(folder / "classifier")
    save_head(folder / "explanations" / "classifier", replace(fitted, fitted_on=own))
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "nest.png"
    Image.fromarray(tissue(3, 64)).save(path)
    return path


def test_a_picture_is_explained_by_both_methods(study, picture, tmp_path, capsys):
    assert vitrail("explain", picture, "--model", study / "classifier", "-o", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "tumor probability 0." in said
    assert said.strip().endswith("nest-classifier.png")
    drawn = np.asarray(Image.open(tmp_path / "out" / "nest-classifier.png"))
    assert min(drawn.shape[:2]) > 100  # at the resolution of these tests
    explainer = Explainer(load_model(study / "classifier"), torch.device("cpu"), engine="torch", **DENSE)
    expected = explainer.gradcam(np.asarray(Image.open(picture))[None])[0].values
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "nest-classifier-gradcam.npy"), expected)
    assert (tmp_path / "out" / "nest-classifier-hrcam.npy").is_file()


def test_without_hrcam_it_says_so(study, picture, tmp_path, capsys):
    assert vitrail("explain", picture, "--model", study / "segmenter", "-o", tmp_path) == 0
    told = capsys.readouterr()
    assert "of the pixels called tumor" in told.out
    assert "no HR-CAM" in told.err
    assert not list(tmp_path.glob("*hrcam*"))


def test_a_dense_layer_of_other_weights_is_left_out_with_a_line(study, picture, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(study, run)
    network = load_model(run / "classifier").module
    with torch.no_grad():
        network.dense.weight.mul_(-1)
    save_model(run / "classifier", network, SPECS["classifier"], "trained again")
    assert vitrail("explain", picture, "--model", run / "classifier", "-o", tmp_path / "out") == 0
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "HR-CAM" in line]
    assert "no HR-CAM: HR-CAM's dense layer was fitted on other weights" in said
    assert said.endswith("fit it with: vitrail explain RUN")
    assert not list((tmp_path / "out").glob("*hrcam*"))
    assert list((tmp_path / "out").glob("*gradcam*"))


def test_a_tile_of_a_slide_is_read_at_the_models_resolution(study, tmp_path):
    image = tissue(1, 256)
    slide = write_tiff(tmp_path / "s.tif", image, mpp=0.5)
    assert vitrail("explain", slide, "--model", study / "classifier", "--at", "64,128", "-o", tmp_path) == 0
    found = np.load(tmp_path / "s-64-128-classifier-gradcam.npy")
    explainer = Explainer(load_model(study / "classifier"), torch.device("cpu"), engine="torch", **DENSE)
    np.testing.assert_array_equal(found, explainer.gradcam(image[None, 128:192, 64:128])[0].values)


@pytest.mark.parametrize("is_slide", [True, False])
def test_what_learned_from_normalised_stain_is_shown_it(study, tmp_path, capsys, is_slide):
    """Of a slide by what its whole tissue says; of a picture, by itself, and here it is too small to be measured."""
    spec = SPECS["classifier"].model_copy(update={"reading": ReadingInfo(stain="reinhard")})
    save_model(tmp_path / "model", load_model(study / "classifier").module, spec)
    image = tissue(1, 64)
    file = write_tiff(tmp_path / "s.tif", tissue(1, 256), mpp=2.0) if is_slide else tmp_path / "s.png"
    if not is_slide:
        Image.fromarray(image).save(file)
    place = ("--at", "64,128") if is_slide else ()
    options = ("--model", tmp_path / "model", "--method", "gradcam", "-o", tmp_path)
    assert vitrail("explain", file, *options, *place) == 0
    (found,) = [np.load(path) for path in tmp_path.glob("s*-gradcam.npy")]
    explainer = Explainer(load_model(tmp_path / "model"), torch.device("cpu"), engine="torch", **DENSE)
    if is_slide:
        slide = open_slide(file, stain="reinhard")
        region = Region(x=64, y=128, width=16, height=16)
        image = read_for_networks(slide, region, (64, 64))
        assert np.abs(image.astype(int) - read_region(slide, region, (64, 64))).mean() > 5
    np.testing.assert_array_equal(found, explainer.gradcam(image[None])[0].values)
    assert ("stain not normalised" in capsys.readouterr().err) != is_slide


def test_the_name_of_a_file_stays_as_it_is(study, picture, tmp_path):
    named = picture.rename(picture.with_name("a--b.png"))
    assert vitrail("explain", named, "--model", study / "classifier", "-o", tmp_path / "out") == 0
    assert (tmp_path / "out" / "a--b-classifier.png").is_file()
    named.rename(picture)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((), "--at: is missing, and s.tif is a slide"),
        (("--at", "7"), "'7' is not X,Y"),
        (("--at", "250,0"), "lies beyond the slide"),
        (("--at", "-1,0"), "lies beyond the slide"),
        (("--at", "nan,0"), "lies beyond the slide"),
        (("--at", "0,inf"), "lies beyond the slide"),
    ],
)
def test_mistakes_about_a_place_are_one_line(study, tmp_path, capsys, options, problem):
    slide = write_tiff(tmp_path / "s.tif", tissue(1, 256), mpp=0.5)
    assert vitrail("explain", slide, "--model", study / "classifier", *options) == 2
    said = capsys.readouterr().err
    assert problem in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("gone.png", None, "no such file"),
        ("broken.png", b"no picture", "cannot be read (cannot identify image file its content)"),
        ("gone.svs", None, "no such file"),
    ],
)
def test_mistakes_about_a_file_are_one_line(study, tmp_path, capsys, name, content, problem):
    if content:
        (tmp_path / name).write_bytes(content)
    assert vitrail("explain", tmp_path / name, "--model", study / "classifier", "--at", "0,0") == 2
    said = capsys.readouterr().err
    assert problem in said
    assert len(said.splitlines()) == 1


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, *more):
    """A PNG of 8-bit RGB that claims a size; its pixels are missing."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more)


DATA = chunk(b"IDAT", zlib.compress(bytes(64 * (1 + 64 * 3))))
TEXT = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100 << 20)))
BMP = b"BM" + struct.pack("<IHHI", 54 + 64 * 192, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, -64, 64, 1, 24, *[0] * 6)
SGI = struct.pack(">HBBHHHH", 474, 1, 1, 3, 64, 64, 3) + bytes(600)
DDS = b"DDS " + struct.pack("<IIII", 124, 0x1007, 64, 64) + bytes(112)
WMF = b"\xd7\xcd\xc6\x9a" + struct.pack("<HhhhhHIH", 0, 0, 0, 64, 64, 96, 0, 0) + b"\x01\0\x09\0\0\x03" + bytes(99)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (png(12_000, 12_000, DATA), "has 12,000 x 12,000 pixels, more than the 1,048,576"),
        (png(50_000, 50_000, DATA), "cannot be read (Image size (2500000000 pixels) exceeds limit"),
        (png(1 << 31, 1 << 31, DATA), "cannot be read"),
        (png(2000, 2000, chunk(b"IDAT", b"")), "give the slide that it is of, and the place with --at X,Y"),
        (png(64, 64, TEXT, DATA, chunk(b"IEND", b"")), "cannot be read"),
        (png(64, 64, DATA[:20]), "cannot be read"),
        (png(64, 64, chunk(b"gAMA", b""), DATA), "cannot be read"),
        (BMP, "cannot be read"),
        (SGI, "cannot be read (cannot identify"),
        (DDS, "cannot be read (cannot identify"),
        (WMF, "cannot be read (cannot identify"),
    ],
    ids=["large", "bomb", "negative", "2000", "text", "cut", "chunk", "BMP", "SGI", "DDS", "WMF"],
)
def test_a_hostile_picture_is_one_line(study, tmp_path, capsys, content, problem):
    (tmp_path / "hostile.png").write_bytes(content)
    assert vitrail("explain", tmp_path / "hostile.png", "--model", study / "classifier", "-o", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert problem in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_picture_that_is_a_pipe_is_not_waited_for(study, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.png")
    assert vitrail("explain", tmp_path / "pipe.png", "--model", study / "classifier") == 2
    assert "pipe.png: a named pipe, not a file" in capsys.readouterr().err


@pytest.mark.parametrize(("writer", "suffix"), [("save_overlay", ".png"), ("np.save", ".npy")])
def test_what_is_killed_while_it_writes_leaves_no_half_a_file(study, picture, tmp_path, monkeypatch, writer, suffix):
    def killed(file, *_):
        (file.write_bytes if suffix == ".png" else file.write)(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(f"vitrail.pipeline.explain_image.{writer}", killed)
    with pytest.raises(KeyboardInterrupt):
        explain_picture(study / "classifier", picture, None, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix == suffix]


def test_a_small_picture_and_an_unusual_one(study, tmp_path, capsys):
    Image.fromarray(tissue(1, 16)).save(tmp_path / "small.png")
    assert vitrail("explain", tmp_path / "small.png", "--model", study / "classifier") == 2
    assert "only 16 x 16 pixels" in capsys.readouterr().err
    Image.fromarray(tissue(1, 96)).save(tmp_path / "large.png")
    assert vitrail("explain", tmp_path / "large.png", "--model", study / "classifier", "-o", tmp_path) == 0
    assert "learned from 64 x 64" in capsys.readouterr().err
