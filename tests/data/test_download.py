"""The download path with torchvision's own code, served from files written here."""

from __future__ import annotations

import hashlib
import io
import socket
import sys
import tarfile

import pytest
from torchvision import datasets
from torchvision.datasets import utils

from faultlines.data.catalogue import KNOWN
from faultlines.data.torchvision_layout import download


@pytest.fixture
def archive(monkeypatch):
    """Serve a tiny CIFAR-10 archive in place of the network."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in ("data_batch_1", "test_batch"):
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
    blob = buffer.getvalue()

    def retrieve(url, filename, chunk_size=0):
        assert url == datasets.CIFAR10.url
        with open(filename, "wb") as file:  # noqa: PTH123
            file.write(blob)

    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, max_hops: url)
    monkeypatch.setattr(utils, "_urlretrieve", retrieve)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(blob).hexdigest())


def test_arrives_whole_and_leaves_no_partial_folder(tmp_path, archive):
    download(KNOWN["cifar10"], tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["cifar-10-batches-py"]
    assert (tmp_path / "new/cifar-10-batches-py/test_batch").read_bytes() == b"abc"


def test_wrong_checksum_leaves_nothing(tmp_path, archive, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", "0" * 32)
    before = socket.getdefaulttimeout()
    with pytest.raises(RuntimeError, match="corrupted"):
        download(KNOWN["cifar10"], tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert socket.getdefaulttimeout() == before


def test_without_torchvision(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="torchvision does not import"):
        download(KNOWN["mnist"], tmp_path)
