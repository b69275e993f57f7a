"""The synthetic cohort: the same seed gives the same slides, and its truth is true."""

from __future__ import annotations

import csv
import json
import uuid

import numpy as np
import openslide
import pytest
import shapely
from shapely.geometry import shape

from vitrail.errors import SettingsError
from vitrail.synthetic import PhantomCohort, TissueType, write_cohort, write_slide

SIDE, MPP = 1024, 0.5
COHORT = PhantomCohort(patients=2, side_px=SIDE, seed=3)


@pytest.fixture(scope="module")
def cohort_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    seen = []
    write_cohort(folder, COHORT, workers=2, on_slide=seen.append)
    assert sorted(seen) == ["P01_0", "P02_0"]
    return folder


@pytest.fixture(scope="module")
def slide_ids(cohort_folder):
    return [row["slide_id"] for row in rows(cohort_folder)]


def rows(folder):
    with (folder / "slides.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pixels(path):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def features(path):
    return json.loads(path.read_text(encoding="utf-8"))["features"]


def nuclei(folder, slide_id):
    return [
        (feature["properties"]["classification"]["name"], np.array(feature["geometry"]["coordinates"][0]))
        for feature in features(folder / "truth" / f"{slide_id}.geojson")
    ]


def density(path):
    """Return the optical density in red, where hematoxylin absorbs and eosin hardly does."""
    return -np.log10((pixels(path)[..., 0].astype(float) + 1) / 245)


def test_slides_csv_names_files_that_exist(cohort_folder):
    table = rows(cohort_folder)
    assert list(table[0]) == ["slide_id", "patient_id", "slide", "annotations", "site", "p16"]
    assert [row["slide_id"] for row in table] == ["P01_0", "P02_0"]
    for row in table:
        assert (cohort_folder / row["slide"]).is_file()
        assert (cohort_folder / row["annotations"]).is_file()


def test_p16_is_given_for_the_oropharynx_alone():
    attributes = [row for _, row in PhantomCohort(patients=200).slides()]
    assert {row["site"] for row in attributes} == {"oral cavity", "oropharynx", "hypopharynx", "larynx"}
    for row in attributes:
        assert (row["p16"] in {"positive", "negative"}) == (row["site"] == "oropharynx")
        assert row["p16"] == "" or row["site"] == "oropharynx"


def test_a_patient_is_the_same_in_a_larger_cohort():
    few, many = (PhantomCohort(patients=n, seed=9).slides() for n in (3, 30))
    assert few == many[:3]


def test_openslide_finds_three_levels_and_the_resolution(cohort_folder, slide_ids):
    with openslide.OpenSlide(cohort_folder / "slides" / f"{slide_ids[0]}.tif") as slide:
        assert slide.level_dimensions == ((SIDE, SIDE), (SIDE // 4, SIDE // 4), (SIDE // 16, SIDE // 16))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(MPP, rel=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(MPP, rel=1e-6)
        base = np.asarray(slide.read_region((0, 0), 0, (SIDE, SIDE)).convert("RGB"), float)
        small = np.asarray(slide.read_region((0, 0), 2, (SIDE // 16, SIDE // 16)).convert("RGB"), float)
    averaged = base.reshape(SIDE // 16, 16, SIDE // 16, 16, 3).mean(axis=(1, 3))
    assert np.abs(averaged.mean(axis=2) - small.mean(axis=2)).mean() < 4  # JPEG's own loss
    assert np.corrcoef(averaged.ravel(), small.ravel())[0, 1] > 0.99


def test_one_process_and_another_give_the_same_bytes(cohort_folder, slide_ids, tmp_path):
    write_cohort(tmp_path, PhantomCohort(patients=1, side_px=SIDE, seed=3), workers=1)
    for name in ("slides/P01_0.tif", "annotations/P01_0.geojson", "truth/P01_0.geojson", "truth/P01_0.npz"):
        assert (tmp_path / name).read_bytes() == (cohort_folder / name).read_bytes()
    assert "P01_0" in slide_ids


def test_another_seed_gives_another_slide(tmp_path):
    one = write_slide(tmp_path / "1", "a", side_px=512, seed=1)
    again = write_slide(tmp_path / "2", "a", side_px=512, seed=1)
    other = write_slide(tmp_path / "3", "a", side_px=512, seed=2)
    assert np.array_equal(pixels(one), pixels(again))
    assert (np.abs(pixels(one).astype(int) - pixels(other)) > 20).mean() > 0.1


def test_complete_slides_are_kept_and_others_drawn_again(tmp_path):
    cohort = PhantomCohort(patients=2, side_px=512, seed=1)
    write_cohort(tmp_path, cohort, workers=1)
    slides = [tmp_path / "slides" / f"P0{k}_0.tif" for k in (1, 2)]
    first = [path.stat().st_mtime_ns for path in slides]
    (tmp_path / "truth" / "P02_0.npz").unlink()
    seen = []
    write_cohort(tmp_path, cohort, workers=1, on_slide=seen.append)
    second = [path.stat().st_mtime_ns for path in slides]
    assert sorted(seen) == ["P01_0", "P02_0"]
    assert second[0] == first[0]
    assert second[1] > first[1]
    write_cohort(tmp_path, PhantomCohort(patients=2, side_px=512, seed=2), workers=1)
    assert all(path.stat().st_mtime_ns > then for path, then in zip(slides, second, strict=True))
    assert not list(tmp_path.rglob("*.tmp"))


def test_outlines_are_qupath_geojson_within_the_slide(cohort_folder, slide_ids):
    slide = shapely.box(0, 0, SIDE, SIDE)
    names = set()
    for slide_id in slide_ids:
        found = features(cohort_folder / "annotations" / f"{slide_id}.geojson")
        by_class = {"Tumor": [], "Non-tumor": []}
        for feature in found:
            outline = shape(feature["geometry"])
            assert outline.is_valid
            assert slide.covers(outline)
            assert feature["type"] == "Feature"
            assert uuid.UUID(feature["id"]).version == 5
            properties = feature["properties"]
            assert properties["objectType"] == "annotation"
            assert properties["isLocked"] is False
            assert len(properties["classification"]["color"]) == 3
            by_class[properties["classification"]["name"]].append(outline)
        assert len({feature["id"] for feature in found}) == len(found) > 0
        assert shapely.union_all(by_class["Tumor"]).intersection(shapely.union_all(by_class["Non-tumor"])).area == 0
        names |= {name for name, outlines in by_class.items() if outlines}
    assert names == {"Tumor", "Non-tumor"}


def test_outlines_agree_with_the_truth(cohort_folder, slide_ids):
    tumor_types = [TissueType.TUMOR_NEST, TissueType.KERATIN, TissueType.NECROSIS]
    for slide_id in slide_ids:
        types = np.load(cohort_folder / "truth" / f"{slide_id}.npz")["types"]
        centre = (np.arange(types.shape[0]) + 0.5) * SIDE / types.shape[0]
        x, y = np.meshgrid(centre, centre)
        for feature in features(cohort_folder / "annotations" / f"{slide_id}.geojson"):
            inside = types[shapely.contains_xy(shape(feature["geometry"]), x, y)]
            share = np.isin(inside, tumor_types).mean()
            name = feature["properties"]["classification"]["name"]
            assert share > 0.2 if name == "Tumor" else share < 0.05
            assert (inside == TissueType.GLASS).mean() < 0.15


def covered(ring):
    """Return rows and columns of the pixels whose centres lie in a polygon."""
    low, high = np.floor(ring.min(axis=0)).astype(int), np.ceil(ring.max(axis=0)).astype(int)
    x, y = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
    inside = shapely.contains_xy(shapely.Polygon(ring), x + 0.5, y + 0.5)
    return y[inside], x[inside]


def test_nuclei_in_the_truth_are_the_dark_spots(cohort_folder, slide_ids):
    for slide_id in slide_ids:
        dark = density(cohort_folder / "slides" / f"{slide_id}.tif")
        places = [covered(ring) for _, ring in nuclei(cohort_folder, slide_id)]
        assert len(places) > 300
        mask = np.zeros(dark.shape, bool)
        for place in places:
            mask[place] = True
        darkness = np.array([dark[place].mean() for place in places])
        tissue = dark[~mask & (dark > 0.03)]
        assert np.median(darkness) > 2 * tissue.mean()
        assert np.mean(darkness > np.percentile(tissue, 75)) > 0.99


def test_nuclei_in_the_truth_are_not_shifted(cohort_folder, slide_ids):
    dark = density(cohort_folder / "slides" / f"{slide_ids[0]}.tif")
    rows, columns = (
        np.concatenate(part) for part in zip(*map(covered, rings(cohort_folder, slide_ids[0])), strict=True)
    )
    inner = (rows > 3) & (rows < SIDE - 4) & (columns > 3) & (columns < SIDE - 4)
    rows, columns = rows[inner], columns[inner]
    shifts = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (2, 2), (-2, -2)]
    darkness = [dark[rows + down, columns + right].mean() for down, right in shifts]
    assert np.argmax(darkness) == 0


def rings(folder, slide_id):
    return [ring for _, ring in nuclei(folder, slide_id)]


def test_atypical_nuclei_lie_in_tumor_nests_and_are_larger(cohort_folder, slide_ids):
    areas = {}
    for slide_id in slide_ids:
        types = np.load(cohort_folder / "truth" / f"{slide_id}.npz")["types"]
        for name, ring in nuclei(cohort_folder, slide_id):
            areas.setdefault(name, []).append(shapely.Polygon(ring).area * MPP**2)
            if name == "Nucleus: atypical":
                x, y = shapely.Polygon(ring).centroid.coords[0]
                around = types[max(int(y) // 8 - 1, 0) : int(y) // 8 + 2, max(int(x) // 8 - 1, 0) : int(x) // 8 + 2]
                assert TissueType.TUMOR_NEST in around
        assert types.shape == (SIDE // 8, SIDE // 8)
    assert set(areas) >= {"Nucleus: atypical", "Nucleus: epithelial", "Nucleus: stromal", "Nucleus: lymphocyte"}
    median = {name: np.median(values) for name, values in areas.items()}
    spread = {name: np.std(values) / np.mean(values) for name, values in areas.items()}
    assert median["Nucleus: atypical"] > 1.8 * median["Nucleus: epithelial"]
    assert spread["Nucleus: atypical"] > 1.5 * spread["Nucleus: lymphocyte"]
    assert 40 < median["Nucleus: atypical"] < 110  # um2


@pytest.mark.parametrize("wrong", [{"side_px": 500}, {"side_px": 256}, {"mpp": 3.0}, {"patients": 0}])
def test_what_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(SettingsError):
        PhantomCohort(**wrong)
