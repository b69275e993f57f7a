"""Blocks of a synthetic slide, with and without artefacts, meet without a seam."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vitrail.synthetic import SlideSpec, draw


def test_blocks_join_without_a_seam():
    spec = SlideSpec(slide_id="a", side_px=1536, seed=(4,))
    scene = draw.compose(spec)
    scene = replace(scene, stain=replace(scene.stain, noise=0.0))
    whole = draw.draw_block(scene, 0, 0)
    shifted = draw.draw_block(scene, 512, 512)
    assert np.array_equal(whole[512:, 512:], shifted[:512, :512])
    assert whole[512:, 512:].std() > 20


def test_blocks_meet_without_a_seam(monkeypatch):
    names = ("blur", "fold", "pen_black", "bubble")
    quiet = draw.compose(SlideSpec(slide_id="S", side_px=512, seed=(11,), artefacts=names))
    quiet = replace(quiet, stain=replace(quiet.stain, noise=0.0))
    whole = np.concatenate(list(draw.draw_strips(quiet)))
    monkeypatch.setattr(draw, "BLOCK_PX", 256)
    parts = np.concatenate(list(draw.draw_strips(quiet)))
    assert np.abs(whole.astype(int) - parts).max() <= 1
