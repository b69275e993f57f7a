"""What a report is made of, drawn at random."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from html.parser import HTMLParser

import numpy as np
from scipy.ndimage import gaussian_filter

from helpers.numbers import evaluation_data
from vitrail.classes import TissueClass
from vitrail.report.data import ReportData, SlideMaps

HOSTILE = '../<script>alert("$x_{$")</script> & co \u202e\u4e2d'


def smooth(shape, sigma, rng):
    field = gaussian_filter(rng.standard_normal(shape), sigma)
    return (field - field.mean()) / field.std()


def ring(x, y, radius, rng):
    turn = np.linspace(0, 2 * np.pi, 90)
    waves = sum(rng.normal(0, 0.07) * np.sin(k * turn + rng.uniform(0, 6)) for k in range(2, 7))
    return np.stack([x + radius * (1 + waves) * np.cos(turn), y + radius * (1 + waves) * np.sin(turn)], 1)


def slide_maps(slide_id, seed, size=(160, 200), side=6.3):
    """A slide of smooth blobs: tissue, tumor within it, and predictions that err at random."""
    rng = np.random.default_rng(seed)
    h, w = size
    yy, xx = np.mgrid[:h, :w]
    edge = 1 - np.hypot((xx - w / 2) / (0.47 * w), (yy - h / 2) / (0.45 * h))
    tissue = edge + 0.13 * smooth(size, h / 16, rng) > 0
    tumor = smooth(size, h / 7, rng)
    stain = 0.5 + 0.16 * tumor + 0.09 * smooth(size, h / 70, rng) + 0.06 * rng.standard_normal(size)
    colour = np.array([[238, 190, 215], [128, 70, 150]], float)
    picture = colour[0] + np.clip(stain, 0, 1)[..., None] * (colour[1] - colour[0])
    picture = np.where(tissue[..., None], picture, 244 + rng.normal(0, 1, (h, w, 1)))
    rows, columns = math.ceil(h / side), math.ceil(w / side)
    py = np.minimum((np.arange(rows) + 0.5) * side, h - 1).astype(int)
    px = np.minimum((np.arange(columns) + 0.5) * side, w - 1).astype(int)
    here = np.ix_(py, px)
    probability = 1 / (1 + np.exp(-2.5 * tumor[here] - rng.normal(0, 1, (rows, columns))))
    probability[~tissue[here]] = np.nan
    my = np.minimum((np.arange(rows * 8) + 0.5) * side / 8, h - 1).astype(int)
    mx = np.minimum((np.arange(columns * 8) + 0.5) * side / 8, w - 1).astype(int)
    there = np.ix_(my, mx)
    shape = (rows * 8, columns * 8)
    found = np.where(tumor[there] + 0.3 * smooth(shape, 4, rng) > 0, 0, 1)
    found[smooth(shape, 6, rng) > 1.7] = TissueClass.OTHER
    found[~tissue[there]] = TissueClass.BACKGROUND
    found[np.repeat(np.repeat(np.isnan(probability), 8, 0), 8, 1)] = 255
    outlines = {
        TissueClass.TUMOR: [ring(0.36 * w, 0.45 * h, 0.22 * h, rng), ring(0.36 * w, 0.45 * h, 0.07 * h, rng)],
        TissueClass.NON_TUMOR: [ring(0.68 * w, 0.55 * h, 0.2 * h, rng)],
    }
    return SlideMaps(
        slide_id=slide_id,
        patient_id=f"P{seed:02d}",
        accuracy=0.913,
        thumbnail=np.clip(picture, 0, 255).astype(np.uint8),
        width_um=w / side * 199.1,
        outlines=outlines,
        classifier=probability.astype(np.float32),
        segmenter=found.astype(np.uint8),
        artefacts=np.zeros((rows, columns), np.float32),
        background=np.isnan(probability),
        tile_side=side,
    )


def report_data(n=10, tiles=40, size=(160, 200)):
    return ReportData(
        title="Head and neck cancer, a made-up cohort",
        settings_toml='seed = 0\n\n[tiles]\n# "we extracted tiles of size 199.1 \u00b5m"\nside_um = 199.1\n',
        evaluation=evaluation_data(n, tiles),
        warnings=["The cohort is made up."],
        maps=[slide_maps("S008", 8, size), slide_maps(HOSTILE, 9, (size[0], size[0] * 6 // 10))],
    )


def changed(data, **changes):
    """Return what a report is made of with other fields, of its own or of its numbers."""
    if explained := changes.get("explained"):
        changes |= {"explanations": explained.stored, "checks": explained.checked}
    own = {field.name for field in fields(ReportData)}
    numbers = {name: value for name, value in changes.items() if name not in own}
    others = {name: value for name, value in changes.items() if name in own}
    return replace(data, evaluation=replace(data.evaluation, **numbers), **others)


class Page(HTMLParser):
    """Collect what a page holds and what it points to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.labels, self.words = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in {"src", "href", "xlink:href", "srcset", "action", "data"}:
                self.links.append(value)
            if name == "aria-label":
                self.labels.append(value)

    def handle_data(self, data):
        self.words.append(data)
