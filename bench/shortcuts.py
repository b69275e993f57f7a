"""How often a planted shortcut is named, and how often one is named where there is none.

    python -m bench.shortcuts [FOLDER] [--cohorts N] [--patients N] [--first SEED]

Each cohort is drawn from a seed of its own: slides of 0.5 mm, cut into overlapping tiles of 64 px. From each come two
networks, an encoder with ImageNet's weights under a fitted head: a clean one, and one that has learnt a shortcut, which
is planted on half of the training tiles, whatever their tissue; these are labelled tumor. Of the test tiles all tumor
has it, and nothing else. The shortcuts take turns: strokes of ink, a stain, a lack of focus, a burnt-in cross. What is
measured is told nothing of this; the truth is what the network loses on the same tiles without the shortcut.
Results are kept in FOLDER, a line each, and a cohort that is there already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from vitrail.explain.checks.counterfactuals import LIGHT, Looks, as_bytes, candidates, restain
from vitrail.explain.checks.reliance import measure, summarise
from vitrail.explain.checks.reliance_study import called_tiles, log_odds
from vitrail.explain.explainer import Explainer
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.spec import ClassifierSpec
from vitrail.models.store import Model, build
from vitrail.models.weights import load_encoder, start_weights
from vitrail.settings.schema import EncoderSettings
from vitrail.slides.readers.resample import area_resample
from vitrail.synthetic import PhantomCohort, TissueType
from vitrail.synthetic.draw import compose, draw_strips
from vitrail.synthetic.spec import LAYOUT_STEP
from vitrail.training.loader import channel_statistics

SIDE_PX, SIDE_UM, SLIDE_PX, STRIDE = 64, 132.7, 1024, 3
ENCODER = EncoderSettings(name="tf_efficientnet_lite0", weights="embedded")
SHORTCUTS = {"ink": "ink", "stain": "stain", "blur": "sharpness", "mark": "mark"}
"""What is planted, and the candidate that should be named."""

INKS = np.array([[40, 70, 160], [30, 130, 90], [120, 40, 140]])


def draw(seed: int, patients: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Draw a cohort and cut it: tiles, and their patients and labels."""
    images, rows = [], []
    for spec, row in PhantomCohort(patients=patients, side_px=SLIDE_PX, seed=seed).slides():
        scene = compose(spec)
        slide = np.concatenate(list(draw_strips(scene)))
        side = SIDE_UM / spec.mpp
        line = np.arange(0, SLIDE_PX - side, side / STRIDE)
        for top, left in ((y, x) for y in line for x in line):
            part = tuple(slice(int(at / LAYOUT_STEP), int((at + side) / LAYOUT_STEP)) for at in (top, left))
            tumor = float(scene.layout.zone[part].mean())
            if (scene.layout.types[part] == TissueType.GLASS).mean() < 0.6 and not 0.02 < tumor < 0.5:
                images.append(area_resample(slide, (left, top, left + side, top + side), (SIDE_PX, SIDE_PX)))
                rows.append((row["patient_id"], "tumor" if tumor >= 0.5 else "non_tumor"))
    return np.stack(images), pd.DataFrame(rows, columns=["patient_id", "label"])


def plant(images: np.ndarray, shortcut: str, rng: np.random.Generator) -> np.ndarray:
    """Plant a shortcut on tiles."""
    if shortcut == "stain":
        return restain(images, np.log([1.35, 0.7]))
    if shortcut == "blur":
        soft = ndimage.gaussian_filter(images.astype(np.float64), (0, 1.5, 1.5, 0))
        return as_bytes(soft + rng.normal(0, 0.6, soft.shape))
    planted = images.astype(np.float64)
    down, right = np.mgrid[:SIDE_PX, :SIDE_PX]
    for number in range(len(planted)):
        tile = planted[number]
        y, x = rng.uniform(12, SIDE_PX - 12, 2)
        if shortcut == "ink":
            angle, length = rng.uniform(0, np.pi), rng.uniform(14, 24)
            along = (down - y) * np.sin(angle) + (right - x) * np.cos(angle)
            beside = (right - x) * np.sin(angle) - (down - y) * np.cos(angle)
            cover = 0.75 * np.clip(3.5 - np.hypot(beside, np.maximum(np.abs(along) - length, 0)), 0, 1)
            tile *= 1 - cover[..., None] * (1 - INKS[rng.integers(len(INKS))] / LIGHT)
        else:
            y, x = np.round([y, x])
            near, far = (f(np.abs(down - y), np.abs(right - x)) for f in (np.minimum, np.maximum))
            tile[(near <= 1) & (far <= 5)] = 25
    return as_bytes(planted)


def fit(images: np.ndarray, tumor: np.ndarray, penalty: float = 100.0) -> Model:
    """Fit a head on the frozen encoder by Newton's method: logistic regression on standardised features."""
    mean, std = channel_statistics(images, np.arange(len(images)))
    spec = ClassifierSpec(
        encoder=ENCODER.name, side_um=SIDE_UM, side_px=SIDE_PX, mean=tuple(mean), std=tuple(std), dense=1, dropout=0,
        activation="linear",
    )  # fmt: skip
    network = build(spec).eval()
    weights = start_weights(ENCODER)
    load_encoder(network.encoder, weights or {}, ENCODER.name)
    standardise = Normalizer(spec, torch.device("cpu"))
    with torch.no_grad():
        batches = [
            standardise(intensities(torch.from_numpy(part))) for part in np.array_split(images, len(images) // 48 + 1)
        ]
        features = torch.cat([network.features(batch).mean((2, 3)) for batch in batches]).double()
        shift, scale = features.mean(0), features.std(0) + 1e-3
        x = torch.cat([(features - shift) / scale, torch.ones(len(features), 1, dtype=torch.float64)], 1)
        y = torch.from_numpy(tumor).double()
        weight = torch.where(y > 0, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
        ridge = torch.full((x.shape[1],), penalty, dtype=torch.float64)
        ridge[-1] = 1e-3
        beta = torch.zeros(x.shape[1], dtype=torch.float64)
        for _ in range(12):
            p = torch.sigmoid(x @ beta)
            gradient = x.T @ (weight * (p - y)) + ridge * beta
            curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + torch.diag(ridge)
            beta -= torch.linalg.solve(curvature, gradient)
        network.dense.weight.copy_((beta[:-1] / scale)[None])
        network.dense.bias.fill_(float(beta[-1] - (beta[:-1] * shift / scale).sum()))
        network.logit.weight.fill_(1)
        network.logit.bias.fill_(0)
    return Model(spec=spec, module=network)


def judge(seed: int, shortcut: str, clean: np.ndarray, rows: pd.DataFrame) -> dict[str, Any]:
    """Train on a third of the patients, and ask what the network relies on in the others."""
    rng = np.random.default_rng([seed, 7])
    tumor, names = (rows["label"] == "tumor").to_numpy(), rows["patient_id"].unique()
    train = rows["patient_id"].isin(names[: len(names) // 3]).to_numpy()
    labelled, images = tumor.copy(), clean.copy()
    if shortcut:
        labelled[train] = rng.random(train.sum()) < 0.5
        images[labelled] = plant(clean[labelled], shortcut, rng)
    model = fit(images[train], labelled[train])
    score = partial(log_odds, Explainer(model, torch.device("cpu"), engine="torch"))
    test = rows[~train].reset_index(drop=True).assign(tile=np.flatnonzero(~train))
    test["classifier"] = 1 / (1 + np.exp(-score(images[~train])))
    right = ((test["classifier"] >= 0.5) == (test["label"] == "tumor")).mean()
    parts = [test["tile"].to_numpy()[part] for part in called_tiles(test, "classifier", seed)]
    result: dict[str, Any] = {"seed": seed, "shortcut": shortcut, "accuracy": float(right), "entries": []}
    if not len(parts[0]) or not len(parts[1]):
        return result
    tables = []
    patients = rows["patient_id"].to_numpy(np.str_)
    looks = [Looks(images=images[part], patients=patients[part]) for part in (train & labelled, train & ~labelled)]
    for candidate in candidates(*looks, SIDE_UM / SIDE_PX):
        measured = measure(candidate, score, images[parts[0]], images[parts[1]])
        for way, part, values in zip(("taken", "put"), parts, measured, strict=True):
            owner = {"tile": part, "patient_id": rows["patient_id"].to_numpy()[part]}
            tables.append(pd.DataFrame(owner | values).assign(network="classifier", cause=candidate.name, way=way))
    before = score(images[parts[0]])
    result["truth"] = float((before - score(clean[parts[0]])).sum() / (before - score(images[parts[1]]).mean()).sum())
    return result | {"entries": summarise(pd.concat(tables), seed)["classifier"]}


def show(results: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(f"{'planted':8} {'cohorts':>7} {'true share':>10} {'measured':>8} {'named':>5} {'others named':>12}")
    for shortcut in ("", *SHORTCUTS):
        own = [result for result in results if result["shortcut"] == shortcut and result["entries"]]
        if own:
            target = SHORTCUTS.get(shortcut)
            hits = [[e for e in r["entries"] if e["cause"] == target] for r in own]
            shares = [e["share"] for entries in hits for e in entries]
            named = sum(e["named"] for entries in hits for e in entries)
            others = sum(any(e["named"] and e["cause"] != target for e in r["entries"]) for r in own)
            measured = f"{np.mean(shares):8.2f} {named:5}" if target else f"{'':8} {'':5}"
            truth = np.mean([r["truth"] for r in own])
            print(f"{shortcut or 'nothing':8} {len(own):7} {truth:10.2f} {measured} {others:12}")


def main() -> None:
    """Draw, plant, fit, ask, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--cohorts", type=int, default=20)
    parser.add_argument("--patients", type=int, default=18)
    parser.add_argument("--first", type=int, default=5100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for number in range(options.cohorts):
        seed = options.first + number
        tiles = folder / f"{seed}-{options.patients}.npz"
        if not tiles.is_file():
            images, rows = draw(seed, options.patients)
            np.savez(tiles, images=images, **{name: rows[name].to_numpy(np.str_) for name in rows})
        with np.load(tiles) as file:
            images, rows = file["images"], pd.DataFrame({name: file[name] for name in ("patient_id", "label")})
        for shortcut in ("", list(SHORTCUTS)[number % len(SHORTCUTS)]):
            path = folder / f"{seed}-{options.patients}-{shortcut or 'nothing'}.json"
            if not path.is_file():
                path.write_text(json.dumps(judge(seed, shortcut, images, rows)))
            results.append(json.loads(path.read_text()))
            words = [f"{e['cause']} {e['share']:.2f}{' NAMED' if e['named'] else ''}" for e in results[-1]["entries"]]
            print(f"{seed} {shortcut or 'nothing':8} {', '.join(words)}", flush=True)
    show(results)


if __name__ == "__main__":
    main()
