"""From which depth on a bound for differential attention falls below one for standard attention."""

from __future__ import annotations

import math


def depth_threshold(*, c_da: float, c_base: float, l_da: float, l_base: float, alpha: float) -> float:
    r"""Return the depth $D^*$ from which on the bound for differential attention is the smaller one.

    It is that of $C_\mathrm{DA} (\bar\alpha \bar L_\mathrm{DA})^D$ and $C_\mathrm{base} \bar L_\mathrm{base}^D$.

    **Ours, not the paper's.** Corollary 1 of arXiv 2510.00517 speaks of a $D^*$ for the bounds
    $(\bar\alpha \bar L_\mathrm{DA})^D$ and $\bar L_\mathrm{base}^D$ alone, but two pure powers never cross at
    $D > 0$: $a^D < b^D$ if and only if $a < b$. A crossing needs prefactors that do not depend on depth,

    $$D^* = \frac{\ln(C_\mathrm{DA} / C_\mathrm{base})}{\ln(\bar L_\mathrm{base} / (\bar\alpha \bar
    L_\mathrm{DA}))}.$$

    Both sides are upper bounds, so it is no statement about the networks.

    Args:
        c_da: Prefactor of differential attention, positive.
        c_base: Prefactor of standard attention, positive.
        l_da: Lipschitz constant a layer of differential attention, positive.
        l_base: That of standard attention, positive.
        alpha: Cancellation factor, positive.

    Returns:
        $D^*$; 0 for equal prefactors, negative where the bound is smaller at every depth, and infinity where it
        never stays below.

    Raises:
        ValueError: If an argument is not positive and finite.

    Example:
        >>> depth_threshold(c_da=4.0, c_base=1.0, l_da=2.0, l_base=2.0, alpha=0.5)
        2.0
        >>> depth_threshold(c_da=1.0, c_base=1.0, l_da=2.0, l_base=2.0, alpha=0.5)
        0.0
    """
    values = {"c_da": c_da, "c_base": c_base, "l_da": l_da, "l_base": l_base, "alpha": alpha}
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value!r} must be positive and finite")
    shrinks = math.log(l_base) - math.log(alpha) - math.log(l_da)
    ahead = math.log(c_da) - math.log(c_base)
    if shrinks > 0:
        return ahead / shrinks
    return -math.inf if shrinks == 0 and ahead < 0 else math.inf
