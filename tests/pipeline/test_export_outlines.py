"""Outlines from the command line: of one program for another; and the page about them."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import shapely

from helpers.cohort import FAST, SIDE, tissue, write_cohort, write_tiff
from helpers.command import vitrail
from helpers.outlines import SPECIMENS
from vitrail.core.progress import Silent
from vitrail.errors import AnnotationError
from vitrail.settings.load import changed_settings, preset, settings_text
from vitrail.slides.annotations import ClassNames, read_annotations
from vitrail.slides.cohort import read_cohort
from vitrail.slides.outlines.convert import WRITABLE
from vitrail.slides.outlines.formats import FORMATS
from vitrail.tiles.cohort import Folders, check_names, cut_cohort, slide_digest

PAGE = (Path(__file__).parents[2] / "docs" / "annotations.md").read_text(encoding="utf-8")
NAMES = ClassNames(tumor=("Tumor",), non_tumor=("Non-tumor",), ignore=())


def test_the_commands_of_the_page_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_cohort(tmp_path, patients=1)
    commands = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 3
    for command in commands:
        assert vitrail(*shlex.split(command)[1:]) == 0, command
    said = capsys.readouterr()
    assert said.out.splitlines() == ["2 outlines", "S0.xml", "2 outlines", "S0.annotations", "2 outlines", "S0.json"]
    (warning,) = said.err.splitlines()
    assert warning.startswith("warning: QuPath GeoJSON to ASAP XML: coordinates count from another corner where")
    first, last = (read_annotations(tmp_path / name, NAMES) for name in ("S0.geojson", "S0.json"))
    assert shapely.equals(first.tumor, last.tumor)
    assert json.loads((tmp_path / "S0.json").read_text())["images"][0] == {
        "id": 1, "file_name": "S0.tif", "width": SIDE, "height": SIDE,
    }  # fmt: skip


def test_the_page_names_every_format():
    rows = re.findall(r"^\| (.*?) \|.*\| (read|read, written) \|$", PAGE, re.MULTILINE)
    assert len(rows) == len(FORMATS)
    assert sum(what == "read, written" for _, what in rows) == len(WRITABLE)
    listed = re.search(r"`--as` takes (.*?)\.", PAGE)[1]
    assert set(re.findall(r"`(\w+)`", listed)) == set(WRITABLE)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("S0.geojson", "--as", "docx"), "--as: 'docx' is none of asap, halo"),
        (("S0.geojson", "--as", "coco"), "COCO names the image and its size"),
        (("gone.xml", "--as", "asap"), "gone.xml: no such file"),
        (("slides.csv", "--as", "asap"), "slides.csv: not valid JSON"),
        (("S0.geojson", "--as", "asap", "--slide", "gone.svs"), "gone.svs: no such file"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, problem, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_cohort(tmp_path, patients=1)
    assert vitrail("export", "outlines", *arguments, "--out", "out") == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def mixed(tmp_path):
    """A cohort whose slides have outlines of QuPath, of ASAP, and of one file of COCO for two of them."""
    write_cohort(tmp_path, patients=4)
    for name in ("S2", "S3"):
        write_tiff(tmp_path / f"{name}.tif", tissue(1))
    assert vitrail("export", "outlines", tmp_path / "S1.geojson", "--as", "asap", "--out", tmp_path / "S1.xml") == 0
    half = SIDE // 2
    squares = [("Tumor", 0), ("Non-tumor", half)]
    document = {
        "images": [{"id": i, "file_name": f"S{i}.tif"} for i in (2, 3, 4)],
        "categories": [{"id": i, "name": name} for i, (name, _) in enumerate([*squares, ("Nerve", 0)])],
        "annotations": [
            {"image_id": image, "category_id": i, "bbox": [left, 0, half, SIDE - 32]}
            for image in (2, 3)
            for i, (_, left) in enumerate(squares)
        ]
        + [{"image_id": 4, "category_id": 2, "bbox": [0, 0, 9, 9]}],
    }
    (tmp_path / "all.json").write_text(json.dumps(document))
    table = pd.read_csv(tmp_path / "slides.csv")
    table["annotations"] = ["S0.geojson", "S1.xml", "all.json", "all.json"]
    table.to_csv(tmp_path / "slides.csv", index=False)
    return tmp_path / "slides.csv"


def test_a_cohort_of_several_programs_is_cut(mixed, tmp_path):
    (tmp_path / "study.toml").write_text(settings_text(preset("quick"), "A study"))
    entries, settings = read_cohort(mixed), changed_settings(tmp_path / "study.toml", FAST)
    check_names(entries, settings)  # a nerve is outlined on no slide of this cohort
    folders = Folders(result=tmp_path / "tiles", parts=tmp_path / "parts", earlier=tmp_path / "earlier")
    for folder in (folders.result, folders.parts):
        folder.mkdir()
    cut_cohort(entries, settings, folders, Silent())
    rows = pd.read_parquet(tmp_path / "tiles" / "tiles.parquet")
    counts = Counter(zip(rows["slide_id"], rows["label"], strict=True))
    for label in ("tumor", "non_tumor"):
        assert len({counts[f"S{i}", label] for i in range(4)}) == 1
        assert counts["S0", label] > 0


def test_names_of_other_programs_are_looked_at_before_anything_is_cut(mixed):
    document = json.loads((mixed.parent / "all.json").read_text())
    document["annotations"][-1]["image_id"] = 3
    (mixed.parent / "all.json").write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match=r"all\.json: outlines with unknown names: 'Nerve' \(1\)"):
        check_names(read_cohort(mixed), preset("quick"))


def test_exported_geojson_of_a_project_is_part_of_what_a_slide_is_made_of(mixed):
    folder, settings = mixed.parent, preset("quick")
    builder = {"uri": "file:/x/S0.tif"}
    project = {"createTimestamp": 1, "images": [{"entryID": 1, "imageName": "S0.tif", "serverBuilder": builder}]}
    (folder / "project.qpproj").write_text(json.dumps(project))
    mixed.write_text(mixed.read_text().replace("S0.geojson", "project.qpproj"))
    entry = read_cohort(mixed)[0]
    before = slide_digest(entry, settings)
    (folder / "S0.geojson").write_text(json.dumps(SPECIMENS["qupath"][0]))
    assert slide_digest(entry, settings) != before
