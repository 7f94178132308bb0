"""The cells that every chapter of the tests begins and ends with."""

from __future__ import annotations

HEAD = """\
---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {name: python3, display_name: Python 3, language: python}
---
"""


def opening(parameters: str, *, from_reporting: str = "say", front: str = "\n# A chapter\n") -> str:
    """Return a chapter down to the check of its parameters, given as lines of code."""
    return f"""{HEAD}{front}
```{{code-cell}}
from faultlines import notebook
from faultlines.reporting import {from_reporting}

notebook.begin()
```

```{{code-cell}}
:tags: [parameters]

{parameters.strip()}
```

```{{code-cell}}
notebook.check_parameters()
```
"""


def closing(name: str) -> str:
    """Return a chapter's last cell."""
    return f"""
```{{code-cell}}
notebook.record("{name}", ledger)
```
"""
