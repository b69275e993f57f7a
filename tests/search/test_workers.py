"""Where cells are trained: processes of this machine, one a GPU, and dask only where it is asked for."""

from __future__ import annotations

import subprocess
import sys

from vitrail.settings.schema import ComputeSettings
from vitrail.training.workers import worker_environments


def test_gpus_are_dealt_one_a_worker(monkeypatch):
    every = ComputeSettings(workers=0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [one["CUDA_VISIBLE_DEVICES"] for one in worker_environments(every, 9)] == ["3", "5"]
    assert len(worker_environments(ComputeSettings(workers=7), 9)) == 2
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [one["CUDA_VISIBLE_DEVICES"] for one in worker_environments(every, 9)] == ["0", "1"]
    assert worker_environments(ComputeSettings(workers=1, device="cpu"), 9) == [{"OMP_NUM_THREADS": "1"}]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert worker_environments(ComputeSettings(workers=7), 3) == [{"OMP_NUM_THREADS": "1"}] * 3


def test_dask_is_loaded_only_for_a_scheduler():
    code = (
        "import sys, vitrail.pipeline.search, vitrail.cli; print({'dask', 'distributed', 'torch'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own
    assert ended.stdout.strip() == "set()"
