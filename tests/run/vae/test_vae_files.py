"""Refined posteriors as a file: every family comes back as it was, those that fell back too."""

import json

import pytest
import torch
from safetensors import safe_open

from bnnkit.bayes.posteriors import Diagonal
from bnnkit.methods.vae.families import fall_back, start
from bnnkit.methods.vae.refine import Refined
from bnnkit.run.vae.files import read_refined, write_refined
from bnnkit.run.vae.setup import set_up_vae
from bnnkit.spec import DataSpec, ModelSpec
from bnnkit.spec.vae import VaeSpec
from bnnkit.zoo import ZOO

N, LATENT = 6, 4


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "vae.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ZOO["vae-mnist"](latent=LATENT, hidden=9, in_features=64)
    torch.save(net.state_dict(), path)
    return set_up_vae(VaeSpec(ModelSpec(str(path))), DataSpec("digits"))


def some(bench, family):
    """Return data, and posteriors of a family that some of them fell back from."""
    source = torch.Generator().manual_seed(0)
    x = bench.test(N)
    with torch.no_grad():
        encoder = Diagonal(*bench.model.encode(x))
    q = start(family, encoder)
    moved = [t + 0.1 * torch.randn(t.shape, generator=source) for t in q.parameters()]
    improved = torch.tensor([True, False, True, True, False, True])
    zeros = torch.zeros(N)
    refined = Refined(
        fall_back(q.replace(moved), encoder, improved), encoder, zeros, zeros + 1, zeros, zeros,
        zeros, zeros, improved, torch.zeros(N, 2), 0.0, 0.0,
    )  # fmt: skip
    return x, refined


@pytest.mark.parametrize("family", ["diag", "full", "mn:2x2", "flow"])
def test_densities_come_back(bench, family, tmp_path):
    x, refined = some(bench, family)
    path = write_refined(tmp_path, refined, family, bench, x)
    z = torch.randn(3, N, LATENT, generator=torch.Generator().manual_seed(1))
    for place, n in ((tmp_path, N), (path, N), (path, 2)):
        q = read_refined(place, bench, x[:n], refined.amortised.rows(slice(0, n)))
        assert len(q) == n
        expected = refined.posterior.log_prob(z)[:, :n]
        torch.testing.assert_close(q.log_prob(z[:, :n]), expected)
        kept = ~refined.improved[:n]
        encoder = refined.amortised.log_prob(z)[:, :n]
        torch.testing.assert_close(q.log_prob(z[:, :n])[:, kept], encoder[:, kept])


def test_the_file_says_what_it_holds(bench, tmp_path):
    x, refined = some(bench, "full")
    path = write_refined(tmp_path, refined, "full", bench, x)
    assert path == tmp_path / "refined.safetensors"
    with safe_open(path, "pt") as found:
        stated = json.loads(found.metadata()["bnnkit.refined"])
        names = set(found.keys())
        joint = found.get_tensor("log_joint")
    assert stated == {
        "family": "full", "data": bench.data.fingerprint, "binarise": "bernoulli",
        "likelihood": "bernoulli", "latent": LATENT,
    }  # fmt: skip
    assert names == {
        "q.mean", "q.lower", "q.log_diagonal", "improved", "elbo_before", "elbo_after",
        "encoder_mean", "encoder_log_sigma", "log_joint",
    }  # fmt: skip
    mean = refined.amortised.mean
    logits = bench.auto.decode(mean)[0]
    likelihood = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(1)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(mean).sum(1)
    torch.testing.assert_close(joint, (likelihood + prior).detach())
