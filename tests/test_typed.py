"""Users' code is checked by mypy, strictly: the face, though loaded lazily, gives its types."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import vitrail
from vitrail import _MODULES

FACE = ("errors", *_MODULES)
SOURCE = Path(vitrail.__file__).parents[1]

PROGRAM = """
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import vitrail


def tissue_mm2(path: Path) -> float:
    slide = vitrail.open_slide(path, fallback_mpp=0.5)
    return vitrail.find_tissue(slide).area_mm2


def why(study: vitrail.Study, tiles: NDArray[np.uint8]) -> list[vitrail.Saliency]:
    with vitrail.view(study, slide="S0") as view:
        print(view.address)
    return study.explain(tiles, "gradcam")


try:
    print(tissue_mm2(Path("S0.svs")), vitrail.read_cohort("slides.csv")[0].patient_id)
except vitrail.SlideError as error:
    print(error.cure)
reveal_type(vitrail.run_study("study"))
reveal_type(vitrail.evaluate)
vitrail.open_slide(3)
vitrail.open_slides("S0.svs")
"""


def test_types_are_part_of_the_package():
    assert resources.files("vitrail").joinpath("py.typed").is_file()


def test_every_name_of_the_face_is_imported_for_type_checkers_from_where_it_is_loaded():
    text = (SOURCE / "vitrail" / "__init__.py").read_text(encoding="utf-8")
    block = text.partition("if TYPE_CHECKING:")[2].partition("__version__")[0]
    imported = {
        (module, name.strip(" ,\n"))
        for module, names in re.findall(r"from vitrail\.([\w.]+) import \(?([\w,\s]+?)\)?\n(?= {4}from|\n)", block)
        for name in names.split(",")
        if name.strip()
    }
    loaded = {(module, name) for module, names in _MODULES.items() for name in names}
    errors = {("errors", name) for name in vitrail.__all__} & imported
    assert imported == loaded | errors
    assert {name for _, name in imported} == set(vitrail.__all__)


def test_a_users_program_is_checked_strictly(tmp_path):
    """Libraries and the rooms behind the face are left out here, which would take half a minute: they are Any."""
    pytest.importorskip("mypy")
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    skipped = ",".join(f"{name}.*" for name in ("vitrail", "torch", "pandas", "matplotlib", "scipy", "PIL", "skimage"))
    own = "".join(f"[mypy-{name}]\nfollow_imports = silent\n" for name in ("vitrail", *map("vitrail.{}".format, FACE)))
    skip = "follow_imports = skip\nfollow_imports_for_stubs = True\n"
    config = f"[mypy]\nstrict = true\n[mypy-{skipped}]\n{skip}{own}"
    (tmp_path / "mypy.ini").write_text(config, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "--no-incremental", "program.py"]
    environment = {"MYPYPATH": str(SOURCE), "PATH": "", "PYTHONPATH": str(SOURCE)}
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    assert re.findall(r'Revealed type is "(.*)"', said.stdout) == [
        "vitrail.pipeline.study.Study",
        "def (run: pathlib.Path | str | Any) -> vitrail.evaluation.results.Evaluation",
    ], said.stdout + said.stderr
    wrong = re.findall(r"program\.py:\d+: error: (.*)", said.stdout)
    assert len(wrong) == 2, wrong
    assert 'Argument 1 to "open_slide" has incompatible type "int"' in wrong[0]
    assert 'Module has no attribute "open_slides"' in wrong[1]
