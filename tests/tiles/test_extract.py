"""The paper's rules for tiles, on slides and outlines whose answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import contains_xy
from shapely.geometry import Point, box

from helpers.cohort import MPP, SIDE, outline, tissue, write_outlines, write_tiff
from helpers.data import DATA, needs_data
from helpers.tiles import cut_slide
from vitrail.classes import LABELS, TissueClass
from vitrail.core import threads
from vitrail.core.progress import Silent
from vitrail.errors import RunError, SlideError, TileError
from vitrail.geometry import Region
from vitrail.settings.load import Settings
from vitrail.settings.schema import TileSettings
from vitrail.slides.annotations import Annotation, Annotations, ClassNames, read_annotations
from vitrail.slides.cohort import CohortSlide, read_cohort
from vitrail.slides.slide import open_slide, read_region
from vitrail.tiles import extract as cut
from vitrail.tiles.extract import CutJob, cut_part, cut_tiles, finished_part, plan_slide
from vitrail.tiles.grid import TileGrid, covering_grid, inner_grid
from vitrail.tiles.masks import UNANNOTATED, annotated, complete_mask
from vitrail.tiles.sampling import Candidates, candidates, choose
from vitrail.tiles.store import join_arrays

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
    with pytest.raises(SlideError, match=r"tiles of 0\.01 um, more than 10,000,000\. Take larger tiles"):
        inner_grid(slide, 0.01)


def test_a_fractional_grid_does_not_drift():
    grid = TileGrid(side=90.5, rows=3, columns=1000)
    assert grid.strip(0, 999, 1).x == 999 * 90.5
    assert (grid.strip(2, 3, 5).x, grid.strip(2, 3, 5).y, grid.strip(2, 3, 5).width) == (271.5, 181, 452.5)


def test_where_outlines_overlap_tumor_wins(tmp_path):
    path = write_outlines(
        tmp_path / "s.geojson", outline("Tumor", box(0, 0, 6, 8)), outline("Non-tumor", box(4, 0, 8, 4))
    )
    labels = annotated(read_annotations(path, NAMES), Region(x=0, y=0, width=8, height=8), (8, 8))
    assert (labels[:, :6] == TissueClass.TUMOR).all()
    assert (labels[:4, 6:] == TissueClass.NON_TUMOR).all()
    assert (labels[4:, 6:] == UNANNOTATED).all()


def test_unannotated_pixels_are_glass_or_other_tissue():
    labels = np.array([[0, 1, 255, 255, 255]], np.uint8)
    image = np.array([[[255] * 3, [255] * 3, [255] * 3, [220] * 3, [255, 255, 219]]], np.uint8)
    assert complete_mask(labels, image, 220).tolist() == [[0, 1, 3, 3, 2]]


def test_white_inside_an_outline_is_the_outlines_or_background():
    labels = np.array([[0, 0, 1, 255]], np.uint8)
    image = np.array([[[255] * 3, [100] * 3, [230] * 3, [255] * 3]], np.uint8)
    assert complete_mask(labels, image, 220).tolist() == [[0, 0, 1, 3]]
    assert complete_mask(labels, image, 220, "background").tolist() == [[3, 0, 3, 3]]


def test_tiles_follow_the_outlines_whatever_is_white_inside(tmp_path):
    drawn = draw(tmp_path, outline("Tumor", box(0, 0, 128, 256)), outline("Non-tumor", box(130, 0, 256, 256)))
    kept, other = (
        cut_slide(drawn, SMALL.model_copy(update={"tiles": SMALL.tiles.model_copy(update={"white_inside": inside})}))
        for inside in ("outline", "background")
    )
    columns = ["x", "y", "label"]
    pd.testing.assert_frame_equal(kept.rows[columns], other.rows[columns])
    white = (kept.images >= 220).all(3)
    assert white.any()
    assert not (kept.masks[kept.rows["y"] == 224] == TissueClass.BACKGROUND).all(2).any()
    np.testing.assert_array_equal(other.masks, np.where(white, TissueClass.BACKGROUND, kept.masks))
    assert other.rows["background"].max() > 0


def test_ignored_outlines_are_not_annotated(tmp_path):
    names = {"tumor": ["Tumor"], "non_tumor": ["Non-tumor"], "ignore": ["Necrosis"]}
    wanted = Settings.model_validate({"tiles": {"side_px": 32}, "annotations": names})
    necrosis = box(40, 40, 90, 100)
    found = cut_slide(draw(tmp_path, outline("Tumor", box(0, 0, 128, 224)), outline("Necrosis", necrosis)), wanted)
    y, x = np.mgrid[:32, :32] + 0.5
    for row, mask in zip(found.rows.itertuples(), found.masks, strict=True):
        dead = contains_xy(necrosis, row.x + x, row.y + y)
        np.testing.assert_array_equal(mask == TissueClass.TUMOR, ~dead)
        assert (mask[dead] == TissueClass.OTHER).all()
        assert row.tumor == 1 - dead.mean()
    places = set(zip(found.rows["x"], found.rows["y"], strict=True))
    assert (32, 32) in places
    assert not {(64, 64), (32, 64)} & places  # necrosis covers more than 70 % of these


def test_annotation_is_measured_as_drawn(tmp_path):
    path = write_outlines(
        tmp_path / "s.geojson", outline("Tumor", box(0, 0, 48, 16)), outline("Non-tumor", box(32, 16, 64, 32))
    )
    found = candidates(read_annotations(path, NAMES), TileGrid(side=32, rows=2, columns=2), 16)
    assert found.share.tolist() == [[0.5, 0], [0.25, 0.5], [0, 0], [0, 0]]
    assert found.label.tolist() == [0, 1, 0, 0]


def drawn_everywhere(annotations, grid, side_px):
    """The shares of all tiles as their own masks have them."""
    regions = [grid.strip(row, column, 1) for row in range(grid.rows) for column in range(grid.columns)]
    masks = [annotated(annotations, region, (side_px, side_px)) for region in regions]
    return [[(mask == label).mean() for label in LABELS] for mask in masks]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 7))
def test_tiles_that_no_outline_crosses_are_measured_without_drawing(seed, rows, columns):
    rng = np.random.default_rng(seed)
    grid, size = TileGrid(side=20.0, rows=rows, columns=columns), np.array([columns, rows]) * 20
    places = [rng.uniform(-10, size + 10) for _ in range(6)]
    shapes = [Point(place).buffer(rng.uniform(5, 60), quad_segs=3) for place in places]
    shapes[0] = shapes[0].difference(shapes[1].buffer(-3)).buffer(0)
    shapes[5] = box(20, 20, 60, 40)  # along the tiles' borders
    outlines = [
        Annotation(label=LABELS[number % 2], geometry=shape) for number, shape in enumerate(shapes) if shape.area
    ]
    annotations = Annotations(outlines=tuple(outlines))
    assert candidates(annotations, grid, 16).share.tolist() == drawn_everywhere(annotations, grid, 16)


def test_only_tiles_that_an_outline_crosses_are_drawn(monkeypatch):
    shapes = box(0, 0, 300, 300), box(300, 0, 400, 400)  # the left one's lower border crosses the tiles of one row
    annotations = Annotations(
        outlines=tuple(Annotation(label=label, geometry=shape) for label, shape in zip(LABELS, shapes, strict=True))
    )
    drawn = []
    monkeypatch.setattr("vitrail.tiles.sampling.annotated", lambda *given: drawn.append(given[1:]) or annotated(*given))
    share = candidates(annotations, TileGrid(side=40, rows=10, columns=10), 8).share
    assert drawn == [
        (Region(x=280, y=row * 40, width=40, height=40), (8, 8)) if row != 7
        else (Region(x=0, y=280, width=320, height=40), (64, 8))
        for row in range(10)
    ]  # fmt: skip
    assert share.sum() == (300 * 300 + 100 * 400) / 40**2


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
    found = cut_slide(
        draw(tmp_path, outline("Tumor", box(0, 0, half, SIDE)), outline("Non-tumor", box(half, 0, SIDE, 64))), SMALL
    )
    rows = found.rows
    assert rows["label"].value_counts().to_dict() == {"tumor": 32, "non_tumor": 8}
    assert np.allclose(rows[["tumor", "non_tumor", "other", "background"]].sum(axis=1), 1)
    pixels = tissue(0)
    for i, (x, y) in enumerate(rows[["x", "y"]].round().astype(int).itertuples(index=False)):
        assert np.array_equal(found.images[i], pixels[y : y + 32, x : x + 32])
    assert set(np.unique(found.masks)) == {0, 1}


def test_a_tiles_mask_knows_all_four_classes(tmp_path):
    shapes = outline("Tumor", box(0, 224, 20, 256)), outline("Non-tumor", box(10, 224, 20, 250))
    found = cut_slide(draw(tmp_path, *shapes), SMALL)
    assert len(found.rows) == 1
    mask = found.masks[0]
    assert (mask[:, :20] == TissueClass.TUMOR).all()
    assert (mask[:16, 20:] == TissueClass.OTHER).all()
    assert (mask[16:, 20:] == TissueClass.BACKGROUND).all()


def test_wide_slides_are_read_in_stripes(tmp_path, monkeypatch):
    entry = draw(tmp_path, outline("Tumor", box(0, 0, SIDE, SIDE)))
    whole = cut_slide(entry, SMALL)
    monkeypatch.setattr(cut, "_STRIPE", 3)
    plan = plan_slide(entry, SMALL)
    places = [(x, y) for x, y in plan.rows[["x", "y"]].itertuples(index=False)]
    order = [tile.row for tile in cut_tiles(plan, SMALL)]
    side = plan.rows["side"].iloc[0]
    read = [(places[row][0] // side // 3, places[row][1], places[row][0]) for row in order]
    assert read == sorted(read)
    assert sorted(order) == list(range(64))
    assert order != sorted(order)
    striped = cut_slide(entry, SMALL)
    assert np.array_equal(striped.images, whole.images)
    pd.testing.assert_frame_equal(striped.rows, whole.rows)


@pytest.mark.parametrize("reading", ["fast", "faithful"])
def test_threads_cut_the_same_bytes(tmp_path, monkeypatch, reading):
    slide = draw(tmp_path, outline("Tumor", Point(60, 70).buffer(50)), outline("Non-tumor", box(90, 0, SIDE, SIDE)))
    parameters = {"tiles": {"side_px": 32, "min_annotated": 0.01}, "slides": {"reading": reading}}
    written = []
    for count in (1, 2, 5):
        monkeypatch.setattr(threads, "thread_count", lambda count=count: count)
        part = tmp_path / f"{count}"
        cut_part(CutJob(entry=slide, settings=Settings.model_validate(parameters), part=part), Silent())
        written.append([part.with_suffix(name).read_bytes() for name in (".images.npy", ".masks.npy", ".parquet")])
    assert written[0] == written[1] == written[2]


def test_a_part_says_what_became_of_its_slide(tmp_path):
    entry = draw(tmp_path, outline("Tumor", box(0, 0, 100, SIDE)), outline("Non-tumor", box(100, 0, SIDE, 70)))
    job = CutJob(entry=entry, settings=SMALL, part=tmp_path / "part")
    assert finished_part(job.part) is None
    cut_part(job, Silent())
    outcome = finished_part(job.part)
    assert outcome.mpp == pytest.approx(MPP)
    assert sorted(path.name for path in tmp_path.glob("part*")) == [
        f"part.{suffix}" for suffix in ("images.npy", "json", "masks.npy", "parquet")
    ]


def test_what_cannot_be_cut_to_the_end_leaves_no_part(tmp_path, monkeypatch):
    def broken(slide, region, size):
        if region.y:
            raise SlideError(slide.path, "is torn", "Scan it again")
        return read_region(slide, region, size)

    monkeypatch.setattr(cut, "read_region", broken)
    (tmp_path / "parts").mkdir()
    job = CutJob(
        entry=draw(tmp_path, outline("Tumor", box(0, 0, SIDE, SIDE))), settings=SMALL, part=tmp_path / "parts" / "part"
    )
    with pytest.raises(SlideError, match=r"^s\.tif: is torn"):
        cut_part(job, Silent())
    assert not list((tmp_path / "parts").iterdir())
    assert finished_part(job.part) is None


def test_arrays_are_joined_from_rows_of_others(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 255, (count, 5, 4, 3), np.uint8) for count in (3, 1, 9)]
    for number, array in enumerate(arrays):
        np.save(tmp_path / f"{number}.npy", array)
    sources = [(tmp_path / "0.npy", slice(1, 3)), (tmp_path / "1.npy", slice(0, 1)), (tmp_path / "2.npy", slice(4, 8))]
    join_arrays(tmp_path / "all.npy", (7, 5, 4, 3), sources)
    assert np.array_equal(np.load(tmp_path / "all.npy"), np.concatenate([arrays[0][1:], arrays[1], arrays[2][4:8]]))
    np.save(tmp_path / "same.npy", np.load(tmp_path / "all.npy"))
    assert (tmp_path / "same.npy").read_bytes() == (tmp_path / "all.npy").read_bytes()
    with pytest.raises(RunError, match=r"0\.npy: is cut short"):
        join_arrays(tmp_path / "all.npy", (9, 5, 4, 3), [(tmp_path / "0.npy", slice(0, 9))])


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
        plan_slide(draw(tmp_path, outline("Tumor", shape), side=side), SMALL)
    assert said in str(caught.value)


@needs_data("orca")
@pytest.mark.parametrize("number", [0, 40])
def test_masks_of_real_outlines_have_the_area_that_shapely_finds(number):
    real = read_cohort(DATA / "orca" / "slides.csv")[number]
    found = cut_slide(real, Settings.model_validate({"tiles": {"side_px": 96}}))
    outlines = read_annotations(real.annotations, NAMES)
    side = found.rows["side"].iloc[0]
    frames = [box(x, y, x + side, y + side) for x, y in found.rows[["x", "y"]].itertuples(index=False)]
    for label, area in (("tumor", outlines.tumor), ("non_tumor", outlines.non_tumor.difference(outlines.tumor))):
        exact = np.array([frame.intersection(area).area for frame in frames]) / side**2
        assert np.abs(found.rows[label] - exact).max() < 0.02
        assert found.rows[label].mean() == pytest.approx(exact.mean(), abs=0.002)
    assert found.images.std() > 20
