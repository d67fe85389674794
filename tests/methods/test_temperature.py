"""Temperature scaling against a scalar optimiser of scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from bnnkit.errors import DataError
from bnnkit.methods.temperature import PRIOR_DEVIATION, fit_temperature, tempered


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(seed, n, k, true=1.0):
    """Return logits and labels drawn from their softmax at a temperature."""
    g = source(seed)
    logits = 3 * torch.randn(n, k, generator=g, dtype=torch.float64)
    labels = torch.multinomial((logits / true).softmax(1), 1, generator=g)[:, 0]
    return logits, labels


def nll(temperature, logits, labels):
    rows = log_softmax(logits.numpy() / temperature, axis=1)
    return -rows[np.arange(len(labels)), labels.numpy()].mean()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n", "k"), [(40, 2), (60, 5), (300, 10)])
def test_against_scipy(seed, n, k):
    logits, labels = problem(seed, n, k, true=0.4 + 0.5 * seed)

    def minus_log_posterior(t):
        return n * nll(np.exp(t), logits, labels) + t**2 / (2 * PRIOR_DEVIATION**2)

    best = minimize_scalar(
        minus_log_posterior, bounds=(-4, 4), method="bounded", options={"xatol": 1e-10}
    )
    found = np.log(fit_temperature(logits, labels))
    assert found == pytest.approx(best.x, abs=1e-5)
    assert minus_log_posterior(found) <= best.fun + 1e-10


@pytest.mark.parametrize("true", [0.3, 1.0, 2.5])
def test_a_known_temperature_is_found(true):
    assert fit_temperature(*problem(7, 40_000, 10, true)) == pytest.approx(true, rel=0.03)


def test_the_normalisation_of_the_logits_does_not_matter():
    logits, labels = problem(0, 200, 4, 1.7)
    shifted = logits + torch.linspace(-500, 500, 200)[:, None]
    expected = fit_temperature(logits, labels)
    assert fit_temperature(logits.log_softmax(1), labels) == pytest.approx(expected, rel=1e-9)
    assert fit_temperature(shifted, labels) == pytest.approx(expected, rel=1e-9)
    assert fit_temperature(logits.float(), labels) == pytest.approx(expected, rel=1e-5)


def test_probabilities_of_zero_are_no_fault():
    logits, labels = problem(0, 200, 4)
    with_zeros = torch.cat([logits, torch.full((200, 1), -torch.inf)], 1)
    expected = fit_temperature(logits, labels)
    assert fit_temperature(with_zeros, labels) == pytest.approx(expected, rel=1e-9)


def test_many_labels_outweigh_the_prior():
    logits, labels = problem(0, 20_000, 10, 1.7)
    tripled = fit_temperature(3 * logits, labels)
    assert tripled == pytest.approx(3 * fit_temperature(logits, labels), rel=5e-3)


def test_labels_that_are_all_right_do_not_end_in_certainty():
    logits, _ = problem(0, 50, 4)
    sharp = fit_temperature(logits, logits.argmax(1))
    assert 0.05 < sharp < 1  # the likelihood alone has its maximum at zero
    assert 1 < fit_temperature(logits, logits.argmin(1)) < 100


def test_no_examples_are_refused():
    with pytest.raises(DataError, match="no examples"):
        fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
def test_tempered_keeps_the_order_and_sums_to_one(temperature):
    logits, _ = problem(1, 100, 6)
    out = tempered(logits.log_softmax(1), temperature)
    np.testing.assert_allclose(out, log_softmax(logits.numpy() / temperature, axis=1), atol=1e-12)
    assert out.argsort(1).equal(logits.argsort(1))
    np.testing.assert_allclose(out.exp().sum(1), np.ones(100))


def test_a_higher_temperature_is_less_certain():
    logits, _ = problem(2, 100, 6)
    entropy = [-(p.exp() * p).sum(1) for p in (tempered(logits, t) for t in (0.5, 1.0, 2.0))]
    assert (entropy[0] < entropy[1]).all()
    assert (entropy[1] < entropy[2]).all()
