"""`status`, `run --dry-run`, `clean`, `config` and `man`, as they are called."""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings
from pathlib import Path

import pytest

from helpers.command import vitrail
from vitrail import cli
from vitrail.cli.console import commands, walk
from vitrail.cli.manual import ENVIRONMENT, EXIT_CODES, FILES, manual_page
from vitrail.core.disk import folder_bytes, size_text
from vitrail.core.holder import holder_of
from vitrail.core.lock import locked
from vitrail.distribute.presence import Presence
from vitrail.settings.load import read_settings

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")


def content(folder):
    """Return every file with its size and when it was changed."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.name != ".lock"}


def states(values):
    return {stage["name"]: stage for stage in values["results"]["stages"]}


def test_a_dry_run_writes_nothing_and_says_what_would_be_done_and_why(answer, run):
    before = content(run)
    code, values, _ = answer("run", run, "--dry-run", "--until", "check", "--json")
    assert (code, {stage["state"] for stage in values["results"]["stages"]}) == (0, {"up to date"})
    assert values["lines"][-2:] == ["nothing to do", str(run)]
    changes = ("--set", "tiles.max_tumor=7", "--set", "seed=3")
    _, values, _ = answer("run", run, "--dry-run", "--until", "explain", *changes, "--json")
    found = states(values)
    assert found["tiles"]["reasons"] == ["seed 0 -> 3", "tiles.max_tumor 125 -> 7"]
    assert found["split"]["reasons"] == ["seed 0 -> 3", "tiles changes"]
    assert found["explain"]["reasons"][-1] == "tiles, split, classifier, segmenter change"
    assert values["results"]["seconds"] == pytest.approx(sum(stage["seconds"] for stage in found.values()))
    assert content(run) == before


def test_a_dry_run_names_slides_and_settings_that_are_at_their_default(answer, run):
    cohort = run.parent / "cohort"
    with (cohort / "S1.geojson").open("a") as file:
        file.write("\n")
    rows = (run / "slides.csv").read_text().splitlines()
    (run / "slides.csv").write_text("\n".join(row for row in rows if not row.startswith("S4,")) + "\n")
    _, values, _ = answer("run", run, "--dry-run", "--set", "slides.stain=macenko", "--json")
    assert states(values)["tiles"]["reasons"] == ['slides.stain default -> "macenko"']
    _, values, _ = answer("run", run, "--dry-run", "--json")
    found = states(values)
    assert found["tiles"]["reasons"] == ["slide or outlines changed: S1, slides no longer there: S4"]
    assert found["split"]["reasons"][0] == "patients, or their split in slides.csv: P4"
    assert "columns of slides.csv of: S4" not in found["report"]["reasons"]  # its version is a reason already
    assert values["results"]["seconds"] is None  # two stages were never made
    assert re.search("nuclei, shift, which were never finished here$", values["lines"][-2])


def test_a_dry_run_knows_what_would_go_on(answer, run):
    shutil.rmtree(run / "split")
    digest = None
    from vitrail.pipeline.stages import STAGES  # noqa: PLC0415 - the test's own look behind the command
    from vitrail.stage import chain, open_run, steps  # noqa: PLC0415

    for step in steps(chain(STAGES, "split"), open_run(run)):
        digest = step.digest
    attempt = run / ".partial" / f"split-{digest[:16]}"
    attempt.mkdir(parents=True)
    _, values, _ = answer("run", run, "--dry-run", "--until", "split", "--json")
    assert (states(values)["split"]["state"], states(values)["split"]["continues"]) == ("missing", True)
    assert "split: an interrupted attempt would go on: never finished" in values["lines"]
    _, values, _ = answer("status", run, "--json")
    assert f"interrupted: split; vitrail run {run} goes on from there" in values["lines"]
    (run / ".partial" / "split-0123456789abcdef").mkdir()  # of other settings
    _, values, _ = answer("clean", run, "--yes", "--json")
    assert [item["path"] for item in values["results"]["removed"]] == [str(run / ".partial" / "split-0123456789abcdef")]
    assert attempt.is_dir()
    _, values, _ = answer("clean", run, "--yes", "--interrupted", "--json")
    assert [item["path"] for item in values["results"]["removed"]] == [str(attempt)]
    assert not (run / ".partial").exists()


def test_the_status_of_a_run(answer, run, monkeypatch):
    monkeypatch.setattr("vitrail.tiles.cohort.file_digest", lambda _: pytest.fail("a slide was read"))
    before = content(run)
    code, values, _ = answer("status", run, "--json")
    found = states(values)
    assert code == 0
    assert {name for name, stage in found.items() if stage["state"] == "missing"} == {"nuclei", "shift"}
    assert found["report"]["state"] == "outdated"
    sizes = sum(path.stat().st_size for path in (run / "tiles").rglob("*") if path.is_file())
    assert (found["tiles"]["bytes"], found["tiles"]["bytes_are_all"]) == (sizes, True)
    assert found["tiles"]["made"].endswith("+00:00")
    results = values["results"]
    assert (results["at_work"], results["skipped"]) == ([], {})
    assert results["models"]["classifier"]["epochs"] == 2
    assert results["test"]["tiles"] == 56
    assert results["free_bytes"] > 0
    assert content(run) == before
    slides = run / "tiles" / "slides.csv"
    slides.write_text(slides.read_text().replace("S4,P4,6.221875,,", "S4,P4,6.221875,too blue,"))
    assert answer("status", run, "--json")[1]["results"]["skipped"] == {"S4": "too blue"}
    (run / "slides.csv").write_text("nonsense\n")
    code, values, _ = answer("status", run, "--json")
    assert (code, len(values["warnings"])) == (0, 1)  # it is said, and the rest, too


def test_who_is_at_work_is_named_and_nothing_is_cleaned_meanwhile(answer, run):
    assert holder_of(run) is None
    with locked(run):
        assert holder_of(run).startswith("process ")
        assert answer("status", run, "--json")[1]["results"]["at_work"] == [holder_of(run)]
        code, values, _ = answer("clean", run, "--yes", "--json")
        assert (code, values["error"]["type"]) == (2, "RunError")
        assert "at work in this run (process " in values["error"]["problem"]
    assert holder_of(run) is None
    assert (run / ".lock").read_text() == ""
    with Presence(run) as other:  # as commands with --shard are
        assert answer("status", run, "--json")[1]["results"]["at_work"] == [str(other.worker)]
        code, values, _ = answer("clean", run, "--yes", "--json")
        assert (code, values["error"]["problem"]) == (2, f"others share the work here: {other.worker}")


def test_sizes_are_added_up_within_bounds(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}").write_bytes(b"x" * 100)
    (tmp_path / "loop").symlink_to(tmp_path)
    size, is_all = folder_bytes(tmp_path)
    assert (500 < size < 500 + 1000, is_all) == (True, True)  # the link itself
    assert folder_bytes(tmp_path, 3)[1] is False
    assert folder_bytes(tmp_path / "nowhere") == (0, True)
    assert [size_text(10**power * 2) for power in (0, 3, 7, 9, 13)] == [
        *("2 bytes", "2 kB", "20.0 MB", "2.0 GB", "20000.0 GB"),
    ]


def test_clean_removes_what_is_named_and_asks(answer, run, capsys, monkeypatch):
    (run / "tiles" / ".images.npy.tmp").write_bytes(b"x" * 1000)
    assert vitrail("clean", run) == 2  # nobody can be asked
    assert "Add --yes, or --dry-run to see what goes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for reply, is_left in ((False, True), (True, False)):
        monkeypatch.setattr("typer.confirm", lambda *_, reply=reply, **__: reply)
        assert vitrail("clean", run) == 0
        assert (run / "tiles" / ".images.npy.tmp").exists() == is_left
    capsys.readouterr()
    before = content(run)
    code, values, _ = answer("clean", run, "--maps", "--stage", "search", "--dry-run", "--json")
    assert (code, values["results"]["bytes"]) == (0, 0)
    removable = {Path(item["path"]).name: item["bytes"] for item in values["results"]["removable"]}
    assert removable == {name: folder_bytes(run / way)[0] for name, way in MAPS_AND_SEARCH.items()}
    assert content(run) == before
    assert vitrail("clean", run, "--maps", "--stage", "search", "--yes") == 0
    assert not (run / "predictions" / "maps").exists()
    assert not (run / "search").exists()
    _, values, _ = answer("run", run, "--dry-run", "--until", "predict", "--json")
    assert states(values)["predict"]["state"] == "missing"  # never half of it for the whole
    assert vitrail("clean", run, "--stage", "nonsense", "--yes") == 2


MAPS_AND_SEARCH = {"maps": "predictions/maps", "search": "search"}


def test_clean_follows_no_link_out_of_the_run(run, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    (run / ".partial").mkdir()
    (run / ".partial" / "tiles-0123456789abcdef").symlink_to(outside)
    shutil.rmtree(run / "search")
    (run / "search").symlink_to(outside)
    assert vitrail("clean", run, "--stage", "search", "--interrupted", "--yes") == 0
    assert (outside / "precious").exists()


def test_the_cache_goes_where_it_is_named(answer, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert answer("clean", "--cache", "--yes", "--json")[1]["results"] == {"removed": [], "bytes": 0}
    (tmp_path / "vitrail" / "trials").mkdir(parents=True)
    (tmp_path / "vitrail" / "trials" / "a.json").write_bytes(b"x" * 100)
    (tmp_path / "other").mkdir()
    assert answer("clean", "--cache", "--yes", "--json")[1]["results"]["bytes"] == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "vitrail"]
    assert list((tmp_path / "vitrail").iterdir()) == []
    assert vitrail("clean", tmp_path, "--cache") == 2
    assert vitrail("clean") == 2


def test_defaults_are_written_into_new_runs_and_change_no_run_that_is_there(answer, run, user, capsys):
    study = (run / "study.toml").read_bytes()
    code, values, _ = answer(
        "config", "--set", "slides.mpp=0.25", "--set", "seed=7", "--set", "commands.init.preset=quick", "--json"
    )
    assert (code, values["results"]["path"]) == (0, str(user))
    cohort = run.parent / "cohort" / "slides.csv"
    _, values, _ = answer("init", run.parent / "new", "--slides", cohort, "--set", "seed=8", "--json")
    assert values["results"]["preset"] == "quick"
    assert values["results"]["user_defaults"] == ["seed=7", "slides.mpp=0.25"]
    assert values["lines"][0] == f"your defaults of {user} are in it: seed=7, slides.mpp=0.25"
    made = read_settings(run.parent / "new" / "study.toml")
    assert (made.slides.mpp, made.seed, made.encoder.weights) == (0.25, 8, "embedded")
    assert vitrail("tiles", run) == 0
    assert "tiles: up to date" in capsys.readouterr().err
    assert (run / "study.toml").read_bytes() == study
    assert answer("config", "--unset", "slides.mpp", "--json")[1]["results"]["settings"] == {"slides": {}, "seed": 7}


@pytest.mark.usefixtures("user")
def test_defaults_of_options(run, capsys):
    assert vitrail("config", "--set", "commands.quiet=true", "--set", "commands.predict.out=maps") == 0
    capsys.readouterr()
    assert vitrail("predict", run) == 0  # a default of one's own is no option that a run refuses
    said = capsys.readouterr()
    assert said.out == f"predict: {run / 'predictions'}\n"
    assert "up to date" not in said.err
    assert vitrail("predict", run, "--out", "elsewhere") == 2
    assert vitrail("tiles", run, "--verbose") == 0  # what is said on the command line wins
    assert "up to date" in capsys.readouterr().err


@pytest.mark.parametrize("shape", ["man", "groff"])
def test_the_manual_page_is_one_that_man_reads(shape, tmp_path, capsys):
    assert vitrail("man", "--out", tmp_path / "vitrail.1") == 0
    page = (tmp_path / "vitrail.1").read_text()
    assert vitrail("man") == 0
    printed = capsys.readouterr().out
    assert printed.endswith(page)
    tree = commands(cli.app)
    for path, command in walk(tree):
        name = " ".join(["vitrail", *path]).replace("-", "\\-")
        assert not path or f".SS {name}\n" in page
        for each in command.params:
            for option in [option for option in each.opts if option.startswith("--")]:
                assert option.replace("-", "\\-") in page, (path, option)
    if shutil.which(shape) is None:
        pytest.skip(f"there is no {shape}")
    command = {"man": ["man", "-l", "--warnings"], "groff": ["groff", "-man", "-Tascii", "-ww", "-z"]}[shape]
    read = subprocess.run([*command, tmp_path / "vitrail.1"], capture_output=True, text=True, check=True)  # noqa: S603
    assert read.stderr == ""


def test_the_page_of_the_documentation_says_the_same_as_the_manual():
    with warnings.catch_warnings():
        manual = manual_page(commands(cli.app))
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in PAGE
        assert f".TP\n\\fB{code}\\fR\n" in manual
    assert "~/.config/vitrail/config.toml" in FILES
    assert "~/.config/vitrail/config.toml" in PAGE
    assert "OMP_NUM_THREADS" in ENVIRONMENT
    named = {path[0] for path, _ in walk(commands(cli.app)) if path}
    assert [name for name in sorted(named) if f"`vitrail {name}" not in PAGE] == []
