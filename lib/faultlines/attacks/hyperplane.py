"""Projection of a point onto the part of a hyperplane that lies in the pixel box."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from faultlines.attacks.norms import Linf, Norm


def to_hyperplane(
    point: Float[Tensor, "batch n"],
    normal: Float[Tensor, "batch n"],
    value: Float[Tensor, " batch"],
    norm: Norm,
) -> Float[Tensor, "batch n"]:
    r"""Return the smallest move $d$ with $v + \langle w, d \rangle = 0$ and $p + d \in [0, 1]^n$.

    Every coordinate moves towards the plane, by $\min(\lambda a_i, c_i)$: $c_i$ is its room in the box and $a_i$ its
    speed, 1 for the maximum norm and $|w_i|$ for the Euclidean one. The gain $\sum_i |w_i| \min(\lambda a_i, c_i)$
    is piecewise linear in $\lambda$, so $\lambda$ follows from one sort of the places $c_i / a_i$ where coordinates
    come to rest (Croce & Hein 2020, arXiv 1907.02044, sec. 3 and appendix A). Where the box does not reach the
    plane, the move goes to the point of the box nearest to it.

    Args:
        point: $p$, in the box.
        normal: $w$.
        value: $v$, the linear function at $p$.
        norm: `Linf()` or `L2()`.

    Example:
        >>> from faultlines.attacks.norms import L2
        >>> p, w, v = torch.tensor([[0.5, 0.1]]), torch.tensor([[1.0, 1.0]]), torch.tensor([0.5])
        >>> to_hyperplane(p, w, v, Linf())  # the second coordinate has room for 0.1 only
        tensor([[-0.4000, -0.1000]])
    """
    sign = -normal.sign() * torch.where(value >= 0, 1.0, -1.0).to(point)[:, None]
    weight = normal.abs()
    room = torch.where(sign > 0, 1 - point, point) * (weight > 0)
    speed = torch.ones_like(weight) if isinstance(norm, Linf) else weight
    rest, order = torch.where(weight > 0, room / speed, 0.0).sort(dim=1)
    weight_sorted = weight.gather(1, order)
    done = (weight_sorted * room.gather(1, order)).cumsum(dim=1)
    drive = weight_sorted * speed.gather(1, order)
    still = drive.flip(1).cumsum(dim=1).flip(1) - drive  # of the coordinates that have not come to rest
    gain = done + rest * still
    need = value.abs()[:, None]
    # the piece of the gain that holds what is needed, and the state at its beginning
    piece = torch.searchsorted(gain.contiguous(), need.contiguous())
    at = (piece - 1).clamp(min=0)
    first = piece == 0
    moved = torch.where(first, 0.0, done.gather(1, at))
    slope = torch.where(first, drive.sum(dim=1, keepdim=True), still.gather(1, at))
    scale = torch.where(slope > 0, (need - moved) / torch.where(slope > 0, slope, 1), 0.0)
    out_of_reach = piece == piece.new_tensor(point.shape[1])
    return sign * torch.where(out_of_reach, room, torch.minimum(scale * speed, room))
