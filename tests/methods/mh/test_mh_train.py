"""Discriminators trained on tiny images whose density ratio is known."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import nn

from bnnkit.errors import TrainingError
from bnnkit.methods.mh.networks import (
    ConvDiscriminator,
    PairDiscriminator,
    without_spectral_norm,
)
from bnnkit.methods.mh.scores import ConvScore, score_images
from bnnkit.methods.mh.train import Recipe, fit_pairs, fit_single

SHAPE = (1, 4, 4)


def shades(n, mean, seed):
    """One brightness an image, N(mean, 30^2): log p/q is linear in it."""
    draw = torch.Generator().manual_seed(seed)
    level = (mean + 30 * torch.randn(n, generator=draw)).round().clamp(0, 255)
    return level.to(torch.uint8)[:, None, None, None].expand(n, *SHAPE).contiguous()


def net(seed=0, dropout=0.0, classes=None):
    torch.manual_seed(seed)
    return ConvDiscriminator(SHAPE, width=4, dropout=dropout, classes=classes, noise=0.0)


def fit(loss="mce", seed=0, **more):
    made = net()
    recipe = Recipe(loss=loss, floor=0.05, **{"epochs": 4.0, "batch_size": 64, "lr": 5e-3} | more)
    losses = fit_single(
        made,
        shades(1024, 150, 1),
        shades(700, 110, 2),
        recipe,
        torch.Generator().manual_seed(seed),
    )
    return made, losses


@pytest.mark.parametrize("loss", ["bce", "mce", "ub"])
def test_each_loss_learns_which_images_are_real(loss):
    made, losses = fit(loss)
    assert not made.training
    assert len(losses) == 4 * 1024 // 64
    assert sum(losses[-10:]) < sum(losses[:10])
    score = ConvScore(made, 0.05 if loss == "ub" else None)
    real, fake = (score_images(score, shades(1000, m, s)) for m, s in ((150, 3), (110, 4)))
    ranked = stats.mannwhitneyu(real, fake).statistic / 1e6
    exact = stats.norm.cdf(40 / (30 * 2**0.5))  # AUC of the true ratio
    assert ranked == pytest.approx(exact, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["bce", "mce"])
def test_learned_scores_are_the_log_ratio(loss):
    """log p/q = (150 - 110) / 30^2 a level of brightness."""
    made, _ = fit(loss, epochs=20.0)
    levels = torch.arange(80, 181, 10)
    grid = levels.to(torch.uint8)[:, None, None, None].expand(-1, *SHAPE)
    found = score_images(ConvScore(made), grid)
    slope = stats.linregress(levels.numpy(), found.numpy()).slope
    assert slope == pytest.approx(40 / 30**2, rel=0.25)


def test_same_seed_same_net_whatever_the_global_state():
    torch.manual_seed(0)
    first, losses = fit(epochs=1.0)
    made, recipe = net(), Recipe(floor=0.05, epochs=1.0, batch_size=64, lr=5e-3)
    torch.randn(100)
    again = fit_single(
        made, shades(1024, 150, 1), shades(700, 110, 2), recipe, torch.Generator().manual_seed(0)
    )
    assert losses == again
    for name, value in first.state_dict().items():
        assert torch.equal(value, made.state_dict()[name]), name
    _, other = fit(seed=1, epochs=1.0)
    assert other != losses


@pytest.mark.parametrize("count", [1, 2, 5, 8, 9, 10, 11, 19, 20])
def test_any_number_of_steps_is_possible(count):
    """Also few: a thousand images in batches of 128 are a handful."""
    made = net()
    told = []
    losses = fit_single(
        made, shades(16 * count, 150, 1), shades(50, 110, 2), Recipe(epochs=1.0, batch_size=16),
        torch.Generator().manual_seed(0), on_step=lambda *seen: told.append(seen),
    )  # fmt: skip
    assert len(losses) == count
    assert told == [(i + 1, count, losses[i]) for i in range(count)]


def test_fewer_images_than_a_batch():
    losses = fit_single(
        net(), shades(5, 150, 1), shades(3, 110, 2), Recipe(epochs=3.0),
        torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert len(losses) == 3


def test_images_of_no_number_are_refused():
    real = shades(64, 150, 1).float()
    real[3] = float("nan")
    with pytest.raises(TrainingError, match="loss of nan at step 1"):
        fit_single(
            net(), real, shades(64, 110, 2), Recipe(batch_size=64),
            torch.Generator().manual_seed(0),
        )  # fmt: skip


def test_classes_learn_ratios_of_their_own():
    """Class 0: brighter is real; class 1: darker is. Without labels there is nothing to learn."""
    draw = torch.Generator().manual_seed(0)
    k = torch.randint(2, (2048,), generator=draw)
    bright, dark = shades(2048, 150, 1), shades(2048, 110, 2)
    zero = (k == 0)[:, None, None, None]
    real, fake = torch.where(zero, bright, dark), torch.where(zero, dark, bright)
    recipe = Recipe(loss="bce", epochs=3.0, batch_size=64, lr=1e-2)
    told = net(classes=2)
    fit_single(
        told, real, fake, recipe, torch.Generator().manual_seed(1), real_labels=k, fake_labels=k
    )
    for label, sign in ((0, 1), (1, -1)):
        kind = torch.full((500,), label)
        ends = [score_images(ConvScore(told), shades(500, m, 5), kind).mean() for m in (150, 110)]
        assert sign * float(ends[0] - ends[1]) > 0.5


@pytest.mark.parametrize("loss", ["bce", "mce", "ub"])
def test_pairs_learn_the_acceptance_ratio(loss):
    """y ~ N(150, 30^2), x | y = y - 30 + noise: darker partners are proposals."""
    torch.manual_seed(0)
    made = PairDiscriminator(SHAPE, width=4, dropout=0.0, noise=0.0)
    draw = torch.Generator().manual_seed(0)

    def propose(y):
        noise = torch.randn(len(y), 1, 1, 1, generator=draw)
        return (y - 30 / 255 + noise * 20 / 255).clamp(0, 1)

    recipe = Recipe(loss=loss, floor=0.05, epochs=3.0, batch_size=64, lr=5e-3)
    losses = fit_pairs(
        made, shades(1024, 150, 1), propose, recipe, torch.Generator().manual_seed(1)
    )
    assert not made.training
    assert losses[-1] < losses[0]
    y = shades(500, 150, 7).float() / 255
    x = propose(y)
    with torch.no_grad():
        right = (made(y, x) > made(x, y)).double().mean()
    assert float(right) > 0.8


def test_pair_discriminator_sees_which_comes_first():
    torch.manual_seed(0)
    made = PairDiscriminator(SHAPE, width=4).eval()
    a, b = (torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    with torch.no_grad():
        assert made(a, b).shape == (3,)
        assert not torch.allclose(made(a, b), made(b, a))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 4), (3, 9, 5), (1, 28, 28), (3, 100, 64)])
def test_any_shape_of_image_has_a_logit(shape):
    torch.manual_seed(0)
    made = ConvDiscriminator(shape, width=4).eval()
    with torch.no_grad():
        assert made(torch.rand(2, *shape)).shape == (2,)


@pytest.mark.parametrize(("side", "seen"), [(8, True), (15, True), (16, False), (28, False)])
def test_large_images_are_looked_at_in_half_resolution(side, seen):
    """A checkerboard has no mean over 2x2 pixels: only small images show it."""
    torch.manual_seed(0)
    made = ConvDiscriminator((1, side, side), width=4).eval()
    x = 0.25 + torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(0)) / 2
    board = (torch.arange(side)[:, None] + torch.arange(side)) % 2 - 0.5
    with torch.no_grad():
        gap = (made(x + 0.4 * board) - made(x)).abs()
        shifted = (made(x + 0.2) - made(x)).abs()
    assert float(gap.max()) > 1e-3 if seen else float(gap.max()) < 1e-5
    assert float(shifted.max()) > 1e-3


def test_noise_is_of_the_training_alone():
    torch.manual_seed(0)
    made = ConvDiscriminator(SHAPE, width=4, dropout=0.0, noise=0.1).eval()
    plain = ConvDiscriminator(SHAPE, width=4, dropout=0.0, noise=0.0)
    plain.load_state_dict(made.state_dict())
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(made(x), plain.eval()(x))
        # spectral norm moves on in training, so both nets take one step each
        assert float((made.train()(x) - plain.train()(x)).abs().max()) > 1e-4


def test_the_weights_are_the_mean_of_the_last_quarter():
    made, seen = net(), []
    fit_single(
        made, shades(512, 150, 1), shades(512, 110, 2), Recipe(epochs=2.0, batch_size=64),
        torch.Generator().manual_seed(0),
        on_step=lambda *_: seen.append([p.detach().clone() for p in made.parameters()]),
    )  # fmt: skip
    assert len(seen) == 16
    for i, value in enumerate(made.parameters()):
        mean = torch.stack([step[i] for step in seen[12:]]).mean(0)
        torch.testing.assert_close(value.detach(), mean, atol=1e-6, rtol=1e-5)


def test_spectral_norm_is_written_into_the_weights():
    made, _ = fit()
    x = torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = made(x)
        plain = without_spectral_norm(made)
        assert plain is made
        torch.testing.assert_close(plain(x), before, atol=1e-6, rtol=1e-6)
    assert not any("parametrizations" in name for name in plain.state_dict())
    for layer in plain.modules():
        if isinstance(layer, nn.Conv2d):
            top = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
            assert float(top.detach()) == pytest.approx(1, abs=0.1)


def test_nothing_is_changed_where_there_is_no_spectral_norm():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(3, 2))
    before = layer[0].weight.clone()
    assert torch.equal(without_spectral_norm(layer)[0].weight, before)
