"""The reading of an encoder's spread: where q is the exact posterior, its bound is log p(x)."""

import numpy as np
import pytest
import torch
from scipy import stats

from bnnkit.io.autoencoders import open_autoencoder
from bnnkit.run.vae.readings import bounds_of_readings, settle_spread
from bnnkit.spec import ModelSpec
from bnnkit.spec.vae import SPREADS, VaeSpec

SHAPE, SIGMA = (1, 3, 4), 0.5

# A linear Gaussian model x = W z + noise with orthogonal columns, whose posterior is diagonal.
LINEAR = """
import torch
from torch import nn

SIGMA = 0.5


class Linear(nn.Module):
    def __init__(self, kind="logvar", beta=1.0, scale=1.0):
        super().__init__()
        w = torch.linalg.qr(torch.randn(12, 3, generator=torch.Generator().manual_seed(0)))[0]
        self.kind, self.spread = kind, SIGMA**2 * beta
        self.w = nn.Parameter(w * torch.tensor([2.0, 1.0, 0.5]) * scale)

    def encode(self, x):
        precision = 1 + self.w.square().sum(0) / self.spread
        mean = x @ self.w / self.spread / precision
        variance = (1 / precision).expand_as(mean)
        return mean, {"sigma": variance.sqrt(), "sigma2": variance,
                      "logvar": variance.log(), "logsigma": variance.log() / 2}[self.kind]

    def decode(self, z):
        return z @ self.w.T
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the model above."""
    place = tmp_path_factory.mktemp("readings")
    (place / "linear.py").write_text(LINEAR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(place))
        yield place


def opened(folder, kind, args=None, **options):
    args = {"kind": kind, **(args or {})}
    model = ModelSpec(arch=f"{folder / 'linear.py'}:Linear", arch_args=args)
    return open_autoencoder(VaeSpec(model, decoder_sigma=SIGMA, **options), shape=SHAPE)


def data(auto, n=16):
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(n, 12, generator=torch.Generator().manual_seed(2))
    return (auto.decode(z)[0] + SIGMA * noise).detach()


@pytest.mark.parametrize("kind", SPREADS)
def test_the_right_reading_gives_log_p(folder, kind):
    auto = opened(folder, kind)
    x = data(auto)
    w = auto.module.w.detach().double().numpy()
    law = stats.multivariate_normal(np.zeros(12), w @ w.T + SIGMA**2 * np.eye(12))
    bounds = bounds_of_readings(auto, x)
    torch.testing.assert_close(
        bounds[kind], torch.from_numpy(law.logpdf(x.numpy())), atol=1e-3, rtol=0
    )
    assert all(float(other.mean()) <= float(bounds[kind].mean()) for other in bounds.values())


@pytest.mark.parametrize("kind", SPREADS)
def test_it_is_chosen_where_nobody_stated_one(folder, kind):
    auto = settle_spread(opened(folder, kind), data(opened(folder, kind), 200))
    assert auto.spec.variance_is == kind
    assert any(f"read as {kind}" in note for note in auto.notes) == (kind != "logvar")
    said = [note for note in auto.notes if "--variance-is" in note]
    assert len(said) == 1


def test_what_was_stated_stays_with_a_note(folder):
    auto = opened(folder, "logsigma", variance_is="logvar")
    settled = settle_spread(auto, data(auto, 200))
    assert settled.spec.variance_is == "logvar"
    assert any("Read as logsigma" in note for note in settled.notes)
    agreed = opened(folder, "sigma2", variance_is="sigma2")
    assert settle_spread(agreed, data(agreed)) is agreed


def test_an_encoder_that_was_not_trained_for_the_bound_is_not_read_otherwise_for_it(folder):
    """At β = 4 deviations are too wide for the bound, and half of them better: by little."""
    auto = opened(folder, "logvar", {"beta": 4.0, "scale": 0.4})
    x = data(auto, 400)
    bounds = bounds_of_readings(auto, x)
    assert float((bounds["logsigma"] - bounds["logvar"]).mean()) > 0
    settled = settle_spread(auto, x)
    assert settled.spec.variance_is == "logvar"
    assert any("Read as logsigma" in note for note in settled.notes)
