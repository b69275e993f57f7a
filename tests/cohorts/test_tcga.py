"""TCGA, as the GDC gives it away."""

from __future__ import annotations

import pytest

from helpers.command import vitrail
from helpers.data import DATA, needs_data
from helpers.imported import reasons, write_outline, write_slide
from vitrail.cohorts.tcga import short_names
from vitrail.pipeline.import_cohort import Destination, import_tcga
from vitrail.slides.cohort import read_cohort

DX = "TCGA-CN-4723-01Z-00-DX1.13483e7b-9322-4d39-8cd6-91e898bf2ee9"
TS = "TCGA-CR-7395-01A-01-TS1.0b5a3c2d-1111-4222-8333-444455556666"
BS = "TCGA-CR-7395-11A-01-BS2.0b5a3c2d-1111-4222-8333-444455557777"
FOLDERS = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(9)]


def download(root, number, name, seed=None):
    return write_slide(root / FOLDERS[number] / f"{name}.svs", number if seed is None else seed)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "gdc"
    for number, name in enumerate((DX, TS, BS)):
        slide = download(root, number, name)
        (slide.parent / "logs").mkdir()
        (slide.parent / "logs" / f"{slide.name}.parcel").write_bytes(b"")
    return root


def imported(root, tmp_path, **options):
    outcome = import_tcga(root, Destination(out=tmp_path / "slides.csv"), **options)
    return outcome, {slide.slide_id: slide for slide in read_cohort(tmp_path / "slides.csv")}


def test_barcodes_say_patient_site_and_kind_of_slide(root, tmp_path):
    write_outline(root / FOLDERS[0] / f"{DX}.geojson", "Tumor")
    write_outline(root / "outlines" / f"{TS.partition('.')[0]}.geojson", "Tumor")
    write_outline(root / "outlines" / f"{BS}.svs.geojson", "Tumor")
    outcome, slides = imported(root, tmp_path)
    assert {name: (slide.patient_id, *slide.attributes.values()) for name, slide in slides.items()} == {
        "TCGA-CN-4723-01Z-00-DX1": ("TCGA-CN-4723", "CN", "diagnostic", "primary tumor"),
        "TCGA-CR-7395-01A-01-TS1": ("TCGA-CR-7395", "CR", "frozen", "primary tumor"),
        "TCGA-CR-7395-11A-01-BS2": ("TCGA-CR-7395", "CR", "frozen", "normal tissue"),
    }
    assert list(slides["TCGA-CN-4723-01Z-00-DX1"].attributes) == ["site", "slide_type", "sample_type"]
    assert slides["TCGA-CR-7395-01A-01-TS1"].annotations.parent.name == "outlines"
    assert reasons(tmp_path / "slides.unmatched.csv") == {}
    assert outcome.results["slides"] == 3


def test_one_kind_of_slide_may_be_wanted_and_outlines_may_lie_elsewhere(root, tmp_path):
    for name in (DX, TS, BS):
        write_outline(tmp_path / "elsewhere" / f"{name}_annotations.geojson", "Tumor")
    write_outline(tmp_path / "elsewhere" / "TCGA-XX-0000-01Z-00-DX1.xml")
    _, slides = imported(root, tmp_path, annotations=tmp_path / "elsewhere", kind="diagnostic")
    assert list(slides) == ["TCGA-CN-4723-01Z-00-DX1"]
    told = reasons(tmp_path / "slides.unmatched.csv")
    assert told["slide that is not diagnostic"] == [f"{TS}.svs", f"{BS}.svs"]
    assert "TCGA-XX-0000-01Z-00-DX1.xml" in told["outlines without a slide"]


def test_downloads_that_did_not_end_are_told_and_not_taken(root, tmp_path):
    write_outline(root / f"{DX}.geojson", "Tumor")
    unfinished, lost = "TCGA-CN-0001-01Z-00-DX1", "TCGA-CN-0002-01Z-00-DX1"
    (root / FOLDERS[3] / "logs").mkdir(parents=True)
    (root / FOLDERS[3] / f"{unfinished}.svs.partial").write_bytes(b"II*")
    (root / FOLDERS[3] / "logs" / f"{unfinished}.svs.parcel").write_bytes(b"")
    (root / FOLDERS[4] / "logs").mkdir(parents=True)
    (root / FOLDERS[4] / "logs" / f"{lost}.svs.parcel").write_bytes(b"")
    size = (root / FOLDERS[0] / f"{DX}.svs").stat().st_size
    rows = [
        f"{FOLDERS[0]}\t{DX}.svs\tx\t{size}",
        f"{FOLDERS[1]}\t{TS}.svs\tx\t{size * 9}",
        f"{FOLDERS[8]}\tgone.svs\tx\t1",
    ]
    (root / "MANIFEST.txt").write_text("\n".join(["id\tfilename\tmd5\tsize", *rows]) + "\n")
    write_slide(root / "thumbnail.tif")
    _, slides = imported(root, tmp_path)
    assert list(slides) == ["TCGA-CN-4723-01Z-00-DX1"]
    assert reasons(tmp_path / "slides.unmatched.csv") == {
        "download that did not end": [f"{TS}.svs", f"{unfinished}.svs.partial", f"{lost}.svs.parcel"],
        "in the manifest, but not there": ["gone.svs"],
        "name that is no barcode of TCGA": ["thumbnail.tif"],
        "no outlines": [f"{BS}.svs"],
    }


def test_the_same_slide_under_two_uuids_is_taken_once(root, tmp_path):
    other = f"{DX[:-4]}0000"
    download(root, 4, other, seed=0)
    for name in (DX, other):
        write_outline(root / f"{name}.geojson", "Tumor")
    _, slides = imported(root, tmp_path)
    assert list(slides) == [DX]
    told = reasons(tmp_path / "slides.unmatched.csv")
    assert told["duplicate of another slide"] == [f"{other}.svs"]
    assert told["outlines of a duplicate"] == [f"{other}.geojson"]


def test_clinical_data_of_the_gdc_are_joined(root, tmp_path):
    for name in (DX, TS, BS):
        write_outline(root / f"{name}.geojson", "Tumor")
    rows = ["case_id\tcase_submitter_id\tgender\tage", "9f\tTCGA-CR-7395\tfemale\t'--", "9f\tTCGA-CR-7395\tfemale\t'--"]
    (tmp_path / "clinical.tsv").write_text("\n".join(rows) + "\n")
    _, slides = imported(root, tmp_path, metadata=tmp_path / "clinical.tsv")
    frozen = slides["TCGA-CR-7395-01A-01-TS1"]
    assert (frozen.attributes["gender"], frozen.attributes["age"]) == ("female", "")
    told = reasons(tmp_path / "slides.unmatched.csv")
    assert told == {"without a row in clinical.tsv (taken nevertheless)": [f"{DX}.svs"]}


def test_loops_of_links_end_and_files_are_listed_once(root, tmp_path):
    write_outline(root / f"{DX}.geojson", "Tumor")
    (root / "loop").symlink_to(root)
    (root / "a-link").symlink_to(root / FOLDERS[0])
    _, slides = imported(root, tmp_path)
    assert slides["TCGA-CN-4723-01Z-00-DX1"].slide.parent.name == FOLDERS[0]


def test_short_names_are_those_of_other_data_sets():
    assert short_names(DX) == ["tcga-cn-4723-dx1"]
    assert short_names("TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500.png") == ["tcga-a1-a0sk-dx1"]
    assert short_names("TCGA-4P-AA8J_0.tif") == short_names("S1.svs") == []


@needs_data("readers")
def test_a_real_slide_with_a_small_name_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_outline(tmp_path / "outlines" / "tcga-cr-7395-01a-01-ts1.geojson", "Tumor")
    assert vitrail("import", "tcga", DATA / "readers", "--annotations", "outlines", "--check") == 0
    (slide,) = read_cohort(tmp_path / "slides.csv")
    assert (slide.patient_id, slide.attributes["site"], slide.attributes["slide_type"]) == (
        "TCGA-CR-7395",
        "CR",
        "frozen",
    )
    assert "slide without um per pixel (taken nevertheless)" in reasons(tmp_path / "slides.unmatched.csv")
