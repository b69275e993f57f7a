"""The folder `explanations/` of a run: maps of every test tile, a kind for each network and method, and how they agree.

- `saliency.npy`: the values of all maps in one flat array of float32, read as a memory map; `saliency.json` says where
  each kind begins, its shape `[n, h, w]`, what made it, and where its cells lie on the tile.
- `tiles.parquet`: row i is map i of every kind. `tile`, its row in the tile table; `slide_id`, `patient_id`, `x`, `y`,
  `side`, `label` as there; `classifier`, the probability of tumor, uncalibrated, and `segmenter`, the fraction of
  pixels called tumor, both from the pass that made the maps.
- `agreement.parquet`: Pearson's coefficient of each tile and pair of kinds, and with `_relu` of the maps without what
  speaks against tumor, where both are signed; with `_spearman` that of ranks, and with `_top10` the share of the
  strongest tenth of the places that both maps have. With `_null`, `_spearman_null` and `_top10_null` the same with the
  second map of another tile: that of row `other`. NaN where a map is constant.
- `classifier/` and `segmenter/`: what methods have fitted, such as the dense layer of HR-CAM.
- `summary.json`: what they come to.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from vitrail.core.files import read_json, read_table, write_text
from vitrail.errors import RunError
from vitrail.explain.saliency import Frame, Saliency

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

TITLES = {"gradcam": "Grad-CAM", "hrcam": "HR-CAM"}
"""What the paper's two methods are called; explanations made since say so themselves, in their summary's `methods`."""


def split_key(key: str) -> tuple[str, str]:
    """Return the network and the method of a kind of maps, such as `classifier_gradcam`."""
    network, _, method = key.partition("_")
    return network, method


def pairs(keys: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return the pairs of kinds whose agreement is measured.

    Parameters
    ----------
    keys
        The kinds that there are.

    Returns
    -------
    dict[str, tuple[str, str]]
        By name: two methods on one network, `<network>_<method>_<method>`; and two networks under one method,
        `<method>_<network>_<network>`.
    """
    names = [split_key(key) for key in keys]
    result = {
        f"{network}_{first}_{second}": (f"{network}_{first}", f"{network}_{second}")
        for (network, first), (other, second) in combinations(names, 2)
        if network == other
    }
    return result | {
        f"{method}_{first}_{second}": (f"{first}_{method}", f"{second}_{method}")
        for (first, method), (second, other) in combinations(names, 2)
        if method == other
    }


_SUMMARY_KEYS = ("agreement", "agreement_relu", "empty", "tiles", "patients", "min_share", "layers")

VALUES, INDEX, ROWS = "saliency.npy", "saliency.json", "tiles.parquet"
AGREEMENT, SUMMARY = "agreement.parquet", "summary.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What all maps of one kind share.

    Attributes
    ----------
    method, layers, target, frame, signed
        As in `Saliency`.
    size
        Height and width of a map.
    """

    method: str
    layers: tuple[str, ...]
    target: str
    frame: Frame
    size: tuple[int, int]
    signed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SaliencyFile:
    """The maps of all kinds in their file.

    Attributes
    ----------
    kinds
        By key, in the order in which they lie in the file.
    count
        Maps of each kind.
    values
        The memory map, `[sum of n h w]`.
    """

    kinds: Mapping[str, Kind]
    count: int
    values: Floats

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """Let another process open the file, rather than sending it all the maps."""
        if isinstance(self.values, np.memmap) and self.values.filename is not None:
            return open_file, (Path(self.values.filename).parent,)
        return object.__reduce_ex__(self, protocol)

    def maps(self, key: str) -> Floats:
        """Return the maps of a kind, `[n, h, w]`, as a view of the file."""
        begin, shape = _offsets(self.kinds, self.count)[key], (self.count, *self.kinds[key].size)
        return self.values[begin : begin + math.prod(shape)].reshape(shape)

    def flush(self) -> None:
        """Write what has changed to the disk."""
        if isinstance(self.values, np.memmap):
            self.values.flush()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stored:
    """The explanations of a run.

    Attributes
    ----------
    rows, agreement, summary
        The content of `tiles.parquet`, `agreement.parquet` and `summary.json`.
    file
        The maps.
    """

    rows: pd.DataFrame
    agreement: pd.DataFrame
    summary: dict[str, Any]
    file: SaliencyFile

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def keys(self) -> tuple[str, ...]:
        """The kinds of maps: network and method."""
        return tuple(self.file.kinds)

    @property
    def methods(self) -> dict[str, str]:
        """The title of each method, by its name."""
        names = dict.fromkeys(split_key(key)[1] for key in self.keys)
        return {name: self.summary.get("methods", TITLES).get(name, name) for name in names}

    @property
    def dense(self) -> dict[str, Any]:
        """The `stride` and `margin_px` of an `Explainer` that gives these maps; none in runs of before."""
        return dict(self.summary.get("dense", {}))

    def maps(self, key: str) -> Floats:
        """Return all maps of a kind, `[n, h, w]`, left on disk until they are asked for."""
        return self.file.maps(key)

    def frame(self, key: str) -> Frame:
        """Return where the maps of a kind lie on their tiles."""
        return self.file.kinds[key].frame

    def saliency(self, key: str, i: int) -> Saliency:
        """Return map `i` of a kind."""
        kind, values = self.file.kinds[key], np.array(self.maps(key)[i])
        return Saliency(
            method=kind.method,
            layers=kind.layers,
            target=kind.target,
            values=values,
            frame=kind.frame,
            signed=kind.signed,
        )


def open_stored(folder: Path) -> Stored:
    """Open the `explanations` folder of a run.

    Parameters
    ----------
    folder
        The folder.

    Returns
    -------
    Stored
        Tables in memory, maps on disk.

    Raises
    ------
    RunError
        A file is missing or not valid, or they do not belong together.
    """
    cure = f"Remove this folder, and run: vitrail explain {folder.parent}"
    try:
        rows, agreement = (read_table(folder / name) for name in (ROWS, AGREEMENT))
        summary = read_json(folder / SUMMARY, _SUMMARY_KEYS)
        file = open_file(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"no complete explanations ({' '.join(str(error).split())[:200]})"
        raise RunError(folder, problem, cure) from None
    if not len(rows) == len(agreement) == file.count:
        raise RunError(folder, "tables and maps differ in number", cure)
    return Stored(rows=rows, agreement=agreement, summary=summary, file=file)


def create_file(folder: Path, kinds: Mapping[str, Kind], count: int) -> SaliencyFile:
    """Make room for `count` maps of each kind; where `has_file`, the file is opened as it is.

    The disk's space is taken at once: a memory map that outgrows the disk would end the process without a word.

    Parameters
    ----------
    folder
        Where.
    kinds
        What the maps of each kind share, by key.
    count
        Maps of each kind.

    Returns
    -------
    SaliencyFile
        Writable.

    Raises
    ------
    OSError
        The disk is full.
    """
    if not has_file(folder, kinds, count):
        temporary = folder / f".{VALUES}.tmp"
        total = sum(count * math.prod(kind.size) for kind in kinds.values())
        np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(total,))
        if hasattr(os, "posix_fallocate"):
            with temporary.open("r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, temporary.stat().st_size)
        temporary.replace(folder / VALUES)
        write_text(folder / INDEX, _index_text(kinds, count))
    return open_file(folder, writable=True)


def has_file(folder: Path, kinds: Mapping[str, Kind], count: int) -> bool:
    """Tell whether a folder has a file for these very maps."""
    index = folder / INDEX
    same = index.is_file() and index.read_bytes() == _index_text(kinds, count).encode()
    return same and (folder / VALUES).is_file()


def open_file(folder: Path, *, writable: bool = False) -> SaliencyFile:
    """Open the maps alone.

    Parameters
    ----------
    folder
        Where.
    writable
        Whether maps may be changed.

    Returns
    -------
    SaliencyFile
        The maps, on disk.

    Raises
    ------
    OSError
        A file is missing.
    RunError, ValueError, KeyError, TypeError
        One is not valid, or they do not fit each other.
    """
    index: dict[str, dict[str, Any]] = read_json(folder / INDEX)
    kinds = {key: kind_of(entry) for key, entry in index.items()}
    (count,) = {entry["shape"][0] for entry in index.values()}
    values: Floats = np.load(folder / VALUES, mmap_mode="r+" if writable else "r")
    if values.dtype != np.float32 or values.shape != (sum(math.prod(entry["shape"]) for entry in index.values()),):
        raise ValueError(f"{VALUES} does not fit {INDEX}")
    return SaliencyFile(kinds=kinds, count=count, values=values)


def kind_entry(kind: Kind, count: int = 1) -> dict[str, Any]:
    """Return what `saliency.json` says of so many maps of a kind."""
    return {
        "shape": [count, *kind.size],
        "method": kind.method,
        "layers": kind.layers,
        "target": kind.target,
        "signed": kind.signed,
        "frame": asdict(kind.frame),
    }


def kind_of(entry: Mapping[str, Any]) -> Kind:
    """Return the kind that `kind_entry` describes."""
    frame = {name: tuple(value) if isinstance(value, list) else value for name, value in entry["frame"].items()}
    _, height, width = entry["shape"]
    return Kind(
        method=entry["method"],
        layers=tuple(entry["layers"]),
        target=entry["target"],
        signed=entry.get("signed", True),
        frame=Frame(**frame),
        size=(height, width),
    )


def columns_of(kinds: Mapping[str, Kind]) -> list[tuple[str, str, bool]]:
    """List the columns of `agreement.parquet`: name, pair, and whether the maps go through ReLU first.

    Maps that are not signed do not.
    """
    columns = []
    for name, pair in pairs(kinds).items():
        columns.append((name, name, False))
        if all(kinds[key].signed for key in pair):
            columns.append((f"{name}_relu", name, True))
    return columns


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write `summary.json`; it is what a whole folder has."""
    write_text(folder / SUMMARY, json.dumps(summary, indent=1, allow_nan=False) + "\n")


def _offsets(kinds: Mapping[str, Kind], count: int) -> dict[str, int]:
    sizes = [count * math.prod(kind.size) for kind in kinds.values()]
    return dict(zip(kinds, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))


def _index_text(kinds: Mapping[str, Kind], count: int) -> str:
    offsets = _offsets(kinds, count)
    index = {key: {"offset": offsets[key], **kind_entry(kind, count)} for key, kind in kinds.items()}
    return json.dumps(index, indent=1) + "\n"
