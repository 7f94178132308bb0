"""Every public function of the six rooms of science gives on another device what it gives on the CPU.

`test_wooden.py` runs this file in a process of its own: torch starts the threads of its derivatives for the devices
that it knows by then.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tests.devices import wooden
from torch import Tensor, nn
from torch.nn import functional as F

from faultlines import attacks, data, estimators, models, studies, training
from faultlines.data import image_files
from faultlines.estimators.attribution.methods import METHODS
from faultlines.models.transformer_blocks import MECHANISMS
from faultlines.training.group_batches import as_batch

ROOMS = ("data", "models", "attacks", "estimators", "training", "studies")
Case = Callable[[Any], Any]
CPU = torch.device("cpu")


def draw(device: Any, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(device)


def wide(device: Any, *shape: int, seed: int = 0) -> Tensor:
    """Return signed numbers in float64."""
    return draw(device, *shape, seed=seed, dtype=torch.float64) - 0.5


def integers(device: Any, *values: int) -> Tensor:
    return torch.tensor(values, device=device)


def drawing(device: Any, seed: int = 0) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


CHANCE = partial(drawing, CPU)  # what takes a generator of the CPU wherever it computes
SIZES: dict[str, Any] = {
    "image_size": 8,
    "patch_size": 4,
    "channels": 1,
    "classes": 4,
    "dim": 8,
    "depth": 2,
    "heads": 4,
}


def vit(device: Any, **options: Any) -> models.ViT:
    return training.seeded(partial(models.ViT, **(SIZES | options)), 0).eval().to(device)


def cnn(device: Any) -> nn.Module:
    return training.seeded(partial(models.SmallCNN, classes=4, channels=1, width=4), 0).eval().to(device)


def batch(device: Any, n: int = 5, channels: int = 1) -> tuple[Tensor, Tensor]:
    return draw(device, n, channels, 8, 8, seed=1), torch.arange(n, device=device) % 4


def layer(device: Any, mechanism: Callable[..., Any] | None = None) -> tuple[Any, Tensor]:
    made = training.seeded(
        lambda: models.Attention(8, 2, mechanism=mechanism and mechanism(2, 4), qkv_bias=False), 0
    )
    return made.double().to(device), wide(device, 3, 5, 8)


def through(mechanism: Callable[..., Any], device: Any) -> Any:
    made, x = layer(device, mechanism)
    with models.record() as tape:
        return made(x), tape.maps


def network(make: Callable[[], nn.Module], device: Any, x: Tensor) -> Any:
    """Return what a network gives and the gradients of its sum."""
    model = training.seeded(make, 0).eval().to(device, x.dtype)
    logits = models.logits_of(model(x))
    return logits, torch.autograd.grad(logits.sin().sum(), list(model.parameters()), allow_unused=True)


def clip(device: Any) -> models.CLIP:
    sizes: dict[str, Any] = {"embed_dim": 6, "dim": 8, "depth": 1, "heads": 2}
    image = partial(models.ImageTower, image_size=8, patch_size=4, **sizes)
    text = partial(models.TextTower, vocabulary=9, context=4, **sizes)
    return training.seeded(lambda: models.CLIP(image(), text(), attention="differential"), 0).to(device)


TOKENS = ((1, 2, 8, 0), (1, 3, 8, 0), (1, 4, 8, 0), (1, 5, 8, 0))


def two_layer(device: Any, dim: int = 6) -> models.TwoLayerReLU:
    return models.TwoLayerReLU(dim, 8, generator=CHANCE()).to(device)


def rows(device: Any, n: int = 12, dim: int = 6, seed: int = 0) -> Tensor:
    return F.normalize(wide(device, n, dim, seed=seed), dim=1)


def kernel(device: Any) -> Tensor:
    x = rows(device)
    return x @ x.T


def influences(device: Any) -> tuple[Tensor, Tensor]:
    return wide(device, 12, 4, seed=2), wide(device, 12, 4, seed=3)


def attacked(make: Callable[[], Any], device: Any, model: Callable[..., Any] = vit) -> Any:
    return make()(model(device), *batch(device), generator=drawing(device))


def criterion(made: Any, device: Any) -> Any:
    clean, other = draw(device, 3, 4, 4), draw(device, 3, 4, 4, seed=1)
    reference = made.reference(clean)
    return made.loss(other, reference), made.score(other, reference)


def explaining(device: Any, make: Callable[..., Any], **options: Any) -> Any:
    explain = partial(estimators.attribute, method="gradient", create_graph=True)
    return make(explain, attacks.TopK(10), eps=0.05, **options)(
        vit(device), *batch(device), generator=drawing(device)
    )


def of_loss(objective: Any, device: Any, **options: Any) -> Any:
    """Return loss and gradients of an objective of `fit`."""
    model = vit(device, **options)
    torch.manual_seed(0)
    loss, terms = objective(model, *batch(device))
    return loss, terms, torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


def fitted(device: Any, **options: Any) -> Any:
    model, (x, y) = vit(device).double(), batch(device, 12)  # Adam makes much of a rounding in float32
    return training.fit(model, x.double(), y, epochs=2, batch_size=5, progress=False, **options), model


def grouped(device: Any, objective: Any) -> Any:
    found = training.fit_groups(
        lambda k: models.SmallCNN(classes=k, width=2), GROUPS.train, objective=objective, epochs=2, batch_size=8,
        device=device, validation={"held": GROUPS.validation}, select=("held", "worst"), progress=False,
    )  # fmt: skip
    return found.model, found.history


GROUPS = data.spurious_benchmark("m2m_hard", n_train=2, n_validation=2, n_test=2, n_ood_validation=2, size=32)


def by_seed(device: Any) -> dict[int, tuple[Tensor, Tensor]]:
    x = draw(device, 64, 4)
    return {seed: (x[seed::2], (x[seed::2, 0] > 0.5).long()) for seed in (0, 1)}


def ensemble(device: Any, **options: Any) -> Any:
    arms = {"plain": training.CrossEntropy(), "penalised": training.Arm(training.InputGradient(0.1), lr=0.01)}
    x, y = by_seed(device)[0]
    found = training.fit_ensemble(
        lambda: nn.Linear(4, 2),
        x,
        y,
        seeds=[0, 1],
        arms=arms,
        epochs=2,
        batch_size=9,
        progress=False,
        **options,
    )
    return found(x), found.histories


def seeds_of_vits(device: Any) -> tuple[dict[tuple[str, int], nn.Module], tuple[Tensor, Tensor]]:
    net, x = vit(device), draw(device, 20, 1, 8, 8)
    return {("softmax", 0): net, ("softmax", 1): net}, (x, net(x).argmax(dim=1))


def probed(device: Any) -> Any:
    networks, samples = seeds_of_vits(device)
    study = studies.ProbeStudy(
        networks, samples, samples, limit=4, budget=studies.ProbeBudget(eps=0.1, steps=2)
    )
    return {probe: study.values("softmax", probe) for probe in studies.PROBES}


def explained(device: Any) -> Any:
    networks, samples = seeds_of_vits(device)
    study = studies.ExplanationStudy(
        networks, {0: samples, 1: samples}, limit=4,
        explain={method: partial(estimators.attribute, method=method, create_graph=True) for method in ("gradient",)},
        criteria={"cosine": "cosine"}, budget=studies.Budget(eps=0.1, steps=2, k=3),
    )  # fmt: skip
    return study.values("softmax", "gradient", "cosine", "cosine"), study.traits(
        "softmax", dict.fromkeys((0, 1), (samples[0][:4], samples[1][:4])), lambda traits: traits.sharpness
    )


def regularized(device: Any) -> Any:
    make = partial(models.ViT, **(SIZES | {"classes": 10, "qkv_bias": False}))
    settings = {"epochs": 1, "batch_size": 20}
    study = studies.RegularizerStudy(make, "digits", 60, 20, 30, settings, device)
    networks = study.train({"none": training.CrossEntropy()}, 3)
    return study.outcomes(
        networks, 3, {"l2": [attacks.PGD(eps=0.2, norm="l2", steps=2, loss="margin")]}, steep=4
    )


TASK = data.make_task(data.load("digits"), (3, 8), n_train=30, n_test=8, seed=0)


def classifier(device: Any) -> tuple[studies.KernelClassifier, Tensor, Tensor]:
    x, y, x_test, y_test = (part.to(device) for part in TASK)
    weight = models.hidden_weights(32, 64, seed=0).to(device)
    made = studies.KernelClassifier(
        models.Representation(models.linear_attention), x, y, weight=weight, ridge=0.1
    )
    return made, x_test, y_test


def armed(device: Any) -> Any:
    tasks = {0: data.Task(*(part.to(device) for part in TASK))}
    make = partial(models.ViT, **(SIZES | {"classes": 2}))
    return studies.train_arms(
        {"softmax": lambda: make().double()},
        tasks,
        loss=0.6,
        epochs=20,
        lr=0.02,
        batch_size=10,
        progress=False,
    )


def outcomes(device: Any) -> Any:
    return studies.own_outcomes(
        [vit(device)] * 2, [batch(device)] * 2, {"fgsm": attacks.FGSM(eps=0.1)}, seed=0
    )


def attributions(device: Any) -> Any:
    """Return the maps of every method, by the kind of network that it reads."""
    found = {}
    for method in METHODS:
        for name, model in {"vit": vit(device), "cnn": cnn(device)}.items():
            try:
                found[method, name] = estimators.attribute(model, *batch(device), method)
            except (TypeError, ValueError):  # a method for networks of the other kind
                continue
    return found


def held(device: Any) -> Any:
    with models.frozen(model := vit(device)):
        return model(batch(device)[0])


def recorded(device: Any) -> Any:
    with models.record() as tape:
        models.record_attention(draw(device, 2, 2, 3, 3))
        vit(device)(batch(device)[0])
    return tape.maps, studies.attention_records(vit(device), batch(device)[0])[0][1].maps


def surrogate(device: Any) -> Any:
    model = training.seeded(lambda: models.CNN(image_shape=(1, 8, 8), classes=4), 0).eval().to(device)
    with attacks.softplus_surrogate(model, beta=30) as smooth:
        return smooth(batch(device)[0])


def lines(device: Any) -> tuple[nn.Module, Tensor, Tensor]:
    model = training.seeded(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 4)), 0
    )
    return model.to(device), *batch(device)


def linked(device: Any) -> Any:
    model, x, y = lines(device)
    return estimators.curvature_link(model, x, y, first=model[1], network=True)


STEADY: dict[str, Any] = {"batch_size": 8}
SHARES = {"rows": lambda d: draw(d, 2, 3, 4, 4).softmax(-1), "p": lambda d: wide(d, 6, 9).mul(9).softmax(-1)}
LIPSCHITZ: dict[str, Any] = {"directions": 2, "ascent_steps": 2}

CASES: dict[str, Case] = {
    "data.GroupedImages": lambda d: GROUPS.train.to(d),
    "data.Split": lambda d: data.load("digits", n_train=20, n_test=10).train.to(d),
    "data.partly_cued": lambda d: data.partly_cued(*batch(d), 4, share=0.5, honest=0.5, side=2, seed=0),
    "data.shared_images": lambda d: data.shared_images(draw(d, 5, 3), draw(d, 5, 3)[2:]),
    # models
    "models.Attention": lambda d: through(None, d),  # type: ignore[arg-type]
    "models.CLIP": lambda d: clip(d)(draw(d, 4, 3, 8, 8), torch.tensor(TOKENS, device=d)),
    "models.CNN": lambda d: network(lambda: models.CNN(image_shape=(1, 8, 8), classes=3, norm="conv"), d, batch(d)[0]),
    "models.DifferentialAttention": lambda d: through(models.DifferentialAttention, d),
    "models.ImageTower": lambda d: clip(d).image(draw(d, 2, 3, 8, 8)),
    "models.KernelExpansion": lambda d: models.KernelExpansion(wide(d, 8, 6), rows(d), wide(d, 12))(rows(d, 4, seed=1)),
    "models.LayerRecord": recorded,
    "models.LinearAttention": lambda d: through(models.LinearAttention, d),
    "models.LinearisedTwoLayer": lambda d: models.LinearisedTwoLayer(two_layer(d))(rows(d)),
    "models.MLP": lambda d: network(
        partial(models.MLP, image_shape=(1, 8, 8), classes=3, norm="hidden"), d, batch(d)[0]
    ),
    "models.RBFAttention": lambda d: through(models.RBFAttention, d),
    "models.Representation": lambda d: models.Representation(models.linear_attention)(*[batch(d)[0].double()] * 2),
    "models.ResNet": lambda d: network(
        lambda: models.ResNet(classes=3, depth=18, small_images=True), d, draw(d, 2, 3, 16, 16)
    ),
    "models.SigmoidAttention": lambda d: through(models.SigmoidAttention, d),
    "models.SmallCNN": lambda d: network(lambda: models.SmallCNN(classes=3, channels=1), d, draw(d, 2, 1, 16, 16)),
    "models.SoftmaxMechanism": lambda d: through(lambda *_: models.SoftmaxMechanism(), d),
    "models.TextTower": lambda d: clip(d).text(torch.tensor(TOKENS, device=d)),
    "models.TwoLayerReLU": lambda d: two_layer(d)(rows(d)),
    "models.ViT": lambda d: [
        network(partial(models.ViT, attention=name, **SIZES), d, batch(d)[0].double())
        for name in MECHANISMS
    ],
    "models.ZeroShot": lambda d: clip(d).zero_shot(torch.tensor(TOKENS, device=d))(draw(d, 2, 3, 8, 8)),
    "models.contrastive_loss": lambda d: models.contrastive_loss(draw(d, 4, 4)),
    "models.frozen": held,
    "models.linear_attention": lambda d: models.linear_attention(rows(d), rows(d, seed=1)),
    "models.logits_of": lambda d: models.logits_of((draw(d, 2, 3), None)),
    "models.qkv_attention": lambda d: models.qkv_attention(
        rows(d), weights=models.random_qkv(6, CHANCE(), device=d)
    ),
    "models.random_qkv": lambda d: models.random_qkv(6, CHANCE(), device=d),
    "models.record": recorded,
    "models.record_attention": recorded,
    "models.softmax_attention": lambda d: models.softmax_attention(rows(d), rows(d, seed=1), sharpness=2.0),
    "models.stacked_attention": lambda d: models.stacked_attention(rows(d), rows(d, seed=1), layers=2),
    "models.truncated_attention": lambda d: models.truncated_attention(rows(d), rows(d, seed=1), components=3),
    # attacks
    "attacks.APGD": lambda d: [
        attacked(partial(attacks.APGD, eps=0.1, steps=8, norm=norm, loss=loss, target_classes=2), d)
        for norm, loss in (("linf", "cross_entropy"), ("l2", "dlr"), ("linf", "targeted_dlr"))
    ],
    "attacks.AutoAttack": lambda d: attacked(
        partial(attacks.AutoAttack, eps=0.05, steps=4, queries=20, target_classes=2), d
    ),
    "attacks.CarliniWagnerL2": lambda d: attacked(partial(attacks.CarliniWagnerL2, steps=10, search_steps=2), d),
    "attacks.Cosine": lambda d: criterion(attacks.Cosine(), d),
    "attacks.EmbeddingAttack": lambda d: attacks.EmbeddingAttack(draw(d, 4, 6, seed=4), eps=0.1, steps=3)(
        clip(d).eval().encode_image, *batch(d, channels=3), generator=drawing(d)
    ),
    "attacks.ExplanationNoise": lambda d: explaining(d, attacks.ExplanationNoise, draws=3),
    "attacks.ExplanationPGD": lambda d: explaining(d, attacks.ExplanationPGD, steps=3),
    "attacks.FAB": lambda d: [
        attacked(partial(attacks.FAB, eps=0.2, steps=5, norm=norm, target_classes=2, restarts=2), d)
        for norm in ("linf", "l2")
    ],
    "attacks.FGSM": lambda d: attacked(partial(attacks.FGSM, eps=0.1), d),
    "attacks.MIM": lambda d: attacked(partial(attacks.MIM, eps=0.1, steps=4), d),
    "attacks.MassCentre": lambda d: criterion(attacks.MassCentre(), d),
    "attacks.PGD": lambda d: [
        attacked(partial(attacks.PGD, eps=0.1, steps=4, norm=norm, restarts=2), d) for norm in ("linf", "l2")
    ],
    "attacks.PatchAttack": lambda d: attacked(partial(attacks.PatchAttack, size=3, steps=3), d),
    "attacks.Spearman": lambda d: criterion(attacks.Spearman(), d),
    "attacks.Square": lambda d: [
        attacked(partial(attacks.Square, eps=0.1, queries=30, norm=norm), d) for norm in ("linf", "l2")
    ],
    "attacks.SquarePatch": lambda d: attacked(partial(attacks.PatchAttack, size=3, location=(0, 5), steps=3), d),
    "attacks.TopK": lambda d: criterion(attacks.TopK(3), d),
    "attacks.perturb_training_data": lambda d: attacks.perturb_training_data(
        attacks.PGD(eps=0.1, steps=2), lambda z, _: vit(d)(z), *batch(d), integers(d, 1, 3),
        generator=drawing(d),
    ),
    "attacks.random_sign": lambda d: attacks.random_sign(
        batch(d)[0], integers(d, 1, 3), eps=0.25, generator=CHANCE()
    ),
    "attacks.softplus_surrogate": surrogate,
    # estimators
    "estimators.KernelRidge": lambda d: estimators.KernelRidge(kernel(d), rows(d)[:, 0], ridge=0.1)(kernel(d)[:3]),
    "estimators.alignment_hutchinson": lambda d: estimators.alignment_hutchinson(
        vit(d, attention="differential"), batch(d)[0], probes=4
    ),
    "estimators.alignment_losspath": lambda d: estimators.alignment_losspath(
        vit(d, attention="differential"), *batch(d)
    ),
    "estimators.amplification": lambda d: estimators.amplification(rows(d), models.linear_attention(rows(d)), 0.01),
    "estimators.attention_bound": lambda d: [
        estimators.attention_bound(*layer(d), variant=variant, per_head=per_head, query_bias="lift")
        for variant in estimators.VARIANTS
        for per_head in (False, True)
    ],
    "estimators.attention_focus": lambda d: estimators.attention_focus(vit(d), batch(d)[0], draw(d, 5, 8, 8) > 0.5),
    "estimators.attribute": attributions,
    "estimators.combined_norm": lambda d: estimators.combined_norm(draw(d, 3), draw(d, 3), draw(d, 3), 0.8),
    "estimators.curvature_link": linked,
    "estimators.empirical_ntk": lambda d: estimators.empirical_ntk(lines(d)[0], batch(d)[0]),
    "estimators.finite_relu_ntk": lambda d: estimators.finite_relu_ntk(rows(d), rows(d, seed=1), weight=wide(d, 16, 6)),
    "estimators.flip_rate": lambda d: estimators.flip_rate(*influences(d)),
    "estimators.foreground_energy": lambda d: estimators.foreground_energy(
        draw(d, 3, 4, 4), draw(d, 3, 8, 8, seed=1) > 0.5
    ),
    "estimators.grad_cam": lambda d: [
        estimators.grad_cam(cnn(d), *batch(d), method=method) for method in ("closed", "autograd")
    ],
    "estimators.gram_condition": lambda d: estimators.gram_condition(rows(d), "energy", 0.9),
    "estimators.group_accuracy": lambda d: estimators.group_accuracy(
        integers(d, 0, 1, 1, 0), integers(d, 0, 0, 1, 1), integers(d, 2, 2, 2, 3)
    ),
    "estimators.hessian_top": lambda d: estimators.hessian_top(*lines(d), k=2, steps=30),
    "estimators.hessian_trace": lambda d: estimators.hessian_trace(*lines(d), probes=4),
    "estimators.hoyer_sparsity": lambda d: estimators.hoyer_sparsity(draw(d, 3, 4, 4)),
    "estimators.influence_sensitivity": lambda d: estimators.influence_sensitivity(
        kernel(d), 2 * kernel(d), rows(d)[:, 0], ridge=1.0, size=0.5
    ),
    "estimators.input_curvature": lambda d: estimators.input_curvature(*lines(d)),
    "estimators.jacobian_norm": lambda d: estimators.jacobian_norm(lines(d)[0], batch(d)[0]),
    "estimators.kernel_alignment": lambda d: estimators.kernel_alignment(kernel(d), rows(d)[:, 0]),
    "estimators.kernel_condition": lambda d: estimators.kernel_condition(kernel(d) + torch.eye(12, device=d)),
    "estimators.layer_gradients": lambda d: estimators.layer_gradients(
        vit(d, attention="differential"), batch(d)[0]
    ),
    "estimators.layer_lipschitz": lambda d: estimators.layer_lipschitz(vit(d), batch(d)[0], 0.1, **LIPSCHITZ),
    "estimators.linear_probe": lambda d: estimators.linear_probe(draw(d, 80, 5), (draw(d, 80, 5)[:, 0] > 0.5).long()),
    "estimators.local_lipschitz": lambda d: [
        estimators.local_lipschitz(vit(d), batch(d)[0], 0.1, norm=norm, **LIPSCHITZ) for norm in ("l2", "linf")
    ],
    "estimators.logit_jacobian_norm": lambda d: estimators.logit_jacobian_norm(vit(d), batch(d)[0]),
    "estimators.logits_and_maps": lambda d: estimators.logits_and_maps(cnn(d), *batch(d)),
    "estimators.loo_influence": lambda d: estimators.loo_influence(
        kernel(d), kernel(d)[:3], rows(d)[:, 0], ridge=1.0
    ),
    "estimators.map_coverage": lambda d: estimators.map_coverage(draw(d, 3, 4, 4)),
    "estimators.map_statistics": lambda d: estimators.map_statistics(SHARES["rows"](d)),
    "estimators.margin_gradient": lambda d: estimators.margin_gradient(vit(d), *batch(d)),
    "estimators.margin_radius": lambda d: estimators.margin_radius(draw(d, 4, 3), 2.0),
    "estimators.match_ridge": lambda d: estimators.match_ridge(kernel(d), 2.0),
    "estimators.most_influential": lambda d: estimators.most_influential(influences(d)[0], 0.3),
    "estimators.normalize_map": lambda d: [
        estimators.normalize_map(draw(d, 3, 4, 4), kind) for kind in ("minmax", "l1", "l2", "none")  # type: ignore[arg-type]
    ],
    "estimators.rank_correlation": lambda d: estimators.rank_correlation(*influences(d)),
    "estimators.relu_ntk": lambda d: [
        estimators.relu_ntk(rows(d), rows(d, seed=1), train=train) for train in ("first", "both")
    ],
    "estimators.row_shares": lambda d: estimators.row_shares(SHARES["rows"](d)),
    "estimators.sensitivity_ratio": lambda d: estimators.sensitivity_ratio(draw(d, 3), 0.8, draw(d, 3)),
    "estimators.sensitivity_terms": lambda d: estimators.sensitivity_terms(0.8, draw(d, 3)),
    "estimators.sensitivity_threshold": lambda d: estimators.sensitivity_threshold(draw(d, 3), 0.8),
    "estimators.softmax_facts": lambda d: estimators.softmax_facts(wide(d, 3, 5)),
    "estimators.softmax_jacobian_bound": lambda d: estimators.softmax_jacobian_bound(SHARES["p"](d), k=3),
    "estimators.softmax_jacobian_frobenius": lambda d: estimators.softmax_jacobian_frobenius(SHARES["p"](d)),
    "estimators.softmax_jacobian_gershgorin": lambda d: estimators.softmax_jacobian_gershgorin(SHARES["p"](d)),
    "estimators.softmax_jacobian_lower": lambda d: estimators.softmax_jacobian_lower(SHARES["p"](d)),
    "estimators.softmax_jacobian_norm": lambda d: estimators.softmax_jacobian_norm(SHARES["p"](d)),
    "estimators.softmax_jacobian_trace": lambda d: estimators.softmax_jacobian_trace(SHARES["p"](d)),
    "estimators.tie_branches": lambda d: estimators.tie_branches(vit(d, attention="differential"), -1)(batch(d)[0]),
    "estimators.top_overlap": lambda d: estimators.top_overlap(*influences(d), share=0.3),
    "estimators.width_sweep": lambda d: estimators.width_sweep(
        rows(d), rows(d, 3, seed=1), rows(d)[:, 0].sign(), widths=[8, 32], ridges=[0.1], generator=CHANCE()
    ),
    # training
    "training.Adversarial": lambda d: of_loss(training.Adversarial(0.1), d),
    "training.Arm": ensemble,
    "training.CORAL": lambda d: grouped(d, training.CORAL()),
    "training.DANN": lambda d: grouped(d, training.DANN()),
    "training.MMD": lambda d: grouped(d, training.MMD()),
    "training.Cell": lambda d: training.fit_matched_each(
        lambda: nn.Linear(4, 2), by_seed(d), cells=[training.Cell(0.5, 16, 0.9)], stop_at_loss=0.5, epochs=60
    ),
    "training.CropFlip": lambda d: training.CropFlip(padding=2)(batch(d)[0], drawing(d)),
    "training.CrossEntropy": lambda d: of_loss(training.CrossEntropy(label_smoothing=0.1), d),
    "training.ERM": lambda d: grouped(d, training.ERM()),
    "training.EX2L": lambda d: grouped(d, training.EX2L(warmup=0, ramp=0)),
    "training.GroupDRO": lambda d: grouped(d, training.GroupDRO()),
    "training.IRM": lambda d: grouped(d, training.IRM()),
    "training.InputGradient": lambda d: of_loss(training.InputGradient(0.1), d),
    "training.JTT": lambda d: grouped(d, training.JTT()),
    "training.JaSMin": lambda d: of_loss(training.JaSMin(0.1, k=2), d),
    "training.MapSteadiness": lambda d: of_loss(training.MapSteadiness(0.1), d),
    "training.MaskOracle": lambda d: grouped(d, training.MaskOracle(warmup=0, ramp=0)),
    "training.Mixup": lambda d: grouped(d, training.Mixup()),
    "training.Reweighting": lambda d: grouped(d, training.Reweighting()),
    "training.TrackLambda": lambda d: of_loss(training.TrackLambda(), d, attention="differential"),
    "training.descend": lambda d: training.descend(two_layer(d), rows(d), rows(d)[:, 0], ridge=0.1, max_steps=20),
    "training.fit": lambda d: [
        fitted(d, optimizer=optimizer, augment=augment, validation=(batch(d, 4)[0].double(), batch(d, 4)[1]))
        for optimizer, augment in (("adamw", training.CropFlip(padding=1)), ("sgd", None))
    ],
    "training.fit_adam": lambda d: training.fit_adam(
        two_layer(d), rows(d), rows(d)[:, 0].sign(), epochs=2, batch_size=5, generator=CHANCE(), progress=False
    ),
    "training.fit_adversarial": lambda d: training.fit_adversarial(
        two_layer(d, 64), models.Representation(), batch(d)[0].double(), batch(d)[1] % 2, eps=0.1, epochs=2, steps=2,
        batch_size=4, generator=CHANCE(), progress=False,
    ),
    "training.fit_contrastive": lambda d: training.fit_contrastive(
        clip(d), draw(d, 4, 3, 8, 8), torch.tensor(TOKENS, device=d), epochs=2, batch_size=2, progress=False
    ),
    "training.fit_ensemble": lambda d: [ensemble(d, vectorize=vectorize) for vectorize in ("always", "never")],
    "training.fit_groups": lambda d: grouped(d, training.ERM(label="c")),
    "training.fit_matched_each": lambda d: training.fit_matched_each(
        lambda: nn.Linear(4, 2), by_seed(d), cells=training.grid(lr=[0.5, 1.0]), stop_at_loss=0.5, epochs=60
    ),
    "training.jasmin": lambda d: training.jasmin([SHARES["rows"](d)], k=2),
    "training.laziness": lambda d: training.laziness(two_layer(d), rows(d)),
    "training.map_similarity": lambda d: [
        training.map_similarity(draw(d, 3, 4, 4), draw(d, 3, 4, 4, seed=1), kind)  # type: ignore[arg-type]
        for kind in ("cosine", "centred_cosine", "mae", "ssim")
    ],
    "training.seeded": lambda d: vit(d),
    "training.training_loss": lambda d: training.training_loss(vit(d), *batch(d)),
    # studies
    "studies.Arm": armed,
    "studies.ExplanationStudy": explained,
    "studies.KernelClassifier": lambda d: [
        classifier(d)[0].accuracy(*classifier(d)[1:]), classifier(d)[0].influence(*classifier(d)[1:])
    ],
    "studies.Malleability": lambda d: studies.malleability(*classifier(d), "mim", eps=0.1, steps=2),
    "studies.Moved": lambda d: studies.cue_moved(
        vit(d), *[seeds_of_vits(d)[1]] * 2, studies.ProbeBudget(eps=0.1, steps=2), 0, side=2
    ),
    "studies.PROBES": probed,
    "studies.ProbeStudy": probed,
    "studies.RegularizerStudy": regularized,
    "studies.attention_records": recorded,
    "studies.cue_moved": lambda d: studies.cue_moved(
        vit(d), *[seeds_of_vits(d)[1]] * 2, studies.ProbeBudget(eps=0.1, steps=2), 1, side=2
    ),
    "studies.linear_accuracy": lambda d: studies.linear_accuracy(*(part.to(d) for part in TASK)),
    "studies.malleability": lambda d: [
        studies.malleability(*classifier(d), attack, eps=0.1, steps=2, intervention=kind)  # type: ignore[arg-type]
        for attack, kind in (("pgd", "transformed"), ("fgsm", "adversarial"), ("pgd", "curated"))
    ],
    "studies.own_outcomes": outcomes,
    "studies.retrained_influence": lambda d: studies.retrained_influence(
        two_layer(d), rows(d), rows(d)[:, 0].sign(), rows(d, 3, seed=1), [0, 1], ridge=0.1, max_steps=30
    ),
    "studies.run_methods": lambda d: studies.run_methods(
        lambda k: models.SmallCNN(classes=k, width=2), GROUPS, {"ERM": training.ERM(), "eX2L": training.EX2L()},
        seed=3, device=d, epochs=2, **STEADY,
    ),
    "studies.shared_rates": lambda d: studies.shared_rates([outcomes(d)] * 2, "fgsm"),
    "studies.train_arms": armed,
}  # fmt: skip

MADE_ON_THE_CPU = "makes data of the CPU and takes no tensor; `to` of what it makes is a case"
HOLDS = "holds numbers or names, and computes nothing"
SEEDED = "takes numbers and a generator, and draws on the CPU, as the models are made there"
EXCEPTIONS: dict[str, str] = {
    "data.ATTRIBUTES": HOLDS, "data.CLASSES": HOLDS, "data.Cell": HOLDS, "data.LOCATIONS": HOLDS,
    "data.SpuriousBenchmark": "four sets of images, each of which is `GroupedImages`",
    "data.Task": "four tensors by name", "data.all_captions": HOLDS, "data.available": HOLDS,
    "data.benchmark_cells": HOLDS, "data.captioned_images": MADE_ON_THE_CPU,
    "data.composite_benchmark": MADE_ON_THE_CPU, "data.distribution_suite": SEEDED,
    "data.image_shape": HOLDS, "data.load": MADE_ON_THE_CPU,
    "data.load_spawrious": MADE_ON_THE_CPU, "data.load_waterbirds": MADE_ON_THE_CPU,
    "data.make_task": MADE_ON_THE_CPU, "data.prompts": HOLDS, "data.render_groups": MADE_ON_THE_CPU,
    "data.spurious_benchmark": MADE_ON_THE_CPU,
    "models.MapMechanism": "the base of mechanisms, each of which is a case", "models.PATTERNS": HOLDS,
    "models.WordTokenizer": "makes token numbers of words, on the CPU", "models.convert_checkpoint": "files alone",
    "models.hidden_weights": SEEDED, "models.load_clip": "reads a file to the CPU; what it makes is `CLIP`",
    "models.load_published": "reads files to the CPU; what it makes is `ZeroShot`",
    "models.random_layer": SEEDED, "models.random_tokens": SEEDED, "models.score_pattern": SEEDED,
    "models.unsteady_layers": "reads the kinds of layers, no values",
    "attacks.Attack": "the base of attacks, each of which is a case", "attacks.AttackResult": "what attacks return",
    "attacks.ExplanationResult": "what attacks on explanations return", "attacks.Objective": "a type",
    "estimators.VARIANTS": HOLDS, "estimators.pattern_sweep": SEEDED, "estimators.predicted_width": "numbers alone",
    "training.GroupFit": "what `fit_groups` returns", "training.GroupHistory": HOLDS,
    "training.GroupObjective": "the base of objectives of groups, each of which is a case",
    "training.History": HOLDS, "training.Objective": "the base of objectives, each of which is a case",
    "training.State": "what callbacks see", "training.choose_device": "a test of its own below",
    "training.grid": HOLDS,
    "studies.Budget": HOLDS, "studies.ProbeBudget": HOLDS, "studies.by_arm": "numpy's arrays alone",
    "studies.step_seconds": "measures seconds, which are others each time",
    "studies.with_ood_validation": "exchanges two sets of a benchmark",
}  # fmt: skip


def numbers(found: Any) -> list[np.ndarray]:
    """Return all values in a result, wherever they lie."""
    if isinstance(found, Tensor):
        return [
            found.detach().cpu().double().numpy() if not found.is_complex() else found.detach().cpu().numpy()
        ]
    if isinstance(found, bool | int | float | np.ndarray | np.generic):
        return [np.asarray(found)]
    if isinstance(found, nn.Module):
        return numbers(list(found.state_dict().values()))
    if isinstance(found, str | None | torch.device | torch.dtype):
        return []
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        own = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
        return numbers({k: v for k, v in own.items() if "second" not in k})
    if isinstance(found, Mapping):
        return [array for value in found.values() for array in numbers(value)]
    if isinstance(found, Sequence) or hasattr(found, "__iter__"):
        return [array for value in found for array in numbers(value)]
    return numbers(vars(found))


@pytest.fixture(scope="module", autouse=True)
def device():
    wooden.register()
    with wooden.Guard():
        yield torch.device(wooden.NAME)


def test_the_table_names_every_public_function():
    public = {
        f"{room}.{name}" for room in ROOMS for name in importlib.import_module(f"faultlines.{room}").__all__
    }
    assert not CASES.keys() & EXCEPTIONS.keys()
    assert public == CASES.keys() | EXCEPTIONS.keys()


@pytest.mark.parametrize("name", CASES)
def test_same_on_another_device(name, device):
    torch.manual_seed(0)
    expected = numbers(CASES[name](CPU))
    torch.manual_seed(0)
    computed: list[Any] = []
    with wooden.watched(computed.append):
        found = numbers(CASES[name](device))
    assert computed
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


STAYING = {
    "training.ERM": training.ERM(), "training.JTT": training.JTT(first=0.5), "training.GroupDRO": training.GroupDRO(),
    "training.EX2L": training.EX2L(warmup=0, ramp=0), "training.MaskOracle": training.MaskOracle(),
}  # fmt: skip


@pytest.mark.parametrize("name", STAYING)
def test_same_on_another_device_where_pictures_stay(name, device, monkeypatch, tmp_path):
    """More pixels than memory of a card stay where they are, and batches move."""
    monkeypatch.setattr(image_files, "IN_MEMORY", 1000)
    monkeypatch.setenv("FAULTLINES_CHECKPOINTS", str(tmp_path))
    whole, _ = as_batch(GROUPS.train, device)
    assert whole.x.device == CPU and whole.y.device.type == device.type
    torch.manual_seed(0)
    expected = numbers(grouped(CPU, STAYING[name]))
    monkeypatch.setenv("FAULTLINES_CHECKPOINTS", str(tmp_path / "another"))
    found = numbers(grouped(device, STAYING[name]))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def left_behind(device: Any) -> Any:
    model = vit(device)
    model.position = nn.Parameter(model.position.detach().cpu())
    return model(batch(device)[0])


MISPLACED: dict[str, Case] = {
    "a model": lambda d: vit(CPU)(batch(d)[0]),
    "one parameter": left_behind,
    "a kernel": lambda d: estimators.loo_influence(kernel(d), kernel(CPU)[:3], rows(d)[:, 0], ridge=1.0),
    "images": lambda d: attacks.FGSM(eps=0.1)(vit(d), *batch(CPU)),
    "a constant": lambda d: draw(d, 3) + torch.rand(3),
    "a branch": lambda d: torch.where(draw(d, 3) > 0, draw(d, 3), torch.zeros(3)),
    "a generator of the card": lambda d: torch.rand(3, generator=drawing(d)),
    "a generator of the CPU": lambda d: torch.rand(3, device=d, generator=CHANCE()),
}


@pytest.mark.parametrize("name", MISPLACED)
def test_a_misplaced_tensor_is_caught(name, device):
    with pytest.raises((RuntimeError, ValueError), match=r"device|wooden|cpu"):
        MISPLACED[name](device)


def test_what_a_card_allows_is_allowed(device):
    x = draw(device, 4)
    assert torch.equal((x + torch.tensor(1.0)).cpu(), x.cpu() + 1)  # a number may lie on the CPU
    assert torch.equal(x[torch.tensor([1, 0])].cpu(), x.cpu()[[1, 0]])  # and so may an index
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()


# what shows a network, and is no bound, kernel or solve
MAPS = {"attention_focus", "attribute", "grad_cam", "logits_and_maps", "tie_branches"}
PRODUCTS = re.compile(
    r"aten::(mm|bmm|addmm|baddbmm|mv|addmv|convolution|_?linalg_(?!vector)|cholesky|triangular)"
)


@pytest.fixture
def tf32() -> Iterator[Callable[[], set[str]]]:
    """Allow TF32, and return what is allowed when asked."""
    parts: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]
    before = [part.fp32_precision for part in parts]
    for part in parts:
        part.fp32_precision = "tf32"
    yield lambda: {part.fp32_precision for part in parts}
    for part, precision in zip(parts, before, strict=True):
        part.fp32_precision = precision


@pytest.mark.parametrize(
    "name", [n for n in CASES if n.startswith("estimators.") and n.partition(".")[2] not in MAPS]
)
def test_bounds_kernels_and_solves_are_not_computed_in_tf32(name, device, tf32):
    rounded: list[str] = []

    def see(op: Any) -> None:
        if PRODUCTS.match(op._schema.name) and tf32() != {"ieee"}:
            frame = sys._getframe()
            while frame is not None and "/faultlines/estimators/" not in frame.f_code.co_filename:
                frame = frame.f_back
            if frame is not None:
                rounded.append(f"{op} in {frame.f_code.co_qualname}")

    with wooden.watched(see):
        CASES[name](device)
    assert not rounded
    assert tf32() == {"tf32"}


def test_a_bound_does_not_move_with_autocast():
    made, x = layer(CPU)
    made, x = made.float(), x.float()
    full = estimators.attention_bound(made, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(estimators.attention_bound(made, x), full)
        assert not torch.equal(
            (x @ x.mT).float(), (x.double() @ x.double().mT).float()
        )  # here, that is, it rounds
