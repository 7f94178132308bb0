from __future__ import annotations

import pytest
import torch

from faultlines.models import (
    PATTERNS,
    Attention,
    SoftmaxMechanism,
    random_layer,
    random_tokens,
    record,
    score_pattern,
)


def map_under(bias: torch.Tensor, tokens: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    layer = random_layer(8, 2, qk_std=1.0, generator=generator, bias=bias.double())
    with record() as tape:
        layer(random_tokens(1, tokens, 8, generator=generator))
    return tape.maps[0][0, 0]


@pytest.mark.parametrize("name", PATTERNS)
def test_a_strong_bias_gives_the_pattern(name: str) -> None:
    p = map_under(score_pattern(name, 7, 200.0, generator=torch.Generator().manual_seed(1)))
    held = 2 if "pair" in name else 1
    assert torch.allclose(p.topk(held).values.sum(-1), torch.ones(7, dtype=torch.float64))
    columns = set(p.topk(held).indices.flatten().tolist())
    assert len(columns) == (held if "sink" in name else 7)


def test_no_strength_leaves_the_map_alone() -> None:
    plain = map_under(torch.zeros(7, 7))
    for name in PATTERNS:
        torch.testing.assert_close(map_under(score_pattern(name, 7, 0.0)), plain)


def test_a_biased_mechanism_agrees_with_its_fused_form() -> None:
    torch.manual_seed(0)
    layer = Attention(8, 2, mechanism=SoftmaxMechanism(bias=torch.randn(5, 5)), fused="always")
    x = torch.randn(3, 5, 8)
    with record():
        explicit = layer(x)
    torch.testing.assert_close(layer(x), explicit)


def test_unknown_patterns_and_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="spiral"):
        score_pattern("spiral", 5, 1.0)
    with pytest.raises(ValueError, match="tokens=2"):
        score_pattern("pair", 2, 1.0)
    with pytest.raises(ValueError, match="odd"):
        random_tokens(1, 4, 4, generator=torch.Generator(), kind="odd")


def test_a_shared_component_makes_tokens_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = []
    for correlation in (0.0, 1.0, 3.0):
        x = random_tokens(8, 65, 32, generator=generator, correlation=correlation)
        shares.append((torch.linalg.matrix_norm(x, ord=2) ** 2 / (65 * 32)).mean().item())
    assert shares[0] < 0.1 < shares[1] < 0.7 < shares[2]
