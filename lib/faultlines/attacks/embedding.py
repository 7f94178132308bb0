"""An attack on what an image is said to show: lower the cosine between its embedding and its prompt's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from faultlines.attacks.loop import Objective, Region
from faultlines.attacks.norms import Norm
from faultlines.attacks.patch import SquarePatch, Window
from faultlines.attacks.pgd import PGD


class PromptCosine:
    """Raise the negative cosine between an image's embedding and its prompt's.

    Args:
        embed: Maps images `[batch, *]` to embeddings `[batch, dim]` of any length.
        prompts: Embeddings of the prompts, `[prompts, dim]`.
        y: Each image's own prompt.
        threshold: A cosine; the goal is reached below it. None: where another prompt is nearer.
    """

    def __init__(
        self,
        embed: Callable[[Tensor], Tensor],
        prompts: Float[Tensor, "prompts dim"],
        y: Int64[Tensor, " batch"],
        threshold: float | None,
    ) -> None:
        self.embed, self.y, self.threshold = embed, y, threshold
        self.prompts = F.normalize(prompts.detach(), dim=1)

    def __call__(
        self, z: Float[Tensor, "active ..."], index: Int64[Tensor, " active"]
    ) -> tuple[Float[Tensor, " active"], Bool[Tensor, " active"]]:
        """Return the loss and whether the goal is reached."""
        embedded, y = self.embed(z), self.y[index]
        cosines = F.normalize(embedded, dim=1) @ self.prompts.to(embedded).T
        own = cosines.gather(1, y[:, None]).squeeze(1)
        if self.threshold is None:
            return -own, cosines.argmax(dim=1) != y
        return -own, own < self.threshold


class EmbeddingAttack(PGD):
    """Projected gradient against the similarity of image and text; the model embeds images.

    Without a threshold success is a wrong zero-shot answer: another prompt has become nearer than the image's own.

    Args:
        prompts: Embeddings of the prompts, `[prompts, dim]`, of any length; `y` in the call names each image's.
        eps: Largest change, in the norm; with a patch, of each of its pixels (1 leaves them free).
        norm: `"linf"`, `"l2"` or a `Norm`; without a say where there is a patch.
        patch: The square that may change, instead of the whole image.
        threshold: Cosine below which the attack has succeeded; None for a wrong zero-shot answer.
        steps: Gradient steps of each restart.
        step_size: Length of a step; by default `2.5 * eps / steps`.
        random_start: Whether each restart begins at a random point.
        restarts: Number of walks.
        early_stop: Whether a sample is left alone once the goal is reached.

    Raises:
        ValueError: If a value is out of range, a name unknown, or there is one prompt and no threshold.

    Example:
        >>> prompts = torch.eye(2)
        >>> x, y = torch.tensor([[0.6, 0.5], [0.9, 0.1]]), torch.tensor([0, 0])
        >>> result = EmbeddingAttack(prompts, eps=0.1, random_start=False)(lambda z: z, x, y)
        >>> result.success
        tensor([ True, False])
    """

    def __init__(
        self,
        prompts: Float[Tensor, "prompts dim"],
        *,
        eps: float,
        norm: str | Norm = "linf",
        patch: SquarePatch | None = None,
        threshold: float | None = None,
        steps: int = 40,
        step_size: float | None = None,
        random_start: bool = True,
        restarts: int = 1,
        early_stop: bool = False,
    ) -> None:
        if prompts.ndim != 2 or not prompts.is_floating_point() or not prompts.isfinite().all():
            raise ValueError(
                f"prompts has dtype {prompts.dtype} and shape {tuple(prompts.shape)}; it must be floating "
                "[prompts, dim] and finite"
            )
        if threshold is None and len(prompts) < 2:
            raise ValueError("prompts holds one prompt, of which no answer can be wrong: give a threshold")
        if threshold is not None and not -1 <= threshold <= 1:
            raise ValueError(f"threshold={threshold!r} must be a cosine, from -1 to 1")
        super().__init__(
            eps=eps,
            norm="linf" if patch else norm,
            loss=_unused,
            steps=steps,
            step_size=step_size,
            random_start=random_start,
            restarts=restarts,
            early_stop=early_stop,
        )
        self.prompts, self.patch, self.threshold = prompts.detach(), patch, threshold

    def check_output(self, output: Tensor, y: Tensor) -> None:
        """Check embeddings.

        Raises:
            ValueError: If they are not `[batch, dim]` and finite, or a label has no prompt.
        """
        expected = (len(y), self.prompts.shape[1])
        if output.shape != expected:
            raise ValueError(
                f"model returned embeddings of shape {tuple(output.shape)}; prompts ask for {expected}"
            )
        if not output.isfinite().all():
            raise ValueError("model returned embeddings that are not finite on the first batch")
        if y.max() >= len(self.prompts):
            raise ValueError(f"y has labels up to {int(y.max())}; there are {len(self.prompts)} prompts")

    @property
    def remedy(self) -> str:
        """What to do where gradients vanish."""
        return "the embedding is flat there"

    def objective(self, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> PromptCosine:
        """Return the negative cosine with each image's own prompt."""
        return PromptCosine(model, self.prompts.to(x), y, self.threshold)

    def region(self, objective: Objective, x: Tensor, generator: torch.Generator) -> Region:
        """Return the ball, or the patch."""
        if self.patch is None:
            return super().region(objective, x, generator)
        return Window(x, self.patch.mask(objective, x, generator), self.eps)


def _unused(logits: Tensor, y: Tensor) -> Tensor:
    raise NotImplementedError("this attack's loss is a cosine, not a loss on logits")
