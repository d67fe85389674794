"""The split of the gap against the closed forms of a linear-Gaussian model."""

import pytest
import torch

from bnnkit.run.vae import gap
from bnnkit.run.vae.gap import split_gap


def value(node):
    return node["value"] if isinstance(node, dict) else node.value


@pytest.fixture(scope="module")
def found(linear):
    bench = linear.bench()
    x = bench.test(15)
    return bench, x, split_gap(bench, x, 1000, 0)


def test_every_bound_is_the_one_of_theory(linear, found):
    bench, x, body = found
    exact = float(linear.evidence(bench, x).mean())
    diagonal = float(linear.best_diagonal(bench, x).mean())
    with torch.no_grad():
        mean, log_sigma = (t.double() for t in bench.model.encode(x))
    encoder = torch.distributions.MultivariateNormal(mean, torch.diag_embed((2 * log_sigma).exp()))
    divergence = torch.distributions.kl_divergence(encoder, linear.posterior(bench, x))
    bounds = body["bounds"]
    assert list(bounds) == ["encoder", "diagonal", "full", "log_p"]
    assert value(bounds["log_p"]) == pytest.approx(exact, abs=0.01)
    assert value(bounds["full"]) == pytest.approx(exact, abs=0.15)  # draws of log p(x | z)
    assert value(bounds["diagonal"]) == pytest.approx(diagonal, abs=0.15)
    assert value(bounds["encoder"]) == pytest.approx(exact - float(divergence.mean()), abs=0.3)
    assert body["ess_median"] > 900


def test_the_parts_add_up(found):
    _, _, body = found
    bounds, parts = body["bounds"], body["parts"]
    assert list(parts) == ["amortisation", "family", "rest"]
    assert value(parts["family"]) >= 0
    total = sum(value(part) for part in parts.values())
    assert total == pytest.approx(value(bounds["log_p"]) - value(bounds["encoder"]), abs=1e-5)


def test_many_latents_get_no_full_covariance(linear, monkeypatch):
    monkeypatch.setattr(gap, "MOST_FULL", 2)
    bench = linear.bench()
    body = split_gap(bench, bench.test(4), 100, 0)
    assert list(body["bounds"]) == ["encoder", "diagonal", "log_p"]
    assert list(body["parts"]) == ["amortisation", "rest"]
    assert value(body["parts"]["rest"]) == pytest.approx(
        value(body["bounds"]["log_p"]) - value(body["bounds"]["diagonal"]), abs=1e-5
    )
