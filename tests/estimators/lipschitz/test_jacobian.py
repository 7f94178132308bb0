import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, svds

from faultlines.estimators.lipschitz import jacobian_norm
from faultlines.estimators.lipschitz.jacobian import leading_singular
from faultlines.models import ViT


def small_vit():
    torch.manual_seed(0)
    return ViT(
        image_size=8, patch_size=4, channels=1, classes=10, dim=8, depth=2, heads=2, qk_gain=3
    ).double()


def images(batch):
    return torch.rand(batch, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(7, 7), (5, 30), (30, 5), (1, 6), (6, 1)])
def test_a_matrix_has_its_own_norm(shape):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.zeros(3, shape[0], dtype=torch.float64)
    found = leading_singular(lambda x: x @ w, x, tol=1e-12, steps=64)
    expected = torch.linalg.matrix_norm(w, ord=2)
    torch.testing.assert_close(found.norm, expected.expand(3), rtol=1e-11, atol=0)
    image = (found.direction @ w).norm(dim=1)
    torch.testing.assert_close(image, found.norm, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.direction.norm(dim=1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("what", ["tokens", "logits", "attention"])
def test_network_against_the_dense_jacobian(what):
    model, x = small_vit(), images(5)
    if what == "attention":
        f, x = model.blocks[1].attention, model.blocks[1].norm1(model.tokens(x)).detach()
    else:
        f = model if what == "logits" else lambda x: model.blocks(model.tokens(x))
    dense = torch.func.vmap(torch.func.jacrev(lambda s: f(s[None]).flatten()))(x).flatten(2)
    expected = torch.linalg.svdvals(dense)[:, 0]
    found = leading_singular(f, x, tol=1e-3)
    assert ((expected - found.norm) / expected).max() <= 1e-3
    assert (found.norm <= expected * (1 + 1e-12)).all()
    assert (expected - found.norm <= found.error + 1e-12).all()
    torch.testing.assert_close(jacobian_norm(f, x, tol=0, steps=200), expected, rtol=1e-9, atol=0)


def test_an_independent_peer_agrees():
    """scipy's ARPACK on the Jacobian as an operator, with products from plain autograd."""
    model, x = small_vit(), images(1)
    leaf = x.clone().requires_grad_()
    tokens = model.blocks(model.tokens(leaf))

    def transposed(u):
        u = torch.from_numpy(np.ascontiguousarray(u)).reshape(tokens.shape)
        return torch.autograd.grad(tokens, leaf, u, retain_graph=True)[0].flatten().numpy()

    def product(v):
        v = torch.from_numpy(np.ascontiguousarray(v)).reshape(x.shape)
        return (
            torch.func.jvp(lambda x: model.blocks(model.tokens(x)), (x,), (v,))[1].detach().flatten().numpy()
        )

    operator = LinearOperator(
        (tokens.numel(), x.numel()), matvec=product, rmatvec=transposed, dtype=np.float64
    )
    peer = svds(operator, k=1, return_singular_vectors=False, random_state=0)[0]
    ours = jacobian_norm(lambda x: model.blocks(model.tokens(x)), x, tol=1e-8, steps=64)
    np.testing.assert_allclose(ours.item(), peer, rtol=1e-7)


def test_samples_are_independent_and_the_seed_decides():
    model, x = small_vit(), images(4)
    both = jacobian_norm(model, x, tol=0, steps=40)
    torch.testing.assert_close(jacobian_norm(model, x[2:3], tol=0, steps=40), both[2:3], rtol=1e-9, atol=0)
    a, b = (jacobian_norm(model, x, steps=2, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, jacobian_norm(model, x, steps=2, generator=torch.Generator().manual_seed(8)))


def test_the_estimate_rises_to_the_norm():
    model, x = small_vit(), images(2)
    rising = torch.stack([jacobian_norm(model, x, steps=k, tol=0) for k in range(1, 9)])
    assert (rising.diff(dim=0) >= -1e-12).all()


def test_a_constant_map_and_low_rank():
    x = torch.zeros(2, 6, dtype=torch.float64)
    assert torch.equal(jacobian_norm(lambda x: 0 * x, x), torch.zeros(2, dtype=torch.float64))
    w = torch.outer(torch.arange(1.0, 7), torch.ones(9)).double()  # rank 1: the Krylov space ends at once
    torch.testing.assert_close(
        jacobian_norm(lambda x: x @ w, x, tol=0), torch.linalg.matrix_norm(w, ord=2).expand(2)
    )


def test_bad_arguments_raise():
    x = torch.zeros(2, 3)
    for arguments, message in (({"steps": 0}, "steps="), ({"tol": -1.0}, "tol=")):
        with pytest.raises(ValueError, match=message):
            jacobian_norm(lambda x: x, x, **arguments)
    with pytest.raises(ValueError, match="x has shape"):
        jacobian_norm(lambda x: x, x[0])
    with pytest.raises(ValueError, match="f returned"):
        jacobian_norm(lambda x: x.sum(0), x)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float32, 1e-30), (torch.float32, 1e-19), (torch.float32, 1e30), (torch.float64, 1e-300)],
)
def test_the_scale_of_the_map_changes_nothing(dtype, scale):
    s = torch.linspace(0.5, 1, 64, dtype=dtype)
    x = torch.zeros(1, 64, dtype=dtype)
    one = leading_singular(lambda x: x * s, x)
    scaled = leading_singular(lambda x: x * s * scale, x)
    assert scaled.steps == one.steps
    torch.testing.assert_close(scaled.norm / scale, one.norm, rtol=1e-4, atol=0)


def test_a_product_that_is_not_finite_is_nan_and_spares_the_others():
    factor = torch.tensor([[1.0], [float("nan")], [float("inf")]])
    found = leading_singular(lambda x: factor * x, torch.zeros(3, 4))
    torch.testing.assert_close(found.norm, torch.tensor([1.0, float("nan"), float("nan")]), equal_nan=True)
    assert found.error[1:].isnan().all()


@pytest.mark.parametrize("seed", range(20))
def test_a_loose_tolerance_is_kept_on_slowly_falling_values(seed):
    s = 0.95 ** torch.arange(400, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    norm = jacobian_norm(lambda x: x * s, torch.zeros(1, 400).double(), tol=1e-2, generator=generator)
    assert 0.99 <= norm.item() <= 1 + 1e-12


def test_one_number_a_sample_and_an_empty_batch():
    x = torch.zeros(2, 9)
    torch.testing.assert_close(jacobian_norm(lambda x: x.sum(dim=1), x), torch.full((2,), 3.0))
    assert jacobian_norm(lambda x: 2 * x, x[:0]).shape == (0,)
    for wrong in (x[:, :0], x.half()):
        with pytest.raises(ValueError, match="x has shape"):
            jacobian_norm(lambda x: x, wrong)
