"""Belief nets from their files: known by names, refused where figures would be untrue."""

import pytest
import torch

from bnnkit.errors import DataError, StructureError, UsageError
from bnnkit.io.autoencoder_binary import check_belief_net, is_belief_net, settle_belief_net
from bnnkit.io.autoencoder_forms import open_parts
from bnnkit.io.autoencoder_layouts import layout_of
from bnnkit.io.autoencoder_units import binarise_split
from bnnkit.spec import ModelSpec
from bnnkit.spec.vae import VaeSpec
from bnnkit.zoo import ZOO

SHAPE = (1, 4, 6)

NETS = """
import torch
from torch import nn


class Sound(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.read = nn.Linear(24, 5)
        self.out = nn.Linear(5, 24)
        self.bias = nn.Parameter(torch.zeros(5))

    def encode(self, x):
        return self.read(x)

    def decode(self, h):
        return self.out(h)

    def prior_logits(self):
        return self.bias


class Pair(Sound):
    def encode(self, x):
        return self.read(x), self.read(x)


class Prior(Sound):
    def prior_logits(self):
        return self.bias[:3]


class Short(Sound):
    def decode(self, h):
        return self.out(h)[:, :20]


class Constant(Sound):
    def encode(self, x):
        return self.bias.expand(len(x), 5)


class Random(Sound):
    def encode(self, x):
        return self.read(x) + torch.randn(len(x), 5)


class Mixed(Sound):
    def decode(self, h):
        return self.out(h - h.mean(0))


class Broken(Sound):
    def decode(self, h):
        return self.out(h) / 0
"""


def images(n=16):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def opened(tmp_path):
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")

    def settle(name, **options):
        model = ModelSpec(arch=f"{tmp_path / 'nets.py'}:{name}", input_shape=SHAPE)
        form = open_parts(model)
        assert is_belief_net(form)
        return settle_belief_net(form, VaeSpec(model, **options), SHAPE)

    return settle


def test_anybodys_net_is_read_with_its_assumptions_told(opened):
    net = check_belief_net(opened("Sound"), images())
    assert (net.latent, net.likelihood, net.is_bound) == (5, "bernoulli", True)
    assert (net.spec.outputs, net.spec.binarise, net.spec.variance_is) == (
        "logits", "bernoulli", None
    )  # fmt: skip
    x = net.prepare(images())
    assert torch.equal(x, binarise_split(images()).flatten(1))
    assert torch.equal(net.encode(x), net.module.read(x))
    assert torch.equal(net.decode(net.encode(x)), net.module.out(net.encode(x)))
    assert any("5 of them" in note for note in net.notes)


def test_an_encoder_may_read_other_ends_of_the_scale(opened):
    net = opened("Sound", input_range=(-1.0, 1.0))
    x = net.prepare(images())
    torch.testing.assert_close(net.encode(x), net.module.read(2 * x - 1))


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("Pair", StructureError, "one logit of each latent"),
        ("Prior", StructureError, "prior_logits"),
        ("Short", StructureError, "one logit of each pixel"),
        ("Constant", StructureError, "equal logits"),
        ("Random", StructureError, "random numbers"),
        ("Mixed", StructureError, "other rows of the batch"),
        ("Broken", DataError, "NaN or infinite"),
    ],
)
def test_what_would_make_figures_untrue_is_refused(opened, name, kind, words):
    with pytest.raises(kind, match=words):
        check_belief_net(opened(name), images())


@pytest.mark.parametrize(
    "options",
    [
        {"likelihood": "gaussian"},
        {"likelihood": "bernoulli", "outputs": "probabilities"},
        {"variance_is": "logvar"},
        {"prior": "file.py:log_prior"},
    ],
)
def test_options_of_continuous_latents_are_refused(opened, options):
    option = list(options)[-1].replace("_", "-")
    with pytest.raises(UsageError, match=f"--{option}") as refusal:
        opened("Sound", **options)
    assert "Leave the option out" in str(refusal.value)


def test_images_of_another_size_are_refused(opened):
    net = opened("Sound")
    with pytest.raises(UsageError, match="--input-shape"):
        settle_belief_net(net.form, VaeSpec(ModelSpec(arch="x:y")), (1, 5, 5))


def test_grey_pixels_are_no_bound(opened):
    with pytest.raises(DataError, match="--allow-grey"):
        check_belief_net(opened("Sound", binarise="none"), images())
    assert not check_belief_net(opened("Sound", allow_grey=True), images()).is_bound


@pytest.mark.parametrize("hidden", [None, 7])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_zoo_s_layout_is_known_at_any_width(hidden, prefix):
    net = ZOO["sbn-mnist"](latent=3, hidden=hidden, in_features=12)
    found = layout_of({prefix + name: tensor for name, tensor in net.state_dict().items()})
    assert found.arch == "bnnkit:sbn-mnist"
    expected = {"latent": 3, "in_features": 12, "hidden": hidden}
    assert found.arch_args == {k: v for k, v in expected.items() if v is not None}
    ZOO["sbn-mnist"](**found.arch_args).load_state_dict(net.state_dict())


def test_other_tensors_are_no_belief_net():
    state = dict(ZOO["sbn-mnist"](latent=3, in_features=12).state_dict())
    assert layout_of({k: v for k, v in state.items() if k != "prior"}) is None
    assert layout_of({**state, "other": torch.zeros(1)}) is None
