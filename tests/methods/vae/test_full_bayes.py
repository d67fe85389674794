"""The posterior over a decoder's weights: its divergence, its draws, and the module it wraps."""

import torch
from torch.distributions import Normal, kl_divergence

from bnnkit.methods.vae.full_bayes import DecoderPosterior
from bnnkit.methods.vae.latent_model import LatentModel


def made():
    net = torch.nn.Linear(2, 3)
    with torch.no_grad():
        net.weight.copy_(torch.arange(6.0).reshape(3, 2) / 6)
        net.bias.fill_(0.5)
    model = LatentModel(lambda x: (x, x), lambda z: (net(z),), "bernoulli", 2)
    return net, model, DecoderPosterior(net, ["weight", "bias"])


def test_the_divergence_is_that_of_gaussians():
    net, _, weights = made()
    reference = sum(
        kl_divergence(Normal(p, s.exp()), Normal(0.0, 1.0)).sum()
        for p, s in zip((net.weight, net.bias), weights.log_sigma, strict=True)
    )
    torch.testing.assert_close(weights.kl(), reference)


def test_draws_have_the_means_and_deviations_of_the_posterior():
    net, model, weights = made()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        for s in weights.log_sigma:
            s.fill_(-1.0)
    source = torch.Generator().manual_seed(0)
    z = torch.tensor([[1.0, 2.0]])
    with torch.no_grad():
        out = torch.cat([weights.drawn(model, net, source).decode(z)[0] for _ in range(4000)])
    sigma = torch.exp(torch.tensor(-1.0))
    torch.testing.assert_close(out.mean(0), net(z)[0].detach(), atol=0.06, rtol=0)
    expected = sigma * torch.tensor(6.0).sqrt()  # 1² + 2² of the weights, 1 of the bias
    torch.testing.assert_close(out.std(0), expected.expand(3), atol=0.05, rtol=0)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_the_gradient_reaches_means_and_deviations():
    net, model, weights = made()
    out = weights.drawn(model, net, torch.Generator().manual_seed(0)).decode(torch.ones(1, 2))[0]
    out.sum().backward()
    assert net.weight.grad is not None
    assert all(s.grad is not None for s in weights.log_sigma)
