"""Whole slides in windows: what a network says lands where it looked, and a killed run goes on."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from helpers.cohort import tissue, write_tiff
from helpers.mapped import SIDE_PX, Reds
from vitrail.inference.sliding import (
    blend_slide,
    class_layer,
    classify_slide,
    mirrored_probabilities,
    plan_segmentation,
)
from vitrail.slides.slide import open_slide, read_region
from vitrail.slides.stain import stain_of

SPEC = Reds(side_um=32).spec


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    y, x = np.mgrid[:300, :420]
    image = np.stack([(x + y) % 256, x % 256, y % 256], -1).astype(np.uint8)
    return open_slide(write_tiff(tmp_path_factory.mktemp("slide") / "s.tif", image, mpp=0.5))


def segmented(slide, segmenter, plan, keep, folder):
    """Return the strips of a slide, and the windows that were looked at."""
    folder.mkdir(exist_ok=True)
    steps = []
    paths = list(blend_slide(slide, class_layer(segmenter), plan, keep, folder, lambda n=1: steps.append(n)))
    return [np.load(path) for path in paths], sum(steps)


def everything(boxes):
    return np.ones(len(boxes), bool)


def nothing(boxes):
    return np.zeros(len(boxes), bool)


@pytest.mark.parametrize("overlap", [0, 0.2, 0.5])
def test_every_pixel_is_where_it_was_read(slide, tmp_path, overlap):
    plan = plan_segmentation(slide, SPEC, overlap)
    assert (plan.windows.height, plan.windows.width, plan.downsample) == (150, 210, 2.0)
    strips, steps = segmented(slide, Reds(), plan, everything, tmp_path)
    found = np.concatenate(strips)
    expected = read_region(slide, slide.region, (210, 150))[..., 0]
    assert np.abs(found[..., 0].astype(int) - expected).max() <= 1
    assert steps == plan.windows.rows * plan.windows.columns


@pytest.mark.parametrize("window", [2, 3])
def test_larger_windows_see_the_same_place(slide, tmp_path, window):
    plan = plan_segmentation(slide, SPEC, 0.25, window)
    assert (plan.windows.side, plan.windows.overlap, plan.batch) == (SIDE_PX * window, SIDE_PX // 4, 32 // window**2)
    found = np.concatenate(segmented(slide, Reds(), plan, everything, tmp_path)[0])
    expected = read_region(slide, slide.region, (210, 150))[..., 0]
    assert np.abs(found[..., 0].astype(int) - expected).max() <= 1


class Lopsided:
    """Sees every image darker to the right and to the bottom: in four mirrorings this cancels out."""

    def class_probabilities(self, images):
        height, width = images.shape[1:3]
        slope = np.linspace(-0.1, 0.1, width) + np.linspace(-0.05, 0.05, height)[:, None]
        red = images[..., 0] / 255 * 0.5 + 0.25 - slope
        return np.stack([red, 1 - red], 1).astype(np.float32)


def test_mirroring_takes_away_what_depends_on_the_side():
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), np.uint8)
    wanted = images[..., 0] / 255 * 0.5 + 0.25
    assert np.abs(Lopsided().class_probabilities(images)[:, 0] - wanted).max() > 0.1
    found = mirrored_probabilities(Lopsided(), images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack([wanted, 1 - wanted], 1), atol=1e-6)


def test_glass_is_background_and_nobody_looks(slide, tmp_path):
    segmenter, plan = Reds(), plan_segmentation(slide, SPEC, 0.2)
    found = np.concatenate(segmented(slide, segmenter, plan, nothing, tmp_path)[0])
    assert found.shape == (150, 210, 4)
    assert (found == [0, 0, 0, 255]).all()
    assert segmenter.seen == 0


@pytest.mark.parametrize("patience", [10, 30, 45])
def test_an_interrupted_map_goes_on_and_is_the_same(slide, tmp_path, patience):
    plan = plan_segmentation(slide, SPEC, 0.25)
    whole, _ = segmented(slide, Reds(), plan, everything, tmp_path / "whole")
    for patience_left in (patience, 20):
        with pytest.raises(KeyboardInterrupt):
            segmented(slide, Reds(patience=patience_left), plan, everything, tmp_path / "again")
    last, windows = Reds(), plan.windows.rows * plan.windows.columns
    again, steps = segmented(slide, last, plan, everything, tmp_path / "again")
    assert steps == windows
    assert patience < 30 or last.seen < windows
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one, other)
    untouched = Reds()
    segmented(slide, untouched, plan, everything, tmp_path / "again")
    assert untouched.seen == 0


def test_tiles_are_classified_in_order_and_once(slide, tmp_path, monkeypatch):
    monkeypatch.setattr("vitrail.inference.sliding._BLOCK", 5)
    boxes = np.array([[x, y, 64, 64] for y in range(0, 256, 64) for x in range(0, 384, 64)], float)
    expected = [read_region(slide, slide.region, (420, 300))[int(y) : int(y) + 64, int(x) : int(x) + 64, 0].mean() / 255
                for x, y, _, _ in boxes]  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        list(classify_slide(slide, Reds("classifier", patience=12), boxes, tmp_path, lambda _n: None))
    classifier, steps = Reds("classifier"), []
    found = np.concatenate([np.load(p) for p in classify_slide(slide, classifier, boxes, tmp_path, steps.append)])
    assert found == pytest.approx(expected, abs=0.01)
    assert classifier.seen == len(boxes) - 10
    assert sum(steps) == len(boxes)


class Uneven(Reds):
    """Answers two threads at the same time, the first of each two images last."""

    def __init__(self, task):
        super().__init__(task)
        self.both, self.threads = threading.Barrier(2, timeout=30), set()

    def streams(self):
        return 2

    def _seen(self, images):
        self.threads.add(threading.current_thread())
        if self.both.wait() == 0:  # whoever came last
            time.sleep(0.02)
        return super()._seen(images)


def test_two_calls_at_the_same_time_change_nothing(slide, tmp_path, monkeypatch):
    monkeypatch.setattr("vitrail.inference.sliding._CHUNK", 4)
    plan, uneven = replace(plan_segmentation(slide, SPEC, 0.25), batch=1), Uneven("segmenter")
    windows = plan.windows.rows * plan.windows.columns
    assert windows % 2 == 0  # each call meets another one
    for one, other in zip(
        segmented(slide, Reds(), plan, everything, tmp_path / "a")[0],
        segmented(slide, uneven, plan, everything, tmp_path / "b")[0],
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert (uneven.seen, len(uneven.threads)) == (windows, 2)
    boxes = np.array([[x, y, 64, 64] for y in range(0, 256, 64) for x in range(0, 384, 64)], float)
    found = []
    for name, classifier in (("c", Reds("classifier")), ("d", Uneven("classifier"))):
        (tmp_path / name).mkdir()
        paths = classify_slide(slide, classifier, boxes, tmp_path / name, lambda _n: None)
        found.append(np.concatenate([np.load(path) for path in paths]))
    np.testing.assert_array_equal(*found)


def test_networks_see_the_slide_in_the_references_colours(tmp_path):
    image = tissue(0)
    slide = open_slide(write_tiff(tmp_path / "s.tif", image, mpp=8.0), stain="macenko")
    boxes = np.array([[0, 0, 64, 64], [128, 64, 64, 64]], float)

    def reds(each, folder):
        folder.mkdir()
        return np.concatenate(
            [np.load(path) for path in classify_slide(each, Reds("classifier"), boxes, folder, lambda _n: None)]
        )

    seen, moved = reds(slide, tmp_path / "moved"), stain_of(slide).apply(image)
    expected = [moved[int(y) : int(y) + 64, int(x) : int(x) + 64, 0].mean() / 255 for x, y, _, _ in boxes]
    assert seen == pytest.approx(expected, abs=0.01)
    assert np.abs(seen - reds(replace(slide, stain="none"), tmp_path / "plain")).max() > 0.03
