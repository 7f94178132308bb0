"""What is no whole file of weights is one line, whatever is wrong with it and whoever reads it."""

from __future__ import annotations

import argparse
import json
import pickle
import struct
import threading
import time
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save, save_file

from faultlines.models import ResNet, convert_checkpoint, load_clip
from faultlines.models.weight_files import alone, read_state

STATE = {"conv1.weight": torch.rand(4, 3)}


def saved(path, state):
    torch.save(state, path)
    return path.read_bytes()


def older(path, state):
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


def header(length, content=b"{}"):
    return struct.pack("<Q", length) + content


DAMAGED = {
    "safetensors": {
        "empty": lambda path: b"",
        "truncated": lambda path: save(STATE)[:-5],
        "half a header": lambda path: save(STATE)[:12],
        "a header too large": lambda path: header(2**62),
        "a header that is no json": lambda path: header(4, b"\xff\x00ab"),
        "offsets beyond the file": lambda path: header(
            len(bad := json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()),
            bad,
        ),
        "text": lambda path: b"version https://git-lfs.github.com/spec/v1\n",
    },
    "pt": {
        "empty": lambda path: b"",
        "truncated": lambda path: saved(path, STATE)[:200],
        "text": lambda path: b"version https://git-lfs.github.com/spec/v1\n",
        "noise": lambda path: bytes(range(256)) * 4,
        "half a pickle": lambda path: pickle.dumps(list(range(1000)))[:50],
        "half of the older form": lambda path: older(path, STATE)[:300],
        "a byte": lambda path: b"P",
        "the name of a page": lambda path: b"<html>404",
        "safetensors under another name": lambda path: save(STATE),
        "numbers for names": lambda path: saved(path, {1: torch.rand(2)}),
        "a list": lambda path: saved(path, [1, 2]),
        "no tensors": lambda path: saved(path, {"state_dict": {}}),
        "an array": lambda path: saved(path, torch.rand(3)),
    },
}
CASES = [(suffix, kind) for suffix, kinds in DAMAGED.items() for kind in kinds]
READERS = {
    "read_state": read_state,
    "ResNet": lambda path: ResNet(classes=2, depth=18, weights=path),
    "load_clip": load_clip,
}


def told(call, path):
    with pytest.raises(ValueError) as error:
        call(path)
    words = str(error.value)
    assert "\n" not in words and len(words) < 500 and path.name in words, words
    return words


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("suffix", "kind"), CASES)
def test_a_damaged_file_is_one_line(tmp_path, suffix, kind, reader):
    path = tmp_path / f"weights.{suffix}"
    content = DAMAGED[suffix][kind](path)
    path.write_bytes(content)
    assert "more than weights" not in told(reader, path)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("suffix", DAMAGED)
def test_a_folder_and_nothing_are_one_line(tmp_path, suffix, reader):
    (tmp_path / f"folder.{suffix}").mkdir()
    told(reader, tmp_path / f"folder.{suffix}")
    told(reader, tmp_path / f"missing.{suffix}")
    with pytest.raises(ValueError, match="File name too long") as error:
        reader(tmp_path / ("a" * 100_000))
    assert len(str(error.value)) < 500


def test_what_holds_more_than_weights_says_how_to_take_them_out(tmp_path):
    path = tmp_path / "more.pt"
    torch.save(STATE | {"arguments": argparse.Namespace(lr=0.1)}, path)
    assert "more than weights" in told(read_state, path)
    convert_checkpoint(path, tmp_path / "out.safetensors")
    assert torch.equal(read_state(tmp_path / "out.safetensors")["conv1.weight"], STATE["conv1.weight"])


@pytest.mark.parametrize("kind", DAMAGED["pt"])
def test_the_converter_tells_too(tmp_path, kind):
    path = tmp_path / "weights.pt"
    path.write_bytes(DAMAGED["pt"][kind](path))
    told(lambda source: convert_checkpoint(source, tmp_path / "out.safetensors"), path)
    assert not (tmp_path / "out.safetensors").exists()


def test_an_encrypted_archive_is_one_line(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(STATE, path)
    blob = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = blob.find(signature)
        while at >= 0:
            blob[at + flags] |= 1
            at = blob.find(signature, at + 1)
    path.write_bytes(blob)
    assert zipfile.is_zipfile(path)
    told(read_state, path)


def test_whole_files_are_read(tmp_path):
    torch.save({"state_dict": STATE}, tmp_path / "a.pt")
    save_file(STATE, tmp_path / "a.safetensors")
    for path in tmp_path.iterdir():
        assert torch.equal(read_state(path)["conv1.weight"], STATE["conv1.weight"])


def test_one_at_a_time_holds_a_file_however_many_wait(tmp_path):
    """Who waited for a lock that its holder deletes must not share the file with who comes after."""
    path, inside, most, done = tmp_path / "run.pt", [], [], []

    def work(number):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(5):
                with alone(path):
                    inside.append(number)
                    most.append(len(inside))
                    time.sleep(0.002)
                    inside.remove(number)
        done.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == list(range(6)) and set(most) == {1}
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="of the work itself"), alone(path):
        raise FileNotFoundError("of the work itself")
    assert not list(tmp_path.iterdir())
