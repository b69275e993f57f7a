from __future__ import annotations

import sys
import types
import warnings
import zipfile

import numpy as np
import pytest
import torch

from vitrail.errors import NucleiError, SettingsError
from vitrail.nuclei.engines import Classical, Embedded, SlideEngine, StoredEngine, engine_of
from vitrail.nuclei.networks import Cellpose, InstanSeg, StarDist
from vitrail.nuclei.scales import consecutive, segment_at
from vitrail.settings.schema import NucleiSettings


class Threshold(torch.nn.Module):
    """Stands for InstanSeg: two instances, left and right of the middle, where the image is dark."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        dark = (image.mean(1, keepdim=True) < 0.5).float()
        side = torch.ones_like(dark)
        side[..., image.shape[-1] // 2 :] = 7
        return dark * side


def scripted(module):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.")
        return torch.jit.script(module)


def save(module, path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.")
        torch.jit.save(scripted(module), path)
    return path


def image(width=70, height=40):
    pixels = np.full((height, width, 3), 230, np.uint8)
    pixels[10:30, 5:20] = pixels[10:30, 45:60] = 60
    return pixels


def test_every_engine_of_the_settings_is_built(tmp_path):
    save(Threshold(), tmp_path / "instanseg.pt")
    engines = [
        engine_of(NucleiSettings(engine=name, model=str(tmp_path)))
        for name in ("embedded", "classical", "instanseg", "geojson", "labels")
    ]
    assert [engine.name for engine in engines] == ["embedded", "classical", "instanseg", "geojson", "labels"]
    assert [isinstance(engine, StoredEngine) for engine in engines] == [False, False, False, True, True]
    assert not any(isinstance(engine, SlideEngine) for engine in engines)
    assert all(engine.margin_um > 10 for engine in engines[:3])
    assert engine_of(NucleiSettings()) == Embedded()
    assert engine_of(NucleiSettings(engine="classical")) == Classical()


@pytest.mark.parametrize("name", ["instanseg", "geojson", "labels"])
def test_an_engine_without_its_model_says_what_it_needs(name):
    with pytest.raises(SettingsError, match=r"nuclei.model.*nothing to work with"):
        engine_of(NucleiSettings(engine=name))


def test_instanseg_gives_labels_from_a_file_a_folder_and_a_release(tmp_path):
    path = save(Threshold(), tmp_path / "instanseg.pt")
    with zipfile.ZipFile(tmp_path / "release.zip", "w") as archive:
        archive.write(path, "brightfield_nuclei/instanseg.pt")
    for model in (path, tmp_path, tmp_path / "release.zip"):
        labels = InstanSeg.load(str(model))(image(), 0.5)
        assert (labels.dtype, labels.shape, labels.max()) == (np.int32, (40, 70), 2)
        assert np.array_equal(labels > 0, image()[..., 0] < 100)
    fine = np.repeat(np.repeat(image(), 2, 0), 2, 1)
    assert np.array_equal(InstanSeg.load(str(path))(fine, 0.25) > 0, fine[..., 0] < 100)


def test_what_is_no_instanseg_is_named(tmp_path):
    (tmp_path / "text.pt").write_text("no model")
    for model, problem in (("none.pt", "no such file"), ("text.pt", "no TorchScript")):
        with pytest.raises(NucleiError, match=problem):
            InstanSeg.load(str(tmp_path / model))
    engine = InstanSeg.load(str(save(torch.nn.Flatten(), tmp_path / "flat.pt")))
    with pytest.raises(NucleiError, match="no label image"):
        engine(image(), 0.5)
    engine = InstanSeg.load(str(save(torch.nn.Linear(3, 3), tmp_path / "linear.pt")))
    with pytest.raises(NucleiError, match="fails on an image"):
        engine(image(), 0.5)


def test_an_address_is_downloaded_once(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    calls = []

    def download(address, path, **_):
        calls.append(address)
        save(Threshold(), path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        assert InstanSeg.load("https://example.org/v1/instanseg.pt?raw=1")(image(), 0.5).max() == 2
    assert calls == ["https://example.org/v1/instanseg.pt?raw=1"]

    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(NucleiError, match=r"other.pt: cannot be downloaded \(no route"):
        InstanSeg.load("https://example.org/other.pt")


@pytest.mark.parametrize(("engine", "package"), [("stardist", "stardist"), ("cellpose", "cellpose")])
def test_a_package_that_is_missing_is_named(monkeypatch, engine, package):
    monkeypatch.setitem(sys.modules, f"{package}.models", None)
    with pytest.raises(NucleiError, match=rf"package {package} cannot be imported.*pip install {package}"):
        engine_of(NucleiSettings(engine=engine))


def test_stardist_gets_normalised_pixels(monkeypatch, tmp_path):
    asked = []

    class StarDist2D:
        def __init__(self, _config, name, basedir):
            asked.append((name, basedir))

        @classmethod
        def from_pretrained(cls, name):
            if name == "broken":
                raise OSError("no network")
            return cls(None, name, None) if name == "2D_versatile_he" else None

        def predict_instances(self, pixels):
            return (pixels[..., 0] < 0.5) * 5, {}

    stub(monkeypatch, "stardist", models={"StarDist2D": StarDist2D})
    stub(monkeypatch, "csbdeep", utils={"normalize": lambda pixels, *_, **__: pixels / 255})
    engine = engine_of(NucleiSettings(engine="stardist"))
    assert np.array_equal(engine(image(), 0.5) == 1, image()[..., 0] < 100)
    StarDist.load(str(tmp_path))
    assert asked == [("2D_versatile_he", None), (tmp_path.name, str(tmp_path.parent))]
    for name in ("unknown", "broken"):
        with pytest.raises(NucleiError, match=f"'{name}': stardist cannot load it"):
            StarDist.load(name)


def test_cellpose_gets_pixels(monkeypatch):
    class CellposeModel:
        def __init__(self, pretrained_model="cpsam"):
            if pretrained_model == "broken":
                raise RuntimeError("no weights\nat all")

        def eval(self, pixels):
            return (pixels[..., 0] < 100) * np.uint16(3), None, None

    stub(monkeypatch, "cellpose", models={"CellposeModel": CellposeModel})
    assert np.array_equal(engine_of(NucleiSettings(engine="cellpose"))(image(), 0.5) == 1, image()[..., 0] < 100)
    with pytest.raises(NucleiError, match=r"cellpose cannot load it \(no weights\)"):
        Cellpose.load("broken")


def stub(monkeypatch, package, **modules):
    monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    for name, content in modules.items():
        module = types.ModuleType(f"{package}.{name}")
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, f"{package}.{name}", module)


def test_labels_are_numbered_without_gaps():
    assert consecutive([[0, 9], [4, 9]]).tolist() == [[0, 2], [1, 2]]
    assert consecutive([[3, 9]]).tolist() == [[1, 2]]
    assert consecutive(np.zeros((0, 4), int)).shape == (0, 4)


def test_the_scale_is_kept_where_it_is_right():
    sizes = []

    def segment(pixels):
        sizes.append(pixels.shape[:2])
        return np.zeros(pixels.shape[:2], int)

    for mpp in (0.499, 0.25, 1.0):
        assert segment_at(image(), mpp, 0.5, segment).shape == (40, 70)
    assert sizes == [(40, 70), (20, 35), (80, 140)]
