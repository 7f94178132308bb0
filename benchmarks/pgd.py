"""PGD against its floor and against the same attack in foolbox and captum.

The floor is what no gradient attack can avoid: `steps` forward passes with the gradient of the loss with respect
to the input, on the model as it is given, and nothing else. Peers end, as a user's evaluation does, with the
forward pass that says which samples were fooled. Ours returns that, and also checks the clean point (one forward
pass more) and every point on the way. All run in one process, in turn, on one thread; what counts is processor
time, since the machine may be shared. The ratio is the median over the rounds of the ratio within a round.

    python -m benchmarks.pgd
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from benchmarks._timing import interleaved, one_thread, row, show
from torch.nn import functional as F

from faultlines.attacks import PGD
from faultlines.models import ViT

EPS, BATCH, ROUNDS = 8 / 255, 64, 5
# 40 steps, as Madry et al. (2018) evaluate 28 x 28 images; with 10 the forward pass on the clean point weighs four
# times as much, shown without a target: the price of a point that is never milder than the clean one
COMPARISONS = (
    (40, "", "floor", 1.10),
    (40, "", "foolbox", 1.0),
    (40, "", "captum", 1.0),
    (40, ", early stop", "captum", 1.0),
    (10, "", "floor", None),
    (10, "", "foolbox", None),
    (10, "", "captum", None),
    (10, ", early stop", "captum", None),
)


def cases(
    model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int
) -> dict[str, Callable[[], object]]:
    """Return what is timed: ours, the floor and the peers."""
    import foolbox
    from captum.robust import PGD as CaptumPGD

    step_size = 2.5 * EPS / steps
    attack = PGD(eps=EPS, steps=steps, step_size=step_size)
    stopping = PGD(eps=EPS, steps=steps, step_size=step_size, early_stop=True)
    peer_model = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    foolbox_attack = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps)
    captum_attack = CaptumPGD(
        model, torch.nn.CrossEntropyLoss(reduction="none"), lower_bound=0, upper_bound=1
    )

    def floor() -> None:
        z = x
        for _ in range(steps):
            z = z.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)

    def captum() -> torch.Tensor:
        z = captum_attack.perturb(x, EPS, step_size, steps, y, random_start=True)
        with torch.no_grad():
            return model(z).argmax(dim=1) != y

    return {
        "": lambda: attack(model, x, y).success,
        ", early stop": lambda: stopping(model, x, y).success,
        "floor": floor,
        "foolbox": lambda: foolbox_attack(peer_model, x, y, epsilons=EPS)[2],
        "captum": captum,
    }


def run() -> list[dict]:
    """Return one row a comparison: name, ours_s, peer_s, ratio (ours / peer), target and ok."""
    torch.manual_seed(0)
    model = ViT(image_size=28, patch_size=4, channels=1, classes=10, dim=64, depth=4, heads=4).eval()
    x = torch.rand(BATCH, 1, 28, 28)
    with torch.no_grad():
        y = model(x).argmax(dim=1)  # right on every sample: early stopping has to earn its gain
    with one_thread():
        times = {steps: interleaved(cases(model, x, y, steps), ROUNDS) for steps in (10, 40)}
    rows = []
    for steps, ours, peer, target in COMPARISONS:
        rows.append(
            row(f"PGD {steps} steps{ours} / {peer}", times[steps][ours], times[steps][peer], target=target)
        )
    return rows


if __name__ == "__main__":
    show(run())
