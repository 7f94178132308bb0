"""PGD against its floor and against the same attack in foolbox and captum.

The floor is what no gradient attack can avoid: `steps` forward passes with the gradient of the loss with respect
to the input, on the model as it is given, and nothing else. Peers end, as a user's evaluation does, with the
forward pass that says which samples were fooled. Ours returns that, and also checks the clean point (one forward
pass more) and every point on the way. All run in one process, in turn, on one thread; what counts is processor
time, since the machine may be shared. The ratio is the median over the rounds of the ratio within a round.

    python -m benchmarks.pgd
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from benchmarks._timing import interleaved, one_thread, ratio
from torch.nn import functional as F

from faultlines.attacks import PGD
from faultlines.models import ViT

# 40 steps, as Madry et al. (2018) evaluate 28 x 28 images; with fewer, the forward pass on the clean point weighs more
EPS, STEPS, BATCH, ROUNDS = 8 / 255, 40, 64, 5
STEP_SIZE = 2.5 * EPS / STEPS


def cases(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, Callable[[], object]]:
    import foolbox
    from captum.robust import PGD as CaptumPGD

    attack = PGD(eps=EPS, steps=STEPS, step_size=STEP_SIZE)
    stopping = PGD(eps=EPS, steps=STEPS, step_size=STEP_SIZE, early_stop=True)
    peer_model = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    foolbox_attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=STEPS)
    captum_attack = CaptumPGD(
        model, torch.nn.CrossEntropyLoss(reduction="none"), lower_bound=0, upper_bound=1
    )

    def floor() -> None:
        z = x
        for _ in range(STEPS):
            z = z.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)

    def captum() -> torch.Tensor:
        z = captum_attack.perturb(x, EPS, STEP_SIZE, STEPS, y, random_start=True)
        with torch.no_grad():
            return model(z).argmax(dim=1) != y

    return {
        "ours": lambda: attack(model, x, y).success,
        "ours, early stop": lambda: stopping(model, x, y).success,
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
        times = interleaved(cases(model, x, y), ROUNDS)
    rows = []
    for ours, peer, target in (
        ("ours", "floor", 1.10),
        ("ours", "foolbox", 1.0),
        ("ours", "captum", 1.0),
        ("ours, early stop", "captum", 1.0),
    ):
        measured = ratio(times[ours], times[peer])
        rows.append(
            {
                "name": f"PGD{ours.removeprefix('ours')} / {peer}",
                "ours_s": statistics.median(times[ours]),
                "peer_s": statistics.median(times[peer]),
                "ratio": measured,
                "target": target,
                "ok": measured <= target,
            }
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(
            "{name:32} {ours_s:8.3f} s {peer_s:8.3f} s   ratio {ratio:.3f} (target {target}) {ok}".format(
                **row
            )
        )
