"""Slides shared by several commands: the bytes of a single one, although some are killed and some come late."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch

from helpers.cohort import FAST, write_cohort, write_tiff
from helpers.command import vitrail
from helpers.mapped import GLASS, SPEC, picture, write_slide
from vitrail.core.progress import Silent
from vitrail.distribute.choose import shard_of
from vitrail.distribute.claims import Claims
from vitrail.errors import RunError, SettingsError
from vitrail.models.spec import ClassifierSpec, SegmenterSpec
from vitrail.models.store import build, save_model
from vitrail.pipeline.run import bring_run, new_run
from vitrail.settings.load import read_settings

SIDE_BY_SIDE = """
import json, os, sys
from vitrail import cli
from vitrail.inference import map_slide
from vitrail.pipeline import predict_slides
from vitrail.tiles import extract

plan, root = json.loads(sys.argv[1]), sys.argv[2]

def begin(name, *arguments, dies=None):
    pid = os.fork()  # before torch has threads: modules are imported once
    if pid:
        return pid
    code = 1
    try:
        log = os.open(f"{root}/{name}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        if dies:
            module, name = dies.split()
            setattr(globals()[module], name, lambda *_, **__: os.kill(os.getpid(), 9))
        cli.main(list(arguments))
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)

def end(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

alone = end(begin("alone", *plan["alone"]))
victim = end(begin("victim", *plan["shards"], "--shard", "1/2", dies=plan["dies"]))
other = begin("other", *plan["shards"], "--shard", "2/2")
print(json.dumps([alone, victim, end(begin("late", *plan["shards"], "--shard", "1/3")), end(other)]))
"""


def together(tmp_path, alone, shards, dies):
    """Run a command alone; then as shards: one that kills itself where it calls `dies`, and two that find its claim.

    Returns the exit codes of the single command, the victim, the late one and the other.
    """
    plan = {"alone": [*map(str, alone)], "shards": [*map(str, shards)], "dies": dies}
    ended = subprocess.run(  # noqa: S603 - the program above
        [sys.executable, "-c", SIDE_BY_SIDE, json.dumps(plan), str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def contents(folder):
    """Return the bytes of all files, but for those that tell how long it took."""
    summary = pd.read_csv(folder / "summary.csv").drop(columns="seconds").to_csv()
    files = [path for path in folder.iterdir() if path.is_file() and path.suffix not in {".json", ".csv"}]
    return {path.name: path.read_bytes() for path in files} | {"summary.csv": summary}


def said(path, word):
    return sorted(line for line in path.read_text().splitlines() if line.startswith(word))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_shards_map_slides_as_one_command_does_although_one_is_killed(tmp_path):
    for number, spec in enumerate((
        ClassifierSpec(**SPEC | {"encoder": "test_efficientnet"}, dense=4, dropout=0),
        SegmenterSpec(**SPEC | {"encoder": "test_efficientnet"}, decoder=(4, 4, 4, 4, 4)),
    )):  # fmt: skip
        torch.manual_seed(number)
        save_model(tmp_path / spec.task, build(spec), spec)
    slides = [write_slide(tmp_path / "slides" / f"{name}.tif") for name in "AB"]
    bare = picture()
    bare[:] = GLASS
    slides.append(write_tiff(tmp_path / "slides" / "bare.tif", bare, mpp=1.0))
    models = ["--classifier", tmp_path / "classifier", "--segmenter", tmp_path / "segmenter"]
    fast = ["--set", "predict.artefacts=false", "--set", "compute.engine=torch", "--set", "predict.window=1"]
    command = ["predict", *slides, *models, *fast, "--out"]
    alone, shards = [*command, tmp_path / "plain"], [*command, tmp_path / "shards"]
    # one slide is skipped
    assert together(tmp_path, alone, shards, "map_slide write_class_map") == [2, -9, 2, 2]
    assert contents(tmp_path / "shards") == contents(tmp_path / "plain")
    assert {path.name for path in (tmp_path / "shards").iterdir()} == {
        path.name for path in (tmp_path / "plain").iterdir()
    }
    logs = [tmp_path / f"{name}.txt" for name in ("alone", "other", "late")]
    for word in ("warning:", "skipped:"):
        assert said(logs[0], word) == said(logs[1], word) == said(logs[2], word)
    assert said(logs[0], "skipped:")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_shards_cut_tiles_as_one_command_does_although_one_is_killed(tmp_path):
    cohort = write_cohort(tmp_path / "cohort", patients=4)
    (tmp_path / "cohort" / "S1.tif").write_text("no slide")
    for name in ("plain", "shards"):
        new_run(tmp_path / name, cohort, "quick", FAST)
    shards = ["tiles", tmp_path / "shards", "--set", "tiles.side_px=32"]
    assert together(tmp_path, ["tiles", tmp_path / "plain"], shards, "extract replacing") == [2, -9, 2, 2]
    files = {path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*")}
    assert {path.relative_to(tmp_path / "shards") for path in (tmp_path / "shards").rglob("*")} == files
    for name in ("images.npy", "masks.npy", "tiles.parquet", "slides.csv"):
        assert (tmp_path / "shards" / "tiles" / name).read_bytes() == (tmp_path / "plain" / "tiles" / name).read_bytes()
    logs = [tmp_path / f"{name}.txt" for name in ("alone", "other", "late")]
    assert said(logs[0], "skipped:") == said(logs[1], "skipped:") == said(logs[2], "skipped:") != []


@pytest.mark.parametrize("text", ["0/16", "17/16", "3", "3/", "-1/2", "1/0", "a/b"])
def test_a_shard_that_is_none_is_one_line(text):
    with pytest.raises(SettingsError) as caught:
        shard_of(text)
    assert "from 1" in str(caught.value) or "the third of sixteen" in str(caught.value)


def test_shards_are_counted_from_1():
    assert (shard_of("1/16"), shard_of(" 16 / 16 ")) == ((1, 16), (16, 16))


def test_what_is_not_spread_is_refused_and_nothing_is_made(tmp_path, capfd):
    (tmp_path / "run").mkdir()
    assert vitrail("predict", tmp_path / "run", "--shard", "1/2") == 2
    assert "--shard: the predictions of a run are made by one process" in capfd.readouterr().err
    assert vitrail("nuclei", tmp_path / "run", "--scheduler", "tcp://x:1") == 2
    assert "--scheduler: the nuclei of a run" in capfd.readouterr().err
    slide = write_slide(tmp_path / "A.tif")
    both = ("--shard", "1/2", "--scheduler", "tcp://x:1")
    assert vitrail("nuclei", slide, "--out", tmp_path / "out", *both) == 2
    assert "each spreads the work" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_command_without_shard_beside_shards_is_one_line(tmp_path, capfd):
    slide = write_slide(tmp_path / "A.tif")
    with Claims(tmp_path / "out"):
        assert vitrail("nuclei", slide, "--out", tmp_path / "out") == 2
    assert "share the work here: process" in capfd.readouterr().err


def test_shards_with_other_settings_are_refused(tmp_path, capfd):
    slide = write_slide(tmp_path / "A.tif")
    with Claims(tmp_path / "out") as claims:
        claims.agree("other")
        assert vitrail("nuclei", slide, "--out", tmp_path / "out", "--shard", "1/2") == 2
    assert "is at work here with other settings" in capfd.readouterr().err


def test_settings_of_a_run_change_only_where_nobody_works_with_others(tmp_path):
    run = tmp_path / "run"
    new_run(run, write_cohort(tmp_path / "cohort", patients=3), "quick", FAST)
    with Claims(run) as claims:
        bring_run(run, "tiles", ["tiles.side_px=48"], Silent(), claims)
        assert read_settings(run / "study.toml").tiles.side_px == 48
        with Claims(run) as other:
            text = (run / "study.toml").read_text()
            with pytest.raises(SettingsError, match="others are at work"):
                bring_run(run, "tiles", ["tiles.side_px=32"], Silent(), other)
            assert (run / "study.toml").read_text() == text
            bring_run(run, "tiles", ["tiles.side_px=48"], Silent(), other)
            bring_run(run, "tiles", ["compute.workers=2"], Silent(), other)  # changes no result
        (run / "slides.csv").write_text((run / "slides.csv").read_text() + "\n")
        with Claims(run) as other, pytest.raises(RunError, match="at work here with other settings, inputs"):
            bring_run(run, "tiles", [], Silent(), other)
        with pytest.raises(RunError, match="share the work here"):
            bring_run(run, "tiles", [], Silent())
