"""What a run on group data is judged by: accuracy by group, explanations against masks, background in features."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faultlines.data.spurious.benchmark import SpuriousBenchmark
from faultlines.data.spurious.grouped import GroupedImages
from faultlines.estimators.attribution.cam import grad_cam
from faultlines.estimators.foreground import foreground_energy, map_coverage
from faultlines.estimators.linear_probing import linear_probe
from faultlines.models.inference import predictions
from faultlines.training.groups import GroupFit, GroupHistory, fit_groups, score
from faultlines.training.objectives.group_objective import (
    GroupObjective,
    MakeModel,
    as_floats,
    at_once,
    pooled_features,
)


@dataclass(frozen=True)
class GroupOutcome:
    """One run, measured on images that it was not trained on. What cannot be measured is NaN.

    Attributes:
        average: Accuracy on the test set (AA).
        worst: Accuracy of its worst group (WGA).
        validation: Accuracy on images of the training groups.
        energy: Share of the label classifier's Grad-CAM map on the foreground: on the test set, of the class
            that it decides for, with centred logits.
        coverage: Share of the map's cells above a tenth of its peak.
        empty: Share of images without such a map.
        background: Accuracy with which a linear probe reads the background from the features, on images in
            which every class stands before every background.
        within: The same within each class, mean over classes.
        history: What happened in training; scores by epoch where `run_methods` was asked to watch.
        confounder_energy: As `energy`, of the confounder classifier's map of the true background, on images of
            the training groups.
        confounder_coverage: As `coverage`, of the same.
        confounder_accuracy: Its accuracy there.
        overlap: Mean cosine of the two classifiers' maps there.
    """

    average: float
    worst: float
    validation: float
    energy: float
    coverage: float
    empty: float
    background: float
    within: float
    history: GroupHistory
    confounder_energy: float = float("nan")
    confounder_coverage: float = float("nan")
    confounder_accuracy: float = float("nan")
    overlap: float = float("nan")


def run_methods(
    make_model: MakeModel,
    data: SpuriousBenchmark,
    methods: Mapping[str, GroupObjective],
    *,
    seed: int,
    device: torch.device,
    watch: Collection[str] = (),
    **options: Any,
) -> dict[str, GroupOutcome]:
    """Train under every objective from the same weights with the same batches, and measure.

    Args:
        make_model: From a number of outputs to a fresh network.
        data: Training, validation and test images.
        methods: Objectives by name.
        seed: Seed of every run.
        device: Where to compute.
        watch: Methods that are scored after every epoch on `validation`, `ood_validation` and `test`.
        **options: Further arguments of `fit_groups`.

    Returns:
        One outcome a method, under its name.
    """
    data = with_ood_validation(data)
    scored = {name: getattr(data, name) for name in ("validation", "ood_validation", "test")}
    found = {}
    for name, objective in methods.items():
        fit = fit_groups(
            make_model,
            data.train,
            objective=objective,
            seed=seed,
            device=device,
            validation=scored if name in watch else None,
            **options,
        )
        found[name] = outcome(fit, data, device)
    return found


def outcome(fit: GroupFit, data: SpuriousBenchmark, device: torch.device) -> GroupOutcome:
    """Measure a run; see `GroupOutcome`."""
    model = fit.model
    test = score(model, data.test, device)
    energy, coverage, empty, _ = _maps(model, data.test, None, device)
    crossed = cast(list[GroupedImages], [data.validation, data.ood_validation])
    features = torch.cat([features_of(model, part, device) for part in crossed])
    y, c = (torch.cat([getattr(part, name) for part in crossed]) for name in ("y", "c"))
    within = [linear_probe(features[y == k], c[y == k]) for k in y.unique().tolist()]
    found = GroupOutcome(
        average=test.average,
        worst=test.worst,
        validation=score(model, data.validation, device).average,
        energy=energy,
        coverage=coverage,
        empty=empty,
        background=linear_probe(features, c),
        within=sum(within) / len(within),
        history=fit.history,
    )
    confounder = getattr(fit.loss, "confounder", None)
    if confounder is None:
        return found
    seen = data.train.c.unique()
    c = torch.bucketize(data.validation.c.contiguous(), seen)
    energy, coverage, _, theirs = _maps(confounder, data.validation, c, device)
    ours = _maps(model, data.validation, data.validation.y, device)[3]
    size = at_once(data.validation.x, 256)
    with torch.no_grad():
        right = [
            (predictions(confounder(as_floats(x.to(device)))).cpu() == part).float()
            for x, part in zip(data.validation.x.split(size), c.split(size), strict=True)
        ]
    return replace(
        found,
        confounder_energy=energy,
        confounder_coverage=coverage,
        confounder_accuracy=torch.cat(right).mean().item(),
        overlap=torch.cosine_similarity(ours.flatten(1), theirs.flatten(1)).mean().item(),
    )


@torch.no_grad()
def features_of(
    model: nn.Module, images: GroupedImages, device: torch.device, batch_size: int = 256
) -> Float[Tensor, "n k"]:
    """Return the averaged features of images, on the CPU."""
    parts = images.x.split(at_once(images.x, batch_size))
    parts = [pooled_features(model, as_floats(x.to(device)))[0].cpu() for x in parts]
    return torch.cat(parts)


def with_ood_validation(data: SpuriousBenchmark) -> SpuriousBenchmark:
    """Return the benchmark with validation images of the test groups: where it has none, half of its test set."""
    if data.ood_validation is not None:
        return data
    held, last = data.test[::2], data.test[1::2]
    return replace(data, test=last, ood_validation=replace(held, split="ood_validation"))


def _maps(
    model: nn.Module,
    images: GroupedImages,
    target: Tensor | None,
    device: torch.device,
    batch_size: int = 256,
) -> tuple[float, float, float, Tensor]:
    """Return foreground energy (NaN without masks), coverage, share of empty maps, and the maps.

    Without targets the maps are those of the classes that the model decides for.
    """
    parts, batch_size = [], at_once(images.x, batch_size)
    for start in range(0, len(images.x), batch_size):
        x = as_floats(images.x[start : start + batch_size].to(device))
        if target is None:
            with torch.no_grad():
                t = predictions(model(x))
        else:
            t = target[start : start + batch_size].to(device)
        parts.append(grad_cam(model, x, t, center=True).cpu())
    maps = torch.cat(parts)
    energy = float("nan") if images.mask is None else foreground_energy(maps, images.mask.cpu()).mean().item()
    empty = (maps.flatten(1).amax(dim=1) == 0).float().mean().item()
    return energy, map_coverage(maps).mean().item(), empty, maps
