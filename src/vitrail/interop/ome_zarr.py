"""Class maps and maps of explanations as OME-Zarr: the next-generation file format (NGFF) of the OME community.

Version 0.4, on Zarr 2: what reads OME-Zarr at all reads this one. ome-zarr-py and napari-ome-zarr read 0.5, too, but
readers in Java that stand on JZarr, such as Bio-Formats in QuPath and Fiji, do not know Zarr 3.

The levels are those of the OME-TIFF, value by value. Their scale is in um, doubled from level to level: the corner of
the first pixel is the same place in all of them, the top left corner of the slide's bounds. Chunks of one value, such
as all of the glass, are not stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.core.files import exporting_folder
from vitrail.core.optional import import_optional

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from vitrail.interop.class_map import ClassMap, MapHeader

CHUNK_PX = 1024
"""Side of a chunk; what is in memory at once is one chunk of each channel."""

MARK = (".zgroup", "zarr.json")
"""A folder with one of these files is a Zarr."""

_AXES = (
    {"name": "c", "type": "channel"},
    {"name": "y", "type": "space", "unit": "micrometer"},
    {"name": "x", "type": "space", "unit": "micrometer"},
)


def write_ome_zarr(path: Path, stored: ClassMap, about: Mapping[str, Any]) -> None:
    """Write a map as an OME-Zarr image with all its levels; the same map gives the same bytes.

    Parameters
    ----------
    path
        The folder, such as `S1.classes.ome.zarr`; it is whole or absent.
    stored
        The map, as it lies in its OME-TIFF.
    about
        What is said of the image under `vitrail`, as JSON can hold it.

    Raises
    ------
    ExchangeError
        The package zarr is not installed, the map cannot be read, or the folder cannot be written.
    """
    zarr = import_optional("zarr", "zarr", "OME-Zarr export")
    blosc = import_optional("numcodecs", "zarr", "OME-Zarr export").Blosc
    header, ends = stored.header, np.zeros((2, len(stored.header.channels)))
    none = 0 if header.depth == "uint8" else float("nan")
    with exporting_folder(path, MARK) as temporary:
        group = zarr.open_group(str(temporary), mode="w", zarr_format=2)
        for level, (width, height) in enumerate(header.levels):
            array = group.create_array(
                str(level),
                shape=(len(header.channels), height, width),
                chunks=(1, min(CHUNK_PX, height), min(CHUNK_PX, width)),
                dtype=header.depth,
                fill_value=none,
                compressors=blosc(cname="zstd", clevel=5, shuffle=blosc.SHUFFLE),
                chunk_key_encoding={"name": "v2", "separator": "/"},
                config={"write_empty_chunks": False},
            )
            for top in range(0, height, CHUNK_PX):
                rows = slice(top, min(top + CHUNK_PX, height))
                for left in range(0, width, CHUNK_PX):
                    columns = slice(left, min(left + CHUNK_PX, width))
                    block = stored.planes(rows, columns, level)
                    array[:, rows, columns] = block
                    if level == 0:
                        values = np.where(np.isnan(block), 0, block)
                        ends = np.stack(
                            [np.minimum(ends[0], values.min((1, 2))), np.maximum(ends[1], values.max((1, 2)))]
                        )
        limits = [(float(low), float(high)) for low, high in zip(*ends, strict=True)]
        group.attrs.update(ngff_attributes(header, limits) | {"vitrail": dict(about)})


def ngff_attributes(header: MapHeader, limits: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return what the attributes of an image say, by version 0.4 of NGFF: axes, scales, channels.

    Parameters
    ----------
    header
        Of the map.
    limits
        Least and largest value of each channel, or 0: between them viewers show colours of floats, alike on both sides
        of 0 where there are negative ones.

    Returns
    -------
    dict[str, Any]
        `multiscales` and `omero`.
    """
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [1.0, header.mpp * 2**level, header.mpp * 2**level]}
            ],
        }
        for level in range(len(header.levels))
    ]
    channels = []
    for channel, (least, most) in zip(header.channels, limits, strict=True):
        end = 255.0 if header.depth == "uint8" else max(-least, most) or 1.0
        start = -end if least < 0 else 0.0
        channels.append(
            {
                "label": channel.name,
                "color": "".join(f"{part:02X}" for part in channel.rgb),
                "active": True,
                "coefficient": 1.0,
                "family": "linear",
                "inverted": False,
                "window": {"min": start, "max": end, "start": start, "end": end},
            }
        )
    multiscale = {"version": "0.4", "name": header.title, "axes": [*_AXES], "datasets": datasets, "type": "mean"}
    return {
        "multiscales": [multiscale],
        "omero": {"version": "0.4", "name": header.title, "channels": channels, "rdefs": {"model": "color"}},
    }
