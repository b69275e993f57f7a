"""Explanations of a run and their checks, drawn at random; by the paper's two methods, or by further made-up ones."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pandas as pd

from vitrail.explain.agreement import (
    agreement,
    beyond_others,
    correlate,
    other_tiles,
    rank_agreement,
    rank_points,
)
from vitrail.explain.checks.perturbation import FLOORS
from vitrail.explain.checks.results import COLUMNS, open_checked, summarise
from vitrail.explain.saliency import Frame, Saliency
from vitrail.explain.study.store import Kind, create_file, open_stored, pairs
from vitrail.report.data import Explained
from vitrail.report.select import choose_examples

NETWORKS = ("classifier", "segmenter")
REPLACEMENTS = ("blur", "donor")
METHODS = {"gradcam": "Grad-CAM", "hrcam": "HR-CAM"}
THREE = METHODS | {"toy": "Toy"}
"""The paper's two methods, and a made-up one."""

TITLES = {
    "classifier_gradcam": "Grad-CAM, classification network",
    "classifier_hrcam": "HR-CAM, classification network",
    "segmenter_gradcam": "Grad-CAM, segmentation network",
    "segmenter_hrcam": "HR-CAM, segmentation network",
}

DESCRIBED = {
    "gradcam": {"describes": "", "passes": 1, "gradients": 1},
    "hrcam": {"describes": "looks at many layers", "passes": 1, "gradients": 0},
    "toy": {"describes": "hides places", "passes": 100, "gradients": 0},
}

SIDE = 32
FRAME = Frame(image_px=(SIDE, SIDE), span_px=(SIDE, SIDE))


def explained_rows(n):
    """Tiles of three patients; the classifier errs on every fifth tile, the segmenter on every seventh."""
    rng = np.random.default_rng(n)
    at, tumor = np.arange(n), np.arange(n) % 2 == 0
    right = [np.where(at % step, tumor, ~tumor) for step in (5, 7)]
    p = [np.where(calls, rng.uniform(0.6, 1, n), rng.uniform(0, 0.4, n)) for calls in right]
    patients = np.array([f"P{i}" for i in at % 3], object)
    return pd.DataFrame(
        {
            "tile": at, "slide_id": patients, "patient_id": patients, "x": 32.0 * (at % 8), "y": 32.0 * (at // 8 % 8),
            "side": 32.0, "label": np.where(tumor, "tumor", "non_tumor"), "classifier": p[0], "segmenter": p[1],
        }
    )  # fmt: skip


def write_explanations(folder, n=36, rows=None, methods=METHODS):
    """Write `explanations/` as the stage would; the segmenter's Grad-CAM is 0 on every sixth tile."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = explained_rows(n) if rows is None else rows
    rng = np.random.default_rng(0)
    kinds = {
        f"{network}_{method}": Kind(method=method, layers=("last",), target="tumor", frame=FRAME, size=size)
        for network, (method, size) in product(NETWORKS, zip(methods, ((2, 2), (4, 4), (3, 3)), strict=False))
    }
    file = create_file(folder, kinds, n)
    for key, kind in kinds.items():
        file.maps(key)[:] = rng.normal(0, 1, (n, *kind.size))
    file.maps("segmenter_gradcam")[::6] = 0
    table = rows[["tile", "slide_id", "patient_id"]].copy()
    table["other"] = others = other_tiles(n, 0)
    summaries = {"agreement": {}, "agreement_relu": {}}
    for (pair, keys), relu in product(pairs(kinds).items(), (False, True)):
        r = correlate(*(file.maps(key) for key in keys), (FRAME, FRAME), relu=relu)
        table[f"{pair}_relu" if relu else pair] = r
        result = agreement(r, rows["patient_id"], 0).summary()
        summaries["agreement_relu" if relu else "agreement"][pair] = result
        if not relu:
            ranks = [rank_points(file.maps(key), FRAME) for key in keys]
            values, null = (rank_agreement(ranks[0], ranks[1][of]) for of in (np.arange(n), others))
            for statistic, *both in zip(("spearman", "top10"), values, null, strict=True):
                table[f"{pair}_{statistic}"], table[f"{pair}_{statistic}_null"] = both
                result[statistic] = beyond_others(*both, rows["patient_id"], 0)
            table[f"{pair}_null"] = correlate(*(file.maps(key) for key in keys), (FRAME, FRAME), others=others)
            result["pearson"] = beyond_others(r, table[f"{pair}_null"].to_numpy(), rows["patient_id"], 0)
    layer = {"name": "encoder.blocks.0", "stride": 2, "channels": 16, "size_px": 16}
    accuracy = {"accuracy": 0.9, "interval": [0.8, None], "tiles": n, "train_accuracy": None, "train_tiles": 0}
    summary = summaries | {
        "hrcam_accuracy": dict.fromkeys(NETWORKS, accuracy),
        "empty": {key: int((file.maps(key) <= 0).all((1, 2)).sum()) for key in kinds},
        "tiles": n,
        "patients": rows["patient_id"].nunique(),
        "min_share": 0.8,
        "layers": {"classifier": [layer, layer], "segmenter": [layer]},
    }
    summary |= {} if methods == METHODS else {"methods": methods, "described": DESCRIBED}
    rows.to_parquet(folder / "tiles.parquet")
    table.to_parquet(folder / "agreement.parquet")
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_checks(folder, *, phantom=True, patients=6, tiles=12, draws=4, methods=METHODS):
    """Write `checks/`: Grad-CAM finds what matters, HR-CAM is worse than chance, but for its weight on nuclei.

    A third method is measured to be as good as Grad-CAM.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    fractions, curves, forgotten, located = np.linspace(0, 1, 5), [], [], []
    reference, changed, described = [], [], []
    others = dict.fromkeys(methods, (6.0, 0.1, "head")) | {"hrcam": (1.2, 0.8, "auxiliary")}
    for tile in range(tiles):
        owner = {"tile": tile, "patient_id": f"P{tile % patients}"}
        for network in NETWORKS:
            reference.append(owner | {"network": network, "score": rng.uniform(0, 0.04)})
            orders = {method: speed for method, (speed, _, _) in others.items()}
            orders |= {"random": 2.0, "blob": 2.5, "edges": 2.2, "untrained": 1.8}
            for order, speed in orders.items():
                drop = np.exp(-speed * rng.uniform(0.8, 1.2) * fractions)
                for replacement, (kind, scores) in product(REPLACEMENTS, (("deletion", drop), ("insertion", 1 - drop))):
                    row = owner | {"network": network, "replacement": replacement, "order": order, "kind": kind}
                    # the segmenter still sees tumor in blurred tiles
                    least = 0.9 if replacement == "blur" and network == "segmenter" else 0.0
                    pairs = zip(fractions, np.maximum(scores, least), strict=True)
                    curves += [row | {"fraction": f, "score": s, "logit": 5 * s} for f, s in pairs]
            for method, change in product((*methods, *FLOORS), ("stain", "turn")):
                row = owner | {"network": network, "method": method, "change": change, "chance": 0.1}
                row |= (
                    {"residue": 0.1, "difference": 2.0}
                    if method == "toy"
                    else {"residue": np.nan, "difference": np.nan}
                )
                changed.append(row | {"correlation": 0.85 + rng.uniform(-0.05, 0.05)})
            for method in (*methods, *FLOORS):
                row = owner | {"key": f"{network}_{method}", "gini": 0.5 + rng.uniform(-0.05, 0.05)}
                described.append(row | {"shared": 0.3 if method == "hrcam" else 0.05 + rng.uniform(-0.02, 0.02)})
            for method, (_, left, top) in others.items():
                steps = [(0, "untouched"), (1, top), (2, "blocks.0")]
                for draw, (number, step) in product(range(draws), steps):
                    row = owner | {"network": network, "method": method, "number": number, "step": step, "draw": draw}
                    same = left + rng.uniform(-0.02, 0.02) if number else 1.0
                    forgotten.append(row | {"correlation": same, "chance": 0.1})
        for network, method in product(NETWORKS, methods):
            for region, weight in (("atypical_nuclei", 0.3), ("nuclei", 0.3), ("stroma", 0.1)):
                share = weight if method != "hrcam" or region == "stroma" else 0.21
                chance = {"others": 0.21 + rng.uniform(-0.03, 0.03), "turned": 0.22 + rng.uniform(-0.03, 0.03)}
                row = owner | {"key": f"{network}_{method}", "region": region, "weight": share, "area": 0.2}
                located.append(row | chance)
    names = {
        "perturbation": curves, "randomisation": forgotten, "truth": located if phantom else [],
        "reference": reference, "stability": changed, "maps": described,
    }  # fmt: skip
    tables = {name: pd.DataFrame(rows, columns=list(COLUMNS[name])) for name, rows in names.items()}
    for name, table in tables.items():
        table.astype(COLUMNS[name]).to_parquet(folder / f"{name}.parquet")
    keys = [f"{network}_{method}" for network, method in product(NETWORKS, methods)]
    summary = summarise(tables, 0, keys, methods, dict.fromkeys(keys, (4, 4)))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def shares_of(n):
    return pd.DataFrame({"tumor": np.linspace(0.3, 1, n), "non_tumor": np.linspace(0.5, 0, n), "other": 0.0})


def explained(folder, n=36, rows=None, *, checked=True, methods=METHODS, **options):
    stored = open_stored(write_explanations(folder / "explanations", n, rows, methods))
    examples = choose_examples(stored, shares_of(n), 0.5)
    rng = np.random.default_rng(2)
    return Explained(
        stored=stored,
        checked=open_checked(write_checks(folder / "checks", methods=methods, **options)) if checked else None,
        threshold=0.5,
        side_um=199.1,
        examples=examples,
        pictures={row: rng.integers(120, 256, (40, 40, 3), np.uint8) for row in examples.all},
    )


def saliency(values, method="gradcam", *, signed=True):
    return Saliency(
        method=method, layers=("last",), target="tumor", values=np.asarray(values, np.float32), frame=FRAME,
        signed=signed,
    )  # fmt: skip
