"""One address in `_config.yml` turns the launch buttons on; without it there is none, not even a dead one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import yaml

from faultlines.book.sphinx_extension import _configure_buttons

ROOT = Path(__file__).resolve().parents[2]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


def options_with(url: str) -> dict:
    config = SimpleNamespace(
        html_theme_options={"repository_url": url, "launch_buttons": dict(CONFIG["launch_buttons"])}
    )
    _configure_buttons(SimpleNamespace(), config)
    return config.html_theme_options


def test_without_an_address_there_are_no_launch_buttons():
    options = options_with("")
    assert "launch_buttons" not in options
    assert not options.get("use_repository_button")


def test_with_an_address_colab_and_binder_appear():
    options = options_with("https://github.com/owner/name")
    assert options["launch_buttons"]["colab_url"] == "https://colab.research.google.com"
    assert options["launch_buttons"]["binderhub_url"] == "https://mybinder.org"
    assert options["use_repository_button"] is True
