"""Members of one architecture and one kind of objective, trained in one vectorised loop.

The parameters of all members are one matrix, a row a member, and a step is a handful of kernels whatever the number
of members and of parameter tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from faultlines.training import checkpoint as checkpoints
from faultlines.training.batches import Augment, Batches, Stream
from faultlines.training.checkpoint import Checkpoint
from faultlines.training.loop import History, State, Terms, Training, refill
from faultlines.training.objectives.objective import Objective
from faultlines.training.optimizer import BETAS, EPS, Optimizer, Settings, decays, learning_rate


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


def fit_vmap(
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
    training = VmapTraining(members, x, y, augment)
    training.run(
        progress=progress, checkpoint=_checkpoint(members, x, y, augment) if checkpoints.wanted() else None
    )
    training.stack.unstack([member.model.eval() for member in members])
    seconds = training.histories[0].seconds
    for history in training.histories:
        history.seconds = seconds / len(members)
    return training.histories


class VmapTraining(Training[History]):
    """Training of all members in one step."""

    def __init__(self, members: Sequence[Member], x: Tensor, y: Tensor, augment: Augment | None) -> None:
        first, batches = members[0], SharedBatches(members, x, y, augment)
        self.members, self.histories = members, [History() for _ in members]
        steps = first.settings.epochs * len(batches)
        state = State(first.model, self.histories[0], first.objective, 0, steps)
        super().__init__(
            nn.ModuleList(member.model.train() for member in members), batches, first.settings, None, state,
            seed=first.seed, device=x.device,
        )  # fmt: skip
        self.stack = stack = StackedParameters([member.model for member in members])
        self.options = cast(dict[str, Any], {"dtype": stack.flat.dtype, "device": stack.flat.device})
        self.numbers = {
            name: torch.tensor([float(getattr(member.objective, name)) for member in members], **self.options)
            for name in first.objective.per_member
        }
        decay = torch.tensor([[m.settings.weight_decay] for m in members], **self.options) * stack.decayed
        self.rows = RowOptimizer(first.settings.optimizer, decay, first.settings.momentum)
        self.value_and_gradients = vmap(grad_and_value(self._loss_of_one, has_aux=True))

    def _loss_of_one(
        self,
        trained: dict[str, Tensor],
        fixed: dict[str, Tensor],
        numbers: dict[str, Tensor],
        x: Tensor,
        y: Tensor,
    ) -> tuple[Tensor, Terms]:
        objective: Any = replace(
            cast(Any, self.members[0].objective), **numbers
        )  # every objective is a dataclass
        return objective(lambda x: functional_call(self.stack.skeleton, (trained, fixed), (x,)), x, y)

    def loss(self, batch: Any, step: int) -> tuple[Tensor, Terms]:
        """Return every member's loss and terms, without their gradients."""
        stack = self.stack
        return self.value_and_gradients(stack.parameters(), stack.fixed, self.numbers, *batch)[1]

    def size(self, batch: Any) -> int:
        """Return how many samples each member sees."""
        return batch[0].shape[1]

    def rate(self, step: int) -> list[float]:
        """Return every member's learning rate."""
        return [learning_rate(step, self.state.steps, member.settings) for member in self.members]

    def update(self, batch: Any, step: int, rate: list[float]) -> tuple[Tensor, Terms]:
        """Take one step with every member."""
        stack = self.stack
        gradients, told = self.value_and_gradients(stack.parameters(), stack.fixed, self.numbers, *batch)
        gradient = stack.flatten(gradients)
        if self.settings.grad_clip is not None:
            clip_rows(gradient, self.settings.grad_clip)
        self.rows.step(stack.flat, gradient, torch.tensor(rate, **self.options)[:, None])
        return told

    def record(self, loss: Tensor, terms: Terms, rate: list[float]) -> None:
        """Put the means of an epoch into every history."""
        for i, history in enumerate(self.histories):
            history.add(loss[i].item(), rate[i], {name: value[i].item() for name, value in terms.items()})

    def check_finite(self, loss: Tensor, step: int, rate: list[float]) -> None:
        """Raise FloatingPointError that names the first member whose loss is not finite."""
        finite = loss.isfinite()
        if not finite.all():
            i = int(finite.logical_not().nonzero()[0])
            member = self.members[i]
            raise FloatingPointError(
                f"loss is {loss[i].item()} at step {step + 1} of {self.state.steps} with lr {rate[i]:.3g} under "
                f"{member.objective!r}, arm {member.arm!r}, seed {member.seed}"
            )

    def held(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        histories = [asdict(history) for history in self.histories]
        return {**super().held(), "flat": self.stack.flat, "rows": self.rows.state(), "histories": histories}

    def take(self, held: dict[str, Any]) -> None:
        """Go on from what a checkpoint holds."""
        super().take(held)
        self.stack.flat.copy_(held["flat"])
        self.rows.restore(held["rows"])
        for history, told in zip(self.histories, held["histories"], strict=True):
            refill(history, told)


class SharedBatches(Stream):
    """Batches of all members, `[member, batch, ...]`; equal for equal seeds, and then drawn once."""

    def __init__(self, members: Sequence[Member], x: Tensor, y: Tensor, augment: Augment | None) -> None:
        size = members[0].settings.batch_size
        self.streams = {m.seed: Batches(x, y, batch_size=size, seed=m.seed, augment=augment) for m in members}
        self.rows = torch.tensor([list(self.streams).index(m.seed) for m in members], device=x.device)
        self.n, self.batch_size = len(x), size

    def epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of the next epoch."""
        for batches in zip(*(stream.epoch() for stream in self.streams.values()), strict=True):
            x, y = (torch.stack(parts)[self.rows] for parts in zip(*batches, strict=True))
            yield x, y

    def draw(self, index: Int[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
        """Return the same samples for every member."""
        x, y = (
            torch.stack(parts)[self.rows]
            for parts in zip(*(stream.draw(index) for stream in self.streams.values()), strict=True)
        )
        return x, y

    def state(self) -> dict[str, Any]:
        """Return the generators' states between two epochs."""
        return {str(seed): stream.state() for seed, stream in self.streams.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state()` was taken."""
        for seed, stream in self.streams.items():
            stream.restore(state[str(seed)])


class StackedParameters:
    """S modules of one architecture, their trainable parameters in one `[member, parameter]` matrix.

    Args:
        models: Modules of equal architecture, without buffers that training changes.

    Attributes:
        skeleton: The architecture on the meta device, for `torch.func.functional_call`.
        flat: The matrix.
        fixed: What is not trained, stacked: buffers and frozen parameters.
        decayed: For each column, whether weight decay acts on it.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        first = models[0]
        self.skeleton = copy.deepcopy(first).to("meta")
        named: list[dict[str, Tensor]] = [dict(model.named_parameters()) for model in models]
        self._shapes = {name: p.shape for name, p in named[0].items() if p.requires_grad}
        self.flat: Float[Tensor, "member parameter"] = torch.stack(
            [torch.cat([p[name].detach().flatten() for name in self._shapes]) for p in named]
        )
        named = [{**p, **dict(model.named_buffers())} for p, model in zip(named, models, strict=True)]
        self.fixed = {
            name: torch.stack([p[name].detach() for p in named])
            for name in named[0]
            if name not in self._shapes
        }
        marks = decays(first)
        self.decayed: Bool[Tensor, " parameter"] = torch.cat(
            [torch.full((shape.numel(),), marks[name]) for name, shape in self._shapes.items()]
        ).to(self.flat.device)

    def parameters(self) -> dict[str, Tensor]:
        """Return the trained parameters by name, each `[member, ...]`, as views of the matrix."""
        pieces = self.flat.split([shape.numel() for shape in self._shapes.values()], dim=1)
        return {
            name: piece.unflatten(1, shape) if len(shape) else piece.squeeze(1)
            for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)
        }

    def flatten(self, gradients: dict[str, Tensor]) -> Float[Tensor, "member parameter"]:
        """Return gradients by name as one matrix."""
        return torch.cat([gradients[name].flatten(1) for name in self._shapes], dim=1)

    def unstack(self, models: Sequence[nn.Module]) -> None:
        """Write every member's parameters into its module."""
        with torch.no_grad():
            for name, values in self.parameters().items():
                for model, value in zip(models, values, strict=True):
                    model.get_parameter(name).copy_(value)


class RowOptimizer:
    """AdamW or SGD over the rows of a matrix, each row with a learning rate and a weight decay of its own.

    The updates are torch's own (`torch.optim.AdamW`, `torch.optim.SGD`), written over one matrix, since
    torch's take one learning rate a parameter tensor.

    Args:
        kind: `"adamw"` or `"sgd"`.
        decay: Weight decay of every entry.
        momentum: Of SGD.
    """

    def __init__(self, kind: Optimizer, decay: Float[Tensor, "member parameter"], momentum: float) -> None:
        self.decay, self.momentum = decay, momentum
        self._steps = 0
        self._first = torch.zeros_like(decay)
        self._second = torch.zeros_like(decay) if kind == "adamw" else None

    def state(self) -> dict[str, Any]:
        """Return the moments and the number of steps."""
        return {"steps": self._steps, "first": self._first, "second": self._second}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state()` was taken."""
        self._steps = state["steps"]
        self._first.copy_(state["first"])
        if self._second is not None:
            self._second.copy_(state["second"])

    def step(
        self,
        flat: Float[Tensor, "member parameter"],
        gradient: Float[Tensor, "member parameter"],
        lr: Float[Tensor, "member 1"],
    ) -> None:
        """Update `flat` in place; `gradient` may be overwritten."""
        self._steps += 1
        if self._second is None:
            self._first.mul_(self.momentum).add_(gradient.add_(self.decay * flat))
            flat.sub_(lr * self._first)
            return
        flat.mul_(1 - lr * self.decay)
        self._first.lerp_(gradient, 1 - BETAS[0])
        self._second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        root = self._second.sqrt().div_((1 - BETAS[1] ** self._steps) ** 0.5).add_(EPS)
        flat.sub_((self._first / root).mul_(lr / (1 - BETAS[0] ** self._steps)))


def clip_rows(gradient: Float[Tensor, "member parameter"], largest: float) -> None:
    """Scale in place the rows whose norm exceeds `largest`, as `clip_grad_norm_` does for one network.

    Example:
        >>> gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
        >>> clip_rows(gradient, 1.0)
        >>> gradient
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])
    """
    norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    gradient.mul_((largest / (norm + 1e-6)).clamp(max=1.0))


def _checkpoint(members: Sequence[Member], x: Tensor, y: Tensor, augment: Augment | None) -> Checkpoint:
    first, models = members[0], [member.model for member in members]
    told = [(m.objective, m.settings, m.seed) for m in members]
    run = checkpoints.identity(
        first.model, (x, y), first.settings, first.objective, seed=first.seed, augment=augment, members=told
    )
    batch = (x[: first.settings.batch_size], y[: first.settings.batch_size])
    steps = [value for m in members for value in checkpoints.first_step(m.model, m.objective, *batch)]
    return Checkpoint(checkpoints.automatic(run, models, step=steps), run)
