from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from vitrail.errors import RunError
from vitrail.evaluation.groups import count_patients, patient_groups
from vitrail.evaluation.load import cohort_table, evaluate
from vitrail.slides.cohort import CohortSlide


def test_attributes_become_numbers_where_all_are():
    entries = [
        CohortSlide(slide_id=f"S{i}", patient_id=f"P{i}", slide=Path("s"), annotations=Path("a"), attributes=cells)
        for i, cells in enumerate(
            {"age": "" if i == 3 else str(40 + 3 * i), "stage": "IV" if i % 2 else "", "grade": "123"[i % 3],
             "note": "", "packs": ["9", "10", ""][i % 3], "code": "inf" if i else "nan", "mpp": "a scanner's"}
            for i in range(12)
        )
    ]  # fmt: skip
    cut = pd.DataFrame({"slide_id": [entry.slide_id for entry in entries], "patient_id": "", "mpp": "0.5"})
    cut = cut.assign(skipped="", tumor_tiles=1, non_tumor_tiles=2, patient_id=[entry.patient_id for entry in entries])
    slides = cohort_table(cut, tuple(entries), cut.assign(split="test"))
    assert slides["age"].isna().tolist() == [i == 3 for i in range(12)]
    assert slides["age"].max() == 73
    assert slides["mpp"].tolist() == [0.5] * 12
    assert slides["code"].tolist() == ["nan"] + ["inf"] * 11
    bars = {name: count_patients(groups, slides).to_dict() for name, groups in patient_groups(slides).items()}
    assert bars["age"] == {"40 to 48": 3, "48 to 56": 2, "56 to 64": 2, "64 to 72": 3, "72 to 80": 1, "not known": 1}
    assert bars["stage"] == {"IV": 6, "not known": 6}
    assert list(bars["packs"]) == ["9", "10", "not known"]  # as numbers, not as words
    assert bars["grade"] == {"1": 4, "2": 4, "3": 4}
    assert "note" not in bars


def test_a_cohort_without_attributes():
    entries = (CohortSlide(slide_id="S", patient_id="P", slide=Path("s"), annotations=Path("a")),)
    cut = pd.DataFrame({"slide_id": ["S"], "patient_id": "P", "mpp": "0.5", "skipped": "", "split": "train"})
    slides = cohort_table(cut.assign(tumor_tiles=1, non_tumor_tiles=2), entries, cut)
    assert slides.columns.tolist() == ["slide_id", "patient_id", "split", "mpp", "tumor_tiles", "non_tumor_tiles"]


def test_a_run_without_predictions_says_what_is_missing(tmp_path):
    with pytest.raises(RunError, match="not a run folder"):
        evaluate(tmp_path)
    (tmp_path / "study.toml").write_text("seed = 0\n")
    with pytest.raises(RunError, match="vitrail run"):
        evaluate(tmp_path)


def test_numbers_need_neither_figures_nor_networks():
    """Measure a made-up study in a fresh process, and see what that has imported."""
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import vitrail.evaluation.load\n"
        "from helpers.numbers import evaluation_data\n"
        "made = evaluation_data()\n"
        "made.metrics, made.tables\n"
        "print(sorted({'matplotlib', 'torch', 'jinja2'} & set(sys.modules)), "
        "[name for name in sys.modules if name.startswith('vitrail.report')])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)  # noqa: S603 - our own
    assert done.stdout.strip() == "[] []"
