from __future__ import annotations

import pytest
import torch

from faultlines.estimators.spectral import spectral_norm


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (2, 3, 17, 17), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_largest_singular_value(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    m = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    expected = torch.linalg.svdvals(m.double())[..., 0].to(dtype)
    assert spectral_norm(m).dtype == dtype
    torch.testing.assert_close(spectral_norm(m), expected)


def test_sinks_and_subnormal_entries_are_no_obstacle() -> None:
    # float32 maps of trained networks: rows all alike, the rest of their mass in subnormal numbers
    maps = torch.full((64, 4, 17, 17), 1e-41)
    maps[..., 0] = 1.0
    torch.testing.assert_close(spectral_norm(maps), torch.full((64, 4), 17.0).sqrt())


def test_it_falls_back_where_the_eigenvalue_solver_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def gives_up(*_: object) -> None:
        raise torch.linalg.LinAlgError("failed to converge")

    m = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1))
    expected = spectral_norm(m)
    monkeypatch.setattr(torch.linalg, "eigvalsh", gives_up)
    torch.testing.assert_close(spectral_norm(m), expected)


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e-150, 1e160, 1e300])
def test_squares_neither_overflow_nor_vanish(scale: float) -> None:
    m = torch.tensor([[3.0, 0.0], [0.0, -4.0]], dtype=torch.float64) * scale
    torch.testing.assert_close(spectral_norm(m), m.abs().max(), rtol=1e-14, atol=0)


def test_a_matrix_that_is_not_finite_is_nan_and_spares_the_others() -> None:
    m = torch.stack([torch.full((2, 2), torch.nan), torch.eye(2), torch.full((2, 2), torch.inf)])
    torch.testing.assert_close(spectral_norm(m), torch.tensor([torch.nan, 1.0, torch.nan]), equal_nan=True)


@pytest.mark.parametrize("m", [torch.zeros(3, 0, 4), torch.zeros(4), torch.ones(2, 2, dtype=torch.int64)])
def test_what_is_no_matrix_raises(m: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="m has shape"):
        spectral_norm(m)
