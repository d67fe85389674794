"""Markov proposals against exact laws: a tilted Gaussian, and a discrete space of one pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from bnnkit.methods.mh.markov import (
    Encoder,
    fit_encoder,
    latent_chains,
    pair_chains,
    perturb,
)

TILT = 0.8
P = np.array([2, 6, 3, 5, 4]) / 20
PROPOSAL = (
    np.array(  # q(x | y): rows y, and far from reversible
        [[1, 5, 2, 1, 1], [1, 1, 5, 2, 1], [1, 1, 1, 5, 2], [2, 1, 1, 1, 5], [5, 2, 1, 1, 1]]
    )
    / 10
)
LEVELS = torch.tensor([0, 60, 120, 180, 240])


def normal(count, draw):
    return torch.randn(count, 1, generator=draw)


@pytest.mark.parametrize("beta", [0.2, 0.7, 1.0])
def test_pcn_step_keeps_the_standard_normal(beta):
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(50_000, 2, generator=draw)
    moved = perturb(z, beta, draw)
    assert stats.kstest(moved[:, 0].numpy(), "norm").pvalue > 0.003
    found = float((z * moved).mean())
    assert found == pytest.approx(math.sqrt(1 - beta**2), abs=0.01)


def test_pcn_step_of_zero_stays_and_keeps_the_kind_of_number():
    z = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(perturb(z, 0.0, torch.Generator()), z)


@pytest.mark.parametrize("beta", [0.4, 0.8, 1.0])
def test_latent_chains_reach_the_tilted_gaussian(beta):
    """N(0, 1) with weights exp(c z) is N(c, 1), whatever the step."""
    draw = torch.Generator().manual_seed(0)
    starts = TILT * (torch.randn(20_000, generator=draw) + TILT)  # log w of states of p
    found = latent_chains(
        normal,
        lambda z: TILT * z[:, 0],
        starts,
        60,
        beta,
        torch.Generator().manual_seed(1),
    )
    assert found.images is None
    assert float(found.moved.double().mean()) > 0.99
    z = found.latents[found.moved][:, 0].numpy()
    assert stats.kstest(z, "norm", args=(TILT, 1)).pvalue > 0.003


def test_latent_chains_count_and_report():
    told = []
    found = latent_chains(
        normal, lambda z: torch.full((len(z),), math.nan), torch.zeros(7), 4, 0.5,
        torch.Generator().manual_seed(0), on_step=lambda: told.append(1),
    )  # fmt: skip
    assert len(told) == 4
    assert found.moved.tolist() == [False] * 7
    assert found.acceptance == 0


def test_each_latent_chain_starts_at_its_own_score():
    """One step, flat scores: the acceptance at each start is exp of minus its score."""
    starts = torch.tensor([0.0, 2.0]).repeat(20_000).double()
    found = latent_chains(
        normal, lambda z: torch.zeros(len(z)).double(), starts, 1, 0.5,
        torch.Generator().manual_seed(0),
    )  # fmt: skip
    moved = found.moved.double()
    assert float(moved[0::2].mean()) == 1
    assert float(moved[1::2].mean()) == pytest.approx(math.exp(-2), abs=0.01)


def test_latent_chains_take_longer_steps_for_less():
    def rate(beta):
        return latent_chains(
            normal, lambda z: 3 * z[:, 0], 3 * torch.randn(3000) + 9, 60, beta,
            torch.Generator().manual_seed(0),
        ).acceptance  # fmt: skip

    assert rate(0.1) > rate(0.5) > rate(1.0)


class Exact(nn.Module):
    """Logit of (first real, second its proposal), from the tables."""

    def forward(self, first, second):
        y, x = (states(v * 255) for v in (first, second))
        p, q = torch.from_numpy(P), torch.from_numpy(PROPOSAL)
        return (p[y] * q[y, x]).log() - (p[x] * q[x, y]).log()


def states(images):
    return (images.flatten(1)[:, 0] / 60).round().long()


def picture(index):
    return (LEVELS[index].float() / 255)[:, None, None, None]


def proposer(seed):
    draw = torch.Generator().manual_seed(seed)

    def propose(y):
        rows = torch.from_numpy(PROPOSAL)[states(y * 255)]
        x = torch.multinomial(rows, 1, generator=draw).squeeze(1)
        return x[:, None].float(), picture(x)

    return propose


def starts(chains, law=P, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return picture(torch.multinomial(torch.from_numpy(law), chains, True, generator=draw))


@pytest.mark.parametrize("floor", [0.0, 1e-6])
def test_pair_chains_with_the_exact_ratio_give_p(floor):
    far = np.array([1.0, 0, 0, 0, 0])
    found = pair_chains(
        proposer(1), Exact(), floor, starts(20_000, far), 60, torch.Generator().manual_seed(2)
    )
    assert found.images.dtype == torch.uint8
    index = states(found.images.float())
    counts = np.bincount(index.numpy(), minlength=5)
    assert stats.chisquare(counts, 20_000 * P).pvalue > 0.003
    assert found.moved.all()
    assert torch.equal(found.latents[:, 0].long(), index)  # latents are those of the images
    # p(x) q(y|x) / p(y) q(x|y), at p: the acceptance is 1 - TV of the joint and its transpose
    joint = P[:, None] * PROPOSAL
    expected = 1 - 0.5 * np.abs(joint - joint.T).sum()
    assert found.acceptance == pytest.approx(expected, abs=0.005)


def test_pair_chains_that_follow_every_proposal_give_its_stationary_law():
    found = pair_chains(
        proposer(1), Exact(), 0.0, starts(20_000), 60, torch.Generator().manual_seed(2),
        accept_all=True,
    )  # fmt: skip
    law = np.linalg.matrix_power(PROPOSAL, 200)[0]
    counts = np.bincount(states(found.images.float()).numpy(), minlength=5)
    assert stats.chisquare(counts, 20_000 * law).pvalue > 0.003
    assert found.moved.all()


@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_pair_chains_of_one_step_by_hand(floor):
    """The law after one step, from d with its floor, and with a temperature."""
    joint = P[:, None] * PROPOSAL
    d = floor + (1 - floor) * joint / (joint + joint.T)
    accept = np.minimum(1, np.sqrt(d.T / d))  # at [y, x], temperature 2
    kernel = PROPOSAL * accept
    kernel += np.diag(1 - kernel.sum(1))
    begin = np.array([0.1, 0.2, 0.3, 0.2, 0.2])
    found = pair_chains(
        proposer(1), Exact(), floor, starts(40_000, begin), 1, torch.Generator().manual_seed(2),
        temperature=2.0,
    )  # fmt: skip
    counts = np.bincount(states(found.images.float()).numpy(), minlength=5)
    assert stats.chisquare(counts, 40_000 * begin @ kernel).pvalue > 0.003


def test_unmoved_pair_chains_are_marked():
    class Never(nn.Module):
        def forward(self, first, second):
            return torch.full((len(first),), math.nan)

    begin = starts(50)
    found = pair_chains(proposer(1), Never(), 0.0, begin, 5, torch.Generator().manual_seed(0))
    assert not found.moved.any()
    assert found.acceptance == 0


def test_encoder_learns_latents():
    """Images whose pixels are a linear function of the latent."""
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(1000, 2, 1, generator=draw)
    mix = torch.randn(2, 64, generator=draw)
    made = torch.sigmoid(z.flatten(1) @ mix).reshape(-1, 1, 8, 8)
    pixels = (made * 255).round().to(torch.uint8)
    torch.manual_seed(0)
    net, told = Encoder((1, 8, 8), (2, 1), width=4), []
    explained = fit_encoder(
        net, pixels, z, torch.Generator().manual_seed(1), epochs=8, lr=1e-2,
        on_step=lambda: told.append(1),
    )  # fmt: skip
    assert len(told) == 8 * (1000 // 128)
    assert not net.training
    with torch.no_grad():
        found = net(made)
    assert found.shape == z.shape
    error = float((found - z).square().mean() / z.var())
    assert explained > 0.8
    assert 1 - error == pytest.approx(explained, abs=0.05)
