"""Tiles that a small network learns to tell apart in seconds."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pandas as pd

from helpers.specs import classifier_spec, segmenter_spec
from vitrail.settings.load import Settings
from vitrail.tiles.store import TileTable
from vitrail.training.loader import training_tiles

SIDE = 32
TASKS = ("classifier", "segmenter")
COLOURS = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
SPECS = {
    "classifier": classifier_spec(side_px=SIDE, dense=8, dropout=0, **COLOURS),
    "segmenter": segmenter_spec(side_px=SIDE, decoder=(8,) * 5, **COLOURS),
}


def make_tiles(n=48, seed=0):
    """Tumor is violet, the rest pink; each tile has a white rim of background below."""
    rng = np.random.default_rng(seed)
    tumor = np.arange(n) % 2 == 0
    images = np.where(tumor[:, None, None, None], (110, 70, 150), (225, 160, 190)) + rng.normal(
        0, 10, (n, SIDE, SIDE, 3)
    )
    masks = np.where(tumor[:, None, None], 0, 1) * np.ones((1, SIDE, SIDE))
    images[:, 24:], masks[:, 24:] = 250, 3
    rows = pd.DataFrame({"slide_id": "S", "label": np.where(tumor, "tumor", "non_tumor")})
    return TileTable(rows=rows, images=images.clip(0, 255).astype(np.uint8), masks=masks.astype(np.uint8))


def make_parts(n=48):
    split = np.where(np.arange(n) < n * 2 // 3, "train", "validation")
    return training_tiles(make_tiles(n), split)


def settings(seed=0, epochs=3, **changes):
    common = {"learning_rate": 3e-3, "batch": 8, "epochs": epochs} | changes
    return Settings.model_validate(
        {
            "seed": seed,
            "tiles": {"side_px": SIDE},
            "encoder": {"name": "test_efficientnet", "weights": "random"},
            "classifier": common | {"dense": 16, "dropout": 0.2},
            "segmenter": common | {"decoder": [16, 8, 8, 8, 8]},
            "compute": {"device": "cpu"},
        }
    )


class Killed(Exception):  # noqa: N818 - it stands for a signal
    pass


class Killer:
    """Ends a training after some steps; remembers all notes."""

    def __init__(self, after=10**9):
        self.left, self.notes, self.begun = after, [], None

    @contextmanager
    def task(self, title, total, done=0):
        self.begun = (title, total, done)

        def step(n=1, note=""):
            self.left -= n
            self.notes.append(note)
            if self.left < 0:
                raise Killed

        yield step

    def say(self, line):
        self.notes.append(line)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def history(folder):
    return pd.read_csv(folder / "history.csv", index_col="epoch", float_precision="round_trip")


def with_units(monkeypatch, *, there=True):
    """Let the CPU have instructions for bfloat16, or none; those that it lacks are emulated."""
    monkeypatch.setattr("vitrail.models.device._cpu_flags", lambda _path: {"avx512_bf16"} if there else set())
