"""Artefacts: each kind is found where light was changed as it changes light, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage

from vitrail.classes import ARTEFACTS, ArtefactKind
from vitrail.geometry import Region
from vitrail.quality import features as artefact_cells
from vitrail.quality.artefacts import Artefacts, find_artefacts
from vitrail.settings.schema import ArtefactSettings
from vitrail.slides.slide import open_slide

SIDE, MPP = 512, 2.0
HEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.09, 0.95, 0.28])
GREEN, BLACK, BLOOD = np.array([0.9, 0.35, 0.5]), np.array([1.2, 1.2, 1.2]), np.array([0.06, 0.45, 0.50])
Y, X = np.mgrid[:SIDE, :SIDE]


def tissue(seed=0, strength=1.0):
    """Return densities: nuclei in eosin, with glass around."""
    rng = np.random.default_rng(seed)
    nuclei = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 1.0) > 0.28
    eosin = 0.30 + 0.05 * rng.standard_normal((SIDE, SIDE))
    density = strength * (0.6 * nuclei[..., None] * HEMATOXYLIN + eosin[..., None] * EOSIN + 0.06)
    density[np.hypot(Y - SIDE / 2, X - SIDE / 2) > 230] = 0
    return density


def slide_of(folder, density, glass=(243, 241, 244), mpp=MPP):
    rng = np.random.default_rng(1)
    light = np.array(glass) * 10**-density + rng.normal(0, 1, density.shape)
    tifffile.imwrite(
        folder / "slide.tif", light.round().clip(0, 255).astype(np.uint8), tile=(64, 64), photometric="rgb",
        metadata=None, compression="zlib", resolution=(1e4 / mpp, 1e4 / mpp), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return open_slide(folder / "slide.tif")


def cells(mask):
    """Return a pixel mask's share of each cell of 4 x 4 pixels."""
    return mask.reshape(SIDE // 4, 4, SIDE // 4, 4).mean(axis=(1, 3))


def pen(density):
    area = (np.abs(Y - 256) < 30) & (X > 100) & (X < 500)
    density[area] += GREEN * 0.8
    return area


def black_pen(density):
    area = (np.abs(X - 200) < 20) & (Y > 120)
    density[area] += BLACK
    return area


def fold(density):
    area = (np.abs(Y - X) < 15) & (np.abs(Y - 256) < 100)
    density[area] *= 2
    return area


def blur(density):
    area = np.hypot(Y - 256, X - 300) < 90
    for channel in range(3):
        density[..., channel] = np.where(area, ndimage.gaussian_filter(density[..., channel], 2), density[..., channel])
    return area


def blood(density):
    area = np.hypot(Y - 200, X - 230) < 60
    density[area] = 1.1 * BLOOD
    return area


def debris(density):
    area = (np.abs(Y - 150 - 20 * np.sin(X / 30)) < 3.5) & (X > 150) & (X < 350)
    density[area] += BLACK
    return area


def bubble(density):
    distance = np.hypot(Y - 256, X - 256)
    density[np.abs(distance - 60) < 3] += 0.8
    return distance < 63


DRAWN = {
    "pen": (pen, ArtefactKind.PEN),
    "black pen": (black_pen, ArtefactKind.PEN),
    "fold": (fold, ArtefactKind.FOLD),
    "blur": (blur, ArtefactKind.BLUR),
    "blood": (blood, ArtefactKind.BLOOD),
    "debris": (debris, ArtefactKind.DEBRIS),
    "bubble": (bubble, ArtefactKind.BUBBLE),
}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("strength", [0.7, 1.2])
def test_each_kind_is_found_where_it_is_and_called_nothing_else(tmp_path, name, strength):
    draw, kind = DRAWN[name]
    density = tissue(strength=strength)
    area = draw(density)
    found = find_artefacts(slide_of(tmp_path, density))
    share, called = cells(area & (density.max(axis=-1) > 0)), found.mask([kind])
    assert called[share > 0.9].mean() > (0.6 if kind in {ArtefactKind.FOLD, ArtefactKind.BLUR} else 0.95)
    far = ~ndimage.binary_dilation(share > 0, iterations=8 if kind == ArtefactKind.BLUR else 3)
    assert found.mask()[far].mean() < 0.001
    others = found.mask([other for other in ARTEFACTS if other != kind])
    assert (others & (share > 0.9)).sum() <= 0.1 * (share > 0.9).sum()


@pytest.mark.parametrize("strength", [0.5, 1.0, 1.6])
@pytest.mark.parametrize("glass", [(243, 241, 244), (225, 222, 214), (255, 255, 255)])
def test_clean_tissue_has_none(tmp_path, strength, glass):
    assert find_artefacts(slide_of(tmp_path, tissue(2, strength), glass)).mask().mean() < 0.0005


def test_crowded_nuclei_in_a_band_are_no_fold_and_fat_is_no_bubble(tmp_path):
    density = tissue(3)
    rng = np.random.default_rng(0)
    band = (np.abs(Y - 160) < 15) & (np.abs(X - 256) < 150)
    density[band] = (0.65 * HEMATOXYLIN + 0.2 * EOSIN) * (1 + 0.2 * rng.standard_normal((band.sum(), 1)))
    for x in range(150, 400, 45):
        distance = np.hypot(Y - 300, X - x)
        density[distance < 22] = 0
        density[np.abs(distance - 22) < 1.5] = 0.4 * EOSIN
    found = find_artefacts(slide_of(tmp_path, density))
    assert not found.mask([ArtefactKind.FOLD, ArtefactKind.BUBBLE, ArtefactKind.DEBRIS]).any()


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (3, 5), (1, 200)])
def test_empty_glass_has_none(tmp_path, shape):
    found = find_artefacts(slide_of(tmp_path, np.zeros((*shape, 3))))
    assert not found.masks.any()
    assert found.share(Region(x=0, y=0, width=shape[1], height=shape[0])) == 0


def test_ink_alone_on_glass_is_pen(tmp_path):
    density = np.zeros((SIDE, SIDE, 3))
    area = pen(density)
    masks = find_artefacts(slide_of(tmp_path, density)).masks
    assert masks[ArtefactKind.PEN][cells(area) == 1].all()
    assert not np.delete(masks, ArtefactKind.PEN, axis=0).any()


def test_a_whole_slide_out_of_focus_is_found_so(tmp_path):
    density = ndimage.gaussian_filter(tissue(), (2.5, 2.5, 0))
    found = find_artefacts(slide_of(tmp_path, density))
    assert found.mask([ArtefactKind.BLUR])[cells(np.hypot(Y - 256, X - 256) < 200) == 1].mean() > 0.9


def test_strips_change_nothing_and_bound_what_is_read(tmp_path, monkeypatch):
    density = tissue()
    pen(density), blur(density)
    slide = slide_of(tmp_path, density)
    whole = find_artefacts(slide)
    sizes, read = [], artefact_cells.read_region

    def spy(slide, region, size):
        sizes.append(size)
        return read(slide, region, size)

    monkeypatch.setattr(artefact_cells, "_STRIP_PX", 512 * 64)
    monkeypatch.setattr(artefact_cells, "read_region", spy)
    strips = find_artefacts(slide)
    assert len(sizes) == 8
    assert max(width * height for width, height in sizes) <= 512 * 64
    assert np.array_equal(whole.masks, strips.masks)


def test_finer_pixels_of_the_same_scene_give_the_same_place(tmp_path):
    density = tissue()
    area = pen(density)
    corner = density[128:384, 128:384].repeat(4, axis=0).repeat(4, axis=1)
    found = find_artefacts(slide_of(tmp_path, corner, mpp=MPP / 4))
    assert (found.cell, found.cell_um) == (16.0, 8.0)
    called, share = found.mask([ArtefactKind.PEN]), cells(area)[32:96, 32:96]
    assert called[share == 1].mean() > 0.95
    assert not called[share == 0].any()


def test_thresholds_can_be_set_and_unknown_ones_cannot(tmp_path):
    density = tissue()
    pen(density)
    slide = slide_of(tmp_path, density)
    assert find_artefacts(slide).mask([ArtefactKind.PEN]).any()
    assert not find_artefacts(slide, ArtefactSettings(ink=-5.0)).mask([ArtefactKind.PEN]).any()
    with pytest.raises(ValidationError):
        ArtefactSettings(inks=1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99),
    edges=st.tuples(*[st.integers(-40, 160)] * 2, *[st.integers(1, 150)] * 2),
    kinds=st.sets(st.sampled_from(ARTEFACTS), min_size=1),
)
def test_shares_are_those_of_counted_pixels(seed, edges, kinds):
    masks = np.random.default_rng(seed).random((6, 9, 11)) < 0.2
    found = Artefacts(masks=masks, cell=10.0, cell_um=8.0)
    left, top, width, height = edges
    pixels = np.zeros((400, 400), bool)
    pixels[50:140, 50:160] = masks[[int(k) for k in kinds]].any(axis=0).repeat(10, axis=0).repeat(10, axis=1)
    expected = pixels[top + 50 : top + height + 50, left + 50 : left + width + 50].mean()
    box = [left, top, width, height]
    assert found.shares([box, box], kinds) == pytest.approx([expected, expected])
    assert found.share(Region(x=left, y=top, width=width, height=height), kinds) == pytest.approx(expected)


def test_fractions_of_cells_count_by_their_part():
    masks = np.zeros((6, 4, 4), bool)
    masks[ArtefactKind.FOLD, 1, 2] = True
    found = Artefacts(masks=masks, cell=16.0, cell_um=8.0)
    boxes = [[32, 16, 16, 16], [40, 24, 8, 8], [40, 16, 16, 16], [0, 0, 64, 64]]
    assert found.shares(boxes).tolist() == [1, 1, 0.5, 1 / 16]
    assert found.shares(boxes, [ArtefactKind.PEN]).tolist() == [0, 0, 0, 0]
    assert found.shares(np.zeros((0, 4))).shape == (0,)
