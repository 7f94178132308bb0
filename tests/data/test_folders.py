from __future__ import annotations

import pytest

import faultlines.data
from faultlines.data import spawrious, waterbirds
from faultlines.data.catalogue import folder_sets


def test_what_is_not_there_says_where_to_get_it(tmp_path):
    for entry, source in zip(folder_sets(tmp_path), ("aengusl/spawrious", "group_DRO"), strict=True):
        assert entry.path is None
        assert str(tmp_path) in entry.how and source in entry.how
        assert callable(getattr(faultlines.data, entry.loader.removeprefix("faultlines.data.")))


@pytest.mark.parametrize("inner", ["", "spawrious"])
def test_what_is_there_is_found_where_its_loader_looks(tmp_path, monkeypatch, inner):
    monkeypatch.setenv("FAULTLINES_DATA", str(tmp_path))
    dogs, birds = tmp_path / inner / spawrious.FOLDER, tmp_path / waterbirds.FOLDER
    for folder in (dogs, birds):
        folder.mkdir(parents=True)
    assert [entry.path for entry in folder_sets()] == [dogs, None]  # a folder without its table is none
    (birds / "metadata.csv").write_text("")
    assert [(entry.path, entry.how) for entry in folder_sets()] == [(dogs, ""), (birds, "")]
