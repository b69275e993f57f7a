from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from vitrail.errors import SettingsError
from vitrail.models import device

CPU_FLAGS = device._cpu_flags  # taken before anything replaces it


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match=r"compute\.device: this machine has no 'cuda'"):
        device.pick_device("cuda")
    assert device.pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("cuda", "found"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_cuda_or_the_cpu(monkeypatch, cuda, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device.pick_device("auto") == torch.device(found)
    assert device.pick_device("mps") == torch.device("mps")


@pytest.mark.parametrize(("refused", "took"), [((), True), ((1 << 30,), True), ((1 << 30, 32 << 20), False)])
def test_an_older_c_library_is_asked_for_less(monkeypatch, refused, took):
    asked = []

    class Library:
        @staticmethod
        def mallopt(option, size):
            asked.append((option, size))
            return int(option == -1 or size not in refused)

    monkeypatch.setattr(device.ctypes, "CDLL", lambda _name: Library)
    assert device.keep_memory() == took
    assert asked[-2:] == [(-1, 1 << 30), (-8, 1)]  # whatever became of the other
    assert asked[:-2] == [(-3, size) for size in (1 << 30, 32 << 20)[: len(refused) + 1]]


@pytest.mark.parametrize(("kind", "used", "forked"), [("cuda", False, 2), ("cpu", True, 2), ("cpu", False, 0)])
def test_generators_of_all_gpus_are_kept(monkeypatch, kind, used, forked):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    forks = []
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: forks.extend(devices) or nullcontext())
    with device.reproducible(torch.device(kind), 0):
        pass
    assert forks == list(range(forked))


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [("flags : avx2 amx_bf16", torch.bfloat16), ("flags : avx2 avx512f", None), (None, None)],
)
def test_bfloat16_only_where_the_cpu_has_it(tmp_path, monkeypatch, flags, dtype):
    monkeypatch.delenv("VITRAIL_CPU_BFLOAT16", raising=False)
    cpuinfo = tmp_path / "cpuinfo"
    if flags:
        cpuinfo.write_text(f"processor : 0\n{flags}\n")
    monkeypatch.setattr(device, "_cpu_flags", lambda _path: CPU_FLAGS(cpuinfo))
    cpu = torch.device("cpu")
    assert device.half_type(cpu) == dtype
    for setting, expected in (("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        assert device.training_precision(cpu, setting).dtype == expected


def test_reproducible_gives_back_what_it_took():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with device.reproducible(torch.device("cpu"), 5):
        first = torch.rand(3)
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()
    with device.reproducible(torch.device("cpu"), 5):
        assert torch.equal(torch.rand(3), first)
