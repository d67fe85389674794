"""Autoencoders of which everything is known, for the commands that judge and refine them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from bnnkit.run.vae.setup import VaeBench, set_up_vae
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.vae import VaeSpec
from bnnkit.zoo import ZOO

SIGMA = 0.1
FACTORY = """
import torch
from torch import nn


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        source = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(0.1 * torch.randn(3, 12, generator=source))
        self.shift = nn.Parameter(torch.full((12,), 0.5))
        precision = torch.eye(3) + self.weight @ self.weight.T / 0.01
        exact = torch.linalg.solve(precision, self.weight / 0.01).T
        self.read = nn.Parameter((0.8 * exact).detach())

    def encode(self, x):
        h = (x.flatten(1) - 0.5) @ self.read
        return h, -1.5 + 0.3 * torch.tanh(h)

    def decode(self, z):
        return z @ self.weight + self.shift


def build():
    return Linear()


def log_prior(z):
    return -0.5 * (z.square() / 4 + torch.log(torch.tensor(8 * torch.pi))).sum(-1)
"""


@dataclass(frozen=True)
class LinearCase:
    """x = W z + b + 0.1 e with z ~ N(0, I), of 3 latents and 12 pixels, behind a factory file."""

    spec: VaeSpec
    data: DataSpec
    folder: Path

    def bench(self) -> VaeBench:
        return set_up_vae(self.spec, self.data)

    def evidence(self, bench: VaeBench, x: Tensor) -> Tensor:
        """Return log p(x) `[n]`, float64."""
        weight, shift = (p.detach().double() for p in (bench.auto.module.weight,
                                                       bench.auto.module.shift))  # fmt: skip
        spread = weight.T @ weight + SIGMA**2 * torch.eye(12, dtype=torch.float64)
        return MultivariateNormal(shift, spread).log_prob(x.double())

    def precision(self, bench: VaeBench) -> Tensor:
        """Return that of every posterior `[3, 3]`, float64."""
        weight = bench.auto.module.weight.detach().double()
        return torch.eye(3, dtype=torch.float64) + weight @ weight.T / SIGMA**2

    def posterior(self, bench: VaeBench, x: Tensor) -> MultivariateNormal:
        """Return p(z | x)."""
        weight, shift = (p.detach().double() for p in (bench.auto.module.weight,
                                                       bench.auto.module.shift))  # fmt: skip
        precision = self.precision(bench)
        seen = (x.double() - shift) @ weight.T / SIGMA**2
        mean = torch.linalg.solve(precision, seen.T).T
        return MultivariateNormal(mean, precision_matrix=precision)

    def best_diagonal(self, bench: VaeBench, x: Tensor) -> Tensor:
        """Return the largest bound of any N(m, diag) `[n]`: variances are 1 / P_ii."""
        precision = self.precision(bench)
        loss = precision.diagonal().log().sum() - torch.logdet(precision)
        return self.evidence(bench, x) - 0.5 * loss


def _linear_images(n: int, seed: int) -> np.ndarray:
    """Draw images of the model, cut to [0, 1]."""
    source = torch.Generator().manual_seed(5)
    weight = 0.1 * torch.randn(3, 12, generator=source)
    source = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 3, generator=source)
    x = 0.5 + z @ weight + SIGMA * torch.randn(n, 12, generator=source)
    return x.clamp(0, 1).reshape(n, 1, 3, 4).numpy()


@pytest.fixture(scope="session")
def linear(tmp_path_factory) -> LinearCase:
    """A linear-Gaussian decoder, of which log p(x) is known in closed form."""
    folder = tmp_path_factory.mktemp("linear")
    (folder / "linear.py").write_text(FACTORY, encoding="utf-8")
    np.savez(folder / "x.npz", images=_linear_images(150, 1))
    source = np.random.Generator(np.random.PCG64(0))
    white = 1 - 0.02 * source.random((60, 1, 3, 4)).astype(np.float32)
    np.savez(folder / "white.npz", images=white)
    spec = VaeSpec(
        ModelSpec(arch=f"{folder / 'linear.py'}:build"), likelihood="gaussian",
        decoder_sigma=SIGMA, variance_is="logvar",
    )  # fmt: skip
    return LinearCase(spec, DataSpec(str(folder / "x.npz")), folder)


@pytest.fixture(scope="session")
def example_vae(tmp_path_factory) -> Path:
    """A file of the public layout with random weights: 8 x 8 digits, 3 latents."""
    path = tmp_path_factory.mktemp("example") / "vae.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ZOO["vae-mnist"](latent=3, hidden=16, in_features=64)
        with torch.no_grad():
            net.fc3.weight *= 3  # its latents should matter
            net.fc4.weight *= 3
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def quadrature():
    """Return a function: log p(x) `[n]` of a Bernoulli decoder of 3 latents, on a grid."""

    def log_p(bench: VaeBench, x: Tensor, points: int = 49, reach: float = 6.0) -> Tensor:
        axis = torch.linspace(-reach, reach, points)
        z = torch.cartesian_prod(axis, axis, axis)
        step = 2 * reach / (points - 1)
        log_prior = -0.5 * z.double().square().sum(1) - 1.5 * math.log(2 * math.pi)
        with torch.no_grad():
            logits = torch.cat([bench.auto.decode(part)[0] for part in z.split(8192)]).double()
        on = torch.nn.functional.logsigmoid(logits)
        off = torch.nn.functional.logsigmoid(-logits)
        x = x.double()
        joint = x @ on.T + (1 - x) @ off.T + log_prior
        return joint.logsumexp(1) + 3 * math.log(step)

    return log_p
