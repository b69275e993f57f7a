"""Any folder of slides."""

from __future__ import annotations

import os
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.command import vitrail
from helpers.imported import reasons, write_outline, write_slide
from vitrail.cohorts import listing
from vitrail.cohorts.folder import FolderRules, read_folder
from vitrail.cohorts.listing import list_files, slide_files
from vitrail.cohorts.matching import OUTLINES, names_for
from vitrail.errors import CohortError, SettingsError
from vitrail.pipeline.import_cohort import Destination, import_folder
from vitrail.slides.cohort import RESERVED, read_cohort


def imported(folder, tmp_path, **rules):
    out = tmp_path / "out" / "slides.csv"
    outcome = import_folder(folder, Destination(out=out), FolderRules(**rules))
    return (
        outcome,
        {slide.slide_id: slide for slide in read_cohort(out)},
        reasons(out.with_name("slides.unmatched.csv")),
    )


@pytest.mark.parametrize(
    "name", ["S1.geojson", "s1.GeoJSON", "S1.svs.geojson", "S1_annotations.geojson", "S1-labels.json", "S1 outline.xml"]
)
def test_outlines_are_called_like_their_slide_or_nearly_so(tmp_path, name):
    slide = write_slide(tmp_path / "in" / "S1.svs")
    outlines = write_outline(tmp_path / "in" / "qupath" / name, "Tumor")
    _, slides, told = imported(tmp_path / "in", tmp_path)
    assert (slides["S1"].slide, slides["S1"].annotations, told) == (slide, outlines, {})


@given(
    words=st.lists(st.sampled_from(["_annotations", "-labels", ".svs", " mask", "_GT"]), max_size=3),
    suffix=st.sampled_from(OUTLINES),
)
def test_the_plain_name_is_the_last_that_a_file_may_stand_for(words, suffix):
    names = names_for(Path(f"Case 7{''.join(words)}{suffix}"), OUTLINES)
    assert names[-1] == "case 7"
    assert all(longer.startswith(shorter) for longer, shorter in pairwise(names))


def test_the_closest_name_and_the_nearest_folder_win(tmp_path):
    root = tmp_path / "in"
    for patient in ("P1", "P2"):
        write_slide(root / patient / "S1.svs", int(patient[1]))
        write_outline(root / patient / "S1.geojson", "Tumor")
    write_outline(root / "P1" / "S1_annotations.geojson", "Tumor")
    write_outline(root / "S1.geojson", "Tumor")
    write_outline(root / "S9.geojson", "Tumor")
    _, slides, told = imported(root, tmp_path, patient=r"(P\d)/")
    assert {name: slide.annotations for name, slide in slides.items()} == {
        f"{patient}_S1": root / patient / "S1.geojson" for patient in ("P1", "P2")
    }
    assert told == {
        "second outlines of a slide": ["S1_annotations.geojson"],
        "outlines that fit several slides": ["S1.geojson"],
        "outlines without a slide": ["S9.geojson"],
    }


def test_patients_and_sites_are_found_in_paths(tmp_path):
    root = tmp_path / "in"
    for number, path in enumerate(("larynx/H-12_a", "larynx/H-12_b", "oral/H-7_a", "odd")):
        write_slide(root / f"{path}.tif", number)
        write_outline(root / f"{path}.geojson", "Tumor")
    outcome, slides, told = imported(root, tmp_path, patient=r"H-\d+", site="(?P<other>x)?^(?P<site>larynx)")
    assert {name: (slide.patient_id, slide.attributes["site"]) for name, slide in slides.items()} == {
        "H-12_a": ("H-12", "larynx"),
        "H-12_b": ("H-12", "larynx"),
        "H-7_a": ("H-7", ""),
    }
    assert told["no patient"] == ["odd.tif"]
    assert outcome.warnings == ["1 slides have no site: --site matches nothing in their paths"]
    with pytest.raises(SettingsError, match=r"--patient: '\(' is no regular expression"):
        read_folder(root, FolderRules(patient="("))


def test_slides_without_patients_are_patients_with_a_warning(tmp_path):
    write_slide(tmp_path / "in" / "S1.tif")
    write_outline(tmp_path / "in" / "S1.geojson", "Tumor")
    outcome, slides, _ = imported(tmp_path / "in", tmp_path)
    assert slides["S1"].patient_id == "S1"
    assert "each slide counts as a patient of its own" in outcome.warnings[0]


def test_what_is_no_slide_of_the_cohort_is_told(tmp_path):
    root = tmp_path / "in"
    for number, name in enumerate(("S1.svs", "S2.svs", "S2_mask.tif", "S3.svs", "copy.svs")):
        write_slide(root / name, number)
    shutil.copy(root / "S1.svs", root / "copy.svs")
    for name in ("S1", "S3", "copy"):
        write_outline(root / f"{name}.geojson", "Tumor")
    (root / "S3.tiles.parquet").write_bytes(b"")  # vitrail predict leaves it beside its own .geojson
    (root / "overview.png").write_bytes(b"")
    (root / "S1.classes.ome.tiff").write_bytes(b"")
    (root / ".S1.svs").write_bytes(b"")
    (root / "__MACOSX").mkdir()
    write_slide(root / "__MACOSX" / "S4.svs")
    outcome, slides, told = imported(root, tmp_path, patient=r"copy|S\d")
    assert list(slides) == ["S1"]
    assert outcome.warnings == ["1 slides are the same as one of another patient: it is unclear whose they are"]
    assert told == {
        "duplicate of a slide of another patient": ["copy.svs"],
        "outlines of a duplicate": ["copy.geojson"],
        "mask of another slide": ["S2_mask.tif"],
        "no outlines": ["S2.svs", "S3.svs"],
        "picture, not a slide": ["overview.png"],
        "predictions, not outlines": ["S3.geojson"],
    }


def test_slides_that_differ_in_a_single_byte_are_two(tmp_path):
    root = tmp_path / "in"
    write_slide(root / "S1.svs")
    content = bytearray((root / "S1.svs").read_bytes() + bytes(4 << 20))
    for name, at in (("S1", 0), ("S2", 1_500_001)):  # between the samples that a digest looks at
        content[-at - 1] = 1
        (root / f"{name}.svs").write_bytes(content)
        write_outline(root / f"{name}.geojson", "Tumor")
    _, slides, told = imported(root, tmp_path)
    assert (sorted(slides), told) == (["S1", "S2"], {})


def write_table(path, *rows):
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def root(tmp_path):
    for number, name in enumerate(("S1", "S2", "S3")):
        write_slide(tmp_path / "in" / f"{name}.svs", number)
        write_outline(tmp_path / "in" / f"{name}.geojson", "Tumor")
    return tmp_path / "in"


def test_a_table_is_joined_by_slide(root, tmp_path):
    table = write_table(
        tmp_path / "clinic.csv",
        "File Name;Patient;site;split;mpp;annotations;label;Stage", r"C:\scans\S1.svs;P1;larynx;train;0.25;x;1;T 2",
        "S2;P2;oral;validation;;y;2;", "S3.svs;P3;oral;test;0.5;z;;", "S9;P9;;;;;;",
    )  # fmt: skip
    _, slides, told = imported(root, tmp_path, metadata=table)
    first = slides["S1"]
    assert (first.patient_id, first.split, first.mpp) == ("P1", "train", 0.25)
    assert first.attributes == {"site": "larynx", "clinic_label": "1", "Stage": "T 2"}
    assert told == {"row of clinic.csv without a slide": ["clinic.csv, line 5"]}
    assert not RESERVED & set(first.attributes)


def test_a_table_is_joined_by_patient(root, tmp_path):
    table = write_table(tmp_path / "clinic.csv", "case_id,age", "1,50", "2,60")
    _, slides, told = imported(root, tmp_path, metadata=table, patient=r"S(\d)")
    assert {name: slide.attributes["age"] for name, slide in slides.items()} == {"S1": "50", "S2": "60", "S3": ""}
    assert told == {"without a row in clinic.csv (taken nevertheless)": ["S3.svs"]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["name,age", "S1,1"], "no column of slides or patients (its columns: name, age)"),
        (["slide_id,age", "S1,1", "S2,1", "S1,1", "S1.svs,2"], "line 5: S1.svs stands in line 2, too"),
        (["slide_id,split", "S1,training"], "line 2: split 'training' is unknown"),
        (["slide_id,mpp", "S1,fine"], "line 2: mpp 'fine' is no pixel size"),
        (["slide_id,age", "S1"], "line 2: 1 cells, where the header has 2"),
        (["slide_id,age,age", "S1,1,2"], "column age is there twice"),
        (["slide_id,split", "S1,train"], "some patients have a split and some have none"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(root, tmp_path, monkeypatch, capsys, rows, said):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "clinic.csv", *rows)
    assert vitrail("import", "folder", root, "--metadata", "clinic.csv") == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
    assert not (tmp_path / "slides.csv").exists()


def test_a_series_of_dicom_files_is_one_slide(tmp_path):
    def write(name, series, content):
        tag = b"\x20\x00\x0e\x00UI" + len(series).to_bytes(2, "little") + series
        other = b"\x20\x00\x0e\x00UI\x04\x009.9\x00"  # of a series that the file refers to, before its own
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(
            bytes(128) + b"DICM" + other + tag + b"\x28\x00\x10\x00US\x02\x00\x01\x00" + content
        )

    write("a/1.dcm", b"1.2.3 ", b"")
    write("a/2.dcm", b"1.2.3 ", bytes(100))
    write("b/3.dcm", b"1.2.4 ", b"")
    write("b/4.dcm", b"1.2.5 ", b"")
    (tmp_path / "b" / "5.dcm").write_bytes(b"no header")
    slides = slide_files(list_files(tmp_path).files)
    assert {str(path.relative_to(tmp_path)): [part.name for part in parts] for path, parts in slides.items()} == {
        "a/2.dcm": ["1.dcm"], "b/3.dcm": [], "b/4.dcm": [], "b/5.dcm": [],
    }  # fmt: skip
    draft, _ = read_folder(tmp_path, FolderRules())
    assert [slide.slide_id for slide in draft.slides] == ["a", "3", "4", "5"]


def test_names_become_unique_and_short_enough(tmp_path):
    for number, path in enumerate(("a/S.svs", "b/S.svs", f"{'x' * 90}/{'y' * 90}.svs", f"{'z' * 120}.svs", "a_S.svs")):
        write_slide(tmp_path / "in" / path, number)
        write_outline((tmp_path / "in" / path).with_suffix(".geojson"), "Tumor")
    _, slides, told = imported(tmp_path / "in", tmp_path)
    assert len(slides) == 5
    assert told == {}
    assert {"b_S", "y" * 90} < set(slides)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_told(root, tmp_path):
    (root / "closed").mkdir(mode=0)
    assert imported(root, tmp_path)[2] == {"folder that cannot be read": ["closed"]}


def test_a_folder_that_fails_while_it_is_read_is_told(root, tmp_path, monkeypatch):
    (root / "lost").mkdir()
    scan = os.scandir

    def scandir(folder):
        if Path(folder).name == "lost":
            raise OSError(5, "Input/output error")
        return scan(folder)

    monkeypatch.setattr(listing.os, "scandir", scandir)
    assert imported(root, tmp_path)[2] == {"folder that cannot be read": ["lost"]}
    with pytest.raises(CohortError, match="cannot be read"):
        list_files(root / "lost")
    with pytest.raises(CohortError, match="a file, not a folder"):
        list_files(root / "S1.svs")


def test_names_that_are_no_text_are_told_and_pipes_are_passed_over(root, tmp_path):
    os.mkfifo(root / "pipe.svs")
    shutil.copy(root / "S1.svs", os.fsencode(root) + b"/S\xff.svs")
    _, slides, told = imported(root, tmp_path)
    assert len(slides) == 3
    assert list(told) == ["name that is no text"]
