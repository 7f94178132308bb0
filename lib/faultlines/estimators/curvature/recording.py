"""Whether derivatives can be taken where an estimator is called."""

from __future__ import annotations

import torch


def check_recording() -> None:
    """Refuse to work under `torch.inference_mode()`, where every derivative would come out as zero.

    Raises:
        RuntimeError: If inference mode is on.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "curvature needs derivatives, which torch.inference_mode() switches off for good: "
            "call it outside, or under torch.no_grad()"
        )
