"""The page on cohorts stays true: every command works, in one folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.command import vitrail
from helpers.imported import write_hancock, write_outline, write_slide
from vitrail.cohorts.mask_classes import TABLES
from vitrail.slides.cohort import read_cohort

PAGE = Path(__file__).parents[2] / "docs" / "cohorts.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines() if line.strip()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohorts")
    write_hancock(folder / "hancock")
    name = "TCGA-CN-4723-01Z-00-DX1"
    write_slide(folder / "gdc" / "uuid" / f"{name}.13483e7b-9322-4d39-8cd6-91e898bf2ee9.svs")
    write_outline(folder / "outlines-of-tcga" / f"{name}.geojson", "Tumor")
    mask = np.zeros((16, 16), np.uint8)
    mask[:, :8], mask[:, 8:12] = 255, 128
    (folder / "masks").mkdir()
    for number in range(3):
        write_slide(folder / "scans" / "larynx" / f"P{number}_1.tif", number)
        write_outline(folder / "scans" / f"P{number}_1.geojson", "Tumor")
        Image.fromarray(mask).save(folder / "masks" / f"P{number}_1.png")
    (folder / "clinic.csv").write_text("patient_id,age\nP0,50\nP1,60\nP2,70\n")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_works(folder, monkeypatch, command):
    monkeypatch.chdir(folder)
    words = shlex.split(command)[1:]
    assert vitrail(*words) == 0
    out = Path(words[words.index("--out") + 1])
    assert len(list(out.glob("*.geojson")) if out.is_dir() else read_cohort(out)) >= 1


def test_what_a_command_says_is_what_the_page_shows(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert vitrail("import", "hancock", "hancock", "--out", "hancock.csv", "--split", "in") == 0
    (shown,) = re.findall(r"```text\n(.*?)\n```", TEXT, re.DOTALL)
    assert shown in capsys.readouterr().out


def test_every_table_of_masks_is_on_the_page():
    assert re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE) == list(TABLES)
