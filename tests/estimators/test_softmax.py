import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faultlines.estimators.softmax import (
    softmax_jacobian_bound,
    softmax_jacobian_lower,
    softmax_jacobian_norm,
)

TEMPERATURES = (0.03, 0.1, 0.3, 1, 3, 10, 30)
DISTINCT = [0.5, 0.25, 0.15, 0.1]


def dense_norm(p):
    return torch.linalg.eigvalsh(torch.diag_embed(p) - p[..., :, None] * p[..., None, :])[..., -1]


def random_rows(n, rows=40, seed=0):
    """Rows over all temperatures, some with exact ties and exact zeros."""
    generator = torch.Generator().manual_seed(seed + n)
    scores = torch.randn(len(TEMPERATURES), rows, n, generator=generator, dtype=torch.float64)
    scores = scores * torch.tensor(TEMPERATURES, dtype=torch.float64)[:, None, None]
    scores[:, : rows // 4] = scores[:, : rows // 4].round(decimals=1)  # ties
    scores[:, rows // 4 : rows // 3, n // 2 + 1 :] = -math.inf  # zeros
    return scores.softmax(-1)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 17, 64, 197])
def test_norm_is_the_dense_eigenvalue_between_its_bounds(n):
    p = random_rows(n)
    norm = softmax_jacobian_norm(p)
    assert (norm - dense_norm(p)).abs().max() <= 1e-14
    upper, lower = softmax_jacobian_bound(p), softmax_jacobian_lower(p)
    assert (norm <= upper * (1 + 1e-13)).all()
    assert (lower <= norm * (1 + 1e-13)).all()
    assert (upper <= (4 - 2 * math.sqrt(2)) * lower + 1e-16).all()
    assert (upper <= 0.5).all()


def test_sandwich_constant_is_approached():
    a = 1 - 1e-6
    b = (1 - a) / 3
    dust = 10**5
    p = torch.full((dust + 2,), (1 - a - b) / dust, dtype=torch.float64)
    p[0], p[1] = a, b
    ratio = softmax_jacobian_bound(p) / softmax_jacobian_lower(p)
    assert 4 - 2 * math.sqrt(2) - 1e-4 < ratio < 4 - 2 * math.sqrt(2)


@pytest.mark.parametrize(
    ("p", "norm"),
    [
        ([0.5, 0.5, 0.0], 0.5),
        ([1.0, 0.0, 0.0], 0.0),
        ([1.0], 0.0),
        ([0.25] * 4, 0.25),
        ([0.7, 0.3], 0.42),
        ([0.6] + [0.1] * 4, 0.6 * 0.5),  # a with a uniform tail: g_1 is exact
        ([0.4, 0.4, 0.2], 0.4),
    ],
)
def test_closed_forms(p, norm):
    torch.testing.assert_close(softmax_jacobian_norm(torch.tensor(p, dtype=torch.float64)).item(), norm)


@pytest.mark.parametrize("eps", [1e-3, 1e-8, 1e-15, 1e-30, 1e-170])
def test_nearly_one_hot_rows_keep_relative_accuracy(eps):
    # two entries eps and eps/2: to first order in eps the matrix is eps times a fixed 3 x 3 one
    p = torch.tensor([1 - 1.5 * eps, eps, eps / 2], dtype=torch.float64)
    t, u, v = 1.5, 1.0, 0.5
    first_order = torch.tensor([[t, -u, -v], [-u, u, 0], [-v, 0, v]], dtype=torch.float64)
    expected = torch.linalg.eigvalsh(first_order)[-1] * eps
    torch.testing.assert_close(softmax_jacobian_norm(p), expected, rtol=3 * eps + 1e-14, atol=0)
    assert softmax_jacobian_lower(p) <= softmax_jacobian_norm(p) <= softmax_jacobian_bound(p)


@pytest.mark.parametrize("gap", [1e-3, 1e-9, 1e-14])
def test_near_ties_and_clusters(gap):
    base = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.1, 0.1], dtype=torch.float64)
    p = base + gap * torch.tensor([3.0, 1.0, 0.0, -4.0, 1.0, -1.0], dtype=torch.float64)
    assert (softmax_jacobian_norm(p) - dense_norm(p)).abs() < 1e-15
    two = torch.tensor([0.3 + gap, 0.3 - gap, 0.25, 0.15], dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(softmax_jacobian_norm(two), two)
    if gap < 1e-8:  # the limit at a two-fold tie
        torch.testing.assert_close(
            gradient, torch.tensor([0.5, 0.5, 0, 0], dtype=torch.float64), atol=1e-7, rtol=0
        )


@pytest.mark.parametrize("scale", [1e-6, 1e-10, 1e-14])
def test_almost_uniform_rows_converge_to_rounding_level(scale):
    generator = torch.Generator().manual_seed(0)
    p = (scale * torch.randn(200, 12, generator=generator, dtype=torch.float64)).softmax(-1)
    assert (softmax_jacobian_norm(p) - dense_norm(p)).abs().max() < 1e-15


@given(st.lists(st.floats(-700, 700), min_size=1, max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_scores(scores):
    p = torch.tensor(scores, dtype=torch.float64).softmax(-1)
    norm = softmax_jacobian_norm(p)
    assert (norm - dense_norm(p)).abs() <= 1e-13
    assert softmax_jacobian_lower(p) * (1 - 1e-12) <= norm <= softmax_jacobian_bound(p) * (1 + 1e-12)


def test_float32_rows_agree_with_float64():
    p = random_rows(17)
    single = softmax_jacobian_norm(p.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), softmax_jacobian_norm(p), atol=1e-6, rtol=0)


def test_shapes_chunks_and_permutations_do_not_matter():
    p = random_rows(5, rows=60).reshape(7, 6, 10, 5)
    norm = softmax_jacobian_norm(p)
    assert norm.shape == (7, 6, 10)
    torch.testing.assert_close(softmax_jacobian_norm(p[3, 2, 4]), norm[3, 2, 4], rtol=1e-14, atol=0)
    torch.testing.assert_close(softmax_jacobian_norm(p.flip(-1)), norm, rtol=1e-13, atol=1e-300)
    assert softmax_jacobian_norm(p[:0]).shape == (0, 6, 10)


def test_gradient_is_that_of_the_dense_eigenvalue():
    p = random_rows(9)[:, 15:]
    ours = p.clone().requires_grad_()
    (g,) = torch.autograd.grad(softmax_jacobian_norm(ours).sum(), ours)
    values, vectors = torch.linalg.eigh(torch.diag_embed(p) - p[..., :, None] * p[..., None, :])
    v = vectors[..., -1]
    expected = v * v - 2 * (p * v).sum(-1, keepdim=True) * v
    simple = values[..., -1] - values[..., -2] > 1e-6 * values[..., -1].clamp_min(1e-6)
    assert simple.sum() > 100
    torch.testing.assert_close(g[simple], expected[simple], atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize(
    "function",
    [softmax_jacobian_norm, softmax_jacobian_lower, softmax_jacobian_bound],
)
def test_gradcheck(function):
    def call(p):
        return function(p)

    p = torch.tensor([DISTINCT, [0.9, 0.06, 0.03, 0.01], [0.26, 0.255, 0.245, 0.24]], dtype=torch.float64)
    assert torch.autograd.gradcheck(call, (p.requires_grad_(),))
    z = p.detach().log().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: call(z.softmax(-1)), (z,))
    assert torch.autograd.gradgradcheck(lambda z: call(z.softmax(-1)), (z,))


def test_gradient_at_ties_and_one_hot_rows_is_finite_and_a_subgradient():
    p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.3, 0.3, 0.3], [1 / 3] * 3], dtype=torch.float64)
    p[2] = torch.tensor([0.4, 0.3, 0.3])
    p.requires_grad_()
    (g,) = torch.autograd.grad(softmax_jacobian_norm(p).sum(), p)
    expected = torch.tensor([[0.5, 0.5, 0], [-1, 0, 0], [0, 0, 0], [1 / 3] * 3], dtype=torch.float64)
    # row 2 is simple: v is (2, -1, -1)/sqrt 6 and p.v = 0.2/sqrt 6
    v = torch.tensor([2.0, -1, -1], dtype=torch.float64) / math.sqrt(6)
    expected[2] = v * v - 2 * (p[2].detach() @ v) * v
    torch.testing.assert_close(g, expected)
    for function in (softmax_jacobian_lower, softmax_jacobian_bound):
        (g,) = torch.autograd.grad(function(p).sum(), p)
        assert g.isfinite().all()


def test_vmap_over_models_without_checks():
    z = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for function in (softmax_jacobian_norm, softmax_jacobian_bound, softmax_jacobian_lower):
        mapped = torch.func.vmap(torch.func.grad(lambda z, f=function: f(z.softmax(-1), check=False).sum()))(
            z
        )
        leaf = z.clone().requires_grad_()
        (direct,) = torch.autograd.grad(function(leaf.softmax(-1)).sum(), leaf)
        torch.testing.assert_close(mapped, direct)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_bound_family(k):
    p = torch.tensor(DISTINCT, dtype=torch.float64)
    following = DISTINCT[k] if k < 4 else 0.0
    expected = DISTINCT[k - 1] * (1 - DISTINCT[k - 1] + following)
    torch.testing.assert_close(softmax_jacobian_bound(p.flip(0), k).item(), expected)


def test_first_of_the_family_is_the_largest():
    p = random_rows(12)
    for k in range(2, 13):
        assert (softmax_jacobian_bound(p, k) <= softmax_jacobian_bound(p) + 1e-15).all()


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (torch.tensor([0.5, 0.6]), "sum"),
        (torch.tensor([1.5, -0.5]), "at least 0"),
        (torch.tensor([math.nan, 0.5]), "at least 0"),
        (torch.tensor([1, 0]), "dtype"),
        (torch.tensor(1.0), "shape"),
    ],
)
@pytest.mark.parametrize("function", [softmax_jacobian_norm, softmax_jacobian_bound, softmax_jacobian_lower])
def test_what_is_no_distribution_raises(function, p, message):
    with pytest.raises(ValueError, match=message):
        function(p)


def test_bad_k_raises():
    p = torch.tensor(DISTINCT)
    for k in (0, 5):
        with pytest.raises(ValueError, match="k="):
            softmax_jacobian_bound(p, k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_rows_whose_leader_rounds_to_one_keep_the_mass_outside(dtype):
    # 1 - p_(1) is 0 in float32, and J is 1e-9 times a fixed matrix whose norm is 3
    p = torch.tensor([1.0, 1e-9, 1e-9], dtype=dtype)
    norm = softmax_jacobian_norm(p).double()
    torch.testing.assert_close(norm.item(), 3e-9, rtol=2 * torch.finfo(dtype).eps, atol=0)
    assert softmax_jacobian_lower(p) <= softmax_jacobian_norm(p)


@pytest.mark.parametrize("others", [1, 9])
def test_gradient_one_ulp_off_a_tie(others):
    base = 0.5 if others == 1 else 0.1
    p = torch.full((others + 1,), base, dtype=torch.float64)
    p[0] += 4 * math.ulp(base)
    p.requires_grad_()
    (g,) = torch.autograd.grad(softmax_jacobian_norm(p), p)
    # the first unit vector without its mean: v_1^2 = others / (others + 1)
    torch.testing.assert_close(g[0].item(), others / (others + 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(g[1:].sum().item(), 1 / (others + 1), rtol=0, atol=1e-12)
