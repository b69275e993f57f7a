"""HANCOCK, in exactly the layout of its archives."""

from __future__ import annotations

import json
import shutil

import pytest

from helpers.command import vitrail
from helpers.imported import reasons, write_hancock, write_json, write_outline, write_slide
from vitrail.cohorts.hancock import FIRST_COLUMNS, read_hancock
from vitrail.errors import CohortError, SettingsError
from vitrail.pipeline.import_cohort import Destination, import_hancock
from vitrail.slides.cohort import read_cohort


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    return write_hancock(tmp_path_factory.mktemp("hancock"))


@pytest.fixture
def root(unpacked, tmp_path):
    return shutil.copytree(unpacked, tmp_path / "root", symlinks=True)


def imported(root, out, **options):
    outcome = import_hancock(root, Destination(out=out), **options)
    return outcome, {slide.slide_id: slide for slide in read_cohort(out)}


def test_slides_sites_outlines_and_records_come_together(unpacked, tmp_path):
    outcome, slides = imported(unpacked, tmp_path / "slides.csv")
    assert sorted(slides) == sorted([*(f"PrimaryTumor_HE_{n:03d}" for n in range(1, 11)), "PrimaryTumor_HE_001_a"])
    first, second, nested = (slides[f"PrimaryTumor_HE_{name}"] for name in ("001", "001_a", "002"))
    assert (first.patient_id, second.patient_id, nested.patient_id) == ("001", "001", "002")
    assert (first.attributes["site"], nested.attributes["site"]) == ("Larynx", "Oropharynx")
    assert second.annotations.name == "PrimaryTumor_HE_001_a.geojson"
    assert second.slide.name == "PrimaryTumor_HE_001_a.svs"
    assert list(first.attributes) == [
        "site", "age_at_initial_diagnosis", "sex", "pT_stage", "primary_tumor_site", "infiltration_depth_in_mm",
    ]  # fmt: skip
    assert first.attributes["age_at_initial_diagnosis"] == "50"
    assert first.attributes["infiltration_depth_in_mm"] == ""
    assert {slide.split for slide in slides.values()} == {None}
    assert reasons(tmp_path / "slides.unmatched.csv") == {
        "slide of a lymph node": ["LymphNode_HE_001.svs"],
        "tissue microarray": ["TumorCenter_HE_block1.svs"],
    }
    assert outcome.lines[0] == "11 slides of 10 patients"
    assert outcome.lines[1] == "sites: Larynx (6), Oropharynx (5)"
    assert outcome.lines[-2].endswith(
        "--set annotations.unlabelled_tissue=non_tumor --set annotations.unclassified=tumor"
    )
    assert outcome.lines[-1] == outcome.results["files"]["slides"] == str(tmp_path / "slides.csv")


def test_what_does_not_match_is_told_with_its_reason(root, tmp_path):
    larynx, annotations = root / "WSI_PrimaryTumor_Larynx", root / "WSI_PrimaryTumor_Annotations"
    (annotations / "PrimaryTumor_HE_003.geojson").unlink()
    write_outline(annotations / "PrimaryTumor_HE_099.geojson")
    write_slide(larynx / "PrimaryTumor_HE_12.svs", 12)
    write_slide(root / "elsewhere" / "PrimaryTumor_HE_077.svs", 77)
    shutil.copy(larynx / "PrimaryTumor_HE_005.svs", larynx / "PrimaryTumor_HE_005_b.svs")
    write_outline(annotations / "PrimaryTumor_HE_005_b.geojson")
    shutil.copy(larynx / "PrimaryTumor_HE_007.svs", larynx / "PrimaryTumor_HE_042.svs")
    (larynx / "PrimaryTumor_HE_043.svs").symlink_to(root / "gone.svs")
    write_slide(root / "WSI_PrimaryTumor_CUP" / "PrimaryTumor_HE_009.svs", 900)
    clinical = root / "StructuredData" / "clinical_data.json"
    write_json(clinical, [row for row in json.loads(clinical.read_text()) if row["patient_id"] != "010"])
    pathology = root / "StructuredData" / "pathological_data.json"
    write_json(pathology, [row for row in json.loads(pathology.read_text()) if row["patient_id"] != "010"])
    _, slides = imported(root, tmp_path / "slides.csv")
    assert len(slides) == 10
    told = reasons(tmp_path / "slides.unmatched.csv")
    del told["slide of a lymph node"], told["tissue microarray"]
    assert told == {
        "no outlines": ["PrimaryTumor_HE_003.svs", "PrimaryTumor_HE_042.svs"],
        "outlines without a slide": ["PrimaryTumor_HE_003.geojson", "PrimaryTumor_HE_099.geojson"][1:],
        "slide of another name": ["PrimaryTumor_HE_12.svs"],
        "slide outside of the folders WSI_PrimaryTumor*": ["PrimaryTumor_HE_077.svs"],
        "duplicate of another slide": ["PrimaryTumor_HE_005_b.svs"],
        "outlines of a duplicate": ["PrimaryTumor_HE_005_b.geojson"],
        "link that leads nowhere": ["PrimaryTumor_HE_043.svs"],
        "second file of a name": ["PrimaryTumor_HE_009.svs"],
        "without clinical data (taken nevertheless)": ["PrimaryTumor_HE_010.svs"],
    }


def test_an_official_split_gets_validation_from_its_training_patients(unpacked, tmp_path):
    outcome, slides = imported(unpacked, tmp_path / "slides.csv", split="in", validation=0.25, seed=3)
    parts = {slide.patient_id: slide.split for slide in slides.values()}
    assert {patient for patient, part in parts.items() if part == "test"} == {"001", "002"}
    drawn = {patient for patient, part in parts.items() if part == "validation"}
    assert len(drawn) == 2
    assert {int(patient) % 2 for patient in drawn} == {0, 1}, "one of each site"
    assert "2 of 8 training patients were drawn for it (seed 3)" in outcome.warnings[0]
    again = imported(unpacked, tmp_path / "again.csv", split="in", validation=0.25, seed=3)[1]
    assert {slide.patient_id: slide.split for slide in again.values()} == parts
    others = [imported(unpacked, tmp_path / f"{seed}.csv", split="in", validation=0.25, seed=seed) for seed in range(6)]
    assert len({tuple(slide.split for slide in slides.values()) for _, slides in others}) > 1


def test_a_patient_without_a_split_is_left_out(root, tmp_path):
    split = root / "DataSplits_DataDictionaries" / "dataset_split_in.json"
    write_json(split, [row for row in json.loads(split.read_text()) if row["patient_id"] != "004"])
    _, slides = imported(root, tmp_path / "slides.csv", split="in")
    assert "PrimaryTumor_HE_004" not in slides
    told = reasons(tmp_path / "slides.unmatched.csv")
    assert told["patient is not in dataset_split_in.json"] == ["PrimaryTumor_HE_004.svs"]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("StructuredData/clinical_data.json", "[{", "not valid JSON"),
        ("StructuredData/clinical_data.json", '{"patient_id": 1}', "no list of records"),
        ("StructuredData/clinical_data.json", '[{"age": 1}]', "record 0 (counted from 0) has no patient_id"),
        ("StructuredData/clinical_data.json", '[{"patient_id": 1}, {"patient_id": "001"}]', "001 stands twice"),
        ("DataSplits_DataDictionaries/dataset_split_in.json", '[{"patient_id": "001"}]', "has no dataset"),
        ("DataSplits_DataDictionaries/dataset_split_in.json", '[{"patient_id": 1, "dataset": "x"}]', "is in 'x'"),
        ("other/clinical_data.json", "[]", "is another file than"),
    ],
)
def test_damaged_records_are_refused_in_one_line(root, file, content, said):
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(content)
    with pytest.raises(CohortError) as refused:
        read_hancock(root, "in")
    assert said in str(refused.value)


def test_what_is_missing_is_said(root, tmp_path):
    shutil.rmtree(root / "StructuredData")
    outcome, slides = imported(root, tmp_path / "slides.csv")
    assert list(slides["PrimaryTumor_HE_001"].attributes) == ["site"]
    assert len(outcome.warnings) == 2
    with pytest.raises(CohortError, match=r"no dataset_split_out\.json"):
        read_hancock(root, "out")
    with pytest.raises(CohortError, match="no such folder"):
        read_hancock(root / "gone")
    with pytest.raises(SettingsError, match="between 0 and 1"):
        imported(root, tmp_path / "x.csv", validation=1.0)
    shutil.rmtree(root / "WSI_PrimaryTumor_Annotations")
    with pytest.raises(CohortError, match=r"no slide is left to write \(no outlines \(11\)"):
        imported(root, tmp_path / "none.csv")
    assert len(reasons(tmp_path / "none.unmatched.csv")["no outlines"]) == 11


def test_the_first_columns_are_those_that_reports_look_at(root, tmp_path):
    pathology = root / "StructuredData" / "pathological_data.json"
    write_json(pathology, [{"patient_id": "001", "closest": 1.5, "grading": "G2", "number": 3.0, "label": ["a", "b"]}])
    _, slides = imported(root, tmp_path / "slides.csv")
    attributes = slides["PrimaryTumor_HE_001"].attributes
    assert list(attributes) == [
        "site", "age_at_initial_diagnosis", "sex", "grading", "closest", "number", "pathology_label",
    ]  # fmt: skip
    assert [attributes[name] for name in ("closest", "number", "pathology_label")] == ["1.5", "3", '["a", "b"]']
    assert FIRST_COLUMNS.index("grading") > FIRST_COLUMNS.index("sex")


def test_broken_slides_and_outlines_are_left_out_and_told(root, tmp_path, monkeypatch, capsys):
    (root / "WSI_PrimaryTumor_Larynx" / "PrimaryTumor_HE_005.svs").write_bytes(b"no slide")
    (root / "WSI_PrimaryTumor_Annotations" / "PrimaryTumor_HE_007.geojson").write_text("{")
    write_slide(root / "WSI_PrimaryTumor_Larynx" / "PrimaryTumor_HE_009.svs", 9, mpp=None)
    monkeypatch.chdir(tmp_path)
    assert vitrail("import", "hancock", root, "--check") == 2
    said = capsys.readouterr()
    assert "PrimaryTumor_HE_005.svs: broken slide: " in said.err
    assert "PrimaryTumor_HE_007.geojson: outlines that cannot be read: " in said.err
    assert "classes of outlines, and in how many files: Tumor (5), no class (4)" in said.out
    told = reasons(tmp_path / "slides.unmatched.csv")
    assert told["slide without um per pixel (taken nevertheless)"] == ["PrimaryTumor_HE_009.svs"]
    assert len(read_cohort(tmp_path / "slides.csv")) == 9


def test_a_study_begins_with_two_commands(unpacked, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert vitrail("import", "hancock", unpacked, "--split", "in") == 0
    assert "no validation: 1 of 8 training patients" in capsys.readouterr().err
    assert vitrail("init", "study", "--slides", "slides.csv", "--preset", "quick") == 0
    slides = read_cohort(tmp_path / "study" / "slides.csv")
    assert len(slides) == 11
    assert all(slide.slide.is_file() and slide.annotations.is_file() for slide in slides)
    before = (tmp_path / "slides.csv").read_bytes()
    assert vitrail("import", "hancock", unpacked, "--split", "in") == 0
    assert (tmp_path / "slides.csv").read_bytes() == before
    assert vitrail("import", "hancock", unpacked) == 2
    assert "is there already, and is another file" in capsys.readouterr().err
    assert (tmp_path / "slides.csv").read_bytes() == before
