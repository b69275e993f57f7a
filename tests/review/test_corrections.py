from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely import box
from shapely.geometry import mapping

from helpers.command import vitrail
from helpers.viewing import unpack_one_class_run, unpack_run
from vitrail.classes import TissueClass
from vitrail.errors import AnnotationError
from vitrail.review.corrections import apply_judged, corrected_outlines, judged_tiles, save_correction, versions
from vitrail.review.judgements import Judgement, Judgements
from vitrail.review.queue import QueueSpec, open_queue
from vitrail.settings.load import Settings, change_settings
from vitrail.slides.annotations import Annotation, ClassNames, read_annotations
from vitrail.slides.cohort import read_cohort
from vitrail.stage import open_run
from vitrail.tiles.extract import open_cohort_slide
from vitrail.tiles.outlines import class_names, cohort_outlines
from vitrail.tiles.split import split_of

NAMES = ClassNames(tumor=("Tumor",), non_tumor=("Non-tumor",), ignore=())


def areas(features):
    shapes = {"Tumor": [], "Non-tumor": []}
    for feature in features:
        shapes[feature["properties"]["classification"]["name"]].append(shapely.geometry.shape(feature["geometry"]))
    return {name: shapely.union_all(parts) for name, parts in shapes.items()}


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from(["tumor", "non_tumor", "other"])),
             max_size=12, unique_by=lambda each: each[:2])
)  # fmt: skip
def test_every_judged_square_has_what_was_said_and_the_rest_what_it_had(judged):
    outlines = [
        Annotation(label=TissueClass.TUMOR, geometry=box(0, 0, 50, 100)),
        Annotation(label=TissueClass.NON_TUMOR, geometry=box(50, 0, 80, 100)),
    ]
    squares = [(box(10 * x, 10 * y, 10 * x + 10, 10 * y + 10), answer) for x, y, answer in judged]
    after = areas(apply_judged(outlines, squares))
    for square, answer in squares:
        for label, name in (("tumor", "Tumor"), ("non_tumor", "Non-tumor")):
            assert after[name].intersection(square).area == pytest.approx(100 * (answer == label))
    rest = box(0, 0, 100, 100).difference(shapely.union_all([square for square, _ in squares]))
    assert after["Tumor"].intersection(rest).area == pytest.approx(box(0, 0, 50, 100).intersection(rest).area)
    assert after["Non-tumor"].intersection(rest).area == pytest.approx(box(50, 0, 80, 100).intersection(rest).area)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return unpack_run(tmp_path_factory.mktemp("corrected"))


def square(name, *corners):
    return {"type": "Feature", "geometry": mapping(box(*corners)), "properties": {"classification": {"name": name}}}


def test_versions_are_added_and_what_is_no_outline_is_not(tmp_path):
    first = save_correction(tmp_path, "S0", [square("Tumor", 0, 0, 10, 10)], NAMES)
    second = save_correction(tmp_path, "S0", [square("Tumor", 0, 0, 20, 20)], NAMES)
    assert versions(tmp_path, "S0") == [first, second]
    assert read_annotations(first, NAMES).tumor.area == 100
    for features in ([], [square("Nonsense", 0, 0, 1, 1)], [{"type": "Feature"}]):
        with pytest.raises(AnnotationError):
            save_correction(tmp_path, "S0", features, NAMES)
    assert versions(tmp_path, "S0") == [first, second]
    assert sorted(file.name for file in first.parent.iterdir()) == ["0001.geojson", "0002.geojson"]


def test_a_majority_decides_and_a_rater_counts_once(run):
    copy = run.parent / "votes"
    shutil.copytree(run, copy)
    queue = open_queue(copy, "q", QueueSpec(by="random", cases=20))
    judgements = Judgements(queue)

    def say(case, rater, answer):
        judgements.add(Judgement(case=case, rater=rater, answer=answer, seconds=1))

    for rater, answer in (("A", "tumor"), ("B", "tumor"), ("C", "other"), ("A", "other"), ("A", "tumor")):
        say(0, rater, answer)
    for rater, answer in (("A", "tumor"), ("B", "non_tumor")):
        say(1, rater, answer)
    say(2, "A", "unsure")
    say(3, "A", "skip")
    say(4, "A", "other")
    tiles = [(name, square.bounds[0], said) for name, parts in judged_tiles(copy).items() for square, said in parts]
    expected = [(queue.rows.loc[case, "slide_id"], queue.rows.loc[case, "x"], said) for case, said in
                ((0, "tumor"), (4, "other"))]  # fmt: skip
    assert sorted(tiles) == sorted(expected)


def test_the_next_study_takes_corrections_and_keeps_split_and_tiles(run, tmp_path, capsys):
    names, old = class_names(open_run(run).settings), pd.read_parquet(run / "tiles" / "tiles.parquet")
    save_correction(run, "S1", [square("Tumor", 0, 0, 256, 224)], names)
    queue = open_queue(run, "q", QueueSpec(by="random", cases=40))
    case = int(np.flatnonzero((queue.rows["slide_id"] == "S2") & (queue.rows["label"] == "tumor"))[0])
    Judgements(queue).add(Judgement(case=case, rater="A", answer="non_tumor", seconds=1))
    original = {entry.slide_id: entry.annotations.read_bytes() for entry in read_cohort(run / "slides.csv")}
    new = tmp_path / "new"
    assert vitrail("init", new, "--from", run, "--with-corrections") == 0
    assert "2 of 5 slides with corrections" in capsys.readouterr().out
    entries = {entry.slide_id: entry for entry in read_cohort(new / "slides.csv")}
    assert {entry.patient_id: entry.split for entry in entries.values()} == split_of(run / "split")
    assert {e.slide_id: e.annotations.read_bytes() for e in read_cohort(run / "slides.csv")} == original
    assert entries["S0"].annotations == read_cohort(run / "slides.csv")[0].annotations.resolve()
    assert vitrail("tiles", new) == 0
    said = capsys.readouterr()
    cut = pd.read_parquet(new / "tiles" / "tiles.parquet")
    assert set(cut.loc[cut["slide_id"] == "S1", "label"]) == {"tumor"}
    where = queue.rows.loc[case, ["x", "y"]]
    tile = cut[(cut["slide_id"] == "S2") & (cut["x"] == where["x"]) & (cut["y"] == where["y"])]
    assert tile["label"].tolist() == ["non_tumor"]
    for name in ("S0", "S3", "S4"):
        pd.testing.assert_frame_equal(
            cut[cut["slide_id"] == name].reset_index(drop=True), old[old["slide_id"] == name].reset_index(drop=True)
        )
    assert "2/2" in said.out + said.err  # only those that were touched are cut again


def test_paths_that_count_from_the_run_stay_right(run, tmp_path):
    """A study.toml's paths count from its folder, and the next study has another."""
    (run / "detections").mkdir(exist_ok=True)
    change_settings(run / "study.toml", ["nuclei.engine=geojson", "nuclei.model=detections"])
    assert vitrail("init", tmp_path / "new", "--from", run) == 0
    assert open_run(tmp_path / "new").settings.nuclei.model == str((run / "detections").resolve())
    weights = open_run(tmp_path / "new").settings.encoder.weights
    assert weights == open_run(run).settings.encoder.weights  # a word, and no path


def test_without_corrections_there_is_nothing_to_go_on_from(tmp_path, capsys):
    run = unpack_run(tmp_path)
    assert vitrail("init", tmp_path / "new", "--from", run, "--with-corrections") == 2
    assert "has no corrections" in capsys.readouterr().err
    assert not (tmp_path / "new" / "study.toml").exists()
    assert vitrail("init", tmp_path / "new", "--from", run) == 0
    assert vitrail("init", tmp_path / "new", "--from", run) == 2
    assert vitrail("init", tmp_path / "other", "--from", run, "--slides", run / "slides.csv") == 2
    assert vitrail("init", tmp_path / "other") == 2
    assert vitrail("init", tmp_path / "other", "--slides", run / "slides.csv", "--with-corrections") == 2
    assert json.loads((tmp_path / "new" / "tiles" / "stage.json").read_text())


IGNORE = class_names(Settings.model_validate({"annotations": {"unlabelled_tissue": "non_tumor"}}))


def test_where_all_other_tissue_counts_what_is_ignored_stays_so_unless_it_was_drawn_on(tmp_path):
    ignored = [box(10, 0, 30, 10), box(50, 0, 60, 10)]
    file = save_correction(tmp_path, "S0", [square("Tumor", 0, 0, 20, 20)], IGNORE, ignored)
    read = read_annotations(file, IGNORE)
    assert read.tumor.area == 400
    assert shapely.union_all(list(read.ignored)).equals(shapely.union_all([box(20, 0, 30, 10), ignored[1]]))
    again = read_annotations(
        save_correction(tmp_path, "S0", [square("Tumor", 0, 0, 20, 20)], IGNORE, read.ignored), IGNORE
    )
    assert shapely.union_all(list(again.ignored)).equals(shapely.union_all(list(read.ignored)))


def test_squares_called_other_are_ignored_where_all_other_tissue_counts(tmp_path):
    outlines = [Annotation(label=TissueClass.TUMOR, geometry=box(0, 0, 50, 100))]
    squares = [(box(40, 0, 60, 20), "other"), (box(60, 40, 80, 60), "tumor"), (box(80, 60, 100, 80), "non_tumor")]
    ignored = [box(70, 50, 120, 70)]
    path = tmp_path / "s.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": apply_judged(outlines, squares, ignored)}))
    read = read_annotations(path, IGNORE)
    assert read.tumor.area == 50 * 100 - 10 * 20 + 400
    assert read.non_tumor.area == 400
    rest = ignored[0].difference(shapely.union_all([square for square, _ in squares]))
    assert shapely.union_all(list(read.ignored)).symmetric_difference(rest.union(squares[0][0])).area == 0


def test_tissue_that_nobody_drew_is_not_written_among_corrections(tmp_path):
    run = unpack_one_class_run(tmp_path)
    settings, entry = open_run(run).settings, read_cohort(run / "slides.csv")[1]
    queue = open_queue(run, "q", QueueSpec(by="random", cases=40))
    case = int(np.flatnonzero((queue.rows["slide_id"] == "S1") & (queue.rows["label"] == "non_tumor"))[0])
    Judgements(queue).add(Judgement(case=case, rater="A", answer="other", seconds=1))
    file = corrected_outlines(run, entry, settings, tmp_path / "out")
    before, after = (read_annotations(path, class_names(settings)) for path in (entry.annotations, file))
    assert after.tumor.equals(before.tumor)
    assert after.non_tumor.is_empty
    x, y, side = (float(queue.rows.loc[case, name]) for name in ("x", "y", "side"))
    other = box(x, y, x + side, y + side)
    assert shapely.union_all(list(after.ignored)).equals(other)
    corrected = replace(entry, annotations=file)
    whole, cut = (cohort_outlines(each, open_cohort_slide(each, settings), settings) for each in (entry, corrected))
    assert whole.non_tumor.intersection(other).area > 0
    margin = 100 / open_cohort_slide(entry, settings).mpp
    assert cut.non_tumor.distance(other) == pytest.approx(margin, rel=1e-3)
    assert whole.non_tumor.difference(other.buffer(1.01 * margin)).difference(cut.non_tumor).area == pytest.approx(0)
