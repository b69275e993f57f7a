"""A folder that is a QuPath project, and brings the same objects into any other project.

`project.qpproj`, `classifiers/classes.json` and `data/<number>/server.json` are plain JSON, as QuPath 0.4 to 0.6 writes
them (`DefaultProject`). What QuPath keeps of an image, `data.qpdata`, is serialised Java and is not written here: the
objects come in by a script that lies in the project, where the menu Automate, Project scripts lists it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.classes import CLASSES
from vitrail.core.files import exporting, read_regular
from vitrail.errors import ExchangeError
from vitrail.interop.qupath import identity_of
from vitrail.interop.qupath_images import file_uri, packed_colour

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vitrail.interop.qupath_images import ProjectImage

SCRIPT = "import_into_project.groovy"
PROJECT = "project.qpproj"

_VERSION = "0.4.0"
"""The oldest QuPath whose project this is."""

_NUCLEUS = ("Nucleus", (70, 70, 200))

_README = f"""A QuPath project (0.4 or later). Open {PROJECT}, but no image yet; then Automate, Project scripts,
{Path(SCRIPT).stem}, and Run (once: it goes through all images). Tiles and nuclei have measurements:
Measure, Show measurement maps. Maps of classes and of explanations are images of their own.

Into a project of your own: open it and close its slides, then Automate, Script editor, open {SCRIPT}
from this folder and Run. Running it twice doubles nothing; objects of your own stay.
"""

_GROOVY = """// Loads Vitrail's results into the images of the open project (QuPath 0.4 or later).
// Close the images first: what is open in a viewer would be saved over the import.
import qupath.lib.images.ImageData
import qupath.lib.io.PathIO

// The slide's file name, and the files of its objects.
def files = [
%(files)s
]
// Maps: they have no objects.
def maps = [
%(maps)s
]
// Vitrail's colours; leave this out to keep the project's own.
def colors = [
%(colors)s
]
colors.each { name, rgb -> getPathClass(name).setColor(makeRGB(rgb[0], rgb[1], rgb[2])) }

// The folder may have been moved: then it is the project's, or lies in it.
def first = files.values().flatten().find { true }
def folders = [new File(%(folder)s), new File(PROJECT_BASE_DIR), new File(PROJECT_BASE_DIR, %(name)s)]
def folder = folders.find { first != null && new File(it, first).isFile() }

for (entry in getProject().getImageList()) {
    def name = entry.getImageName()
    try {
        def isMap = maps.contains(name)
        def slide = isMap ? null : files.keySet().find { it == name }
        if (slide == null && !isMap)
            slide = files.keySet().find { name.startsWith(it + ' - ') || name == it.replaceFirst(/\\.[^.]+$/, '') }
        if (!isMap && (slide == null || folder == null)) {
            println name + ': no predictions'
            continue
        }
        def data = entry.readImageData()
        if (data.getImageType() == ImageData.ImageType.UNSET)
            data.setImageType(isMap ? ImageData.ImageType.OTHER : ImageData.ImageType.BRIGHTFIELD_H_E)
        if (!isMap) {
            def objects = []
            files[slide].each { objects.addAll(PathIO.readObjects(new File(folder, it))) }
            def ids = objects.collect { it.getID() } as Set
            def hierarchy = data.getHierarchy()
            hierarchy.removeObjects(hierarchy.getAllObjects(false).findAll { it.getID() in ids }, true)
            hierarchy.addObjects(objects)
            println name + ': ' + objects.size() + ' objects'
        }
        entry.saveImageData(data)
        data.getServer().close()
    } catch (Exception error) {
        println name + ': ' + error.getMessage()
    }
}
getProject().syncChanges()
"""


def export_project(
    folder: str | Path, geojsons: Mapping[str, Sequence[Path]], images: Sequence[ProjectImage] = ()
) -> Path:
    """Gather GeoJSON files in a folder, with a script that imports them into the images of a QuPath project.

    The script finds the files of an image by the image's name, which QuPath takes from the slide's file name. With
    images the folder is a project, too. What QuPath or a person has added to it stays.

    Parameters
    ----------
    folder
        Is made where it is missing.
    geojsons
        From each slide's file name to its GeoJSONs; a file that lies in the folder already stays.
    images
        Of the project: slides, and maps of them.

    Returns
    -------
    Path
        The script.

    Raises
    ------
    ExchangeError
        A GeoJSON is missing, two have the same name, the folder cannot be written to, or what lies in it under the name
        of the project is none.
    """
    folder, names = Path(folder), dict[str, Path]()
    for source in (each for own in geojsons.values() for each in own):
        if not source.is_file():
            raise ExchangeError(source, "no such file", "Write it first with: vitrail predict")
        if names.setdefault(source.name, source) != source:
            raise ExchangeError(source, f"has the name of {names[source.name]}", "Rename one of them")
    texts = _project_texts(folder, images) if images else {}
    script = _GROOVY % {
        "folder": _quoted(folder.resolve().as_posix()),
        "name": _quoted(folder.resolve().name),
        "files": "\n".join(
            f"    {_quoted(slide)}: [{', '.join(_quoted(path.name) for path in own)}],"
            for slide, own in geojsons.items()
        )
        or "    :",
        "maps": "\n".join(f"    {_quoted(image.name)}," for image in images if image.name not in geojsons),
        "colors": "\n".join(f"    {_quoted(label.title)}: {list(label.rgb)}," for label in CLASSES),
    }
    texts |= {"README.txt": _README, SCRIPT: script}
    if images:
        texts[f"scripts/{SCRIPT}"] = script
    try:
        for name in texts:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExchangeError(folder, f"cannot be made ({error.strerror})", "Give another folder") from error
    for name, source in names.items():
        if source.resolve() != (folder / name).resolve():
            with exporting(folder / name) as temporary:
                shutil.copyfile(source, temporary)
    for name, text in texts.items():
        with exporting(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return folder / SCRIPT


def _project_texts(folder: Path, images: Sequence[ProjectImage]) -> dict[str, str]:
    """Return the files of a project by their names; images and classes that are there already stay as they are."""
    project = folder.absolute() / PROJECT
    old = _read(project) if project.exists() else {}
    entries: list[dict[str, Any]] = list(old.get("images", []))
    last = max([int(old.get("lastID", 0)), *(int(entry["entryID"]) for entry in entries)])
    by_uri = {entry.get("serverBuilder", {}).get("uri"): entry for entry in entries}
    texts = {}
    for image in images:
        entry = by_uri.get(image.builder["uri"])
        if entry is None:
            last += 1
            entries.append(entry := {"serverBuilder": image.builder, "entryID": last})
            entry["randomizedName"] = identity_of(image.name, image.builder["uri"])
            entry["imageName"] = image.name
            texts[f"data/{last}/server.json"] = _json(image.builder)
        entry["metadata"] = {**entry.get("metadata", {}), **image.metadata}
    content = {
        "version": old.get("version", _VERSION),
        "createTimestamp": old.get("createTimestamp", 0),
        "modifyTimestamp": old.get("modifyTimestamp", 0),
        "uri": file_uri(project),
        "lastID": last,
        "images": entries,
    }
    classes = folder / "classifiers" / "classes.json"
    named = list(_read(classes).get("pathClasses", [])) if classes.exists() else []
    present = {each["name"] for each in named}
    own = [*((label.title, label.rgb) for label in CLASSES), _NUCLEUS]
    named += [{"name": name, "color": packed_colour(rgb)} for name, rgb in own if name not in present]
    return {**texts, "classifiers/classes.json": _json({"pathClasses": named}), PROJECT: _json({**old, **content})}


def _read(path: Path) -> dict[str, Any]:
    """Read an object of a project that is there already."""
    cure = "Give another folder"
    try:
        content = json.loads(read_regular(path, ExchangeError, cure))
        sound = int(content.get("lastID", 0)) >= 0 and all(each["name"] for each in content.get("pathClasses", []))
        for entry in content.get("images", []):
            parts = entry.get("serverBuilder", {}), entry.get("metadata", {})
            sound = sound and int(entry["entryID"]) > 0 and all(isinstance(part, dict) for part in parts)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # also where bytes are no UTF-8
        sound = False
    if not sound:
        raise ExchangeError(path, "is there, and no file of a QuPath project", cure)
    return dict(content)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _quoted(text: str) -> str:
    """Return a Groovy string literal that nothing in the text can leave."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"
