"""Label noise that was planted, what the estimate makes of it, and whether its list holds the planted tiles.

    python -m bench.label_noise [--orca FOLDER] [--cohorts N] [--repeats N]

Two parts. In the first, cohorts are simulated: 24 patients, 60 tiles each; the logits of both networks share most of
their errors, and patients differ in how hard they are. In the second (with `--orca`, the folder of ORCA's slides.csv)
the tiles are real: features of the encoder that comes with the installation, which stays as it is, and a logistic
regression on principal components of their means over a tile for the one network, of their maxima for the other.
Patients are dealt into five folds, and every tile is predicted by the regressions that did not see its patient; they
learnt from the labels with the planted noise.

Noise is planted by turning labels around: uniformly, or only where outlines are doubtful, which in the simulation are
the tiles that are hardest for both networks, and on ORCA those closest to a tile of the other label. The estimate is
that of a report for voting (`metrics.label_noise`). `covered`: how often its 95 % interval over patients holds the
share that was planted; `mean` beside it is what it takes for wrong, and `by errors` what a network of the same AUC
against these labels would show if all were true. `listed`: of the tiles that both networks contradict, the
share whose label was turned around; `found`: of those turned around the share that is listed. On ORCA nobody knows
the noise without planting; `more` is the estimate less that without planting.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from vitrail.core.progress import Silent
from vitrail.metrics.bootstrap import interval, sample
from vitrail.metrics.label_noise import contradicted, noise_by_errors, noise_parts
from vitrail.metrics.scores import auc
from vitrail.models.encoder import create_encoder
from vitrail.models.preprocessing import intensities
from vitrail.models.weights import load_encoder, start_weights
from vitrail.settings.load import EMBEDDED_ENCODER, preset
from vitrail.settings.schema import EncoderSettings
from vitrail.slides.cohort import read_cohort
from vitrail.tiles.cohort import Folders, cut_cohort
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

RATES = (0.0, 0.05, 0.1, 0.2)
PLACES = ("uniform", "borders")
PATIENTS, TILES = 24, 60
GAPS = {"AUC 0.92": 2.0, "AUC 0.97": 2.7, "AUC 0.995": 3.7}
"""Networks by about their area under the curve against the true labels: the distance of the classes in deviations."""

RESAMPLES, COMPONENTS, FOLDS = 300, 48, 5
SIDE_UM, SIDE_PX = 199.1, 96
BORDER = 0.4
"""Share of the tiles that count as those at borders; noise that is planted there is denser by one over it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What the estimate says of one cohort."""

    noise: float
    by_errors: float
    covered: bool
    listed: float
    found: float


def plant(rng: np.random.Generator, doubt: Floats, rate: float, place: str) -> Flags:
    """Choose the labels that are turned around: a share of all, or of those of most doubt as many in all."""
    n = len(doubt)
    count = round(rate * n)
    pool = np.arange(n) if place == "uniform" else np.argsort(-doubt, kind="stable")[: max(round(BORDER * n), count)]
    turned = np.zeros(n, np.bool_)
    turned[rng.permutation(pool)[:count]] = True
    return turned


def judge(labels: Flags, turned: Flags, scores: Floats, patients: NDArray[Any], seed: int) -> Outcome:
    """Estimate the noise of labels from both networks' scores, `[n, 2]`, and compare with what was turned around."""
    weights = sample(len(np.unique(patients)), RESAMPLES, seed)
    noise = noise_parts(labels, scores.mean(1), patients).rates(weights)["noise"]
    low, high = interval(noise, weights)
    listed = np.isfinite(contradicted(labels, scores))
    hits = (listed & turned).sum()
    return Outcome(
        noise=float(noise),
        by_errors=noise_by_errors(float(auc(labels, scores.mean(1))), labels.mean()),
        covered=bool(low <= turned.mean() <= high),
        listed=hits / listed.sum() if listed.any() else np.nan,
        found=hits / turned.sum() if turned.any() else np.nan,
    )


def simulate(rng: np.random.Generator, gap: float) -> tuple[Flags, Floats, NDArray[np.int64], Floats]:
    """Draw truth, both networks' scores, patients, and how hard each tile is."""
    owners = np.repeat(np.arange(PATIENTS), TILES)
    truth = rng.random(len(owners)) < rng.beta(4, 4, PATIENTS)[owners]
    common = np.where(truth, gap, -gap) / 2 + 0.8 * rng.normal(size=len(owners))
    common += 0.3 * rng.normal(size=PATIENTS)[owners]
    scores = np.stack([expit(gap * (common + 0.5 * rng.normal(size=len(owners)))) for _ in range(2)], 1)
    return truth, scores, owners, -np.abs(common)


def simulated(cohorts: int) -> None:
    """Print the first table."""
    print("| network | planted | where | AUC | mean | by errors | covered | listed | found |\n" + "|---" * 9 + "|")
    for name, gap in GAPS.items():
        for rate in RATES:
            for place in PLACES[: 1 if rate == 0 else None]:
                outcomes, areas = [], []
                for seed in range(cohorts):
                    rng = np.random.default_rng([16, seed])
                    truth, scores, owners, doubt = simulate(rng, gap)
                    turned = plant(rng, doubt, rate, place)
                    outcomes.append(judge(truth ^ turned, turned, scores, owners, seed))
                    areas.append(auc(truth, scores.mean(1)))
                print_row([name, f"{rate:.0%}", place if rate else "", f"{np.mean(areas):.3f}"], outcomes)


def print_row(start: list[str], outcomes: list[Outcome], base: float | None = None) -> None:
    """Print the means of some cohorts; `base` is what stands for no noise where that is not known."""
    noise = np.mean([each.noise for each in outcomes])
    cells = [*start, f"{noise:.1%}", f"{np.mean([each.by_errors for each in outcomes]):.1%}"]
    if base is None:
        cells.append(f"{np.mean([each.covered for each in outcomes]):.0%}")
    else:
        cells.append(f"{noise - base:+.1%}")
    for values in ([each.listed for each in outcomes], [each.found for each in outcomes]):
        known = [value for value in values if np.isfinite(value)]
        cells.append(f"{np.mean(known):.0%}" if known else "")
    print("| " + " | ".join(cells) + " |", flush=True)


def orca(folder: Path, repeats: int) -> None:
    """Print the second table."""
    rows, features = embed(folder)
    labels, patients = (rows["label"] == "tumor").to_numpy(), rows["patient_id"].to_numpy(str)
    doubt = -distance_to_other(rows)
    print(f"\nORCA: {len(rows):,} tiles of {SIDE_UM:g} um, {len(set(patients))} patients, {labels.mean():.0%} tumor")
    print("| planted | where | AUC against unplanted | mean | by errors | more | listed | found |\n" + "|---" * 8 + "|")
    base = 0.0
    for rate in RATES:
        for place in PLACES[: 1 if rate == 0 else None]:
            outcomes, areas = [], []
            for seed in range(repeats if rate else 1):
                rng = np.random.default_rng([16, seed])
                turned = plant(rng, doubt, rate, place)
                scores = out_of_fold(features, labels ^ turned, patients, rng)
                outcomes.append(judge(labels ^ turned, turned, scores, patients, seed))
                areas.append(auc(labels, scores.mean(1)))
            base = outcomes[0].noise if rate == 0 else base
            print_row([f"{rate:.0%}", place if rate else "", f"{np.mean(areas):.3f}"], outcomes, base)


def embed(folder: Path) -> tuple[Any, tuple[Floats, Floats]]:
    """Cut ORCA's slides, and return the tiles with principal components of their features' means and maxima."""
    settings = preset("quick")
    tiles_settings = settings.tiles.model_copy(update={"side_um": SIDE_UM, "side_px": SIDE_PX})
    settings = settings.model_copy(update={"tiles": tiles_settings})
    with tempfile.TemporaryDirectory() as name:
        result = Path(name) / "tiles"
        folders = Folders(result=result, parts=Path(name) / "parts", earlier=Path(name) / "none")
        for each in (folders.result, folders.parts):
            each.mkdir()
        cut_cohort(read_cohort(folder / "slides.csv"), settings, folders, Silent())
        table = read_tiles(result)
        rows, images = table.rows, np.array(table.images)
    own = EncoderSettings(name=EMBEDDED_ENCODER, weights="embedded")
    encoder = create_encoder(own.name)
    load_encoder(encoder, start_weights(own) or {}, "embedded")
    encoder.eval()
    with torch.inference_mode():
        standardised = ((intensities(part) - 0.5) * 2 for part in torch.from_numpy(images).split(32))
        maps = torch.cat([encoder.forward_features(part) for part in standardised])
    strongest = maps.amax((2, 3))
    return rows, (components(maps.mean((2, 3)).numpy()), components(strongest.numpy()))


def components(features: NDArray[np.float32]) -> Floats:
    """Return standardised principal components; labels take no part in them."""
    centred = features.astype(np.float64) - features.mean(0)
    centred /= centred.std(0) + 1e-9
    _, axes = np.linalg.eigh(centred.T @ centred)
    projected = centred @ axes[:, -COMPONENTS:]
    return np.asarray(projected / projected.std(0))


def distance_to_other(rows: Any) -> Floats:
    """Return how far the next tile of the other label is on the same slide, in tiles; infinite where there is none."""
    distance = np.full(len(rows), np.inf)
    for indices in rows.groupby("slide_id").indices.values():
        own = rows.iloc[indices]
        places, tumor = own[["x", "y"]].to_numpy(float) / own["side"].iloc[0], (own["label"] == "tumor").to_numpy()
        for kind in (True, False):
            if tumor.any() and not tumor.all():
                distance[indices[tumor == kind]] = cKDTree(places[tumor != kind]).query(places[tumor == kind])[0]
    return distance


def out_of_fold(
    features: tuple[Floats, Floats], labels: Flags, patients: NDArray[Any], rng: np.random.Generator
) -> Floats:
    """Return both scores of every tile, `[n, 2]`, by regressions that did not see its patient."""
    names = rng.permutation(np.unique(patients))
    fold = dict(zip(names, np.arange(len(names)) % FOLDS, strict=True))
    folds = np.array([fold[name] for name in patients])
    scores = np.zeros((len(labels), 2))
    for number in range(FOLDS):
        held = folds == number
        for column, values in enumerate(features):
            model = LogisticRegression(C=0.05, max_iter=500).fit(values[~held], labels[~held])
            scores[held, column] = model.predict_proba(values[held])[:, 1]
    return scores


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orca", type=Path, help="the folder of ORCA's slides.csv")
    parser.add_argument("--cohorts", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    simulated(asked.cohorts)
    if asked.orca is not None:
        orca(asked.orca, asked.repeats)


if __name__ == "__main__":
    main()
