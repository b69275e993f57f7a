from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrail.errors import CohortError
from vitrail.slides.cohort import RESERVED, content_digest, copy_cohort, file_digest, read_cohort
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
        (f"{HEADER}\na,p,a,a,too,many", "line 2: 6 cells, where the header has 4"),
        (f"{HEADER}\n\n\na,p,a.svs", "line 4: 3 cells, where the header has 4"),
        (f'{HEADER}\n"a","p\n q",a.svs,a.json\nb,,b.svs,b.json', "line 4: patient_id is empty"),
        (f'{HEADER}\na,p,"a.svs,a.json', "line 2: no CSV"),
        (f"{HEADER}\na,p,a.svs,a\0.json", "not a text in UTF-8"),
        (f"{HEADER},site,site\na,p,a,a,x,y", "column site is there twice"),
        (f"{HEADER},Slide\na,p,a,a,x", "column slide is there twice"),
        (f"{HEADER},,site\na,p,a,a,x,y", "column 5 has cells but no name"),
        (f"{HEADER},label\na,p,a,a,x", "column label is named like one of a run's own tables. Rename the column"),
        (f"{HEADER}\na,p,s.svs,a\nb,q,./s.svs,b", "slides a and b are the same file s.svs"),
        (f"{HEADER}\na,P1,a.svs,a\nb,p1,b.svs,b", "patients P1 and p1 differ by letter case alone"),
        (f"{HEADER}\n{'a' * 101},p,a.svs,a", "is too long"),
        ("", "column slide_id, patient_id, slide, annotations is missing"),
    ],
)
def test_a_wrong_cohort_is_one_line(tmp_path, text, said):
    with pytest.raises(CohortError) as caught:
        read_cohort(table(tmp_path / "slides.csv", text))
    assert said in str(caught.value)
    assert "slides.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_separators_letter_case_and_empty_columns_do_not_matter(tmp_path):
    rows = ["Slide_ID, patient_id ,SLIDE,annotations,Split,MPP,,Site,", "a,p,a,a,train,0.5,,x,", ",,,,,,,,"]
    rows += ["b,q,b,b,validation,,,y,", "c,r,c,c,test,,,,"]
    read = [
        read_cohort(table(tmp_path / "slides.csv", "\n".join(rows).replace(",", separator))) for separator in ",;\t"
    ]
    assert read[0] == read[1] == read[2]
    assert [(slide.slide_id, slide.split, slide.mpp, slide.attributes) for slide in read[0]] == [
        ("a", "train", 0.5, {"Site": "x"}),
        ("b", "validation", None, {"Site": "y"}),
        ("c", "test", None, {"Site": ""}),
    ]


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_attributes_never_collide_with_a_runs_tables(tmp_path, name):
    with pytest.raises(CohortError, match=rf"column {name} .*Rename the column"):
        read_cohort(table(tmp_path / "slides.csv", f"{HEADER},{name}\na,p,a,a,x"))


def test_a_link_keeps_its_name_and_its_folder_is_followed(tmp_path):
    store, data = tmp_path / "store", tmp_path / "data"
    store.mkdir()
    data.mkdir()
    (store / "SHA256-77").write_bytes(b"pixels")
    (data / "a.svs").symlink_to(store / "SHA256-77")
    (data / "b.svs").symlink_to(store / "SHA256-77")
    (tmp_path / "shelf").symlink_to(data)
    path = table(tmp_path / "slides.csv", f"{HEADER}\na,p,shelf/a.svs,shelf/gone.json\n")
    (only,) = read_cohort(path)
    assert (only.slide, only.annotations) == (data / "a.svs", data / "gone.json")
    with pytest.raises(CohortError, match=r"slides a and b are the same file b\.svs"):
        read_cohort(table(path, f"{HEADER}\na,p,data/a.svs,a\nb,q,data/b.svs,b\n"))


def test_a_copy_overwrites_nothing(tmp_path):
    source = table(tmp_path / "data" / "slides.csv", f"{HEADER}\na,p,a.svs,a.json\n")
    before = source.read_bytes()
    copy_cohort(source, source)
    (tmp_path / "link.csv").symlink_to(source)
    copy_cohort(source, tmp_path / "link.csv")
    assert source.read_bytes() == before
    target = tmp_path / "slides.csv"
    copy_cohort(source, target)
    copy_cohort(source, target)
    assert read_cohort(target) == read_cohort(source)
    target.write_text("another")
    with pytest.raises(CohortError, match="is there already, and is another file"):
        copy_cohort(source, target)
    assert target.read_text() == "another"
    assert {path.name for path in tmp_path.iterdir()} == {"data", "link.csv", "slides.csv"}


def denied(*_args, **_more):
    raise PermissionError(13, "Permission denied")


def test_a_cohort_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(CohortError, match="a folder, not a file"):
        read_cohort(tmp_path)
    path = tmp_path / "slides.csv"
    path.write_bytes(f"{HEADER}\nM\xfcller,p,a,a".encode("latin-1"))
    with pytest.raises(CohortError, match="not a text in UTF-8"):
        read_cohort(path)
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(CohortError, match=r"cannot be opened \(Permission denied\)"):
        read_cohort(path)


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
    assert file_digest(tmp_path / "none.svs") == file_digest(tmp_path) == "missing"


@pytest.mark.parametrize("place", [0, 1 << 20, 3 << 20, 5_000_000, (12 << 20) - 1])
def test_a_digest_samples_the_whole_length_of_a_slide(tmp_path, place):
    path, size = tmp_path / "a.svs", 12 << 20
    path.write_bytes(bytes(size))
    before = file_digest(path)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"x" * min(size // 17, size - place))  # no stretch of that length lies between two samples
    assert file_digest(path) != before


def test_a_content_digest_sees_every_byte(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(4_000_000))
    before, sampled = content_digest(path), file_digest(path)
    with path.open("r+b") as file:
        file.seek(1_300_000)
        file.write(b"x")
    assert file_digest(path) == sampled
    assert content_digest(path) != before
    assert content_digest(tmp_path / "none") == content_digest(tmp_path) == "missing"


def test_a_file_that_cannot_be_read_has_a_digest(tmp_path, monkeypatch):
    path = tmp_path / "a.svs"
    path.write_bytes(b"x")
    monkeypatch.setattr(Path, "open", denied)
    assert file_digest(path) == content_digest(path) == "unreadable"


@pytest.mark.parametrize(
    ("name", "part", "counts"),
    [
        ("a.mrxs", "a/Data0001.dat", True),
        ("a.MRXS", "a/Data0001.dat", True),
        ("a.vms", "a/map.jpg", True),
        ("a.dcm", "b.dcm", True),
        ("a.dcm", "b.json", False),
        ("a.svs", "a/notes.txt", False),
        ("a.svs", "b.svs", False),
    ],
)
def test_the_other_files_of_a_slide_count(tmp_path, name, part, counts):
    path = table(tmp_path / name, "x")
    other = table(tmp_path / part, "y")
    (other.parent / f"dangling{other.suffix}").symlink_to(tmp_path / "nowhere")
    (other.parent / f"folder{other.suffix}").mkdir()
    before = file_digest(path)
    other.write_text("longer")
    assert (file_digest(path) != before) == counts


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
