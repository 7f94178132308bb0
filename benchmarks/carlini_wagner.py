"""Carlini & Wagner's attack against foolbox: as near, in no more time, with the same hyper-parameters.

python -m benchmarks.carlini_wagner
"""

from __future__ import annotations

import copy
import statistics
import time

import torch
from benchmarks.auto_attack import digits_vit

from faultlines.attacks import CarliniWagnerL2

SAMPLES, ROUNDS = 32, 2
STEPS, SEARCH_STEPS, STEP_SIZE, INITIAL_C = 200, 5, 0.01, 0.01
TARGET, FARTHER = 1.0, 1.05


def run() -> list[dict]:
    """Return one row: name, ours_s, peer_s, ratio (ours / peer), target, ok and note."""
    import foolbox

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, x, y = digits_vit(SAMPLES)
        attack = CarliniWagnerL2(
            steps=STEPS, search_steps=SEARCH_STEPS, step_size=STEP_SIZE, initial_c=INITIAL_C
        )
        peer = foolbox.attacks.L2CarliniWagnerAttack(
            steps=STEPS, binary_search_steps=SEARCH_STEPS, stepsize=STEP_SIZE, initial_const=INITIAL_C
        )
        peer_model = foolbox.PyTorchModel(copy.deepcopy(model), bounds=(0, 1), device=x.device)
        ours_s, peer_s = [], []
        for _ in range(ROUNDS):
            start = time.process_time()
            ours = attack(model, x, y)
            middle = time.process_time()
            theirs, _, fooled = peer(peer_model, x, y, epsilons=None)
            ours_s.append(middle - start)
            peer_s.append(time.process_time() - middle)
    finally:
        torch.set_num_threads(threads)
    distance, peer_distance = (
        torch.where(success, (z - x).flatten(1).norm(dim=1), torch.inf)
        for z, success in ((ours.x_adv, ours.success), (theirs, fooled))
    )
    ratio = statistics.median(a / b for a, b in zip(ours_s, peer_s, strict=True))
    farther = (distance.median() / peer_distance.median()).item()
    return [
        {
            "name": "CarliniWagnerL2 / foolbox",
            "ours_s": statistics.median(ours_s),
            "peer_s": statistics.median(peer_s),
            "ratio": ratio,
            "target": f"<= {TARGET}, median distance <= {FARTHER} x",
            "ok": ratio <= TARGET and farther <= FARTHER,
            "note": f"{SAMPLES} samples: median l2 {distance.median():.4f}, foolbox {peer_distance.median():.4f} "
            f"(x{farther:.3f}); fooled {ours.success.float().mean():.3f}, foolbox {fooled.float().mean():.3f}",
        }
    ]


if __name__ == "__main__":
    for row in run():
        print(*(f"{key}: {value}" for key, value in row.items()), sep="\n")
