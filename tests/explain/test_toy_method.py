"""The proof that a method is one file: one that the paper does not have is dropped in, and appears everywhere."""

from __future__ import annotations

import json
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.cohort import tissue
from helpers.command import vitrail
from helpers.explained_run import CPU, work_on, write_run
from helpers.mapped import settings, write_slide
from vitrail.errors import SettingsError
from vitrail.explain import methods as folder_of_methods
from vitrail.explain.checks.results import open_checked
from vitrail.explain.checks.stage import check_study
from vitrail.explain.dense import dense_network
from vitrail.explain.explainer import Explainer
from vitrail.explain.methods.base import METHODS, explaining_classifier, find_heads, methods_named
from vitrail.explain.study.stage import explain_study
from vitrail.explain.study.store import open_stored
from vitrail.inference.map_slide import Networks, map_slide
from vitrail.inference.outputs import MapFiles
from vitrail.inference.predictor import Predictor, explaining_predictors
from vitrail.interop.class_map import read_class_map
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.store import load_model
from vitrail.pipeline.stages import stages_of
from vitrail.settings.load import Settings
from vitrail.slides.cohort import CohortSlide
from vitrail.slides.slide import open_slide

NAMES = ("gradcam", "hrcam", "toy")
PAIRS = {
    "classifier_gradcam_hrcam", "classifier_gradcam_toy", "classifier_hrcam_toy", "segmenter_gradcam_hrcam",
    "segmenter_gradcam_toy", "segmenter_hrcam_toy", "gradcam_classifier_segmenter", "hrcam_classifier_segmenter",
    "toy_classifier_segmenter",
}  # fmt: skip

TOY = '''
"""The mean of a classifier's final feature maps; of a segmenter the gradient of its tumor logits at each pixel."""

import torch

from vitrail.classes import TissueClass
from vitrail.explain.fused import Reader
from vitrail.explain.hooks import frozen
from vitrail.explain.layers import final_stride
from vitrail.explain.methods.base import ExplanationMethod
from vitrail.explain.receptive_field import FEATURES
from vitrail.explain.saliency import Frame, Maps
from vitrail.models.classifier import Classifier


class Toy(ExplanationMethod):
    name, title, colour = "toy", "Toy map", (0, 128, 128)
    on_slides = True

    def reader(self, network, head=None):
        if not isinstance(network, Classifier):
            return None

        def read(layer, maps, own):
            return maps.mean(1)

        return Reader(method="toy", layers=(FEATURES,), strides=(final_stride(network),), read=read, unit="mean")

    def explain(self, network, images, target=TissueClass.TUMOR, *, head=None, pixels="predicted", **_):
        if isinstance(network, Classifier):
            return super().explain(network, images, target)
        with frozen(network):
            leaf = images.detach().requires_grad_()
            output = network(leaf)
            (gradient,) = torch.autograd.grad(output[:, target].sum(), leaf)
        frame = Frame(image_px=tuple(images.shape[2:]), span_px=tuple(images.shape[2:]))
        values, output = gradient.sum(1).detach(), output.detach()
        return Maps(method="toy", layers=("pixels",), target=target.key, values=values, output=output, frame=frame)


METHOD = Toy()
'''


@pytest.fixture(scope="module", autouse=True)
def toy(tmp_path_factory):
    """One file more among the methods."""
    place = tmp_path_factory.mktemp("methods")
    (place / "toy.py").write_text(TOY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_of_methods, "__path__", [*folder_of_methods.__path__, str(place)])
        patch.setattr(METHODS, "_methods", None)  # as in a process that has not looked yet
        yield
        patch.delitem(sys.modules, "vitrail.explain.methods.toy")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run explained with all three."""
    run = write_run(tmp_path_factory.mktemp("run"))
    explain_study(work_on(run, run / "explanations", methods=NAMES))
    return run


@pytest.fixture(scope="module")
def stored(run):
    return open_stored(run / "explanations")


def test_it_is_found_by_itself():
    assert set(NAMES) <= set(METHODS)
    assert [method.title for method in methods_named(("toy", "gradcam"))] == ["Toy map", "Grad-CAM"]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("lime",), r"^explain\.methods: there is no method 'lime'\. There are .*gradcam, .*hrcam, .*, toy\."),
        (("toy", "toy"), "a method is named twice"),
        ((), "names no method"),
    ],
)
def test_names_that_are_wrong_are_told_before_anything_is_computed(names, problem):
    with pytest.raises(SettingsError, match=problem):
        stages_of(Settings.model_validate({"explain": {"methods": names}}))


def passes_of(explainer, images, names, heads):
    """Explain, and count the passes through the encoder's first layer."""
    passes = []
    handle = explainer.network.backbone.conv_stem.register_forward_hook(lambda *_: passes.append(1))
    (batch,) = explainer.maps(images, names, heads)
    handle.remove()
    return batch, len(passes)


@pytest.mark.parametrize(
    ("network", "names", "count"),
    [
        ("classifier", NAMES, 1),
        ("segmenter", NAMES, 2),  # Grad-CAM's, to which HR-CAM listens, and the toy's
        ("segmenter", ("hrcam", "toy"), 1),
    ],
)
def test_methods_share_passes_and_give_what_each_gives_alone(run, network, names, count):
    explainer = Explainer(load_model(run / network), CPU, engine="torch")
    images = np.load(run / "tiles" / "images.npy")[:8]
    heads, missing = find_heads(run / network, methods_named(NAMES))
    assert (set(heads), missing) == ({"hrcam"}, {})
    list(explainer.maps(images, names, heads))  # now it is known where cells look
    batch, passes = passes_of(explainer, images, names, heads)
    assert passes == count
    for name, maps in zip(names, batch, strict=True):
        (alone,) = next(explainer.maps(images, [name], heads))
        assert torch.equal(maps.values, alone.values)
        assert (maps.method, maps.target, maps.frame) == (name, "tumor", alone.frame)


def test_its_maps_are_stored_and_agreement_is_measured(run, stored):
    assert stored.keys == tuple(f"{network}_{name}" for network in ("classifier", "segmenter") for name in NAMES)
    assert stored.methods == {"gradcam": "Grad-CAM", "hrcam": "HR-CAM", "toy": "Toy map"}
    assert set(stored.summary["agreement"]) == PAIRS
    images = np.load(run / "tiles" / "images.npy")[stored.rows["tile"]]
    x = Normalizer(load_model(run / "classifier").spec, CPU)(intensities(torch.from_numpy(images)))
    with torch.no_grad():
        dense = dense_network(load_model(run / "classifier").module.eval(), **stored.dense)
        every_cell = dense.network.features(dense.continued(x)).mean(1).numpy()
    maps = stored.maps("classifier_toy")
    cells = np.lib.stride_tricks.sliding_window_view(every_cell[:2], maps.shape[1:], (1, 2))
    assert np.isclose(cells, maps[:2, None, None], atol=1e-4).all((0, 3, 4)).sum() == 1  # those of the tile
    assert stored.maps("segmenter_toy").shape == images.shape[:3]
    i = 7
    maps = [stored.saliency(key, i).upsample().ravel() for key in ("segmenter_toy", "segmenter_hrcam")]
    measured = stored.agreement["segmenter_hrcam_toy"][i]
    assert measured == pytest.approx(np.corrcoef(*maps)[0, 1], abs=1e-5)


def test_it_may_be_the_only_one(run, tmp_path):
    explain_study(work_on(run, tmp_path / "alone", methods=["toy"]))
    alone, everything = open_stored(tmp_path / "alone"), open_stored(run / "explanations")
    assert alone.keys == ("classifier_toy", "segmenter_toy")
    assert set(alone.summary["agreement"]) == {"toy_classifier_segmenter"}
    assert not {"hrcam_accuracy", "segmenter"} & set(alone.summary)
    np.testing.assert_allclose(alone.maps("classifier_toy"), everything.maps("classifier_toy"), atol=1e-4)
    np.testing.assert_allclose(alone.rows["segmenter"], everything.rows["segmenter"])


def test_without_a_whole_pass_the_networks_say_the_same(run, stored, tmp_path):
    """HR-CAM alone runs no decoder; what the segmenter says is then asked for."""
    explain_study(work_on(run, tmp_path / "hrcam", methods=["hrcam"]))
    found = open_stored(tmp_path / "hrcam")
    np.testing.assert_allclose(found.rows["segmenter"], stored.rows["segmenter"], atol=1e-3)


def test_a_picture_is_explained_with_it(run, tmp_path, capsys):
    Image.fromarray(tissue(3, 64)).save(tmp_path / "nest.png")
    command = ("explain", tmp_path / "nest.png", "--model", run / "segmenter", "-o", tmp_path)
    assert vitrail(*command, "--method", "toy", "--method", "hrcam") == 0
    assert [path.name for path in sorted(tmp_path.glob("*.npy"))] == [
        "nest-segmenter-hrcam.npy",
        "nest-segmenter-toy.npy",
    ]
    assert np.load(tmp_path / "nest-segmenter-toy.npy").shape == (64, 64)
    assert vitrail(*command, "--method", "lime") == 2
    assert "--method: there is no method 'lime'" in capsys.readouterr().err
    assert vitrail("explain", run, "--method", "toy") == 2
    assert "--method: a run is explained as its settings say" in capsys.readouterr().err


def test_whole_slides_are_explained_with_it(run, tmp_path):
    model = load_model(run / "classifier")
    heads, _ = find_heads(run / "classifier", methods_named(NAMES))
    explaining = partial(explaining_classifier, pixels=32, methods=methods_named(NAMES), heads=heads)
    predictors = explaining_predictors(run / "classifier", settings(), explaining)
    files = MapFiles(base=tmp_path / "slide")
    slide = open_slide(write_slide(tmp_path / "slide.tif"))
    networks = Networks(classifier=Predictor(model, CPU), explaining=predictors)
    map_slide(slide, networks, settings(explained=True), files)
    channels = read_class_map(files.explained).header.channels
    assert [(channel.name, channel.rgb) for channel in channels][2] == ("Toy map", (0, 128, 128))
    facts = json.loads(files.facts.read_text())["explained"]
    assert set(facts["agreements"]) == {"gradcam_hrcam", "gradcam_toy", "hrcam_toy"}
    assert facts["agreement"] == facts["agreements"]["gradcam_hrcam"]
    assert list(facts["methods"]) == list(NAMES)
    images = np.load(run / "tiles" / "images.npy")[:3]
    _, maps = predictors(1).explained(images)
    for saliency, values in zip(toy_saliencies(run, images), maps[:, 2], strict=True):
        fine = saliency.upsample((32 * 8, 32 * 8)).reshape(32, 8, 32, 8).mean((1, 3))
        np.testing.assert_allclose(values, fine, atol=1e-4)


def toy_saliencies(run, images):
    explainer = Explainer(load_model(run / "classifier"), CPU, engine="torch")
    return [saliency for (maps,) in explainer.maps(images, ["toy"]) for saliency in maps.saliencies()]


def test_it_is_checked(run):
    work = work_on(run, run / "checks", methods=NAMES)
    slides = [
        CohortSlide(slide_id=f"S{i}", patient_id=f"P{i}", slide=run / f"S{i}.tif", annotations=run / "none")
        for i in range(7)
    ]
    check_study(work, tuple(slides))
    checked = open_checked(run / "checks")
    for check in ("perturbation", "randomisation"):
        assert {"classifier_toy", "segmenter_toy"} <= set(checked.summary[check])
    assert "toy" in set(checked.perturbation["order"])
    assert "toy" in set(checked.randomisation["method"])
