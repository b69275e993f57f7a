"""The table of formats: who writes outlines how, and where their coordinates begin.

Adding a format is adding a file and a row. A file is known by what it holds, never by its name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import shapely

from vitrail.core.files import read_regular
from vitrail.errors import AnnotationError
from vitrail.slides.outlines import (
    asap,
    coco,
    cytomine,
    darwin,
    dsa,
    geojson,
    geoparquet,
    halo,
    imagescope,
    qupath_project,
    slideflow,
    web_annotation,
)  # fmt: skip
from vitrail.slides.outlines.features import Feature, MalformedError, Source
from vitrail.slides.outlines.xml import parse_xml

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from shapely import MultiPolygon

    from vitrail.slides.outlines.writing import Image, Outline, Written
    from vitrail.slides.slide import Slide

Result = TypeVar("Result")
Container = Literal["JSON", "XML", "CSV", "binary"]
Frame = Literal["bounds", "file", "halo"]
"""Where coordinates begin: at the slide's bounds, as Vitrail's; at the corner of the file's own frame; or as HALO's."""

_COLUMN = "Check the annotations column of slides.csv, and export annotations without cells and detections"
_MOST_BYTES = 1 << 30
"""Of a file: a million cells, or some thousand times as many outlines as a slide has."""

_JAVA = b"\xac\xed\x00\x05"
_WIDE = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format.

    Attributes
    ----------
    title
        What it is called.
    program
        Who is asked to export again.
    container
        What its files are made of.
    frame
        Where its coordinates begin.
    recognise
        Tells by what a file holds whether it is one: a value of JSON, the root of XML, a CSV's text, or bytes.
    read
        Reads all objects of a file.
    write
        Writes outlines that are in its frame; None where Vitrail does not.
    """

    title: str
    program: str
    container: Container
    frame: Frame
    recognise: Callable[[Any], bool]
    read: Callable[[Source], list[Feature]]
    write: Callable[[Sequence[Outline], Image | None], Written] | None = None


def _read_project(source: Source) -> list[Feature]:
    """Read the GeoJSON files that stand for a QuPath project's images."""
    features: list[Feature] = []
    for file in qupath_project.exported(source):
        document = _parse(file, _content(file))[1]
        inner = Source(path=file, document=document, names_only=source.names_only)
        features += geojson.read(inner)
    return features


FORMATS: Mapping[str, Format] = {
    "asap": Format(
        title="ASAP XML", program="ASAP", container="XML", frame="file", recognise=asap.recognise, read=asap.read,
        write=asap.write,
    ),
    "halo": Format(
        title="HALO annotations", program="HALO", container="XML", frame="halo", recognise=halo.recognise,
        read=halo.read, write=halo.write,
    ),
    "imagescope": Format(
        title="Aperio ImageScope XML", program="ImageScope", container="XML", frame="bounds",
        recognise=imagescope.recognise, read=imagescope.read, write=imagescope.write,
    ),
    "slideflow": Format(
        title="Slideflow CSV", program="Slideflow", container="CSV", frame="file", recognise=slideflow.recognise,
        read=slideflow.read,
    ),
    "geoparquet": Format(
        title="GeoParquet", program="its program", container="binary", frame="bounds", recognise=geoparquet.recognise,
        read=geoparquet.read, write=geoparquet.write,
    ),
    "qupath-project": Format(
        title="QuPath project", program="QuPath", container="JSON", frame="bounds",
        recognise=qupath_project.recognise, read=_read_project,
    ),
    "coco": Format(
        title="COCO JSON", program="its program", container="JSON", frame="file", recognise=coco.recognise,
        read=coco.read, write=coco.write,
    ),
    "darwin": Format(
        title="V7 Darwin JSON", program="V7 Darwin", container="JSON", frame="file", recognise=darwin.recognise,
        read=darwin.read,
    ),
    "dsa": Format(
        title="HistomicsUI JSON", program="HistomicsUI", container="JSON", frame="file", recognise=dsa.recognise,
        read=dsa.read, write=dsa.write,
    ),
    "cytomine": Format(
        title="Cytomine JSON", program="Cytomine", container="JSON", frame="file", recognise=cytomine.recognise,
        read=cytomine.read,
    ),
    "web": Format(
        title="W3C Web Annotation", program="its program", container="JSON", frame="file",
        recognise=web_annotation.recognise, read=web_annotation.read,
    ),
    "qupath": Format(
        title="QuPath GeoJSON", program="QuPath", container="JSON", frame="bounds", recognise=geojson.recognise,
        read=geojson.read, write=geojson.write,
    ),
}  # fmt: skip
"""By what the command line calls them; of two that could be meant the first one is."""

_VERTICES = frozenset(asap.VERTICES + imagescope.VERTICES)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlineFile:
    """A file that was read.

    Attributes
    ----------
    format
        Its key in `FORMATS`.
    features
        In the order of the file.
    shift
        What is added to x and y, so that they begin at the slide's bounds.
    """

    format: str
    features: list[Feature]
    shift: tuple[float, float]

    def area(self, feature: Feature) -> MultiPolygon:
        """Return the polygons of one of the features, unmended, in level-0 pixels from the slide's bounds."""
        area = feature.area()
        return shapely.transform(area, lambda points: points + self.shift) if any(self.shift) else area


def frame_shift(frame: Frame, slide: Slide | None) -> tuple[float, float]:
    """Tell what is added to coordinates so that they begin at the slide's bounds.

    Parameters
    ----------
    frame
        Where they begin.
    slide
        The slide; without it its bounds are taken for the whole.

    Returns
    -------
    tuple[float, float]
        In x and y, level-0 pixels.
    """
    if slide is None or frame == "bounds":
        return 0.0, 0.0
    x, y = slide.bounds.x, slide.bounds.y
    return (-(x % halo.GRID_PX), -(y % halo.GRID_PX)) if frame == "halo" else (-x, -y)


def read_outlines(
    path: Path, slide: Slide | None = None, *, slides: Collection[Path] = (), names_only: bool = False
) -> OutlineFile:
    """Read the outlines of a slide from a file of any program.

    Parameters
    ----------
    path
        The file.
    slide
        The slide that they are of: it says where its bounds are, how high it is, and which of a file's images it is.
    slides
        Which of a file's images are meant, where no slide is open: paths of slides.
    names_only
        Whether classes are asked for alone; areas are then of no meaning.

    Returns
    -------
    OutlineFile
        All objects that can be outlines.

    Raises
    ------
    AnnotationError
        There is no such file, it is of no known format, it is not as its program writes it, or the slide is needed and
        not given.
    """
    document, format_ = _parsed_as(path)
    row = FORMATS[format_]
    source = Source(
        path=path, document=document, slides=(slide.path,) if slide else tuple(slides),
        size=slide.full_size if slide else None, names_only=names_only,
    )  # fmt: skip
    features = _understood(row, source, row.read)
    return OutlineFile(format=format_, features=features, shift=frame_shift(row.frame, slide))


def files_of(path: Path, slide: Path) -> list[Path]:
    """List the files that hold the outlines of a slide.

    Parameters
    ----------
    path
        As slides.csv has it.
    slide
        The slide's path.

    Returns
    -------
    list[Path]
        The file itself; for a QuPath project, which changes whenever it is looked at, the GeoJSON beside it.

    Raises
    ------
    AnnotationError
        It is a project that cannot be read.
    """
    try:
        if not path.is_file():  # a named pipe would be waited for
            return [path]
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError:
        return [path]  # whoever reads it says why
    if b'"images"' not in head or not head.lstrip().startswith(b"{"):
        return [path]
    document, format_ = _parsed_as(path)
    if format_ != "qupath-project":
        return [path]
    source = Source(path=path, document=document, slides=(slide,))
    return _understood(FORMATS[format_], source, qupath_project.exported)


def _understood(row: Format, source: Source, read: Callable[[Source], Result]) -> Result:
    try:
        return read(source)
    except MalformedError as error:
        cure = qupath_project.EXPORT if row.read is _read_project else f"Export the outlines from {row.program} again"
        if "read together with" in str(error):
            cure = "Name the slide, too"
        raise AnnotationError(source.path, f"{row.title}: {error}", cure) from error


def _parsed_as(path: Path) -> tuple[Any, str]:
    """Return what a file holds, and the key of its format."""
    container, document = _parse(path, _content(path))
    for key, row in FORMATS.items():
        if row.container == container and row.recognise(document):
            return document, key
    what = f"XML of <{document.tag[:40]}>" if container == "XML" else container
    titles = ", ".join(row.title for row in FORMATS.values() if row.container == container)
    raise AnnotationError(path, f"{what} that is none of {titles}", "Export the outlines as GeoJSON or one of these")


def _content(path: Path) -> bytes:
    content = read_regular(path, AnnotationError, _COLUMN, _MOST_BYTES)
    if not content.strip():
        raise AnnotationError(path, "an empty file", geojson.EXPORT)
    return content


def _parse(path: Path, content: bytes) -> tuple[Container, Any]:
    """Parse a file by its first bytes."""
    if content.startswith(b"PAR1"):
        return "binary", content
    if content.startswith(_JAVA):
        problem = "a QuPath data file (.qpdata): serialised Java, which is not read"
        raise AnnotationError(path, problem, geojson.EXPORT)
    head = content[:4096]
    for mark in _WIDE:
        if head.startswith(mark):
            head = head.replace(b"\0", b"").removeprefix(mark)
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"<"):
        try:
            return "XML", parse_xml(content, _VERTICES)
        except MalformedError as error:
            raise AnnotationError(
                path, str(error), "Export the outlines again from the program that drew them"
            ) from error
    if b"x_base" in head.partition(b"\n")[0].lower():
        try:
            return "CSV", content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise AnnotationError(path, f"{FORMATS['slideflow'].title}: not UTF-8", "Save it in UTF-8") from error
    try:
        return "JSON", json.loads(content, object_hook=geojson.lightened)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(path, f"not valid JSON ({error})", geojson.EXPORT) from error
