"""The recipes for many machines run as they are written, with a stand-in for the batch system."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.cohort import write_tiff
from helpers.mapped import SPEC, picture
from helpers.networks import random_network
from vitrail.distribute.choose import shard_of
from vitrail.models.spec import ClassifierSpec, SegmenterSpec
from vitrail.models.store import save_model

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def place(tmp_path):
    """A folder as the recipes have it: slides, a study with networks, and the command on the path."""
    small = SPEC | {"encoder": "test_efficientnet"}
    for spec in (ClassifierSpec(**small, dense=4, dropout=0), SegmenterSpec(**small, decoder=(8, 8, 8, 8, 8))):
        save_model(tmp_path / "study" / spec.task, random_network(spec), spec)
    (tmp_path / "slides").mkdir()
    for number in range(3):
        write_tiff(tmp_path / "slides" / f"S{number}.tif", picture()[: 256 + 64 * number], mpp=1.0)
    command = tmp_path / "bin" / "vitrail"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vitrail "$@"\n')
    command.chmod(0o755)
    return tmp_path


def start(script, place, **more):
    environment = os.environ | {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"} | more
    return subprocess.Popen(["bash", "-ec", script], cwd=place, env=environment, text=True, stderr=subprocess.PIPE)  # noqa: S603, S607 - our own page


def test_a_task_of_an_array_of_slurm_maps_what_nobody_else_does(place):
    """How several share the work is seen in tests/pipeline/test_shards.py."""
    script = next(block for block in blocks("bash") if "--array" in block)
    task = start(script, place, SLURM_ARRAY_TASK_ID="2", SLURM_ARRAY_TASK_COUNT="2")
    said = task.communicate(timeout=120)[1]
    assert task.returncode == 0, said
    summary = (place / "maps" / "summary.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in summary[1:]] == ["S0", "S1", "S2"]


def test_the_workflow_of_snakemake_names_every_part_once():
    workflow = next(block for block in blocks("python") if "rule " in block)
    shards = range(*map(int, re.search(r"range\((\d+), (\d+)\)", workflow).groups()))
    option = re.search(r"--shard (\S+)\"", workflow)[1]
    parts = [shard_of(option.replace("{wildcards.shard}", str(shard))) for shard in shards]
    assert parts == [(number, len(parts)) for number in range(1, len(parts) + 1)]
