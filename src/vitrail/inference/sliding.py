"""Both networks over a whole slide, however large: read, run, blend and write a strip at a time.

What is finished is on disk, so that a killed run goes on. Memory depends on the slide's width alone.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from vitrail.classes import CLASSES, TissueClass
from vitrail.core.files import write_array
from vitrail.geometry import Region
from vitrail.inference.windows import Looked, Windows, blend
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

J = TypeVar("J")
R = TypeVar("R")
T = TypeVar("T", bound=np.generic)

_CHUNK = 32
_BLOCK = 512
_AHEAD = 2
_ROWS = 64
GLASS = np.eye(len(CLASSES), dtype=np.float32)[TissueClass.BACKGROUND]
"""What a window without tissue holds: background for sure."""


class Segmenting(Protocol):
    """What tells the classes of pixels."""

    def class_probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map images `[n, h, w, 3]` to the probability of each class at each pixel, `[n, 4, h, w]`."""


@dataclass(frozen=True, slots=True)
class FlipTTA:
    """A segmenter that is shown each image in four mirrorings, and whose mean answer counts."""

    engine: Segmenting

    def class_probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map images `[n, h, w, 3]` to the mean probability of each class at each pixel, `[n, 4, h, w]`.

        The four are the image, both its mirror images and its half turn; a transpose would need square images.
        """
        answers = [self._mirrored(images, down, across) for down in (1, -1) for across in (1, -1)]
        return np.asarray(np.mean(answers, axis=0), np.float32)

    def _mirrored(self, images: NDArray[np.uint8], down: int, across: int) -> NDArray[np.float32]:
        shown = np.ascontiguousarray(images[:, ::down, ::across])
        return self.engine.class_probabilities(shown)[:, :, ::down, ::across]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideWork:
    """A slide to be worked on, and where.

    Attributes
    ----------
    slide
        The slide.
    folder
        For finished parts; those that an interrupted call left are kept.
    step
        Told of every finished part.
    """

    slide: Slide
    folder: Path
    step: Step


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
    """
    downsample = spec.mpp / slide.mpp
    height, width = (max(1, round(length / downsample)) for length in (slide.region.height, slide.region.width))
    side = spec.side_px * window
    windows = Windows(height=height, width=width, side=side, overlap=min(round(overlap * spec.side_px), side // 2))
    return Plan(windows=windows, downsample=downsample, batch=max(_CHUNK // window**2, 1))


def segment_slide(work: SlideWork, engine: Segmenting, plan: Plan, keep: Keep) -> Iterator[Path]:
    """Segment a slide on overlapping windows and blend them; a step is a window that is looked at.

    Parameters
    ----------
    work
        The slide.
    engine
        The segmenter, or `FlipTTA` around it.
    plan
        What `plan_segmentation` returned.
    keep
        Is given boxes `[n, 4]` (x, y, width, height in level-0 pixels) and says which are worth looking at.

    Yields
    ------
    From top to bottom, files of class probabilities `[h, width, 4]` as bytes, 255 being 1.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    paths = [work.folder / f"strip-{row:06d}.npy" for row in range(plan.windows.rows)]
    done = next((row for row, path in enumerate(paths) if not path.is_file()), len(paths))
    kept = {row: np.flatnonzero(keep(plan.boxes(row))) for row in range(plan.windows.rows)}
    for row, path in enumerate(paths[:done]):
        work.step(len(kept[row]))
        yield path
    if done == len(paths):
        return
    first = max(done - 1, 0)
    kept = {row: columns for row, columns in kept.items() if row >= first}
    with _looking(work.slide, engine, plan, kept) as rows:
        strips = blend(plan.windows, rows, GLASS, first)
        for row in range(first, len(paths)):
            strip = _as_bytes(next(strips))  # nothing else keeps the floats
            if row >= done:
                write_array(paths[row], strip)
                work.step(len(kept[row]))
                yield paths[row]


def _as_bytes(strip: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Quantise probabilities `[h, width, classes]`, a few rows at a time: wide slides would need much room."""
    whole = np.empty(strip.shape, np.uint8)
    for start in range(0, len(strip), _ROWS):
        rows = slice(start, start + _ROWS)
        whole[rows] = np.rint(strip[rows].clip(0, 1) * 255)
    return whole


@contextmanager
def _looking(
    slide: Slide, engine: Segmenting, plan: Plan, kept: dict[int, NDArray[np.int64]]
) -> Iterator[Iterator[Iterator[Looked]]]:
    """Give each row's windows in parts; the next part is read while the network looks at this one."""
    parts = {row: _cut(columns, plan.batch) for row, columns in kept.items()}
    size = (plan.windows.side, plan.windows.side)
    jobs = [(columns, plan.boxes(row)[columns]) for row, some in parts.items() for columns in some]
    with ThreadPoolExecutor(1) as reader:
        images = _ahead(reader, lambda job: (job[0], _read(slide, job[1], size)), jobs)

        def look() -> Looked:
            columns, batch = next(images)
            return Looked(columns=columns, values=engine.class_probabilities(batch))

        yield ((look() for _ in some) for some in parts.values())


def classify_slide(
    work: SlideWork, engine: Predictor, boxes: NDArray[np.float64], *, explained: bool = False
) -> Iterator[Path]:
    """Classify tiles of a slide, and explain them in the same pass where that is wanted; a step is a tile.

    Parameters
    ----------
    work
        The slide.
    engine
        The classifier.
    boxes
        The tiles, `[n, 4]`: x, y, width and height in level-0 pixels.
    explained
        Whether the engine is one that explains, and shall.

    Yields
    ------
    Files of the tiles' probabilities of tumor, `[b]`, in order; `maps_beside` says where their explanations are.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    size = (engine.spec.side_px, engine.spec.side_px)
    blocks = {work.folder / f"tiles-{at:09d}.npy": boxes[at : at + _BLOCK] for at in range(0, len(boxes), _BLOCK)}
    jobs = [part for path, block in blocks.items() if not path.is_file() for part in _cut(block)]
    with ThreadPoolExecutor(1) as reader:
        images = _ahead(reader, lambda part: _read(work.slide, part, size), jobs, _AHEAD)
        for path, block in blocks.items():
            if not path.is_file():
                _look(path, engine, (next(images) for _ in _cut(block)), explained=explained)
            work.step(len(block))
            yield path


def maps_beside(path: Path) -> Path:
    """Return where the explanations `[b, methods, h, w]` of a block are, given the path of its probabilities."""
    return path.with_name(path.name.replace("tiles-", "maps-"))


def _look(path: Path, engine: Predictor, images: Iterator[NDArray[np.uint8]], *, explained: bool) -> None:
    """Classify a block of tiles, and write what comes of it, the probabilities last."""
    if not explained:
        write_array(path, np.concatenate([engine.tumor_probability(part) for part in images]))
        return
    logits, maps = zip(*(engine.explained(part) for part in images), strict=True)
    write_array(maps_beside(path), np.concatenate(maps))
    write_array(path, engine.probability(np.concatenate(logits)))


def _ahead(pool: ThreadPoolExecutor, work: Callable[[J], R], jobs: list[J], most: int = 1) -> Iterator[R]:
    """Do jobs ahead of what is asked for, one or a few."""
    waiting = deque(pool.submit(work, job) for job in jobs[:most])
    for following in jobs[most:]:
        result = waiting.popleft().result()
        waiting.append(pool.submit(work, following))
        yield result
    while waiting:
        yield waiting.popleft().result()


def _read(slide: Slide, boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
    images = np.empty((len(boxes), size[1], size[0], 3), np.uint8)
    for image, (x, y, width, height) in zip(images, boxes.tolist(), strict=True):
        image[:] = read_region(slide, Region(x=x, y=y, width=width, height=height), size)
    return images


def _cut(values: NDArray[T], most: int = _CHUNK) -> list[NDArray[T]]:
    """Cut into parts of so many, and a rest."""
    return [values[at : at + most] for at in range(0, len(values), most)]
