"""What runs on the code host: pinned, with no more rights than it needs, and on the Pythons that are promised."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec

import pytest
import yaml

from release.changelog import ROOT

FOLDER = ROOT / ".github" / "workflows"
FLOWS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.yml")}
JOBS = [(flow, name) for flow, content in FLOWS.items() for name in content["jobs"]]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def steps(flow, job):
    return FLOWS[flow]["jobs"][job]["steps"]


@pytest.mark.parametrize(("flow", "job"), JOBS)
def test_actions_are_those_of_one_major_version(flow, job):
    for action in [step["uses"] for step in steps(flow, job) if "uses" in step]:
        assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", action), action


@pytest.mark.parametrize(("flow", "job"), JOBS)
def test_what_jobs_run_is_there(flow, job):
    commands = "\n".join(step.get("run", "") for step in steps(flow, job))
    for module in re.findall(r"python -m (release\.\w+)", commands):
        assert find_spec(module), module
    for path in re.findall(r"\b(?:tests|\.ci)/[\w./]+", commands):
        assert (ROOT / path).exists(), path
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in re.findall(r"\bmake (\w+)", commands))


def test_rights_are_of_jobs_and_few():
    assert all(content["permissions"] == {"contents": "read"} for content in FLOWS.values())
    rights = {(flow, job): FLOWS[flow]["jobs"][job].get("permissions", {}) for flow, job in JOBS}
    writing = {job: {right for right, level in own.items() if level == "write"} for (_, job), own in rights.items()}
    assert {job: own for job, own in writing.items() if own} == {
        "build": {"id-token", "attestations"},
        "publish": {"id-token"},
        "attach": {"contents"},
    }


def test_only_what_was_built_checked_and_tried_is_published_and_by_a_tag_alone():
    jobs = FLOWS["release"]["jobs"]
    assert set(jobs["publish"]["needs"]) == {"build", "try"}
    assert jobs["publish"]["if"] == "github.event_name == 'push'"
    assert jobs["publish"]["environment"] == "release"
    assert FLOWS["release"][True]["push"] == {"tags": ["v*"]}  # YAML takes `on` for true
    assert "publish" in jobs["attach"]["needs"]
    built = "\n".join(step.get("run", "") for job in jobs for step in steps("release", job))
    assert built.count("-m build") == 1
    assert "password" not in (FOLDER / "release.yml").read_text(encoding="utf-8").replace("no password", "").replace(
        "without a password", ""
    )


def test_every_python_that_is_promised_is_tested():
    promised = [entry.rpartition(" ")[2] for entry in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", entry)]
    assert FLOWS["test"]["jobs"]["test"]["strategy"]["matrix"]["python"] == promised
    assert f">={promised[0]}" == PROJECT["requires-python"]
    tried = {entry["python"] for entry in FLOWS["release"]["jobs"]["try"]["strategy"]["matrix"]["include"]}
    assert tried == {promised[0], promised[-1]}
