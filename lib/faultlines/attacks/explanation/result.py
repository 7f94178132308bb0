"""What an attack on explanations found."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class ExplanationResult:
    """What an attack on explanations found, sample by sample; everything is measured on the model as it is.

    Attributes:
        x_adv: The point visited of lowest score, inside ball and box; with rejection among those whose prediction is
            that of the clean sample. The clean sample itself where no point visited has a lower score.
        score: The criterion's likeness of the maps at `x_adv` and at the clean sample; 1 where nothing has changed.
        success: Whether the score is below the clean one and the prediction at `x_adv` is that of the clean sample.
        kept: Whether the prediction at `x_adv` is that of the clean sample; with rejection always.
        kept_share: The share of the perturbed points visited whose prediction was that of the clean sample; NaN
            where none was visited.
        explanation: The maps at `x_adv`.
        clean_explanation: The maps at the clean samples; any other likeness can be measured from the two.
        surrogate: What stood in for the model in the attack's gradient, or None where the model itself did.
    """

    x_adv: Float[Tensor, batch * dims]
    score: Float[Tensor, " batch"]
    success: Bool[Tensor, " batch"]
    kept: Bool[Tensor, " batch"]
    kept_share: Float[Tensor, " batch"]
    explanation: Float[Tensor, batch * map_dims]
    clean_explanation: Float[Tensor, batch * map_dims]
    surrogate: str | None
