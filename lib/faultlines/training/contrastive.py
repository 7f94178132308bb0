"""Training of a pair of towers on images and captions (CLIP: Radford et al. 2021)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from faultlines.estimators.forward import with_gradients
from faultlines.models.clip import CLIP, contrastive_loss
from faultlines.models.differential import DifferentialAttention
from faultlines.training import checkpoint as checkpoints
from faultlines.training.batches import Batches
from faultlines.training.checkpoint import Checkpoint
from faultlines.training.loop import History, State, Terms, Training
from faultlines.training.optimizer import Settings, build_optimizer, plain_number


@with_gradients
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
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
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
        seed: Seed of the order of the pairs, and of dropout.
        progress: A bar over epochs; by default only in a terminal.
        checkpoint: File to go on from where it exists, and to write to after every epoch; by default one in
            the folder that `FAULTLINES_CHECKPOINTS` names, if it names one.

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
    x, tokens = x.to(device), tokens.to(device)
    seed, batch_size = plain_number(seed), plain_number(batch_size)
    batches = Batches(x, tokens, batch_size=batch_size, seed=seed)
    state = State(model, History(), "the contrastive loss", 0, epochs * len(batches))
    training = ContrastiveTraining(
        model, batches, settings, build_optimizer(model, settings), state, seed=seed, device=device
    )
    keep = None
    if checkpoint is not None or checkpoints.wanted():
        run = checkpoints.identity(model, (x, tokens), settings, state.objective, seed=seed)
        if checkpoint is None:
            step = checkpoints.first_step(
                model, lambda m, x, t: (contrastive_loss(m(x, t)), {}), x[:batch_size], tokens[:batch_size]
            )
            checkpoint = checkpoints.automatic(run, [model], step=step)
        keep = Checkpoint(Path(checkpoint), run)
    training.run(progress=progress, checkpoint=keep)
    return state.history


class ContrastiveTraining(Training[History]):
    """Training on pairs of images and captions."""

    model: CLIP

    def size(self, batch: tuple[Tensor, Tensor]) -> int:
        """Return how many pairs a batch holds; a single one has nothing to be told apart from."""
        return len(batch[0]) if len(batch[0]) > 1 else 0

    def loss(self, batch: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, Terms]:
        """Return the contrastive loss."""
        return contrastive_loss(self.model(*batch)), {}

    def record(self, loss: Tensor, terms: Terms, rate: float) -> None:
        """Put the mean loss of an epoch and the lambdas after it into the history."""
        self.state.history.add(loss.item(), rate, lambdas(self.model))


def lambdas(model: CLIP) -> dict[str, float]:
    r"""Return $\lambda$ of every differential layer by tower and place, `image lambda 0`."""
    towers: dict[str, Any] = {"image": model.image, "text": model.text}  # torch types blocks as modules only
    return {
        f"{name} lambda {index}": float(torch.as_tensor(block.attention.mechanism.lambda_value()).detach())
        for name, tower in towers.items()
        for index, block in enumerate(tower.blocks)
        if isinstance(block.attention.mechanism, DifferentialAttention)
    }
