"""Slides shared by several commands: the bytes of a single one, although some are killed and some come late."""

from __future__ import annotations

import os
import subprocess
import sys

import pandas as pd
import pytest
import torch

from helpers.cohort import write_tiff
from helpers.command import vitrail
from helpers.mapped import GLASS, SPEC, picture, write_slide
from vitrail.distribute.choose import shard_of
from vitrail.distribute.claims import Claims
from vitrail.errors import SettingsError
from vitrail.models.spec import ClassifierSpec, SegmenterSpec
from vitrail.models.store import build, save_model

SIDE_BY_SIDE = """
import os, sys
from pathlib import Path
from vitrail import cli
from vitrail.inference import map_slide
from vitrail.pipeline import predict_slides

slides, arguments, root = sys.argv[1].split(","), sys.argv[2].split(","), Path(sys.argv[3])
arguments = [argument for argument in arguments if argument]

def begin(folder, shard, dies=False):
    pid = os.fork()  # before torch has threads: modules are imported once
    if pid:
        return pid
    code = 1
    try:
        log = os.open(root / f"{folder}-{(shard or '').replace('/', '-')}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        if dies:
            map_slide.write_class_map = lambda *_: os.kill(os.getpid(), 9)
        more = ["--shard", shard] if shard else []
        cli.main([*arguments, *slides, "--out", str(root / folder), *more])
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)

def end(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

print(end(begin("plain", None)))
victim, other = begin("shards", "1/2", dies="--segmenter" in arguments), begin("shards", "2/2")
first = end(victim)
print(first, *map(end, (other, begin("shards", "1/3"))))
"""


def together(tmp_path, slides, arguments):
    """Run a command alone and as shards, and return the exit codes: alone; as shards, the first of which is killed."""
    texts = ",".join(map(str, slides)), ",".join(map(str, arguments)), str(tmp_path)
    ended = subprocess.run(  # noqa: S603 - the program above
        [sys.executable, "-c", SIDE_BY_SIDE, *texts], capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    return [[int(code) for code in line.split()] for line in ended.stdout.splitlines()]


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
    alone, shards = together(tmp_path, slides, ["predict", *models, *fast])
    assert alone == [2]  # one slide is skipped
    assert shards == [-9, 2, 2]
    assert contents(tmp_path / "shards") == contents(tmp_path / "plain")
    assert {path.name for path in (tmp_path / "shards").iterdir()} == {
        path.name for path in (tmp_path / "plain").iterdir()
    }
    logs = [tmp_path / f"{name}.txt" for name in ("plain-", "shards-2-2", "shards-1-3")]
    for word in ("warning:", "skipped:"):
        assert said(logs[0], word) == said(logs[1], word) == said(logs[2], word)
    assert said(logs[0], "skipped:")


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
