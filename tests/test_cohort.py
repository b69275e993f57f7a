from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.errors import CohortError
from vitrail.slides.cohort import copy_cohort, file_digest, read_cohort
from vitrail.tiles.split import draw_split

HEADER = "slide_id,patient_id,slide,annotations"


def table(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_rows_become_slides(tmp_path):
    rows = "a,p,s/a.svs,a.geojson,train,0.25,larynx\nb,q,/x/b.svs,b.geojson,test,,\nc,r,c,c,validation,,x"
    text = f"{HEADER},split,mpp,site\n{rows}"
    first, second, _ = read_cohort(table(tmp_path / "slides.csv", text))
    assert (first.slide, first.annotations) == (tmp_path / "s" / "a.svs", tmp_path / "a.geojson")
    assert (first.split, first.mpp, first.attributes) == ("train", 0.25, {"site": "larynx"})
    assert (str(second.slide), second.mpp, second.attributes) == ("/x/b.svs", None, {"site": ""})


def test_a_spreadsheets_semicolons_and_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "slides.csv"
    path.write_bytes(f"{HEADER}\na,p,a.svs,a.json\n".replace(",", ";").encode("utf-8-sig"))
    assert read_cohort(path)[0].slide_id == "a"


def test_numbers_stay_the_text_they_are(tmp_path):
    path = table(tmp_path / "slides.csv", f"{HEADER}\n007,0012,a.svs,a.json\n")
    assert (read_cohort(path)[0].slide_id, read_cohort(path)[0].patient_id) == ("007", "0012")


def test_paths_stay_valid_in_a_copy(tmp_path):
    source = table(tmp_path / "data" / "slides.csv", f"{HEADER},site\na,p,s/a.svs,a.json,x\nb,q,/far/b.svs,b.json,y\n")
    (tmp_path / "runs" / "one").mkdir(parents=True)
    copy_cohort(source, tmp_path / "runs" / "one" / "slides.csv")
    assert read_cohort(tmp_path / "runs" / "one" / "slides.csv") == read_cohort(source)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slide_id,patient_id,slide\na,p,a.svs", "column annotations is missing (found: slide_id, patient_id, slide)"),
        (HEADER, "no slides"),
        (f"{HEADER}\na,,a.svs,a.json", "line 2: patient_id is empty"),
        (f"{HEADER}\na,p,a.svs,a.json\nA,p,b.svs,b.json", "slide_id A stands twice"),
        (f"{HEADER}\n../a,p,a.svs,a.json", "cannot be a file name"),
        (f"{HEADER},split\na,p,a,a,train\nb,p,b,b,test", "patient p is in test and train"),
        (f"{HEADER},split\na,p,a,a,train\nb,q,b,b,", "some patients have a split and some have none"),
        (f"{HEADER},split\na,p,a,a,training", "split 'training' is unknown"),
        (f"{HEADER},split\na,p,a,a,train", "no patient is in test, validation"),
        (f"{HEADER},mpp\na,p,a,a,zero", "mpp 'zero' is no pixel size"),
        (f"{HEADER}\na,p,a,a,too,many", "row 2 has 6 cells, and the header has 4"),
        ("", "column slide_id, patient_id, slide, annotations is missing"),
    ],
)
def test_a_wrong_cohort_is_one_line(tmp_path, text, said):
    with pytest.raises(CohortError) as caught:
        read_cohort(table(tmp_path / "slides.csv", text))
    assert said in str(caught.value)
    assert "slides.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_cohort_is_one_line(tmp_path):
    with pytest.raises(CohortError, match="no such file"):
        read_cohort(tmp_path / "slides.csv")


def test_a_files_digest_is_its_contents(tmp_path):
    one, two = tmp_path / "one.svs", tmp_path / "two.svs"
    one.write_bytes(b"x" * 3_000_000 + b"a")
    two.write_bytes(b"x" * 3_000_000 + b"b")
    assert file_digest(one) != file_digest(two)
    two.write_bytes(one.read_bytes())
    assert file_digest(one) == file_digest(two)
    assert file_digest(tmp_path / "none.svs") == "missing"


@given(
    holds=st.integers(3, 40).flatmap(
        lambda n: st.lists(st.tuples(st.booleans(), st.booleans()), min_size=n, max_size=n)
    ),
    seed=st.integers(0, 9),
)
def test_a_drawn_split_keeps_the_proportions(holds, seed):
    drawn = draw_split(np.array(holds), (70, 10, 21), seed)
    counts = [drawn.count(name) for name in ("train", "validation", "test")]
    assert sum(counts) == len(holds)
    assert min(counts) >= 1
    for count, size in zip(counts, (70, 10, 21), strict=True):
        assert abs(count - size / 101 * len(holds)) < 2
    assert drawn == draw_split(np.array(holds), (70, 10, 21), seed)


def test_the_papers_cohort_is_split_as_in_the_paper():
    drawn = draw_split(np.ones((101, 2), bool), (70, 10, 21), 0)
    assert [drawn.count(name) for name in ("train", "validation", "test")] == [70, 10, 21]


def test_each_part_gets_both_classes_where_that_can_be():
    holds = np.zeros((20, 2), bool)
    holds[:, 0] = True
    holds[:3, 1] = True
    for seed in range(20):
        drawn = np.array(draw_split(holds, (70, 10, 21), seed))
        assert all(holds[drawn == name].any(axis=0).all() for name in ("train", "validation", "test"))


def test_two_patients_cannot_be_split():
    with pytest.raises(CohortError, match="only 2 patients"):
        draw_split(np.ones((2, 2), bool), (70, 10, 21), 0)
