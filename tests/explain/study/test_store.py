from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from helpers.kinds import KEYS, PAIRS
from vitrail.core.files import write_table
from vitrail.errors import RunError
from vitrail.explain.saliency import Frame
from vitrail.explain.study import store as stored
from vitrail.explain.study.store import Kind, columns_of, create_file, open_stored, write_summary

FRAME = Frame(image_px=(40, 40), span_px=(64, 64))
SIZES = ((2, 2), (20, 20), (2, 2), (32, 24))
COUNT = 3
SUMMARY = dict.fromkeys(("agreement", "agreement_relu", "empty", "patients", "min_share", "layers")) | {"tiles": COUNT}


def kinds():
    return {
        key: Kind(method=key.split("_")[1], layers=("a", "b"), target="tumor", frame=FRAME, size=size)
        for key, size in zip(KEYS, SIZES, strict=True)
    }


def values(key):
    shape = (COUNT, *kinds()[key].size)
    return np.random.default_rng(KEYS.index(key)).normal(size=shape).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    file = create_file(tmp_path, kinds(), COUNT)
    for key in KEYS:
        file.maps(key)[:] = values(key)
    file.flush()
    rows = pd.DataFrame({"tile": [4, 5, 9], "patient_id": ["a", "a", "b"]})
    write_table(tmp_path / "tiles.parquet", rows)
    write_table(tmp_path / "agreement.parquet", rows.assign(**{name: 0.5 for name, _, _ in columns_of(kinds())}))
    write_summary(tmp_path, SUMMARY)
    return tmp_path


def test_what_is_stored_is_read(folder):
    found = open_stored(folder)
    assert (len(found), found.summary, found.rows["tile"].tolist()) == (COUNT, SUMMARY, [4, 5, 9])
    assert list(found.agreement)[2:] == [f"{pair}{end}" for pair in PAIRS for end in ("", "_relu")]
    for key in KEYS:
        assert isinstance(found.maps(key), np.memmap)
        assert not found.maps(key).flags.writeable
        np.testing.assert_array_equal(found.maps(key), values(key))
        assert found.frame(key) == FRAME
    one = found.saliency("segmenter_hrcam", 2)
    assert (one.method, one.layers, one.target, one.frame) == ("hrcam", ("a", "b"), "tumor", FRAME)
    np.testing.assert_array_equal(one.values, values("segmenter_hrcam")[2])
    assert one.upsample().shape == (40, 40)


def test_another_process_opens_the_file_and_is_not_sent_the_maps(folder):
    found = open_stored(folder)
    sent = pickle.dumps(found.file)
    assert len(sent) < 1000
    again = pickle.loads(sent)  # noqa: S301 - our own
    assert again.kinds == found.file.kinds
    assert isinstance(again.values, np.memmap)
    np.testing.assert_array_equal(again.values, found.file.values)


def test_the_file_is_plain_numpy_and_json(folder):
    flat, index = np.load(folder / "saliency.npy"), json.loads((folder / "saliency.json").read_text())
    assert tuple(index) == KEYS
    assert (flat.dtype, flat.ndim) == (np.float32, 1)
    assert len(flat) == COUNT * (4 + 400 + 4 + 768)
    for key, entry in index.items():
        n, height, width = entry["shape"]
        part = flat[entry["offset"] : entry["offset"] + n * height * width]
        np.testing.assert_array_equal(part.reshape(n, height, width), values(key))
        assert Frame(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry["frame"].items()}) == FRAME
    assert {path.name for path in folder.iterdir()} == {
        "saliency.npy", "saliency.json", "tiles.parquet", "agreement.parquet", "summary.json"
    }  # fmt: skip


def test_a_file_of_the_same_content_is_gone_on_with(folder):
    np.testing.assert_array_equal(create_file(folder, kinds(), COUNT).maps(KEYS[1]), values(KEYS[1]))
    assert not create_file(folder, kinds(), COUNT + 1).maps(KEYS[1]).any()


@pytest.mark.parametrize(
    "name", ["saliency.npy", "saliency.json", "tiles.parquet", "agreement.parquet", "summary.json"]
)
def test_missing_and_cut_off_files_are_told_in_one_line(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    for _ in ("cut off", "missing"):
        with pytest.raises(RunError, match=r"Remove (this|the) (file|folder)") as caught:
            open_stored(folder)
        assert "\n" not in str(caught.value)
        (folder / name).unlink(missing_ok=True)


def test_files_that_do_not_belong_together_are_refused(folder):
    write_table(folder / "tiles.parquet", pd.DataFrame({"tile": [1]}))
    with pytest.raises(RunError, match="differ in number"):
        open_stored(folder)
    index = json.loads((folder / "saliency.json").read_text())
    index[KEYS[0]]["shape"] = [COUNT, 5, 5]
    (folder / "saliency.json").write_text(json.dumps(index))
    with pytest.raises(RunError, match=r"saliency\.npy does not fit saliency\.json"):
        open_stored(folder)


def test_numbers_that_json_lacks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_summary(tmp_path, {"mean": float("nan")})


def test_reading_needs_no_torch():
    code = f"import sys, {stored.__name__}; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own command
    assert ended.stdout.strip() == "False"
