"""The machine-readable index of what is published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from faultlines.book.publish import Index, index_files, write_index
from faultlines.notebook.project import Project


def test_the_index_holds_what_is_published_and_fits_its_schema(
    checkout: Project, put: Callable[..., Path]
) -> None:
    put(path=checkout.published("default", "toy"))
    put("desk", path=checkout.published("desk", "toy"))
    put("smoke")  # this machine's own: not published
    assert write_index(checkout)
    assert not write_index(checkout)
    text = (checkout.root / "results" / "index.json").read_text()
    schema = json.loads((checkout.root / "results" / "index.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(text), schema)
    found = Index.model_validate_json(text).results
    assert [one.notebook for one in found] == ["chapters/toy.ipynb", "results/desk/toy.ipynb"]
    assert found[1].provenance.parameters["seeds"] == 8 and found[1].ledger[0].verdict == "holds"


def test_the_schema_refuses_what_is_no_index(checkout: Project, put: Callable[..., Path]) -> None:
    put(path=checkout.published("default", "toy"))
    files = index_files(checkout)
    index, schema = (json.loads(files[f"results/{name}"]) for name in ("index.json", "index.schema.json"))
    del index["results"][0]["provenance"]["commit"]
    with pytest.raises(jsonschema.ValidationError, match="commit"):
        jsonschema.validate(index, schema)
