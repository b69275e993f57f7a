from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vitrail.explain.checks.known_causes import KNOWN, draw_known, measure_known, read_spec
from vitrail.explain.checks.reliance import COLUMNS, summarise
from vitrail.synthetic import SlideSpec, write_slide
from vitrail.synthetic.truth import read_truth


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("known"), "K", side_px=512, seed=1005)


def test_the_header_holds_the_spec(slide, tmp_path):
    spec = read_spec(slide)
    assert spec == SlideSpec(slide_id="K", side_px=512, seed=(1005,), keratinising=False)
    assert read_truth(slide) is not None
    (tmp_path / "K.tif").write_bytes(b"no slide")
    assert read_spec(tmp_path / "K.tif") is None
    assert read_spec(tmp_path / "none.tif") is None


def test_a_cause_moves_a_score_that_rests_on_it_and_no_other(slide):
    x = np.arange(4)
    rows = pd.DataFrame({"slide_id": "K", "x": 128.0 * x, "y": 128.0, "side": 128.0, "tile": x, "patient_id": "P"})
    steps = []
    drawn = draw_known({"K": read_spec(slide)}, rows, rows[:1], 32, lambda: steps.append(1))
    assert len(steps) == 1 + len(KNOWN)
    assert len(drawn) == 4 * (1 + len(KNOWN)) + 1
    assert np.array_equal(drawn[0], drawn[-1])

    def darkness(images):
        return -images.astype(float).mean((1, 2, 3))

    measured = measure_known(darkness, drawn, 4)
    lost = {cause: (each["before"] - each["after"]).mean() for cause, each in measured.items()}
    assert lost["atypia"] > max(lost["outline"], 0.5)
    for each in measured.values():  # turning a change keeps how much lighter it makes a tile
        assert each["matched"] == pytest.approx(each["after"], abs=1.5)
    constant = measure_known(lambda images: np.ones(len(images)), drawn, 4)
    assert all((each["after"] == each["before"]).all() for each in constant.values())


@pytest.mark.parametrize("share", [0.6, 0.0])
def test_pairs_are_summarised_as_known_causes(share):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "tile": np.arange(12), "patient_id": np.resize(list("ABCDEFGH"), 12), "network": "classifier",
            "cause": "atypia", "way": "pair", "before": 1.0, "goal": -1.0, "matched": 1.0,
            "after": 1 - 2 * (share + rng.normal(0, 0.05, 12)),
        }
    )[list(COLUMNS)]  # fmt: skip
    (entry,) = summarise(table, 0)["classifier"]
    assert entry["known"]
    assert entry["named"] is (share > 0.15)
    assert entry["share"] == pytest.approx(share, abs=0.05)
    assert entry["put"] == [None, None, None]
    assert "atypia of nuclei; the same change turned by half a turn takes 0 %" in entry["sentence"]
