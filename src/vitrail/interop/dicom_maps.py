"""Class probabilities as DICOM Segmentation, and saliency as Parametric Map, at their own resolution.

Both lie in the slide's frame of reference. Their frames fill the total pixel matrix (TILED_FULL), class by class, and
every level of the map is an instance of one pyramid. A Segmentation is fractional, its values are probabilities and 255
stands for 1 (PS3.3, A.51 and C.8.20); its frames are compressed by RLE. A Parametric Map has 32-bit floats as they are
(A.75); where the map has none, its pixels are padding (`FloatPixelPaddingValue`), beyond the range that is mapped.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

from vitrail.classes import ARTEFACT_CLASS, TissueClass
from vitrail.interop.class_map import TILE_PX
from vitrail.interop.dicom_objects import MOST_NATIVE, code, refused, settle, write_object
from vitrail.interop.dicom_source import import_dicom, quiet, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from vitrail.interop.class_map import ClassMap
    from vitrail.interop.dicom_objects import Coded, ObjectSource

TISSUE: Coded = ("85756007", "SCT", "Tissue")

CLASS_CODES: dict[str, tuple[Coded, Coded]] = {
    TissueClass.TUMOR.title: (
        ("49755003", "SCT", "Morphologically Abnormal Structure"),
        ("108369006", "SCT", "Neoplasm"),
    ),
    TissueClass.NON_TUMOR.title: (TISSUE, ("17621005", "SCT", "Normal")),
    TissueClass.OTHER.title: (TISSUE, TISSUE),
    TissueClass.BACKGROUND.title: (
        ("309825002", "SCT", "Spatial and Relational Concept"),
        ("125040", "DCM", "Background"),
    ),
    ARTEFACT_CLASS.title: (("260787004", "SCT", "Physical object"), ("47973001", "SCT", "Artifact")),
}
"""Category and type of each class, by its title (PS3.16, CID 7150 and 7151)."""

_QUANTITIES: dict[str, Coded] = {
    "grad-cam": ("130403", "DCM", "Gradient-weighted class activation"),
    "hr-cam": ("130402", "DCM", "Class activation"),
}
_SALIENCY: Coded = ("130404", "DCM", "Saliency")
"""What a method's values are (PS3.16, CID 7180)."""

_ONE: Coded = ("1", "UCUM", "no units")
_QUANTITY: Coded = ("246205007", "SCT", "Quantity")
PADDING = float(np.finfo(np.float32).min)
"""In the place of what was not looked at: below all values that are mapped."""

_LONGEST_LABEL = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A map and how it lies on the slide.

    Attributes
    ----------
    stored
        The map.
    scale
        Level-0 pixels of the slide per pixel of the map.
    """

    stored: ClassMap
    scale: float

    def frames(self, level: int) -> int:
        """Return how many frames a channel of a level has."""
        width, height = self.stored.header.levels[level]
        return math.ceil(width / TILE_PX) * math.ceil(height / TILE_PX)

    def tiles(self, level: int, channel: int, padding: float) -> Iterator[NDArray[np.float32]]:
        """Yield the tiles of a channel row by row, `[TILE_PX, TILE_PX]`, padded at the right and at the bottom."""
        width, height = self.stored.header.levels[level]
        for top in range(0, height, TILE_PX):
            for left in range(0, width, TILE_PX):
                rows, columns = slice(top, top + TILE_PX), slice(left, left + TILE_PX)
                part = self.stored.read(rows, columns, level=level)[..., channel]
                tile = np.full((TILE_PX, TILE_PX), padding, np.float32)
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile


def write_segmentation(folder: Path, name: str, placed: Placed, source: ObjectSource) -> list[Path]:
    """Write class probabilities as Segmentations, one a level of the map.

    Parameters
    ----------
    folder
        Where to.
    name
        Files are `<name>.segmentation.<level>.dcm`.
    placed
        The class map; each of its channels becomes a segment, by the codes of its name.
    source
        What it is about.

    Returns
    -------
    list[Path]
        The files, the finest first.

    Raises
    ------
    ExchangeError
        A file cannot be written, the map cannot be read, or the slide's header is not as it should be.
    """
    highdicom = import_dicom("highdicom")
    files, channels = [], placed.stored.header.channels
    for level in range(len(placed.stored.header.levels)):
        path = folder / f"{name}.segmentation.{level}.dcm"
        try:
            with quiet():
                dataset = highdicom.seg.Segmentation(
                    source_images=[source.slide.header],
                    pixel_array=np.zeros((1, TILE_PX, TILE_PX, len(channels)), np.float32),
                    segmentation_type="FRACTIONAL",
                    segment_descriptions=[
                        highdicom.seg.SegmentDescription(
                            segment_number=number,
                            segment_label=channel.name,
                            segmented_property_category=code(CLASS_CODES.get(channel.name, (TISSUE, TISSUE))[0]),
                            segmented_property_type=code(CLASS_CODES.get(channel.name, (TISSUE, TISSUE))[1]),
                            algorithm_type="AUTOMATIC",
                            algorithm_identification=source.algorithm(),
                            tracking_id=f"Vitrail {channel.name}",
                            tracking_uid=source.uid("segment", channel.name),
                            display_color=highdicom.color.CIELabColor.from_rgb(*channel.rgb),
                        )
                        for number, channel in enumerate(channels, start=1)
                    ],
                    transfer_syntax_uid="1.2.840.10008.1.2.5",
                    content_label="TISSUE",
                    content_description="Probabilities of tissue classes by Vitrail",
                    series_description="Vitrail: tissue classes",
                    omit_empty_frames=False,
                    **_layout(placed, level, source, "segmentation"),
                    **source.common("segmentation", 901, level + 1),
                )
        except unreadable():
            raise refused(source.slide) from None
        _stretch(dataset, placed, level, len(channels), source)
        write_object(
            path,
            settle(dataset, source, "segmentation", level),
            source.slide,
            (
                _rle(np.rint(tile * 255).astype(np.uint8))
                for channel in range(len(channels))
                for tile in placed.tiles(level, channel, 0)
            ),
        )
        files.append(path)
    return files


def write_parametric_maps(folder: Path, name: str, placed: Placed, source: ObjectSource) -> list[Path]:
    """Write maps of explanations as Parametric Maps, one a method and level.

    Levels whose values are more than a file may hold (4 GiB) are left out, the finest first.

    Parameters
    ----------
    folder
        Where to.
    name
        Files are `<name>.<method>.<level>.dcm`.
    placed
        The map; each of its channels is a method.
    source
        What it is about.

    Returns
    -------
    list[Path]
        The files, method by method, the finest first.

    Raises
    ------
    ExchangeError
        A file cannot be written, the map cannot be read, or the slide's header is not as it should be.
    """
    files = []
    for channel, method in enumerate(placed.stored.header.channels):
        low, high = _range(placed, channel)
        slug = "".join(letter if letter.isalnum() else "-" for letter in method.name.casefold())
        for level in range(len(placed.stored.header.levels)):
            length = placed.frames(level) * TILE_PX**2 * 4
            if length > MOST_NATIVE:
                continue
            path = folder / f"{name}.{slug}.{level}.dcm"
            dataset = _parametric_map(placed, level, source, channel, (low, high))
            _stretch(dataset, placed, level, 1, source)
            dataset.FloatPixelPaddingValue = dataset.FloatPixelPaddingRangeLimit = PADDING
            frames = (
                np.where(np.isfinite(tile), tile, np.float32(PADDING)).astype("<f4").tobytes()
                for tile in placed.tiles(level, channel, PADDING)
            )
            write_object(path, settle(dataset, source, slug, level), source.slide, frames, length)
            files.append(path)
    return files


def _parametric_map(placed: Placed, level: int, source: ObjectSource, channel: int, extent: tuple[float, float]) -> Any:
    """Make the object of one method and level, but for its frames."""
    highdicom = import_dicom("highdicom")
    method, (low, high) = placed.stored.header.channels[channel].name, extent
    quantity = next((coded for key, coded in _QUANTITIES.items() if method.casefold().startswith(key)), _SALIENCY)
    try:
        with quiet():
            return highdicom.pm.ParametricMap(
                source_images=[source.slide.header],
                pixel_array=np.zeros((1, TILE_PX, TILE_PX), np.float32),
                contains_recognizable_visual_features=False,
                real_world_value_mappings=[
                    highdicom.pm.RealWorldValueMapping(
                        lut_label=method[:_LONGEST_LABEL],
                        lut_explanation=f"{method}: what speaks for tumor (positive) and against it"[:64],
                        unit=code(_ONE),
                        value_range=(low, high),
                        slope=1.0,
                        intercept=0.0,
                        quantity_definition=code(quantity),
                    )
                ],
                voi_lut_transformations=[
                    highdicom.VOILUTTransformation(
                        window_center=(low + high) / 2,
                        window_width=high - low if high > low else 1.0,
                        voi_lut_function="LINEAR_EXACT",  # the others have a width of 1 at least
                    )
                ],
                content_label="SALIENCY",
                content_description=f"{method} by Vitrail: where the network looks"[:64],
                series_description=f"Vitrail: {method}"[:64],
                **_layout(placed, level, source, method),
                **source.common(method, 902 + channel, level + 1),
            )
    except unreadable():
        raise refused(source.slide) from None


def _layout(placed: Placed, level: int, source: ObjectSource, series: str) -> dict[str, Any]:
    """Return how the pixels of a level lie on the slide, as arguments of highdicom."""
    highdicom, scale = import_dicom("highdicom"), placed.scale * 2**level
    # the one tile that highdicom sees must not be taken for a wrong copy of the slide's own pixels
    measures, position = _geometry(source, 2.0 if scale == 1 else scale)
    return {
        "pixel_measures": measures,
        "plane_orientation": highdicom.PlaneOrientationSequence(
            "SLIDE", [float(value) for value in source.slide.header.ImageOrientationSlide]
        ),
        "plane_positions": [position],
        "tile_pixel_array": True,
        "tile_size": (TILE_PX, TILE_PX),
        "dimension_organization_type": "TILED_FULL",
        "pyramid_uid": source.uid("pyramid", series),
    }


def _geometry(source: ObjectSource, scale: float) -> tuple[Any, Any]:
    """Return the measures of pixels of a scale, and the position of the first of them."""
    highdicom, slide = import_dicom("highdicom"), source.slide
    rows_mm, columns_mm = slide.spacing_mm
    own = slide.header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures = highdicom.PixelMeasuresSequence(
        pixel_spacing=(rows_mm * scale, columns_mm * scale), slice_thickness=float(own.get("SliceThickness") or 0.001)
    )
    return measures, highdicom.PlanePositionSequence("SLIDE", slide.origin_mm(scale), (1, 1))


def _stretch(dataset: Any, placed: Placed, level: int, channels: int, source: ObjectSource) -> None:
    """Make the object of one tile that of a whole level; its pixels come from elsewhere."""
    dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = placed.stored.header.levels[level]
    dataset.NumberOfFrames = placed.frames(level) * channels
    measures, position = _geometry(source, placed.scale * 2**level)
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = measures
    for axis in "XYZ":
        name = f"{axis}OffsetInSlideCoordinateSystem"
        setattr(dataset.TotalPixelMatrixOriginSequence[0], name, position[0][name].value)
    for name in ("PixelData", "FloatPixelData"):
        if name in dataset:
            del dataset[name]


def _range(placed: Placed, channel: int) -> tuple[float, float]:
    """Return the least and the largest value of a channel over all levels; means of coarser ones lie between."""
    low, high = math.inf, -math.inf
    for tile in placed.tiles(0, channel, math.nan):
        values = tile[np.isfinite(tile)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _rle(tile: NDArray[np.uint8]) -> bytes:
    """Compress a frame of bytes (PS3.5, G): a header that counts one segment, then PackBits, each row for itself."""
    packed = b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in tile)
    return struct.pack("<16I", 1, 64, *(0,) * 14) + packed + b"\0" * (len(packed) % 2)
