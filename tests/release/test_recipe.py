"""What archives and other package managers are told is what the package says of itself."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
import yaml

import vitrail
from release.changelog import ROOT
from release.dependencies import RUN_TIME

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RECIPE = yaml.safe_load((ROOT / "release" / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
ZENODO = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))

CONDA_NAMES = {
    "torch": "pytorch",
    "openslide-bin": "openslide",
    "huggingface-hub": "huggingface_hub",
    "matplotlib": "matplotlib-base",  # without the windows
}


def as_conda(requirement):
    """Return a requirement as conda writes it."""
    name, bound = re.fullmatch(r"([\w-]+)(>=\S+)", requirement).groups()
    return f"{CONDA_NAMES.get(name, name)} {bound}"


def test_the_recipe_asks_for_what_the_package_asks_for():
    run = RECIPE["requirements"]["run"]
    assert run[0] == "python >=${{ python_min }}"
    assert f">={RECIPE['context']['python_min']}" == PROJECT["requires-python"]
    assert run[1:] == [as_conda(each) for each in PROJECT["dependencies"]]


def test_the_recipe_bounds_what_extras_bring():
    extras = [each for name in RUN_TIME if name for each in PROJECT["optional-dependencies"][name]]
    assert RECIPE["requirements"]["run_constraints"] == list(dict.fromkeys(as_conda(each) for each in extras))


def test_the_recipe_starts_the_same_program():
    scripts = [f"{name} = {target}" for name, target in PROJECT["scripts"].items()]
    assert RECIPE["build"]["python"]["entry_points"] == scripts
    assert RECIPE["about"]["summary"] == PROJECT["description"]
    assert RECIPE["about"]["license"] == PROJECT["license"]


@pytest.mark.parametrize("version", [RECIPE["context"]["version"], ZENODO["version"], CITATION["version"]])
def test_all_say_the_same_version(version):
    assert str(version) == vitrail.__version__


def test_the_archive_is_told_what_the_citation_says():
    assert ZENODO["title"] == CITATION["title"]
    assert ZENODO["upload_type"] == CITATION["type"] == "software"
    assert ZENODO["license"] == CITATION["license"] == PROJECT["license"]
    assert ZENODO["keywords"] == PROJECT["keywords"]
    names = [
        author.get("name") or f"{author['family-names']}, {author['given-names']}" for author in CITATION["authors"]
    ]
    assert [creator["name"] for creator in ZENODO["creators"]] == names
    assert [author["name"] for author in PROJECT["authors"]] == names
    assert [paper["identifier"] for paper in ZENODO["related_identifiers"]] == [CITATION["preferred-citation"]["doi"]]
