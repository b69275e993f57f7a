from __future__ import annotations

import hashlib
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import map_coordinates
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

from helpers.explained_run import CLASSIFIER, CPU, EACH, PATIENTS, standardised, tile_rows, work_on, write_run
from helpers.kinds import KEYS, PAIRS
from vitrail.classes import TissueClass
from vitrail.core.parallel import Threads
from vitrail.core.progress import Silent
from vitrail.errors import ModelError, RunError, SettingsError, TileError
from vitrail.explain.agreement import agreement, correlate, rank_agreement, rank_points
from vitrail.explain.explainer import Explainer
from vitrail.explain.methods.hrcam import load_head
from vitrail.explain.study import jobs as study_jobs
from vitrail.explain.study import networks as study_fit
from vitrail.explain.study import stage as study
from vitrail.explain.study.stage import explain_study
from vitrail.explain.study.store import open_stored
from vitrail.models.preprocessing import intensities
from vitrail.models.store import Model, load_model, save_model

FILES = {
    "saliency.npy", "saliency.json", "tiles.parquet", "agreement.parquet", "summary.json", "classifier/hrcam.json",
    "classifier/hrcam.safetensors", "segmenter/hrcam.json", "segmenter/hrcam.safetensors",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """Its explanations."""
    folder = tmp_path_factory.mktemp("explanations")
    explain_study(work_on(run, folder))
    return folder


@pytest.fixture(scope="module")
def stored(folder):
    return open_stored(folder)


@pytest.fixture(scope="module")
def test_images(run, stored):
    return np.load(run / "tiles" / "images.npy")[stored.rows["tile"]]


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_folder_holds_what_is_promised_and_nothing_else(folder, stored):
    assert set(digests(folder)) == FILES
    assert not (folder / "unfinished").exists()
    expected = tile_rows().query("patient_id in ['P1', 'P3', 'P5']")
    assert stored.rows["tile"].tolist() == expected.index.tolist()
    same = ["slide_id", "patient_id", "x", "y", "side", "label"]
    assert list(stored.rows) == ["tile", *same, "classifier", "segmenter"]
    pd.testing.assert_frame_equal(stored.rows[same], expected[same].reset_index(drop=True))
    assert stored.summary["tiles"] == len(stored) == 3 * EACH
    assert set(stored.summary) == {
        "agreement",
        "agreement_relu",
        "hrcam_accuracy",
        "empty",
        "tiles",
        "min_share",
        "patients",
        "layers",
        "dense",
        "methods",
        "described",
    }
    assert stored.summary["described"]["gradcam"]["passes"] == 1
    assert all(of["describes"] for of in stored.summary["described"].values())
    assert stored.summary["methods"] == stored.methods == {"gradcam": "Grad-CAM", "hrcam": "HR-CAM"}


@pytest.mark.parametrize("key", KEYS)
def test_maps_are_those_of_the_library(run, folder, stored, test_images, key):
    name, method = key.split("_")
    explainer, hrcam_head = Explainer(load_model(run / name), CPU, **stored.dense), load_head(folder / name)
    found = explainer.gradcam(test_images) if method == "gradcam" else explainer.hrcam(test_images, hrcam_head)
    expected = stack(found)
    assert stored.maps(key).shape == expected.shape
    np.testing.assert_allclose(stored.maps(key), expected, atol=1e-5 * np.abs(expected).max())
    for i in (0, 7, 47):
        one = stored.saliency(key, i)
        assert (one.method, one.layers, one.target, one.frame) == (method, found[i].layers, "tumor", found[i].frame)


def stack(saliencies):
    return np.stack([saliency.values for saliency in saliencies])  # noqa: PD011 - no data frame


def test_probabilities_are_those_of_the_networks(run, stored, test_images):
    x = standardised(test_images)
    with torch.no_grad():
        probability = torch.sigmoid(load_model(run / "classifier").module(x)).numpy()
        called = load_model(run / "segmenter").module(x).argmax(1) == TissueClass.TUMOR
    np.testing.assert_allclose(stored.rows["classifier"], probability, rtol=1e-4)
    np.testing.assert_allclose(stored.rows["segmenter"], called.double().mean((1, 2)), atol=1e-3)


def seen_at(maps, frame, rows, columns):
    """Interpolate maps at places of the image."""
    cells = zip((rows, columns), frame.shift_px, frame.span_px, maps.shape[1:], strict=True)
    at = np.meshgrid(*((place - shift) * have / span - 0.5 for place, shift, span, have in cells), indexing="ij")
    return np.stack([map_coordinates(values, at, order=1, mode="nearest") for values in maps])


SIGNED = ("classifier_gradcam_hrcam", "hrcam_classifier_segmenter")
"""Pairs of maps that have a zero: this encoder's segmenter has a linear bottleneck, and so no signed Grad-CAM."""


@pytest.mark.parametrize(("pair", "relu"), [*((pair, False) for pair in PAIRS), *((pair, True) for pair in SIGNED)])
def test_agreement_is_that_of_numpy(stored, pair, relu):
    maps = [stored.maps(key).astype(np.float64) for key in PAIRS[pair]]
    maps = [np.maximum(each, 0) for each in maps] if relu else maps
    frames = [stored.frame(key) for key in PAIRS[pair]]
    places = tuple(np.arange(side) + 0.5 for side in frames[0].image_px)  # every pixel of the tile
    first, second = (seen_at(each, frame, *places) for each, frame in zip(maps, frames, strict=True))
    constant = (np.ptp(first, (1, 2)) == 0) | (np.ptp(second, (1, 2)) == 0)
    found = stored.agreement[f"{pair}_relu" if relu else pair].to_numpy()
    np.testing.assert_array_equal(np.isnan(found), constant)
    assert (~constant).sum() > 5
    for i in np.flatnonzero(~constant):
        assert found[i] == pytest.approx(np.corrcoef(first[i].ravel(), second[i].ravel())[0, 1], abs=1e-9)


def test_the_null_takes_the_second_map_of_the_tile_that_is_named(stored):
    table, (first, second) = stored.agreement, PAIRS["classifier_gradcam_hrcam"]
    others = table["other"].to_numpy()
    assert (others != np.arange(len(stored))).all()
    maps = np.array(stored.maps(first)), np.array(stored.maps(second))[others]
    frames = stored.frame(first), stored.frame(second)
    np.testing.assert_array_equal(table["classifier_gradcam_hrcam_null"], correlate(*maps, frames))
    spearman, top = rank_agreement(*(rank_points(*each) for each in zip(maps, frames, strict=True)))
    np.testing.assert_array_equal(table["classifier_gradcam_hrcam_spearman_null"], spearman)
    np.testing.assert_array_equal(table["classifier_gradcam_hrcam_top10_null"], top)


def test_the_summary_sums_up_the_table(stored):
    patients = stored.rows["patient_id"].to_numpy()
    assert {name: set(stored.summary[name]) for name in ("agreement", "agreement_relu")} == {
        "agreement": set(PAIRS),
        "agreement_relu": set(SIGNED),
    }
    for name, end in (("agreement", ""), ("agreement_relu", "_relu")):
        for pair, summary in stored.summary[name].items():
            values = stored.agreement[f"{pair}{end}"].to_numpy()
            own = {"pearson", "spearman", "top10"} if not end else set()
            assert own < set(summary)
            assert {name: value for name, value in summary.items() if name not in own} == (
                agreement(values, patients, 0).summary()
            )
            assert summary["constant"] == np.isnan(values).sum()
            assert summary["mean"] == pytest.approx(np.nanmean(values))
            for statistic, ending in (("pearson", ""), ("spearman", "_spearman"), ("top10", "_top10")):
                if statistic in own:
                    columns = stored.agreement[[f"{pair}{ending}", f"{pair}{ending}_null"]].dropna()
                    assert [summary[statistic][of] for of in ("value", "null")] == pytest.approx(
                        columns.mean().tolist()
                    )
    empty = {key: int((np.array(stored.maps(key)).max((1, 2)) <= 0).sum()) for key in KEYS}
    assert empty.pop("segmenter_gradcam") >= 5  # tiles where the segmenter sees no tumor
    assert stored.summary["empty"] == empty
    assert {key for key, kind in stored.file.kinds.items() if not kind.signed} == {"segmenter_gradcam"}
    assert stored.summary["agreement"]["segmenter_gradcam_hrcam"]["constant"] >= 5


def clear(rows):
    return rows[rows[["tumor", "non_tumor"]].max(axis=1) >= 0.8]


def test_accuracy_is_that_of_scikit_learns_classifier(run, stored):
    images, rows = np.load(run / "tiles" / "images.npy"), clear(tile_rows())
    splits = rows["patient_id"].map({f"P{i}": split for i, split in enumerate(PATIENTS)})
    train, test = rows[splits == "train"], rows[splits == "test"]
    for name in ("classifier", "segmenter"):
        explainer = Explainer(load_model(run / name), CPU)
        features, unseen = (explainer.pool(images[part.index]).double().numpy() for part in (train, test))
        mean, std = features.mean(0), features.std(0)
        theirs = LogisticRegression(C=1 / (len(train) * 0.05), tol=1e-9, max_iter=5000)
        theirs.fit((features - mean) / std, train["label"])
        told = stored.summary["hrcam_accuracy"][name]
        assert (told["train_tiles"], told["tiles"]) == (len(train), len(test)) == (36, 36)
        assert told["train_accuracy"] == theirs.score((features - mean) / std, train["label"])
        called = theirs.predict((unseen - mean) / std)
        assert told["accuracy"] == accuracy_score(test["label"], called)
        by_patient = (called == test["label"]).groupby(test["patient_id"]).mean()
        if np.ptp(by_patient):
            low, high = told["interval"]
            assert 0 <= low < told["accuracy"] < high <= 1
            assert high - low > np.ptp(by_patient)  # that of Student is wider than the range of so few
        else:  # nobody differs
            assert told["interval"] == [None, None]


def test_layers_are_listed_with_the_size_of_their_maps(stored):
    found = stored.summary["layers"]["classifier"]
    assert [layer["name"] for layer in found] == [*(f"encoder.blocks.{i}" for i in range(5)), "encoder.bn2"]
    assert [layer["stride"] for layer in found] == [2, 4, 8, 16, 32, 32]
    assert [layer["channels"] for layer in found] == [16, 24, 32, 48, 64, 256]
    assert [layer["size_px"] for layer in found] == [32, 16, 8, 4, 2, 2]
    assert [layer["size_px"] for layer in stored.summary["layers"]["segmenter"]] == [32, 16, 8, 4, 2]


def test_layers_by_name(run, tmp_path):
    names = ["encoder.blocks.3", "encoder.blocks.1"]
    explain_study(work_on(run, tmp_path / "named", classifier_layers=names))
    found = open_stored(tmp_path / "named")
    assert [layer["name"] for layer in found.summary["layers"]["classifier"]] == names[::-1]
    assert len(found.summary["layers"]["segmenter"]) == 5
    assert found.maps("classifier_hrcam").shape[1:] == (16, 16)
    assert load_head(tmp_path / "named" / "classifier").layers.names == tuple(names[::-1])


@pytest.mark.parametrize(
    ("explain", "line"),
    [
        (
            {"classifier_layers": ["encoder.block.3"]},
            r"^explain\.classifier_layers: layer 'encoder\.block\.3' Classifier has none .* Did you mean .*blocks\.3, ",
        ),
        ({"segmenter_layers": ["unet.decoder"]}, r"^explain\.segmenter_layers: layer 'unet\.decoder' did not run"),
        ({"classifier_layers": ["encoder.bn2"] * 2}, r"^explain\.classifier_layers: a layer is named twice"),
    ],
)
def test_layers_that_cannot_be_used_are_told_in_one_line(run, tmp_path, explain, line):
    with pytest.raises(SettingsError, match=line) as caught:
        explain_study(work_on(run, tmp_path / "wrong", **explain))
    assert "\n" not in str(caught.value)


def test_a_label_that_is_nowhere_is_told_before_anything_is_computed(run, tmp_path, monkeypatch):
    monkeypatch.setattr(study_fit, "load_explained", None)
    monkeypatch.setattr(study_fit.Sources, "tumor", lambda _self, rows: np.ones(len(rows), bool))
    with pytest.raises(TileError, match=r"^training tiles: none of them is non_tumor, and HR-CAM needs some"):
        explain_study(work_on(run, tmp_path / "none"))


def test_where_no_tile_is_clear_the_clearest_are_learnt_from(run, tmp_path):
    work = work_on(run, tmp_path / "unclear", min_share=0.95)
    explain_study(work)
    summary = open_stored(tmp_path / "unclear").summary
    assert summary["min_share"] == 0.9
    usual = work_on(run, tmp_path / "usual", min_share=0.9)
    explain_study(usual)
    assert summary["hrcam_accuracy"] == open_stored(tmp_path / "usual").summary["hrcam_accuracy"]


def test_maps_that_are_not_finite_are_told(run, tmp_path):
    spoilt = tmp_path / "run"
    shutil.copytree(run, spoilt)
    model = load_model(run / "classifier")
    with torch.no_grad():
        model.module.logit.weight[:] = torch.inf
    save_model(spoilt / "classifier", model.module, CLASSIFIER)
    with pytest.raises(ModelError, match="classifier: its gradcam maps are not finite"):
        explain_study(work_on(spoilt, tmp_path / "explanations"))


class Killed(Silent):
    """Interrupts the work at its n-th step, whatever it is working on."""

    def __init__(self, steps):
        self.left = steps

    def task(self, *_):
        return self

    def __enter__(self):
        return self._step

    def __exit__(self, *_):
        return None

    def _step(self, *_):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def until_done(run, folder, progress_of, **explain):
    """Explain, again and again where it is interrupted; returns how often it was."""
    for kills in range(50):
        try:
            explain_study(work_on(run, folder, progress_of(kills), **explain), flips)
        except KeyboardInterrupt:
            continue
        return kills
    raise AssertionError("it comes to no end")


def flips(_task, generator):
    def change(images):
        mirrored = (torch.rand(len(images), generator=generator) < 0.5).view(-1, 1, 1, 1)
        return torch.where(mirrored, images.flip(3), images)

    return change


def test_killed_at_any_step_the_bytes_are_the_same(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(study_jobs, "BLOCK", 32)
    assert until_done(run, tmp_path / "killed", Killed) == 4
    assert digests(tmp_path / "killed") == digests(folder)


def test_what_is_finished_is_not_computed_again(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(study_jobs, "BLOCK", 32)
    with pytest.raises(KeyboardInterrupt):  # 2 times pooling, then 4 passes over the first 32 and the last 16 tiles
        explain_study(work_on(run, tmp_path / "killed", Killed(5)))
    assert {path.name for path in (tmp_path / "killed" / "unfinished" / "cpu" / "blocks").iterdir()} == {
        "000000000.npy",
        "000000000.parquet",
    }
    asked, maps = [], Explainer.maps
    monkeypatch.setattr(
        Explainer, "maps", lambda self, images, *rest: asked.append(len(images)) or maps(self, images, *rest)
    )
    monkeypatch.setattr(Explainer, "pool", None)
    explain_study(work_on(run, tmp_path / "killed"))
    assert asked == [16, 16]
    assert (tmp_path / "killed" / "saliency.npy").read_bytes() == (folder / "saliency.npy").read_bytes()


def test_a_job_computes_with_the_threads_of_who_began(run, tmp_path, monkeypatch):
    """The last digits depend on their number."""
    seen, maps = [], Explainer.maps
    monkeypatch.setattr(
        Explainer, "maps", lambda self, *rest: seen.append(torch.get_num_threads()) or maps(self, *rest)
    )
    work = work_on(run, tmp_path / "threads")
    with Threads(torch=2, blas=1).applied():
        study = study_jobs.Study.open(work, None)
    with Threads(torch=1, blas=1).applied():
        again = study_jobs.Study.open(work, None)
        study_jobs.fit_heads(pickle.loads(pickle.dumps(again.heads().jobs["classifier cpu"])), Silent())  # noqa: S301
        assert torch.get_num_threads() == 1
    assert (study.threads, seen) == (again.threads, [2])
    job = study_jobs.HeadJob(study=replace(study, device="cuda"), task="classifier")
    with pytest.raises(RunError, match="computes on cpu, and the others on cuda"):
        study_jobs.fit_heads(job, Silent())


def test_killed_while_it_clears_up_nothing_is_computed_again(run, folder, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "unfinished" / "blocks").mkdir(parents=True)
    monkeypatch.setattr(study, "Study", None)
    explain_study(work_on(run, copy))
    assert digests(copy) == digests(folder)
    assert not (copy / "unfinished").exists()


def test_epochs_instead_of_the_exact_solution(run, folder, stored, tmp_path):
    explain = {"training": "epochs", "epochs": 6, "learning_rate": 0.1, "classifier_layers": ["encoder.blocks.0"]}
    explain_study(work_on(run, tmp_path / "whole", **explain), flips)
    assert until_done(run, tmp_path / "killed", lambda kills: Killed(5 + kills), **explain) >= 2
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    assert set(digests(tmp_path / "whole")) == FILES
    found = open_stored(tmp_path / "whole")
    np.testing.assert_array_equal(found.maps("segmenter_gradcam"), stored.maps("segmenter_gradcam"))
    assert found.summary["hrcam_accuracy"]["segmenter"]["train_accuracy"] > 0.8
    weights = [load_head(each / "segmenter").weights for each in (folder, tmp_path / "whole")]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("most", [15, 5])
def test_batches_that_do_not_fit_are_halved(run, folder, test_images, most):
    explainer, hrcam_head = Explainer(load_model(run / "segmenter"), CPU), load_head(folder / "segmenter")
    expected = [explainer.pool(test_images), explainer.gradcam(test_images), explainer.hrcam(test_images, hrcam_head)]
    tried = []
    limit_memory(explainer.network, most, tried)
    pooled, grad, hr = (
        explainer.pool(test_images),
        explainer.gradcam(test_images),
        explainer.hrcam(test_images, hrcam_head),
    )
    torch.testing.assert_close(pooled, expected[0], atol=1e-4, rtol=1e-4)
    for found, whole in ((stack(grad), stack(expected[1])), (stack(hr), stack(expected[2]))):
        np.testing.assert_allclose(found, whole, atol=1e-4 * np.abs(whole).max())
    assert tried[:3] == [32, 16, 8]
    assert explainer.batches.size == {15: 8, 5: 4}[most]
    assert sum(n > most for n in tried) == {15: 2, 5: 3}[most]  # halved once and for all


def test_too_little_memory_for_one_tile_is_told(run, folder, test_images):
    explainer = Explainer(load_model(run / "classifier"), CPU, engine="torch")
    limit_memory(explainer.network, 0, [])
    expected = r"^explanation: cpu has too little memory for a single tile\. Free its memory"
    with pytest.raises(ModelError, match=expected):
        list(explainer.maps(test_images, ("gradcam", "hrcam"), {"hrcam": load_head(folder / "classifier")}))


def limit_memory(network, most, tried):
    """Let the encoder fail on more images than `most`."""

    def fail(_module, inputs):
        tried.append(len(inputs[0]))
        if len(inputs[0]) > most:
            raise torch.cuda.OutOfMemoryError("Tried to allocate")

    network.backbone.conv_stem.register_forward_pre_hook(fail)


def test_intensities_are_pooled_like_the_tiles_that_they_come_from(run, test_images):
    explainer = Explainer(Model(spec=CLASSIFIER, module=load_model(run / "classifier").module), CPU)
    assert torch.equal(explainer.pool(test_images), explainer.pool(intensities(torch.from_numpy(test_images))))


def test_shares_decide_which_tiles_hrcam_learns_from(run, tmp_path):
    """A tile may be labelled by few pixels; what counts here is the share of all of its pixels."""
    work = work_on(run, tmp_path / "shares")
    sources = study_fit.Sources.open(work.run, work.folder, work.folder / "unfinished", work.progress, "cpu")
    found = sources.clear("train")
    expected = [i for i, row in clear(tile_rows()).iterrows() if row["patient_id"] in {"P0", "P2", "P6"}]
    assert found.tolist() == expected
    assert (sources.tumor(found) == (tile_rows()["label"][expected] == "tumor")).all()
