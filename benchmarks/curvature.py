"""A Hessian's top eigenvalue against curvlinops with scipy's Lanczos, and what curvature costs in training.

Both sides get the same start, the tolerance of one in a hundred, and float32; both build what they need inside the
timed call. The exact value is a converged run in float64. The peer is not tried on networks with layer normalisation:
in torch 2.14.1 the Hessian-vector products of `torch.func`'s vectorised Jacobians are wrong in its gains.

    python -m benchmarks.curvature
"""

from __future__ import annotations

import copy
import warnings

import torch
from benchmarks._timing import interleaved, one_thread, row, show
from scipy.sparse.linalg import eigsh
from torch import nn

from faultlines.data import load
from faultlines.estimators.curvature import hessian_top
from faultlines.models import CNN, MLP
from faultlines.training import CrossEntropy, InputGradient, fit, seeded
from faultlines.training.objectives.input_penalties import CurvaturePenalty

ROUNDS, TOLERANCE, TARGET = 7, 1e-2, 1.0
SGD = {
    "optimizer": "sgd",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "warmup": 0.0,
    "schedule": "constant",
    "grad_clip": None,
}
SGD |= {"batch_size": 32, "lr": 0.1}


def networks() -> dict[str, nn.Module]:
    image = {"image_shape": (1, 8, 8), "classes": 10, "norm": "hidden"}
    return {
        "perceptron 64-128-128-10": seeded(lambda: MLP(**image), 0),
        "CNN 16-32-64": seeded(lambda: CNN(**image, activation="gelu"), 0),
    }


def top_row(name: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict:
    from curvlinops import HessianLinearOperator

    size = sum(p.numel() for p in model.parameters())
    exact = hessian_top(copy.deepcopy(model).double(), x.double(), y, tol=1e-7, steps=300).values.item()
    start = torch.randn(size, generator=torch.Generator().manual_seed(0))
    found = {}

    def ours() -> None:
        generator = torch.Generator().manual_seed(0)
        found["ours"] = hessian_top(model, x, y, tol=TOLERANCE, generator=generator).values.item()

    def peer() -> None:
        operator = HessianLinearOperator(
            model, nn.CrossEntropyLoss(), list(model.parameters()), [(x, y)], check_deterministic=False
        )
        found["peer"] = eigsh(
            operator.to_scipy(), k=1, which="LA", tol=TOLERANCE, v0=start.numpy(), return_eigenvectors=False
        )[0]

    times = interleaved({"ours": ours, "peer": peer}, ROUNDS)
    errors = {who: abs(float(value) / exact - 1) for who, value in found.items()}
    return row(
        f"hessian_top / curvlinops + eigsh, {name}",
        times["ours"],
        times["peer"],
        target=TARGET,
        words=f"<= {TARGET:g}, relative error <= {TOLERANCE:g}",
        also=errors["ours"] <= TOLERANCE,
        note=f"{len(x)} digits, {size} parameters, float32, one thread, relative errors {errors['ours']:.1e} "
        f"(ours) and {errors['peer']:.1e} (peer)",
    )


def training_rows(x: torch.Tensor, y: torch.Tensor) -> list[dict]:
    def epochs(objective: object, callbacks: tuple = ()) -> None:
        model = networks()["perceptron 64-128-128-10"]
        fit(model, x, y, epochs=2, objective=objective, callbacks=callbacks, **SGD)

    cases = {
        "plain": lambda: epochs(CrossEntropy()),
        "gradient penalty": lambda: epochs(InputGradient(0.1)),
        "curvature penalty": lambda: epochs(CurvaturePenalty(0.1)),
        "hessian_top on 256 samples": lambda: epochs(
            CrossEntropy(), (lambda state: hessian_top(state.model, x[:256], y[:256]),)
        ),
    }
    times = {name: [s / 2 for s in seconds] for name, seconds in interleaved(cases, 5).items()}
    return [
        row(
            f"an epoch with {name} / plain SGD",
            times[name],
            times["plain"],
            words="none",
            note=f"perceptron with batch normalisation, {len(x)} digits, batch {SGD['batch_size']}",
        )
        for name in cases
        if name != "plain"
    ]


def run() -> list[dict]:
    warnings.simplefilter("ignore")  # curvlinops' imports warn
    digits = load("digits")
    with one_thread():
        rows = []
        for name, model in networks().items():
            fit(model, *digits.train, epochs=3, **SGD)
            rows.append(top_row(name, model, *digits.train))
        return rows + training_rows(*digits.train)


if __name__ == "__main__":
    show(run())
