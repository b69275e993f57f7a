"""README and documentation stay true: every command works, every example runs, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from helpers.cohort import FAST, tissue, write_cohort
from helpers.command import vitrail
from vitrail import demo
from vitrail.pipeline import doctor
from vitrail.settings.load import change_settings
from vitrail.viewer import launch
from vitrail.viewer.reviewing import Reviews
from vitrail.viewer.session import describe

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
NAMES = ("start", "study", "why", "look", "slides", "library", "extend")
PAGES = [README, *(ROOT / "docs" / f"{name}.md" for name in NAMES)]
WRITTEN = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def look_once(session, *, place="", **_):
    """Stand for the server: whoever opens its page sees the first slide, and judges the first case of a queue."""
    reviews, first = Reviews(session), next(iter(session.slides.values()))
    assert describe(first, session)["problems"] == []
    if place:
        case = reviews.next_case(name := place.removeprefix("#review="), "Ada")
        reviews.judge(name, {"case": case["case"], "rater": "Ada", "answer": "unsure", "seconds": 1.0})
        if "map" not in case:
            more = reviews.next_case(name, "Ada")["case"]
            reviews.judge(name, {"case": more, "rater": "Ada", "answer": "tumor", "seconds": 1.0})


def test_every_command_and_example_works(tmp_path, monkeypatch):
    """One folder for all pages: what a page begins, the next one finds finished."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"PATIENTS": 4, "SIDE_PX": 1024, "NEW_PX": 1024, "SETTINGS": FAST}.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(launch, "serve", look_once)
    monkeypatch.setattr(doctor, "NETWORKS", ())
    monkeypatch.setattr(doctor, "SLIDE_PX", 1024)
    write_cohort(tmp_path)
    Image.fromarray(tissue(0, 32)).save(tmp_path / "tile.png")
    ran = set()
    for page in PAGES:
        lines = [line.partition("#")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]
        for command in [line for line in lines if line.startswith("vitrail") and line not in ran]:
            with monkeypatch.context() as patch:
                if " study" in command:  # the demo's report is drawn, which is enough
                    patch.setattr("vitrail.report.page.save", lambda *_: '<?xml version="1.0"?><svg></svg>')
                assert vitrail(*shlex.split(command)[1:]) == 0, f"{page.name}: {command}"
            ran.add(command)
            if " init " in command:
                change_settings(tmp_path / "study" / "study.toml", FAST)
        names = {}
        for block in blocks(page, "python"):
            exec(compile(block, page.name, "exec"), names)  # noqa: S102 - our own pages
    assert len(ran) >= 15
    assert len(list((tmp_path / "demo" / "study" / "report" / "figures").glob("*.png"))) > 15
    table = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
    for folder in re.findall(r"^\| `(\w+)/`", table, re.MULTILINE):
        made = "disagreement" if folder == "review" else "stage.json"  # a queue is no stage
        assert (tmp_path / "study" / folder / made).exists(), folder


def test_the_readme_is_a_page_and_its_examples_are_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    assert len(blocks(README, "python")) == 3
    assert all(len(block.splitlines()) <= 10 for block in blocks(README, "python"))


@pytest.mark.parametrize("page", WRITTEN, ids=[page.name for page in WRITTEN])
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    made = {f"_generated/{name}.md" for name in ("settings", "own_network", "study", "cohort")}  # by `make docs`
    # CONTRIBUTING.md is read as a page of docs/, too
    folders = [page.parent, ROOT / "docs"]
    files = [link for link in links if ":" not in link and link not in made]
    assert [link for link in files if not any((folder / link).exists() for folder in folders)] == []


@pytest.mark.parametrize("target", ["demo", "test", "docs"])
def test_the_commands_of_make_are_there(target):
    assert f"make {target}" in README.read_text(encoding="utf-8")
    shown = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603, S607 - our own
    assert {"demo": "vitrail demo", "test": "pytest", "docs": "sphinx"}[target] in shown.stdout
