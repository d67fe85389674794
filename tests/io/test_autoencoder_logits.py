"""Decoders without their last sigmoid: the numbers before it, whoever calls it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnnkit.io.autoencoder_logits import clamped_logits, without_last_sigmoid
from bnnkit.zoo import ZOO

Z = torch.linspace(-3, 3, 12).reshape(4, 3)
LAYER = nn.Linear(3, 5)
with torch.no_grad():
    LAYER.weight.copy_(torch.linspace(-2, 2, 15).reshape(5, 3))
    LAYER.bias.copy_(torch.linspace(-1, 1, 5))

ENDINGS = {
    "function": lambda z: torch.sigmoid(LAYER(z)),
    "method": lambda z: LAYER(z).sigmoid(),
    "named argument": lambda z: torch.sigmoid(input=LAYER(z)),
    "functional": lambda z: F.sigmoid(LAYER(z)),
    "in place": lambda z: LAYER(z).sigmoid_(),
    "expit": lambda z: torch.special.expit(LAYER(z)),
    "module": nn.Sequential(LAYER, nn.Sigmoid()),
    "shape after it": lambda z: torch.sigmoid(LAYER(z)).view(-1, 5, 1).flatten(1),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_the_last_sigmoid_is_left_out(name):
    logits = without_last_sigmoid(ENDINGS[name], Z)
    torch.testing.assert_close(logits(Z), LAYER(Z), rtol=0, atol=0)
    torch.testing.assert_close(logits(Z[:1]), LAYER(Z[:1]), rtol=0, atol=1e-6)


def test_sigmoids_inside_stay():
    def gated(z):
        return torch.sigmoid(LAYER(z * torch.sigmoid(z)))

    logits = without_last_sigmoid(gated, Z)
    torch.testing.assert_close(logits(Z), LAYER(F.silu(Z)))


def test_logits_go_on_where_probabilities_end():
    def sure(z):
        return torch.sigmoid(100 * LAYER(z))

    logits = without_last_sigmoid(sure, Z)
    assert float(logits(Z).detach().abs().max()) > 100
    assert float(clamped_logits(sure(Z)).detach().abs().max()) < 16
    z = Z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(logits(z).sum(), z)
    expected = 100 * LAYER.weight.detach().sum(0).expand_as(Z)
    torch.testing.assert_close(slope, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        LAYER,
        lambda z: torch.sigmoid(LAYER(z)).clamp(0.2, 0.8),
        lambda z: 0.5 + 0.5 * torch.tanh(LAYER(z)),
        lambda z: torch.sigmoid(LAYER(z)) * 0.9,
    ],
)
def test_other_endings_are_told(other):
    assert without_last_sigmoid(other, Z) is None


@pytest.mark.slow
def test_the_zoos_decoders_export_without_it(tmp_path):
    import onnxruntime

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ZOO["vae-conv"](latent=3, width=2, size=8).eval()
    logits = without_last_sigmoid(lambda z: model.decode(z).flatten(1), Z)

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, z):
            return logits(z)

    torch.onnx.export(Logits().eval(), (Z,), str(tmp_path / "d.onnx"), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "d.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: Z.numpy()})
    found = torch.from_numpy(found)
    torch.testing.assert_close(found, logits(Z).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.sigmoid(found), model.decode(Z).detach().flatten(1))


def test_clamped_logits_are_finite():
    p = torch.tensor([0.0, 1e-3, 0.5, 1.0])
    assert bool(clamped_logits(p).isfinite().all())
    torch.testing.assert_close(clamped_logits(p)[1:3], torch.logit(p[1:3]))
