"""The ensemble against the package of AutoAttack's authors: the same robust accuracy, in less time.

Both run the standard ensemble, whole, on a digits ViT trained for some seconds, at a radius where about a quarter of
the samples survives: those are the ones that cost, since every member has to try them to its end. One thread; what
counts is processor time, since the machine may be shared.

    python -m benchmarks.auto_attack
"""

from __future__ import annotations

import copy
import logging

import torch
from benchmarks._digits import digits_vit
from benchmarks._timing import interleaved, one_thread, row, show

from faultlines.attacks import AutoAttack

SAMPLES, CASES = 200, (("linf", 0.08), ("l2", 0.45))
TARGET, TOLERANCE, ROUNDS = 0.67, 0.005, 2


def robust_accuracy(model: torch.nn.Module, x_adv: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return (model(x_adv).argmax(dim=1) == y).float().mean().item()


def compare(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, norm: str, eps: float) -> dict:
    """Return the row of one norm."""
    from pyautoattack import AutoAttack as Peer

    attack, peer_model, found = AutoAttack(eps=eps, norm=norm), copy.deepcopy(model), {}

    def ours() -> None:
        found["ours"] = attack(model, x, y).x_adv

    def peer() -> None:
        peer = Peer(peer_model, norm=norm.capitalize(), eps=eps, seed=0, device="cpu")
        result = peer.run_standard_evaluation(x, y, batch_size=250)
        found["peer"] = result[0] if isinstance(result, tuple) else result

    times = interleaved({"ours": ours, "peer": peer}, ROUNDS, warm=False)
    robust, peer_robust = (robust_accuracy(model, found[name], y) for name in ("ours", "peer"))
    return row(
        f"AutoAttack {norm} / pyautoattack",
        times["ours"],
        times["peer"],
        target=TARGET,
        words=f"<= {TARGET}, robust accuracy within {TOLERANCE}",
        also=abs(robust - peer_robust) <= TOLERANCE + 1e-9,
        note=f"{len(x)} samples, eps {eps}: robust accuracy {robust:.4f}, peer {peer_robust:.4f}",
    )


def run() -> list[dict]:
    """Return one row a norm: name, ours_s, peer_s, ratio (ours / peer), target, ok and note."""
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    with one_thread():
        model, x, y = digits_vit(SAMPLES)
        return [compare(model, x, y, norm, eps) for norm, eps in CASES]


if __name__ == "__main__":
    show(run())
