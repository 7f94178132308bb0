"""Integrated Gradients and SmoothGrad against captum's at the same number of steps, on the same network and images.

python -m benchmarks.attribution
"""

from __future__ import annotations

import torch
from benchmarks._timing import interleaved, one_thread, row, show
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from torch import nn

from faultlines.estimators.attribution import integrated_gradients, smoothgrad
from faultlines.models import ViT

BATCH, STEPS, ROUNDS = 32, 32, 7


def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    cnn = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 49, 10),
    )
    vit = ViT(image_size=28, patch_size=4, channels=1, classes=10, dim=32, depth=2, heads=4)
    return {"CNN": cnn.eval(), "ViT": vit.eval()}


def run() -> list[dict]:
    """Return one row a method and model: name, ours_s, peer_s, ratio (ours / peer), target and ok."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(BATCH, 1, 28, 28, generator=generator)
    target = torch.randint(10, (BATCH,), generator=generator)
    rows = []
    with one_thread():
        for label, model in models().items():
            captum_ig, captum_sg = IntegratedGradients(model), NoiseTunnel(Saliency(model))
            cases = {
                "Integrated Gradients": (
                    lambda model=model: integrated_gradients(model, x, target, steps=STEPS),
                    lambda ig=captum_ig: ig.attribute(
                        x, target=target, n_steps=STEPS, method="riemann_middle"
                    ),
                ),
                "SmoothGrad": (
                    lambda model=model: smoothgrad(model, x, target, samples=STEPS),
                    lambda sg=captum_sg: sg.attribute(
                        x.clone().requires_grad_(), target=target, nt_samples=STEPS, stdevs=0.15, abs=False
                    ),
                ),
            }
            for name, (ours, theirs) in cases.items():
                worst = float((ours() - theirs()).abs().max()) if "Integrated" in name else 0.0
                if worst > 1e-5:
                    raise AssertionError(f"{name} differs by {worst:.1e}; a faster wrong answer is no gain")
                times = interleaved({"ours": ours, "peer": theirs}, ROUNDS)
                note = f"{STEPS} steps, batch of {BATCH} at 28 pixels, one thread"
                rows.append(
                    row(
                        f"{name} / captum, {label}",
                        times["ours"],
                        times["peer"],
                        target=1.0,
                        words="<= 1",
                        note=note,
                    )
                )
    return rows


if __name__ == "__main__":
    show(run())
