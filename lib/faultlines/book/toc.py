"""The pages of the book, as `_toc.yml` names them."""

from __future__ import annotations

import yaml

from faultlines.notebook.errors import UsageError
from faultlines.notebook.project import Project


def toc_pages(project: Project) -> list[str]:
    """Return the pages that `_toc.yml` names, in order.

    Raises:
        UsageError: If the file is not YAML.
    """

    def walk(node: object) -> list[str]:
        if isinstance(node, list):
            return [page for child in node for page in walk(child)]
        if isinstance(node, dict):
            own = [node[key] for key in ("root", "file") if key in node]
            return own + [
                page for value in node.values() if not isinstance(value, str) for page in walk(value)
            ]
        return []

    try:
        return walk(yaml.safe_load((project.root / "_toc.yml").read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"_toc.yml cannot be read: {' '.join(str(error).split())}") from None
