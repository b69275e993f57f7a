"""The numbers of a study, drawn at random."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vitrail.evaluation.results import Evaluation
from vitrail.settings.schema import EvaluationSettings

SPLIT = ["train"] * 7 + ["validation"] + ["test"] * 2


def predictions(slides, rng):
    rows = slides.loc[np.repeat(slides.index, slides["tumor_tiles"] + slides["non_tumor_tiles"])]
    tumor = np.concatenate(
        [np.arange(t + n) < t for t, n in zip(slides["tumor_tiles"], slides["non_tumor_tiles"], strict=True)]
    )
    n = len(rows)
    sign = np.where(tumor, 1.0, -1.0)
    shares = np.where(tumor[:, None], [0.7, 0.08, 0.12, 0.1], [0.08, 0.62, 0.15, 0.15])
    hits = np.array(
        [[0.85, 0.1, 0.04, 0.01], [0.1, 0.84, 0.05, 0.01], [0.35, 0.3, 0.33, 0.02], [0.01, 0.01, 0.03, 0.95]]
    )
    pixels = [rng.multinomial(96 * 96, (share[:, None] * hits).ravel()) for share in shares]
    return with_logits(
        {
            "slide_id": rows["slide_id"].to_numpy(),
            "patient_id": rows["patient_id"].to_numpy(),
            "split": rows["split"].to_numpy(),
            "x": rng.uniform(0, 9e4, n),
            "y": rng.uniform(0, 9e4, n),
            "side": 1024.0,
            "label": np.where(tumor, "tumor", "non_tumor"),
            "classifier": 1 / (1 + np.exp(-1.7 * sign - rng.normal(0, 1.4, n))),
            "segmenter": np.clip(0.5 + 0.25 * sign + rng.normal(0, 0.24, n), 0, 1).round(2),
            "pixels": pixels,
        }
    )


def with_logits(columns, temperature=1.5):
    """Take `classifier` for calibrated by this temperature."""
    p = np.asarray(columns["classifier"])
    return pd.DataFrame(columns | {"classifier_logit": temperature * np.log(p / (1 - p))})


def history(epochs, rng, score):
    e = np.arange(1, epochs + 1)
    train = 0.12 + 0.6 * np.exp(-e / 4) + rng.normal(0, 0.008, epochs)
    validation = 0.2 + 0.5 * np.exp(-e / 3) + 0.006 * np.maximum(e - 7, 0) + rng.normal(0, 0.012, epochs)
    columns = {
        "epoch": e,
        "train_loss": train,
        "validation_loss": validation,
        f"validation_{score}": 1 - validation / 2,
    }
    return pd.DataFrame(columns)


def evaluation_data(n=10, tiles=40):
    """A cohort of `n` patients with one slide each: seven in ten learn, one chooses, two are tested."""
    rng = np.random.default_rng(5)
    slides = pd.DataFrame(
        {
            "slide_id": [f"S{i:03d}" for i in range(n)],
            "patient_id": [f"P{i:02d}" for i in range(n)],
            "split": (SPLIT * n)[:n],
            "mpp": 0.194,
            "tumor_tiles": rng.integers(tiles // 2, tiles, n),
            "non_tumor_tiles": rng.integers(tiles // 3, tiles, n),
            "site": rng.choice(["Oral cavity", "Oropharynx", "Hypopharynx", "Larynx"], n),
            "p16": rng.choice(["positive", "negative", None], n),
            "age": rng.normal(62, 9, n).round(1),
        }
    )
    return Evaluation(
        slides=slides,
        skipped=pd.DataFrame({"slide_id": ["S900"], "reason": ["The file ends early. Copy it again."]}),
        history={"classifier": history(12, rng, "accuracy"), "segmenter": history(12, rng, "jaccard")},
        predictions=predictions(slides, rng),
        warnings=(),
        settings=EvaluationSettings(resamples=200, stacking_iterations=3),
        seed=0,
        temperatures={"classifier": 1.5, "segmenter": 3.0},
        calibrated=True,
    )
