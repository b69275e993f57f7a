"""The nuclei of a region of a slide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from vitrail.geometry import Region
from vitrail.nuclei.engines import SlideEngine, StoredEngine
from vitrail.nuclei.scales import WORKING_MPP, check_scale, consecutive, size_at
from vitrail.slides.slide import read_region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vitrail.nuclei.engines import Engine
    from vitrail.slides.slide import Slide


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegionNuclei:
    """A region of a slide with its nuclei.

    Attributes
    ----------
    image
        `[h, w, 3]`, RGB.
    labels
        `[h, w]`, 0 none, 1 to n the nuclei whose centre lies inside; their parts beyond the region are cut off.
    mpp
        Micrometres per pixel of both.
    region
        Where on the slide, in level-0 pixels.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.int32]
    mpp: float
    region: Region


def segment_region(
    slide: Slide,
    region: Region,
    engine: Engine | SlideEngine | StoredEngine,
    *,
    mpp: float | None = None,
    slide_id: str | None = None,
) -> RegionNuclei:
    """Segment the nuclei of a region of a slide.

    An engine that looks at pixels is given a margin around the region, so that the nuclei at its edges are seen whole.
    A nucleus belongs to the region that its centre lies in: regions side by side share none, and lose none but those
    that look different from the other side.

    Parameters
    ----------
    slide
        The slide.
    region
        What to segment, in level-0 pixels.
    engine
        What finds nuclei; see `vitrail.nuclei.engines.engine_of`.
    mpp
        Micrometres per pixel of the result; by default 0.5, or the slide's own where it is coarser.
    slide_id
        Whose file an engine with stored nuclei reads; by default the stem of the slide's file.

    Returns
    -------
    RegionNuclei
        Pixels and labels.

    Raises
    ------
    NucleiError
        The slide is coarser than 0.6 um per pixel, or stored nuclei cannot be read.
    SlideError
        The slide cannot be decoded there.
    """
    check_scale(slide.path, slide.mpp)
    size = size_at(slide, region, max(slide.mpp, WORKING_MPP) if mpp is None else mpp)
    scale = region.width / size[0], region.height / size[1]  # level-0 pixels per pixel
    own_mpp = slide.mpp * math.sqrt(scale[0] * scale[1])
    if isinstance(engine, StoredEngine):
        engine = engine.for_slide(slide.path.stem if slide_id is None else slide_id)
    margin_px = 0 if isinstance(engine, SlideEngine) else math.ceil(engine.margin_um / own_mpp)
    window = Region(
        x=region.x - margin_px * scale[0],
        y=region.y - margin_px * scale[1],
        width=region.width + 2 * margin_px * scale[0],
        height=region.height + 2 * margin_px * scale[1],
    )
    image = read_region(slide, window, (size[0] + 2 * margin_px, size[1] + 2 * margin_px))
    if isinstance(engine, SlideEngine):
        return RegionNuclei(image=image, labels=engine.read(slide, region, own_mpp), mpp=own_mpp, region=region)
    inner = slice(margin_px, margin_px + size[1]), slice(margin_px, margin_px + size[0])
    labels = centred_in(engine(image, own_mpp), inner)
    return RegionNuclei(image=image[inner], labels=consecutive(labels), mpp=own_mpp, region=region)


def centred_in(labels: NDArray[np.int32], inner: tuple[slice, slice]) -> NDArray[np.int32]:
    """Cut a window out of labels, and keep the nuclei whose centre lies inside.

    Parameters
    ----------
    labels
        `[h, w]`, 0 none, 1 to n nuclei.
    inner
        Rows and columns of the window.

    Returns
    -------
    NDArray[np.int32]
        The window, with the numbers that the nuclei had.
    """
    numbers = np.arange(1, int(labels.max(initial=0)) + 1)
    if not len(numbers):
        return labels[inner]
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, numbers)) + 0.5  # of pixels, whose middles count
    rows, columns = inner
    inside = np.concatenate([
        [False],
        (centres[:, 0] >= rows.start) & (centres[:, 0] < rows.stop)
        & (centres[:, 1] >= columns.start) & (centres[:, 1] < columns.stop),
    ])  # fmt: skip
    window = labels[inner]
    return np.where(inside[window], window, 0).astype(np.int32)
