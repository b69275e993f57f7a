from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tifffile
from shapely import contains_xy, union_all
from shapely.geometry import shape

from helpers.cohort import tissue, write_tiff
from vitrail.errors import SlideError
from vitrail.geometry import Region
from vitrail.synthetic import TissueType, write_slide
from vitrail.synthetic.truth import REGIONS, read_truth


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("phantom"), "T1", side_px=512, mpp=1.0, seed=1)


@pytest.fixture
def own(slide, tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(slide.parents[1], tmp_path / "cohort")
    return tmp_path / "cohort" / "slides" / slide.name


def test_the_truth_is_what_the_files_say(slide):
    truth = read_truth(slide)
    features = json.loads((slide.parents[1] / "truth" / "T1.geojson").read_text())["features"]
    assert len(truth.nuclei) == len(truth.atypical) == len(features) > 100
    assert 0 < truth.atypical.sum() < len(features)
    for i in (0, 50, len(features) - 1):
        assert truth.nuclei[i].equals(shape(features[i]["geometry"]))
        name = features[i]["properties"]["classification"]["name"]
        assert truth.atypical[i] == (name == "Nucleus: atypical")
    assert truth.types.shape == (64, 64)


def test_masks_agree_with_the_outlines_and_the_map_of_tissues(slide):
    truth, region = read_truth(slide), Region(x=100.3, y=180.7, width=199.1, height=199.1)
    masks = truth.masks(region, (48, 48))
    assert tuple(masks) == REGIONS
    x, y = (start + (np.arange(48) + 0.5) * 199.1 / 48 for start in (region.x, region.y))
    xx, yy = np.meshgrid(x, y)
    for name, chosen in (("nuclei", truth.nuclei), ("atypical_nuclei", truth.nuclei[truth.atypical])):
        assert (masks[name] == contains_xy(union_all([each.buffer(0) for each in chosen]), xx, yy)).mean() > 0.995
    types = truth.types[(yy // 8).astype(int), (xx // 8).astype(int)]
    stroma = ((types == TissueType.TUMOR_STROMA) | (types == TissueType.CONNECTIVE)) & ~masks["nuclei"]
    assert np.array_equal(masks["stroma"], stroma)
    assert stroma.any()
    assert not (masks["atypical_nuclei"] & ~masks["nuclei"]).any()


def test_nuclei_lie_where_the_slide_is_blue(slide):
    """The frames of truth and pixels are one: nuclei are darker in the red channel than what lies beside them."""
    truth, pixels = read_truth(slide), tifffile.imread(slide, key=0)
    masks = truth.masks(Region(x=0, y=0, width=512, height=512), (512, 512))
    tissue_there = np.kron(truth.types, np.ones((8, 8))) != TissueType.GLASS
    red = pixels[..., 0].astype(float)
    inside, outside = red[masks["nuclei"]].mean(), red[tissue_there & ~masks["nuclei"]].mean()
    moved = red[np.roll(masks["nuclei"], (6, 6), (0, 1)) & tissue_there].mean()
    assert outside - inside > 35
    assert moved - inside > 25


def test_beyond_the_slide_there_is_nothing(slide):
    masks = read_truth(slide).masks(Region(x=-300, y=600, width=200, height=200), (16, 16))
    assert not any(mask.any() for mask in masks.values())


def test_any_other_slide_has_no_truth(tmp_path, own):
    other = write_tiff(tmp_path / "real.tif", tissue(0))
    assert read_truth(other) is None
    assert read_truth(tmp_path / "absent.svs") is None
    shutil.copy(other, own)  # a real slide that has come to lie beside somebody's truth
    assert read_truth(own) is None
    own.write_bytes(b"no slide at all")
    assert read_truth(own) is None


def test_a_slide_that_was_renamed_or_lost_its_truth_has_none(own):
    renamed = own.with_name("T2.tif")
    own.rename(renamed)
    for kind in ("geojson", "npz"):
        shutil.copy(own.parents[1] / "truth" / f"T1.{kind}", own.parents[1] / "truth" / f"T2.{kind}")
    assert read_truth(renamed) is None
    renamed.rename(own)
    assert read_truth(own) is not None
    (own.parents[1] / "truth" / "T1.npz").unlink()
    assert read_truth(own) is None


def test_a_link_leads_to_the_truth(own, tmp_path):
    link = tmp_path / "elsewhere.tif"
    link.symlink_to(own)
    assert len(read_truth(link).nuclei) == len(read_truth(own).nuclei)


@pytest.mark.parametrize(
    ("name", "content"), [("T1.geojson", b'{"features": [{}]}'), ("T1.geojson", b"{"), ("T1.npz", b"none")]
)
def test_a_damaged_truth_is_named(own, name, content):
    (own.parents[1] / "truth" / name).write_bytes(content)
    with pytest.raises(SlideError, match=r"T1\.tif: the truth of this synthetic slide is damaged"):
        read_truth(own)
