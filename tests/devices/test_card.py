"""What only a card can show: the numbers of its kernels, its roundings, its memory. Skipped where there is none."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.devices.on_wooden import CASES, CPU, MAPS, batch, cnn, layer, numbers, rows, vit, wide

from faultlines import attacks, estimators, models, training

ROOT = Path(__file__).resolve().parents[2]
CUDA = torch.device("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
# a generator of the card draws others than one of the CPU from the same seed, so that these are other samples
DRAWN = {"alignment_hutchinson", "attribute", "hessian_trace", "layer_lipschitz", "local_lipschitz"}
ESTIMATORS = [name for name in CASES if name.startswith("estimators.")]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_each_estimator_against_its_value_on_the_cpu(name):
    found, expected = numbers(CASES[name](CUDA)), numbers(CASES[name](CPU))
    assert [a.shape for a in found] == [a.shape for a in expected]
    for a, b in zip(found, expected, strict=True):
        if name.partition(".")[2] in DRAWN:
            assert np.array_equal(np.isfinite(a), np.isfinite(b))
        else:  # searches end within one per cent of their goal, wherever they started
            np.testing.assert_allclose(a, b, rtol=0.02, atol=1e-4)


def rounded(compute):
    """Return what a computation gives in full float32, where TF32 is allowed, and under bfloat16."""
    parts = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]
    before, found = [part.fp32_precision for part in parts], []
    try:
        for precision in ("ieee", "tf32"):
            for part in parts:
                part.fp32_precision = precision
            found.append(compute())
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return (*found, compute())
    finally:
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision


def single_layer():
    made, x = layer(CUDA)
    return made.float(), x.float()


@pytest.mark.parametrize(
    "compute",
    [
        lambda: estimators.attention_bound(*single_layer()),
        lambda: estimators.jacobian_norm(
            cnn(CUDA), batch(CUDA)[0], generator=torch.Generator(CUDA).manual_seed(0)
        ),
        lambda: estimators.finite_relu_ntk(rows(CUDA).float(), weight=wide(CUDA, 512, 6).float()),
        lambda: estimators.KernelRidge(torch.eye(64, device=CUDA) + 0.1, wide(CUDA, 64).float(), 0.1).alpha,
        lambda: estimators.empirical_ntk(cnn(CUDA), batch(CUDA)[0]),
    ],
    ids=["attention_bound", "jacobian_norm", "finite_relu_ntk", "KernelRidge", "empirical_ntk"],
)
def test_bounds_kernels_and_solves_do_not_move_with_tf32_or_bfloat16(compute):
    full, tf32, bfloat16 = rounded(compute)
    torch.testing.assert_close(tf32, full, rtol=1e-6, atol=0)
    torch.testing.assert_close(bfloat16, full, rtol=1e-6, atol=0)


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0), reason="a card without TF32"
)
def test_a_plain_product_does_move():  # or the test above would show nothing
    a = torch.rand(256, 256, device=CUDA)
    full, tf32, bfloat16 = rounded(lambda: (a @ a).float())
    assert not torch.equal(full, tf32) and not torch.equal(full, bfloat16)


@pytest.mark.parametrize("mechanism", ["softmax", "differential", "linear", "rbf", "sigmoid"])
def test_training_bears_bfloat16(mechanism):
    x, y = batch(CUDA, 40)
    losses = []
    for enabled in (False, True):
        model = vit(CUDA, attention=mechanism)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=enabled):
            training.fit(model, x, y, epochs=5, batch_size=10, lr=0.01, progress=False)
        losses.append(training.training_loss(model, x, y))
    assert losses[1] == pytest.approx(losses[0], abs=0.1)


@pytest.mark.parametrize("name", [name for name in CASES if name.partition(".")[2] not in MAPS])
def test_a_cell_gives_its_memory_back(name):
    def held() -> int:
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    CASES[name](CUDA)  # what stays for good, a workspace of cuBLAS say, is there after the first time
    before = held()
    CASES[name](CUDA)
    assert held() <= before


def test_a_large_batch_of_an_attack_stays_within_twice_that_of_its_gradient():
    model = (
        models.ViT(image_size=32, patch_size=4, channels=3, classes=10, dim=192, depth=6, heads=3)
        .to(CUDA)
        .eval()
    )
    x, y = torch.rand(256, 3, 32, 32, device=CUDA), torch.zeros(256, dtype=torch.int64, device=CUDA)

    def peak(compute) -> int:
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        compute()
        return torch.cuda.max_memory_allocated() - start

    inputs = x.clone().requires_grad_()
    once = peak(lambda: torch.autograd.grad(model(inputs).sum(), inputs))
    assert peak(lambda: attacks.PGD(eps=0.03, steps=5)(model, x, y)) <= 2 * once


def test_two_notebooks_share_a_card():
    command = [sys.executable, "-m", "faultlines", "run", "crossover", "softmax-lipschitz"]
    options = ["--run", "smoke", "--force", "--jobs", "2", "-p", "device=cuda"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
