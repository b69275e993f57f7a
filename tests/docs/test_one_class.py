"""docs/one_class.md: its commands take a cohort with one class, as HANCOCK's, from outlines to a report."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from shapely.geometry import box

from helpers.cohort import FAST, outline, write_cohort, write_outlines
from helpers.command import vitrail
from vitrail import evaluate
from vitrail.settings.load import Settings, change_settings

PAGE = (Path(__file__).parents[2] / "docs" / "one_class.md").read_text(encoding="utf-8")


def write_hancock(root):
    """Write slides that can be studied as HANCOCK lays them out: some outlines have no class, the others one."""
    cohort = write_cohort(root / "drawn", patients=4).parent
    for number, slide in enumerate(sorted(cohort.glob("*.tif")), 1):
        name, site = f"PrimaryTumor_HE_{number:03d}", "Larynx" if number % 2 else "OralCavity"
        for file in (root / f"WSI_PrimaryTumor_{site}" / f"{name}.svs", root / "WSI_PrimaryTumor_Annotations" / name):
            file.parent.mkdir(exist_ok=True)
        slide.rename(root / f"WSI_PrimaryTumor_{site}" / f"{name}.svs")
        outlines = root / "WSI_PrimaryTumor_Annotations" / f"{name}.geojson"
        write_outlines(outlines, outline("Tumor" if number % 2 else None, box(0, 0, 128, 224)))


@pytest.mark.usefixtures("undrawn")
def test_such_a_cohort_goes_from_folders_to_a_report_by_a_command_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_hancock(tmp_path / "HANCOCK")
    assert vitrail("import", "hancock", "HANCOCK", "--check") == 0
    for line in (line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()):
        assert vitrail(*shlex.split(line)[1:]) == 0, line
        if " init " in line:
            small = (*FAST, "classifier.epochs=1", "segmenter.epochs=1", "predict.explained=false")
            change_settings(tmp_path / "study" / "study.toml", small)
    rows = pd.read_parquet("study/tiles/tiles.parquet")
    assert rows.groupby(["label", "slide_id"]).size()["tumor"].tolist() == [28] * 4
    model = json.loads(Path("study/classifier/model.json").read_text())
    assert model["labels"] == {"unlabelled_tissue": "non_tumor", "margin_um": 100.0}
    evaluation = evaluate("study")
    assert "this holds only if the outlines are exhaustive" in evaluation.warnings[0]
    table = evaluation.tables["unlabelled_tissue"]
    assert table["tiles"].sum() == (rows["label"] == "non_tumor").sum()
    assert table["asked"].sum() == evaluation.metrics["unlabelled"]["asked"] > 0
    page = Path("study/report/index.html").read_text(encoding="utf-8")
    assert "this holds only if the outlines are exhaustive" in page
    assert "OralCavity" in page


def test_it_tells_of_settings_as_they_are():
    own = Settings().annotations
    told = dict(re.findall(r"\| `annotations\.(\w+)` \| (.*) \|", PAGE))
    assert own.model_dump().keys() > told.keys()
    assert f": {own.margin_um:g} um" in told.pop("margin_um")
    assert all(f"`{getattr(own, name)}`, the default" in words for name, words in told.items())
