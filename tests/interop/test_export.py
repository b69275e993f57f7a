from __future__ import annotations

import errno
import importlib
import json
import math
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import expit, softmax
from torch import nn
from torchvision import transforms

from vitrail import __version__
from vitrail.core import files
from vitrail.errors import ModelError
from vitrail.inference.predictor import Predictor
from vitrail.interop.onnx import export_onnx
from vitrail.interop.torchscript import ClassProbabilities, TumorLogits, record
from vitrail.interop.wsinfer import export_wsinfer
from vitrail.models.join import join_models
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.spec import ClassifierSpec, ReadingInfo, SegmenterSpec
from vitrail.models.store import build, load_model, model_digest, save_model
from vitrail.settings.load import EMBEDDED_ENCODER

TINY = "test_efficientnet"
SIDE = 48  # no multiple of 32
SHARED = {"encoder": TINY, "side_um": 199.1, "side_px": SIDE, "mean": (0.7, 0.5, 0.6), "std": (0.2, 0.25, 0.15),
          "temperature": 1.7}  # fmt: skip

with_onnx = pytest.mark.skipif(
    not (find_spec("onnx") and find_spec("onnxruntime")), reason="onnx or onnxruntime is not installed"
)
reads_torchscript = pytest.mark.filterwarnings("ignore:`torch.jit.load`")  # WSInfer and QuPath know nothing newer


def save(folder, spec, seed=0):
    """Save an untrained network whose probabilities differ from tile to tile."""
    torch.manual_seed(seed)
    module = build(spec).train()
    sample = torch.randn(6, 3, spec.side_px, spec.side_px) * 1.5 + 0.3
    with torch.no_grad():
        for _ in range(5):  # statistics of the batch normalisation that are not those of an untouched network
            module(sample)
        last = module.logit if spec.task == "classifier" else module.unet.segmentation_head[0]
        outputs = module.eval()(sample)
        last.weight.mul_(2 / outputs.std())
        last.bias.sub_(module(sample).mean())
    save_model(folder, module, spec)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return save(tmp_path_factory.mktemp("classifier"), ClassifierSpec(**SHARED, dense=16, dropout=0.5))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return save(tmp_path_factory.mktemp("segmenter"), SegmenterSpec(**SHARED, decoder=(16, 8, 8, 8, 8)))


@pytest.fixture(scope="module")
def wsinfer(classifier, tmp_path_factory):
    return export_wsinfer(classifier, tmp_path_factory.mktemp("wsinfer") / "model")


def tiles(count, height=SIDE, width=SIDE, seed=1):
    """Smooth tiles of very different colours, as bytes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 3, 3, 3)).astype(np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(tile).resize((width, height), Image.Resampling.BICUBIC)) for tile in coarse]
    )


def vitrails(folder, images):
    """What Vitrail itself makes of tiles, in float32."""
    model = load_model(folder)
    with torch.inference_mode():
        output = model.module(Normalizer(model.spec, torch.device("cpu"))(intensities(torch.tensor(images))))
    output = output / 1.7
    return (output.sigmoid() if model.spec.task == "classifier" else output.softmax(1)).numpy()


def test_vitrails_own_engine_computes_the_same(classifier, segmenter):
    engines = [Predictor(load_model(folder), torch.device("cpu"), engine="torch") for folder in (classifier, segmenter)]
    images = tiles(5)
    found = engines[0].tumor_probability(images), engines[1].class_probabilities(images)
    for folder, probabilities in zip((classifier, segmenter), found, strict=True):
        np.testing.assert_allclose(probabilities, vitrails(folder, images), rtol=0, atol=3e-6)


def by_wsinfer(folder, images):
    """Do what WSInfer does with tiles: the transforms of config.json, the network, a softmax."""
    config = json.loads((folder / "config.json").read_text())
    steps = [getattr(transforms, step["name"])(**step.get("arguments", {})) for step in config["transform"]]
    batch = torch.stack([transforms.Compose(steps)(Image.fromarray(image)) for image in images])
    with torch.no_grad():
        return torch.jit.load(folder / "torchscript_model.pt")(batch).softmax(1).numpy()


@reads_torchscript
@pytest.mark.parametrize("count", [1, 7])
def test_wsinfer_computes_vitrails_probabilities(classifier, wsinfer, count):
    images = tiles(count)
    expected, found = vitrails(classifier, images), by_wsinfer(wsinfer, images)
    assert count == 1 or np.ptp(expected) > 0.1
    np.testing.assert_allclose(found[:, 1], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, rtol=0, atol=1e-6)


@reads_torchscript
def test_the_default_encoder_is_exported_too(tmp_path):
    spec = ClassifierSpec(**SHARED | {"encoder": EMBEDDED_ENCODER}, dense=16, dropout=0.5)
    folder, images = save(tmp_path / "model", spec), tiles(3)
    found = by_wsinfer(export_wsinfer(folder, tmp_path / "out"), images)
    np.testing.assert_allclose(found[:, 1], vitrails(folder, images), rtol=0, atol=1e-5)


@reads_torchscript
def test_a_linear_dense_layer_is_exported_as_linear(tmp_path):
    spec = ClassifierSpec(**SHARED, dense=16, dropout=0.5, activation="linear")
    folder, images = save(tmp_path / "model", spec), tiles(3)
    found = by_wsinfer(export_wsinfer(folder, tmp_path / "out"), images)
    np.testing.assert_allclose(found[:, 1], vitrails(folder, images), rtol=0, atol=1e-5)


def test_the_configuration_is_the_zoos(wsinfer):
    config = json.loads((wsinfer / "config.json").read_text())
    types = {
        "spec_version": str, "architecture": str, "num_classes": int, "patch_size_pixels": int,
        "spacing_um_px": float, "class_names": list, "transform": list,
    }  # fmt: skip
    assert {key: type(value) for key, value in config.items()} == types
    assert config["spec_version"] == "1.0"
    assert config["architecture"] == TINY
    assert config["class_names"] == ["Non-tumor", "Tumor"]
    assert config["num_classes"] == 2
    assert config["patch_size_pixels"] == SIDE
    assert config["patch_size_pixels"] * config["spacing_um_px"] == pytest.approx(199.1)
    assert [step["name"] for step in config["transform"]] == ["Resize", "ToTensor", "Normalize"]
    assert all(set(step) <= {"name", "arguments"} for step in config["transform"])
    assert config["transform"][0]["arguments"] == {"size": SIDE}  # QuPath takes one number, no pair
    assert config["transform"][2]["arguments"] == {"mean": [0.7, 0.5, 0.6], "std": [0.2, 0.25, 0.15]}


@reads_torchscript
def test_torchscript_keeps_the_specification_and_no_path_of_this_machine(classifier, wsinfer):
    inside = {"model.json": ""}
    torch.jit.load(wsinfer / "torchscript_model.pt", _extra_files=inside)
    assert json.loads(inside["model.json"]) == json.loads((classifier / "model.json").read_text())
    with zipfile.ZipFile(wsinfer / "torchscript_model.pt") as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert b"classifier.py" not in content
    assert str(Path(__file__).parents[2]).encode() not in content


@with_onnx
def test_the_same_model_gives_the_same_onnx_file(classifier, tmp_path):
    first, second = (export_onnx(classifier, tmp_path / name).read_bytes() for name in ("a.onnx", "b.onnx"))
    assert first == second


@pytest.mark.parametrize("z", [-40.0, -3.0, 0.0, 0.7, 40.0])
def test_the_softmax_of_both_logits_is_the_sigmoid_of_one(z):
    logits = TumorLogits(nn.Identity())(torch.tensor([z], dtype=torch.float64))
    assert logits.softmax(1)[0, 1].item() == pytest.approx(1 / (1 + math.exp(-z)), rel=1e-12)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (31, 65), (32, 64), (48, 48)])
def test_padding_in_the_graph_is_the_segmenters_own(segmenter, height, width):
    model, images = load_model(segmenter), tiles(2, height, width)
    with torch.no_grad():
        found = ClassProbabilities(model.module, model.spec)(torch.tensor(images)).numpy()
    np.testing.assert_allclose(found, vitrails(segmenter, images), rtol=0, atol=3e-6)


@with_onnx
@pytest.mark.parametrize("count", [1, 5])
def test_onnx_classifier_computes_vitrails_probabilities(classifier, tmp_path, count):
    session, images = _session(export_onnx(classifier, tmp_path)), tiles(count)
    (found,) = session.run(["probabilities"], {"images": images})
    np.testing.assert_allclose(found, vitrails(classifier, images), rtol=0, atol=1e-4)
    assert found.shape == (count,)
    assert session.get_inputs()[0].shape == ["n", SIDE, SIDE, 3]


@with_onnx
def test_onnx_segmenter_takes_images_of_any_size(segmenter, tmp_path):
    session = _session(export_onnx(segmenter, tmp_path / "deeper" / "tissue.onnx"))
    assert session.get_inputs()[0].shape == ["n", "h", "w", 3]
    for count, height, width in ((1, SIDE, SIDE), (3, 32, 64), (2, 33, 70), (1, 100, 31)):
        images = tiles(count, height, width)
        (found,) = session.run(["probabilities"], {"images": images})
        expected = vitrails(segmenter, images)
        assert np.ptp(expected) > 0.1
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def ensembles(tmp_path_factory):
    """Two ensembles of networks that standardise their inputs otherwise."""
    folder = tmp_path_factory.mktemp("ensembles")
    makes = {
        "classifier": lambda **own: ClassifierSpec(**SHARED | own, dense=16, dropout=0.5),
        "segmenter": lambda **own: SegmenterSpec(**SHARED | own, decoder=(16, 8, 8, 8, 8)),
    }
    for task, make in makes.items():
        colours = ({}, {"mean": (0.5, 0.4, 0.7)}, {"std": (0.3, 0.1, 0.2)})
        members = [save(folder / f"{task}-{seed}", make(**own), seed) for seed, own in enumerate(colours)]
        join_models(members, folder / task)
    return folder


@with_onnx
@pytest.mark.parametrize("task", ["classifier", "segmenter"])
def test_onnx_of_an_ensemble_is_the_mean_of_its_members(ensembles, task, tmp_path):
    session = _session(export_onnx(ensembles / task, tmp_path))
    sizes = [(SIDE, SIDE)] if task == "classifier" else [(SIDE, SIDE), (33, 70)]
    for height, width in sizes:
        images, logits = tiles(3, height, width), []
        for seed in range(3):
            p = vitrails(ensembles / f"{task}-{seed}", images)
            logits.append(np.log(p / (1 - p)) if task == "classifier" else np.log(p))
        mean = np.mean(logits, 0)
        expected = expit(mean) if task == "classifier" else softmax(mean, 1)
        (found,) = session.run(["probabilities"], {"images": images})
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(vitrails(ensembles / task, images), expected, rtol=0, atol=1e-4)


@reads_torchscript
def test_wsinfer_of_an_ensemble_is_the_mean_of_its_members(ensembles, tmp_path):
    images = tiles(5)
    found = by_wsinfer(export_wsinfer(ensembles / "classifier", tmp_path / "out"), images)
    np.testing.assert_allclose(found[:, 1], vitrails(ensembles / "classifier", images), rtol=0, atol=1e-5)


@with_onnx
@pytest.mark.parametrize("task", ["classifier", "segmenter"])
def test_onnx_is_valid_and_says_what_it_is(request, task, tmp_path):
    onnx = importlib.import_module("onnx")
    folder = request.getfixturevalue(task)
    path = export_onnx(folder, tmp_path)
    assert path == tmp_path / f"{task}.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    told = {entry.key: entry.value for entry in model.metadata_props}
    classes = ["tumor"] if task == "classifier" else ["tumor", "non_tumor", "other", "background"]
    assert json.loads(told.pop("classes")) == classes
    assert float(told.pop("mpp")) == 199.1 / SIDE
    assert told == {"task": task, "side_px": "48", "vitrail": __version__, "digest": model_digest(folder)}
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


def _session(path):
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def test_the_digest_tells_weights_and_specifications_apart(tmp_path):
    spec = ClassifierSpec(**SHARED, dense=16, dropout=0.5)
    folders = [save(tmp_path / "a", spec), save(tmp_path / "b", spec), save(tmp_path / "c", spec, seed=1)]
    folders.append(save(tmp_path / "d", spec.model_copy(update={"side_um": 200.0})))
    a, b, c, d = (model_digest(folder) for folder in folders)
    assert a == b
    assert len({a, c, d}) == 3


def test_of_normalised_stain_wsinfer_knows_nothing(tmp_path):
    spec = ClassifierSpec(**SHARED, dense=16, dropout=0.5, reading=ReadingInfo(stain="macenko"))
    with pytest.raises(ModelError, match=r"stain was normalised, which WSInfer does not do\. Train one with"):
        export_wsinfer(save(tmp_path / "classifier", spec), tmp_path / "out")


def test_a_segmenter_is_refused_by_wsinfer(segmenter, tmp_path):
    with pytest.raises(ModelError, match=r"is a segmenter, and WSInfer classifies whole tiles\. Give the folder"):
        export_wsinfer(segmenter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_one_line_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelError) as caught:
        export_onnx(tmp_path, tmp_path / "out.onnx")
    assert str(caught.value) == "ONNX export: the package onnx is not installed. Run: pip install 'vitrail[onnx]'."


class Fickle(nn.Module):
    """Computes something else for batches."""

    def forward(self, x):
        return x * 2 if len(x) == 1 else x * 3


class Stiff(nn.Module):
    """Can be recorded for one size only."""

    def forward(self, x):
        return x.reshape(int(x.shape[0]), int(x.shape[1]) * 2, -1)


@pytest.mark.parametrize("network", [Fickle(), Stiff()])
def test_a_network_that_cannot_be_recorded_is_refused(network):
    with pytest.raises(ModelError, match=r"^here: cannot be recorded: .* Export a model with another encoder\.$"):
        record(network, torch.ones(1, 4, 2), torch.ones(2, 4, 2), "here")


def test_a_full_disk_leaves_the_earlier_export_as_it_was(tmp_path, monkeypatch):
    files.write_together(tmp_path, {"model": b"old", "config": b"old"})
    write = Path.write_bytes

    def full(path, content):
        if "config" in path.name:
            write(path, content[:1])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_together(tmp_path, {"model": b"new", "config": b"new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"model": b"old", "config": b"old"}


def test_what_a_kill_interrupts_does_not_look_whole(tmp_path, monkeypatch):
    files.write_together(tmp_path, {"model": b"old", "config": b"old"})

    def killed(_temporary, path):
        raise KeyboardInterrupt(path)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_together(tmp_path, {"model": b"new", "config": b"new"})
    assert not (tmp_path / "config").exists()


def test_one_file_alone_is_the_old_or_the_new_one(tmp_path, monkeypatch):
    files.write_together(tmp_path, {"model.onnx": b"old"})
    monkeypatch.setattr(Path, "replace", lambda *_paths: None)
    files.write_together(tmp_path, {"model.onnx": b"new"})
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
