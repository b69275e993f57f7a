from __future__ import annotations

import json
import os
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.cohort import tissue, write_tiff
from helpers.kinds import KEYS
from vitrail.core.files import write_table
from vitrail.core.progress import Silent
from vitrail.errors import RunError
from vitrail.explain.checks.perturbation import FLOORS, KINDS
from vitrail.explain.checks.reliance import PICTURES, TABLE
from vitrail.explain.checks.reliance import summarise as reliance_summary
from vitrail.explain.checks.results import COLUMNS, as_table, open_checked, summarise, verdicts
from vitrail.explain.checks.stage import STEPWISE, check_study, choose_tiles, score_images
from vitrail.explain.explainer import Explainer
from vitrail.explain.methods.hrcam import HRCamHead, save_head
from vitrail.explain.study.store import AGREEMENT, ROWS, Kind, create_file, open_stored, write_summary
from vitrail.geometry import Region
from vitrail.models.spec import ClassifierSpec, SegmenterSpec
from vitrail.models.store import Model, build, load_model, model_digest, save_model
from vitrail.settings.load import Settings
from vitrail.slides.cohort import CohortSlide
from vitrail.stage import Run, Work
from vitrail.synthetic import write_slide
from vitrail.synthetic.truth import read_truth

SIDE, TILES = 32, 14
ORDERS = ("gradcam", "hrcam", *FLOORS)
REPLACEMENTS = ("blur", "tissue", "donor")
SHARED = {
    "encoder": "test_efficientnet", "side_um": 64.0, "side_px": SIDE,
    "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.25, 0.15),
}  # fmt: skip
SPECS = {
    "classifier": ClassifierSpec(**SHARED, dense=8, dropout=0.5),
    "segmenter": SegmenterSpec(**SHARED, decoder=(8, 8, 8, 8, 8)),
}
SETTINGS = Settings.model_validate(
    {"check": {"tiles": 10, "steps": 3, "draws": 3}, "compute": {"device": "cpu", "engine": "torch"}}
)


def rows_of():
    """Seven tiles of a synthetic slide and seven of another one, of two patients each; one is not tumor."""
    i = np.arange(TILES)
    return pd.DataFrame({
        "slide_id": np.where(i < 7, "T1", "S1"), "patient_id": [f"P{k // 4}" for k in i],
        "x": 64.0 * (i % 7), "y": 200.0, "side": 64.0,
        "label": np.where(i == 3, "non_tumor", "tumor"), "classifier": np.where(i == 3, 0.1, 0.9),
        "segmenter": np.where(np.isin(i, (3, 5)), 0.1, 0.8),
    })  # fmt: skip


def write_run(folder):
    """A run of untrained networks that has come as far as its explanations."""
    rows = rows_of()
    images = np.random.default_rng(0).integers(0, 256, (TILES, SIDE, SIDE, 3), dtype=np.uint8)
    (folder / "tiles").mkdir(parents=True)
    rows.to_parquet(folder / "tiles" / "tiles.parquet")
    np.save(folder / "tiles" / "images.npy", images)
    np.save(folder / "tiles" / "masks.npy", np.zeros(images.shape[:3], np.uint8))
    torch.manual_seed(0)
    saliencies = {}
    for network, spec in SPECS.items():
        module = build(spec).eval()
        save_model(folder / network, module, spec)
        explainer = Explainer(Model(spec=spec, module=module), torch.device("cpu"))
        weights = torch.randn(sum(explainer.layers.channels))
        own = model_digest(folder / network)
        hrcam_head = HRCamHead(layers=explainer.layers, weights=weights, bias=0.0, l2=0.1, fitted_on=own)
        save_head(folder / "explanations" / network, hrcam_head)
        saliencies[f"{network}_gradcam"] = explainer.gradcam(images)
        saliencies[f"{network}_hrcam"] = explainer.hrcam(images, hrcam_head)
    write_explanations(folder / "explanations", rows, saliencies)


def write_explanations(folder, rows, saliencies):
    kinds = {
        key: Kind(
            method=found[0].method, layers=found[0].layers, target="tumor",
            frame=found[0].frame, size=found[0].values.shape,  # noqa: PD011 - no data frame
        )
        for key, found in saliencies.items()
    }  # fmt: skip
    file = create_file(folder, kinds, TILES)
    for key, found in saliencies.items():
        file.maps(key)[:] = np.stack([saliency.values for saliency in found])  # noqa: PD011 - no data frame
    write_table(folder / ROWS, rows.assign(tile=np.arange(TILES)))
    write_table(folder / AGREEMENT, rows[["slide_id", "patient_id"]].assign(tile=np.arange(TILES)))
    keys = ("agreement", "agreement_relu", "empty", "tiles", "patients", "min_share", "layers")
    write_summary(folder, dict.fromkeys(keys))


class Watch(Silent):
    """Counts steps, and ends the work after so many."""

    def __init__(self, until=None):
        self.steps, self.until = 0, until

    @contextmanager
    def task(self, title, total, done=0):  # noqa: ARG002 - the protocol's arguments
        def step(n=1, note=""):  # noqa: ARG001 - the same
            self.steps += 1
            if self.steps == self.until:
                raise KeyboardInterrupt

        yield step


def work_of(run, name, progress=None, settings=SETTINGS):
    folder = run / name
    folder.mkdir(exist_ok=True)
    return Work(
        run=Run(folder=run, settings=settings), folder=folder, scratch=folder, progress=progress or Silent()
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checks") / "run"
    with torch.random.fork_rng(devices=[]):
        write_run(folder)
    return folder


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    paths = {"T1": write_slide(folder, "T1", side_px=512, mpp=1.0, seed=1)}
    paths["S1"] = write_tiff(folder / "S1.tif", tissue(0))
    return tuple(
        CohortSlide(slide_id=name, patient_id="P", slide=path, annotations=folder / "none.geojson")
        for name, path in paths.items()
    )


@pytest.fixture(scope="module")
def done(run, entries):
    work = work_of(run, "checks")
    check_study(work, entries)
    return work.folder


@pytest.fixture(scope="module")
def checked(done):
    return open_checked(done)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_folder_holds_what_it_should(done):
    assert set(contents(done)) == {*(f"{name}.parquet" for name in COLUMNS), "summary.json", TABLE, PICTURES}


def test_tiles_that_are_tumor_and_called_so_are_checked(checked):
    chosen = sorted(set(checked.perturbation["tile"]))
    assert len(chosen) == checked.summary["tiles"] == 10
    assert not {3, 5} & set(chosen)
    assert set(checked.randomisation["tile"]) == set(chosen)
    assert set(checked.truth["tile"]) == {tile for tile in chosen if tile < 7}  # the other slide is no phantom


def test_every_curve_is_there_once(checked):
    table = checked.perturbation
    assert list(table) == list(COLUMNS["perturbation"])
    sizes = table.groupby(["tile", "network", "replacement", "order", "kind"]).size()
    assert len(sizes) == 10 * 2 * len(REPLACEMENTS) * len(ORDERS) * len(KINDS)
    assert set(sizes) == {4}
    assert table["score"].between(0, 1).all()
    assert (table["patient_id"] == rows_of()["patient_id"].to_numpy()[table["tile"]]).all()


def test_curves_begin_and_end_with_the_networks_own_scores(checked, run):
    explainer = Explainer(load_model(run / "classifier"), torch.device("cpu"))
    images = np.load(run / "tiles" / "images.npy")
    table = checked.perturbation[checked.perturbation["network"] == "classifier"]
    begun = table[(table["fraction"] == 0) & (table["kind"] == "deletion") & (table["replacement"] == "tissue")]
    begun = begun.set_index(["order", "tile"])["score"]
    for order in ORDERS:
        tiles = begun[order].index
        assert np.allclose(begun[order], score_images(explainer, images[tiles]), atol=1e-6)
    assert checked.summary["ends"]["classifier"]["tile"] == pytest.approx(begun["blob"].mean(), abs=1e-9)


def test_every_draw_and_step_is_there(checked):
    assert list(checked.randomisation) == list(COLUMNS["randomisation"])
    table = checked.randomisation[~checked.randomisation["method"].isin(FLOORS)]
    last = table.query("network == 'classifier' and method == 'gradcam' and number == 7").set_index("draw")[
        "correlation"
    ]
    assert not any(set(last[a]) & set(last[b]) for a, b in ((0, 1), (0, 2), (1, 2)))  # each drew its own weights
    sizes = table.groupby(["network", "method", "draw", "number", "step"]).size()
    assert [set(sizes.xs(draw, level="draw")) for draw in range(3)] == [{STEPWISE}, {STEPWISE}, {10}]
    steps = {"classifier": 2 * (8 + 8 + 1), "segmenter": 2 * (7 + 7 + 1)}  # of the third draw the last alone
    assert {network: len(sizes[network]) for network in SPECS} == steps
    assert checked.summary["randomisation"]["classifier_hrcam"]["draws"] == 3
    untouched = table[table["number"] == 0].dropna()
    assert untouched["correlation"].min() > 1 - 1e-6  # the stored maps are those of the very tiles


def test_the_truth_is_measured_on_the_tile_that_the_map_belongs_to(checked, run, entries):
    stored, truth = open_stored(run / "explanations"), read_truth(entries[0].slide)
    row = checked.truth[(checked.truth["key"] == "classifier_hrcam") & (checked.truth["region"] == "nuclei")].iloc[2]
    place = rows_of().iloc[row["tile"]]
    region = Region(x=place["x"], y=place["y"], width=64, height=64)
    mask = truth.masks(region, (SIDE, SIDE))["nuclei"]
    values = np.maximum(stored.saliency("classifier_hrcam", row["tile"]).upsample(), 0)
    assert row["area"] == pytest.approx(mask.mean())
    assert row["weight"] == pytest.approx(values[mask].sum() / values.sum(), rel=1e-5)
    chosen = set(checked.perturbation["tile"]) - {row["tile"]}  # fewer than are drawn from more
    maps = [np.maximum(stored.saliency("classifier_hrcam", i).upsample(), 0) for i in chosen]
    others = [values[mask].sum() / values.sum() for values in maps if values.any()]
    assert row["others"] == pytest.approx(np.mean(others), rel=1e-5)
    assert len(checked.truth) == len(set(checked.truth["tile"])) * (len(KEYS) + 2 * len(FLOORS)) * 3


def test_the_summary_follows_from_the_tables(checked):
    summary = checked.summary
    tables = {name: getattr(checked, name) for name in COLUMNS}
    cells = {key: tuple(size) for key, size in summary["cells"].items()}
    again = json.loads(json.dumps({"tiles": 10, **summarise(tables, 0, KEYS, cells=cells)}))
    assert again == {name: value for name, value in summary.items() if name != "reliance"}
    assert summary["reliance"] == json.loads(json.dumps(reliance_summary(checked.reliance.table, 0)))
    assert list(summary["perturbation"]) == list(summary["randomisation"]) == list(summary["truth"]) == list(KEYS)
    entry = summary["perturbation"]["segmenter_hrcam"]["deletion"]
    assert entry["over_blob"][0] == pytest.approx(entry["blob"] - entry["area"])
    entry = summary["perturbation"]["segmenter_hrcam"]["insertion"]
    assert entry["over_random"][0] == pytest.approx(entry["area"] - entry["random"])
    last = checked.randomisation.query("network == 'segmenter' and method == 'hrcam' and number == 6").dropna()
    entry = summary["randomisation"]["segmenter_hrcam"]
    assert entry["correlation"] == pytest.approx(last["correlation"].mean())
    assert entry["excess"][0] == pytest.approx((last["correlation"] - last["chance"]).mean())
    first = checked.randomisation.query("network == 'segmenter' and method == 'hrcam' and number == 0").dropna()
    assert entry["shared"] == pytest.approx(first["chance"].mean())


@pytest.mark.parametrize("until", [3, 6])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(done, run, entries, until):
    work = work_of(run, f"killed{until}", Watch(until))
    with pytest.raises(KeyboardInterrupt):
        check_study(work, entries)
    kept = {path: path.stat().st_mtime_ns for path in (work.folder / "parts").iterdir()}
    assert len(kept) >= until
    again = work_of(run, f"killed{until}", Reader(kept))
    check_study(again, entries)
    assert contents(work.folder) == contents(done)


class Reader(Watch):
    """Looks, while the work goes on, whether finished parts are left alone."""

    def __init__(self, kept):
        super().__init__()
        self.kept = kept

    @contextmanager
    def task(self, title, total, done=0):
        assert {path: path.stat().st_mtime_ns for path in self.kept} == self.kept
        with super().task(title, total, done) as step:
            yield step


def test_a_run_killed_while_it_cleared_up_only_clears_up(done, run):
    work = work_of(run, "cleared", Watch())
    for name, content in contents(done).items():
        (work.folder / name).write_bytes(content)
    (work.folder / "parts").mkdir()
    check_study(work, ())
    assert work.progress.steps == 0
    assert contents(work.folder) == contents(done)


def test_without_synthetic_slides_and_neighbours_there_is_still_a_summary(run, entries):
    settings = SETTINGS.model_copy(update={"check": SETTINGS.check.model_copy(update={"tiles": 1})})
    plain = tuple(CohortSlide(**{**fields(entry), "slide": entries[1].slide}) for entry in entries)
    work = work_of(run, "one", settings=settings)
    check_study(work, plain)
    found = open_checked(work.folder)
    assert found.summary["tiles"] == 1
    assert found.summary["truth"] is None
    assert len(found.truth) == len(found.randomisation) == 0
    assert list(found.truth) == list(COLUMNS["truth"])
    for entry in found.summary["perturbation"].values():
        assert entry["deletion"]["over_random"][1:] == [None, None]
    undecided = dict.fromkeys(("deletion", "insertion", "randomisation", "stability"), "undecided")
    assert found.summary["verdicts"] == dict.fromkeys(KEYS, undecided)


def fields(entry):
    return {name: getattr(entry, name) for name in ("slide_id", "patient_id", "slide", "annotations")}


@pytest.mark.parametrize("network", SPECS)
def test_networks_score_by_the_probability_of_tumor(run, network):
    model = load_model(run / network)
    images = np.random.default_rng(1).integers(0, 256, (35, SIDE, SIDE, 3), dtype=np.uint8)
    images[1] //= 3
    scores = score_images(Explainer(model, torch.device("cpu")), images)
    standard = (images / 255 - np.array(SHARED["mean"])) / np.array(SHARED["std"])
    with torch.no_grad():
        logits = model.module(torch.from_numpy(standard.transpose(0, 3, 1, 2)).float())
    if network == "classifier":
        expected = torch.sigmoid(logits)
    else:  # the mean over the pixels of the whole tile
        assert logits.shape == (35, 4, SIDE, SIDE)
        expected = torch.softmax(logits, 1)[:, 0].mean((1, 2))
    assert np.allclose(scores, expected, atol=1e-5)
    assert scores.std() > 0


def test_the_choice_is_drawn_with_the_seed_and_sorted():
    rows = pd.concat([rows_of()] * 5, ignore_index=True)
    first, again, other = (choose_tiles(rows, 20, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(set(first)) == 20
    assert (np.diff(first) > 0).all()


def test_the_choice_falls_back_on_what_there_is():
    rows = rows_of().assign(segmenter=0.2)
    assert list(choose_tiles(rows, 64, 0)) == [i for i in range(TILES) if i != 3]
    assert list(choose_tiles(rows.assign(label="non_tumor"), 64, 0)) == list(range(TILES))
    assert len(choose_tiles(rows[:0], 64, 0)) == 0


def test_better_than_both_in_all_patients_passes_and_one_of_two_does_not():
    def table(own, random, blob):
        rng = np.random.default_rng(0)
        rows = [
            (tile, f"P{tile % 3}", network, "donor", order, kind, fraction, score + noise, score + noise)
            for tile in range(9)
            for network in SPECS
            for order, score in zip(ORDERS, (own, 0.5, random, blob, 0.5, 0.5), strict=True)
            for kind in KINDS
            for noise in [rng.uniform(-0.01, 0.01)]
            for fraction in (0.0, 0.5, 1.0)
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS["perturbation"]))

    def summary(own, random, blob):
        empty = {name: as_table(name, []) for name in COLUMNS if name != "perturbation"}
        found = summarise({"perturbation": table(own, random, blob), **empty}, 0, KEYS)
        return found | {"replacements": {network: {"donor": {"test": True}} for network in SPECS}}

    def verdict(*scores):
        return verdicts(summary(*scores))["classifier_gradcam"]

    good = summary(0.2, 0.4, 0.5)["perturbation"]["classifier_gradcam"]
    assert good["deletion"]["area"] == pytest.approx(0.2, abs=0.005)
    assert good["deletion"]["over_random"][0] == pytest.approx(0.2, abs=0.01)
    assert good["deletion"]["over_blob"][0] == pytest.approx(0.3, abs=0.01)
    assert verdict(0.2, 0.4, 0.5)["deletion"] == "passes"
    assert verdict(0.2, 0.4, 0.5)["insertion"] == "fails"  # the same scores are bad there
    assert verdict(0.6, 0.4, 0.5)["insertion"] == "passes"
    assert verdict(0.45, 0.4, 0.5)["insertion"] == "fails"  # above random, below the blob
    assert verdict(0.5, 0.4, 0.5)["insertion"] == "undecided"  # above random, like the blob


def test_a_folder_without_checks_is_named(tmp_path):
    with pytest.raises(RunError, match=r"no such file\. Remove this file"):
        open_checked(tmp_path)


def test_reading_results_needs_no_torch():
    import subprocess  # noqa: PLC0415 - a fresh interpreter
    import sys  # noqa: PLC0415 - the same

    code = "import sys, vitrail.explain.checks.results; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)  # noqa: S603 - fixed text
