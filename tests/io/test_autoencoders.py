"""Autoencoders of every layout encode and decode as their owners' code does."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from bnnkit.bayes.likelihoods import log_likelihood
from bnnkit.errors import ArchitectureError, BnnkitError, DataError, StructureError, UsageError
from bnnkit.io.autoencoders import open_autoencoder
from bnnkit.io.export import write_safetensors
from bnnkit.spec import ModelSpec, Plan
from bnnkit.spec.vae import VaeSpec
from bnnkit.zoo import ZOO

SHAPE = (1, 4, 6)
SIZE = 24

NETS = '''
import torch
from torch import nn


class Base(nn.Module):
    """Weights that every net below shares."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.trunk = nn.Linear(24, 8)
        self.fc_mu = nn.Linear(8, 2)
        self.fc_var = nn.Linear(8, 2)
        self.out = nn.Linear(2, 24)
        with torch.no_grad():
            self.out.weight.mul_(8)


class Flat(Base):
    """As most public examples: flat inputs, small heads, a sigmoid."""

    def encode(self, x):
        h = torch.relu(self.trunk(x))
        return self.fc_mu(h), self.fc_var(h)

    def decode(self, z):
        return torch.sigmoid(self.out(z))


class Images(Flat):
    def encode(self, x):
        assert x.dim() == 4
        return super().encode(x.flatten(1))

    def decode(self, z):
        return super().decode(z).reshape(-1, 1, 4, 6)


class Drawn(Flat):
    def encode(self, x):
        mean, log_var = super().encode(x)
        return mean + torch.exp(log_var / 2) * torch.randn_like(mean), mean, log_var


class Extra(Flat):
    def encode(self, x):
        mean, log_var = super().encode(x)
        return mean, log_var, self.trunk(x)


class Logits(Flat):
    def decode(self, z):
        return self.out(z)


class Tanh(Flat):
    def decode(self, z):
        return torch.tanh(self.out(z))


class Clamped(Flat):
    def decode(self, z):
        return torch.sigmoid(self.out(z)).clamp(1e-6, 1 - 1e-6)


class Gaussian(Flat):
    def decode(self, z):
        return super().decode(z), self.out(z).tanh() - 2


class Halves(Gaussian):
    def decode(self, z):
        return torch.cat(super().decode(z), 1)


class Shared(Flat):
    def __init__(self):
        super().__init__()
        self.spread = nn.Parameter(torch.linspace(-3, -1, 24))

    def decode(self, z):
        return super().decode(z), self.spread


class Levels(Flat):
    def decode(self, z):
        grid = torch.arange(256) / 255
        return -(super().decode(z).unsqueeze(-1) - grid).square() * 50


class Named(Flat):
    def encode(self, x):
        mean, log_var = super().encode(x)
        return {"embedding": mean, "log_covariance": log_var}

    def decode(self, z):
        return {"reconstruction": super().decode(z)}


class Wide(Flat):
    def decode(self, z):
        return super().decode(z)[:, :20]


class Turned(Flat):
    def decode(self, z):
        return super().decode(z).reshape(-1, 6, 4, 1)


class Noisy(Flat):
    def encode(self, x):
        mean, log_var = super().encode(x)
        return mean + torch.randn_like(mean), log_var


class Pair(nn.Module):
    """Two halves with no methods; the encoder's one output holds both."""

    def __init__(self, latent=2):
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(24, 4))
        self.decoder = nn.Sequential(nn.Linear(latent, 24), nn.Sigmoid())


class Maps(nn.Module):
    """Latents with height and width."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Conv2d(1, 4, 2, 2)
        self.decoder = nn.Sequential(nn.ConvTranspose2d(2, 1, 2, 2), nn.Sigmoid())


class Doubles(Flat):
    def __init__(self):
        super().__init__()
        self.double()


def nothing():
    return nn.Linear(24, 24)


def log_prior(z):
    return -z.abs().sum(-1) - z.shape[-1] * 0.6931471805599453


def bad_prior(z):
    return z.abs().sum()
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the nets above; what is trusted stays in it."""
    place = tmp_path_factory.mktemp("vae")
    (place / "nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(place))
        yield place


def opened(folder, name, **options):
    shape = options.pop("shape", SHAPE)
    arch = f"{folder / 'nets.py'}:{name}"
    return open_autoencoder(VaeSpec(ModelSpec(arch=arch), **options), shape=shape)


def data(n=5):
    return torch.rand(n, SIZE, generator=torch.Generator().manual_seed(1)).round()


def latents(n=5, d=2):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(2))


def built(name, **args):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ZOO[name](**args).eval()


# --- built-in layouts -------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module.", "vae."])
def test_the_public_example_needs_no_architecture(tmp_path, prefix):
    model = built("vae-mnist", latent=3, hidden=7, in_features=25)
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 9, "state_dict": state}, tmp_path / "vae.pth")
    auto = open_autoencoder(VaeSpec(ModelSpec(str(tmp_path / "vae.pth"))))
    assert (auto.shape, auto.latent, auto.likelihood) == ((1, 5, 5), 3, "bernoulli")
    assert auto.spec.model.arch == "bnnkit:vae-mnist"
    assert auto.spec.variance_is == "logvar"
    assert auto.assumed == ("variance_is",)
    assert any("PyTorch's own example: 25-7-3" in note for note in auto.notes)
    assert any("fc22 is taken as the log variance" in note for note in auto.notes)
    assert any("binarised pixels" in note for note in auto.notes)
    x = data(4)[:, :1].expand(4, 25)
    mean, log_sigma = auto.encode(x)
    expected = model.encode(x)
    torch.testing.assert_close(mean, expected[0])
    torch.testing.assert_close(log_sigma, expected[1] / 2)
    z = latents(d=3)
    torch.testing.assert_close(torch.sigmoid(auto.decode(z)[0]), model.decode(z))


def test_its_features_are_images_of_the_shape_of_the_data(tmp_path):
    torch.save(built("vae-mnist", in_features=SIZE).state_dict(), tmp_path / "vae.pth")
    spec = VaeSpec(ModelSpec(str(tmp_path / "vae.pth")))
    assert open_autoencoder(spec, shape=SHAPE).shape == SHAPE
    with pytest.raises(UsageError, match="--input-shape"):
        open_autoencoder(spec)
    with pytest.raises(UsageError, match=r"images of 1x5x5.*24"):
        open_autoencoder(spec, shape=(1, 5, 5))


def test_its_activation_can_be_named(tmp_path):
    model = built("vae-mnist", in_features=16, activation="softplus")
    torch.save(model.state_dict(), tmp_path / "vae.pth")
    model_spec = ModelSpec(str(tmp_path / "vae.pth"), arch_args={"activation": "softplus"})
    auto = open_autoencoder(VaeSpec(model_spec))
    z = latents(d=20)
    torch.testing.assert_close(torch.sigmoid(auto.decode(z)[0]), model.decode(z))


def test_what_was_stated_is_not_assumed(tmp_path):
    torch.save(built("vae-mnist", in_features=16).state_dict(), tmp_path / "vae.pth")
    auto = open_autoencoder(VaeSpec(ModelSpec(str(tmp_path / "vae.pth")), variance_is="logsigma"))
    assert (auto.assumed, auto.spec.variance_is) == ((), "logsigma")
    assert not any("fc22" in note and "taken" in note for note in auto.notes)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("trust", [True, False])
def test_a_pickled_example_is_read_with_or_without_its_code(tmp_path, whole, trust):
    model = built("vae-mnist", in_features=16)
    torch.save(model if whole else model.state_dict(), tmp_path / "vae.pth")
    spec = VaeSpec(ModelSpec(str(tmp_path / "vae.pth"), trust_pickle=trust))
    auto = open_autoencoder(spec, shape=(1, 4, 4))
    assert any("PyTorch's own example" in note for note in auto.notes) != (whole and trust)
    torch.testing.assert_close(torch.sigmoid(auto.decode(latents(d=20))[0]),
                               model.decode(latents(d=20)))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "args", "shape"),
    [
        ("vae-conv", {"latent": 3, "width": 2, "size": 8}, (1, 8, 8)),
        ("vae-conv", {"latent": 3, "width": 2, "in_channels": 3, "size": (8, 12)}, (3, 8, 12)),
        ("vae-gaussian", {"latent": 3, "hidden": 5, "in_features": 16}, (1, 4, 4)),
    ],
)
def test_other_nets_of_the_zoo_are_recognised(tmp_path, name, args, shape):
    model = built(name, **args)
    torch.save(model.state_dict(), tmp_path / "vae.pth")
    stated = None if shape[1] == shape[2] else shape
    spec = VaeSpec(ModelSpec(str(tmp_path / "vae.pth"), input_shape=stated))
    auto = open_autoencoder(spec, shape=shape)
    assert (auto.spec.model.arch, auto.latent) == (f"bnnkit:{name}", 3)
    z = latents(d=3)
    parameters, expected = auto.decode(z), model.decode(z)
    if name == "vae-gaussian":
        torch.testing.assert_close(parameters, (expected[0], expected[1] / 2))
    else:
        torch.testing.assert_close(torch.sigmoid(parameters[0]), expected.flatten(1))


def test_a_plan_tells_the_architecture(tmp_path):
    args = {"latent": 4, "hidden": 6, "in_features": SIZE}
    model = built("vae-mnist", **args)
    plan = Plan(
        ModelSpec(arch="bnnkit:vae-mnist", arch_args=args, input_shape=SHAPE), method="train"
    )
    write_safetensors(model, tmp_path / "model.safetensors", plan)
    auto = open_autoencoder(VaeSpec(ModelSpec(str(tmp_path / "model.safetensors"))))
    assert (auto.shape, auto.latent, auto.assumed) == (SHAPE, 4, ())
    assert auto.plan is not None
    torch.testing.assert_close(torch.sigmoid(auto.decode(latents(d=4))[0]),
                               model.decode(latents(d=4)))  # fmt: skip


def test_tensors_of_something_else_need_an_architecture(tmp_path):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "x.pth")
    with pytest.raises(ArchitectureError, match="--arch"):
        open_autoencoder(VaeSpec(ModelSpec(str(tmp_path / "x.pth"))), shape=SHAPE)


# --- the owner's own code ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Flat", "Images", "Drawn", "Extra", "Named"])
def test_every_way_to_answer_gives_the_same(folder, name):
    auto = opened(folder, name)
    plain = opened(folder, "Flat")
    x, z = data(), latents()
    with torch.no_grad():
        h = torch.relu(plain.module.trunk(x))
        torch.testing.assert_close(auto.encode(x)[0], plain.module.fc_mu(h))
        torch.testing.assert_close(auto.encode(x)[1], plain.module.fc_var(h) / 2)
        torch.testing.assert_close(auto.decode(z)[0], plain.module.out(z), rtol=0, atol=0)
    assert auto.spec.outputs == "probabilities"
    assert auto.spec.binarise == "bernoulli"
    assert not auto.module.training


def test_two_halves_of_one_output(folder):
    auto = opened(folder, "Pair")
    x = data()
    both = auto.module.encoder(x)
    torch.testing.assert_close(auto.encode(x), (both[:, :2], both[:, 2:] / 2))
    assert any("first half is the mean" in note for note in auto.notes)


def test_latents_with_height_and_width_are_flat(folder):
    auto = opened(folder, "Maps")
    assert auto.latent == 2 * 2 * 3
    x, z = data(), latents(d=12)
    both = auto.module.encoder(x.reshape(-1, *SHAPE))
    torch.testing.assert_close(auto.encode(x)[0], both[:, :2].flatten(1))
    expected = auto.module.decoder(z.reshape(-1, 2, 2, 3)).flatten(1)
    torch.testing.assert_close(torch.sigmoid(auto.decode(z)[0]), expected)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("logvar", lambda s: s / 2), ("logsigma", lambda s: s),
     ("sigma", torch.log), ("sigma2", lambda s: s.log() / 2)],
)  # fmt: skip
def test_what_the_spread_is_can_be_said(folder, kind, expected):
    auto = opened(folder, "Flat", variance_is=kind)
    spread = auto.encode_raw(data())[1]
    torch.testing.assert_close(auto.encode(data())[1], expected(spread), equal_nan=True)
    assert auto.assumed == ()


def test_the_encoder_reads_its_own_range(folder):
    auto = opened(folder, "Flat", input_range=(-1.0, 1.0))
    plain = opened(folder, "Flat")
    torch.testing.assert_close(auto.encode(data()), plain.encode(2 * data() - 1))


def test_probabilities_that_cannot_be_undone_are_clamped(folder):
    auto = opened(folder, "Clamped")
    p = auto.module.decode(latents())
    torch.testing.assert_close(auto.decode(latents())[0], torch.logit(p), rtol=1e-3, atol=1e-3)
    assert any("cannot be left out" in note for note in auto.notes)


def test_logits_are_said_or_seen(folder):
    auto = opened(folder, "Logits", likelihood="bernoulli")
    assert auto.spec.outputs == "logits"
    assert torch.equal(auto.decode(latents())[0], auto.module.out(latents()))
    assert opened(folder, "Logits", outputs="logits").likelihood == "bernoulli"
    cb = opened(folder, "Flat", likelihood="continuous-bernoulli")
    assert (cb.spec.binarise, cb.spec.outputs) == ("none", "probabilities")


def test_float64_weights_are_converted(folder):
    auto = opened(folder, "Doubles")
    assert auto.decode(latents())[0].dtype == torch.float32


# --- likelihoods ------------------------------------------------------------------------------


def density(auto, x, z):
    return log_likelihood(auto.likelihood, x, auto.decode(z)).detach()


@pytest.mark.parametrize("name", ["Gaussian", "Halves", "Shared"])
def test_a_gaussian_decoder_with_a_spread(folder, name):
    auto = opened(folder, name, likelihood="gaussian", decoder_variance_is="logsigma")
    x = torch.rand(5, SIZE, generator=torch.Generator().manual_seed(0))
    mean = torch.sigmoid(auto.module.out(latents()))
    log_sigma = auto.module.out(latents()).tanh() - 2
    if name == "Shared":
        log_sigma = torch.linspace(-3, -1, SIZE).expand(5, -1)
    law = stats.norm(mean.detach().numpy(), log_sigma.detach().exp().numpy())
    expected = torch.from_numpy(law.logpdf(x.numpy()).sum(-1)).float()
    torch.testing.assert_close(density(auto, x, latents()), expected, rtol=1e-4, atol=1e-3)


def test_a_gaussian_decoder_without_a_spread(folder):
    auto = opened(folder, "Flat", decoder_sigma=0.3)
    assert (auto.likelihood, auto.spec.binarise) == ("gaussian", "none")
    x = torch.rand(5, SIZE, generator=torch.Generator().manual_seed(0))
    law = stats.norm(auto.module.decode(latents()).detach().numpy(), 0.3)
    expected = torch.from_numpy(law.logpdf(x.numpy()).sum(-1)).float()
    torch.testing.assert_close(density(auto, x, latents()), expected, rtol=1e-4, atol=1e-3)


def test_the_units_of_a_gaussian_are_those_of_its_means(folder):
    images = torch.rand(3, *SHAPE)
    tanh = opened(folder, "Tanh", decoder_sigma=1.0, input_range=(-1.0, 1.0))
    torch.testing.assert_close(tanh.prepare(images), 2 * images.flatten(1) - 1)
    unit = opened(folder, "Flat", decoder_sigma=1.0, input_range=(-1.0, 1.0))
    assert torch.equal(unit.prepare(images), images.flatten(1))
    assert any("data from 0 to 1" in note for note in unit.notes)


def test_levels(folder):
    auto = opened(folder, "Levels", likelihood="categorical256")
    x = auto.prepare(torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0)))
    logits = auto.module.decode(latents()).detach()
    expected = -nn.functional.cross_entropy(logits.flatten(0, 1), x.flatten().long(),
                                            reduction="none").reshape(5, -1).sum(1)  # fmt: skip
    torch.testing.assert_close(density(auto, x, latents()), expected, rtol=1e-5, atol=1e-3)


def test_priors(folder):
    normal = opened(folder, "Flat")
    assert normal.standard_prior
    expected = torch.from_numpy(stats.norm.logpdf(latents().numpy()).sum(-1))
    torch.testing.assert_close(normal.log_prior(latents()), expected.float())
    laplace = opened(folder, "Flat", prior=f"{folder / 'nets.py'}:log_prior")
    assert not laplace.standard_prior
    z = latents(6).reshape(2, 3, 2)
    expected = torch.from_numpy(stats.laplace.logpdf(z.numpy()).sum(-1))
    torch.testing.assert_close(laplace.log_prior(z), expected.float())
    for name, message in (
        ("bad_prior", "one log density"),
        ("nothing", "shape|stops"),
        ("none", "none"),
    ):
        with pytest.raises(UsageError, match=message):
            opened(folder, "Flat", prior=f"{folder / 'nets.py'}:{name}")


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("nothing", {}, StructureError, ["without 'encode'", "--arch"]),
        ("Logits", {}, UsageError, ["leave open", "--outputs logits"]),
        ("Gaussian", {}, UsageError, ["2 outputs", "--likelihood gaussian"]),
        ("Halves", {}, UsageError, ["48 numbers for an image of 24", "--likelihood gaussian"]),
        ("Levels", {}, UsageError, ["256 numbers", "categorical256"]),
        ("Flat", {"likelihood": "gaussian"}, UsageError, ["one output", "--decoder-sigma"]),
        ("Flat", {"outputs": "logits"}, DataError, ["as logits", "--outputs probabilities"]),
        ("Logits", {"outputs": "probabilities"}, DataError, ["[0, 1]", "--outputs logits"]),
        ("Tanh", {"likelihood": "bernoulli"}, DataError, ["tanh", "--likelihood gaussian"]),
        ("Flat", {"likelihood": "categorical256"}, StructureError, ["needs 6144 numbers"]),
        ("Wide", {}, StructureError, ["[64, 20]", "needs 24"]),
        ("Wide", {"likelihood": "bernoulli"}, StructureError, ["[64, 20]", "needs 24"]),
        ("Turned", {}, StructureError, ["[64, 6, 4, 1]", "1x4x6"]),
        ("Noisy", {}, UsageError, ["other outputs for the same images"]),
        ("Flat", {"shape": (1, 5, 5)}, UsageError, ["images of 1x5x5", "--input-shape"]),
        (
            "Gaussian",
            {"likelihood": "gaussian", "decoder_variance_is": "sigma"},
            DataError,
            ["a deviation is above 0", "logvar"],
        ),
    ],
)
def test_what_does_not_fit_is_told_in_words(folder, name, options, error, words):
    with pytest.raises(error) as caught:
        opened(folder, name, **options)
    for word in words:
        assert word in str(caught.value)


def test_an_encoder_and_a_decoder_of_two_models(folder):
    spec = ModelSpec(arch=f"{folder / 'nets.py'}:Pair", arch_args={"latent": 3})
    with pytest.raises(BnnkitError, match="the encoder gives latents of 2 numbers"):
        open_autoencoder(VaeSpec(spec), shape=SHAPE)


def test_gradients_flow_to_latents(folder):
    for name in ("Flat", "Clamped", "Maps"):
        auto = opened(folder, name)
        z = latents(3, auto.latent).requires_grad_()
        (slope,) = torch.autograd.grad(auto.decode(z)[0].sum(), z)
        assert bool(slope.isfinite().all())
        assert float(slope.abs().max()) > 0
    assert math.isfinite(float(auto.log_prior(z).detach().sum()))
