"""The sigmoid belief net: sizes, and what is sampled."""

import torch

from bnnkit.zoo import ZOO
from bnnkit.zoo.belief_net import SigmoidBeliefNet


def test_published_size():
    model = ZOO["sbn-mnist"]()
    assert sum(p.numel() for p in model.parameters()) == 2 * 784 * 200 + 784 + 200 + 200


def test_it_samples_only_with_noise():
    model = SigmoidBeliefNet(latent=5, hidden=7, in_features=12)
    x = torch.rand(3, 1, 3, 4, generator=torch.Generator().manual_seed(0)).round()
    pixels, logits = model(x)
    assert logits.shape == (3, 5)
    assert torch.equal(logits, model.encode(x))
    assert torch.equal(pixels, model.decode(logits.sigmoid()))
    noise = torch.rand(3, 5, generator=torch.Generator().manual_seed(1))
    drawn = model(x, noise)[0]
    assert torch.equal(drawn, model.decode((noise < logits.sigmoid()).float()))
    assert model.prior_logits().shape == (5,)
    assert model.prior_logits().requires_grad


def test_a_hidden_layer_is_a_choice():
    plain = SigmoidBeliefNet(latent=4, in_features=6)
    deep = SigmoidBeliefNet(latent=4, hidden=3, in_features=6)
    layers = [[type(m).__name__ for m in net.decoder] for net in (plain, deep)]
    assert layers == [["Linear"], ["Linear", "Softplus", "Linear"]]
