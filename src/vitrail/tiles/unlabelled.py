"""Tissue outside the outlines, taken for non-tumor where every carcinoma of a slide is outlined.

What is taken is exact: the pixels of the tissue mask without those of artefacts, less all that is nearer than a margin
to an outline of tumor or of what is ignored. It is one more outline, which nobody drew (`Annotation.drawn`); whatever
reads outlines reads it, too.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import shapely
from shapely import MultiPolygon

from vitrail import __version__
from vitrail.classes import TissueClass
from vitrail.core.cache import cache_folder, read_cached, write_cached
from vitrail.core.digest import json_digest
from vitrail.errors import AnnotationError
from vitrail.quality.artefacts import find_artefacts
from vitrail.quality.tissue import find_tissue
from vitrail.slides.annotations import Annotation
from vitrail.slides.cohort import file_digest
from vitrail.slides.polygonize import outline_classes
from vitrail.slides.rasterize import rasterize

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.settings.load import Settings
    from vitrail.slides.annotations import Annotations
    from vitrail.slides.slide import Slide

CLEAN, SPOILT = 1, 2
"""Values of a pixel of tissue, without and with an artefact; 0 is glass."""

_LEAST_TISSUE = 0.25
"""Share of the outlined tumor that is tissue at least. Tissue has gaps, and outlines are drawn around them; those of
another slide lie on glass, and would leave this one's carcinoma among the non-tumor."""

_QUARTER = 16
"""Corners of a quarter of a circle, as margins are drawn."""

_MOST_BYTES = 256 << 20
"""Of all masks in the cache; one of a large slide has some 50 KiB."""


def with_unlabelled(outlines: Annotations, path: Path, slide: Slide, settings: Settings) -> Annotations:
    """Add the tissue outside all outlines as non-tumor, where the settings say so.

    Parameters
    ----------
    outlines
        As they were drawn.
    path
        Where they were read from, for messages.
    slide
        The slide.
    settings
        The branches `annotations`, `tissue`, `artefacts` and `tiles` matter.

    Returns
    -------
    Annotations
        With one more outline, which is not `drawn`, at the end; and a warning where there is less than a tile of such
        tissue. As they are where the settings ignore tissue without outlines.

    Raises
    ------
    SlideError
        The slide cannot be read.
    AnnotationError
        Hardly any of the outlined tumor is tissue: the outlines are not of this slide.
    """
    own = settings.annotations
    if own.unlabelled_tissue == "ignore":
        return outlines
    tissue = tissue_classes(slide, settings)
    size = tissue.shape[1], tissue.shape[0]
    tumor = rasterize(outlines.tumor, slide.region, size)
    if tumor.any() and (share := float((tissue[tumor] > 0).mean())) < _LEAST_TISSUE:
        cure = "Check that the outlines belong to this slide, or see the settings in [tissue]"
        raise AnnotationError(path, f"only {share:.0%} of what is outlined as tumor is tissue", cure)
    area = outside(outlines, tissue, slide, own.margin_um)
    side_um, um2 = settings.tiles.side_um, area.area * slide.mpp**2
    lines = list(outlines.warnings)
    if um2 < side_um**2:
        amount = "no tissue" if not um2 else f"only {um2 / 1e6:.2g} mm2 of tissue, less than a tile,"
        lines.append(f"{path.name}: {amount} lies {own.margin_um:g} um or more outside its outlines")
    if area.is_empty:
        return replace(outlines, warnings=tuple(lines))
    taken = Annotation(label=TissueClass.NON_TUMOR, geometry=area, drawn=False)
    return replace(outlines, outlines=(*outlines.outlines, taken), warnings=tuple(lines))


def outside(outlines: Annotations, tissue: NDArray[np.uint8], slide: Slide, margin_um: float) -> MultiPolygon:
    """Return the clean tissue that is at least a margin away from outlines of tumor and of what is ignored.

    Parameters
    ----------
    outlines
        Of the slide. Those of non-tumor keep nothing away: both are non-tumor.
    tissue
        `[h, w]` over the whole slide, as `tissue_classes` returns it.
    slide
        The slide.
    margin_um
        The margin; round corners are drawn by a few lines, and lie beyond it by up to 0.13 %.

    Returns
    -------
    MultiPolygon
        In level-0 pixels.
    """
    height, width = tissue.shape
    cell = np.array([slide.region.width / width, slide.region.height / height])
    polygons = outline_classes([tissue], (CLEAN,))[CLEAN]
    clean = shapely.transform(MultiPolygon(polygons), lambda points: points * cell)
    # a polygon around the circle, not within it: no place is nearer than the margin
    reach = margin_um / slide.mpp / math.cos(math.pi / (4 * _QUARTER))
    near = shapely.buffer(shapely.union_all([outlines.tumor, *outlines.ignored]), reach, quad_segs=_QUARTER)
    left = shapely.get_parts(shapely.difference(clean, near))
    return MultiPolygon([part for part in left if part.geom_type == "Polygon" and part.area > 0])


def tissue_classes(slide: Slide, settings: Settings) -> NDArray[np.uint8]:
    """Tell clean tissue, tissue with artefacts, and glass apart; what was found once is read from the user's cache.

    Parameters
    ----------
    slide
        The slide.
    settings
        The branches `tissue` and `artefacts` matter.

    Returns
    -------
    NDArray[np.uint8]
        `[h, w]` over the whole slide, in the pixels of `find_tissue`: `CLEAN`, `SPOILT`, or 0.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    values = settings.digest_values()
    header = [slide.mpp, slide.reading, [slide.bounds.x, slide.bounds.y, slide.bounds.width, slide.bounds.height]]
    digest = json_digest([__version__, file_digest(slide.path), header, values["tissue"], values["artefacts"]])
    folder = cache_folder("tissue")
    if folder and (content := read_cached(folder / digest)) is not None:
        shape = np.frombuffer(content[:8], "<u4")
        return np.frombuffer(zlib.decompress(content[8:]), np.uint8).reshape(shape)
    tissue = find_tissue(slide, settings.tissue)
    classes = tissue.mask.astype(np.uint8) * np.uint8(CLEAN)
    if tissue.mask.any():
        classes[tissue.mask & find_artefacts(slide, settings.artefacts).within(tissue)] = SPOILT
    if folder:
        content = np.array(classes.shape, "<u4").tobytes() + zlib.compress(classes.tobytes(), 1)
        write_cached(folder / digest, content, _MOST_BYTES)
    return classes
