"""What all DICOM objects about a slide share: who made them, identities that can be made again, codes, frames on disk.

highdicom wants the pixels of an object as one array. It is given a single empty frame and makes the header; the frames
of the map follow, read from the disk one after the other, so that memory does not grow with the slide.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from vitrail import __version__
from vitrail.core.digest import json_digest
from vitrail.core.files import exporting
from vitrail.errors import ExchangeError
from vitrail.interop.dicom_source import import_dicom, quiet, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from vitrail.interop.dicom_source import DicomSlide

Coded = tuple[str, str, str]
"""A code, its scheme and its meaning."""

AI: Coded = ("123110", "DCM", "Artificial Intelligence")
SCHEME = "99VITRAIL"
"""Of what has no code elsewhere; private schemes begin with 99 (PS3.16, 8)."""

MOST_NATIVE = 2**32 - 2
"""Bytes of pixels that are not compressed, at most: their length has 32 bits (PS3.5, 7.1)."""

_UNDEFINED = 0xFFFFFFFF
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSource:
    """What objects are about, and what made them.

    Attributes
    ----------
    slide
        The slide.
    digest
        Of all that decides the objects: networks, settings and files. Another digest, other identities.
    """

    slide: DicomSlide
    digest: str

    def uid(self, *what: str | int) -> str:
        """Return an identity that follows from the slide, the digest and what it is of (PS3.5, B.2)."""
        digest = json_digest([str(self.slide.header.SOPInstanceUID), self.digest, *what])
        return f"2.25.{UUID(bytes=bytes.fromhex(digest)[:16], version=5).int}"

    def common(self, series: str, number: int, instance: int) -> dict[str, Any]:
        """Return the arguments that every object of highdicom has.

        Parameters
        ----------
        series
            Which series the object is in.
        number
            Of the series.
        instance
            Of the object in it, from 1.

        Returns
        -------
        dict[str, Any]
            By their names.
        """
        date, time = _moment(self.slide.header)
        return {
            "series_instance_uid": self.uid("series", series),
            "series_number": number,
            "sop_instance_uid": self.uid("instance", series, instance),
            "instance_number": instance,
            "manufacturer": "Vitrail",
            "manufacturer_model_name": "vitrail",
            "software_versions": __version__,
            "device_serial_number": self.digest[:16],
            "content_date": date,
            "content_time": time,
        }

    def algorithm(self) -> Any:
        """Return what names the program, its version and the digest."""
        return import_dicom("highdicom").AlgorithmIdentificationSequence(
            name="Vitrail", family=code(AI), version=__version__, parameters={"digest": self.digest[:16]}
        )


def _moment(header: Any) -> tuple[str, str]:
    """Return date and time of an object: those of the slide, so that it can be made again."""
    acquired = str(header.get("AcquisitionDateTime") or "")
    date = str(header.get("ContentDate") or acquired[:8] or header.get("StudyDate") or "")
    time = str(header.get("ContentTime") or acquired[8:14] or header.get("StudyTime") or "")
    return (date if len(date) == 8 else "19000101"), (time or "000000")


def code(coded: Coded) -> Any:
    """Return a code as highdicom takes it."""
    return import_dicom("highdicom").sr.CodedConcept(*coded)


def settle(dataset: Any, source: ObjectSource, *what: str | int) -> Any:
    """Put what follows from the slide in the place of what was drawn, or read off the clock.

    Parameters
    ----------
    dataset
        The object, which is changed.
    source
        What it is about.
    what
        Which object it is.

    Returns
    -------
    pydicom.Dataset
        The object.
    """
    for name in ("InstanceCreationDate", "InstanceCreationTime"):
        if name in dataset:
            del dataset[name]
    for item in dataset.get("DimensionOrganizationSequence", ()):
        item.DimensionOrganizationUID = source.uid("dimensions", *what)
    for item in dataset.get("DimensionIndexSequence", ()):
        item.DimensionOrganizationUID = source.uid("dimensions", *what)
    for item in dataset.get("ContributingEquipmentSequence", ())[1:]:  # the first is the scanner
        if "ContributionDateTime" in item:
            del item.ContributionDateTime
    return dataset


def write_object(path: Path, dataset: Any, source: DicomSlide, frames: Iterable[bytes] = (), length: int = 0) -> None:
    """Write an object, its pixels frame by frame; the file is whole or absent.

    Parameters
    ----------
    path
        The file.
    dataset
        All of it but the pixels.
    source
        The slide, whose header it repeats.
    frames
        Their bytes, each of an even number; none where the object has no pixels.
    length
        Bytes of all frames together, as `FloatPixelData`; 0 for compressed ones, each an item of `PixelData`.

    Raises
    ------
    ExchangeError
        The file cannot be written, or the slide's header has values that DICOM does not allow.
    """
    pydicom = import_dicom("pydicom")
    with exporting(path) as temporary:
        try:
            with quiet():
                pydicom.dcmwrite(temporary, dataset, enforce_file_format=True)
        except OSError:  # the disk, not the header
            raise
        except unreadable():
            raise refused(source) from None
        pieces = iter(frames)
        first = next(pieces, None)
        if first is None:
            return
        with temporary.open("ab") as file:
            if length:
                file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0008, b"OF", 0, length))
            else:  # an empty table of offsets, then an item a frame (PS3.5, A.4)
                file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, _UNDEFINED))
                file.write(struct.pack("<HHI", *_ITEM, 0))
            while first is not None:
                if not length:
                    file.write(struct.pack("<HHI", *_ITEM, len(first)))
                file.write(first)
                first = next(pieces, None)
            if not length:
                file.write(struct.pack("<HHI", *_END, 0))


def refused(slide: DicomSlide) -> ExchangeError:
    """Return the error of a header that objects cannot repeat; its values are not quoted, for they may be names."""
    problem = "its header has values that DICOM does not allow, or lacks some that objects about it need"
    return ExchangeError(slide.path, problem, "Check it with dciodvfy, and have its source corrected")
