"""Scores: the regression against a fit of our own, compositions against arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnnkit.methods.mh.networks import ConvDiscriminator
from bnnkit.methods.mh.scores import (
    CalibratedScore,
    ConvScore,
    FeatureScore,
    LinearScore,
    MixedScore,
    OwnScore,
    fit_linear,
    score_images,
)

CLASSES = 3


class Features(nn.Module):
    """Features and outputs of images, as extractors give them."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 16 * 4).reshape(16, 4))

    def forward(self, images):
        features = torch.tanh(images.flatten(1) @ self.weight)
        return features, features.sum(1, keepdim=True)


def sides(n=300, m=500, d=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    real = torch.randn(n, d, generator=draw) * torch.tensor([1.0, 5.0, 0.1, 1.0])[:d] + 0.5
    fake = torch.randn(m, d, generator=draw) * torch.tensor([1.0, 5.0, 0.1, 1.0])[:d]
    return real, fake


def labels(n, seed=1):
    return torch.randint(CLASSES, (n,), generator=torch.Generator().manual_seed(seed))


def images(n, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 1, 4, 4), generator=draw, dtype=torch.uint8)


def direct_fit(x, y, strength):
    """Ridge logistic regression by torch's L-BFGS: both sides weigh the same, free intercept."""
    weights = torch.where(y > 0, len(y) / (2 * y.sum()), len(y) / (2 * (1 - y).sum()))
    w = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [w, b], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        each = F.binary_cross_entropy_with_logits(x @ w + b, y, reduction="none")
        loss = strength * (weights * each).sum() + 0.5 * w.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return w.detach()


@pytest.mark.parametrize("strength", [0.01, 0.1, 3.0])
def test_regression_is_the_direct_fit(strength):
    real, fake = sides()
    both = torch.cat([real, fake]).double()
    x = (both - both.mean(0)) / both.std(0)
    y = torch.cat([torch.ones(len(real)), torch.zeros(len(fake))]).double()
    expected = direct_fit(x, y, strength)
    score = fit_linear(real, fake, strength=strength)
    torch.testing.assert_close(score.weight.double(), expected, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(score(both.float()).double(), x @ expected, atol=1e-2, rtol=1e-2)


def test_regression_of_two_gaussians_finds_the_log_ratio():
    """N(m, I) against N(0, I): log p/q = m.x and a constant."""
    draw = torch.Generator().manual_seed(0)
    m = torch.tensor([0.8, -0.4, 0.0])
    real = torch.randn(40_000, 3, generator=draw) + m
    fake = torch.randn(30_000, 3, generator=draw)
    score = fit_linear(real, fake, strength=1.0)
    slopes = score.weight / score.scale
    torch.testing.assert_close(slopes, m, atol=0.04, rtol=0)


def test_regression_with_classes_is_the_direct_fit_on_blocks():
    real, fake = sides()
    told = [labels(300), labels(500, 2)]
    real = real + told[0][:, None] * torch.tensor([0.5, 0.0, 0.0, -0.3])
    both, classes = torch.cat([real, fake]).double(), torch.cat(told)
    x = (both - both.mean(0)) / both.std(0)
    blocks = [x * (classes == k).double()[:, None] for k in range(CLASSES)]
    y = torch.cat([torch.ones(300), torch.zeros(500)]).double()
    expected = direct_fit(torch.cat([x, *blocks], 1), y, 0.1)
    score = fit_linear(real, fake, real_labels=told[0], fake_labels=told[1])
    torch.testing.assert_close(score.weight.double(), expected[:4], atol=3e-3, rtol=3e-3)
    torch.testing.assert_close(
        score.by_class.double(), expected[4:].reshape(CLASSES, 4), atol=3e-3, rtol=3e-3
    )
    found = score(both.float(), classes).double()
    mine = (x * (expected[:4] + expected[4:].reshape(CLASSES, 4)[classes])).sum(1)
    torch.testing.assert_close(found, mine, atol=2e-2, rtol=2e-2)


def test_a_feature_that_never_changes_is_harmless():
    real, fake = sides()
    real[:, 2] = fake[:, 2] = 3.0
    score = fit_linear(real, fake)
    assert score(fake).isfinite().all()
    assert float(score.weight[2]) == pytest.approx(0, abs=1e-6)


def linear(d=4, by_class=False):
    draw = torch.Generator().manual_seed(5)
    mean, scale, weight = (torch.rand(d, generator=draw) + 0.5 for _ in range(3))
    table = torch.randn(CLASSES, d, generator=draw) if by_class else None
    return LinearScore(mean, scale, weight, table)


def test_linear_score_by_hand():
    score, x, k = linear(by_class=True), sides(6, 1)[0], labels(6)
    z = (x - score.mean) / score.scale
    torch.testing.assert_close(score(x), z @ score.weight)
    by_hand = torch.stack([(z[i] * (score.weight + score.by_class[k[i]])).sum() for i in range(6)])
    torch.testing.assert_close(score(x, k), by_hand)


def test_feature_score_reads_features():
    net, score = Features(), linear()
    x = images(9).float() / 255
    torch.testing.assert_close(FeatureScore(net, score)(x), score(net(x)[0]))


def test_own_score_of_logits_and_of_probabilities():
    x = images(9).float() / 255
    net = Features()
    logits = net(x)[1].squeeze(1)
    torch.testing.assert_close(OwnScore(net, False)(x), logits)

    class Probability(nn.Module):
        def forward(self, images):
            return None, torch.sigmoid(net(images)[1])

    torch.testing.assert_close(OwnScore(Probability(), True)(x), logits, atol=1e-5, rtol=1e-4)


def test_own_probabilities_of_zero_and_one_are_finite_and_ordered():
    class Fixed(nn.Module):
        def forward(self, images):
            return None, torch.tensor([[0.0], [1e-38], [0.5], [1 - 2.0**-24], [1.0], [math.nan]])

    found = OwnScore(Fixed(), True)(torch.zeros(6, 1, 4, 4))
    assert found[:5].isfinite().all()
    assert (found[:5].diff() >= 0).all()
    assert float(found[2]) == 0
    assert found[3] == found[4]  # what rounds to 1 is a tie
    assert found[5].isnan()


def test_conv_score_of_the_upper_bound_is_log_d():
    net = ConvDiscriminator((1, 4, 4), width=4).eval()
    x = images(7).float() / 255
    with torch.no_grad():
        logit = net(x)
        torch.testing.assert_close(ConvScore(net)(x), logit)
        d = 0.2 + 0.8 * torch.sigmoid(logit)
        torch.testing.assert_close(ConvScore(net, 0.2)(x), d.log())


def test_mixed_score_is_a_weighted_mean():
    first, second = FeatureScore(Features(), linear()), OwnScore(Features(), False)
    x = images(9).float() / 255
    for share in (0.0, 0.3, 1.0):
        expected = (1 - share) * first(x) + share * second(x)
        torch.testing.assert_close(MixedScore(first, second, share)(x), expected)


def every_score():
    torch.manual_seed(0)
    conv = ConvDiscriminator((1, 4, 4), width=4, classes=CLASSES).eval()
    nn.init.normal_(conv.by_class.weight)
    features = FeatureScore(Features(), linear(by_class=True))
    knots = torch.tensor([[-2.0, 0.0, 2.0], [-1.0, 0.5, 0.7]])
    return {
        "conv": ConvScore(conv),
        "bound": ConvScore(conv, 0.1),
        "features": features,
        "own": OwnScore(Features(), False),
        "mixed": MixedScore(ConvScore(conv), features, 0.3),
        "heated": CalibratedScore(features, 3.0),
        "mapped": CalibratedScore(features, 1.0, knots),
    }


@pytest.mark.parametrize("name", every_score())
@pytest.mark.parametrize("told", [False, True])
def test_batches_score_as_all_at_once(name, told):
    if name == "own" and told:
        pytest.skip("an owner's net reads no labels")
    score, x = every_score()[name], images(23)
    k = labels(23) if told else None
    at_once = score_images(score, x, k, batch_size=1000)
    assert at_once.shape == (23,)
    assert at_once.dtype == torch.float64
    assert not at_once.requires_grad
    for size in (1, 7, 23):
        found = score_images(score, x, k, batch_size=size)
        torch.testing.assert_close(found, at_once, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        direct = score(x.float() / 255, k).double()
    torch.testing.assert_close(at_once, direct, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["conv", "features", "mixed", "heated", "mapped"])
def test_labels_matter(name):
    score, x = every_score()[name], images(23)
    first, second = (score_images(score, x, torch.full((23,), k)) for k in (0, 1))
    assert not torch.allclose(first, second)
    mixed = score_images(score, x, torch.arange(23) % 2)
    expected = torch.where(torch.arange(23) % 2 == 0, first, second)
    torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", every_score())
def test_scores_survive_their_files(name):
    """State dicts hold all that a score is, besides its plain numbers."""
    score, other = every_score()[name], every_score()[name]
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    other.load_state_dict(score.state_dict())
    x = images(5)
    torch.testing.assert_close(score_images(other, x), score_images(score, x))
