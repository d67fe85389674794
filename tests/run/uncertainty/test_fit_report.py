"""The section `fit`: counts, distances and their null, judged on statistics that are known."""

import json

import pytest
import torch
from scipy import stats

from bnnkit.layers.statistics_samplers import fit_sampler
from bnnkit.methods.sbn import Collected
from bnnkit.run.uncertainty.fit_report import fit_section
from bnnkit.spec import Report

CHANNELS = (20, 12)
D = 2 * sum(CHANNELS)


def collected(draws):
    return Collected(("bn1", "block.bn"), CHANNELS, draws, 32)


def section(draws, sampler="lowrank", rank=3):
    found = collected(draws)
    fitted = fit_sampler(sampler, draws, found.mean, found.deviation, found.sizes, rank)
    return fit_section(found, fitted, sampler, 1.5, 0)


def normal(n=120, seed=0):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def test_what_was_fitted_is_counted():
    body = section(normal())
    counts = ("sampler", "batch_size", "batches", "layers", "channels", "statistics", "seconds")
    assert [body[key] for key in counts] == ["lowrank", 32, 120, 2, 32, 64, 1.5]
    assert body["store_bytes"] == 4 * (D + 3 * D + D)
    assert body["replay_bytes"] == 4 * 120 * D
    json.dumps(body)


@pytest.mark.parametrize(
    ("sampler", "numbers"),
    [("factorised", 2 * D), ("layer-gaussian", D + 40 * 40 + 24 * 24), ("replay", 120 * D)],
)
def test_the_store_of_each_sampler(sampler, numbers):
    assert section(normal(), sampler)["store_bytes"] == 4 * numbers


def test_normal_statistics_are_at_the_level_of_the_null():
    draws = normal()
    ks = section(draws)["ks"]
    z = ((draws - draws.mean(0)) / draws.std(0)).numpy()
    distances = [stats.kstest(z[:, i], "norm").statistic for i in range(D)]
    assert ks["median"] == pytest.approx(float(torch.tensor(distances).quantile(0.5)), abs=2e-3)
    assert ks["median"] == pytest.approx(ks["null_median"], rel=0.1)
    assert ks["rejected_share"] < 15
    assert ks["n"] == D
    assert ks["null_95"] == pytest.approx(0.886 / 120**0.5, rel=0.05)  # Lilliefors' table


def test_statistics_that_are_not_normal_are_rejected():
    ks = section(normal().exp())["ks"]
    assert ks["rejected_share"] > 95
    assert ks["median"] > ks["null_95"]


def test_the_histogram_counts_means_and_deviations_apart():
    draws = normal()
    draws[:, :20] = draws[:, :20].exp()  # the means of the first layer
    found = section(draws)["histogram"]
    assert sum(found["means"]) == sum(found["deviations"]) == sum(CHANNELS)
    assert sum(found["null"]) == pytest.approx(sum(CHANNELS))
    assert len(found["edges"]) == len(found["null"]) + 1
    middles = torch.tensor(found["edges"]).unfold(0, 2, 1).mean(1)
    means, deviations = (
        float((middles * torch.tensor(found[key])).sum() / sum(CHANNELS))
        for key in ("means", "deviations")
    )
    assert means > 1.5 * deviations


def test_correlation_between_layers_is_seen():
    draws = normal()
    draws += 2 * torch.randn(len(draws), 1, generator=torch.Generator().manual_seed(5))
    body = section(draws)["correlation"]
    assert body["layers"] == ["bn1", "block.bn"]
    alone = section(normal())["correlation"]["matrix"]
    assert body["matrix"][0][1] == pytest.approx(body["matrix"][1][0])
    assert body["matrix"][0][1] > 0.6 > alone[0][1]


def test_channels_that_never_move_have_no_distance():
    draws = normal()
    draws[:, :20] = 1.0
    body = section(draws)
    assert body["ks"]["n"] == D - 20
    assert sum(body["histogram"]["means"]) == sum(CHANNELS) - 20
    still = section(torch.ones(60, D))
    assert "ks" not in still
    assert "histogram" not in still
    assert "NaN" not in Report("sbn-fit", {}, {"fit": still}).to_json()
