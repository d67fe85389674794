"""Fisher information against the variance of the score, by enumeration or draws."""

import pytest
import torch

from bnnkit.bayes.fisher import fisher_information
from bnnkit.bayes.likelihoods import LIKELIHOODS, log_likelihood

D, LATENT = 3, 2


def decoder(kind, seed):
    g = torch.Generator().manual_seed(seed)
    shapes = {"gaussian": [(D,), (D,)], "categorical256": [(D, 256)]}.get(kind, [(D,)])
    weights = [torch.randn(LATENT, *s, generator=g, dtype=torch.float64) for s in shapes]
    return lambda z: [torch.tensordot(z, w, 1) for w in weights], weights


def draws(kind, parameters, count, g):
    first = parameters[0].expand(count, *parameters[0].shape)
    if kind == "bernoulli":
        return torch.bernoulli(first.sigmoid(), generator=g)
    if kind == "gaussian":
        noise = torch.randn(count, D, generator=g, dtype=torch.float64)
        return first + parameters[1].exp() * noise
    if kind == "categorical256":
        flat = torch.multinomial(parameters[0].softmax(-1), count, True, generator=g)
        return flat.T
    uniform = torch.rand(count, D, generator=g, dtype=torch.float64)
    return torch.log1p(uniform * torch.expm1(first)) / first  # inverse of the distribution


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_information_is_the_covariance_of_the_score(kind):
    g = torch.Generator().manual_seed(1)
    decode, weights = decoder(kind, 3)
    z = torch.tensor([0.7, -0.4], dtype=torch.float64)
    count = 100_000
    x = draws(kind, decode(z), count, g)
    many = z.expand(count, LATENT).clone().requires_grad_()
    (score,) = torch.autograd.grad(log_likelihood(kind, x, decode(many)).sum(), many)
    parameters = [p.unsqueeze(0) for p in decode(z)]
    found = fisher_information(kind, parameters, [w.unsqueeze(1) for w in weights])[0]
    expected = score.T @ score / count
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0.03 * float(expected.max()))


def test_continuous_bernoulli_near_zero_meets_the_far_form():
    logits = torch.tensor([[1e-6, 0.2999, 0.3001]], dtype=torch.float64)
    tangents = torch.eye(3, dtype=torch.float64).unsqueeze(1)
    found = fisher_information("continuous-bernoulli", [logits], [tangents])[0].diagonal()
    assert float(found[0]) == pytest.approx(1 / 12)
    assert float(found[1]) == pytest.approx(float(found[2]), abs=1e-5)
