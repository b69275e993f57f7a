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
from vitrail.quality.areas import drop_small_pieces
from vitrail.synthetic.fields import Mask, smooth_noise
from vitrail.synthetic.layout import TissueType
from vitrail.synthetic.nuclei import KIND_NAMES, KINDS, VERTICES
from vitrail.synthetic.spec import LAYOUT_STEP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shapely.geometry.base import BaseGeometry

    from vitrail.classes import RGB
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
    dict[str, Any]
        A GeoJSON FeatureCollection with the classes `Tumor` and `Non-tumor`, in level-0 pixels.
    """
    tumor = _trace(scene, scene.layout.zone, 7)
    normal = _trace(scene, ~scene.layout.zone, 8)
    normal = normal.difference(tumor.buffer(14 / scene.spec.mpp)).simplify(5 / scene.spec.mpp)
    # One class is written in one piece and the other in several: annotators do both.
    shapes = [(TissueClass.TUMOR, _smooth(tumor, scene))]
    shapes += [(TissueClass.NON_TUMOR, part) for part in _polygons(_smooth(normal, scene))]
    features = [
        _feature(f"{scene.spec.slide_id}/annotation/{k}", shapely.geometry.mapping(shape), label.title, label.rgb)
        for k, (label, shape) in enumerate(shapes)
        if not shape.is_empty
    ]
    return {"type": "FeatureCollection", "features": features}


def _trace(scene: Scene, zone: Mask, room: int) -> BaseGeometry:
    """Trace the tissue of a zone, without what annotators leave out, with a broad pen: blur, threshold, round off."""
    layout, um = scene.layout, scene.spec.mpp * LAYOUT_STEP
    left_out = drop_small_pieces(np.isin(layout.types, (TissueType.BLOOD, TissueType.NECROSIS)), 1500 / um**2)
    skipped = smooth_noise(scene.spec.rng(room), len(zone), max(len(zone) * 0.12, 30.0)) > 1.35
    folded = ndimage.maximum_filter(layout.fold, 5) > 0
    mask = zone & (layout.types != TissueType.GLASS) & ~(left_out | skipped | folded)
    soft = ndimage.gaussian_filter(mask.astype(np.float32), 16 / um)
    hand = 0.5 + 0.17 * smooth_noise(scene.spec.rng(9), len(mask), 70 / um)  # now inside the edge, now outside
    squares = (soft > np.clip(hand, 0.2, 0.8))[_COARSE // 2 :: _COARSE, _COARSE // 2 :: _COARSE]
    # one rectangle for each horizontal run of squares
    steps = np.diff(np.pad(squares, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(steps == 1)
    _, stops = np.nonzero(steps == -1)
    side = _COARSE * LAYOUT_STEP
    rough = shapely.union_all(shapely.box(starts * side, rows * side, stops * side, (rows + 1) * side))
    rounded = rough.buffer(1.2 * side).buffer(-2.4 * side).buffer(1.2 * side)
    return rounded.simplify(9 / scene.spec.mpp)


def _smooth(shape: BaseGeometry, scene: Scene) -> BaseGeometry:
    """Drop crumbs, cut the corners, stay on the slide, round to a tenth of a pixel."""
    least = min(_LEAST_UM2, 0.01 * scene.spec.side_um**2) / scene.spec.mpp**2
    smooth = []
    for polygon in _polygons(shape):
        if polygon.area < least:
            continue
        rings = [np.asarray(ring.coords)[:-1] for ring in (polygon.exterior, *polygon.interiors)]
        for _ in range(2):  # Chaikin 1974, Comput Graph Image Process 3:346
            following = [np.roll(ring, -1, axis=0) for ring in rings]
            rings = [
                np.stack([0.75 * ring + 0.25 * after, 0.25 * ring + 0.75 * after], axis=1).reshape(-1, 2)
                for ring, after in zip(rings, following, strict=True)
            ]
        smooth.append(shapely.make_valid(Polygon(rings[0], rings[1:])))
    side = scene.spec.side_px
    on_slide = shapely.union_all(smooth).intersection(shapely.box(0, 0, side, side))
    polygons = _polygons(shapely.set_precision(on_slide, 0.1))
    return polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)


def _polygons(shape: BaseGeometry) -> list[Polygon]:
    return [part for part in shapely.get_parts(shape) if isinstance(part, Polygon) and not part.is_empty]


def _feature(name: str, geometry: dict[str, Any], title: str, rgb: RGB) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, name)),
        "geometry": geometry,
        "properties": {
            "objectType": "annotation",
            "classification": {"name": title, "color": list(rgb)},
            "isLocked": False,
        },
    }


def nuclei_geojson(scene: Scene) -> Iterator[str]:
    """Write the truth of every nucleus, piece by piece: a FeatureCollection of QuPath detections.

    Yields
    ------
    str
        Text to be written one after the other.
    """
    nuclei = scene.nuclei
    corners = np.empty((len(nuclei), VERTICES, 2))
    for kind, bank in enumerate(scene.banks):
        mine = nuclei.kind == kind
        corners[mine] = bank.contour[nuclei.drawing[mine]]
    centre = np.stack([nuclei.x, nuclei.y], axis=-1)[:, None] + 0.5
    rings = np.round(np.clip(corners + centre, 0, scene.spec.side_px), 1).tolist()
    yield '{"type": "FeatureCollection", "features": ['
    for k, (kind, ring) in enumerate(zip(nuclei.kind.tolist(), rings, strict=True)):
        title = KINDS[KIND_NAMES[kind]].truth
        geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
        feature = _feature(f"{scene.spec.slide_id}/nucleus/{k}", geometry, title, _NUCLEUS_RGB[title])
        feature["properties"]["objectType"] = "detection"
        yield ("," if k else "") + "\n" + json.dumps(feature)
    yield "\n]}\n"
