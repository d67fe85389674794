"""Mean and spread are found by their names, or by the bound; never by an order that misleads."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnnkit.errors import StructureError, UsageError
from bnnkit.io.autoencoder_answers import read_answer, role_of
from bnnkit.io.autoencoder_checks import check_autoencoder
from bnnkit.io.autoencoders import open_autoencoder
from bnnkit.spec import ModelSpec
from bnnkit.spec.vae import VaeSpec

SHAPE = (1, 4, 6)

NETS = '''
from collections import namedtuple
from dataclasses import dataclass

import torch
from torch import nn

Swapped = namedtuple("Swapped", "log_var mean")


@dataclass
class Fields:
    kl: float
    z_logvar: torch.Tensor
    z_mean: torch.Tensor


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(24, 16)
        self.mean = nn.Linear(16, 2)
        self.spread = nn.Linear(16, 2)
        self.out = nn.Linear(2, 24)

    def hidden(self, x):
        return torch.tanh(self.trunk(x.flatten(1)))

    def both(self, x):
        h = self.hidden(x)
        return self.mean(h), self.spread(h)

    def encode(self, x):
        return self.both(x)

    def decode(self, z):
        return torch.sigmoid(self.out(z))


class Order(Plain):
    """The spread comes first."""

    def encode(self, x):
        return self.both(x)[::-1]


class SampleOfEval(Plain):
    """Draws while training only; else the latent is the mean."""

    def encode(self, x):
        mean, spread = self.both(x)
        z = mean + torch.randn_like(mean) * (spread / 2).exp() if self.training else mean
        return z, mean, spread


class SampleBetween(SampleOfEval):
    def encode(self, x):
        z, mean, spread = super().encode(x)
        return mean, z, spread


class Narrow(Plain):
    """Features as wide as the latents come first."""

    def encode(self, x):
        mean, spread = self.both(x)
        return torch.relu(mean), mean, spread


class Features(Plain):
    """Wider features, which the decoder does not read, come first."""

    def encode(self, x):
        return (self.hidden(x), self.hidden(x) + 1, *self.both(x))


class Keys(Plain):
    def encode(self, x):
        mean, spread = self.both(x)
        return {"h": self.hidden(x), "logvar": spread, "mu": mean, "kl": None}


class Fielded(Plain):
    def encode(self, x):
        mean, spread = self.both(x)
        return Fields(0.5, spread, mean)


class Tuple(Plain):
    def encode(self, x):
        mean, spread = self.both(x)
        return Swapped(spread, mean)


class OneKey(Plain):
    """Only the spread has a telling name, and an equal latent stands beside the mean."""

    def encode(self, x):
        mean, spread = self.both(x)
        return {"log_covariance": spread, "embedding": mean, "sample": mean}


class Deviation(Plain):
    def encode(self, x):
        mean, spread = self.both(x)
        return {"std": (spread / 2).exp(), "loc": mean}


class Misnamed(Plain):
    """`var` is a log variance."""

    def encode(self, x):
        mean, spread = self.both(x)
        return {"var": spread, "mu": mean}


class Drawn(Plain):
    def encode(self, x):
        mean, spread = self.both(x)
        return {"mu": mean + torch.randn_like(mean), "logvar": spread, "h": mean}


class Twice(Plain):
    def encode(self, x):
        return self.both(x)[0], self.both(x)[0]


class GaussianKeys(Plain):
    def decode(self, z):
        mean = super().decode(z)
        return {"features": z, "log_sigma": mean / 2 - 2, "mean": mean}
'''


def toy(n, seed):
    """Return images whose pixels follow from two factors."""
    source = torch.Generator().manual_seed(seed)
    pattern = 3 * torch.randn(2, 24, generator=torch.Generator().manual_seed(5))
    p = torch.sigmoid(torch.randn(n, 2, generator=source) @ pattern)
    return (torch.rand(n, 24, generator=source) < p).float()


def trained(path):
    """Train the plain net by its evidence bound, written out here, and store its weights."""
    source = torch.Generator().manual_seed(0)
    layers = {
        "trunk": nn.Linear(24, 16), "mean": nn.Linear(16, 2), "spread": nn.Linear(16, 2),
        "out": nn.Linear(2, 24),
    }  # fmt: skip
    net, x = nn.ModuleDict(layers), toy(512, 1)
    for p in net.parameters():
        nn.init.normal_(p, std=0.2, generator=source)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(400):
        h = torch.tanh(net["trunk"](x))
        mean, spread = net["mean"](h), net["spread"](h)
        z = mean + (spread / 2).exp() * torch.randn(mean.shape, generator=source)
        loss = F.binary_cross_entropy_with_logits(net["out"](z), x, reduction="none").sum(1)
        kl = 0.5 * (mean.square() + spread.exp() - spread - 1).sum(1)
        optimiser.zero_grad()
        (loss + kl).mean().backward()
        optimiser.step()
    torch.save(net.state_dict(), path)
    return net


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the nets above and trained weights; what is trusted stays in it."""
    place = tmp_path_factory.mktemp("outputs")
    (place / "nets.py").write_text(NETS)
    trained(place / "vae.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(place))
        yield place


def opened(folder, name, *, file=True, **options):
    path = str(folder / "vae.pt") if file else None
    model = ModelSpec(path, arch=f"{folder / 'nets.py'}:{name}")
    return open_autoencoder(VaeSpec(model, **{"binarise": "threshold", **options}), shape=SHAPE)


def checked(folder, name, **options):
    return check_autoencoder(opened(folder, name, **options), toy(16, 2).reshape(16, *SHAPE))


def weights(folder):
    """Return mean and log sigma of the trained net, from its weights alone."""
    w = torch.load(folder / "vae.pt")
    h = torch.tanh(F.linear(toy(5, 3), w["trunk.weight"], w["trunk.bias"]))
    mean = F.linear(h, w["mean.weight"], w["mean.bias"])
    return mean, F.linear(h, w["spread.weight"], w["spread.bias"]) / 2


@pytest.mark.parametrize(
    "name",
    ["Plain", "Order", "SampleOfEval", "SampleBetween", "Narrow", "Features", "Keys", "Tuple",
     "Fielded", "OneKey", "Deviation", "Misnamed"],
)  # fmt: skip
def test_the_right_outputs_are_found(folder, name):
    auto = checked(folder, name)
    torch.testing.assert_close(auto.encode(toy(5, 3)), weights(folder))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("Keys", "logvar"), ("Tuple", "logvar"), ("Deviation", "sigma"), ("Plain", None),
     ("Misnamed", None)],
)  # fmt: skip
def test_a_name_settles_how_the_spread_is_read(folder, name, kind):
    auto = opened(folder, name)
    assert auto.encoder.kind == kind
    assert auto.assumed == (() if kind else ("variance_is",))
    assert any("by its name" in note for note in auto.notes) == (kind is not None)
    stated = opened(folder, name, variance_is="logsigma")
    assert (stated.encoder.kind, stated.spec.variance_is) == ("logsigma", "logsigma")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Plain", "the first is the mean and the second the spread"),
        ("SampleOfEval", "the first is the mean and the third the spread; the second is not used"),
        ("Order", "The second output of its encoder is read as the mean and the first as the"),
        ("Narrow", "The second output of its encoder is read as the mean and the third as the"),
        ("Features", "the third is the mean and the fourth the spread; the others are not used"),
        ("Keys", "'mu' is the mean and 'logvar' the spread; 'h' is not used"),
        ("Misnamed", "'var' goes down to"),
    ],
)
def test_a_note_says_which_they_are(folder, name, words):
    assert any(words in note for note in checked(folder, name).notes)


def test_the_bound_of_the_note_is_that_of_the_net(folder):
    """By 4000 draws of our own, from the weights."""
    w, x = torch.load(folder / "vae.pt"), toy(16, 2)
    h = torch.tanh(F.linear(x, w["trunk.weight"], w["trunk.bias"]))
    mean = F.linear(h, w["mean.weight"], w["mean.bias"])
    spread = F.linear(h, w["spread.weight"], w["spread.bias"])
    noise = torch.randn(4000, *mean.shape, generator=torch.Generator().manual_seed(4))
    logits = F.linear(mean + (spread / 2).exp() * noise, w["out.weight"], w["out.bias"])
    log_x = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
    kl = 0.5 * (mean.square() + spread.exp() - spread - 1).sum(1)
    expected = float((log_x.sum(-1).mean(0) - kl).mean())
    (note,) = (note for note in checked(folder, "Order").notes if "the best bound" in note)
    told = float(note.partition("best bound: ")[2].partition(" nats")[0])
    assert math.isclose(told, expected, abs_tol=0.6)  # eight draws each of sixteen data


def test_fresh_weights_tell_nothing(folder):
    auto = opened(folder, "Order", file=False)
    assert (auto.encoder.places, auto.encoder.rivals) == ((0, 1), ())
    assert opened(folder, "Narrow", file=False).encoder.places == (0, 1)


def test_what_the_bound_does_not_tell_is_refused(folder, tmp_path):
    """A decoder that ignores its latents is as well off with any of them."""
    state = torch.load(folder / "vae.pt")
    for name in ("out.weight", "mean.weight", "spread.weight"):
        state[name] = state[name] * 1e-3
    torch.save(state, tmp_path / "vae.pt")
    model = ModelSpec(str(tmp_path / "vae.pt"), arch=f"{folder / 'nets.py'}:Narrow")
    auto = open_autoencoder(VaeSpec(model, binarise="threshold"), shape=SHAPE)
    with pytest.raises(StructureError) as caught:
        check_autoencoder(auto, toy(16, 2).reshape(16, *SHAPE))
    for words in ("does not tell which", "keys mu and logvar"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("Drawn", UsageError, "other outputs for the same images"),
        ("Twice", StructureError, "2 outputs, all of them equal"),
    ],
)
def test_outputs_without_mean_and_spread_are_refused(folder, name, error, words):
    with pytest.raises(error, match=words):
        opened(folder, name)


def test_a_decoder_is_read_by_its_names(folder):
    auto = opened(folder, "GaussianKeys", likelihood="gaussian", binarise=None)
    w, z = torch.load(folder / "vae.pt"), torch.randn(5, 2)
    mean = torch.sigmoid(F.linear(z, w["out.weight"], w["out.bias"]))
    torch.testing.assert_close(auto.decode(z), (mean, mean / 2 - 2))
    assert any("'log_sigma' is read as logsigma" in note for note in auto.notes)


@pytest.mark.parametrize(
    ("names", "role"),
    [
        (("mu", "Mean", "loc", "z_mean", "qz_loc", "latentMu", "zmean"), "mean"),
        (("logvar", "log_var", "lnvar", "z_log_var", "logVar", "log_sigma2"), "logvar"),
        (("log_std", "log_scale", "logsigma"), "logsigma"),
        (("std", "scale", "sigma", "posterior_std"), "sigma"),
        (("var", "variance"), "sigma2"),
        (("h", "", "prior_mean", "mu_prior", "embedding", "mu1", "logits"), None),
    ],
)
def test_names(names, role):
    assert {role_of(name) for name in names} == {role}


def test_an_answer_without_tensors_is_refused():
    for out in (None, 3, (), (torch.zeros(2), 3), {"a": 1}):
        with pytest.raises(StructureError, match="must be a tensor"):
            read_answer(out, "encoder")
