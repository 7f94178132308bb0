"""The batch reader runs nothing that a batch says."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch

from faultlines.data.torchvision_layout import read_batch


class Command:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_refuses_a_pickle_that_runs_a_command(tmp_path, protocol):
    path, marker = tmp_path / "data_batch_1", tmp_path / "ran"
    blob = pickle.dumps({"data": Command(marker), "labels": []}, protocol=protocol)
    path.write_bytes(blob)
    with pytest.raises(ValueError, match="system, which no image batch needs"):
        read_batch(path)
    assert not marker.exists()
    pickle.loads(blob)  # and it would have run
    assert marker.exists()


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(2),
        np.zeros(3, dtype=np.float64),
        np.array([print], dtype=object),
        np.zeros(2, dtype="u1,u1"),
        {1, 2}.__class__,
    ],
)
def test_refuses_other_types(tmp_path, value):
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({"data": value, "labels": []}, protocol=2))
    with pytest.raises(ValueError, match="cannot be read as a CIFAR batch"):
        read_batch(path)


@pytest.mark.parametrize(
    "blob", [b"", b"\x80\x02", b"garbage", pickle.dumps([1]), pickle.dumps({"a": 1})[:-3]]
)
def test_damaged_file(tmp_path, blob):
    path = tmp_path / "data_batch_1"
    path.write_bytes(blob)
    with pytest.raises(ValueError, match="data_batch_1 cannot be read"):
        read_batch(path)


def test_reads_what_python_2_wrote(tmp_path):
    """The original files: byte strings, `numpy.core`, Fortran order; assembled opcode by opcode."""
    data = np.arange(6, dtype=np.uint8).reshape(2, 3)
    raw = data.tobytes(order="F")
    blob = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R("
        b"K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x88U" + bytes([len(raw)]) + raw + b"tbU\x06labels](K\x07K\x08eu."
    )
    path = tmp_path / "data_batch_1"
    path.write_bytes(blob)
    expected = pickle.loads(blob, encoding="latin1")
    batch = read_batch(path)
    assert np.array_equal(batch["data"], data)
    assert np.array_equal(expected["data"], data)
    assert batch["labels"] == expected["labels"] == [7, 8]
