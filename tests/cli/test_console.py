"""What every command says: one JSON object to a script, little or much to a person, one line of an error."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.cohort import tissue
from helpers.command import vitrail
from vitrail import __version__, cli
from vitrail.cli.console import SECTIONS, Console, commands, json_text, walk
from vitrail.pipeline import doctor
from vitrail.pipeline.outcome import Outcome
from vitrail.viewer import launch

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
SCHEMA = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])
LEAVES = [path for path, command in walk(commands(cli.app)) if not hasattr(command, "commands")]


def fits(values):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(values, SCHEMA)
    return True


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_answers_in_json_wherever_the_option_stands(answer, path):
    before, behind = ("--json", *path, "--zzz"), (*path, "--zzz", "--json")
    code, values, said = answer(*before)
    assert (code, values["ok"], values["command"]) == (2, False, " ".join(path))
    assert fits(values)
    assert values["error"] == {
        "type": "UsageError",
        "where": " ".join(path),
        "problem": "No such option: --zzz",
        "cure": f"See: vitrail {' '.join(path)} --help",
    }
    assert said == f"vitrail: {' '.join(path)}: No such option: --zzz. See: vitrail {' '.join(path)} --help.\n"
    assert answer(*behind) == (code, values, said)


@pytest.mark.parametrize("until", ["tiles", "classifier", "segmenter", "predict", "explain"])
def test_each_stage_that_is_up_to_date(answer, run, until):
    code, values, said = answer(until, run, "--json")
    stage = "check" if until == "explain" else until
    folder = {"predict": "predictions", "check": "checks"}.get(stage, stage)
    assert (code, values["command"]) == (0, until)
    assert fits(values)
    assert values["lines"] == [f"{stage}: {run / folder}"]
    assert {"run": str(run), "until": stage, "made": [], "slides": 5}.items() <= values["results"].items()
    assert Path(values["results"]["folder"], "stage.json").is_file()
    assert f"{stage}: up to date" in said
    if until == "predict":
        maps = [Path(path).name for path in values["results"]["maps"]]
        assert maps == ["S3.classes.ome.tiff", "S3.explanations.ome.tiff"]


def test_a_report(answer, run, monkeypatch):
    monkeypatch.setattr("vitrail.pipeline.run.bring_up_to_date", lambda *_: ["report"])
    for command in (["run", run], ["report", run]):
        _, values, _ = answer("--json", *command)
        assert fits(values)
        results, metrics = values["results"], json.loads((run / "report" / "metrics.json").read_text())["test"]
        assert (results["made"], results["metrics"]) == (["report"], str(run / "report" / "metrics.json"))
        assert results["test"]["classifier"] == {key: metrics["classifier"][key] for key in ("accuracy", "auc")}


def test_a_new_run(answer, run, user):
    cohort = run.parent / "cohort" / "slides.csv"
    code, values, _ = answer("init", run.parent / "new", "--slides", cohort, "--preset", "quick", "--json")
    assert (code, fits(values)) == (0, True)
    facts = {"slides": 5, "patients": 5, "preset": "quick", "user_defaults": []}
    assert facts.items() <= values["results"].items()
    assert Path(values["results"]["study"]).is_file()
    assert not user.exists()
    _, values, _ = answer("init", run.parent / "newer", "--from", run, "--json")
    assert values["results"]["from"] == str(run)


def test_a_picture_explained(answer, run, tmp_path):
    Image.fromarray(tissue(0, 32)).save(tmp_path / "tile.png")
    model = run / "classifier"
    picture = ("explain", tmp_path / "tile.png", "--model", model, "--out", tmp_path / "why", "--method", "gradcam")
    code, values, _ = answer("--json", *picture)
    assert (code, fits(values)) == (0, True)
    (own,) = values["results"]["maps"].values()
    stored = np.load(own["path"])
    assert (own["minimum"], own["maximum"]) == (float(stored.min()), float(stored.max()))
    assert 0 <= values["results"]["score"] <= 1
    assert Path(values["results"]["overlay"]).is_file()


def test_slides_mapped_and_slides_skipped(answer, run, tmp_path):
    slide, out = run.parent / "cohort" / "S0.tif", tmp_path / "maps"
    (tmp_path / "none.tif").write_bytes(b"no slide")
    models = ("--classifier", run / "classifier", "--out", out)
    code, values, _ = answer("predict", slide, tmp_path / "none.tif", *models, "--json")
    assert (code, values["ok"], fits(values)) == (2, False, True)
    assert "error" not in values  # the rest is done
    assert [line for line in values["skipped"] if "none.tif" in line] == values["skipped"] != []
    files = values["results"]["slides"]["S0"]["files"]
    assert set(files) == {"tiles", "facts", "geojson", "picture"}
    assert all(Path(path).is_file() for path in files.values())
    assert (values["results"]["mapped"], values["results"]["summary"]) == (1, str(out / "summary.csv"))
    code, values, _ = answer("nuclei", slide, "--out", out, "--json")  # too coarse for nuclei
    assert (code, values["results"]["measured"], len(values["skipped"]), fits(values)) == (2, 0, 1, True)


def test_exports(answer, run, tmp_path, monkeypatch):
    code, values, _ = answer("export", "wsinfer", run / "nowhere", "--out", tmp_path, "--json")
    assert (code, values["command"], values["error"]["type"]) == (2, "export wsinfer", "ModelError")
    assert fits(values)
    monkeypatch.setattr("vitrail.interop.wsinfer.export_wsinfer", lambda _, out: out / "model.pt")
    code, values, _ = answer("export", "wsinfer", run / "classifier", "--out", tmp_path, "--json")
    assert (code, values["results"], fits(values)) == (0, {"path": str(tmp_path / "model.pt")}, True)


def test_pages_that_are_served_and_judgements_exported(answer, run, monkeypatch):
    def serve(session, *, say, **_):
        say(f"{len(session.slides)} slides at http://127.0.0.1:1/token/")
        assert json.loads(written.getvalue())["results"]["address"] == "http://127.0.0.1:1/token/"  # at once
        say("Ctrl-C ends it.")

    monkeypatch.setattr(launch, "serve", serve)
    for command in (["view", run], ["review", run, "--by", "random", "--cases", 2]):
        written = io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", written)
            assert vitrail("--json", *command) == 0
        assert fits(json.loads(written.getvalue()))
    code, values, _ = answer("review", run, "--by", "random", "--export", run / "said", "--json")
    assert (code, fits(values)) == (0, True)
    assert all(Path(path).is_file() for path in values["results"]["files"])


def test_this_machine_and_the_demo(answer, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "NETWORKS", ())
    monkeypatch.setattr(doctor, "_rates", lambda _: {"Vitrail": 2.0, "OpenSlide": 1.0})
    code, values, said = answer("doctor", "--json")
    assert (code, fits(values)) == (0, True)
    assert set(values["results"]) == {"findings", "choices", "advice"}
    assert "Benchmark" in said
    assert "forgot 0 choices" in answer("doctor", "--forget", "--json")[1]["lines"][0]
    monkeypatch.setattr("vitrail.demo.demo_run", lambda folder, _: Outcome(results={"run": folder / "study"}))
    assert answer("demo", tmp_path, "--json")[1]["results"] == {"run": str(tmp_path / "study")}


def test_a_search_that_is_finished(answer, monkeypatch, tmp_path):
    found = Outcome(lines=["x"], results={"chosen": {"tiles.side_px": 32}})
    monkeypatch.setattr("vitrail.pipeline.search.search_run", lambda *_: found)
    code, values, _ = answer("search", tmp_path, "--json")
    assert (code, values["results"], fits(values)) == (0, {"chosen": {"tiles.side_px": 32}}, True)


def test_a_fault_is_a_traceback_and_still_an_object(capsys, monkeypatch, tmp_path):
    def fail(*_):
        raise KeyError("x")

    monkeypatch.setattr("vitrail.pipeline.status.run_status", fail)
    with pytest.raises(KeyError):
        cli.main(["status", str(tmp_path), "--json"])
    values = json.loads(capsys.readouterr().out)
    assert (values["ok"], values["error"]["type"], fits(values)) == (False, "KeyError", True)


def test_what_libraries_print_does_not_spoil_the_object(answer, monkeypatch, tmp_path):
    def chatty(*_):
        print("downloading")  # noqa: T201 - as a library may
        return Outcome(
            results={"nan": float("nan"), "number": np.float32(0.5), "array": np.arange(2), "path": tmp_path}
        )

    monkeypatch.setattr("vitrail.pipeline.status.run_status", chatty)
    stdout = sys.stdout
    _, values, said = answer("status", tmp_path, "--json")
    assert values["results"] == {"nan": None, "number": 0.5, "array": [0, 1], "path": str(tmp_path)}
    assert said == "downloading\n"
    assert sys.stdout is stdout


def test_who_only_helps_the_process_that_answers_says_nothing(monkeypatch, capsys, tmp_path):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setattr("vitrail.training.torchrun.run_together", lambda _: sys.exit(0))
    assert vitrail("status", tmp_path, "--json") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("user")
def test_a_reader_that_has_had_enough_is_no_fault(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        assert vitrail("config", "--json") == 0
    assert capsys.readouterr() == ("", "")


def test_the_text_is_json_that_every_reader_takes():
    with pytest.raises(ValueError, match="Out of range"):
        json.dumps(float("inf"), allow_nan=False)
    assert json.loads(json_text({1: (float("inf"), {"\udcff"})})) == {"1": [None, ["\udcff"]]}


def test_a_quiet_command_says_its_result_alone(run, capsys):
    assert vitrail("tiles", run, "-q") == 0
    said = capsys.readouterr()
    assert said.out == f"tiles: {run / 'tiles'}\n"
    assert said.err == "warning: the setting predict.mirror is now called predict.test_time_augmentation\n"
    assert vitrail("-q", "tiles", run, "--set", "tiles.side_px=0") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_verbose_command_says_what_is_decided_and_why(run, capsys):
    shutil.rmtree(run / "split")
    filters = warnings.filters[:]
    assert vitrail("run", run, "--until", "split", "-v", "--set", "tiles.max_tumor=7") == 0
    said = capsys.readouterr().err
    assert "vitrail.stage: tiles: made now: tiles.max_tumor 125 -> 7\n" in said
    assert "vitrail.stage: split: made now: it was never made\n" in said
    assert "vitrail.tiles.cohort: tiles: 0 slides unchanged, 5 to cut\n" in said
    assert re.search(r"S0.tif: read by Vitrail's TIFF reader|S0.tif: read by OpenSlide", said)
    assert re.search(r"vitrail.stage: split: made in \S+ s\n", said)
    assert vitrail("tiles", run) == 0
    assert "vitrail." not in capsys.readouterr().err  # the next command is as it was
    assert warnings.filters == filters


def test_the_last_of_quiet_and_verbose_counts():
    with Console() as speaker:
        speaker.be_verbose()
        speaker.be_quiet()
        assert (speaker.is_quiet, speaker.is_verbose) == (True, False)
        speaker.be_verbose()
        assert (speaker.is_quiet, speaker.is_verbose) == (False, True)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--zzz"], "command line: No such option: --zzz. See: vitrail --help."),
        (["tiles"], "tiles: Missing argument 'RUN'. See: vitrail tiles --help."),
        (["frobnicate"], "command line: No such command 'frobnicate'. See: vitrail --help."),
    ],
)
def test_a_command_line_that_is_not_understood_is_one_line(capsys, arguments, line):
    assert vitrail(*arguments) == 2
    assert capsys.readouterr().err == f"vitrail: {line}\n"


def test_the_help_names_every_command_in_a_section(capsys):
    assert vitrail("--help") == 0
    said = capsys.readouterr().out
    names = [name for _title, own in SECTIONS for name in own]
    assert len(names) == len(set(names))
    assert set(names) <= {path[0] for path in LEAVES} | {"import"}
    assert [title for title, _ in SECTIONS if f"{title}:" not in said] == []
    assert "..." not in said.partition("\n")[2]  # sentences are whole
    for option in ("--json", "--quiet", "--verbose"):
        assert option in said


def test_the_version(capsys, answer):
    assert vitrail("--version") == 0
    assert capsys.readouterr().out == f"vitrail {__version__}\n"
    assert answer("--json", "--version")[1]["version"] == __version__
