"""Gauss-Legendre rules against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bnnkit.bayes.quadrature import gauss_legendre, truncated_normal_nodes


@pytest.mark.parametrize("order", [2, 5, 32, 64])
def test_the_rule_equals_numpys(order):
    nodes, weights = gauss_legendre(order)
    want_nodes, want_weights = np.polynomial.legendre.leggauss(order)
    np.testing.assert_allclose(nodes.numpy(), (want_nodes + 1) / 2, atol=1e-14)
    np.testing.assert_allclose(weights.numpy(), want_weights / 2, atol=1e-14)


def test_nodes_stay_in_the_interval_and_cover_the_mass():
    mu = torch.tensor([-25.0, -20.0, -3.0, 0.0, 5.0], dtype=torch.float64)
    for sigma in (1e-9, 0.1, 2.0, 150.0):
        nodes = truncated_normal_nodes(mu, torch.full_like(mu, sigma), -20.0, 0.0, tilt=2.0)
        x = nodes.anchor + nodes.offset
        assert (x >= -20).all()
        assert (x <= 0).all()
        assert (nodes.span > 0).all()
