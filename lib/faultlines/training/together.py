"""Members of one architecture and one kind of objective, trained in one vectorised loop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from faultlines.training import checkpoint as checkpoints
from faultlines.training.batches import Augment, Batches
from faultlines.training.history import EpochMean, History
from faultlines.training.objectives.objective import Objective
from faultlines.training.progress import EpochsBar
from faultlines.training.schedule import learning_rate
from faultlines.training.settings import Settings
from faultlines.training.stack import RowOptimizer, Stack, clip_rows


@dataclass(frozen=True)
class Member:
    """One network to be trained with others.

    Attributes:
        model: The network, at its initial weights; written to when training ends.
        objective: Of the same kind for all members; its `per_member` numbers may differ.
        settings: Equal for all members but for `lr` and `weight_decay`.
        seed: Seed of the batches.
        arm: Name, for messages.
    """

    model: nn.Module
    objective: Objective
    settings: Settings
    seed: int
    arm: str


def fit_together(
    members: Sequence[Member],
    x: Tensor,
    y: Tensor,
    *,
    augment: Augment | None = None,
    progress: bool | None = None,
) -> list[History]:
    """Train all members at once, in place; the caller has checked them.

    Members of equal seed see the same batches, which are drawn once.

    Raises:
        FloatingPointError: If a member's loss is not finite.
    """
    shared = members[0].settings
    kept = _Kept(members, x, y, augment) if checkpoints.wanted() else None
    if kept is not None and (histories := kept.restore()) is not None:
        return histories
    stack = Stack([member.model.train() for member in members])
    options = {"dtype": stack.flat.dtype, "device": stack.flat.device}
    numbers = {
        name: torch.tensor([float(getattr(member.objective, name)) for member in members], **options)
        for name in members[0].objective.per_member
    }
    decay = torch.tensor([[member.settings.weight_decay] for member in members], **options) * stack.decayed
    stepper = RowOptimizer(shared.optimizer, decay, shared.momentum)

    def loss_of(
        trained: dict[str, Tensor],
        fixed: dict[str, Tensor],
        numbers: dict[str, Tensor],
        xb: Tensor,
        yb: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        objective = replace(members[0].objective, **numbers)
        return objective(lambda x: functional_call(stack.skeleton, (trained, fixed), (x,)), xb, yb)

    value_and_gradients = vmap(grad_and_value(loss_of, has_aux=True))
    streams = {
        member.seed: Batches(x, y, batch_size=shared.batch_size, seed=member.seed, augment=augment)
        for member in members
    }
    rows = torch.tensor([list(streams).index(member.seed) for member in members], device=x.device)
    per_epoch = len(streams[members[0].seed])
    steps = shared.epochs * per_epoch
    histories = [History() for _ in members]
    start = time.perf_counter()
    with EpochsBar(shared.epochs, progress=progress) as bar:
        for epoch in range(shared.epochs):
            mean = EpochMean()
            epochs = zip(*(stream.epoch() for stream in streams.values()), strict=True)
            for step, batches in enumerate(epochs, start=epoch * per_epoch):
                rates = [learning_rate(step, steps, member.settings) for member in members]
                xb, yb = (torch.stack(parts)[rows] for parts in zip(*batches, strict=True))
                gradients, (loss, terms) = value_and_gradients(
                    stack.parameters(), stack.fixed, numbers, xb, yb
                )
                gradient = stack.flatten(gradients)
                if shared.grad_clip is not None:
                    clip_rows(gradient, shared.grad_clip)
                stepper.step(stack.flat, gradient, torch.tensor(rates, **options)[:, None])
                mean.add(loss, terms, xb.shape[1])
                if x.device.type == "cpu":
                    _check_finite(loss, members, step, steps, rates)
            loss, terms = mean.read()
            _check_finite(loss, members, step, steps, rates)
            for i, history in enumerate(histories):
                history.add(
                    loss[i].item(), rates[i], {name: value[i].item() for name, value in terms.items()}
                )
            bar.update(histories[0])
    stack.unstack([member.model.eval() for member in members])
    seconds = time.perf_counter() - start
    for history in histories:
        history.seconds = seconds / len(histories)
    if kept is not None:
        kept.save(histories)
    return histories


class _Kept:
    """The file that holds the trained members once they are trained, so that a run started again has them."""

    def __init__(self, members: Sequence[Member], x: Tensor, y: Tensor, augment: Augment | None) -> None:
        first, self.models = members[0], [member.model for member in members]
        self.run = checkpoints.identity(
            first.model, x, y, first.settings, first.objective, first.seed, augment
        )
        self.run["members"] = repr([(m.objective, m.settings, m.seed) for m in members])
        batch = (x[: first.settings.batch_size], y[: first.settings.batch_size])
        steps = [value for m in members for value in checkpoints.first_step(m.model, m.objective, *batch)]
        self.path = checkpoints.automatic(self.run, self.models, step=steps)

    def restore(self) -> list[History] | None:
        """Put the trained weights into the members and return their histories, or None where there are none."""
        state = checkpoints.load(self.path, self.run)
        if state is None:
            return None
        for model, weights in zip(self.models, state["models"], strict=True):
            model.load_state_dict(weights)
            model.eval()
        return [History(**history) for history in state["histories"]]

    def save(self, histories: list[History]) -> None:
        """Write the trained members."""
        models = [model.state_dict() for model in self.models]
        told = [asdict(history) for history in histories]
        checkpoints.save(self.path, {"run": self.run, "models": models, "histories": told})


def _check_finite(
    loss: Tensor, members: Sequence[Member], step: int, steps: int, rates: Sequence[float]
) -> None:
    finite = loss.isfinite()
    if not finite.all():
        i = int(finite.logical_not().nonzero()[0])
        member = members[i]
        raise FloatingPointError(
            f"loss is {loss[i].item()} at step {step + 1} of {steps} with lr {rates[i]:.3g} under "
            f"{member.objective!r}, arm {member.arm!r}, seed {member.seed}"
        )
