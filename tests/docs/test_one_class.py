"""docs/one_class.md: its commands take a cohort with one class, as HANCOCK's, from outlines to a report."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pandas as pd
from shapely.geometry import box

from helpers.cohort import FAST, outline, write_cohort, write_outlines
from helpers.command import vitrail
from vitrail import evaluate
from vitrail.settings.load import Settings, change_settings

PAGE = (Path(__file__).parents[2] / "docs" / "one_class.md").read_text(encoding="utf-8")


def test_its_commands_work_on_such_a_cohort(tmp_path, monkeypatch):
    """As far as the predictions: what comes after them is the same for every study."""
    monkeypatch.chdir(tmp_path)
    write_cohort(tmp_path, patients=4)
    for number, path in enumerate(sorted(tmp_path.glob("*.geojson"))):
        write_outlines(path, outline("Tumor" if number % 2 else None, box(0, 0, 128, 224)))
    for line in (line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()):
        more = ["--until", "predict"] if " run " in line else []
        assert vitrail(*shlex.split(line)[1:], *more) == 0, line
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


def test_it_tells_of_settings_as_they_are():
    own = Settings().annotations
    told = dict(re.findall(r"\| `annotations\.(\w+)` \| (.*) \|", PAGE))
    assert own.model_dump().keys() > told.keys()
    assert f": {own.margin_um:g} um" in told.pop("margin_um")
    assert all(f"`{getattr(own, name)}`, the default" in words for name, words in told.items())
