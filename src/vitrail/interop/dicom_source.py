"""The DICOM slide that objects are made about: its header, its place in the slide's frame of reference, its series.

Only instances whose third image type is VOLUME count. Labels, overviews and localisers can show a patient's name: no
more is read of them than their class, series and image type. The pixels of no instance are read here.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vitrail.core.files import regular_file
from vitrail.core.optional import import_optional
from vitrail.errors import ExchangeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy Image Storage (DICOM PS3.4, B.5)."""

_PREAMBLE, _MAGIC = 128, b"DICM"
_TAGS = ("SOPClassUID", "SeriesInstanceUID", "ImageType", "TotalPixelMatrixColumns")
_HIGHDICOM = "0.28"
"""The oldest that will do."""

_KIND = 2
"""Which value of the image type says whether it is a slide, a label or an overview."""

_LARGE = 1 << 20
"""Bytes from which on a value of a header stays on the disk."""

_NEEDED = (
    "StudyInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID", "ImageOrientationSlide",
    "TotalPixelMatrixOriginSequence", "ContainerIdentifier", "SpecimenDescriptionSequence",
)  # fmt: skip
"""Of a slide, for objects that lie where it lies (PS3.3, A.32.8)."""

_EMPTY = {
    "PatientID": "", "PatientName": "", "PatientBirthDate": "", "PatientSex": "", "AccessionNumber": "", "StudyID": "",
    "StudyDate": "", "StudyTime": "",
}  # fmt: skip
"""What an archive may have taken away, and an object says nothing about then (type 2)."""

_WHOLE = "Give the instances as the scanner or its converter wrote them"


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomSlide:
    """A slide of an archive.

    Attributes
    ----------
    path
        The instance of its finest level.
    instances
        The instances of all its levels.
    header
        The `pydicom` data set of the finest, without pixels.
    size
        Width and height of its total pixel matrix.
    spacing_mm
        Between rows, and between columns, of the finest level.
    """

    path: Path
    instances: tuple[Path, ...]
    header: Any
    size: tuple[int, int]
    spacing_mm: tuple[float, float]

    def origin_mm(self, scale: float) -> tuple[float, float, float]:
        """Return where the centre of the first pixel of a map lies in the slide's frame of reference.

        The map's top left corner is that of the slide. The frame's positions are of the centres of pixels, and so that
        of a larger pixel lies farther in.

        Parameters
        ----------
        scale
            Level-0 pixels per pixel of the map.

        Returns
        -------
        tuple[float, float, float]
            x, y and z in mm.
        """
        origin = self.header.TotalPixelMatrixOriginSequence[0]
        orientation = [float(value) for value in self.header.ImageOrientationSlide]
        start = [float(origin.get(f"{axis}OffsetInSlideCoordinateSystem") or 0) for axis in "XYZ"]
        between_rows, between_columns = self.spacing_mm
        inwards = (scale - 1) / 2
        x, y, z = (
            start[axis] + inwards * (orientation[axis] * between_columns + orientation[axis + 3] * between_rows)
            for axis in range(3)
        )
        return x, y, z


def import_dicom(name: str) -> Any:
    """Import a module of the extra `dicom`.

    Parameters
    ----------
    name
        Such as `highdicom` or `pydicom.uid`.

    Returns
    -------
    module
        The module.

    Raises
    ------
    ExchangeError
        The package is not installed, or highdicom is older than 0.28, which first tiles Parametric Maps.
    """
    package = name.partition(".")[0]
    import_optional(package, "dicom", "DICOM export", _HIGHDICOM if package == "highdicom" else "")
    return import_module(name)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings of pydicom and highdicom to themselves: they quote values of headers, names among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def unreadable() -> tuple[type[Exception], ...]:
    """Return what pydicom and highdicom raise of headers that are damaged, or not as the standard has them."""
    errors = import_dicom("pydicom.errors")
    return (
        AttributeError, EOFError, IndexError, KeyError, NotImplementedError, OSError, OverflowError, RecursionError,
        TypeError, ValueError, struct.error, zlib.error, errors.BytesLengthException, errors.InvalidDicomError,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Instance:
    """What is read of every file."""

    sop_class: str
    series: str
    is_level: bool
    columns: int


def read_dicom_slide(path: Path) -> DicomSlide:
    """Read the header of a DICOM slide.

    Parameters
    ----------
    path
        Any instance of its series, or the folder that holds the series and no other slide's.

    Returns
    -------
    DicomSlide
        The slide.

    Raises
    ------
    ExchangeError
        The extra `dicom` is missing, it is no DICOM slide, the folder holds several, or the header lacks what objects
        about it need.
    """
    pydicom = import_dicom("pydicom")
    is_folder = path.is_dir()
    if not is_folder:
        regular_file(path, ExchangeError, "Check the path of the slide")
    with quiet():
        try:
            files = sorted((path if is_folder else path.parent).iterdir())
        except OSError as error:
            raise ExchangeError(path, f"cannot be opened ({error.strerror})", "Check its permissions") from error
        instances = {file: instance for file in files if (instance := _instance(pydicom, file)) is not None}
        levels = [(file, instance) for file, instance in instances.items() if instance.is_level]
        if is_folder:
            names = {instance.series for _, instance in levels}
            if len(names) != 1:
                count = f"{len(names)} DICOM slides" if names else "no DICOM slide"
                raise ExchangeError(path, f"holds {count}", "Name one file of the slide's series")
            (series,) = names
        else:
            own = _instance(pydicom, path)
            if own is None or own.sop_class != SLIDE_CLASS:
                cure = "DICOM objects are about DICOM slides; vitrail export --help names the others"
                raise ExchangeError(path, "not a DICOM slide (VL Whole Slide Microscopy), or damaged", cure)
            series = own.series
        levels = [(file, instance) for file, instance in levels if instance.series == series]
        if not levels:
            raise ExchangeError(path, "its series has no instance with the slide's pixels (VOLUME)", _WHOLE)
        finest, _ = max(levels, key=lambda level: level[1].columns)
        return _slide(pydicom, finest, [file for file, _ in levels])


def _slide(pydicom: Any, path: Path, instances: Sequence[Path]) -> DicomSlide:
    """Read the whole header of the finest level, and check what objects about it need."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, defer_size=_LARGE)
        missing = [name for name in _NEEDED if not header.get(name)]
        spacing = [] if missing else header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        rows_mm, columns_mm = (float(value) for value in spacing) if spacing else (0.0, 0.0)
        size = int(header.TotalPixelMatrixColumns), int(header.TotalPixelMatrixRows)
        for name, value in _EMPTY.items():
            if name not in header:
                setattr(header, name, value)
    except unreadable():
        # what pydicom says may quote the value, and a value may be a name
        raise ExchangeError(path, "its header cannot be understood, or lacks the spacing of pixels", _WHOLE) from None
    if missing:
        raise ExchangeError(path, f"its header lacks {missing[0]}", _WHOLE)
    if not (min(size) > 0 and 0 < rows_mm < 1 and 0 < columns_mm < 1):
        raise ExchangeError(path, "its header has an impossible size or spacing of pixels", _WHOLE)
    return DicomSlide(path=path, instances=tuple(instances), header=header, size=size, spacing_mm=(rows_mm, columns_mm))


def _instance(pydicom: Any, path: Path) -> _Instance | None:
    """Read class, series and kind of an instance; None of what is no DICOM file, or damaged."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            if file.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] != _MAGIC:
                return None
        tags = pydicom.dcmread(path, stop_before_pixels=True, defer_size=_LARGE, specific_tags=list(_TAGS))
        kinds = tags.get("ImageType") or []
        is_volume = not isinstance(kinds, str) and len(kinds) > _KIND and kinds[_KIND] == "VOLUME"
        columns, sop_class = int(tags.get("TotalPixelMatrixColumns") or 0), str(tags.get("SOPClassUID"))
        series = str(tags.get("SeriesInstanceUID") or "")
    except unreadable():
        return None
    is_level = sop_class == SLIDE_CLASS and is_volume and columns > 0 and bool(series)
    return _Instance(sop_class=sop_class, series=series, is_level=is_level, columns=columns)
