"""Sixteen images tell an autoencoder whose figures would not be true, and say why."""

import pytest
import torch
from torch import nn

from bnnkit.errors import DataError, StructureError, UsageError
from bnnkit.io.autoencoder_checks import check_autoencoder
from bnnkit.io.autoencoders import open_autoencoder
from bnnkit.spec import ModelSpec
from bnnkit.spec.vae import VaeSpec

SHAPE = (1, 4, 6)

NETS = '''
import torch
from torch import nn


class Sound(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.trunk = nn.Linear(24, 8)
        self.mean = nn.Linear(8, 2)
        self.spread = nn.Linear(8, 2)
        self.out = nn.Linear(2, 24)
        self.fixed = nn.Parameter(torch.tensor([-1.0, -2.0]))
        self.loose = nn.BatchNorm1d(8, track_running_stats=False)

    def encode(self, x):
        h = torch.relu(self.trunk(x))
        return self.mean(h), self.spread(h)

    def decode(self, z):
        return torch.sigmoid(self.out(z))


class Tracked(Sound):
    """Batch norm with running statistics treats rows alone."""

    def __init__(self):
        super().__init__()
        self.loose = nn.BatchNorm1d(8)

    def encode(self, x):
        h = self.loose(self.trunk(x))
        return self.mean(h), self.spread(h)


class Parameter(Sound):
    def encode(self, x):
        mean, _ = super().encode(x)
        return mean, self.fixed.expand_as(mean)


class Unnamed(Sound):
    def encode(self, x):
        mean, _ = super().encode(x)
        return mean, torch.full_like(mean, -0.75)


class Blind(Sound):
    def encode(self, x):
        mean, spread = super().encode(x)
        return mean * 0 + 1, spread


class MixedEncoder(Sound):
    def encode(self, x):
        h = self.loose(self.trunk(x))
        return self.mean(h), self.spread(h)


class MixedDecoder(Sound):
    def decode(self, z):
        return torch.sigmoid(self.out(z - z.mean(0)))


class Ordered(Sound):
    """Looks at the first of the batch."""

    def decode(self, z):
        return torch.sigmoid(self.out(z + 0.1 * z[:1]))


class Noisy(Sound):
    def decode(self, z):
        return torch.sigmoid(self.out(z) + 0.1 * torch.randn(len(z), 24))


class Pairs(Sound):
    """Does not run on one alone."""

    def decode(self, z):
        if len(z) < 2:
            raise ValueError("two or more, please")
        return super().decode(z)


class Positive(Sound):
    def encode(self, x):
        mean, spread = super().encode(x)
        return mean, nn.functional.softplus(spread)


class Huge(Sound):
    def encode(self, x):
        mean, spread = super().encode(x)
        return mean, spread + 80


class Hollow(Sound):
    def encode(self, x):
        mean, spread = super().encode(x)
        return mean, spread / (x.sum(1, keepdim=True) < 100).logical_not()


class Rounding(Sound):
    """Ends in a clamp, and rounds otherwise in other batches, as float32 does near 0."""

    share = 6e-8

    def decode(self, z):
        p = torch.sigmoid(self.out(z)) * 1e-6 + self.share * (len(z) % 2)
        return torch.cat([p[:, :12], 1 - p[:, 12:]], 1).clamp(0, 1)


class BeyondRounding(Rounding):
    share = 1e-3


class Deaf(Sound):
    def decode(self, z):
        return super().decode(z * 0)


class Late(Sound):
    """Probabilities near the origin, and others beyond."""

    def encode(self, x):
        mean, spread = super().encode(x)
        return mean * 1000, spread

    def decode(self, z):
        return torch.where(z.abs().sum(1, keepdim=True) > 20, 2.0, super().decode(z))
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the nets above; what is trusted stays in it."""
    place = tmp_path_factory.mktemp("checks")
    (place / "nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(place))
        yield place


def images(n=16):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))


def checked(folder, name, x=None, **options):
    spec = VaeSpec(ModelSpec(arch=f"{folder / 'nets.py'}:{name}"), **options)
    auto = open_autoencoder(spec, shape=SHAPE)
    return check_autoencoder(auto, images() if x is None else x)


@pytest.mark.parametrize("name", ["Sound", "Tracked", "Rounding"])
def test_a_sound_one_passes(folder, name):
    auto = checked(folder, name)
    assert auto.is_bound
    assert not any("grey under" in note for note in auto.notes)


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("Parameter", {}, StructureError, ["16 different images", "equal spreads", "'fixed'"]),
        ("Unnamed", {}, StructureError, ["equal spreads", "encode(x)"]),
        ("Blind", {}, StructureError, ["equal means", "does not follow its input"]),
        ("MixedEncoder", {}, StructureError, ["encoder", "on one alone", "running statistics"]),
        ("MixedDecoder", {}, StructureError, ["decoder", "other rows of the batch"]),
        ("BeyondRounding", {}, StructureError, ["decoder", "other rows of the batch"]),
        ("Ordered", {}, StructureError, ["decoder", "other rows of the batch"]),
        ("Pairs", {}, StructureError, ["two or more, please", "on one alone"]),
        ("Hollow", {}, DataError, ["NaN or infinite"]),
        ("Sound", {"variance_is": "sigma"}, UsageError, ["as sigma", "--variance-is logvar"]),
        ("Sound", {"variance_is": "sigma2"}, UsageError, ["as sigma2", "--variance-is logvar"]),
        ("Positive", {}, UsageError, ["--variance-is sigma, or --variance-is sigma2"]),
        ("Huge", {"variance_is": "logvar"}, UsageError, ["a standard deviation of", "logvar"]),
        ("Late", {}, DataError, ["at the latents of real images", "[0, 1]"]),
        ("Sound", {"binarise": "none"}, DataError, ["100.0% of the pixels", "--allow-grey"]),
    ],
)
def test_what_is_not_sound_is_told_in_words(folder, name, options, error, words):
    with pytest.raises(error) as caught:
        checked(folder, name, **options)
    assert caught.value.code == 2
    for word in words:
        assert word in str(caught.value)


def test_a_decoder_that_draws_is_refused(folder):
    with pytest.raises(StructureError, match="random numbers"):
        checked(folder, "Noisy")


def test_a_positive_spread_may_be_a_log_variance_where_that_is_said(folder):
    assert checked(folder, "Positive", variance_is="logvar").spec.variance_is == "logvar"


def test_grey_data_are_no_bound(folder):
    auto = checked(folder, "Sound", allow_grey=True)
    assert not auto.is_bound
    assert auto.spec.binarise == "none"
    assert any("no figure is a bound" in note for note in auto.notes)
    black_and_white = checked(folder, "Sound", images().round(), allow_grey=True)
    assert black_and_white.is_bound
    for options in ({"binarise": "threshold"}, {"likelihood": "continuous-bernoulli"}):
        assert checked(folder, "Sound", **options).is_bound


def test_a_decoder_that_ignores_its_latent_is_noted(folder):
    assert any("it ignores them" in note for note in checked(folder, "Deaf").notes)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(16, *SHAPE), "16 equal images"),
        (2 * torch.rand(16, *SHAPE) - 1, "--input-range"),
        (torch.rand(16, 1, 6, 4), "[1, 4, 6]"),
    ],
)
def test_images_that_tell_nothing_are_refused(folder, x, words):
    with pytest.raises(DataError) as caught:
        checked(folder, "Sound", x)
    assert words in str(caught.value)


def test_dropout_is_off(folder):
    spec = VaeSpec(ModelSpec(arch=f"{folder / 'nets.py'}:Sound"))
    auto = open_autoencoder(spec, shape=SHAPE)
    assert all(not module.training for module in auto.module.modules())
    assert isinstance(auto.module, nn.Module)
