"""What the networks of a study look for in nuclei: regressions, contrasts, dependence and concepts, all resumable.

The outcomes of a nucleus are its effect (what the log odds of tumor lose without it) and its relevance under each
method (the mean of the map). Tiles are taken together, and by group, see `vitrail.explain.nuclei.results.GROUPS`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from vitrail.explain.checks.randomisation import reinitialise, settle, steps_of
from vitrail.explain.checks.stage import expensive, tumor_pixels
from vitrail.explain.explainer import Explainer
from vitrail.explain.methods.base import METHODS
from vitrail.explain.nuclei.association import associate, compare
from vitrail.explain.nuclei.concepts import concept_vectors, pooled_layer, tile_concepts
from vitrail.explain.nuclei.contrasts import contrasts
from vitrail.explain.nuclei.nulls import effect_nulls, map_nulls
from vitrail.explain.nuclei.partial_dependence import partial_dependence
from vitrail.explain.nuclei.results import COLUMNS, GROUPS, as_table
from vitrail.explain.nuclei.tiles import spread
from vitrail.explain.study.store import split_key
from vitrail.metrics.scores import divided
from vitrail.models.store import Model
from vitrail.nuclei.features import FEATURES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from vitrail.explain.nuclei.study import Field, Study
    from vitrail.explain.target import Pixels

    Floats = NDArray[np.float64]
    Tables = Mapping[str, pd.DataFrame]

UNTRAINED = 4
"""Networks with random weights whose maps each kind of maps is compared with."""

SETTLED = 16
"""Tiles whose statistics the batch normalisation of such a network has."""

EFFECT = "effect"
"""The outcome that is no map's."""

_KEYS = ["tile", "nucleus"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """Nuclei with an outcome.

    Attributes
    ----------
    rows
        Of the table `nuclei`.
    outcome
        `[n]`, NaN where there is none.
    nulls
        By null, `[draws, n]`.
    """

    rows: pd.DataFrame
    outcome: Floats
    nulls: Mapping[str, Floats]

    @property
    def features(self) -> pd.DataFrame:
        """The features that any of the nuclei has."""
        return self.rows[[name for name in FEATURES if self.rows[name].notna().any()]]

    def only(self, own: NDArray[np.bool_]) -> Asked:
        """Return some of the nuclei."""
        nulls = {name: drawn[:, own] for name, drawn in self.nulls.items()}
        return Asked(rows=self.rows[own].reset_index(drop=True), outcome=self.outcome[own], nulls=nulls)


def analyse(study: Study, fields: Sequence[Field], tables: Tables) -> dict[str, pd.DataFrame]:
    """Ask what goes with the outcomes of nuclei.

    Parameters
    ----------
    study
        The stage at work.
    fields
        Its tiles, in the order of the tables.
    tables
        `tiles`, `nuclei`, `relevance` and `effects`.

    Returns
    -------
    dict[str, pd.DataFrame]
        The tables `associations`, `contrasts`, `dependence`, `comparison` and `concepts`.
    """
    jobs = [(network, outcome) for network in study.models for outcome in (EFFECT, *study.methods(network))]
    results: dict[str, list[pd.DataFrame]] = {name: [] for name in ("associations", "contrasts", "dependence")}
    with study.work.progress.task("associate", len(jobs)) as step:
        for network, outcome in jobs:
            asked = cache(partial(_asked, study, fields, tables, network, outcome))
            groups = tables["nuclei"]["tile"].map(tables["tiles"].set_index("tile")[f"{network}_group"])
            for group, (name, make) in product(("all", *GROUPS), _QUESTIONS.items()):
                own = np.full(len(groups), fill_value=True) if group == "all" else (groups == group).to_numpy()
                if own.any() and (group == "all" or name != "dependence"):

                    def answer(
                        asked: Callable[[], Asked] = asked,
                        own: NDArray[np.bool_] = own,
                        make: Callable[[Asked, int], pd.DataFrame] = make,
                    ) -> pd.DataFrame:
                        return make(asked().only(own), study.settings.seed)

                    table = study.parts.table(f"{name}-{network}-{outcome}-{group}", answer)
                    results[name].append(table.assign(network=network, outcome=outcome, tiles=group))
            step()
    return {
        **{name: as_table(name, parts) for name, parts in results.items()},
        "comparison": as_table("comparison", _compared(study, tables)),
        "concepts": as_table("concepts", _concepts(study, fields, tables)),
    }


def _associated(asked: Asked, seed: int) -> pd.DataFrame:
    tiles, patients = asked.rows["tile"], asked.rows["patient_id"]
    return associate(
        asked.features, pd.Series(asked.outcome), tiles, patients, seed=seed, null_outcomes=dict(asked.nulls)
    )


def _contrasted(asked: Asked, seed: int) -> pd.DataFrame:
    return contrasts(asked.features, asked.outcome, asked.rows["tile"], asked.rows["patient_id"], seed=seed)


def _dependent(asked: Asked, seed: int) -> pd.DataFrame:
    tiles, patients = asked.rows["tile"], asked.rows["patient_id"]
    parts = [
        partial_dependence(values, asked.outcome, tiles, patients, seed=seed)
        .rename(columns={"feature": "value"})
        .assign(feature=str(name))
        for name, values in asked.features.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*COLUMNS["dependence"]])


_QUESTIONS: Mapping[str, Callable[[Asked, int], pd.DataFrame]] = {
    "associations": _associated, "contrasts": _contrasted, "dependence": _dependent
}  # fmt: skip


def outcome_of(tables: Tables, network: str, outcome: str) -> Floats:
    """Return an outcome of all nuclei.

    Parameters
    ----------
    tables
        `nuclei`, `relevance` and `effects`.
    network
        Whose.
    outcome
        `EFFECT`, or a method.

    Returns
    -------
    NDArray[np.float64]
        `[n]`, NaN for nuclei that were not removed one by one.
    """
    if outcome == EFFECT:
        return _single(tables, network)["effect_logit"].to_numpy(np.float64)
    own = tables["relevance"]
    own = own[(own["network"] == network) & (own["method"] == outcome)].set_index(_KEYS)
    return own["mean"].reindex(pd.MultiIndex.from_frame(tables["nuclei"][_KEYS])).to_numpy(np.float64)


def _single(tables: Tables, network: str) -> pd.DataFrame:
    """Return the removals of single nuclei, a row for each nucleus in the order of `nuclei`, NaN for the others."""
    effects = tables["effects"]
    single = effects[(effects["network"] == network) & (effects["draw"] < 0)].set_index(_KEYS)
    return single.reindex(pd.MultiIndex.from_frame(tables["nuclei"][_KEYS]))


def _untrained_effects(tables: Tables, network: str) -> Floats:
    """Return the effects of nuclei on networks with random weights, `[draws, n]`, NaN where they were not removed."""
    effects = tables["effects"]
    own = effects[(effects["network"] == network) & (effects["draw"] >= 0)]
    at = pd.MultiIndex.from_frame(tables["nuclei"][_KEYS])
    rows = [part.set_index(_KEYS)["effect_logit"].reindex(at).to_numpy() for _, part in own.groupby("draw")]
    return np.stack(rows) if rows else np.empty((0, len(at)))


def _asked(study: Study, fields: Sequence[Field], tables: Tables, network: str, outcome: str) -> Asked:
    rows, values = tables["nuclei"], outcome_of(tables, network, outcome)
    if outcome == EFFECT:
        single = _single(tables, network)
        keys = pd.MultiIndex.from_frame(rows[_KEYS])
        controls = tables["controls"][tables["controls"]["network"] == network].set_index(_KEYS)["effect_logit"]
        control, area = (each.to_numpy(np.float64) for each in (controls.reindex(keys), single["area_um2"]))
        nulls = effect_nulls(values, control, area, rows["tile"], seed=study.settings.seed)
        if len(drawn := _untrained_effects(tables, network)) > 1:
            nulls["untrained"] = drawn
    else:
        nulls = _map_nulls(study, fields, f"{network}_{outcome}")
    return Asked(rows=rows, outcome=values, nulls=nulls)


def _map_nulls(study: Study, fields: Sequence[Field], key: str) -> dict[str, Floats]:
    saliencies = [study.stored.saliency(key, field.position) for field in fields]
    labels, patients = _labels(fields), [field.patient for field in fields]
    network, method = split_key(key)
    nulls = map_nulls(saliencies, labels, patients, mean_relevance, seed=study.settings.seed)
    methods = _explained_again(study, network)
    if len(fields) > 1 and method in methods:
        drawn = study.parts.array(f"untrained-{network}", partial(_untrained, study, fields, network, methods))
        nulls["untrained"] = drawn[:, methods.index(method)]
    return nulls


def _explained_again(study: Study, network: str) -> list[str]:
    """Return the methods that are not too dear to explain networks with random weights, too."""
    return [method for method in study.methods(network) if not expensive(method)]


def _untrained(study: Study, fields: Sequence[Field], network: str, methods: list[str]) -> Floats:
    """Measure nuclei on the maps of networks with random weights, all methods at once: `[draws, methods, n]`."""
    images, trained = study.seen([field.tile for field in fields]), study.models[network]
    pixels = tumor_pixels(Explainer(trained, study.device, engine="torch").outputs(images))
    own: Pixels = "predicted" if pixels is None else pixels
    heads = {name: head for name, head in study.heads(network).items() if name in methods}
    model = Model(spec=trained.spec, module=copy.deepcopy(trained.module).cpu().eval())
    # where cells look is measured once and kept: while the weights are still the trained
    next(study.explaining(model).maps(images[:1], methods, heads, pixels=own if pixels is None else pixels[:1]))
    few = images[np.linspace(0, len(images) - 1, min(len(images), SETTLED)).round().astype(np.int64)]
    steps, draws = steps_of(model.module.cpu(), torch.zeros(1, 3, *images.shape[1:3])), []
    for draw in range(UNTRAINED):
        seed = study.weights_seed(draw)
        model.module.cpu()
        for number, step in enumerate(steps, 1):
            reinitialise(model.module, step, seed + number)
        settle(model, steps, few, study.device)
        redrawn = {name: METHODS[name].redraw(head, seed) for name, head in heads.items()}
        batches = list(study.explaining(model).maps(images, methods, redrawn, pixels=own))
        rows = []
        for number, method in enumerate(methods):
            values = torch.cat([maps[number].values for maps in batches]).cpu().numpy()  # noqa: PD011 - no data frame
            like = study.stored.saliency(f"{network}_{method}", fields[0].position)
            maps = [replace(like, values=each).upsample() for each in values]
            rows.append(np.concatenate([mean_relevance(*each) for each in zip(maps, _labels(fields), strict=True)]))
        draws.append(np.stack(rows))
    return np.stack(draws)


def _labels(fields: Sequence[Field]) -> list[NDArray[np.int32]]:
    return [field.labels for field in fields]


def mean_relevance(values: NDArray[np.floating], labels: NDArray[np.integer]) -> Floats:
    """Return the mean of a map over each nucleus.

    Parameters
    ----------
    values
        The map over the tile, in the networks' pixels.
    labels
        The nuclei of the tile, in finer pixels.

    Returns
    -------
    NDArray[np.float64]
        Of nucleus 1 to n.
    """
    inside = np.flatnonzero(labels)
    numbers, fine = labels.ravel()[inside], spread(values, labels.shape).ravel()[inside]
    count = int(labels.max(initial=0)) + 1
    sums, areas = np.bincount(numbers, fine, minlength=count), np.bincount(numbers, minlength=count)
    return divided(sums[1:], areas[1:])


def _compared(study: Study, tables: Tables) -> Iterator[pd.DataFrame]:
    """Compare what the two networks go by."""
    if len(study.models) != 2:
        return
    first, second = study.models
    shared = [method for method in study.methods(first) if method in study.methods(second)]
    rows = tables["nuclei"]
    features = rows[[name for name in FEATURES if rows[name].notna().any()]]
    for outcome in (EFFECT, *shared):
        pair = outcome_of(tables, first, outcome), outcome_of(tables, second, outcome)
        job = partial(compare, features, pair, rows["tile"], rows["patient_id"], seed=study.settings.seed)
        yield study.parts.table(f"comparison-{outcome}", job).assign(outcome=outcome)


def _concepts(study: Study, fields: Sequence[Field], tables: Tables) -> Iterator[pd.DataFrame]:
    """Ask which features of a tile's nuclei the networks hold, and use."""
    fields = [field for field in fields if len(field.nuclei)]
    if not fields:
        return
    rows = tables["nuclei"]
    features = rows[[name for name in FEATURES if rows[name].notna().any()]]
    concepts = tile_concepts(features, rows["tile"])
    by_tile = {field.tile: field for field in fields}
    order = [int(tile) for tile in concepts.index]
    for network, model in study.models.items():

        def ask(model: Model = model) -> pd.DataFrame:
            layer = pooled_layer(model, study.seen(order), device=study.device)
            patients = [by_tile[tile].patient for tile in order]
            return concept_vectors(layer, concepts, patients, seed=study.settings.seed)

        yield study.parts.table(f"concepts-{network}", ask).assign(network=network)
