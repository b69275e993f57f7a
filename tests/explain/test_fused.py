"""Whole slides explained: what the Explainer says, blended from windows without a seam, and a killed run goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image
from scipy.stats import pearsonr, spearmanr

from helpers.mapped import HEIGHT, MPP, SIDE_PX, SIDE_UM, WIDTH, Reds, pen_mark, settings, write_slide
from helpers.networks import CLASSIFIER, SEGMENTER, random_head, random_network
from vitrail.errors import ModelError
from vitrail.explain.dense import dense_network
from vitrail.explain.explainer import Explainer
from vitrail.explain.fused import POINTS, ExplainingClassifier, Reader, read_pass
from vitrail.explain.layers import find_layers
from vitrail.explain.methods.base import METHODS, explaining_classifier, methods_named, slide_readers
from vitrail.explain.receptive_field import frames
from vitrail.geometry import Region
from vitrail.inference.map_slide import Networks, map_slide
from vitrail.inference.outputs import MAP_PX, MapFiles
from vitrail.inference.predictor import Explaining, Predictor
from vitrail.interop.class_map import Channel, read_class_map
from vitrail.models.candidates import Tuning
from vitrail.models.preprocessing import Normalizer, intensities
from vitrail.models.store import Model
from vitrail.pipeline.stages import STAGES, stages_of
from vitrail.quality.tissue import find_tissue
from vitrail.report.figures.explained_slide import read_explained, save_explained_figure
from vitrail.report.figures.slide_maps import read_slide_maps
from vitrail.settings.load import Settings
from vitrail.slides.slide import open_slide, read_region
from vitrail.stage import chain

CPU = torch.device("cpu")
ENGINES = ["torch", pytest.param("openvino", marks=pytest.mark.skipif(find_spec("openvino") is None, reason="extra"))]


def network():
    model = Model(spec=CLASSIFIER, module=random_network(CLASSIFIER).eval())
    return model, random_head(find_layers(model.module))


def explaining(model, hrcam_head, engine, **geometry):
    heads = {} if hrcam_head is None else {"hrcam": hrcam_head}
    explaining = explaining_classifier(model, MAP_PX, methods_named(("gradcam", "hrcam")), heads, **geometry)
    return Predictor(model, CPU, engine=engine, explaining=explaining)


def tiles_of(side, count=5):
    rng = np.random.default_rng(side)
    coarse = rng.integers(0, 256, (count, 4, 4, 3)).repeat(-(-side // 4), 1).repeat(-(-side // 4), 2)[:, :side, :side]
    return np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)


def averaged(saliency):
    """A map in the pixels of the slide's: means of what `upsample` gives."""
    fine = saliency.upsample((MAP_PX * POINTS,) * 2).astype(np.float64)
    return fine.reshape(MAP_PX, POINTS, MAP_PX, POINTS).mean((1, 3))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("side", [64, 80])
def test_maps_and_logits_are_those_of_the_explainer(engine, side):
    model, hrcam_head = network()
    model = Model(spec=CLASSIFIER.model_copy(update={"side_px": side}), module=model.module)
    images = tiles_of(side)
    plain = Predictor(model, CPU, engine=engine).tumor_probability(images)
    alone = [Explainer(model, CPU, engine="torch").gradcam(images)]
    alone.append(Explainer(model, CPU, engine="torch").hrcam(images, hrcam_head))
    whole = explaining(model, hrcam_head, engine)
    logits, maps = whole.explained(images)
    assert maps.shape == (5, 2, MAP_PX, MAP_PX)
    for number, saliencies in enumerate(alone):
        expected = np.stack([averaged(saliency) for saliency in saliencies])
        assert np.abs(expected).max() > 0
        assert np.abs(maps[:, number] - expected).max() <= 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(whole.probability(logits), plain, atol=1e-6)
    np.testing.assert_array_equal(whole.tumor_logits(images), logits)


def test_grad_cams_unit_is_what_is_said_of_it():
    model, hrcam_head = network()
    images, head, explainer = tiles_of(64), model.module, Explainer(model, CPU, engine="torch")
    whole = explaining(model, hrcam_head, "torch")
    logits, _ = whole.explained(images)
    cells = np.stack([each.values for each in explainer.gradcam(images)])  # noqa: PD011 - no data frame
    assert list(cells.shape[1:]) == whole.methods["gradcam"]["cells"]
    pooled = Explainer(model, CPU, layers=find_layers(head, ("encoder.bn2",)), engine="torch").pool(images)
    with torch.no_grad():
        active = (head.dense(pooled) > 0) * head.logit.weight
        biases = active @ head.dense.bias + head.logit.bias
    np.testing.assert_allclose(cells.sum((1, 2)) + biases.numpy(), logits, rtol=1e-4, atol=1e-5)


def test_windows_of_several_tiles_have_the_unit_of_one():
    model, hrcam_head = network()
    images = tiles_of(128, 2)
    _, windows = explaining(model, hrcam_head, "torch", tiles=2, stride=8, margin_px=32).explained(images)
    larger = Model(spec=CLASSIFIER.model_copy(update={"side_px": 128}), module=model.module)
    heads = {"hrcam": hrcam_head}
    methods = methods_named(("gradcam", "hrcam"))
    one = explaining_classifier(larger, 2 * MAP_PX, methods, heads, stride=8, margin_px=32)
    _, alone = Predictor(larger, CPU, engine="torch", explaining=one).explained(images)
    assert windows.shape == (2, 2, 2 * MAP_PX, 2 * MAP_PX)
    np.testing.assert_allclose(windows[:, 0], 4 * alone[:, 0], atol=1e-5 * np.abs(windows[:, 0]).max())
    np.testing.assert_allclose(windows[:, 1], alone[:, 1], atol=1e-5 * np.abs(windows[:, 1]).max())


@pytest.mark.parametrize("engine", ENGINES)
def test_closer_cells_are_averaged_over_the_networks_own_stride(engine):
    model, _ = network()
    images = tiles_of(128, 2)
    _, maps = explaining(model, None, engine, tiles=2, stride=8, margin_px=32).explained(images)
    dense = dense_network(model.module, 8, 32)
    (reader,) = slide_readers(model, methods_named(("gradcam",)), {}).values()
    batch = Normalizer(model.spec, CPU)(intensities(torch.from_numpy(images)))
    with torch.no_grad():
        _, sums = read_pass(model.module, batch, [reader], dense=dense)
    cells = sums["gradcam"][0].numpy()  # 24 a side: 128 pixels and a margin of 32
    (frame,) = frames(dense.network, (3, 192, 192), reader.layers, (8,))
    boxes = np.lib.stride_tricks.sliding_window_view(cells, (4, 4), (1, 2)).mean((3, 4))
    rows, columns = (at[:-3] + 12 for at in frame.centres((24, 24)))
    points = 32 + (np.arange(2 * MAP_PX * POINTS) + 0.5) * (128 / (2 * MAP_PX * POINTS))
    inside = (points > 48) & (points < 144)
    expected = np.stack(
        [
            [np.interp(points, columns, line) for line in np.stack([np.interp(points, rows, c) for c in box.T], 1)]
            for box in boxes
        ]
    )
    means = (expected * 4).reshape(2, 2 * MAP_PX, POINTS, 2 * MAP_PX, POINTS).mean((2, 4))
    within = inside.reshape(-1, POINTS).all(1)
    found = maps[:, 0][:, within][:, :, within]
    np.testing.assert_allclose(found, means[:, within][:, :, within], atol=1e-4 * np.abs(means).max())


def test_what_runs_on_closer_cells_follows_to_a_device():
    model, hrcam_head = network()
    module = explaining_classifier(
        model, MAP_PX, methods_named(("gradcam", "hrcam")), {"hrcam": hrcam_head}, tiles=2, stride=8, margin_px=32
    ).module.to("meta")
    assert {each.device.type for each in (*module.parameters(), *module.buffers())} == {"meta"}
    closer = module.closer
    assert {each.device.type for each in (*closer.parameters(), *closer.buffers())} == {"meta"}


def stem_reader(weights):
    """A reader of the first convolution, whose map is a linear function of the pixels around."""

    def read(_layer, maps, _own):
        return torch.einsum("nchw,c->nhw", maps, weights)

    return Reader(method="stem", layers=("encoder.conv_stem",), strides=(2,), read=read, unit="any")


def test_a_linear_map_is_the_same_whatever_the_windows(tmp_path, monkeypatch):
    model, _ = network()
    spec = model.spec.model_copy(update={"side_um": 64.0, "side_px": 64})
    model, slide = Model(spec=spec, module=model.module), open_slide(write_slide(tmp_path / "slide.tif"))
    reader = stem_reader(torch.randn(model.module.encoder.conv_stem.out_channels, generator=torch.manual_seed(0)))
    dense, found, indices = dense_network(model.module, 8, 32), [], []

    def predictor(tiles):
        module = ExplainingClassifier(model.module, [reader], dense, pixels=MAP_PX, side_px=64, tiles=tiles)
        channels = {"stem": Channel(name="Stem", rgb=(1, 2, 3))}
        own = Explaining(module=module, methods=module.methods, channels=channels)
        return Predictor(model, CPU, engine="torch", explaining=own)

    for most in (1, 3, 6):
        monkeypatch.setattr("vitrail.inference.sliding._EXPLAINED_TILES", most)
        files = MapFiles(base=tmp_path / f"{most}")
        networks = Networks(classifier=Predictor(model, CPU, engine="torch"), explaining=predictor)
        map_slide(slide, networks, settings(explained=True), files)
        found.append(read_class_map(files.explained).read())
        indices.append(json.loads(files.facts.read_text())["explained"]["seam_index"]["stem"])
    largest = np.nanmax(np.abs(found[2]))
    for each in found[:2]:
        np.testing.assert_allclose(each, found[2], atol=0.01 * largest)
    for each in indices:
        assert each["tiles"] == pytest.approx(indices[2]["tiles"], rel=0.01)
        assert max(each["tiles"], each["windows"]) < 1.1


def test_a_model_that_predicts_in_16_bits_is_explained_in_32(monkeypatch):
    model, hrcam_head = network()
    images = tiles_of(64)
    full = explaining(model, hrcam_head, "torch").explained(images)
    monkeypatch.setattr("vitrail.models.candidates.agreed_type", lambda *_: "bfloat16")
    monkeypatch.setattr(
        "vitrail.inference.predictor.Trial.choose", lambda trial: replace(trial.default, precision="bfloat16")
    )
    half = Predictor(model, CPU, engine="torch", tuning=Tuning(images=10**6))
    assert not np.array_equal(half.tumor_logits(images), full[0])
    for before, now in zip(full, explaining(model, hrcam_head, "torch").explained(images), strict=True):
        np.testing.assert_array_equal(now, before)


def test_without_a_dense_layer_there_is_grad_cam_alone():
    model, hrcam_head = network()
    both, alone = (explaining(model, each, "torch").explained(tiles_of(64)) for each in (hrcam_head, None))
    assert alone[1].shape == (5, 1, MAP_PX, MAP_PX)
    np.testing.assert_array_equal(alone[1][:, 0], both[1][:, 0])
    np.testing.assert_array_equal(alone[0], both[0])


def test_a_segmenter_is_refused():
    model = Model(spec=SEGMENTER, module=random_network(SEGMENTER).eval())
    with pytest.raises(ModelError, match="cannot be explained on whole slides"):
        explaining_classifier(model, MAP_PX, methods_named(("gradcam", "hrcam")), {})


def test_maps_that_are_not_finite_are_an_error():
    model, hrcam_head = network()
    hrcam_head.weights[3] = np.inf
    with pytest.raises(ModelError, match="not finite"):
        explaining(model, hrcam_head, "torch").explained(tiles_of(64))


def test_explained_slides_need_what_the_stage_explain_fits():
    plain, explained = (Settings.model_validate({"predict": {"explained": each}}) for each in (False, True))
    assert stages_of(plain) is STAGES
    names = [stage.name for stage in chain(stages_of(explained), "predict")]
    assert names == ["tiles", "split", "classifier", "segmenter", "explain", "predict"]
    assert sorted(stage.name for stage in stages_of(explained)) == sorted(stage.name for stage in STAGES)


class Why(Reds):
    """Stands in for an engine that explains: red less a half, and red less green."""

    def __init__(self, patience=10**9):
        super().__init__("classifier", patience)
        self.methods = {"gradcam": {"layers": ["a"]}, "hrcam": {"layers": ["b"]}}
        self.channels = {name: Channel(name=METHODS[name].title, rgb=METHODS[name].colour) for name in self.methods}

    def explained(self, images):
        red, green = self._seen(images), images[..., 1].astype(np.float32) / 255
        return red.mean((1, 2)).astype(np.float64), np.stack([red - 0.5, red - green], 1)


def mapped(folder, engine=None, **predict):
    slide, files = open_slide(write_slide(folder / "slide.tif")), MapFiles(base=folder / "slide")
    engine = engine or Why()
    networks = Networks(classifier=Reds("classifier"), explaining=lambda _: engine)
    map_slide(slide, networks, settings(explained=True, **predict), files)
    return slide, files


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return mapped(tmp_path_factory.mktemp("whole"))


def test_maps_lie_where_their_tiles_are(whole):
    slide, files = whole
    stored = read_class_map(files.explained)
    header = stored.header
    assert (header.size, header.mpp, header.depth) == ((WIDTH // 2, HEIGHT // 2), SIDE_UM / MAP_PX, "float32")
    assert [channel.name for channel in header.channels] == ["Grad-CAM", "HR-CAM"]
    found = stored.read()
    tiles = pd.read_parquet(files.tiles)
    assert SIDE_PX == MAP_PX  # a tile's pixels are the map's
    looked = np.zeros(found.shape[:2], bool)
    for x, y, side in tiles[["x", "y", "side"]].to_numpy():
        image = read_region(slide, Region(x=x, y=y, width=side, height=side), (SIDE_PX, SIDE_PX)).astype(np.float32)
        part = np.s_[round(y / 2) : round(y / 2) + MAP_PX, round(x / 2) : round(x / 2) + MAP_PX]
        looked[part] = True
        np.testing.assert_allclose(found[part][..., 0], image[..., 0] / 255 - 0.5, atol=1e-6)
        np.testing.assert_allclose(found[part][..., 1], (image[..., 0] - image[..., 1]) / 255, atol=1e-6)
    assert 0 < looked.mean() < 1
    assert np.isnan(found[~looked]).all()


def test_windows_hold_tiles_that_are_explained_and_no_border_shows(whole):
    slide, files = whole
    facts = json.loads(files.facts.read_text())["explained"]
    assert facts["explains"] == "windows of 6 x 6 tiles"
    engine = Why()
    map_slide(
        slide,
        Networks(classifier=Reds("classifier"), explaining=lambda _: engine),
        settings(explained=True),
        MapFiles(base=files.base.with_name("again")),
    )
    tiles = pd.read_parquet(files.tiles)
    side, start = 6 * MAP_PX, [k * (6 * MAP_PX - MAP_PX // 2) - MAP_PX // 2 for k in range(3)]
    held = {
        (row, column)
        for x, y in (tiles[["x", "y"]].to_numpy() / 2).tolist()
        for row, top in enumerate(start[:2])
        for column, left in enumerate(start)
        if top - MAP_PX < y < top + side and left - MAP_PX < x < left + side
    }
    assert engine.seen == facts["windows"] == len(held)
    for indices in facts["seam_index"].values():
        assert set(indices) == {"tiles", "middles", "windows"}
        assert max(indices.values()) < 1.1


def test_another_program_reads_the_same(whole):
    _, files = whole
    with tifffile.TiffFile(files.explained) as tif:
        assert tif.is_ome
        assert tif.series[0].dtype == np.float32
        planes = tif.asarray()
        smaller = tif.series[0].levels[1].asarray() if len(tif.series[0].levels) > 1 else None
    np.testing.assert_array_equal(np.moveaxis(planes, 0, -1), read_class_map(files.explained).read())
    blocks = planes.reshape(2, planes.shape[1] // 2, 2, planes.shape[2] // 2, 2)
    count = np.isfinite(blocks).sum((2, 4))
    assert smaller is not None
    assert (np.isfinite(smaller) == (count > 0)).all()
    expected = np.nansum(blocks, (2, 4)) / np.maximum(count, 1)
    np.testing.assert_allclose(smaller[count > 0], expected[count > 0], rtol=1e-5, atol=1e-7)


def test_agreement_is_that_of_scipy(whole):
    slide, files = whole
    facts = json.loads(files.facts.read_text())["explained"]
    assert set(facts["methods"]) == {"gradcam", "hrcam"}
    assert facts["mpp"] == pytest.approx(SIDE_UM / MAP_PX)
    values = read_class_map(files.explained).read()
    tissue = find_tissue(slide, settings().tissue).mask
    rows, columns = (np.arange(length) // 4 for length in values.shape[:2])
    inside = values[tissue[rows][:, columns]].astype(np.float64)
    inside = inside[np.isfinite(inside).all(1)]
    told = facts["agreement"]
    assert told["pixels"] == len(inside) > 1000
    assert told["pearson"] == pytest.approx(pearsonr(*inside.T).statistic, abs=1e-9)
    assert told["spearman"] == pytest.approx(spearmanr(*inside.T).statistic, abs=0.01)
    assert told["tiles"] == len(pd.read_parquet(files.tiles))
    assert slide.mpp == MPP


def test_probabilities_are_those_without_explanations(whole, tmp_path):
    slide, files = whole
    other = MapFiles(base=tmp_path / "slide")
    map_slide(slide, Networks(classifier=Reds("classifier")), settings(), other)
    assert not other.explained.exists()
    assert json.loads(other.facts.read_text())["explained"] is None
    pd.testing.assert_frame_equal(pd.read_parquet(other.tiles), pd.read_parquet(files.tiles))


def test_a_killed_run_goes_on_from_its_last_strip(tmp_path, monkeypatch):
    monkeypatch.setattr("vitrail.inference.sliding._EXPLAINED_TILES", 2)
    monkeypatch.setattr("vitrail.inference.sliding._EXPLAINED_BATCH", 3)
    whole = mapped(tmp_path / "whole")
    total = json.loads(whole[1].facts.read_text())["explained"]["windows"]
    with pytest.raises(KeyboardInterrupt):
        mapped(tmp_path, Why(patience=20))
    engine = Why()
    _, files = mapped(tmp_path, engine)
    assert 0 < engine.seen < total
    assert files.explained.read_bytes() == whole[1].explained.read_bytes()
    told = [json.loads(one.facts.read_text())["explained"] for one in (files, whole[1])]
    assert told[0] == told[1]


def test_the_picture_leaves_out_background_and_artefacts(tmp_path, monkeypatch):
    monkeypatch.setattr("vitrail.inference.context.find_artefacts", pen_mark)
    slide, files = mapped(tmp_path, artefacts=True, background=True)
    maps = read_slide_maps(slide, files)
    found = read_explained(files, maps)
    assert list(found) == ["Grad-CAM", "HR-CAM"]
    scale = maps.thumbnail.shape[1] / WIDTH
    at = {"pen": (224, 352), "glass": (20, 20), "tissue": (300, 200)}  # rows and columns on the slide
    shown = {name: np.isfinite(found["HR-CAM"][round(y * scale), round(x * scale)]) for name, (y, x) in at.items()}
    assert shown == {"pen": False, "glass": False, "tissue": True}
    assert np.isfinite(read_class_map(files.explained).read()).all()  # the file keeps all that was looked at
    red = maps.thumbnail[..., 0] / 255 - 0.5
    known = np.isfinite(found["Grad-CAM"])
    assert np.corrcoef(found["Grad-CAM"][known], red[known])[0, 1] > 0.8


def test_one_method_alone_has_no_agreement(tmp_path):
    engine = Why()
    del engine.channels["hrcam"]
    engine.explained = lambda images: (
        np.zeros(len(images)),
        np.zeros((len(images), 1, *images.shape[1:3]), np.float32),
    )
    _, files = mapped(tmp_path, engine)
    assert json.loads(files.facts.read_text())["explained"]["agreement"] is None
    assert [channel.name for channel in read_class_map(files.explained).header.channels] == ["Grad-CAM"]


def test_maps_without_any_evidence_are_drawn(tmp_path):
    engine = Why()
    engine.explained = lambda images: (
        np.zeros(len(images)),
        np.zeros((len(images), 2, *images.shape[1:3]), np.float32),
    )
    slide, files = mapped(tmp_path, engine)
    told = json.loads(files.facts.read_text())["explained"]["agreement"]
    assert (told["pearson"], told["spearman"], told["tile_pearson"]) == (None, None, None)
    save_explained_figure(files.explained_picture, read_slide_maps(slide, files), files)
    with Image.open(files.explained_picture) as drawn:
        assert drawn.size[0] > 300
