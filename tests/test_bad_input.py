"""What users get wrong: one line that says which file, what is wrong and how to mend it; the rest goes on."""

from __future__ import annotations

import json
import os

import pytest
from shapely.geometry import Polygon, box

from helpers.cohort import FAST, SIDE, outline, tissue, write_outlines, write_tiff
from helpers.command import error_lines, vitrail
from helpers.data import DATA, needs_data
from helpers.mutations import with_tag
from vitrail.pipeline.run import new_run

BROKEN = "readers/broken.svs"


@pytest.fixture
def run(cohort, tmp_path):
    new_run(tmp_path / "run", cohort, "quick", FAST)
    return tmp_path / "run"


def broken_slide(cohort):
    (cohort.parent / "S1.tif").write_bytes(b"II*\0 this is no slide" * 50)


def no_mpp(cohort):
    write_tiff(cohort.parent / "S1.tif", tissue(1), mpp=None)


def truncated(cohort):
    path = cohort.parent / "S1.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def missing_slide(cohort):
    (cohort.parent / "S1.tif").unlink()


def missing_outlines(cohort):
    (cohort.parent / "S1.geojson").unlink()


def empty_outlines(cohort):
    write_outlines(cohort.parent / "S1.geojson")


def no_json(cohort):
    (cohort.parent / "S1.geojson").write_text('{"type": "FeatureCollection", "features": [')


def far_away(cohort):
    write_outlines(cohort.parent / "S1.geojson", outline("Tumor", box(9000, 9000, 9100, 9100)))


def giant_tiles(cohort):
    path = cohort.parent / "S1.tif"
    path.write_bytes(with_tag(with_tag(path.read_bytes(), 322, 100_000), 323, 100_000))


def slide_is_a_pipe(cohort):
    (cohort.parent / "S1.tif").unlink()
    os.mkfifo(cohort.parent / "S1.tif")


def endless_outlines(cohort):
    (cohort.parent / "S1.geojson").unlink()
    (cohort.parent / "S1.geojson").symlink_to("/dev/zero")


def tangled(cohort):
    write_outlines(cohort.parent / "S1.geojson", outline("Tumor", Polygon(tissue(1)[:50, :60, :2].reshape(-1, 2))))


def real_broken(cohort):
    (cohort.parent / "S1.tif").write_bytes((DATA / BROKEN).read_bytes())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (broken_slide, "not a slide"),
        pytest.param(real_broken, "not a slide", marks=needs_data(BROKEN)),
        (no_mpp, "gives no mpp"),
        (truncated, "S1.tif"),
        (giant_tiles, "S1.tif: its tiles claim 100,000 x 100,000 pixels"),
        (slide_is_a_pipe, "S1.tif: a named pipe, not a file"),
        (endless_outlines, "S1.geojson: a device, not a file"),
        (tangled, "S1.geojson: its outlines cross themselves and each other more than 20,000 times"),
        (missing_slide, "S1.tif"),
        (missing_outlines, "S1.geojson"),
        (empty_outlines, "no outlines"),
        (no_json, "not valid JSON"),
        (far_away, "no tile is annotated enough"),
    ],
)
def test_a_bad_slide_is_skipped_with_its_reason_and_the_rest_goes_on(run, cohort, spoil, said, capfd):
    spoil(cohort)
    assert vitrail("tiles", run) == 2
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("skipped")]
    assert len(told) == 1
    assert told[0].startswith("skipped: S1: ")
    assert said in told[0]
    assert (run / "tiles" / "stage.json").is_file()
    assert "Traceback" not in told[0]


def unknown_class(cohort):
    write_outlines(
        cohort.parent / "S1.geojson", outline("Tumour", box(0, 0, 99, 99)), outline("Stroma: loose", box(0, 0, 9, 9))
    )


def unknown_classes_in_two_files(cohort):
    for name in ("S1", "S4"):
        write_outlines(cohort.parent / f"{name}.geojson", outline("Tumour", box(0, 0, 99, 99)))


def unknown_classes_everywhere(cohort):
    for number, path in enumerate(sorted(cohort.parent.glob("*.geojson"))):
        write_outlines(path, *(outline(f"K{number}{i:02}", box(0, 0, 9, 9)) for i in range(4)))
        if number < 5:
            write_outlines(path, outline("Tumour", box(0, 0, 9, 9)), outline("Tumour", box(0, 0, 9, 9)))


def no_tumor(cohort):
    for path in cohort.parent.glob("*.geojson"):
        write_outlines(path, outline("Non-tumor", box(0, 0, SIDE, SIDE)))


def all_missing(cohort):
    for path in cohort.parent.glob("*.tif"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (unknown_class, "S1.geojson: outlines with unknown names: 'Stroma: loose' (1), 'Tumour' (1)"),
        (unknown_classes_in_two_files, "2 annotation files: outlines with unknown names: 'Tumour' (2 in S1"),
        (unknown_classes_in_two_files, ".geojson, S4.geojson). Add each name"),
        (unknown_classes_everywhere, "'Tumour' (10 in S0.geojson, S1.geojson, S2.geojson and 2 more)"),
        (no_tumor, "not one of them is tumor"),
        (all_missing, "6 slides: none gave tiles"),
    ],
)
def test_what_concerns_the_whole_cohort_stops_it_with_one_line(run, cohort, spoil, said, capfd):
    spoil(cohort)
    assert vitrail("run", run) == 2
    told = error_lines(capfd.readouterr().err)
    assert len(told) == 1
    assert said in told[0]
    assert not (run / "tiles").exists()


def test_a_bad_slide_once_mended_is_cut(run, cohort):
    whole = (cohort.parent / "S1.tif").read_bytes()
    truncated(cohort)
    assert vitrail("tiles", run) == 2
    (cohort.parent / "S1.tif").write_bytes(whole)
    assert vitrail("tiles", run) == 0


def test_an_mpp_once_for_all_mends_slides_without_one(run, cohort):
    no_mpp(cohort)
    assert vitrail("tiles", run, "--set", "slides.mpp=6.2") == 0


def test_a_self_crossing_outline_is_mended_with_a_warning(run, cohort):
    bow = Polygon([(0, 0), (128, 128), (128, 0), (0, 128)])
    write_outlines(cohort.parent / "S1.geojson", outline("Tumor", bow))
    assert vitrail("tiles", run) == 0
    assert "crossed itself and was mended" in (run / "tiles" / "slides.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nowhere"], "not a run folder"),
        (["init", "{run}", "--slides", "{cohort}"], "is a run already"),
        (["init", "other", "--slides", "none.csv"], "no such file"),
        (["init", "other", "--slides", "{cohort}", "--set", "tiles.side=3"], "Did you mean 'side_um'?"),
        (["run", "{run}", "--set", "nonsense"], "is not key=value"),
        (
            ["predict", "{run}", "--out", "maps"],
            "--out: the predictions of a run go to {run}/predictions. Leave it out.",
        ),
        (
            ["predict", "{run}", "--mpp", "0.5"],
            "--mpp: a run has its own pixel sizes. Set slides.mpp in study.toml, or",
        ),
        (["predict", "{cohort}", "--out", "maps"], "vitrail predict: a slide, but no model. Add --classifier"),
        (["predict", "{cohort}", "{cohort}"], "vitrail predict: several slides, but no model. Add --classifier"),
        (["explain", "{run}", "--out", "why"], "--out: the explanations of a run go to {run}/explanations. Leave it"),
        (["explain", "{run}", "--at", "1,2"], "--at: a run explains all its test tiles. Leave it out, or add --model"),
        (["explain", "a.png", "--model", "{run}/classifier", "--set", "seed=1"], "--set: one picture is explained as"),
    ],
)
def test_a_wrong_command_is_one_line(arguments, said, run, cohort, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert vitrail(*(a.format(run=run, cohort=cohort) for a in arguments)) == 2
    told = capfd.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert said.format(run=run) in told[0]
    assert not (tmp_path / "other" / "study.toml").exists()


def test_an_old_name_of_a_setting_is_one_line_and_a_run_is_made(cohort, tmp_path, capfd):
    assert vitrail("init", tmp_path / "run", "--slides", cohort, "--set", "predict.mirror=true") == 0
    ended = capfd.readouterr()
    assert ended.err == "warning: the setting predict.mirror is now called predict.test_time_augmentation\n"
    assert ended.out == f"{tmp_path / 'run' / 'study.toml'} holds the settings. Next: vitrail run {tmp_path / 'run'}\n"
    assert "test_time_augmentation = true" in (tmp_path / "run" / "study.toml").read_text()


@pytest.mark.parametrize(
    "arguments", [["frobnicate"], ["run"], ["run", "here", "--until", "lunch"], ["run", "--sett", "x"]]
)
def test_a_command_that_does_not_exist_is_explained(arguments, capfd):
    assert vitrail(*arguments) == 2
    assert "Traceback" not in capfd.readouterr().err


def test_a_file_in_the_way_is_one_line(cohort, tmp_path, capfd):
    (tmp_path / "file").write_text("here already")
    assert vitrail("init", tmp_path / "file", "--slides", cohort) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_a_typo_in_study_toml_is_one_line(run, capfd):
    path = run / "study.toml"
    path.write_text(path.read_text().replace("side_px", "side_pixel"))
    assert vitrail("run", run) == 2
    assert capfd.readouterr().err.strip().count("\n") == 0


@pytest.mark.usefixtures("undrawn")
def test_skipped_slides_stand_in_the_report(run, cohort, capfd):
    truncated(cohort)
    assert vitrail("run", run) == 2
    assert "skipped: S1" in capfd.readouterr().err
    assert "S1.tif" in (run / "report" / "index.html").read_text()
    assert json.loads((run / "report" / "metrics.json").read_text())["test"]["tiles"] > 0
