"""A short training loop for a pair of towers on images and captions (CLIP: Radford et al. 2021)."""

from __future__ import annotations

import math
import time

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from faultlines.models.clip.two_tower import CLIP, contrastive_loss
from faultlines.models.differential import DifferentialAttention
from faultlines.training.batches import Batches
from faultlines.training.history import EpochMean, History
from faultlines.training.optimizer import build_optimizer
from faultlines.training.schedule import learning_rate
from faultlines.training.settings import Settings


def fit_contrastive(
    model: CLIP,
    x: Float[Tensor, "n channel height width"],
    tokens: Int64[Tensor, "n context"],
    *,
    epochs: int,
    batch_size: int = 64,
    lr: float = 2e-3,
    weight_decay: float = 0.05,
    warmup: float = 0.1,
    grad_clip: float | None = 1.0,
    seed: int = 0,
) -> History:
    r"""Train both towers in place on the symmetric contrastive loss, with AdamW and a cosine schedule.

    Within a batch every other caption counts as wrong, also one of equal words: with captions drawn from 960, a batch
    of 64 holds about two such pairs. A last batch of a single pair, which has nothing to be told apart from, is
    left out.

    Args:
        model: The towers, left in evaluation mode.
        x: Images in [0, 1].
        tokens: Their captions, tokenised.
        epochs: Passes over the pairs.
        batch_size: Pairs a step, at least 2.
        lr: Peak learning rate.
        weight_decay: Acts on weight matrices only; see `decays`.
        warmup: Share of all steps in which the learning rate rises.
        grad_clip: Largest norm of the whole gradient, or None.
        seed: Seed of the order of the pairs.

    Returns:
        Epoch means of the loss, with $\lambda$ after each epoch among the terms as `image lambda 0`, `text lambda 0`,
        ... where attention is differential.

    Raises:
        ValueError: If a setting is out of range, or images and captions do not pair up.
        FloatingPointError: If the loss is not finite.

    Example:
        >>> from faultlines.models import ImageTower, TextTower
        >>> sizes = dict(embed_dim=6, dim=8, depth=1, heads=2)
        >>> model = CLIP(ImageTower(image_size=8, patch_size=4, **sizes), TextTower(vocabulary=9, context=4, **sizes))
        >>> tokens = torch.tensor([[1, 2, 8, 0], [1, 3, 8, 0], [1, 4, 8, 0], [1, 5, 8, 0]])
        >>> history = fit_contrastive(model, torch.rand(4, 3, 8, 8), tokens, epochs=3, batch_size=4)
        >>> len(history.loss), model.training
        (3, False)
    """
    settings = Settings(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        warmup=warmup,
        grad_clip=grad_clip,
    )
    if len(x) != len(tokens) or len(x) < batch_size or batch_size < 2:
        raise ValueError(
            f"x holds {len(x)} images, tokens {len(tokens)} captions, batch_size={batch_size}: as many of one as of "
            "the other are needed, at least a batch, and a batch of at least 2"
        )
    device = next(model.parameters()).device
    tokens = tokens.to(device)
    batches = Batches(x.to(device), torch.arange(len(x), device=device), batch_size=batch_size, seed=seed)
    stepper, history, steps, step = build_optimizer(model, settings), History(), epochs * len(batches), 0
    start = time.perf_counter()
    for _ in range(epochs):
        model.train()
        mean = EpochMean()
        for images, index in batches.epoch():
            rate = learning_rate(step, steps, settings)
            step += 1
            if len(images) < 2:
                continue
            for group in stepper.param_groups:
                group["lr"] = rate
            stepper.zero_grad(set_to_none=True)
            loss = contrastive_loss(model(images, tokens[index]))
            loss.backward()
            if grad_clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
            stepper.step()
            mean.add(loss, {}, len(images))
        value = mean.read()[0].item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"loss is {value} after epoch {len(history.loss) + 1} of {epochs}, lr={lr:g}"
            )
        history.add(value, rate, lambdas(model))
    model.eval()
    history.seconds = time.perf_counter() - start
    return history


def lambdas(model: CLIP) -> dict[str, float]:
    r"""Return $\lambda$ of every differential layer by tower and place, `image lambda 0`."""
    return {
        f"{name} lambda {index}": float(torch.as_tensor(block.attention.mechanism.lambda_value()).detach())
        for name, tower in (("image", model.image), ("text", model.text))
        for index, block in enumerate(tower.blocks)
        if isinstance(block.attention.mechanism, DifferentialAttention)
    }
