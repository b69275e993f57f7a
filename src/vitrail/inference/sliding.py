"""Both networks over a whole slide, however large: read, run, blend and write a strip at a time.

What is finished is on disk, so that a killed run goes on. Memory depends on the slide's width alone.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from vitrail.classes import CLASSES, TissueClass
from vitrail.core.ahead import read_ahead
from vitrail.core.files import write_array
from vitrail.geometry import Region
from vitrail.inference.windows import Windows, WindowValues, blend
from vitrail.slides.slide import read_region

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.core.progress import Step
    from vitrail.inference.predictor import Predictor
    from vitrail.models.spec import ModelSpec
    from vitrail.slides.slide import Slide

    Keep = Callable[[NDArray[np.float64]], NDArray[np.bool_]]

T = TypeVar("T", bound=np.generic)

_CHUNK = 32
_BLOCK = 512
GLASS = np.eye(len(CLASSES), dtype=np.float32)[TissueClass.BACKGROUND]
"""What a window without tissue holds: background for sure."""


@dataclass(frozen=True, slots=True)
class FlipTTA:
    """Test-time augmentation: a segmenter sees each image in four mirrorings, and its mean answer counts.

    Attributes
    ----------
    segmenter
        The segmenter.
    """

    segmenter: Predictor

    def class_probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map images `[n, h, w, 3]` to the mean probability of each class at each pixel, `[n, 4, h, w]`.

        The four are the image, both its mirror images and its half turn; a transpose would need square images.
        """
        answers = []
        for down, across in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            flipped = np.ascontiguousarray(images[:, ::down, ::across])
            answers.append(self.segmenter.class_probabilities(flipped)[:, :, ::down, ::across])
        return np.asarray(np.mean(answers, axis=0), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where the windows of a segmentation map lie on a slide.

    Attributes
    ----------
    windows
        Over the map.
    downsample
        Level-0 pixels in one pixel of the map.
    batch
        Windows that the network looks at in one go, at most: of larger ones fewer, so that they need no more memory.
    """

    windows: Windows
    downsample: float
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
    return Plan(windows=windows, downsample=downsample, batch=max(_CHUNK // window**2, 1))


def segment_slide(
    slide: Slide, segmenter: Predictor | FlipTTA, plan: Plan, keep: Keep, folder: Path, step: Step
) -> Iterator[Path]:
    """Segment a slide on overlapping windows and blend them.

    Parameters
    ----------
    slide
        The slide.
    segmenter
        The segmenter, or `FlipTTA` around it.
    plan
        What `plan_segmentation` returned.
    keep
        Takes boxes `[n, 4]` (x, y, width, height in level-0 pixels) and says which are worth looking at.
    folder
        For finished strips; those that an interrupted call left are kept.
    step
        Told of the windows that are looked at.

    Yields
    ------
    Path
        From top to bottom, files of class probabilities `[h, width, 4]` as bytes, 255 being 1.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    paths = [folder / f"strip-{row:06d}.npy" for row in range(plan.windows.rows)]
    done = next((row for row, path in enumerate(paths) if not path.is_file()), len(paths))
    columns = [np.flatnonzero(keep(plan.boxes(row))) for row in range(len(paths))]
    for row, path in enumerate(paths[:done]):
        step(len(columns[row]))
        yield path
    if done == len(paths):
        return
    first = max(done - 1, 0)  # what this row adds to the first strip that is missing is in no file
    parts = {row: _cut(columns[row], plan.batch) for row in range(first, len(paths))}
    boxes = (plan.boxes(row)[part] for row, row_parts in parts.items() for part in row_parts)
    size_px = (plan.windows.side, plan.windows.side)
    with closing(read_ahead(lambda job: _read(slide, job, size_px), boxes)) as images:
        rows = (
            (WindowValues(columns=part, values=segmenter.class_probabilities(next(images))) for part in row_parts)
            for row_parts in parts.values()
        )
        strips = blend(plan.windows, rows, GLASS, first)
        for row in range(first, len(paths)):
            strip = _quantise(next(strips))  # nothing else keeps the floats
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
    explained: bool = False,
) -> Iterator[Path]:
    """Classify tiles of a slide, and explain them in the same pass where that is wanted.

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
    explained
        Whether the classifier is one that explains, and shall.

    Yields
    ------
    Path
        Files of the tiles' probabilities of tumor, `[b]`, in order; `maps_beside` says where their explanations are.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    size_px = (classifier.spec.side_px, classifier.spec.side_px)
    blocks = {folder / f"tiles-{at:09d}.npy": boxes[at : at + _BLOCK] for at in range(0, len(boxes), _BLOCK)}
    jobs = [part for path, block in blocks.items() if not path.is_file() for part in _cut(block, _CHUNK)]
    with closing(read_ahead(lambda job: _read(slide, job, size_px), jobs, ahead=2)) as images:
        for path, block in blocks.items():
            parts = () if path.is_file() else _cut(block, _CHUNK)
            if parts and explained:
                logits, maps = zip(*(classifier.explained(next(images)) for _part in parts), strict=True)
                write_array(maps_beside(path), np.concatenate(maps))
                write_array(path, classifier.probability(np.concatenate(logits)))  # last: it says that both are there
            elif parts:
                write_array(path, np.concatenate([classifier.tumor_probability(next(images)) for _part in parts]))
            step(len(block))
            yield path


def maps_beside(path: Path) -> Path:
    """Return where the explanations `[b, methods, h, w]` of a block are, given the path of its probabilities."""
    return path.with_name(path.name.replace("tiles-", "maps-"))


def _read(slide: Slide, boxes: NDArray[np.float64], size_px: tuple[int, int]) -> NDArray[np.uint8]:
    images = np.empty((len(boxes), size_px[1], size_px[0], 3), np.uint8)
    for image, (x, y, width, height) in zip(images, boxes.tolist(), strict=True):
        image[:] = read_region(slide, Region(x=x, y=y, width=width, height=height), size_px)
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
