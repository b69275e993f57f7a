"""Networks over a whole slide, however large: read, run, blend and write a strip at a time.

All of these are done at the same time: threads read ahead, others let the network look at what was read, and whoever
asks for strips blends and writes those that were looked at. What is finished is on disk, so that a killed run goes on.
Memory depends on the slide's width alone.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from vitrail.classes import CLASSES, TissueClass
from vitrail.core.ahead import work_ahead
from vitrail.core.files import write_array
from vitrail.core.parallel import cores
from vitrail.geometry import Region
from vitrail.inference.outputs import MAP_PX
from vitrail.inference.windows import Windows, WindowValues, blend
from vitrail.models.symmetries import MIRRORINGS
from vitrail.slides.stain import read_for_networks

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.core.progress import Step
    from vitrail.inference.predictor import Predictor
    from vitrail.models.features import PooledFeatures
    from vitrail.models.spec import ModelSpec
    from vitrail.slides.slide import Slide
    from vitrail.tiles.grid import TileGrid

    Floats = NDArray[np.float32]
    Keep = Callable[[NDArray[np.float64]], NDArray[np.bool_]]

T = TypeVar("T", bound=np.generic)
Answer = TypeVar("Answer")

_CHUNK = 32
_BLOCK = 512
_READERS = 4
"""Threads that read, at most, and one a core: the decoders leave Python to others."""

GLASS = np.eye(len(CLASSES), dtype=np.float32)[TissueClass.BACKGROUND]
"""What a window without tissue holds: background for sure."""

_EXPLAINED_TILES, _EXPLAINED_PX = 6, 1024
"""Tiles along a window that is explained, and its pixels, at most. Larger ones would have less overlap to compute
twice, but more glass in them where tissue is scattered, and need more memory."""

_EXPLAINED_BATCH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where the windows of a map lie on a slide.

    Attributes
    ----------
    windows
        Over the map.
    downsample
        Level-0 pixels in one pixel of the map.
    batch
        Windows that the network looks at in one go, at most: of larger ones fewer, so that they need no more memory.
    image_px
        Side of the image that the network sees of a window.
    """

    windows: Windows
    downsample: float
    image_px: int
    batch: int = _CHUNK

    def boxes(self, row: int) -> NDArray[np.float64]:
        """Return x, y, width and height of all windows of a row in level-0 pixels, `[columns, 4]`."""
        x = np.array([self.windows.start(column) for column in range(self.windows.columns)], np.float64)
        rest = np.broadcast_to([self.windows.start(row), self.windows.side, self.windows.side], (len(x), 3))
        return np.column_stack([x, rest]) * self.downsample


def plan_segmentation(slide: Slide, spec: ModelSpec, overlap: float, window: int = 1) -> Plan:
    """Cover a slide with windows for a model.

    Parameters
    ----------
    slide
        The slide.
    spec
        Of the segmenter: its `mpp` is the map's.
    overlap
        Of neighbouring windows, as a share of a tile's side; 0 to 0.5.
    window
        Their side, in the model's tiles.

    Returns
    -------
    Plan
        Of the windows.
    """
    downsample = spec.mpp / slide.mpp
    height, width = (max(1, round(length / downsample)) for length in (slide.region.height, slide.region.width))
    side = spec.side_px * window
    windows = Windows(height=height, width=width, side=side, overlap=min(round(overlap * spec.side_px), side // 2))
    return Plan(windows=windows, downsample=downsample, image_px=side, batch=max(_CHUNK // window**2, 1))


def plan_explanation(grid: TileGrid, spec: ModelSpec) -> Plan:
    """Cover a slide's tiles with windows of several tiles a side, for the maps that explain a classifier.

    Parameters
    ----------
    grid
        The slide's tiles; each has `MAP_PX` by `MAP_PX` pixels of the map.
    spec
        Of the classifier.

    Returns
    -------
    Plan
        Of windows that overlap by half a tile, none wider than the slide.
    """
    tiles = max(min(_EXPLAINED_TILES, _EXPLAINED_PX // spec.side_px, max(grid.rows, grid.columns)), 1)
    windows = Windows(height=grid.rows * MAP_PX, width=grid.columns * MAP_PX, side=tiles * MAP_PX, overlap=MAP_PX // 2)
    batch = max(_CHUNK // tiles**2, _EXPLAINED_BATCH)
    return Plan(windows=windows, downsample=grid.side / MAP_PX, image_px=tiles * spec.side_px, batch=batch)


def holding(occupied: NDArray[np.bool_], grid: TileGrid) -> Keep:
    """Return what keeps the windows that hold any of some tiles.

    Parameters
    ----------
    occupied
        Which tiles these are, `[rows, columns]`.
    grid
        The slide's tiles.

    Returns
    -------
    Callable[[NDArray[np.float64]], NDArray[np.bool_]]
        For `blend_slide`.
    """

    def keep(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
        first = np.floor((boxes[:, :2] / grid.side).round(6)).clip(0).astype(int)
        end = np.ceil(((boxes[:, :2] + boxes[:, 2:]) / grid.side).round(6)).astype(int)
        spans = zip(first.tolist(), end.tolist(), strict=True)
        return np.array([occupied[top:bottom, left:right].any() for (left, top), (right, bottom) in spans], np.bool_)

    return keep


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A map that is blended from windows.

    Attributes
    ----------
    name
        Of its files.
    look
        Maps images `[n, h, w, 3]` to values `[n, channels, side, side]`, in the map's pixels.
    elsewhere
        What a window that was not looked at holds, `[channels]`.
    pack
        Turns a strip `[h, width, channels]` into what is stored.
    predictor
        That looks.
    """

    name: str
    look: Callable[[NDArray[np.uint8]], Floats]
    elsewhere: Floats
    pack: Callable[[Floats], NDArray[np.uint8] | Floats]
    predictor: Predictor


def class_layer(segmenter: Predictor, *, mirrored: bool = False, uncertain: bool = False) -> Layer:
    """Return the layer of class probabilities as bytes, 255 being 1.

    Parameters
    ----------
    segmenter
        The segmenter.
    mirrored
        Whether it sees each window in four mirrorings, whose mean probabilities count; not with `uncertain`.
    uncertain
        Whether a channel follows of twice the spread of the probability of tumor, which is between 0 and a half.
    """
    look = segmenter.class_probabilities
    if uncertain:
        look = partial(_uncertain_probabilities, segmenter)
    elif mirrored:
        look = partial(mirrored_probabilities, segmenter)
    elsewhere = np.append(GLASS, np.float32(0)) if uncertain else GLASS
    return Layer(name="strip", look=look, elsewhere=elsewhere, pack=_quantise, predictor=segmenter)


def mirrored_probabilities(segmenter: Predictor, images: NDArray[np.uint8]) -> Floats:
    """Segment images in four mirrorings.

    Parameters
    ----------
    segmenter
        The segmenter.
    images
        `[n, h, w, 3]`.

    Returns
    -------
    NDArray[np.float32]
        The mean probability of each class at each pixel, `[n, 4, h, w]`.
    """
    answers = [
        segmenter.class_probabilities(mirroring.apply(images))[:, :, :: mirroring.down, :: mirroring.across]
        for mirroring in MIRRORINGS
    ]
    return np.asarray(np.mean(answers, axis=0), np.float32)


def _uncertain_probabilities(segmenter: Predictor, images: NDArray[np.uint8]) -> Floats:
    """Return the probability of each class and twice the spread of that of tumor, `[n, 5, h, w]`."""
    return np.concatenate(
        [
            torch.cat([answers.probabilities, 2 * answers.spread.unsqueeze(1)], 1).cpu().numpy()
            for answers in segmenter.answers(images)
        ]
    )


def explanation_layer(explaining: Predictor) -> Layer:
    """Return the layer of a classifier's explanations, a channel a method; 0 where nobody looked.

    Parameters
    ----------
    explaining
        A predictor that explains windows as large as the plan's.
    """

    def look(images: NDArray[np.uint8]) -> Floats:
        _logits, maps = explaining.explained(images)
        return maps

    none = np.zeros(len(explaining.channels), np.float32)
    return Layer(name="why", look=look, elsewhere=none, pack=np.ascontiguousarray, predictor=explaining)


def blend_slide(
    slide: Slide, layer: Layer, plan: Plan, keep: Keep, folder: Path, step: Step
) -> Generator[Path, None, None]:
    """Look at a slide in overlapping windows and blend them.

    Parameters
    ----------
    slide
        The slide.
    layer
        What looks, see `class_layer` and `explanation_layer`.
    plan
        What `plan_segmentation` or `plan_explanation` returned.
    keep
        Takes boxes `[n, 4]` (x, y, width, height in level-0 pixels) and says which are worth looking at.
    folder
        For finished strips; those that an interrupted call left are kept.
    step
        Told of the windows that are looked at.

    Yields
    ------
    Path
        From top to bottom, files of strips `[h, width, channels]`.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    paths = [folder / f"{layer.name}-{row:06d}.npy" for row in range(plan.windows.rows)]
    done = next((row for row, path in enumerate(paths) if not path.is_file()), len(paths))
    columns = [np.flatnonzero(keep(plan.boxes(row))) for row in range(len(paths))]
    for row, path in enumerate(paths[:done]):
        step(len(columns[row]))
        yield path
    if done == len(paths):
        return
    first = max(done - 1, 0)  # what this row adds to the first strip that is missing is in no file
    parts = {row: _cut(columns[row], plan.batch) for row in range(first, len(paths))}
    boxes = [plan.boxes(row)[part] for row, row_parts in parts.items() for part in row_parts]
    size_px = (plan.image_px, plan.image_px)
    with _looked(slide, layer.predictor.streams, layer.look, boxes, size_px) as answers:
        rows = (
            (WindowValues(columns=part, values=next(answers)) for part in row_parts) for row_parts in parts.values()
        )
        strips = blend(plan.windows, rows, layer.elsewhere, first)
        for row in range(first, len(paths)):
            strip = layer.pack(next(strips))  # nothing else keeps the floats
            if row >= done:
                write_array(paths[row], strip)
                step(len(columns[row]))
                yield paths[row]


def classify_slide(
    slide: Slide,
    classifier: Predictor,
    boxes: NDArray[np.float64],
    folder: Path,
    step: Step,
    *,
    uncertain: bool = False,
) -> Iterator[Path]:
    """Classify tiles of a slide.

    Parameters
    ----------
    slide
        The slide.
    classifier
        The classifier.
    boxes
        The tiles, `[n, 4]`: x, y, width and height in level-0 pixels.
    folder
        For finished blocks of tiles; those that an interrupted call left are kept.
    step
        Told of the tiles that are classified.
    uncertain
        Whether the spread of the probability is wanted, too.

    Yields
    ------
    Path
        Files of the tiles' probabilities of tumor, `[b]`, in order; or with their spread, `[b, 2]`.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    size_px = (classifier.spec.side_px, classifier.spec.side_px)
    look = partial(_uncertain_tumor, classifier) if uncertain else classifier.tumor_probability
    blocks = {folder / f"tiles-{at:09d}.npy": boxes[at : at + _BLOCK] for at in range(0, len(boxes), _BLOCK)}
    jobs = [part for path, block in blocks.items() if not path.is_file() for part in _cut(block, _CHUNK)]
    with _looked(slide, classifier.streams, look, jobs, size_px) as answers:
        for path, block in blocks.items():
            parts = () if path.is_file() else _cut(block, _CHUNK)
            if parts:
                write_array(path, np.concatenate([next(answers) for _part in parts]))
            step(len(block))
            yield path


def tile_features(slide: Slide, encoder: PooledFeatures, boxes: NDArray[np.float64], step: Step) -> NDArray[np.float32]:
    """Compute the features of tiles of a slide.

    Parameters
    ----------
    slide
        The slide.
    encoder
        What makes them.
    boxes
        The tiles, `[n, 4]`: x, y, width and height in level-0 pixels.
    step
        Told of the tiles that are done.

    Returns
    -------
    NDArray[np.float32]
        `[n, channels]`.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    jobs = _cut(boxes, _CHUNK)
    parts: list[NDArray[np.float32]] = []
    with _looked(slide, lambda: 1, encoder, jobs, (encoder.spec.side_px, encoder.spec.side_px)) as answers:
        for job, features in zip(jobs, answers, strict=True):
            parts.append(features)
            step(len(job))
    return np.concatenate(parts) if parts else encoder(np.empty((0, 1, 1, 3), np.uint8))


@contextmanager
def _looked(
    slide: Slide,
    count_streams: Callable[[], int],
    look: Callable[[NDArray[np.uint8]], Answer],
    jobs: Sequence[NDArray[np.float64]],
    size_px: tuple[int, int],
) -> Iterator[Iterator[Answer]]:
    """Give what a network says of some boxes after others: later ones are read and looked at meanwhile, in threads."""
    streams, readers = count_streams() if jobs else 1, min(cores(), _READERS)
    ahead = streams + 1
    # each job is read by all readers together, so that the network need not wait long for the first one
    pieces = [_cut(job, -(-len(job) // readers)) for job in jobs]
    every = (piece for of_job in pieces for piece in of_job)
    read = partial(_read, slide, size_px=size_px)
    with closing(work_ahead(read, every, ahead * readers, readers)) as parts:
        images = (np.concatenate([next(parts) for _ in of_job]) for of_job in pieces)
        with closing(work_ahead(look, images, ahead, streams)) as answers:
            yield answers


def _uncertain_tumor(classifier: Predictor, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the probability of tumor and its spread, `[n, 2]`."""
    answers = list(classifier.answers(images))
    return np.concatenate([torch.stack([each.probabilities, each.spread], 1).cpu().numpy() for each in answers])


def _read(slide: Slide, boxes: NDArray[np.float64], size_px: tuple[int, int]) -> NDArray[np.uint8]:
    images = np.empty((len(boxes), size_px[1], size_px[0], 3), np.uint8)
    for image, (x, y, width, height) in zip(images, boxes.tolist(), strict=True):
        image[:] = read_for_networks(slide, Region(x=x, y=y, width=width, height=height), size_px)
    return images


def _cut(values: NDArray[T], most: int) -> list[NDArray[T]]:
    """Cut into parts of so many, and a rest."""
    return [values[at : at + most] for at in range(0, len(values), most)]


def _quantise(strip: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Turn probabilities `[h, width, classes]` into bytes, a few rows at a time: wide slides would need much room."""
    quantised = np.empty(strip.shape, np.uint8)
    for start in range(0, len(strip), 64):
        rows = slice(start, start + 64)
        quantised[rows] = np.rint(strip[rows].clip(0, 1) * 255)
    return quantised
