"""Calibration against closed forms and scikit-learn's own predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import logit
from sklearn.isotonic import IsotonicRegression
from torch import nn

from bnnkit.errors import UsageError
from bnnkit.methods.mh.calibrate import isotonic_knots, platt_slope
from bnnkit.methods.mh.scores import CalibratedScore

EDGE = 1e-4


def gaussian(n, m, shift, deviation, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return (
        deviation * torch.randn(n, generator=draw) + shift,
        deviation * torch.randn(m, generator=draw) - shift,
    )


@pytest.mark.parametrize("sizes", [(20_000, 20_000), (40_000, 8_000), (8_000, 40_000)])
@pytest.mark.parametrize(("shift", "deviation"), [(1.0, 1.0), (0.5, 2.0), (3.0, 4.0)])
def test_platt_slope_of_gaussian_scores(shift, deviation, sizes):
    """N(m, s^2) against N(-m, s^2) has the log ratio 2 m / s^2 times the score, whatever n : m."""
    slope = platt_slope(*gaussian(*sizes, shift, deviation))
    assert slope == pytest.approx(2 * shift / deviation**2, rel=0.05)


def test_platt_slope_of_a_rescaled_score_is_rescaled():
    real, fake = gaussian(3000, 3000, 1.0, 1.0)
    slope = platt_slope(real, fake)
    assert platt_slope(10 * real + 7, 10 * fake + 7) == pytest.approx(slope / 10, rel=1e-3)


def test_platt_solves_the_score_equations():
    """Residuals are orthogonal to 1 and to the score, with both sides weighted equally."""
    real, fake = gaussian(1500, 500, 1.0, 1.3)
    slope = platt_slope(real, fake)
    s = torch.cat([real, fake]).double()
    y = torch.cat([torch.ones(1500), torch.zeros(500)]).double()
    w = torch.where(y > 0, 1 / 1500, 1 / 500).double()
    low, high = -50.0, 50.0
    for _ in range(100):  # the intercept that balances the residuals
        middle = (low + high) / 2
        residual = float((w * (y - torch.sigmoid(slope * s + middle))).sum())
        low, high = (middle, high) if residual > 0 else (low, middle)
    assert float((w * s * (y - torch.sigmoid(slope * s + low))).sum()) == pytest.approx(
        0, abs=1e-3
    )


def test_scores_that_point_the_wrong_way_are_refused():
    real, fake = gaussian(500, 500, 1.0, 1.0)
    with pytest.raises(UsageError, match="slope of -"):
        platt_slope(fake, real)


def test_no_numbers_are_left_out():
    real, fake = gaussian(2000, 2000, 1.0, 1.0)
    hole = torch.tensor([math.nan])
    assert platt_slope(torch.cat([real, hole]), torch.cat([hole, fake])) == platt_slope(real, fake)
    assert torch.equal(isotonic_knots(torch.cat([real, hole]), fake), isotonic_knots(real, fake))


def reference(real, fake):
    x = torch.cat([real, fake]).double().numpy()
    y = np.r_[np.ones(len(real)), np.zeros(len(fake))]
    w = np.r_[np.full(len(real), 1 / len(real)), np.full(len(fake), 1 / len(fake))]
    return IsotonicRegression(out_of_bounds="clip").fit(x, y, sample_weight=w), x


def calibrated(knots, temperature=1.0):
    return CalibratedScore(nn.Identity(), temperature, knots)


@pytest.mark.parametrize("sizes", [(400, 400), (900, 150)])
@pytest.mark.parametrize("digits", [None, 1])
def test_isotonic_map_at_the_fitted_scores_is_sklearns(sizes, digits):
    real, fake = gaussian(*sizes, 0.7, 1.0)
    if digits is not None:  # many equal scores
        real, fake = (torch.round(s * 10) / 10 for s in (real, fake))
    model, x = reference(real, fake)
    expected = logit(np.clip(model.predict(x), EDGE, 1 - EDGE))
    found = calibrated(isotonic_knots(real, fake)).calibrate(torch.from_numpy(x))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


def test_isotonic_map_between_and_beyond_the_fitted_scores():
    real, fake = gaussian(300, 300, 0.7, 1.0)
    model, x = reference(real, fake)
    grid = np.linspace(x.min() - 3, x.max() + 3, 4001)
    found = calibrated(isotonic_knots(real, fake)).calibrate(torch.from_numpy(grid)).numpy()
    assert (np.diff(found) >= -1e-6).all()
    order = np.sort(x)
    below = order[np.clip(np.searchsorted(order, grid, "right") - 1, 0, len(x) - 1)]
    above = order[np.clip(np.searchsorted(order, grid), 0, len(x) - 1)]
    low, high = (
        logit(np.clip(model.predict(v), EDGE, 1 - EDGE)) for v in (below, above)
    )  # the fitted neighbours
    assert (found >= low - 1e-4).all()
    assert (found <= high + 1e-4).all()
    flat = low == high
    np.testing.assert_allclose(found[flat], low[flat], atol=1e-5)


def test_equal_scores_stay_equal_and_no_number_stays_none():
    real, fake = gaussian(300, 300, 0.7, 1.0)
    raw = torch.tensor([0.3, 0.3, math.nan, math.inf, -math.inf])
    found = calibrated(isotonic_knots(real, fake)).calibrate(raw)
    assert found[0] == found[1]
    assert found[2].isnan()
    assert found[3] > found[0] > found[4]
    assert found[3:].isfinite().all()


def test_sides_that_do_not_overlap_stay_finite():
    found = calibrated(isotonic_knots(torch.tensor([2.0, 3.0]), torch.tensor([-1.0, 0.0])))
    edge = float(logit(1 - EDGE))
    mapped = found.calibrate(torch.tensor([-9.0, 0.0, 1.0, 2.0, 9.0]))
    assert mapped.tolist() == pytest.approx([-edge, -edge, 0.0, edge, edge], abs=1e-3)


def test_scores_that_say_nothing_are_one_level():
    knots = isotonic_knots(torch.zeros(5), torch.zeros(9))
    found = calibrated(knots).calibrate(torch.tensor([-1.0, 0.0, 1.0]))
    assert found.tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    backwards = isotonic_knots(torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 2.0]))
    assert calibrated(backwards).calibrate(torch.tensor([-5.0, 5.0])).diff().abs() < 1e-6


def test_temperature_divides():
    raw = torch.tensor([-1.0, 4.0])
    assert CalibratedScore(nn.Identity(), 2.0).calibrate(raw).tolist() == [-0.5, 2.0]
    knots = torch.tensor([[0.0, 1.0], [-2.0, 2.0]])
    assert calibrated(knots, 4.0).calibrate(torch.tensor([0.0, 0.5, 1.0])).tolist() == [
        -0.5, 0.0, 0.5,
    ]  # fmt: skip


def test_isotonic_calibration_finds_the_log_ratio():
    """Of scores that are a monotone but wrong function of the ratio."""
    real, fake = gaussian(60_000, 60_000, 1.0, 1.0)
    found = calibrated(isotonic_knots(real.sinh(), fake.sinh()))
    s = torch.linspace(-1.5, 1.5, 13)
    error = found.calibrate(s.sinh()) - 2 * s
    assert float(error.abs().max()) < 0.25
