"""Samplers against their definitions: large samples, numpy covariances and numpy's SVD."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from scipy import stats

from bnnkit.io.export import write_onnx
from bnnkit.layers.statistics_samplers import build_sampler, fit_sampler
from bnnkit.spec.noise import SAMPLERS

SIZES = (4, 6, 10)
D = sum(SIZES)


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def recorded(n=60, seed=0):
    """Return draws `[n, d]` of correlated statistics in very different units."""
    g = source(seed)
    common = torch.randn(n, 3, generator=g) @ torch.randn(3, D, generator=g)
    scale = 10 ** torch.linspace(-2, 2, D)
    return 5 + scale * (common + 0.5 * torch.randn(n, D, generator=g))


def fitted(name, draws, rank=5):
    mean, deviation = draws.double().mean(0), draws.double().std(0)
    return fit_sampler(name, draws, mean, deviation, SIZES, rank)


def sampled(sampler, n=40_000, seed=1):
    return sampler(torch.randn(n, sampler.noise_size, generator=source(seed))).double()


def covariance(draws):
    return np.cov(draws.double().numpy(), rowvar=False, ddof=1)


def in_layer():
    """Return the mask `[d, d]` of pairs of one layer."""
    layer = np.repeat(np.arange(len(SIZES)), SIZES)
    return layer[:, None] == layer[None, :]


def gram(factor):
    return (factor.double().T @ factor.double()).numpy()


def close_covariances(found, expected, sd, tolerance):
    np.testing.assert_allclose(
        found / np.outer(sd, sd), expected / np.outer(sd, sd), atol=tolerance
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_mean_and_deviation_of_large_samples(name):
    draws = recorded()
    sampler = fitted(name, draws, rank=59)
    assert sampler(torch.zeros(1, sampler.noise_size)).shape == (1, D)
    x = sampled(sampler)
    sd = draws.double().std(0)
    ddof = 0 if name == "replay" else 1  # replay draws from the batches themselves
    sd_of = draws.double().std(0, correction=ddof)
    assert float(((x.mean(0) - draws.double().mean(0)) / sd).abs().max()) < 4.5 / 40_000**0.5
    np.testing.assert_allclose(x.std(0) / sd_of, np.ones(D), atol=0.02)


@pytest.mark.parametrize("name", ["factorised", "layer-gaussian", "lowrank"])
def test_a_gaussian_without_noise_gives_the_mean(name):
    draws = recorded()
    sampler = fitted(name, draws)
    without = sampler(torch.zeros(1, sampler.noise_size))[0]
    np.testing.assert_allclose(without, draws.mean(0), rtol=1e-5)


def test_factorised_statistics_are_independent_gaussians():
    x = sampled(fitted("factorised", recorded()))
    correlation = np.corrcoef(x.numpy(), rowvar=False)
    assert np.abs(correlation - np.eye(D)).max() < 5 / 40_000**0.5
    # Kolmogorov's statistic passes 1.95 / sqrt(n) once in a thousand
    z = ((x - x.mean(0)) / x.std(0)).numpy()
    for column in z.T:
        assert stats.kstest(column, "norm").statistic < 1.95 / 40_000**0.5


@pytest.mark.parametrize("n", [60, 8], ids=["more batches than channels", "fewer"])
def test_layer_gaussian_has_the_covariance_of_each_layer_and_none_across(n):
    draws = recorded(n)
    sampler = fitted("layer-gaussian", draws)
    expected = np.where(in_layer(), covariance(draws), 0.0)
    sd = draws.double().std(0).numpy()
    # exactly, from the map of unit noise
    maps = sampler(torch.eye(sampler.noise_size)) - sampler(torch.zeros(1, sampler.noise_size))
    close_covariances(gram(maps), expected, sd, 1e-4)
    close_covariances(covariance(sampled(sampler)), expected, sd, 0.035)


def test_layer_gaussian_needs_no_more_noise_than_it_has_directions():
    assert fitted("layer-gaussian", recorded(60)).noise_size == D
    assert fitted("layer-gaussian", recorded(8)).noise_size == 4 + 6 + 7  # n - 1 at most


@pytest.mark.parametrize("n", [60, 12], ids=["more batches than statistics", "fewer"])
@pytest.mark.parametrize("rank", [1, 3, 7])
def test_lowrank_is_the_best_approximation_of_the_correlations(n, rank):
    draws = recorded(n)
    sampler = fitted("lowrank", draws, rank)
    x = draws.double().numpy()
    sd = x.std(0, ddof=1)
    z = (x - x.mean(0)) / sd / np.sqrt(n - 1)
    _, s, vt = np.linalg.svd(z, full_matrices=False)
    best = (vt[:rank].T * s[:rank] ** 2) @ vt[:rank]
    assert sampler.noise_size == rank + D
    close_covariances(gram(sampler.factor), best * np.outer(sd, sd), sd, 1e-5)
    # the rest makes every variance whole, and adds no covariance
    whole = best + np.diag(1 - np.diag(best).clip(max=1))
    np.testing.assert_allclose(
        np.diag(gram(sampler.factor)) + sampler.residual.numpy() ** 2, sd**2, rtol=1e-4
    )
    close_covariances(covariance(sampled(sampler)), whole * np.outer(sd, sd), sd, 0.035)


def test_lowrank_of_full_rank_is_the_sample_covariance():
    draws = recorded(12)
    sampler = fitted("lowrank", draws, rank=11)
    close_covariances(gram(sampler.factor), covariance(draws), draws.double().std(0).numpy(), 1e-5)


def test_lowrank_does_not_depend_on_units():
    draws = recorded()
    scale = 10 ** torch.linspace(2, -1, D)
    whole, scaled = fitted("lowrank", draws, 3), fitted("lowrank", draws * scale, 3)
    np.testing.assert_allclose(
        gram(scaled.factor), gram(whole.factor * scale), rtol=1e-3, atol=1e-6
    )


def test_replay_gives_stored_rows_each_as_often():
    draws = recorded(25)
    sampler = fitted("replay", draws)
    assert sampler.noise_size == 1
    out = sampler(torch.randn(50_000, 1, generator=source(3)))
    match = (out[:, None, :] == draws[None]).all(2)
    assert match.sum(1).eq(1).all()  # one stored row each, bit for bit
    assert stats.chisquare(match.sum(0).numpy()).pvalue > 1e-3


def test_replay_can_be_asked_for_each_row_and_stays_inside():
    draws = recorded(25)
    sampler = fitted("replay", draws)
    noise = torch.special.ndtri((torch.arange(25) + 0.5) / 25)[:, None]
    assert sampler(noise).equal(draws)
    assert sampler(torch.tensor([[-40.0], [40.0]])).equal(draws[[0, -1]])


@pytest.mark.parametrize("n", [50, 64, 300, 5000])
def test_replay_picks_the_same_batch_in_every_precision_and_runtime(n, tmp_path):
    """Noise on the edges of the cells and beside them, where erf is rounded to either side."""
    draws = torch.arange(float(n))[:, None]
    sampler = fit_sampler("replay", draws, draws[0], draws[0], (1,), 1)
    edges = stats.norm.ppf(np.arange(1, n) / n).astype(np.float32)
    below, above = (np.nextafter(edges, np.float32(side)) for side in (-np.inf, np.inf))
    noise = torch.from_numpy(np.concatenate([below, edges, above]))[:, None]
    expected = np.tile(np.arange(n - 1), 3) + np.repeat([0, 1, 1], n - 1)
    np.testing.assert_array_equal(sampler(noise)[:, 0], expected)
    written = write_onnx(sampler, noise, tmp_path / "replay.onnx")
    session = onnxruntime.InferenceSession(str(written.path))
    (found,) = session.run(None, {"input": noise.numpy()})
    np.testing.assert_array_equal(found[:, 0], expected)
    np.testing.assert_array_equal(sampler.double()(noise.double())[:, 0], expected)


def test_replay_without_draws_is_refused():
    with pytest.raises(IndexError, match="no draws"):
        build_sampler("replay", {"draws": torch.zeros(0, D)})


def test_replay_keeps_its_own_copy():
    draws = recorded(25)
    sampler = fitted("replay", draws)
    before = sampler.draws.clone()
    draws.zero_()
    assert sampler.draws.equal(before)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_constant_statistic_stays_constant(name):
    draws = recorded()
    draws[:, 7] = -11.5
    x = sampled(fitted(name, draws), 200)
    assert x.isfinite().all()
    np.testing.assert_allclose(x[:, 7], np.full(200, -11.5), rtol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_comes_back_from_its_tensors(name):
    sampler = fitted(name, recorded())
    noise = torch.randn(9, sampler.noise_size, generator=source())
    again = build_sampler(name, {k: v.clone() for k, v in sampler.state_dict().items()})
    assert again.noise_size == sampler.noise_size
    assert again(noise).equal(sampler(noise))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_without_its_tensors_is_refused(name):
    with pytest.raises(KeyError):
        build_sampler(name, {})


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'copula'"):
        fitted("copula", recorded())
    with pytest.raises(ValueError, match="'copula'"):
        build_sampler("copula", {})
