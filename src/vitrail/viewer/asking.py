"""A tile asked about while somebody looks: what both networks say, why, what if a part were gone, and what is alike."""

from __future__ import annotations

import base64
import threading
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vitrail.classes import NETWORKS, TASKS
from vitrail.errors import RunError, SlideError
from vitrail.explain.agreement import correlate
from vitrail.explain.checks.replacements import blurred, painted
from vitrail.explain.explainer import BATCH, Explainer
from vitrail.explain.methods.base import METHODS, find_heads, methods_named
from vitrail.geometry import Region
from vitrail.models.batches import tumor_score
from vitrail.models.device import pick_device
from vitrail.models.store import load_model
from vitrail.slides.stain import read_for_networks
from vitrail.tiles.split import read_split
from vitrail.tiles.store import read_tiles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.classes import Task
    from vitrail.explain.methods.base import Head
    from vitrail.explain.saliency import Saliency
    from vitrail.models.store import Model
    from vitrail.settings.load import Settings
    from vitrail.slides.slide import Slide
    from vitrail.tiles.store import TileTable

    Pixels = NDArray[np.uint8]

QUICK_PASSES = 2
"""Forward passes and gradients a tile of the methods that answer at once; the others are asked for by name."""

MOST_TILES = 2000
"""Training tiles among which the nearest are looked for, spread evenly over all of them."""

NEAREST = 6
"""Of them are shown."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Network:
    model: Model
    explainer: Explainer
    heads: Mapping[str, Head]
    methods: list[str]
    sharpness: float  # by which logits are multiplied before they become probabilities
    stands_for: tuple[int, int] | None  # which of how many networks of an ensemble, from 1

    def read(self, slide: Slide, tile: Region) -> Pixels:
        """Read a tile at the network's resolution, as it was read in training."""
        side_px, reading = self.model.spec.side_px, self.model.spec.reading
        return read_for_networks(replace(slide, reading=reading.mode, stain=reading.stain), tile, (side_px, side_px))

    def scores(self, images: Pixels) -> list[float]:
        """Return the tumor score of each of a few images."""
        scores: list[float] = tumor_score(torch.cat(list(self.explainer.outputs(images))), self.sharpness).tolist()
        return scores


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Features:
    rows: NDArray[np.int64]  # in the tile table
    unit: NDArray[np.float32]  # [rows, channels], of length 1 once the mean is taken off
    mean: NDArray[np.float32]
    slides: list[str]
    labels: list[str]


class Networks:
    """A run's networks, loaded when they are first asked.

    Parameters
    ----------
    run
        The run folder.
    settings
        Its settings.
    """

    def __init__(self, run: Path, settings: Settings) -> None:
        self.run, self.settings = run, settings
        self._lock = threading.Lock()  # networks keep what a pass has seen, and both cores are one tile's anyhow
        self._features_lock = threading.Lock()

    @property
    def tasks(self) -> list[Task]:
        """The networks that are trained."""
        return [task for task in TASKS if (self.run / task / "model.json").is_file()]

    @cached_property
    def methods(self) -> dict[Task, list[str]]:
        """By network the methods that can explain it, in the order of the settings."""
        return {task: self._loaded[task].methods for task in self.tasks}

    @cached_property
    def _loaded(self) -> dict[Task, _Network]:
        own, device = self.settings.explain, pick_device("auto")
        loaded: dict[Task, _Network] = {}
        for task in self.tasks:
            whole = load_model(self.run / task)
            model = whole.explained
            chosen = methods_named(own.methods)
            heads, missing = find_heads(self.run / task, chosen)
            able = [m.name for m in chosen if m.explains(model.module) and m.name not in missing]
            # torch is asked for single tiles at once, where compiling would take seconds
            explainer = Explainer(model, device, engine="torch", stride=own.stride, margin_px=own.margin_px)
            sharpness = 1 / model.spec.temperature if self.settings.predict.calibrated else 1.0
            loaded[task] = _Network(
                model=model, explainer=explainer, heads=heads, methods=able, sharpness=sharpness,
                stands_for=(whole.spec.representative + 1, whole.spec.members) if whole.spec.represented else None,
            )  # fmt: skip
        return loaded

    def warm_up(self) -> None:
        """Load the networks and explain an empty tile, so that nobody waits for what is computed but once.

        Raises
        ------
        VitrailError
            A network cannot be loaded; whoever asks is told again.
        """
        with self._lock:
            for network in self._loaded.values():
                image = np.full((1, *[network.model.spec.side_px] * 2, 3), 240, np.uint8)
                quick = [name for name in network.methods if _quick(name)]
                for each in next(network.explainer.maps(image, quick, network.heads)) if quick else ():
                    each.saliencies()
                network.scores(image)

    def place(self, slide: Slide, x: float, y: float) -> Region:
        """Return the tile of the grid that a point lies in.

        Parameters
        ----------
        slide
            The slide.
        x, y
            In its level-0 pixels.

        Returns
        -------
        Region
            Moved inside where the grid's tile would end beyond the slide.

        Raises
        ------
        RunError
            No network is trained.
        SlideError
            The slide is smaller than a tile, or the point lies beyond it.
        """
        with self._lock:
            if not self._loaded:
                raise RunError(self.run, "has no trained network", f"Train one with: vitrail run {self.run}")
            spec = next(iter(self._loaded.values())).model.spec
        side, whole = spec.side_um / slide.mpp, slide.region
        if min(whole.width, whole.height) < side:
            raise SlideError(slide.path.name, "is smaller than a tile", "Look at another slide")
        if not (0 <= x < whole.width and 0 <= y < whole.height):
            raise SlideError(slide.path.name, f"has no pixel at {x:g}, {y:g}", "Click on the slide")
        left, top = min(x // side * side, whole.width - side), min(y // side * side, whole.height - side)
        return Region(x=left, y=top, width=side, height=side)

    def explain(self, slide: Slide, tile: Region, names: Sequence[str] = ()) -> dict[str, Any]:
        """Ask both networks about a tile.

        Parameters
        ----------
        slide, tile
            The slide, and the tile on it.
        names
            Methods; none takes those of the run that answer within `QUICK_PASSES`.

        Returns
        -------
        dict[str, Any]
            JSON: the tile; by network its score, of an ensemble which of how many networks was asked (`stands_for`,
            from 1), and its maps with size, limits and values (base64 of little-endian
            float32, row by row); how maps of the same method agree between the networks; and the seconds.
        """
        begin, answers = time.perf_counter(), {}
        maps: dict[tuple[str, str], Saliency] = {}
        with self._lock:
            for task, network in self._loaded.items():
                image, able = network.read(slide, tile)[None], network.methods
                chosen = [name for name in able if (name in names if names else _quick(name))]
                for each in next(network.explainer.maps(image, chosen, network.heads)) if chosen else ():
                    maps[task, each.method] = each.saliencies()[0]
                answers[task] = {
                    "title": NETWORKS[task],
                    "score": network.scores(image)[0],
                    "stands_for": network.stands_for,
                    "maps": [map_json(maps[task, name]) for name in chosen],
                    "methods": [{"name": m, "title": METHODS[m].title, "quick": _quick(m)} for m in able],
                }
        agreement = {}
        for method in {name for _, name in maps}:
            pair = [maps.get((task, method)) for task in TASKS]
            if pair[0] is not None and pair[1] is not None:
                first, second = pair[0], pair[1]
                frames = first.frame, second.frame
                value = float(correlate(first.values[None], second.values[None], frames)[0])
                agreement[method] = None if np.isnan(value) else value
        corner = {"x": tile.x, "y": tile.y, "side": tile.width}
        return {
            "tile": corner, "networks": answers, "agreement": agreement, "seconds": time.perf_counter() - begin,
        }  # fmt: skip

    def what_if(
        self, slide: Slide, tile: Region, brushed: Sequence[tuple[float, float, float]], by: str = "tissue"
    ) -> dict[str, Any]:
        """Score a tile with and without what was brushed away.

        Parameters
        ----------
        slide, tile
            The slide, and the tile on it.
        brushed
            Discs `(x, y, radius)` in level-0 pixels of the slide.
        by
            What takes their place: `tissue`, painted from the tile's pale half, or `blur`.

        Returns
        -------
        dict[str, Any]
            JSON: by network the score `before` and `after`; the share of the tile that was brushed away.
        """
        scores, share = {}, 0.0
        with self._lock:
            for task, network in self._loaded.items():
                image = network.read(slide, tile)
                mask = brush_mask(tile, image.shape[0], brushed)
                other = np.where(mask[..., None], (painted if by == "tissue" else blurred)(image), image)
                before, after = network.scores(np.stack([image, other]))
                scores[task], share = {"before": before, "after": after}, float(mask.mean())
        return {"networks": scores, "share": share}

    def nearest(self, slide: Slide, tile: Region) -> list[dict[str, Any]]:
        """Find the training tiles that the classifier's features hold for most alike.

        Parameters
        ----------
        slide, tile
            The slide, and the tile on it.

        Returns
        -------
        list[dict[str, Any]]
            JSON, nearest first: `row` in the tile table, `slide`, `label`, and `similarity`, the cosine.
        """
        known, network = self._training_features(), self._loaded["classifier"]
        with self._lock:
            own = network.explainer.pool(network.read(slide, tile)[None]).numpy()[0] - known.mean
        similarity = known.unit @ (own / max(float(np.linalg.norm(own)), 1e-12))
        best = np.argsort(-similarity)[:NEAREST].tolist()
        return [
            {
                "row": int(known.rows[i]), "slide": known.slides[i], "label": known.labels[i],
                "similarity": float(similarity[i]),
            }
            for i in best
        ]  # fmt: skip

    def picture(self, row: int) -> NDArray[np.uint8]:
        """Return the pixels of a tile of the run.

        Raises
        ------
        LookupError
            There is no such tile.
        """
        images = self._tiles.images
        if not 0 <= row < len(images):
            raise LookupError(f"no tile {row}")
        return np.asarray(images[row])

    @cached_property
    def _tiles(self) -> TileTable:
        return read_tiles(self.run / "tiles")

    def _training_features(self) -> _Features:
        """Return the features of training tiles; the first who asks waits for them."""
        with self._features_lock:
            return self._features

    @cached_property
    def _features(self) -> _Features:
        tiles = self._tiles
        training = np.flatnonzero(read_split(self.run / "split", tiles.rows) == "train")
        if not len(training) or "classifier" not in self._loaded:
            raise RunError(
                self.run, "has no training tiles or no classifier", f"Make them with: vitrail run {self.run}"
            )
        rows = training[np.linspace(0, len(training) - 1, min(MOST_TILES, len(training))).round().astype(np.int64)]
        explainer, parts = self._loaded["classifier"].explainer, []
        for start in range(0, len(rows), BATCH):
            with self._lock:  # between two parts somebody may ask about a tile
                parts.append(explainer.pool(np.asarray(tiles.images[rows[start : start + BATCH]])).numpy())
        features, table = np.concatenate(parts), tiles.rows.iloc[rows]
        mean = features.mean(0)
        features -= mean
        features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        return _Features(
            rows=rows, unit=features, mean=mean, slides=table["slide_id"].tolist(), labels=table["label"].tolist()
        )


def brush_mask(tile: Region, side_px: int, brushed: Sequence[tuple[float, float, float]]) -> NDArray[np.bool_]:
    """Tell which pixels of a tile lie in one of several discs.

    Parameters
    ----------
    tile
        On its slide.
    side_px
        Of the result.
    brushed
        `(x, y, radius)` in level-0 pixels of the slide.

    Returns
    -------
    NDArray[np.bool_]
        `[side_px, side_px]`; a pixel counts whose centre lies inside.
    """
    middles = (np.arange(side_px) + 0.5) * (tile.width / side_px)
    mask = np.zeros((side_px, side_px), np.bool_)
    for x, y, radius in brushed:
        mask |= (middles[None] + tile.x - x) ** 2 + (middles[:, None] + tile.y - y) ** 2 <= radius**2
    return mask


def _quick(name: str) -> bool:
    method = METHODS[name]
    return method.passes + method.gradients <= QUICK_PASSES


def map_json(saliency: Saliency) -> dict[str, Any]:
    """Return a map as JSON, over its whole tile; the values are base64 of little-endian float32, row by row."""
    values = saliency.upsample()
    most = float(np.abs(values).max())
    return {
        "method": saliency.method,
        "title": METHODS[saliency.method].title,
        "signed": saliency.signed,
        "height": values.shape[0],
        "width": values.shape[1],
        "low": -most if saliency.signed else float(values.min()),
        "high": most if saliency.signed else float(values.max()),
        "values": base64.b64encode(values.astype("<f4").tobytes()).decode(),
    }
