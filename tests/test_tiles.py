"""The paper's rules for tiles, on slides and outlines whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import box

from conftest import MPP, SIDE, outline, tissue, write_outlines, write_tiff
from vitrail.branches import TileSettings
from vitrail.classes import TissueClass
from vitrail.config import Settings
from vitrail.errors import TileError
from vitrail.slides.annotations import ClassNames, read_annotations
from vitrail.slides.cohort import CohortSlide, read_cohort
from vitrail.slides.slide import open_slide
from vitrail.tiles.choose import Candidates, candidates, choose
from vitrail.tiles.cut import cut_slide
from vitrail.tiles.grid import TileGrid, covering_grid, inner_grid
from vitrail.tiles.labels import UNANNOTATED, annotated, complete_mask

ORCA = Path(__file__).parents[2] / "shared" / "data" / "orca" / "slides.csv"
NAMES = ClassNames(tumor=("Tumor",), non_tumor=("Non-tumor",), ignore=())
SMALL = Settings.model_validate({"tiles": {"side_px": 32}})


def entry(folder):
    return CohortSlide(slide_id="S", patient_id="P", slide=folder / "s.tif", annotations=folder / "s.geojson")


def draw(folder, *outlines, side=SIDE):
    write_tiff(folder / "s.tif", tissue(0, side))
    write_outlines(folder / "s.geojson", *outlines)
    return entry(folder)


def test_grids_lie_within_or_cover(tmp_path):
    slide = open_slide(write_tiff(tmp_path / "s.tif", tissue(0, 250)))
    assert (inner_grid(slide, 199.1).rows, covering_grid(slide, 199.1).rows) == (7, 8)
    assert (inner_grid(slide, 25 * MPP).rows, covering_grid(slide, 25 * MPP).rows) == (10, 10)
    assert inner_grid(slide, 2000).columns == 0


def test_a_fractional_grid_does_not_drift():
    grid = TileGrid(side=90.5, rows=3, columns=1000)
    assert grid.tile(0, 999).x == 999 * 90.5
    assert grid.strip(2).y == 181


def test_where_outlines_overlap_tumor_wins(tmp_path):
    path = write_outlines(
        tmp_path / "s.geojson", outline("Tumor", box(0, 0, 6, 8)), outline("Non-tumor", box(4, 0, 8, 4))
    )
    labels = annotated(read_annotations(path, NAMES), TileGrid(side=8, rows=1, columns=1).tile(0, 0), (8, 8))
    assert (labels[:, :6] == TissueClass.TUMOR).all()
    assert (labels[:4, 6:] == TissueClass.NON_TUMOR).all()
    assert (labels[4:, 6:] == UNANNOTATED).all()


def test_unannotated_pixels_are_glass_or_other_tissue():
    labels = np.array([[0, 1, 255, 255, 255]], np.uint8)
    image = np.array([[[255] * 3, [255] * 3, [255] * 3, [220] * 3, [255, 255, 219]]], np.uint8)
    assert complete_mask(labels, image, 220).tolist() == [[0, 1, 3, 3, 2]]


def test_annotation_is_measured_as_drawn(tmp_path):
    path = write_outlines(
        tmp_path / "s.geojson", outline("Tumor", box(0, 0, 48, 16)), outline("Non-tumor", box(32, 16, 64, 32))
    )
    found = candidates(read_annotations(path, NAMES), TileGrid(side=32, rows=2, columns=2), 16)
    assert found.share.tolist() == [[0.5, 0], [0.25, 0.5], [0, 0], [0, 0]]
    assert found.label.tolist() == [0, 1, 0, 0]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 5), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60))
def test_the_papers_choice_holds(seed, pairs):
    share = np.array(pairs) / 2
    tiles = Candidates(row=np.arange(len(share)), column=np.arange(len(share)), share=share)
    chosen = choose(tiles, TileSettings(max_tumor=5, max_non_tumor=7), "S", seed)
    enough = share.sum(axis=1) >= 0.30
    assert enough[chosen].all()
    for label, most in ((0, 5), (1, 7)):
        wanted = min(most, int((enough & (tiles.label == label)).sum()))
        assert (tiles.label[chosen] == label).sum() == wanted
    assert sorted(set(chosen.tolist())) == chosen.tolist()
    assert choose(tiles, TileSettings(max_tumor=5, max_non_tumor=7), "S", seed).tolist() == chosen.tolist()


def test_a_draw_depends_on_seed_and_slide():
    tiles = Candidates(row=np.arange(400), column=np.arange(400), share=np.tile([1.0, 0.0], (400, 1)))
    draws = [tuple(choose(tiles, TileSettings(), name, seed)) for name, seed in (("A", 0), ("A", 1), ("B", 0))]
    assert len(set(draws)) == 3


def test_a_slide_is_cut_by_the_papers_rules(tmp_path):
    half = SIDE // 2
    cut = cut_slide(
        draw(tmp_path, outline("Tumor", box(0, 0, half, SIDE)), outline("Non-tumor", box(half, 0, SIDE, 64))), SMALL
    )
    rows = cut.rows
    assert rows["label"].value_counts().to_dict() == {"tumor": 32, "non_tumor": 8}
    assert np.allclose(rows[["tumor", "non_tumor", "other", "background"]].sum(axis=1), 1)
    pixels = tissue(0)
    for i, (x, y) in enumerate(rows[["x", "y"]].round().astype(int).itertuples(index=False)):
        assert np.array_equal(cut.images[i], pixels[y : y + 32, x : x + 32])
    assert set(np.unique(cut.masks)) == {0, 1}
    assert cut.mpp == pytest.approx(MPP)


def test_a_tiles_mask_knows_all_four_classes(tmp_path):
    shapes = outline("Tumor", box(0, 224, 20, 256)), outline("Non-tumor", box(10, 224, 20, 250))
    cut = cut_slide(draw(tmp_path, *shapes), SMALL)
    assert len(cut.rows) == 1
    mask = cut.masks[0]
    assert (mask[:, :20] == TissueClass.TUMOR).all()
    assert (mask[:16, 20:] == TissueClass.OTHER).all()
    assert (mask[16:, 20:] == TissueClass.BACKGROUND).all()


@pytest.mark.parametrize(
    ("shape", "side", "said"),
    [
        (box(0, 0, 10, 10), SIDE, "no tile is annotated enough (at most 10% of a tile, 30% wanted)"),
        (box(900, 900, 990, 990), SIDE, "at most 0% of a tile"),
        (box(0, 0, 20, 20), 30, "smaller than one tile of 199.1 um"),
    ],
)
def test_a_slide_without_tiles_says_why(tmp_path, shape, side, said):
    with pytest.raises(TileError) as caught:
        cut_slide(draw(tmp_path, outline("Tumor", shape), side=side), SMALL)
    assert said in str(caught.value)


@pytest.mark.data
@pytest.mark.skipif(not ORCA.is_file(), reason="the shared slides are not here")
@pytest.mark.parametrize("number", [0, 40])
def test_masks_of_real_outlines_have_the_area_that_shapely_finds(number):
    real = read_cohort(ORCA)[number]
    cut = cut_slide(real, Settings.model_validate({"tiles": {"side_px": 96}}))
    outlines = read_annotations(real.annotations, NAMES)
    side = cut.rows["side"].iat[0]
    frames = [box(x, y, x + side, y + side) for x, y in cut.rows[["x", "y"]].itertuples(index=False)]
    for label, area in (("tumor", outlines.tumor), ("non_tumor", outlines.non_tumor.difference(outlines.tumor))):
        exact = np.array([frame.intersection(area).area for frame in frames]) / side**2
        assert np.abs(cut.rows[label] - exact).max() < 0.02
        assert cut.rows[label].mean() == pytest.approx(exact.mean(), abs=0.002)
    assert cut.images.std() > 20
