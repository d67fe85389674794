"""Training of belief nets: each loss has the gradient that it should, and learns a toy."""

import pytest
import torch

from bnnkit.errors import UsageError
from bnnkit.methods.vae.belief import belief_model, log_bernoulli
from bnnkit.methods.vae.refine_binary import BinaryRefinement, iterates
from bnnkit.methods.vae.train_binary import LOSSES, BinaryTraining, avi_loss, training_loss
from bnnkit.zoo.belief_net import SigmoidBeliefNet

LATENT, PIXELS = 4, 8


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def no_noise(_samples):
    raise AssertionError("centre passing draws nothing")


def states():
    return ((torch.arange(2**LATENT)[:, None] >> torch.arange(LATENT)) & 1).float()


def evidence(model, x):
    return model.log_joint(x, states()[:, None].expand(-1, len(x), -1)).logsumexp(0)


def toy(n=200):
    """Two bars, each on or off, with a little noise."""
    on = torch.rand(n, 2, generator=source(5)) < 0.5
    clean = on.repeat_interleave(PIXELS // 2, 1).float()
    flipped = torch.rand(n, PIXELS, generator=source(6)) < 0.03
    return (clean - flipped.float()).abs()


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SigmoidBeliefNet(latent=LATENT, in_features=PIXELS)


@pytest.mark.parametrize("method", sorted(LOSSES))
def test_each_method_learns_the_toy(net, method):
    model, x = belief_model(net), toy()
    config = BinaryTraining(method, 5, BinaryRefinement("ais", steps=5, samples=10))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    draws = source()
    with torch.no_grad():
        before = float(evidence(model, x).mean())
    bounds = []
    for _ in range(200):
        parts = training_loss(model, x, draws, config)
        optimiser.zero_grad()
        parts["loss"].backward()
        optimiser.step()
        bounds.append(float(parts["bound"]))
    with torch.no_grad():
        after = float(evidence(model, x).mean())
    assert before == pytest.approx(-PIXELS * 0.72, abs=0.8)  # near pixels that are coins
    assert after > -3.8  # the entropy of the toy is 2 log 2 + 8 H(.03) = 2.46 nats
    assert sum(bounds[-20:]) / 20 > sum(bounds[:20]) / 20 + 1.5
    assert sum(bounds[-20:]) / 20 < after + 0.1


@pytest.mark.parametrize("method", sorted(LOSSES))
def test_bound_is_of_the_data_and_the_rest_has_no_gradient(net, method):
    parts = training_loss(belief_model(net), toy(), source(), BinaryTraining(method, 400))
    assert parts["loss"].requires_grad
    assert not any(v.requires_grad for k, v in parts.items() if k != "loss")
    exact = float(evidence(belief_model(net), toy()).detach().mean())
    assert exact - 3 < float(parts["bound"]) < exact + 0.05


def test_sleep_learns_from_dreams_only_and_wake_from_data_only(net):
    config = BinaryTraining("wake-sleep", 3)
    gradients = []
    for x in (toy(), 1 - toy()):
        net.zero_grad()
        training_loss(belief_model(net), x, source(), config)["loss"].backward()
        gradients.append({k: p.grad.clone() for k, p in net.named_parameters()})
    same = {k: torch.equal(g, gradients[1][k]) for k, g in gradients[0].items()}
    assert all(same[k] == k.startswith("recognition") for k in same if k != "prior")


def test_weighted_step_follows_the_gradient_of_the_likelihood(net):
    """Many weighted samples of the refined posterior give the gradient of exact log p(x)."""
    model, x = belief_model(net), toy(6)
    config = BinaryTraining("avi", 60_000, BinaryRefinement("ais", steps=3, samples=200))
    parts = avi_loss(model, x, source(), config)
    theta = [*net.decoder.parameters(), net.prior]
    found = torch.autograd.grad(parts["loss"], theta)
    expected = torch.autograd.grad(-evidence(model, x).mean(), theta)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=5e-3, rtol=0)
    assert 1 < float(parts["ess"]) <= 60_000


def test_recognition_net_follows_the_refined_posterior(net):
    """Its gradient is that of the cross entropy to q~: at its logits sigmoid(l) - mu~."""
    model, x = belief_model(net), toy(6)
    refinement = BinaryRefinement("centre", steps=4)
    parts = avi_loss(model, x, source(), BinaryTraining("avi", 1, refinement))
    found = torch.autograd.grad(parts["loss"], net.recognition[0].bias)[0]
    amortised = net.encode(x).detach()
    *_, (refined, _) = iterates(model, x, amortised, refinement, no_noise)
    expected = (amortised.sigmoid() - refined.sigmoid()).mean(0)
    torch.testing.assert_close(found, expected)
    target = refined.sigmoid()
    entropy = -(target * target.log() + (1 - target) * (1 - target).log()).sum(1)
    cross = -log_bernoulli(target, amortised)
    torch.testing.assert_close(parts["kl"], (cross - entropy).mean(), atol=1e-5, rtol=1e-4)


def test_values_without_a_meaning_are_refused():
    with pytest.raises(UsageError, match="'avi'"):
        BinaryTraining("avii")
    with pytest.raises(UsageError, match="0 samples"):
        BinaryTraining(samples=0)
