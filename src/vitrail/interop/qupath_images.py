"""Slides and maps as images of a QuPath project: where they are, what opens them, what they measure.

A project holds for each image what builds its reader (`serverBuilder`): the class of QuPath that opens it, a URI,
arguments, and metadata, which win over what that class finds in the file. Pixel type, channels and levels must be the
file's own; where they are not certain here, the metadata are left to QuPath. As QuPath 0.4 to 0.6 has it
(`ImageServerBuilder.DefaultImageServerBuilder`, `ImageServerMetadata`).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vitrail.interop.class_map import TILE_PX, read_class_map
from vitrail.slides.metadata import bounds_of, downsample_of
from vitrail.slides.readers.openslide import open_with_openslide, properties_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path, PurePath

    from vitrail.classes import RGB

OPENSLIDE = "qupath.lib.images.servers.openslide.OpenslideServerBuilder"
BIO_FORMATS = "qupath.lib.images.servers.bioformats.BioFormatsServerBuilder"

_RGB = (("Red", (255, 0, 0)), ("Green", (0, 255, 0)), ("Blue", (0, 0, 255)))
_PIXEL_TYPES = {"uint8": "UINT8", "float32": "FLOAT32"}
_MPP_SLACK = 1e-3
"""By so much of it a pixel may differ from the header's, before the header is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectImage:
    """An image of a project.

    Attributes
    ----------
    name
        As QuPath lists it.
    builder
        What builds its reader, as JSON has it.
    metadata
        Texts that QuPath shows with the image, by their names.
    """

    name: str
    builder: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)


def file_uri(path: PurePath) -> str:
    """Return the URI of a file as Java writes it: `file:/C:/a%20b`.

    Parameters
    ----------
    path
        Absolute; of this system or of another.

    Returns
    -------
    str
        In ASCII.
    """
    uri = path.as_uri()
    return f"file:/{uri[8:]}" if uri.startswith("file:///") else uri


def slide_image(path: Path, mpp: float, metadata: Mapping[str, str]) -> ProjectImage:
    """Describe a slide.

    Parameters
    ----------
    path
        The file.
    mpp
        Micrometres per level-0 pixel, as Vitrail took them; they win over the header where the two differ.
    metadata
        As of a `ProjectImage`.

    Returns
    -------
    ProjectImage
        Named as the file.

    Raises
    ------
    SlideError
        It cannot be opened.
    """
    path = path.absolute()
    with open_with_openslide(path) as handle:
        properties, sizes = properties_of(handle), handle.level_dimensions
    if properties.get("openslide.vendor") == "generic-tiff" and len(sizes) == 1:
        # OpenSlide does not know the pyramids of OME-TIFF; Bio-Formats finds its levels by itself
        return ProjectImage(name=path.name, builder=_builder(BIO_FORMATS, path, None), metadata=metadata)
    bounds = bounds_of(properties, sizes[0])
    size = round(bounds.width), round(bounds.height)
    downsamples = [downsample_of(sizes[0], level) for level in sizes]
    cropped = size[0] != sizes[0][0] and size[1] != sizes[0][1]
    levels = [(int(size[0] / own), int(size[1] / own)) for own in downsamples] if cropped else [*sizes]
    tile = [int(properties.get(f"openslide.level[0].tile-{side}", TILE_PX)) for side in ("width", "height")]
    described = _metadata(path.name, size, [*zip(downsamples, levels, strict=True)], _pixel_um(properties, mpp), _RGB)
    described |= {"isRGB": True, "preferredTileWidth": tile[0], "preferredTileHeight": tile[1]}
    with suppress(KeyError, ValueError):
        described["magnification"] = float(properties["openslide.objective-power"])
    return ProjectImage(name=path.name, builder=_builder(OPENSLIDE, path, described), metadata=metadata)


def map_image(path: Path, name: str) -> ProjectImage:
    """Describe a map that `ClassMapWriter` wrote.

    Parameters
    ----------
    path
        The OME-TIFF.
    name
        How QuPath is to list it.

    Returns
    -------
    ProjectImage
        Opened by Bio-Formats.

    Raises
    ------
    ExchangeError
        It cannot be read.
    """
    path, header = path.absolute(), read_class_map(path).header
    levels = [(float(2**number), size) for number, size in enumerate(header.levels)]
    channels = [(channel.name, channel.rgb) for channel in header.channels]
    described = _metadata(name, header.size, levels, (header.mpp, header.mpp), channels)
    described |= {"pixelType": _PIXEL_TYPES[header.depth]}
    return ProjectImage(name=name, builder=_builder(BIO_FORMATS, path, described))


def packed_colour(rgb: RGB) -> int:
    """Return a colour as Java packs it: full opacity, red, green, blue in a signed number of 32 bits."""
    return int.from_bytes(bytes((255, *rgb)), "big", signed=True)


def _builder(provider: str, path: Path, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what builds the reader of an image; the first one of the file, of whatever else is in it."""
    builder: dict[str, Any] = {"builderType": "uri", "providerClassName": provider, "uri": file_uri(path)}
    builder["args"] = ["--series", "0"] if provider == BIO_FORMATS else []
    return builder if metadata is None else builder | {"metadata": metadata}


def _metadata(
    name: str,
    size: tuple[int, int],
    levels: Sequence[tuple[float, tuple[int, int]]],
    pixel_um: tuple[float, float],
    channels: Sequence[tuple[str, RGB]],
) -> dict[str, Any]:
    """Return the metadata of an image of bytes that is not RGB; its levels are downsamples with their sizes."""
    width_um, height_um = ({"value": value, "unit": "\N{MICRO SIGN}m"} for value in pixel_um)
    return {
        "name": name,
        "width": size[0],
        "height": size[1],
        "sizeZ": 1,
        "sizeT": 1,
        "channelType": "DEFAULT",
        "isRGB": False,
        "pixelType": "UINT8",
        "levels": [
            {"downsample": downsample, "width": width, "height": height} for downsample, (width, height) in levels
        ],
        "channels": [{"name": channel, "color": packed_colour(rgb)} for channel, rgb in channels],
        "pixelCalibration": {
            "pixelWidth": width_um,
            "pixelHeight": height_um,
            "zSpacing": {"value": 1.0, "unit": "z-slice"},
            "timeUnit": "SECONDS",
            "timepoints": [],
        },
        "preferredTileWidth": TILE_PX,
        "preferredTileHeight": TILE_PX,
    }


def _pixel_um(properties: Mapping[str, str], mpp: float) -> tuple[float, float]:
    """Return width and height of a pixel: the header's, unless Vitrail was told another mpp."""
    try:
        width_um, height_um = (float(properties[f"openslide.mpp-{axis}"]) for axis in "xy")
    except (KeyError, ValueError):
        return mpp, mpp
    own = abs((width_um + height_um) / 2 - mpp) <= _MPP_SLACK * mpp
    return (width_um, height_um) if own else (mpp, mpp)
