"""Carlini & Wagner's attack against foolbox: as near, in no more time, with the same hyper-parameters.

python -m benchmarks.carlini_wagner
"""

from __future__ import annotations

import copy

import torch
from benchmarks._digits import digits_vit
from benchmarks._timing import interleaved, one_thread, row, show

from faultlines.attacks import CarliniWagnerL2

SAMPLES, ROUNDS = 64, 3
STEPS, SEARCH_STEPS, STEP_SIZE, INITIAL_C = 200, 5, 0.01, 0.01
TARGET, FARTHER = 1.0, 1.05


def run() -> list[dict]:
    """Return one row: name, ours_s, peer_s, ratio (ours / peer), target, ok and note."""
    import foolbox

    with one_thread():
        model, x, y = digits_vit(SAMPLES)
        attack = CarliniWagnerL2(
            steps=STEPS, search_steps=SEARCH_STEPS, step_size=STEP_SIZE, initial_c=INITIAL_C
        )
        peer_attack = foolbox.attacks.L2CarliniWagnerAttack(
            steps=STEPS, binary_search_steps=SEARCH_STEPS, stepsize=STEP_SIZE, initial_const=INITIAL_C
        )
        peer_model = foolbox.PyTorchModel(copy.deepcopy(model), bounds=(0, 1), device=x.device)
        found = {}

        def ours() -> None:
            result = attack(model, x, y)
            found["ours"] = result.x_adv, result.success

        def peer() -> None:
            z, _, fooled = peer_attack(peer_model, x, y, epsilons=None)
            found["peer"] = z, fooled

        times = interleaved({"ours": ours, "peer": peer}, ROUNDS, warm=False)
    (median, fooled), (peer_median, peer_fooled) = (reach(x, *found[name]) for name in ("ours", "peer"))
    farther = median / peer_median
    return [
        row(
            "CarliniWagnerL2 / foolbox",
            times["ours"],
            times["peer"],
            target=TARGET,
            words=f"<= {TARGET}, median distance <= {FARTHER} x",
            also=farther <= FARTHER,
            note=f"{SAMPLES} samples: median l2 {median:.4f}, foolbox {peer_median:.4f} (x{farther:.3f}); "
            f"fooled {fooled:.3f}, foolbox {peer_fooled:.3f}",
        )
    ]


def reach(x: torch.Tensor, x_adv: torch.Tensor, fooled: torch.Tensor) -> tuple[float, float]:
    """Return the median distance, infinite where the model was not fooled, and the share fooled."""
    distance = torch.where(fooled, (x_adv - x).flatten(1).norm(dim=1), torch.inf)
    return distance.median().item(), fooled.float().mean().item()


if __name__ == "__main__":
    show(run())
