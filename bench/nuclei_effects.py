"""Whether the regression of what nuclei do on what they look like can be trusted: intervals, power, false findings.

    python -m bench.nuclei_effects [--cohorts N] [--patients 4 8 20] [--seed N] [--scale rank|winsorised|plain]
        [--curves]

Features are those of the nuclei of synthetic slides, computed from the contours and the stain they were drawn with, so
that they are as skewed and as correlated as there. A patient is a slide and 1 to 7 of its tiles, of each at most 60
nuclei, as few as can be removed one by one. The outcome of a
nucleus is planted: `beta` times one feature (in standard deviations within tiles), with a slope that varies between
patients; slopes of every other feature that vary between patients around 0; levels of patients and tiles; a smooth
field over each tile, so that neighbours resemble each other as under a coarse map; and noise with heavy tails
(Student's t, 2.5 degrees of freedom). Of each cohort the intervals are compared with the coefficients of the population
that it was drawn from, which are those of a very large cohort.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import pandas as pd
import shapely
from scipy.spatial import cKDTree

from vitrail.explain.nuclei.association import LEVEL, associate
from vitrail.explain.nuclei.contrasts import contrasts
from vitrail.explain.nuclei.partial_dependence import partial_dependence
from vitrail.explain.nuclei.regression import design, outcome_scores
from vitrail.synthetic import Scene, SlideSpec, compose

TILE_UM, FEWEST, MOST = 199.1, 12, 60
PLANTED = ("area_um2", "eccentricity", "solidity", "hematoxylin_mean", "hematoxylin_std", "density_25um")
HETEROGENEITY, OWN_SLOPE, SMOOTH, NOISE = 0.1, 0.4, 0.7, 0.6
POPULATION = 1000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slide:
    """The nuclei of a slide, tile by tile: a table of features and the centres in um, `[n, 2]`."""

    features: list[pd.DataFrame]
    centres: list[np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cohort:
    """Nuclei with a planted outcome: features `[n, k]`, outcome, tile and patient `[n]`."""

    features: pd.DataFrame
    outcome: np.ndarray
    tiles: np.ndarray
    patients: np.ndarray


def drawn_features(scene: Scene) -> tuple[pd.DataFrame, np.ndarray]:
    """Measure the nuclei of a slide as they were drawn: a row each, and their centres in um, `[n, 2]`."""
    nuclei, mpp = scene.nuclei, scene.spec.mpp
    rows = np.full((len(nuclei), 10), np.nan)
    names = ["area_um2", "perimeter_um", "major_axis_um", "minor_axis_um", "eccentricity"]
    names += ["solidity", "circularity", "hematoxylin_mean", "hematoxylin_sum", "hematoxylin_std"]
    for kind, bank in enumerate(scene.banks):
        own = np.flatnonzero(nuclei.kind == kind)
        outlines = shapely.polygons(bank.contour.astype(float) * mpp)
        area, around = shapely.area(outlines), shapely.length(outlines)
        points = bank.contour.astype(float) * mpp
        spread = np.linalg.eigvalsh(np.einsum("nvi,nvj->nij", points, points) / points.shape[1])
        axes = 2 * np.sqrt(2 * np.maximum(spread, 1e-6))[:, ::-1]
        total = bank.cover.sum((1, 2))
        mean = (bank.cover * bank.stain).sum((1, 2)) / total
        std = np.sqrt((bank.cover * (bank.stain - mean[:, None, None]) ** 2).sum((1, 2)) / total)
        eccentricity = np.sqrt(1 - (axes[:, 1] / axes[:, 0]) ** 2)
        solidity = area / shapely.area(shapely.convex_hull(outlines))
        shape = np.column_stack([area, around, axes, eccentricity, solidity, 4 * np.pi * area / around**2])
        which, gain = nuclei.drawing[own], nuclei.gain[own]
        stain = np.column_stack([mean[which] * gain, mean[which] * gain * area[which], std[which] * gain])
        rows[own] = np.column_stack([shape[which], stain])
    table, centres = pd.DataFrame(rows, columns=names), np.column_stack([nuclei.x, nuclei.y]) * mpp
    tree = cKDTree(centres)
    table["nearest_um"] = tree.query(centres, 2)[0][:, 1] + 0.25
    table["density_25um"] = [len(near) - 1 for near in tree.query_ball_point(centres, 25)]
    near = tree.query_ball_point(centres, 50)
    area = table["area_um2"].to_numpy()
    table["anisokaryosis_50um"] = [area[each].std() / area[each].mean() for each in near]
    return table, centres


def drawn_slide(seed: tuple[int, ...], side_px: int = 1024) -> Slide:
    """Compose a slide and measure its nuclei, tile by tile."""
    scene = compose(SlideSpec(slide_id="simulated", side_px=side_px, seed=seed))
    table, centres = drawn_features(scene)
    at = (centres // TILE_UM).astype(int)
    whole = (at < int(scene.spec.side_um / TILE_UM)).all(1)
    groups = [np.flatnonzero(whole & (at == tile).all(1)) for tile in np.unique(at[whole], axis=0)]
    groups = [each for each in groups if len(each) >= FEWEST]
    return Slide(features=[table.iloc[each] for each in groups], centres=[centres[each] for each in groups])


def simulate(
    pool: list[Slide], rng: np.random.Generator, patients: int, planted: str | None, beta: float, tiles: int = 4
) -> Cohort:
    """Draw a cohort, and plant an effect of one feature, or of none."""
    parts, outcomes, numbers, owners = [], [], [], []
    for patient in range(patients):
        slide = pool[rng.integers(len(pool))]
        some = rng.choice(len(slide.features), min(int(rng.integers(1, 2 * tiles)), len(slide.features)), replace=False)
        level = rng.normal()
        own = HETEROGENEITY * rng.normal(size=slide.features[0].shape[1])
        if planted is not None:
            own[slide.features[0].columns.get_loc(planted)] += beta * (1 + OWN_SLOPE * rng.normal())
        for tile in some:
            chosen = rng.permutation(len(slide.centres[tile]))[:MOST]
            table, centres = slide.features[tile].to_numpy()[chosen], slide.centres[tile][chosen]
            wave = rng.normal(0, 2 * np.pi / 80, (12, 2))
            smooth = np.cos(centres @ wave.T + rng.uniform(0, 2 * np.pi, 12)).sum(1) / np.sqrt(6)
            parts.append(table)
            outcomes.append((own, level + rng.normal() + SMOOTH * smooth + NOISE * rng.standard_t(2.5, len(table))))
            numbers.append(np.full(len(table), len(numbers)))
            owners.append(np.full(len(table), patient))
    features = pd.DataFrame(np.concatenate(parts), columns=pool[0].features[0].columns)
    own = np.concatenate([np.broadcast_to(slope, (len(noise), len(slope))) for slope, noise in outcomes])
    noise = np.concatenate([noise for _, noise in outcomes])
    signal = (single(features, np.concatenate(numbers), np.concatenate(owners)) * own).sum(1)
    return Cohort(
        features=features, outcome=signal + noise, tiles=np.concatenate(numbers), patients=np.concatenate(owners)
    )


def single(features: pd.DataFrame, tiles: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Return each feature as the regression takes it, by itself, so that none is merged with another."""
    return np.column_stack([design(features[[name]], tiles, patients).matrix for name in features])


class Population:
    """What a very large cohort gives: the coefficients that intervals have to cover."""

    def __init__(
        self, pool: list[Slide], planted: str | None, beta: float, scale: str = "rank", *, seed: int = 0,
        patients: int = POPULATION,
    ) -> None:  # fmt: skip
        self.pool, self.planted, self.beta, self.scale = pool, planted, beta, scale
        cohort = simulate(pool, np.random.default_rng([seed, 99]), patients, planted, beta)
        columns = [single(cohort.features, cohort.tiles, cohort.patients)]
        columns.append(outcome_scores(cohort.outcome, cohort.tiles, scale)[:, None])
        self.moments = np.corrcoef(np.concatenate(columns, 1).T)
        self.names = [*cohort.features]

    def coefficients(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return the adjusted (NaN where there is none) and marginal coefficients of the features of a table."""
        at = np.array([self.names.index(name) for name in table["feature"]])
        marginal = self.moments[at, -1]
        adjusted, chosen = np.full(len(at), np.nan), (table["verdict"] != "collinear").to_numpy()
        inner = at[chosen]
        adjusted[chosen] = np.linalg.solve(self.moments[np.ix_(inner, inner)], self.moments[inner, -1])
        return adjusted, marginal


def measure(
    population: Population, patients: int, *, cohorts: int, seed: int = 0, resamples: int = 1000
) -> pd.DataFrame:
    """Associate many cohorts: a row for each feature of each, with the coefficients of the population."""
    rows = []
    for number in range(cohorts):
        rng = np.random.default_rng([seed, patients, number])
        cohort = simulate(population.pool, rng, patients, population.planted, population.beta)
        table = associate(
            cohort.features, pd.Series(cohort.outcome), cohort.tiles, cohort.patients,
            resamples=resamples, seed=number, scale=population.scale,
        )  # fmt: skip
        adjusted, marginal = population.coefficients(table)
        rows.append(table.assign(cohort=number, truth=adjusted, marginal_truth=marginal))
    return pd.concat(rows, ignore_index=True)


def covered(table: pd.DataFrame, prefix: str = "") -> pd.Series:
    """Return which intervals cover the population's coefficient; NaN where there is no interval."""
    low, high, truth = (table[f"{prefix}{name}"] for name in ("low", "high", "truth"))
    return ((low <= truth) & (truth <= high)).where(low.notna() & truth.notna())


def summarise(table: pd.DataFrame, planted: str | None) -> dict[str, float]:
    """Summarise cohorts: coverage, how often the planted feature is found, how often another one is."""
    result = {"coverage": covered(table).mean(), "marginal_coverage": covered(table, "marginal_").mean()}
    by_feature = [covered(table, prefix).groupby(table["feature"]).mean().min() for prefix in ("", "marginal_")]
    result |= {"worst": min(by_feature)}
    hit = {prefix: table[f"{prefix}q"] < LEVEL for prefix in ("", "marginal_")}
    stands_for = table["feature"] == planted
    result["found"] = hit[""][stands_for].groupby(table["cohort"]).any().mean() if planted else np.nan
    result["found_alone"] = hit["marginal_"][stands_for].groupby(table["cohort"]).any().mean() if planted else np.nan
    # a finding is false where the population has no such coefficient, or hardly any
    false = (hit[""] & (table["truth"].abs() < 0.02)) | (hit["marginal_"] & (table["marginal_truth"].abs() < 0.02))
    result["any_false"] = false.groupby(table["cohort"]).any().mean()
    findings = (hit[""] | hit["marginal_"]).groupby(table["cohort"]).sum()
    result["false_a_finding"] = (false.groupby(table["cohort"]).sum() / findings.clip(lower=1)).mean()
    return {name: float(value) for name, value in result.items()}


def measure_curves(
    pool: list[Slide], planted: str, beta: float, patients: int, *, cohorts: int, seed: int = 0
) -> dict[str, float]:
    """Return how often the intervals of contrasts, and of the bins of partial dependence, cover the population's."""

    def both(cohort: Cohort) -> list[pd.DataFrame]:
        owned = cohort.outcome, cohort.tiles, cohort.patients
        return [contrasts(cohort.features, *owned), partial_dependence(cohort.features[planted], *owned)]

    truth = both(simulate(pool, np.random.default_rng([seed, 98]), POPULATION // 2, planted, beta))
    shares: list[list[float]] = [[], []]
    for number in range(cohorts):
        tables = both(simulate(pool, np.random.default_rng([seed, patients, number]), patients, planted, beta))
        for share, table, population, value in zip(shares, tables, truth, ("value", "mean"), strict=True):
            share.append(((table["low"] <= population[value]) & (population[value] <= table["high"])).mean())
    return {name: float(np.mean(share)) for name, share in zip(("contrasts", "bins"), shares, strict=True)}


def main() -> None:
    """Simulate, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=200)
    parser.add_argument("--patients", type=int, nargs="+", default=[4, 8, 20])
    parser.add_argument("--slides", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", default="rank", choices=["rank", "winsorised", "plain"])
    parser.add_argument("--curves", action="store_true", help="intervals of contrasts and bins instead")
    arguments = parser.parse_args()
    pool = [slide for slide in (drawn_slide((arguments.seed, n)) for n in range(arguments.slides)) if slide.features]
    first, *others = PLANTED
    cases = [(None, 0.0), *((first, beta) for beta in (0.3, 0.6, 0.15)), *((name, 0.3) for name in others)]
    print(f"{arguments.cohorts} cohorts a row, {len(pool)} slides, outcome: {arguments.scale}", flush=True)
    print(
        "planted               beta  patients  covered  (alone)  worst feature  found  (alone)  cohorts with a false "
        "finding  false among findings"
    )
    if arguments.curves:
        for patients in arguments.patients:
            print(
                patients, "patients:", measure_curves(pool, first, 0.3, patients, cohorts=arguments.cohorts), flush=True
            )
        return
    for planted, beta in cases:
        population = Population(pool, planted, beta, arguments.scale, seed=arguments.seed)
        for patients in arguments.patients:
            table = measure(population, patients, cohorts=arguments.cohorts, seed=arguments.seed)
            row = summarise(table, planted)
            print(
                f"{planted or '-':20s}  {beta:4.2f}  {patients:8d}  {row['coverage']:7.3f}  "
                f"{row['marginal_coverage']:7.3f}  {row['worst']:13.3f}  {row['found']:5.2f}  "
                f"{row['found_alone']:7.2f}  {row['any_false']:28.3f}  {row['false_a_finding']:20.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
