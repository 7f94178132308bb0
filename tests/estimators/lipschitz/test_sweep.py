from __future__ import annotations

import torch

from faultlines.estimators import pattern_sweep

STRENGTHS = (4.0, 64.0)


def sweep(qk_std: float) -> dict:
    points = pattern_sweep(
        tokens=9, dim=8, qk_std=qk_std, strengths=STRENGTHS, generator=torch.Generator().manual_seed(0)
    )
    return {(point.pattern, point.strength): point for point in points}


def test_every_bound_is_above_the_norm() -> None:
    for qk_std in (0.6, 3.0):
        for point in sweep(qk_std).values():
            assert point.norm <= point.centred * (1 + 1e-9)
            assert point.norm <= point.theorem3 * (1 + 1e-9)


def test_the_bound_is_exact_for_one_hot_maps() -> None:
    points = sweep(3.0)
    for pattern, map_norm in (("permutation", 1.0), ("sink", 3.0)):
        point = points[pattern, 64.0]
        assert point.max_g1 < 1e-9
        assert abs(point.map_norm - map_norm) < 1e-9
        assert abs(point.theorem3 / point.norm - 1) < 1e-3


def test_g1_does_not_see_a_sink() -> None:
    points = sweep(0.6)
    sink, permutation = points["sink", 64.0], points["permutation", 64.0]
    assert max(sink.max_g1, permutation.max_g1) < 1e-9
    assert sink.norm > 2.5 * permutation.norm
