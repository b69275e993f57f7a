"""Tissue against shapes whose truth is known, the phantom's truth, and the annotated colon slide."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from scipy import ndimage

from helpers.cohort import write_tiff
from helpers.data import DATA, needs_data
from helpers.sections import GLASS, STAIN, section
from vitrail.geometry import Region
from vitrail.quality.tissue import (
    Tissue,
    TissueThresholds,
    drop_crumbs,
    fill_gaps,
    find_tissue,
    tissue_mask,
    trim_rim,
)
from vitrail.settings.schema import TissueSettings
from vitrail.slides.slide import open_slide, read_region
from vitrail.synthetic import write_slide

UM = 8.0
AUTO = TissueSettings()


def dice(mask, truth):
    return 2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth))


def at_um(slide, truth_shape, truth):
    """Dice of a slide's mask at the truth's resolution."""
    tissue = find_tissue(slide, AUTO)
    return dice(tissue.cover(slide.region, truth_shape[::-1]) >= 0.5, truth)


@pytest.mark.parametrize("density", [0.25, 0.4, 1.0, 2.5])
@pytest.mark.parametrize("glass", [(255, 255, 255), GLASS, (190, 190, 190), (250, 240, 205), (210, 228, 245)])
def test_any_stain_on_any_glass(density, glass):
    rgb, truth = section(density=density, glass=glass)
    mask, found = tissue_mask(rgb, UM, AUTO)
    assert dice(mask, truth) > 0.985
    assert found.glass == pytest.approx(glass, abs=1.5)
    assert found.stain == pytest.approx(density * STAIN.max(), rel=0.15)


def test_light_that_falls_off_is_not_tissue():
    rgb, truth = section(density=0.4)
    y, x = np.mgrid[-1:1:200j, -1:1:200j]
    light = 1 - 0.12 * (x * x + y * y)
    dim = (rgb * light[..., None]).round().astype(np.uint8)
    mask, found = tissue_mask(dim, UM, AUTO)
    assert dice(mask, truth) > 0.98
    assert found.fall == pytest.approx(np.ptp(np.log10(light[~truth])), abs=0.01)  # it is seen on glass alone
    assert found.fall > found.density, "a single threshold would have taken the corners for tissue"


@settings(max_examples=25, deadline=None)
@given(
    factor=st.floats(0.6, 1.05),
    density=st.floats(0.3, 1.5),
    seed=st.integers(0, 10),
)
def test_brightness_changes_nothing(factor, density, seed):
    rgb, _ = section(side=96, density=density, seed=seed)
    dimmed = (rgb * factor).round().clip(0, 255).astype(np.uint8)
    mask, _ = tissue_mask(rgb, UM, AUTO)
    again, _ = tissue_mask(dimmed, UM, AUTO)
    assert dice(mask, again) > 0.985  # rounding to whole grey levels moves a pixel here and there


@settings(max_examples=15, deadline=None)
@given(turn=st.integers(0, 3), mirrored=st.booleans(), seed=st.integers(0, 5))
def test_the_way_a_slide_lies_changes_nothing(turn, mirrored, seed):
    rgb, _ = section(side=64, seed=seed)
    rgb[:40, :20] = GLASS

    def laid(array):
        return np.rot90(array[::-1] if mirrored else array, turn)

    assert dice(tissue_mask(laid(rgb), UM, AUTO)[0], laid(tissue_mask(rgb, UM, AUTO)[0])) > 0.995


@pytest.mark.parametrize("noise", [0, 1, 3, 5])
@pytest.mark.parametrize("glass", [(255, 255, 255), (243, 240, 244), (200, 190, 150), (180, 180, 180)])
def test_glass_alone_has_no_tissue(glass, noise):
    rgb = np.asarray(glass) + np.random.default_rng(0).normal(0, noise, (120, 160, 3))
    mask, found = tissue_mask(rgb.round().clip(0, 255).astype(np.uint8), UM, AUTO)
    assert not mask.any()
    assert found.stain == 0 or found.noise < found.density


@pytest.mark.parametrize("density", [0.3, 1.0, 2.5])
def test_tissue_alone_is_all_tissue(density):
    rgb, _ = section(density=density, radius=2.0, seed=3)
    rgb[:, :100] = (rgb[:, :100] * 0.8).astype(np.uint8)  # two modes, neither of them glass
    mask, found = tissue_mask(rgb, UM, AUTO)
    assert mask.all()
    assert found.glass is None


@pytest.mark.parametrize("colour", [0, 255])
def test_scan_borders_are_neither_glass_nor_tissue(colour):
    rgb, truth = section()
    framed = np.pad(rgb, ((40, 10), (70, 0), (0, 0)), constant_values=colour)
    mask, found = tissue_mask(framed, UM, AUTO)
    assert dice(mask, np.pad(truth, ((40, 10), (70, 0)))) > 0.985
    assert not mask[:40].any()
    assert found.glass == pytest.approx(GLASS, abs=1.5)


def test_black_border_alone_has_no_tissue():
    assert not tissue_mask(np.zeros((50, 60, 3), np.uint8), UM, AUTO)[0].any()


def test_fat_is_tissue_and_a_torn_hole_is_not():
    rgb, _ = section(side=200, radius=0.45)
    y, x = np.mgrid[:200, :200]
    fat, hole = (slice(60, 90), slice(60, 140)), (slice(110, 140), slice(80, 120))
    walls = (x % 9 == 0) | (y % 9 == 0)
    rgb[fat] = np.where(walls[fat][..., None], (228, 205, 225), GLASS)
    rgb[hole] = GLASS
    mask, _ = tissue_mask(rgb, UM, AUTO)
    assert mask[fat].all()
    assert mask[hole].mean() < 0.15  # 240 by 320 um; only its corners are rounded off


def test_dust_is_left_out_unless_wanted():
    rgb, _ = section()
    rgb[5:11, 5:11] = (120, 110, 115)
    dust = (slice(4, 12), slice(4, 12))
    assert not tissue_mask(rgb, UM, AUTO)[0][dust].any()
    assert tissue_mask(rgb, UM, TissueSettings(min_piece_um2=0))[0][dust].any()


def test_thresholds_can_be_imposed():
    rgb, _ = section()
    _, found = tissue_mask(rgb, UM, TissueSettings(glass=(230, 231, 232), density=0.3, texture=0.5))
    assert (found.glass, found.density, found.texture) == ((230, 231, 232), 0.3, 0.5)
    strict, _ = tissue_mask(rgb, UM, TissueSettings(density=2.0, texture=2.0))
    assert not strict.any()
    with pytest.raises(ValidationError):
        TissueSettings(density=-1)
    with pytest.raises(ValidationError):
        TissueSettings(glass=(0, 200, 200))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (3, 3), (1, 50), (7, 5)])
def test_tiny_pictures(shape):
    pink = np.full((*shape, 3), (200, 120, 170), np.uint8)
    for rgb, share in ((pink, 1.0), (np.full_like(pink, 255), 0.0), (np.zeros_like(pink), None)):
        mask, _ = tissue_mask(rgb, UM, AUTO)
        assert mask.shape == shape
        if share is not None:
            assert mask.mean() == share


def test_shapes():
    ring = np.zeros((30, 30), bool)
    ring[5:25, 5:25], ring[10:20, 10:20] = True, False
    assert fill_gaps(ring, 0, 101)[5:25, 5:25].all()
    np.testing.assert_array_equal(fill_gaps(ring, 0, 100), ring)
    ring[5:15, 14] = False  # a crack two closings wide opens the hole
    assert not fill_gaps(ring, 0, 500)[12, 12]
    assert fill_gaps(ring, 1, 500)[12, 12]
    edge = np.ones((30, 30), bool)
    edge[:5, :5] = False
    np.testing.assert_array_equal(fill_gaps(edge, 0, 500), edge)  # it goes on beyond the slide
    np.testing.assert_array_equal(drop_crumbs(ring, 400), np.zeros_like(ring) | (ring & (0.05 * ring.size < 400)))
    assert not drop_crumbs(np.pad(np.ones((5, 5), bool), 10), 26).any()


def test_a_blurred_edge_lies_at_half_its_height():
    step = np.zeros((20, 40), np.float32)
    step[:, 20:] = 1.0
    blurred = ndimage.gaussian_filter1d(step, 1.0, axis=1)
    trimmed = trim_rim(blurred > 0.12, blurred)
    np.testing.assert_array_equal(trimmed, step > 0.5)


def test_shares_count_pixels():
    rng = np.random.default_rng(0)
    mask = rng.random((20, 30)) < 0.5
    tissue = a_tissue(mask, Region(x=0, y=0, width=300, height=200))
    for _ in range(20):
        left, top = rng.integers(0, 25), rng.integers(0, 15)
        width, height = rng.integers(1, 30 - left + 1), rng.integers(1, 20 - top + 1)
        region = Region(x=left * 10, y=top * 10, width=width * 10, height=height * 10)
        assert tissue.share(region) == pytest.approx(mask[top : top + height, left : left + width].mean())
    assert tissue.area_mm2 == pytest.approx(mask.sum() * 64 / 1e6)


def a_tissue(mask, region):
    found = TissueThresholds(glass=None, glass_share=0, fall=0, noise=0, stain=0, density=0, texture=0)
    return Tissue(mask=mask, region=region, um_per_px=8.0, thresholds=found)


@settings(max_examples=50, deadline=None)
@given(
    x=st.floats(-50, 120), y=st.floats(-50, 120), width=st.floats(0.1, 150), height=st.floats(0.1, 150)
)  # fmt: skip
def test_shares_take_fractions_of_pixels(x, y, width, height):
    mask = np.zeros((10, 10), bool)
    mask[2:6, 3:8] = True  # 30 to 80 and 20 to 60 in level-0 pixels
    tissue = a_tissue(mask, Region(x=0, y=0, width=100, height=100))
    inside = max(0, min(x + width, 80) - max(x, 30)) * max(0, min(y + height, 60) - max(y, 20))
    region = Region(x=x, y=y, width=width, height=height)
    assert tissue.share(region) == pytest.approx(inside / (width * height), abs=1e-6)


def test_cover_is_the_share_of_every_pixel():
    mask = np.random.default_rng(1).random((12, 9)) < 0.5
    tissue = a_tissue(mask, Region(x=0, y=0, width=90, height=120))
    np.testing.assert_allclose(tissue.cover(tissue.region, (9, 12)), mask, atol=1e-9)
    region = Region(x=-13, y=7.5, width=66, height=44)
    cover = tissue.cover(region, (3, 2))
    boxes = np.array([[-13 + 22 * i, 7.5 + 22 * j, 22, 22] for j in range(2) for i in range(3)])
    np.testing.assert_allclose(cover.ravel(), tissue.shares(boxes))
    with pytest.raises(ValueError, match="at least one pixel"):
        tissue.cover(region, (0, 1))


def test_a_slide_gets_pixels_of_the_wanted_width(tmp_path):
    rgb, truth = section(side=300)
    slide = open_slide(write_tiff(tmp_path / "s.tif", np.kron(rgb, np.ones((2, 2, 1), np.uint8)), mpp=4.0))
    tissue = find_tissue(slide, AUTO)
    assert tissue.mask.shape == (300, 300)
    assert tissue.um_per_px == pytest.approx(8.0, rel=1e-3)
    assert tissue.area_mm2 == pytest.approx(truth.sum() * 64e-6, rel=0.02)
    assert find_tissue(slide, TissueSettings(um_per_px=16)).mask.shape == (150, 150)


def test_a_slide_smaller_than_a_pixel(tmp_path):
    slide = open_slide(write_tiff(tmp_path / "s.tif", np.full((16, 16, 3), (200, 100, 160), np.uint8), mpp=0.25))
    tissue = find_tissue(slide, AUTO)
    assert tissue.mask.shape == (1, 1)
    assert tissue.share(slide.region) == 1.0


def test_memory_grows_with_the_mask_alone():
    rgb = np.tile(section(side=250)[0], (4, 4, 1))
    tracemalloc.start()
    tissue_mask(rgb, UM, AUTO)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * rgb.shape[0] * rgb.shape[1]  # bytes a pixel; the largest mask has 6 million


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    slide = open_slide(write_slide(folder, "p", side_px=2048, seed=102))
    with np.load(folder / "truth" / "p.npz") as truth:
        return slide, truth["types"] > 0


def test_phantom(phantom):
    slide, truth = phantom  # this one has fat
    assert at_um(slide, truth.shape, truth) > 0.98


def test_faded_phantom_on_grey_glass(phantom):
    slide, truth = phantom
    rgb = read_region(slide, slide.region, (128, 128))
    glass = np.median(rgb[:10].reshape(-1, 3), axis=0)
    faded = 200 * (np.maximum(rgb, 1) / glass) ** 0.25 + np.random.default_rng(0).normal(0, 0.5, rgb.shape)
    mask, _ = tissue_mask(faded.round().clip(0, 255).astype(np.uint8), UM, AUTO)
    large = np.kron(mask, np.ones((2, 2))) > 0
    assert dice(large, truth) > 0.97


@needs_data("wsi/crc.tif", "wsi/crc_tissue.png")
@pytest.mark.data
def test_annotated_colon():
    slide = open_slide(DATA / "wsi" / "crc.tif")
    truth = np.asarray(Image.open(DATA / "wsi" / "crc_tissue.png")) > 0
    assert at_um(slide, truth.shape, truth) >= 0.97
