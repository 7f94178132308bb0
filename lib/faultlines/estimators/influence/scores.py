r"""Influence scores of other libraries on a two-layer network: TracIn, TRAK and the Hessian-based one.

All are scores of training row $i$ for the *output* $f$ at test row $t$, at the weights the network has, oriented like
`loo_influence`: positive where the row raises $f(x_t)$. With $g$ the gradient of the output in the weights,
$r_i = y_i - f(x_i)$ and $\Phi$ the matrix of projected training gradients $\phi_i = P g_i$:

| score | $I_{it}$ | computed by |
|---|---|---|
| TracIn (Pruthi et al. 2020) | $g_t^\top g_i\, r_i$ | captum, one checkpoint, rate 1 |
| TRAK (Park et al. 2023) | $\phi_t^\top (\Phi^\top \Phi + \mu I)^{-1} \phi_i\, r_i$ | dattri, one checkpoint |
| Hessian (Koh & Liang 2017) | $g_t^\top (H + \lambda I)^{-1} g_i\, r_i$ | dattri, conjugate gradients |

$H$ is the Hessian of $\frac12 \sum_j r_j^2$ over the training rows. captum comes with the library; dattri has to be
installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from importlib import import_module
from io import StringIO
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from faultlines.estimators.ntk.ridge import check_ridge

Rows = Float[Tensor, "n d"]
Scores = Float[Tensor, "n t"]


def tracin_scores(network: nn.Module, rows: Rows, targets: Float[Tensor, " n"], test: Rows) -> Scores:
    """Return TracIn scores of the network as it is, by captum.

    Args:
        network: Maps `[n, d]` to `[n]`.
        rows: Training rows.
        targets: Their targets.
        test: Test rows.

    Raises:
        ValueError: If rows and targets disagree.
    """
    _check(rows, targets, test)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress")  # of tqdm, on import in a notebook
        from faultlines.estimators.extras import TracInCP

        warnings.filterwarnings(
            "ignore", message="Since `(test_)?loss_fn` has no"
        )  # ours are per sample, as assumed
        method = TracInCP(
            network, TensorDataset(rows, targets), ["as it is"], checkpoints_load_func=lambda *_: 1.0,
            loss_fn=lambda output, y: (output - y).square() / 2, batch_size=len(rows),
            test_loss_fn=lambda output, _: -output,
        )  # fmt: skip
    # a row raises what falls with its own loss: captum's product of the two gradients, test by train
    found = cast(Tensor, method.influence((test, torch.zeros_like(test[:, 0]))))
    return found.detach().T


def hessian_scores(
    network: nn.Module,
    rows: Rows,
    targets: Float[Tensor, " n"],
    test: Rows,
    *,
    ridge: float,
    max_iter: int | None = None,
) -> Scores:
    r"""Return the scores of influence functions, by dattri.

    Args:
        network: Maps `[n, d]` to `[n]`.
        rows: Training rows.
        targets: Their targets.
        test: Test rows.
        ridge: $\lambda$, for the sum of squares and the distance from the initial weights.
        max_iter: Iterations of conjugate gradients; by default two more than there are rows, since the Hessian of a
            network that is piecewise linear in its weights has the rank of its training rows, and at most 200.

    Raises:
        ValueError: If rows and targets disagree, or the ridge is no number of at least 0.
        ImportError: If dattri is not installed.
    """
    check_ridge(ridge)
    method = _dattri("influence_function").IFAttributorCG
    n = len(rows)
    with _task(network, rows, targets, test) as (task, loaders, _):
        # dattri's Hessian is that of the mean loss
        options = {"max_iter": max_iter or min(n + 2, 200), "tol": 1e-14, "regularization": ridge / n}
        attributor = method(task, device=str(rows.device), **options)
        attributor.cache(loaders[0])
        return -attributor.attribute(*loaders).detach() / n


def trak_scores(
    network: nn.Module,
    rows: Rows,
    targets: Float[Tensor, " n"],
    test: Rows,
    *,
    dimension: int,
    ridge: float = 0.0,
    seed: int = 0,
) -> Scores:
    r"""Return TRAK scores, by dattri, for the squared loss.

    TRAK is written for the log-odds of a classifier; for a regression its output is the network's own and its
    weight $1 - p$ the residual.

    Args:
        network: Maps `[n, d]` to `[n]`.
        rows: Training rows.
        targets: Their targets.
        test: Test rows.
        dimension: Of the random projection, at most the number of rows where `ridge` is 0.
        ridge: $\mu$.
        seed: Seed of the projection.

    Raises:
        ValueError: If rows and targets disagree, or `dimension` is out of range.
        ImportError: If dattri is not installed.
    """
    check_ridge(ridge)
    _check(rows, targets, test)
    if dimension < 1 or (ridge == 0 and dimension > len(rows)):
        raise ValueError(
            f"dimension={dimension!r} must lie in 1 to {len(rows)}, the number of rows, where ridge=0"
        )
    method = _dattri("trak").TRAKAttributor
    # on the CPU: dattri's projection has no other form without a package of its own
    inputs = (x.cpu() for x in (rows, targets, test))
    with _task(deepcopy(network).cpu(), *inputs, outputs=True) as (task, loaders, output):

        def probability(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
            return 1 - (data[1] - output(params, data))  # so that 1 - p is the residual

        projector = {"proj_dim": dimension, "proj_max_batch_size": 32, "proj_seed": seed, "device": "cpu"}
        attributor = method(task, probability, projector_kwargs=projector, regularization=ridge)
        attributor.cache(loaders[0])
        return attributor.attribute(loaders[1]).detach().to(rows)


@contextmanager
def _task(
    network: nn.Module, rows: Tensor, targets: Tensor, test: Tensor, *, outputs: bool = False
) -> Iterator[tuple[Any, list[DataLoader], Callable]]:
    """Give dattri the network: its gradients of the loss, or of the output on both sides, in the rows' precision."""
    _check(rows, targets, test)
    from dattri.task import AttributionTask

    width = rows.shape[1]

    def output(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return functional_call(network, params, (data[0].reshape(-1, width),)).sum()

    def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        found = functional_call(network, params, (data[0].reshape(-1, width),))
        return (found - data[1].reshape(-1)).square().mean() / 2

    state = {name: value.detach() for name, value in network.named_parameters()}
    task = AttributionTask(
        loss_func=output if outputs else loss, model=network, checkpoints=[state], target_func=output,
        checkpoints_load_func=lambda model, _: model,
    )  # fmt: skip
    pairs = ((rows, targets), (test, torch.zeros_like(test[:, 0])))
    default = torch.get_default_dtype()
    torch.set_default_dtype(rows.dtype)  # dattri collects its scores in the default precision
    try:
        with redirect_stderr(StringIO()):  # its progress bars
            yield task, [DataLoader(TensorDataset(a, b), batch_size=len(a)) for a, b in pairs], output
    finally:
        torch.set_default_dtype(default)


def _dattri(module: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="IProgress")  # of tqdm, on import in a notebook
            return import_module(f"dattri.algorithm.{module}")
    except ImportError as error:
        raise ImportError("this score is computed by dattri: pip install dattri") from error


def _check(rows: Tensor, targets: Tensor, test: Tensor) -> None:
    if targets.shape != rows.shape[:1] or test.ndim != 2 or test.shape[1] != rows.shape[1]:
        raise ValueError(
            f"rows, targets and test have shapes {tuple(rows.shape)}, {tuple(targets.shape)} and "
            f"{tuple(test.shape)}; they must be [n, d], [n] and [t, d]"
        )
