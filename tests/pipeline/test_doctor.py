from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from helpers.command import vitrail
from helpers.networks import CLASSIFIER
from vitrail.models.trial import Execution, Trial, machine
from vitrail.pipeline import doctor
from vitrail.pipeline.doctor import Speed

WAY = Execution(engine="torch", precision="float32", threads=2, batch=64, memory_format="channels_last")


@pytest.fixture(autouse=True)
def _small(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "NETWORKS", ((CLASSIFIER.encoder, 32),))
    monkeypatch.setattr(doctor, "SLIDE_PX", 1024)
    monkeypatch.setattr("vitrail.models.trial.ROUNDS", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def remember(monkeypatch):
    monkeypatch.setenv("VITRAIL_TRIALS", "on")
    trial = Trial(
        title="classifier, some network, 96 px",
        conditions=1,
        default=WAY,
        steps=[lambda best: [replace(best, threads=1)]],
        work=lambda _: lambda: None,
        images=32,
    )
    trial.choose()


def test_it_says_what_there_is_and_what_was_chosen_and_forgets_it(capsys, monkeypatch):
    remember(monkeypatch)
    assert vitrail("doctor") == 0
    said = capsys.readouterr().out.splitlines()
    starts = [
        "Vitrail ", "Python ", "torch ", "openvino ", "reader: OpenSlide ", "processor ", "cores ", "GPU", "disk here ",
        "cache ", "reading by Vitrail ", "reading by OpenSlide ", f"{CLASSIFIER.encoder}, 32 px ",
        "Remembered of this machine:", "  classifier, some network, 96 px: torch in float32",
    ]  # fmt: skip
    for start in starts:
        assert any(line.startswith(start) for line in said), start
    findings = said[: said.index("")]
    assert all(line.endswith("  ok") or "  <- " in line for line in findings)
    assert vitrail("doctor", "--forget") == 0
    assert capsys.readouterr().out.startswith("forgot 1 choice:")


def test_the_same_as_json(capsys, monkeypatch):
    monkeypatch.setenv("VITRAIL_CPU_BFLOAT16", "off")
    assert vitrail("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)["results"]
    assert {"about", "value", "cure"} == set(found["findings"][0])
    assert found["choices"] == {}
    assert found["advice"]


def test_it_works_without_any_extra_and_says_how_to_install_them(monkeypatch):
    monkeypatch.setattr("vitrail.models.trial.version", _version)
    machine.cache_clear()
    said = []
    examination = doctor.examine(said.append)
    cures = {each["about"]: each["cure"] for each in examination["findings"] if each["cure"]}
    assert {doctor.EXTRAS[package][0] for package in cures if package in doctor.EXTRAS} == {
        extra for extra, _ in doctor.EXTRAS.values()
    }
    assert any(
        "was" not in sentence or "pip install 'vitrail[openvino]'" in sentence for sentence in examination["advice"]
    )
    assert not any("OpenVINO in" in line for line in said)
    machine.cache_clear()


def _version(name):
    if name in doctor.EXTRAS:
        raise PackageNotFoundError(name)
    return version(name)


def test_advice_says_no_figure_that_was_not_measured(monkeypatch):
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
    monkeypatch.delenv("VITRAIL_TRIALS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("vitrail.models.trial.installed_version", lambda _: "2026.1")
    even = {"Vitrail": 10.0, "OpenSlide": 10.0}

    def advice(*images):
        ways = [
            WAY,
            replace(WAY, precision="bfloat16"),
            replace(WAY, engine="openvino"),
        ]
        return doctor._advice(
            [Speed(network="n", way=way, images=each) for way, each in zip(ways, images, strict=False)], even
        )

    assert advice(100.0) == advice(100.0, 110.0) == ["Nothing was found that would make it faster."]
    assert "1.3 times as fast" in advice(100.0, 130.0)[0]
    assert advice(100.0, 90.0, 410.0) == [
        'OpenVINO computes n 4.1 times as fast as torch here: compute.engine = "auto" takes it.'
    ]
    assert "a trial may take torch" in advice(100.0, 90.0, 80.0)[0]
    (reading,) = doctor._advice([], {"Vitrail": 55.0, "OpenSlide": 10.0})
    assert "5.5 times as fast as by OpenSlide" in reading
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (1000.0, 0.0, 0.0), raising=False)
    assert "Other work keeps the processor busy" in advice(100.0)[0]


def test_little_room_has_a_cure(monkeypatch):
    monkeypatch.setattr(doctor, "LITTLE_DISK", 1e30)
    monkeypatch.setattr(doctor, "_memory", lambda: (1.0, 8e9))
    cures = {each.about: each.cure for each in doctor._room()}
    assert "free some" in cures["disk here"]
    assert "compute.workers" in cures["memory"]


def test_a_machine_that_says_little_of_itself(monkeypatch):
    monkeypatch.setattr("vitrail.models.trial.processor", lambda: "")
    assert [each.about for each in doctor._processor()] == ["processor", "cores", "threads of torch"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (6e9, 8e9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    (gpu,) = doctor._device()
    assert str(gpu).split()[2:] == ["Some", "GPU,", "6.0", "of", "8.0", "GB", "free", "ok"]
