"""Noise of weights by local reparametrisation against dense covariances of the weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F

from bnnkit.layers import triangular_factor
from bnnkit.layers.bayesian_weights import (
    Blocks,
    DiagonalWeights,
    MatrixNormalDiagonalWeights,
    MatrixNormalWeights,
    apply_weight,
)

POSTERIORS = [DiagonalWeights, MatrixNormalWeights, MatrixNormalDiagonalWeights]
LAYERS = {
    "linear": (nn.Linear(4, 3), (4,)),
    "linear on sequences": (nn.Linear(3, 2, bias=False), (2, 3)),
    "conv1d": (nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 5)),
    "conv2d": (nn.Conv2d(2, 3, (3, 2), padding=1, dilation=(2, 1), bias=False), (2, 4, 3)),
    "circular": (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (2, 3, 3)),
    "conv3d": (nn.Conv3d(2, 2, 2), (2, 2, 2, 3)),
    "grouped": (nn.Conv2d(4, 6, 2, groups=2), (4, 2, 3)),
    "depthwise": (nn.Conv2d(3, 6, 2, groups=3, padding=1), (3, 2, 2)),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(kind, name="conv2d", spread=0.4):
    """A layer and its posterior, all parameters moved at random, in float64."""
    layer, shape = LAYERS[name]
    layer = layer.double()
    posterior = kind(layer, -1.0)
    source = generator(3)
    with torch.no_grad():
        for parameter in posterior.parameters():
            drawn = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
            parameter.add_(spread * drawn)
    posterior.clip(-20.0, 5.0)
    return layer, posterior, torch.randn(shape, generator=source, dtype=torch.float64)


def matrix(factor):
    """A of every group, `[g, n, n]`, by its definition."""
    n = factor.log_diagonal.shape[1]
    lower = torch.zeros(n, n).double() if factor.lower is None else factor.lower
    return factor.log_diagonal.exp()[:, :, None] * (torch.eye(n).double() + lower)


def kronecker(posterior):
    """Covariance of the weights of a matrix normal, in the order of the blocks."""
    a, b = matrix(posterior.inputs), matrix(posterior.outputs)
    scale = torch.diag_embed(torch.exp(2 * posterior.log_kernel))
    blocks = [
        torch.einsum("jk,il,pq->jipklq", v, u, s).reshape(v.shape[0] * u.shape[0] * len(s), -1)
        for u, v, s in zip(a @ a.mT, b @ b.mT, scale, strict=True)
    ]
    return torch.block_diag(*blocks)


def covariance(posterior):
    if isinstance(posterior, DiagonalWeights):
        return torch.diag(torch.exp(2 * posterior.log_sigma).flatten())
    dense = kronecker(posterior)
    if isinstance(posterior, MatrixNormalDiagonalWeights):
        dense = dense + covariance(posterior.diagonal)
    return dense


def exact(layer, posterior, x):
    """Covariance over the channels of the output at every position, `[positions, c, c]`."""

    def outputs(weight):
        return functional_call(layer, {"weight": weight}, x[None])[0]

    jacobian = jacrev(outputs)(layer.weight.detach()).flatten(-layer.weight.dim())
    if isinstance(layer, nn.Linear):
        jacobian = jacobian.reshape(-1, *jacobian.shape[-2:])  # positions first
    else:
        jacobian = jacobian.flatten(1, -2).transpose(0, 1)
    return jacobian @ covariance(posterior) @ jacobian.mT


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("kind", POSTERIORS)
@torch.no_grad()
def test_noise_has_the_mean_and_the_covariance_of_explicit_weights(kind, name):
    layer, posterior, x = make(kind, name)
    draws = 12_000
    noise = posterior.noise(layer, x.expand(draws, *x.shape), generator())
    assert noise.shape == layer(x.expand(draws, *x.shape)).shape
    flat = noise.flatten(1, -2) if isinstance(layer, nn.Linear) and x.dim() > 1 else noise
    if isinstance(layer, nn.Linear):
        by_position = flat.reshape(draws, -1, layer.out_features).transpose(0, 1)
    else:
        by_position = noise.flatten(2).permute(2, 0, 1)
    expected = exact(layer, posterior, x)
    deviation = expected.diagonal(dim1=-2, dim2=-1).sqrt()
    mean = by_position.mean(1)
    assert bool((mean.abs() <= 5 * deviation / draws**0.5 + 1e-12).all())
    got = by_position.mT @ by_position / draws
    error = deviation[:, :, None] * deviation[:, None, :] * (2 / draws) ** 0.5
    assert bool(((got - expected).abs() <= 5 * error + 1e-12).all())


@torch.no_grad()
def test_noise_agrees_with_sampled_weights():
    """W = M + A X Bᵀ, drawn explicitly, against the noise of outputs: the same second moments."""
    layer, posterior, x = make(MatrixNormalWeights, "linear")
    a, b = matrix(posterior.inputs)[0], matrix(posterior.outputs)[0]
    draws = 40_000
    noise = torch.randn(draws, 4, 3, generator=generator(), dtype=torch.float64)
    weights = layer.weight.mT + a @ noise @ b.mT
    explicit = torch.einsum("i,dij->dj", x, weights) + layer.bias
    local = layer(x) + posterior.noise(layer, x.expand(draws, -1), generator(1))
    torch.testing.assert_close(torch.cov(local.T), torch.cov(explicit.T), rtol=0.06, atol=0.01)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("kind", POSTERIORS)
@pytest.mark.parametrize("largest", [4096, 1])
@torch.no_grad()
def test_moments_and_forms_are_those_of_the_dense_covariance(kind, name, largest, monkeypatch):
    monkeypatch.setattr(triangular_factor, "LARGEST_FACTOR", largest)
    layer, posterior, _ = make(kind, name)
    dense, shape = covariance(posterior), posterior.blocks
    torch.testing.assert_close(posterior.variance().flatten(), dense.diagonal())
    log_det = float(torch.logdet(dense))
    bounded = kind is MatrixNormalDiagonalWeights
    if bounded:
        parts = [torch.logdet(kronecker(posterior)), posterior.diagonal.log_det()]
        assert max(map(float, parts)) <= float(posterior.log_det()) <= log_det + 1e-9
    else:
        assert float(posterior.log_det()) == pytest.approx(log_det)
    mu, precision = layer.weight.reshape(shape), dense.inverse()

    def form(mask):
        left = (mu * mask).flatten()
        return float(left @ precision @ left)

    forms = posterior.forms(mu)
    assert forms.rows.shape == (shape.groups, 1, shape.inputs, shape.kernel)
    assert forms.columns.shape == (shape.groups, shape.outputs, 1, 1)
    for values, axes in ((forms.rows, (0, 2, 3)), (forms.columns, (0, 1))):
        for at in torch.cartesian_prod(*[torch.arange(shape[axis]) for axis in axes]).tolist():
            mask = torch.zeros(shape, dtype=torch.float64)
            index = [slice(None)] * 4
            for axis, position in zip(axes, at, strict=True):
                index[axis] = position
            mask[tuple(index)] = 1
            got, want = float(values[tuple(index)].squeeze()), form(mask)
            assert got >= want - 1e-9
            if not bounded:
                assert got == pytest.approx(want)


@pytest.mark.parametrize("kind", POSTERIORS)
def test_every_weight_starts_with_the_given_deviation(kind):
    posterior = kind(nn.Conv2d(4, 6, 3, groups=2), -3.0)
    torch.testing.assert_close(
        posterior.variance(), torch.full(Blocks(2, 3, 2, 9), math.exp(-6.0))
    )


@pytest.mark.parametrize("log_sigma", [-20.0, 0.0, 5.0])
@pytest.mark.parametrize("name", ["linear", "grouped"])
@pytest.mark.parametrize("kind", POSTERIORS)
def test_gradients_are_finite_at_the_ends(kind, name, log_sigma):
    layer, shape = LAYERS[name]
    layer = layer.float()
    posterior = kind(layer, log_sigma)
    posterior.clip(-20.0, 5.0)
    for scale in (0.0, 1e-20, 1.0, 1e3):
        x = (scale * torch.randn(8, *shape, generator=generator())).requires_grad_()
        noise = posterior.noise(layer, x, generator(1))
        noise.square().mean().backward()
        for tensor in (noise, x.grad, *(p.grad for p in posterior.parameters())):
            assert bool(torch.isfinite(tensor).all())


@pytest.mark.parametrize("kind", POSTERIORS)
def test_gradients_are_finite_differences(kind):
    layer, posterior, x = make(kind, "grouped")
    names = [name for name, _ in posterior.named_parameters()]

    def second(x, *values):
        with torch.nn.utils.stateless._reparametrize_module(
            posterior, dict(zip(names, values, strict=True))
        ):
            return posterior.noise(layer, x, generator()).square().sum() + posterior.log_det()

    inputs = [
        x[None].requires_grad_(),
        *(p.detach().requires_grad_() for p in posterior.parameters()),
    ]
    assert torch.autograd.gradcheck(second, inputs)


@pytest.mark.parametrize("kind", POSTERIORS)
def test_noise_under_bf16_autocast_has_the_right_size(kind):
    layer, shape = LAYERS["conv2d"]
    layer = layer.float()
    posterior = kind(layer, -1.0)
    x = torch.randn(shape, generator=generator()).expand(4000, *shape)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rough = posterior.noise(layer, x, generator()).float()
    with torch.no_grad():
        fine = posterior.noise(layer, x, generator())
    assert bool(torch.isfinite(rough).all())
    torch.testing.assert_close(rough.std(0), fine.std(0), rtol=0.1, atol=1e-6)


@pytest.mark.parametrize("kind", POSTERIORS)
def test_clip_bounds_the_deviations(kind):
    posterior = kind(nn.Linear(3, 2), 0.0)
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.fill_(-90.0)
    posterior.clip(-20.0, 5.0)
    with torch.no_grad():
        assert bool(torch.isfinite(posterior.log_det()))
        assert float(posterior.variance().min()) >= math.exp(-40.001)


@pytest.mark.parametrize("kind", POSTERIORS[1:])
def test_factors_stay_triangular_through_training(kind):
    layer, shape = LAYERS["grouped"]
    layer = layer.float()
    posterior = kind(layer, -1.0)
    optimiser = torch.optim.Adam(posterior.parameters(), lr=0.1)
    for _ in range(3):
        x = torch.randn(4, *shape, generator=generator())
        (posterior.noise(layer, x, generator()).square().sum() - posterior.log_det()).backward()
        optimiser.step()
        posterior.clip(-20.0, 5.0)
    for factor in (posterior.inputs, posterior.outputs):
        assert bool((factor.lower.triu() == 0).all())
        assert bool((factor.lower.tril(-1) != 0).any())


def test_a_factor_over_too_many_channels_is_diagonal(monkeypatch):
    monkeypatch.setattr(triangular_factor, "LARGEST_FACTOR", 1)
    for name in ("linear", "grouped"):
        layer, posterior, x = make(MatrixNormalWeights, name)
        wide = [f for f in (posterior.inputs, posterior.outputs) if f.log_diagonal.shape[1] > 1]
        assert wide
        assert all(f.lower is None for f in wide)
        draws = 12_000
        with torch.no_grad():
            noise = posterior.noise(layer, x.expand(draws, *x.shape), generator())
            got = noise.flatten(1).var(0)
            expected = exact(layer, posterior, x).diagonal(dim1=-2, dim2=-1).mT.flatten()
        torch.testing.assert_close(got, expected, rtol=0.1, atol=0.0)


class Same(nn.Conv2d):
    """A convolution that pads in a forward of its own."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (2, 1, 1, 2)), self.weight, self.bias, self.stride)


def test_apply_weight_follows_the_layers_own_code_and_leaves_it_alone():
    layer = Same(2, 3, 4, stride=2)
    before = dict(layer.__dict__), layer.weight.clone(), layer.bias.clone()
    x, weight = torch.randn(2, 2, 5, 5), torch.randn(3, 2, 4, 4)
    got = apply_weight(layer, x, weight)
    torch.testing.assert_close(got, F.conv2d(F.pad(x, (2, 1, 1, 2)), weight, None, 2))
    assert layer.__dict__ == before[0]
    assert torch.equal(layer.weight, before[1])
    assert torch.equal(layer.bias, before[2])
