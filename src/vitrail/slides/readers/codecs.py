"""The compressed tiles of TIFF slides: JPEG and Aperio's JPEG 2000, decoded in full or to a fraction of their size.

libjpeg-turbo computes fewer samples of each block's cosines; OpenJPEG leaves out the finest wavelets. Either saves
time, and gives pixels that are about the means of those they stand for.
"""

from __future__ import annotations

from io import BytesIO
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import imagecodecs
import numpy as np
import simplejpeg
from PIL import Image, Jpeg2KImagePlugin, features

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from vitrail.slides.readers.ifd import Read, TiffPage

    Pixels = NDArray[np.uint8]

_START, _SCAN, _FILL = b"\xff\xd8", 0xDA, 0xFF
_JFIF_MARKER, _ADOBE_MARKER, _SCAN_MARKER = b"\xff\xe0", b"\xff\xee", b"\xff\xda"
_COLOUR_MARKERS = {_JFIF_MARKER, _ADOBE_MARKER}
_HEAD = 2048
"""Bytes in which the segments before a scan end, as a rule."""
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"

_FIRST_COMPONENT, _COMPONENT, _EIGHT_BITS = 42, 3, 7
"""Where a code stream describes its components, by how many bytes each, and what the first is at 8 bits a sample."""

_EXTENT = 8
"""Where it has its right, bottom, left and top edge, of four bytes each."""

_STYLE, _LEVELS_AT, _WAVELET_AT = b"\xff\x52", 9, 13
"""What a code stream says of its wavelets begins so; and where in it their number and their kind are."""

_MOST_REDUCED = 8
_IN_FULL: Mapping[int, float] = MappingProxyType({1: 0.0})
_BY_WAVELETS: Mapping[int, float] = MappingProxyType({1: 0.0, 2: 3.5, 4: 14.0, 8: 40.0})


class TileDecoder(Protocol):
    """Decodes the tiles of one page."""

    @property
    def reductions(self) -> Mapping[int, float]:
        """See `LevelReader.reductions`."""
        ...

    @property
    def centred(self) -> bool:
        """See `LevelReader.centred`."""
        ...

    def decode(self, stream: bytes, size: tuple[int, int], scale: int) -> Pixels | None:
        """Decode a tile.

        Parameters
        ----------
        stream
            Its bytes, as the file has them.
        size
            Width and height of the result.
        scale
            One of `reductions`: each pixel stands for so many of the stream's, squared.

        Returns
        -------
        NDArray[np.uint8] | None
            `[height, width, 3]`; None if the stream is not flawless, or of another size.
        """
        ...


def decoder_of(page: TiffPage, read: Read) -> TileDecoder | None:
    """Return what decodes the tiles of a page.

    Parameters
    ----------
    page
        The page.
    read
        Reads the bytes of its file.

    Returns
    -------
    TileDecoder | None
        None if nothing here decodes them.
    """
    if any(side % _MOST_REDUCED for side in page.tile):
        return None
    if page.coding == "jpeg":
        return JpegDecoder(page)
    if page.coding == "jpeg2000" and features.check("jpg_2000"):
        longest = int(page.lengths.argmax())  # it is not a missing tile
        return Jpeg2000Decoder(page, read(int(page.offsets[longest]), _HEAD))
    return None


class JpegDecoder:
    """Decodes JPEG streams by libjpeg-turbo, as OpenSlide does: in full, its pixels are the same.

    Parameters
    ----------
    page
        Their page.
    """

    reductions: Mapping[int, float] = MappingProxyType({1: 0.0, 2: 4.0, 4: 12.0, 8: 32.0})
    centred = True

    def __init__(self, page: TiffPage) -> None:
        # What every stream begins with: its colours as the TIFF's tag has them, and the shared tables. Aperio stores
        # RGB without saying so in the stream; a decoder goes by the stream's markers, so these are replaced.
        tables = _without_colour_markers(page.tables).removesuffix(b"\xff\xd9")
        self._prefix = _START + _ADOBE + bytes([int(page.ycbcr)]) + tables

    def decode(self, stream: bytes, size: tuple[int, int], scale: int) -> Pixels | None:
        """Return a tile's pixels; see `TileDecoder.decode`."""
        complete = self._prefix + _without_colour_markers(stream)
        try:
            claimed = simplejpeg.decode_jpeg_header(complete, min_width=size[0], min_height=size[1], min_factor=scale)
            if claimed[:2] != (size[1], size[0]):  # looked at first: its pixels may be too many to be held
                return None
            pixels = simplejpeg.decode_jpeg(complete, min_width=size[0], min_height=size[1], min_factor=scale)
        except ValueError:
            return None
        return pixels if pixels.shape == (size[1], size[0], 3) else None


class Jpeg2000Decoder:
    """Decodes JPEG 2000 code streams by OpenJPEG, as OpenSlide does: in full, its pixels are within a grey level.

    The low band of a wavelet of JPEG 2000 lies on the even pixels, not between them and the odd ones.

    Parameters
    ----------
    page
        Their page.
    example
        How one of its streams begins. It tells whether wavelets can be left out.
    """

    centred = False

    def __init__(self, page: TiffPage, example: bytes) -> None:
        self._ycbcr = page.ycbcr
        # Enough levels of the 9/7 wavelet are needed; the low band of the other, 5/3, is far from means.
        at = len(_STYLE)
        while 0 < at < len(example) - _WAVELET_AT and example[at] == _FILL and example[at : at + 2] != _STYLE:
            at += 2 + int.from_bytes(example[at + 2 : at + 4])
        style = example[at : at + _WAVELET_AT + 1]
        smooth = (
            style.startswith(_STYLE)
            and style[_LEVELS_AT : _LEVELS_AT + 1] >= bytes([len(_BY_WAVELETS) - 1])
            and style[_WAVELET_AT:] == b"\0"
        )
        self.reductions: Mapping[int, float] = _BY_WAVELETS if smooth and not _subsampled(example) else _IN_FULL

    def decode(self, stream: bytes, size: tuple[int, int], scale: int) -> Pixels | None:
        """Return a tile's pixels; see `TileDecoder.decode`."""
        # The stream must have three components of values from 0 to 255, be of the size, and begin at its corner.
        edges = [int.from_bytes(stream[at : at + 4]) for at in range(_EXTENT, _EXTENT + 16, 4)]
        count = int.from_bytes(stream[_FIRST_COMPONENT - 2 : _FIRST_COMPONENT])
        depths = stream[_FIRST_COMPONENT : _FIRST_COMPONENT + 3 * _COMPONENT : _COMPONENT]
        if edges != [size[0] * scale, size[1] * scale, 0, 0] or count != len(depths) or set(depths) != {_EIGHT_BITS}:
            return None
        subsampled = _subsampled(stream)
        if subsampled and not self._ycbcr:
            return None
        try:
            if scale == 1 and not subsampled:  # with less ado than Pillow's
                pixels = np.asarray(imagecodecs.jpeg2k_decode(stream, numthreads=1), dtype=np.uint8)
            else:  # without the finest wavelets; where chroma has fewer samples, Pillow makes RGB of it
                image = Jpeg2KImagePlugin.Jpeg2KImageFile(BytesIO(stream))
                image.reduce = scale.bit_length() - 1
                image.load()
                pixels = np.asarray(image)
        except (OSError, SyntaxError, ValueError, imagecodecs.Jpeg2kError):
            return None
        if pixels.shape != (size[1], size[0], 3):
            return None
        if self._ycbcr and not subsampled:
            pixels = np.asarray(Image.frombytes("YCbCr", size, pixels.tobytes()).convert("RGB"))
        return pixels


def _subsampled(stream: bytes) -> bool:
    """Tell whether any of three components has fewer samples than there are pixels."""
    described = stream[_FIRST_COMPONENT : _FIRST_COMPONENT + 3 * _COMPONENT]
    return any(described[at : at + 2] != b"\x01\x01" for at in range(1, len(described), _COMPONENT))


def _without_colour_markers(stream: bytes) -> bytes:
    """Return a stream without its start, and without the JFIF and Adobe segments before its scan."""
    at = len(_START) if stream.startswith(_START) else 0
    if stream.startswith(_JFIF_MARKER, at):
        at += 2 + int.from_bytes(stream[at + 2 : at + 4])
    scan = stream.find(_SCAN_MARKER, at, _HEAD)
    if scan > 0 and not any(stream.find(marker, at, scan) >= 0 for marker in _COLOUR_MARKERS):
        return stream[at:]  # as most are: a quick look saves the walk
    segments = list[bytes]()
    while at + 4 <= len(stream) and stream[at] == _FILL and stream[at + 1] != _SCAN:
        if stream[at + 1] == _FILL:
            at += 1
            continue
        following = at + 2 + int.from_bytes(stream[at + 2 : at + 4])
        if stream[at : at + 2] not in _COLOUR_MARKERS:
            segments.append(stream[at:following])
        at = following
    return b"".join([*segments, stream[at:]])
