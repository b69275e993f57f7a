"""Writes tiled JPEG TIFFs in every colour, with shared tables, holes, odd sizes and pyramids."""

from __future__ import annotations

from dataclasses import dataclass

import imagecodecs
import numpy as np
import simplejpeg
import tifffile

SUBSAMPLINGS = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}
TABLES = {0xDB, 0xC4}  # DQT, DHT
APERIO = "Aperio Image Library v11\n|AppMag = 20|MPP = 0.5"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How tiles are stored."""

    colours: str = "420"  # a subsampling of YCbCr, or "rgb"
    tile: tuple[int, int] = (64, 64)  # width, height
    tables: bool = False  # shared by all tiles
    bare: bool = False  # no segment says what the colours are, as in Aperio's files
    bigtiff: bool = False
    byteorder: str = "<"
    missing: tuple[int, ...] = ()  # numbers of tiles
    description: str | None = None


def tissue_like(height, width, seed=0):
    """Smooth colours, dark nuclei and some noise."""
    rng = np.random.default_rng([seed, height, width])
    y, x = np.mgrid[:height, :width]
    image = np.stack(
        [200 + 40 * np.sin(x / 37 + y / 91), 120 + 60 * np.cos(y / 53), 170 + 50 * np.sin((x - y) / 71)], -1
    )
    for _ in range(height * width // 400):
        cy, cx, r = rng.integers(height), rng.integers(width), rng.integers(2, 7)
        spot = np.s_[max(0, cy - r) : cy + r, max(0, cx - r) : cx + r]
        image[spot][(y[spot] - cy) ** 2 + (x[spot] - cx) ** 2 < r * r] = rng.integers(20, 140, 3)
    return (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)


def segments(stream):
    """Split a JPEG stream into the segments before its scan, and the rest."""
    parts, at = [], 2
    while stream[at + 1] != 0xDA:
        following = at + 2 + int.from_bytes(stream[at + 2 : at + 4])
        parts.append(stream[at:following])
        at = following
    return parts, stream[at:]


def encode(tile, kind):
    """Return the stream of a tile, and the tables that were taken out of it."""
    if kind.colours == "rgb":
        stream = imagecodecs.jpeg8_encode(tile, level=90, colorspace="rgb", outcolorspace="rgb")
    else:
        stream = simplejpeg.encode_jpeg(tile, 90, colorsubsampling=kind.colours)
    parts, scan = segments(stream)
    if kind.bare:
        parts = [numbered(part) for part in parts if part[1] not in {0xE0, 0xEE}]
        scan = scan.replace(b"\x03R\x00G\x00B\x00", b"\x03\x01\x00\x02\x00\x03\x00", 1)
    shared = [part for part in parts if kind.tables and part[1] in TABLES]
    own = [part for part in parts if part not in shared]
    return b"\xff\xd8" + b"".join(own) + scan, b"\xff\xd8" + b"".join(shared) + b"\xff\xd9"


def numbered(part):
    """Call the channels 1, 2 and 3 rather than R, G and B."""
    if part[1] != 0xC0:
        return part
    frame = bytearray(part)
    frame[10::3] = bytes([1, 2, 3])
    return bytes(frame)


def tiles_of(image, kind):
    width, height = kind.tile
    padded = np.pad(image, ((0, -image.shape[0] % height), (0, -image.shape[1] % width), (0, 0)))  # black beyond
    for y in range(0, padded.shape[0], height):
        yield from (
            np.ascontiguousarray(padded[y : y + height, x : x + width]) for x in range(0, padded.shape[1], width)
        )


def write_jpeg_tiff(path, images, kind=None):
    """Write a pyramid."""
    kind = kind or Kind()
    with tifffile.TiffWriter(path, bigtiff=kind.bigtiff, byteorder=kind.byteorder) as tiff:
        for level, image in enumerate(images):
            pairs = [encode(tile, kind) for tile in tiles_of(image, kind)]
            holes = kind.missing if level == 0 else ()
            tiff.write(
                iter(b"" if number in holes else stream for number, (stream, _) in enumerate(pairs)),
                shape=image.shape, dtype=np.uint8, tile=kind.tile[::-1], compression="jpeg",
                compressionargs={"outcolorspace": "rgb"} if kind.colours == "rgb" else None,
                photometric="rgb" if kind.colours == "rgb" else "ycbcr",
                subsampling=None if kind.colours == "rgb" else SUBSAMPLINGS[kind.colours],
                jpegtables=pairs[0][1] if kind.tables else None,
                subfiletype=min(level, 1), description=kind.description, metadata=None,
                resolution=(20_000 / 2**level, 20_000 / 2**level), resolutionunit="CENTIMETER",
            )  # fmt: skip
    return path


def write_ome(path, images, kind=None, *, below=True, **metadata):
    """Write an OME-TIFF that tifffile itself compresses; the pyramid is below the first image, or beside it."""
    kind = kind or Kind()
    with tifffile.TiffWriter(path, ome=True, bigtiff=kind.bigtiff, byteorder=kind.byteorder) as tiff:
        for level, image in enumerate(images):
            tiff.write(
                image, tile=kind.tile[::-1], compression="jpeg", photometric="rgb", subfiletype=min(level, 1),
                compressionargs={"level": 90} | ({"outcolorspace": "rgb"} if kind.colours == "rgb" else {}),
                subsampling=SUBSAMPLINGS.get(kind.colours), metadata=None if level else {"axes": "YXS", **metadata},
                subifds=(len(images) - 1) * below if level == 0 else None,
            )  # fmt: skip
    return path


def write_jpeg_2000(path, images, compression, encode_tile):
    """Write an Aperio-like pyramid of JPEG 2000 tiles."""
    kind = Kind(description=APERIO)
    with tifffile.TiffWriter(path) as tiff:
        for level, image in enumerate(images):
            tiff.write(
                iter([encode_tile(tile) for tile in tiles_of(image, kind)]), shape=image.shape, dtype=np.uint8,
                tile=kind.tile[::-1], compression=compression, photometric="rgb", description=APERIO, metadata=None,
                subfiletype=min(level, 1),
            )  # fmt: skip
    return path
