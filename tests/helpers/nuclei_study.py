"""What the stage `nuclei` would have measured, drawn at random: without larger nuclei the logit falls more."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

from vitrail.explain.nuclei.results import COLUMNS, NucleiStudy, as_table
from vitrail.explain.nuclei.summary import summarise
from vitrail.nuclei.features import FEATURES
from vitrail.report.data import NucleusCrop, ShownNuclei

NETWORKS, SIDE = ("classifier", "segmenter"), 120
METHODS = {"gradcam": "Grad-CAM"}


def drawn(name, rows):
    """A table of the folder with what is not given at 0, or empty."""
    table = pd.DataFrame(rows)
    for column, kind in COLUMNS[name].items():
        if column not in table:
            table[column] = "" if kind == "str" else 0
    return as_table(name, [table])


def nuclei_study(tiles=6, each=25, patients=3, refused=()):
    rng = np.random.default_rng(0)
    owners = [{"tile": 3 + 2 * at, "patient_id": f"P{at % patients}"} for at in range(tiles)]
    groups = ["tumor" if at % 3 else "non_tumor" for at in range(tiles)]
    rows = [
        owner | {"slide_id": owner["patient_id"], "side": 240.0, "label": group, "mpp": 0.5, "nuclei": each}
        | {"classifier": 0.9, "segmenter": 0.8, "classifier_group": group, "segmenter_group": group}
        for owner, group in zip(owners, groups, strict=True)
    ]  # fmt: skip
    nuclei, effects, sets, labels = [], [], [], {}
    for owner, group in zip(owners, groups, strict=True):
        label = labels[owner["tile"]] = np.zeros((SIDE, SIDE), np.uint16)
        for number in range(1, each + 1):
            y, x = divmod(number - 1, 5)
            label[4 + 22 * y : 14 + 22 * y, 4 + 22 * x : 12 + 22 * x] = number
            features = {name: rng.uniform(0.2, 1) for name in FEATURES} | {"area_um2": rng.uniform(20, 90)}
            place = {"x_um": 4.0 + 11 * x, "y_um": 4.5 + 11 * y, "x": 8.0 + 22 * x, "y": 9.0 + 22 * y}
            nuclei.append(owner | {"slide_id": owner["patient_id"], "nucleus": number} | place | features)
            for network, draw in product(NETWORKS, (-1, 0)):
                effect = features["area_um2"] / 100 * (draw < 0) + rng.normal(-0.3, 0.1)
                effects.append(owner | {"network": network, "draw": draw, "nucleus": number, "effect_logit": effect})
        for network, (name, effect) in product(NETWORKS, {"all": 3.0, "largest": 1.0, "darkest": 0.0}.items()):
            own = {"network": network, "group": name, "tiles": group, "label": group, "nuclei": 4, "area_um2": 100.0}
            own |= {"effect_logit": effect + rng.normal(0, 0.3), "effect": effect / 5, "before": 0.9, "before_logit": 4}
            own |= {"control_area_um2": 50.0, "control_logit": rng.normal(0, 0.05), "random_logit": rng.normal(0, 0.1)}
            sets.append(owner | own)
    asked = [
        {"network": network, "outcome": outcome, "tiles": group}
        for network, outcome, group in product(NETWORKS, ("effect", *METHODS), ("all", "tumor"))
    ]
    found = [
        each | {"feature": name, "marginal_coefficient": 0.3, "marginal_low": 0.1, "marginal_high": 0.5, "patients": 3}
        | {"marginal_null": "shifted", "marginal_null_low": -0.1, "marginal_null_high": 0.1, "verdict": "undecided"}
        | {"marginal_verdict": "more" if name == "area_um2" else "undecided"}
        for each, name in product(asked, FEATURES)
    ]  # fmt: skip
    gaps = [
        each | {"feature": name, "kind": kind, "value": 1.8, "low": 1.4, "high": 2.3}
        for each, (name, kind) in product(asked, (("area_um2", "ratio"), ("solidity", "difference")))
    ]
    bins = [
        each | {"feature": "area_um2", "bin": number, "value": 10.0 * number, "mean": number - 2.0}
        | {"low": number - 3.0, "high": number - 1.0}
        for each, number in product(asked, range(5))
    ]  # fmt: skip
    differences = [
        {"outcome": "effect", "feature": "area_um2", "marginal_difference": -0.4, "marginal_low": -0.6}
        | {"marginal_high": -0.2, "marginal_q": 0.01}
    ]  # fmt: skip
    tables = {
        "tiles": drawn("tiles", rows),
        "nuclei": drawn("nuclei", nuclei),
        "effects": drawn("effects", effects),
        "groups": drawn("groups", sets),
        "associations": drawn("associations", found),
        "contrasts": drawn("contrasts", gaps),
        "dependence": drawn("dependence", bins),
        "comparison": drawn("comparison", differences),
        "reliability": drawn("reliability", [{"feature": "area_um2", "icc": 0.9}, {"feature": "clumps", "icc": 0.6}]),
    }
    tables = {name: tables.get(name, as_table(name, [])) for name in COLUMNS}
    summary = summarise(tables, NETWORKS, METHODS, 0) | {"refused": list(refused), "engine": "embedded"}
    summary["maps"] = {"classifier_gradcam": {"too_coarse": True, "sentence": "Grad-CAM is too coarse."}}
    return NucleiStudy(**tables, labels=labels, summary=summary)


def nothing(refused):
    """What is left of slides that are too coarse."""
    summary = {"tiles": 0, "patients": 0, "nuclei": 0, "refused": list(refused)}
    return NucleiStudy(**{name: as_table(name, []) for name in COLUMNS}, labels={}, summary=summary)


def shown_nuclei(study=None):
    study = nuclei_study() if study is None else study
    picture = np.full((40, 40, 3), 200, np.uint8)
    square = np.array([[0.3, 0.3], [0.7, 0.3], [0.7, 0.7], [0.3, 0.7], [0.3, 0.3]])
    crop = NucleusCrop(tile=3, nucleus=1, effect=0.4, area_um2=50.0, picture=picture, rings=(square,))
    tiles = study.tiles["tile"].head(2).tolist()
    return ShownNuclei(
        study=study,
        side_um=60.0,
        crop_um=24.0,
        galleries={network: {"Matter most": (crop,) * 3} for network in NETWORKS} if tiles else {},
        pictures=dict.fromkeys(tiles, picture),
        rings={tile: {number: [square / 5 + number / 40] for number in range(1, 20)} for tile in tiles},
    )
