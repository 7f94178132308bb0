"""The ensemble against the package of AutoAttack's authors: the same robust accuracy, in less time.

Both run the standard ensemble, whole, on a digits ViT trained for some seconds, at a radius where about a quarter of
the samples survives: those are the ones that cost, since every member has to try them to its end. One thread; what
counts is processor time, since the machine may be shared.

    python -m benchmarks.auto_attack
"""

from __future__ import annotations

import copy
import logging
import time

import torch
from torch.nn import functional as F

from faultlines.attacks import AutoAttack
from faultlines.data import load
from faultlines.models import ViT

SAMPLES, CASES = 200, (("linf", 0.08), ("l2", 0.45))
TARGET, TOLERANCE = 0.67, 0.005


def digits_vit(n_test: int) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """Return a trained model and its test set."""
    digits = load("digits", n_test=n_test)
    torch.manual_seed(0)
    model = ViT(image_size=8, patch_size=4, channels=1, classes=10, dim=32, depth=2, heads=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(15):
        for batch in torch.randperm(len(digits.y_train), generator=generator).split(128):
            optimizer.zero_grad()
            F.cross_entropy(model(digits.x_train[batch]), digits.y_train[batch]).backward()
            optimizer.step()
    model.zero_grad()
    return model.eval(), *digits.test


def robust_accuracy(model: torch.nn.Module, x_adv: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return (model(x_adv).argmax(dim=1) == y).float().mean().item()


def compare(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, norm: str, eps: float) -> dict:
    from pyautoattack import AutoAttack as Peer

    start = time.process_time()
    ours = AutoAttack(eps=eps, norm=norm)(model, x, y).x_adv
    middle = time.process_time()
    peer = Peer(copy.deepcopy(model), norm=norm.capitalize(), eps=eps, seed=0, device="cpu")
    found = peer.run_standard_evaluation(x, y, batch_size=250)
    end = time.process_time()
    theirs = found[0] if isinstance(found, tuple) else found
    robust, peer_robust = robust_accuracy(model, ours, y), robust_accuracy(model, theirs, y)
    ratio = (middle - start) / (end - middle)
    return {
        "name": f"AutoAttack {norm} / pyautoattack",
        "ours_s": middle - start,
        "peer_s": end - middle,
        "ratio": ratio,
        "target": f"<= {TARGET}, robust accuracy within {TOLERANCE}",
        "ok": ratio <= TARGET and abs(robust - peer_robust) <= TOLERANCE + 1e-9,
        "note": f"{len(x)} samples, eps {eps}: robust accuracy {robust:.4f}, peer {peer_robust:.4f}",
    }


def run() -> list[dict]:
    """Return one row a norm: name, ours_s, peer_s, ratio (ours / peer), target, ok and note."""
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, x, y = digits_vit(SAMPLES)
        return [compare(model, x, y, norm, eps) for norm, eps in CASES]
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    for row in run():
        print(*(f"{key}: {value}" for key, value in row.items()), sep="\n")
