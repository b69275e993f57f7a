"""Outlines as QuPath writes them: the coarse ones of an annotator, and the truth of every nucleus."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from scipy import ndimage
from shapely.geometry import MultiPolygon, Polygon

from vitrail.classes import TissueClass
from vitrail.synthetic.fields import Mask, smooth_noise
from vitrail.synthetic.layout import TissueType
from vitrail.synthetic.nuclei import KIND_NAMES, KINDS, VERTICES, nucleus_banks
from vitrail.synthetic.spec import LAYOUT_STEP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from vitrail.synthetic.draw import Scene

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "vitrail/phantom")
_COARSE = 4
_LEAST_UM2 = 12_000.0
_NUCLEUS_RGB = {
    "Nucleus: atypical": (213, 94, 0),
    "Nucleus: epithelial": (0, 158, 115),
    "Nucleus: stromal": (86, 180, 233),
    "Nucleus: lymphocyte": (0, 114, 178),
    "Nucleus: other": (204, 121, 167),
}


def annotate(scene: Scene) -> dict[str, Any]:
    """Outline a slide as an annotator would: large regions, smooth hand, no detail, not everything.

    Bleeding, necrosis, folds and a margin between the classes stay unannotated, and some of the tissue at random.

    Returns
    -------
    A GeoJSON FeatureCollection with the classes `Tumor` and `Non-tumor`, in level-0 pixels.
    """
    tumor = _trace(scene, _worth_outlining(scene, scene.layout.zone, 7))
    normal = _trace(scene, _worth_outlining(scene, ~scene.layout.zone, 8))
    normal = normal.difference(tumor.buffer(14 / scene.spec.mpp)).simplify(5 / scene.spec.mpp)
    # One class is written in one piece and the other in several: annotators do both.
    shapes = [(TissueClass.TUMOR, _whole(tumor, scene))]
    shapes += [(TissueClass.NON_TUMOR, part) for part in _parts(_whole(normal, scene))]
    features = [
        _feature(f"{scene.spec.slide_id}/annotation/{k}", shapely.geometry.mapping(shape), (label.title, label.rgb))
        for k, (label, shape) in enumerate(shapes)
        if not shape.is_empty
    ]
    return {"type": "FeatureCollection", "features": features}


def _worth_outlining(scene: Scene, zone: Mask, room: int) -> Mask:
    """Return the tissue of a class without what annotators leave out."""
    types = scene.layout.types
    left_out = _large(np.isin(types, (TissueType.BLOOD, TissueType.NECROSIS)), 1500 / _pixel_um2(scene))
    scale = max(scene.spec.side_px // LAYOUT_STEP * 0.12, 30.0)
    skipped = smooth_noise(scene.spec.rng(room), len(types), scale) > 1.35
    folded = ndimage.maximum_filter(scene.layout.fold, 5) > 0
    return np.asarray(zone & (types != TissueType.GLASS) & ~(left_out | skipped | folded), dtype=np.bool_)


def _large(mask: Mask, least: float) -> Mask:
    parts, _ = ndimage.label(mask)
    keep = np.bincount(parts.ravel()) >= least
    keep[0] = False
    return np.asarray(keep[parts], dtype=np.bool_)


def _pixel_um2(scene: Scene) -> float:
    return (scene.spec.mpp * LAYOUT_STEP) ** 2


def _trace(scene: Scene, mask: Mask) -> BaseGeometry:
    """Trace a mask with a broad pen: blur, threshold, round off."""
    um = scene.spec.mpp * LAYOUT_STEP
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 16 / um)
    hand = 0.5 + 0.17 * smooth_noise(scene.spec.rng(9), len(mask), 70 / um)  # now inside the edge, now outside
    squares = (soft > np.clip(hand, 0.2, 0.8))[_COARSE // 2 :: _COARSE, _COARSE // 2 :: _COARSE]
    side = _COARSE * LAYOUT_STEP
    rough = shapely.union_all(_runs(squares, side))
    rounded = rough.buffer(1.2 * side).buffer(-2.4 * side).buffer(1.2 * side)
    return rounded.simplify(9 / scene.spec.mpp)


def _runs(squares: Mask, side: int) -> NDArray[np.object_]:
    """Return one rectangle for each horizontal run of true squares."""
    steps = np.diff(np.pad(squares, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(steps == 1)
    _, stops = np.nonzero(steps == -1)
    return np.asarray(shapely.box(starts * side, rows * side, stops * side, (rows + 1) * side))


def _whole(shape: BaseGeometry, scene: Scene) -> BaseGeometry:
    """Smooth the corners, drop crumbs, stay on the slide, round to a tenth of a pixel."""
    least = min(_LEAST_UM2, 0.01 * scene.spec.side_um**2) / scene.spec.mpp**2
    smooth = [_chaikin(part) for part in _parts(shape) if part.area >= least]
    side = scene.spec.side_px
    whole = shapely.union_all(smooth).intersection(shapely.box(0, 0, side, side))
    exact = shapely.set_precision(whole, 0.1)
    parts = _parts(exact)
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)


def _parts(shape: BaseGeometry) -> list[Polygon]:
    return [part for part in shapely.get_parts(shape) if isinstance(part, Polygon) and not part.is_empty]


def _chaikin(polygon: Polygon) -> BaseGeometry:
    """Cut the corners twice (Chaikin 1974, Comput Graph Image Process 3:346)."""
    rings = [np.asarray(ring.coords)[:-1] for ring in (polygon.exterior, *polygon.interiors)]
    for _ in range(2):
        rings = [_cut(ring) for ring in rings]
    return shapely.make_valid(Polygon(rings[0], rings[1:]))


def _cut(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    following = np.roll(ring, -1, axis=0)
    return np.stack([0.75 * ring + 0.25 * following, 0.25 * ring + 0.75 * following], axis=1).reshape(-1, 2)


def _feature(name: str, geometry: dict[str, Any], look: tuple[str, tuple[int, int, int]]) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, name)),
        "geometry": geometry,
        "properties": {
            "objectType": "annotation",
            "classification": {"name": look[0], "color": list(look[1])},
            "isLocked": False,
        },
    }


def nuclei_geojson(scene: Scene) -> Iterator[str]:
    """Write the truth of every nucleus, piece by piece: a FeatureCollection of QuPath detections.

    Yields
    ------
    Text to be written one after the other.
    """
    yield '{"type": "FeatureCollection", "features": ['
    contours = _contours(scene)
    for k, (kind, ring) in enumerate(zip(scene.nuclei.kind.tolist(), contours.tolist(), strict=True)):
        name = KINDS[KIND_NAMES[kind]].truth
        geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
        feature = _feature(f"{scene.spec.slide_id}/nucleus/{k}", geometry, (name, _NUCLEUS_RGB[name]))
        feature["properties"]["objectType"] = "detection"
        yield ("," if k else "") + "\n" + json.dumps(feature)
    yield "\n]}\n"


def _contours(scene: Scene) -> NDArray[np.float64]:
    """Return the corners of every nucleus in level-0 pixels, `[n, VERTICES, 2]`."""
    nuclei, banks = scene.nuclei, nucleus_banks(scene.spec.mpp)
    corners = np.empty((len(nuclei), VERTICES, 2))
    for kind, bank in enumerate(banks):
        mine = nuclei.kind == kind
        corners[mine] = bank.contour[nuclei.drawing[mine]]
    centre = np.stack([nuclei.x, nuclei.y], axis=-1)[:, None] + 0.5
    return np.round(np.clip(corners + centre, 0, scene.spec.side_px), 1)
