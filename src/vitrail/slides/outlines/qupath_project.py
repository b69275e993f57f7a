"""QuPath projects: `project.qpproj`, and what lies beside it.

The outlines of an image lie in `data/<entryID>/data.qpdata`, serialised Java, which only Java reads safely. GeoJSON
that was exported into the project's folder is taken in its place.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from vitrail.slides.outlines.features import MalformedError, file_name, images_of_slide, objects

if TYPE_CHECKING:
    from vitrail.slides.outlines.features import Source

EXPORT = (
    "Export each image's outlines from QuPath into the project's folder (File, Export objects as GeoJSON), named like "
    "the slide, or name the GeoJSON in slides.csv"
)
_FOLDERS = (".", "geojson", "annotations", "export", "exports")


def recognise(document: Any) -> bool:
    """Tell whether JSON is a QuPath project."""
    images = document.get("images") if isinstance(document, dict) else None
    return isinstance(images, list) and (
        any(isinstance(each, dict) and "serverBuilder" in each for each in images)
        or any(key in document for key in ("createTimestamp", "lastID"))
    )


def exported(source: Source) -> list[Path]:
    """Find the GeoJSON that was exported for the slide's image.

    Parameters
    ----------
    source
        The project.

    Returns
    -------
    list[Path]
        One for each image that is asked for.

    Raises
    ------
    MalformedError
        The project has no such image, or there is no GeoJSON for it.
    """
    entries = {str(each.get("entryID")): each for each in objects(source.document["images"], "images")}
    if not entries:
        raise MalformedError("it has no images")
    chosen = images_of_slide(source, {key: _image_name(each) for key, each in entries.items()})
    files, missing = list[Path](), list[str]()
    for key, entry in entries.items():
        if key in chosen:
            exported_file = _geojson_of(source.path.parent, key, entry)
            files += [exported_file] if exported_file else []
            missing += [] if exported_file else [key]
    if missing and not (source.names_only and files):
        own = [key for key in missing if (source.path.parent / "data" / key / "data.qpdata").is_file()]
        where = f"lie in data/{own[0]}/data.qpdata, serialised Java, which is not read" if own else "are not there"
        raise MalformedError(f"the outlines of {_image_name(entries[missing[0]])[:80]!r} {where}")
    return files


def _image_name(entry: dict[str, Any]) -> str:
    """Return the name of an image's file: the end of its URI, else its name in the project."""
    builders, address = [entry.get("serverBuilder")], ""
    while builders and not address:
        builder = builders.pop()
        if isinstance(builder, dict):
            address = next((str(builder[key]) for key in ("uri", "path") if isinstance(builder.get(key), str)), "")
            builders.append(builder.get("builder"))  # a rotated or cropped image wraps its own
    name = entry.get("imageName")
    return unquote(address).replace("\\", "/").rpartition("/")[2] or (name if isinstance(name, str) else "")


def _geojson_of(folder: Path, key: str, entry: dict[str, Any]) -> Path | None:
    """Look beside the entry's data, then for files named like the image."""
    if key.isdigit():
        own = sorted((folder / "data" / key).glob("*.geojson"))
        if own:
            return own[0]
    names = {file_name(_image_name(entry)), file_name(entry.get("imageName"))} - {""}
    names |= {name.rpartition(".")[0] for name in names if "." in name}
    for inner in _FOLDERS:
        for file in sorted((folder / inner).glob("*.geojson")):
            if file.name.casefold().removesuffix(".geojson") in names:
                return file
    return None
