"""The explanations of a study: Grad-CAM and HR-CAM of both networks on every test tile, and how far they agree.

`vitrail.explain.study.store` says what the folder holds. A killed run goes on where it was: pooled tiles, trained
layers and explained blocks are kept in `unfinished/` until the folder is whole.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.classes import TASKS
from vitrail.core.files import write_table
from vitrail.explain.agreement import agreement, correlate
from vitrail.explain.study.networks import Sources, fitted_network
from vitrail.explain.study.store import (
    AGREEMENT,
    PAIRS,
    ROWS,
    SUMMARY,
    columns_of,
    create_file,
    has_file,
    write_summary,
)
from vitrail.explain.study.tiles import blocks_of, explain_tiles, kinds_of
from vitrail.metrics.bootstrap import estimate
from vitrail.models.device import keep_memory, pick_device, reproducible
from vitrail.tiles.split import read_split
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from vitrail.explain.study.networks import Augmentation, Network
    from vitrail.explain.study.store import Kind, SaliencyFile
    from vitrail.stage import Work

_UNFINISHED = "unfinished"
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
        The settings name a layer that cannot be used, or a device that is not there.
    TileError
        HR-CAM finds no training tile of a class.
    ModelError
        A network cannot be read or gives values that are not finite, or the device's memory is too small.
    """
    if not (work.folder / SUMMARY).is_file():  # else it was killed while it cleared up
        keep_memory()
        sources = _sources(work)
        sources.check()
        sources.unfinished.mkdir(parents=True, exist_ok=True)
        with reproducible(sources.device, sources.settings.seed):
            _explain(sources, [fitted_network(task, sources, augmentation) for task in TASKS])
    shutil.rmtree(work.folder / _UNFINISHED, ignore_errors=True)


def _sources(work: Work) -> Sources:
    tiles, device = read_tiles(work.run.folder / "tiles"), pick_device(work.run.settings.compute.device)
    return Sources(
        run=work.run,
        tiles=tiles,
        split=read_split(work.run.folder / "split", tiles.rows),
        device=device,
        folder=work.folder,
        unfinished=work.folder / _UNFINISHED / device.type,  # blocks of two devices do not go together
        progress=work.progress,
    )


def _explain(sources: Sources, networks: Sequence[Network]) -> None:
    test = sources.rows("test")
    image = np.asarray(sources.tiles.images[test[0]])
    file = _file(sources, kinds_of(networks, image), len(test))
    told = explain_tiles(networks, sources, file)
    rows = _rows(sources, told)
    correlations = _correlations(file, rows)
    write_table(sources.folder / ROWS, rows)
    write_table(sources.folder / AGREEMENT, correlations)
    summary = {
        **_agreements(correlations, columns_of(file.kinds), sources.settings.seed),
        "hrcam_accuracy": {network.task: _accuracy(network, sources, told) for network in networks},
        "empty": {key: _empty(file.maps(key)) for key, kind in file.kinds.items() if kind.signed},
        "tiles": len(test),
        "patients": rows["patient_id"].nunique(),
        "min_share": sources.min_share,
        "layers": {network.task: network.layers(image) for network in networks},
    }
    write_summary(sources.folder, summary)


def _file(sources: Sources, kinds: Mapping[str, Kind], count: int) -> SaliencyFile:
    """Open the file of the maps; the marks of finished blocks go with an older one."""
    if not has_file(sources.folder, kinds, count):
        shutil.rmtree(blocks_of(sources), ignore_errors=True)
    return create_file(sources.folder, kinds, count)


def _rows(sources: Sources, told: pd.DataFrame) -> pd.DataFrame:
    test = sources.rows("test")
    columns = ["slide_id", "patient_id", "x", "y", "side", "label"]
    rows = sources.tiles.rows[columns].iloc[test].reset_index(drop=True)
    rows.insert(0, "tile", test)
    return rows.assign(**{task: told[task] for task in TASKS})


def _correlations(file: SaliencyFile, rows: pd.DataFrame) -> pd.DataFrame:
    found = rows[["tile", "slide_id", "patient_id"]].copy()
    for column, pair, relu in columns_of(file.kinds):
        first, second = PAIRS[pair]
        frames = file.kinds[first].frame, file.kinds[second].frame
        found[column] = correlate(file.maps(first), file.maps(second), frames, relu=relu)
    return found


def _agreements(correlations: pd.DataFrame, columns: Sequence[tuple[str, str, bool]], seed: int) -> dict[str, Any]:
    patients = correlations["patient_id"].to_numpy()
    found: dict[str, Any] = {"agreement": {}, "agreement_relu": {}}
    for column, pair, relu in columns:
        summary = agreement(correlations[column].to_numpy(), patients, seed).summary()
        found["agreement_relu" if relu else "agreement"][pair] = summary
    return found


def _accuracy(network: Network, sources: Sources, told: pd.DataFrame) -> dict[str, Any]:
    """Rate HR-CAM's dense layer on the test tiles that are clear, by the logits of the pass that made the maps."""
    clear, test = sources.clear("test"), sources.rows("test")
    logits = told[f"{network.task}_hrcam"].to_numpy()[np.searchsorted(test, clear)]
    right = (logits > 0) == sources.tumor(clear)
    patients = sources.tiles.rows["patient_id"].to_numpy()[clear]
    accuracy, *interval = estimate(right, 1, patients, sources.settings.seed, "share").json
    return {
        "accuracy": accuracy,
        "interval": interval,
        "tiles": len(right),
        "train_accuracy": network.train_accuracy,
        "train_tiles": network.train_tiles,
    }


def _empty(maps: NDArray[np.float32]) -> int:
    """Count the maps without a positive value."""
    chunks = (maps[start : start + _CHUNK] for start in range(0, len(maps), _CHUNK))
    return int(sum((chunk.max((1, 2)) <= 0).sum() for chunk in chunks))
