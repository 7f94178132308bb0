"""Learning-rate schedules as functions of the step."""

from __future__ import annotations

import math

from faultlines.training.settings import Settings

START, END = 1 / 25, 1e-4 / 25  # of the one-cycle policy, torch's defaults


def learning_rate(step: int, steps: int, settings: Settings) -> float:
    r"""Return the learning rate of step `step` of `steps`, counted from 0.

    With $w$ warm-up steps the rate rises linearly as $(t + 1) / w$, then stays (`"constant"`) or falls as
    $\frac12 (1 + \cos \pi \frac{t - w}{T - w})$ (`"cosine"`, Loshchilov and Hutter 2017). `"onecycle"` is the
    policy of Smith and Topin (2018) as torch's `OneCycleLR` has it, without its cycle of momenta.

    Example:
        >>> s = Settings(epochs=1, lr=1.0, warmup=0.5)
        >>> [round(learning_rate(t, 8, s), 3) for t in range(8)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if settings.schedule == "onecycle":
        peak = settings.warmup * steps - 1
        if step <= peak:
            return settings.lr * _cosine(START, 1.0, step / peak if peak else 1.0)
        peak = max(peak, 0.0)
        return settings.lr * _cosine(1.0, END, (step - peak) / max(steps - 1 - peak, 1))
    warmup = round(settings.warmup * steps)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * _cosine(1.0, 0.0, (step - warmup) / (steps - warmup))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
