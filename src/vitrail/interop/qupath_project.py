"""A folder that brings predictions into a QuPath project."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.classes import CLASSES
from vitrail.core.files import exporting
from vitrail.errors import ExchangeError

if TYPE_CHECKING:
    from collections.abc import Mapping

SCRIPT = "import_into_project.groovy"

_README = f"""In QuPath open the project with the slides and close the slides, then Automate, Script editor, open
{SCRIPT} from this folder and Run. Running it twice doubles nothing; objects of your own stay.
"""

_GROOVY = """// Imports Vitrail's predictions into the images of the open project (QuPath 0.4 or later).
// Close the images first: what is open in a viewer would be saved over the import.
import qupath.lib.io.PathIO

def folder = new File(%(folder)s)
if (!folder.isDirectory())  // it was moved: look for it in the project's folder
    folder = new File(buildFilePath(PROJECT_BASE_DIR, folder.getName()))

// The slide's file name, and its objects.
def files = [
%(files)s
]
// Vitrail's colours; leave this out to keep the project's own.
def colors = [
%(colors)s
]
colors.each { name, rgb -> getPathClass(name).setColor(makeRGB(rgb[0], rgb[1], rgb[2])) }

for (entry in getProject().getImageList()) {
    def name = entry.getImageName()
    def slide = files.keySet().find { it == name }
    slide = slide ?: files.keySet().find { name.startsWith(it + ' - ') || name == it.replaceFirst(/\\.[^.]+$/, '') }
    if (slide == null) {
        println name + ': no predictions'
        continue
    }
    def objects = PathIO.readObjects(new File(folder, files[slide]))
    def ids = objects.collect { it.getID() } as Set
    def data = entry.readImageData()
    def hierarchy = data.getHierarchy()
    hierarchy.removeObjects(hierarchy.getAllObjects(false).findAll { it.getID() in ids }, true)
    hierarchy.addObjects(objects)
    entry.saveImageData(data)
    println name + ': ' + objects.size() + ' objects'
}
getProject().syncChanges()
"""


def export_project(folder: str | Path, geojsons: Mapping[str, Path]) -> Path:
    """Gather GeoJSON files in a folder, with a script that imports them into the images of a QuPath project.

    The script finds the file of an image by the image's name, which QuPath takes from the slide's file name.

    Parameters
    ----------
    folder
        Is made where it is missing.
    geojsons
        From each slide's file name to its GeoJSON; a file that lies in the folder already stays.

    Returns
    -------
    Path
        The script.

    Raises
    ------
    ExchangeError
        A GeoJSON is missing, two have the same name, or the folder cannot be written to.
    """
    folder, names = Path(folder), dict[str, Path]()
    for source in geojsons.values():
        if not source.is_file():
            raise ExchangeError(source, "no such file", "Write it first with: vitrail predict")
        if names.setdefault(source.name, source) != source:
            raise ExchangeError(source, f"has the name of {names[source.name]}", "Rename one of them")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExchangeError(folder, f"cannot be made ({error.strerror})", "Give another folder") from error
    for name, source in names.items():
        if source.resolve() != (folder / name).resolve():
            with exporting(folder / name) as temporary:
                shutil.copyfile(source, temporary)
    files = [f"    {_quoted(slide)}: {_quoted(path.name)}," for slide, path in geojsons.items()]
    script = _GROOVY % {
        "folder": _quoted(folder.resolve().as_posix()),
        "files": "\n".join(files) or "    :",
        "colors": "\n".join(f"    {_quoted(label.title)}: {list(label.rgb)}," for label in CLASSES),
    }
    for name, text in (("README.txt", _README), (SCRIPT, script)):
        with exporting(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / SCRIPT


def _quoted(text: str) -> str:
    """Return a Groovy string literal that nothing in the text can leave."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"
