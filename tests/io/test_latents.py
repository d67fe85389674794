"""Latents: the named laws against their own, and samplers in the user's code."""

import pytest
import torch
from scipy import stats

from bnnkit.errors import UsageError
from bnnkit.io.latents import open_latent
from bnnkit.spec.generator import LatentSpec, parse_latent


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("normal", stats.norm()),
        ("uniform", stats.uniform(-1, 2)),
        ("unit", stats.uniform(0, 1)),
    ],
)
def test_named_distributions_follow_their_law(name, law):
    latent = open_latent(LatentSpec(name, (5, 1)))
    z = latent.draw(4000, torch.Generator().manual_seed(0))
    assert z.shape == (4000, 5, 1)
    assert z.dtype == torch.float32
    assert stats.kstest(z.flatten().numpy(), law.cdf).pvalue > 1e-3
    assert torch.corrcoef(z[:, :, 0].T).sub(torch.eye(5)).abs().max() < 0.08
    assert torch.equal(z, latent.draw(4000, torch.Generator().manual_seed(0)))


def factory(tmp_path, body):
    path = tmp_path / "prior.py"
    path.write_text(f"import torch\ndef sampler(n, generator):\n    {body}\n")
    return parse_latent(f"{path}:sampler")


def test_a_sampler_tells_its_shape(tmp_path):
    latent = open_latent(factory(tmp_path, "return torch.rand(n, 3, 2, generator=generator) + 5"))
    assert latent.spec.shape == (3, 2)
    z = latent.draw(7, torch.Generator().manual_seed(1))
    expected = torch.rand(7, 3, 2, generator=torch.Generator().manual_seed(1)) + 5
    torch.testing.assert_close(z, expected)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return torch.randn(n, 3)", "other latents from the same seed"),
        ("return torch.zeros(n, 3)", "8 equal latents"),
        ("return torch.zeros(n, 3, dtype=torch.int64)", "a tensor of torch.int64"),
        ("return [0] * n", "a list"),
        ("return torch.randn(n, generator=generator)", "latents of shape [8]"),
        ("return torch.randn(5, 3, generator=generator)", "latents of shape [5, 3]"),
        ("return torch.randn(n, 3, generator=generator) / 0", "not finite"),
        ("raise ValueError('no')", "prior.py:3: ValueError: no"),
    ],
)
def test_what_is_no_sampler_is_told_in_words(tmp_path, body, message):
    with pytest.raises(UsageError) as caught:
        open_latent(factory(tmp_path, body))
    assert message in caught.value.found
    assert "Drawing latents from" in caught.value.what


def test_a_sampler_that_is_not_there(tmp_path):
    spec = factory(tmp_path, "return 1")
    with pytest.raises(UsageError, match="Did you mean 'sampler'"):
        open_latent(LatentSpec("factory", source=spec.source.replace(":sampler", ":samplr")))
    with pytest.raises(UsageError, match="no file"):
        open_latent(LatentSpec("factory", source=f"{tmp_path}/none.py:sampler"))


def test_a_module_that_is_not_there_is_no_matter_of_architectures():
    with pytest.raises(UsageError) as caught:
        open_latent(parse_latent("nowhere.prior:sampler"))
    assert caught.value.found == "no module 'nowhere'"
    assert caught.value.hint.startswith("Let it be sampler(n, generator)")


def test_a_sampler_may_not_change_its_mind(tmp_path):
    body = "return torch.randn(n, 3 if n == 8 else 4, generator=generator)"
    latent = open_latent(factory(tmp_path, body))
    with pytest.raises(UsageError, match=r"\[9, 4\]"):
        latent.draw(9, torch.Generator())
