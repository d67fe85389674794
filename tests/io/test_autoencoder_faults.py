"""Faults, unused layers and priors of an owner's net are told as what they are."""

import pytest
import torch
from torch import nn

from bnnkit.errors import StructureError, UsageError
from bnnkit.graph.gradients import without_autograd
from bnnkit.io.autoencoders import open_autoencoder
from bnnkit.spec import ModelSpec
from bnnkit.spec.vae import VaeSpec

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


class Pair(nn.Module):
    """Two halves with no methods; the encoder's one output holds both."""

    def __init__(self, latent=2):
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(24, 4))
        self.decoder = nn.Sequential(nn.Linear(latent, 24), nn.Sigmoid())


class Writing(Flat):
    """Writes into what it reads."""

    def encode(self, x):
        return super().encode(x.mul_(2).sub_(1).add_(1).div_(2))

    def decode(self, z):
        return super().decode(z.neg_().neg_())


class Conditional(Flat):
    def encode(self, x, y, scale=1.0):
        return super().encode(x)


class ConditionalDecoder(Flat):
    def decode(self, z, y):
        return super().decode(z)


class Faulty(Flat):
    def decode(self, z):
        raise RuntimeError("the owner forgot\\nsomething")


class FaultyEncoder(Flat):
    def encode(self, x):
        return self.trunc(x)


class Headless(nn.Module):
    """Mean and spread are made beside its encoder."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(24, 8))
        self.fc_mu = nn.Linear(8, 2)
        self.fc_var = nn.Linear(8, 2)
        self.decoder = nn.Sequential(nn.Linear(2, 24), nn.Sigmoid())


class Beside(Pair):
    """A layer that no half runs, where the widths fit all the same."""

    def __init__(self):
        super().__init__()
        self.quant = nn.Linear(4, 4)


class OwnPrior(Flat):
    def __init__(self, mean=0.0, log_var=0.0):
        super().__init__()
        self.prior_mean = nn.Parameter(torch.full((2,), mean))
        self.register_buffer("prior_logvar", torch.full((2,), log_var))


class Pseudo(Flat):
    def __init__(self):
        super().__init__()
        self.pseudo_inputs = nn.Parameter(torch.zeros(3, 24))


def log_prior(z):
    return -z.abs().sum(-1) - z.shape[-1] * 0.6931471805599453


def fussy_prior(z):
    if bool((z.abs() > 50).any()):
        raise ValueError("too far out")
    return -z.abs().sum(-1)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the nets above; what is trusted stays in it."""
    place = tmp_path_factory.mktemp("faults")
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


def test_a_prior_that_stops_is_told_but_not_while_it_is_traced(folder):
    """The exporter has words of its own for what it cannot follow."""
    auto = opened(folder, "Flat", prior=f"{folder / 'nets.py'}:fussy_prior")
    with pytest.raises(UsageError, match=r"too far out.*stops before it returns"):
        auto.log_prior(torch.full((3, 2), 60.0))
    with pytest.raises(RuntimeError, match="data-dependent"):
        without_autograd(Priced(auto.log_prior), [latents()])
    fine = opened(folder, "Flat", prior=f"{folder / 'nets.py'}:log_prior")
    graph = without_autograd(Priced(fine.log_prior), [latents()])
    torch.testing.assert_close(graph(latents()), fine.log_prior(latents()))


class Priced(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z):
        return self.function(z)


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [("OwnPrior", {"mean": 0.3}, "'prior_mean' look like"), ("OwnPrior", {}, None),
     ("OwnPrior", {"log_var": -1.0}, "'prior_logvar' look like"), ("Flat", {}, None),
     ("Pseudo", {}, "'pseudo_inputs' look like")],
)  # fmt: skip
def test_a_prior_of_its_own_that_is_not_used_is_said(folder, name, args, said):
    model = ModelSpec(arch=f"{folder / 'nets.py'}:{name}", arch_args=args)
    notes = open_autoencoder(VaeSpec(model), shape=SHAPE).notes
    told = [note for note in notes if "N(0, I)" in note]
    assert len(told) == (said is not None)
    assert all(said in note for note in told)
    stated = VaeSpec(model, prior=f"{folder / 'nets.py'}:log_prior")
    notes = open_autoencoder(stated, shape=SHAPE).notes
    assert not any("N(0, I)" in note for note in notes)


def test_what_it_reads_is_not_written_into(folder):
    auto, plain, x, z = opened(folder, "Writing"), opened(folder, "Flat"), data(), latents()
    torch.testing.assert_close(auto.encode(x), plain.encode(x))
    torch.testing.assert_close(auto.decode(z), plain.decode(z))
    assert torch.equal(x, data())
    assert torch.equal(z, latents())


def test_layers_that_no_half_runs_are_noted(folder):
    assert any("'quant' lie beside" in note for note in opened(folder, "Beside").notes)
    assert not any("lie beside" in note for note in opened(folder, "Flat").notes)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("Conditional", UsageError, ["'x', 'y'", "images alone", "--arch"]),
        ("ConditionalDecoder", UsageError, ["'z', 'y'", "latents alone", "--arch"]),
        ("Faulty", UsageError, ["nets.py:", "the owner forgot", "its own code stops"]),
        ("FaultyEncoder", UsageError, ["nets.py:", "'trunc'", "its own code stops"]),
        ("Headless", StructureError, ["latents of 4", "'fc_mu', 'fc_var'", "encode(x)"]),
    ],
)
def test_what_stops_is_told_in_words(folder, name, error, words):
    with pytest.raises(error) as caught:
        opened(folder, name)
    for word in words:
        assert word in str(caught.value)
