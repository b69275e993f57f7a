"""The explanations of a study: every method of both networks on every test tile, and how far they agree.

`vitrail.explain.study.store` says what the folder holds. A killed run goes on where it was: pooled tiles, fitted
heads and explained blocks are kept in `unfinished/` until the folder is whole.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vitrail.classes import TASKS
from vitrail.core.files import write_table
from vitrail.core.resume import Parts
from vitrail.explain.agreement import (
    agreement,
    beyond_others,
    correlate,
    other_tiles,
    rank_agreement,
    rank_points,
)
from vitrail.explain.study.networks import Sources, fitted_network
from vitrail.explain.study.store import (
    AGREEMENT,
    ROWS,
    SUMMARY,
    columns_of,
    create_file,
    has_file,
    pairs,
    write_summary,
)
from vitrail.explain.study.tiles import explain_tiles, kinds_of
from vitrail.metrics.bootstrap import estimate
from vitrail.models.device import keep_memory, reproducible
from vitrail.models.folds import representing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vitrail.explain.study.networks import Augmentation, Network
    from vitrail.explain.study.store import SaliencyFile
    from vitrail.stage import Work

_CHUNK = 256


def explain_study(work: Work, augmentation: Augmentation | None = None) -> None:
    """Write the folder `explanations/`.

    The same study gives the same bytes on one machine, however often the work was killed.

    Parameters
    ----------
    work
        A run whose tiles, split, classifier and segmenter are finished, and where to write.
    augmentation
        Makes, for a task and a generator of the CPU, what changes training tiles (intensities 0 to 1,
        `[n, 3, h, w]`), for `explain.training = "epochs"`; None leaves them as they are.

    Raises
    ------
    SettingsError
        The settings name a method or a layer that cannot be used, or a device that is not there.
    TileError
        A method finds no training tile of a class.
    ModelError
        A network cannot be read or gives values that are not finite, or the device's memory is too small.
    """
    unfinished = work.folder / "unfinished"
    if not (work.folder / SUMMARY).is_file():  # else it was killed while it cleared up
        keep_memory()
        sources = Sources.open(work, unfinished)
        sources.check()
        sources.unfinished.mkdir(parents=True, exist_ok=True)
        with reproducible(sources.device, sources.settings.seed):
            _explain(sources, [fitted_network(task, sources, augmentation) for task in TASKS])
    shutil.rmtree(unfinished, ignore_errors=True)


def _explain(sources: Sources, networks: Sequence[Network]) -> None:
    """Explain the test tiles, and write maps, tables and summary."""
    test, seed = sources.rows("test"), sources.settings.seed
    image, blocks = np.asarray(sources.tiles.images[test[0]]), Parts(sources.unfinished / "blocks")
    kinds = kinds_of(networks, image)
    if not has_file(sources.folder, kinds, len(test)):
        blocks.discard()  # they belong to an older file
    file = create_file(sources.folder, kinds, len(test))
    scores = explain_tiles(networks, sources, file, blocks)

    columns = ["slide_id", "patient_id", "x", "y", "side", "label"]
    rows = sources.tiles.rows[columns].iloc[test].reset_index(drop=True)
    rows.insert(0, "tile", test)
    rows = rows.assign(**{task: scores[task] for task in TASKS})
    write_table(sources.folder / ROWS, rows)

    owners = rows[["tile", "slide_id", "patient_id"]]
    correlations, agreements = _agree(file, owners, seed)
    write_table(sources.folder / AGREEMENT, correlations)

    summary: dict[str, Any] = dict(agreements)
    clear = sources.clear("test")
    for method in sources.methods:
        # not every head tells tumor from non-tumor
        rated = [network for network in networks if f"{network.task}_{method.name}" in scores]
        if rated:
            summary[f"{method.name}_accuracy"] = {
                network.task: {
                    **_accuracy(scores[f"{network.task}_{method.name}"].to_numpy(), clear, sources),
                    **network.fits[method.name],
                }
                for network in rated
            }
    summary |= {
        "empty": {key: _empty(file.maps(key)) for key, kind in kinds.items() if kind.signed},
        "tiles": len(test),
        "patients": rows["patient_id"].nunique(),
        "min_share": sources.min_share,
        "layers": {network.task: network.layers(image) for network in networks if network.heads},
        "dense": networks[0].explainer.dense.geometry if networks[0].explainer.dense else {},
        "methods": {method.name: method.title for method in sources.methods},
        "described": {
            method.name: {"describes": method.describes, "passes": method.passes, "gradients": method.gradients}
            for method in sources.methods
        },
    }
    represented = {task: representing(sources.run.folder / task) for task in TASKS}
    if any(represented.values()):
        summary["represented"] = {task: facts for task, facts in represented.items() if facts}
    write_summary(sources.folder, summary)


def _agree(file: SaliencyFile, owners: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Compare each pair of kinds: the table `agreement.parquet`, and what the summary holds of it."""
    kinds, patients, others = file.kinds, owners["patient_id"].to_numpy(), other_tiles(len(owners), seed)
    ranks = {key: rank_points(file.maps(key), kind.frame) for key, kind in kinds.items()}
    columns: dict[str, NDArray[np.float64]] = {}
    agreements: dict[str, dict[str, Any]] = {"agreement": {}, "agreement_relu": {}}
    for column, pair, relu in columns_of(kinds):
        first, second = pairs(kinds)[pair]
        maps, frames = (file.maps(first), file.maps(second)), (kinds[first].frame, kinds[second].frame)
        columns[column] = correlate(*maps, frames, relu=relu)
        result = agreement(columns[column], patients, seed).summary()
        agreements["agreement_relu" if relu else "agreement"][pair] = result
        if relu:  # the paper's; ranks and the strongest places are the same without what speaks against tumor
            continue
        columns[f"{pair}_null"] = correlate(*maps, frames, others=others)
        for ending, partners in (("", np.arange(len(others))), ("_null", others)):
            spearman, top = rank_agreement(ranks[first], ranks[second][partners])
            columns |= {f"{pair}_spearman{ending}": spearman, f"{pair}_top10{ending}": top}
        result |= {
            name: beyond_others(columns[f"{pair}{ending}"], columns[f"{pair}{ending}_null"], patients, seed)
            for name, ending in (("pearson", ""), ("spearman", "_spearman"), ("top10", "_top10"))
        }
    return pd.concat([owners.assign(other=others), pd.DataFrame(columns)], axis=1), agreements


def _accuracy(logits: NDArray[np.float32], clear: NDArray[np.int64], sources: Sources) -> dict[str, Any]:
    """Rate a head on the test tiles that are clear, by its logits for all test tiles from the pass of the maps."""
    right = (logits[np.searchsorted(sources.rows("test"), clear)] > 0) == sources.tumor(clear)
    patients = sources.tiles.rows["patient_id"].to_numpy()[clear]
    accuracy, *interval = estimate(right, 1, patients, sources.settings.seed, "share").json
    return {"accuracy": accuracy, "interval": interval, "tiles": len(right)}


def _empty(maps: NDArray[np.float32]) -> int:
    """Count the maps without a positive value, without all of them in memory."""
    chunks = (maps[start : start + _CHUNK] for start in range(0, len(maps), _CHUNK))
    return int(sum((chunk.max((1, 2)) <= 0).sum() for chunk in chunks))
