"""Out-of-domain detection against brute force, scikit-learn, torchmetrics and the bootstrap."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from bnnkit.errors import DataError
from bnnkit.io.vision import torchvision
from bnnkit.metrics import (
    AUPR,
    AUROC,
    FPR95,
    auroc_interval,
    detection,
    paired_auroc_difference,
)


@pytest.fixture(scope="module")
def reference():
    torchvision()  # torchmetrics imports it, also where its compiled operators are missing
    return importlib.import_module("torchmetrics.functional.classification")


def draw(n, m, shift, *, seed=0, levels=None):
    """Return scores in [0, 1] inside and outside, on a grid of `levels` where it is given."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=g).double().sigmoid()
    y = (torch.randn(m, generator=g).double() + shift).sigmoid()
    return ((x * levels).round() / levels, (y * levels).round() / levels) if levels else (x, y)


def pairs(x, y):
    """Return 1, 1/2 or 0 for every pair, outside by inside: the definition of the area."""
    return (y[:, None] > x).double() + 0.5 * (y[:, None] == x).double()


def delong_covariance(curves):
    """Return the matrix of DeLong et al. (1988, eq. 5) of curves given as matrices of pairs."""
    outside = np.cov(np.stack([c.mean(1).numpy() for c in curves]))
    inside = np.cov(np.stack([c.mean(0).numpy() for c in curves]))
    return outside / len(curves[0]) + inside / curves[0].shape[1]


SETS = [
    draw(300, 200, 1.0),
    draw(300, 200, 1.0, levels=6),
    draw(57, 140, -0.5, levels=3),
    draw(40, 20, 4.0, levels=50),
    draw(1, 1, 0.0),
]


@pytest.mark.parametrize(("x", "y"), SETS)
def test_against_brute_force_sklearn_and_torchmetrics(x, y, reference):
    found = detection(x, y)
    scores, kind = torch.cat([x, y]), torch.cat([torch.zeros(len(x)), torch.ones(len(y))]).long()
    arrays = kind.numpy(), scores.numpy()
    assert found[AUROC] == pytest.approx(float(pairs(x, y).mean()), abs=1e-12)
    assert found[AUROC] == pytest.approx(roc_auc_score(*arrays), abs=1e-12)
    assert found[AUROC] == pytest.approx(float(reference.binary_auroc(scores, kind)), abs=1e-6)
    assert found[AUPR] == pytest.approx(average_precision_score(*arrays), abs=1e-12)
    expected = float(reference.binary_average_precision(scores, kind))
    assert found[AUPR] == pytest.approx(expected, abs=1e-6)
    fpr, tpr, _ = roc_curve(*arrays, drop_intermediate=False)
    assert found[FPR95] == pytest.approx(fpr[tpr >= 0.95 - 1e-12].min(), abs=1e-12)


def test_fpr95_against_torchmetrics(reference):
    x, y = draw(500, 300, 1.5, levels=40)
    scores, kind = torch.cat([x, y]), torch.cat([torch.zeros(500), torch.ones(300)]).long()
    specificity, _ = reference.binary_specificity_at_sensitivity(
        scores, kind, min_sensitivity=0.95
    )
    assert detection(x, y)[FPR95] == pytest.approx(1 - float(specificity), abs=1e-6)


def test_the_threshold_keeps_exactly_19_of_20():
    outside = torch.arange(20.0)
    assert detection(torch.tensor([0.5, 1.0, 2.0, 0.0]), outside)[FPR95] == 0.5


def test_scores_that_part_and_scores_that_all_tie():
    parted = detection(torch.zeros(9), torch.ones(30))
    assert parted == {AUROC: 1.0, AUPR: 1.0, FPR95: 0.0}
    tied = detection(torch.zeros(10), torch.zeros(30))
    assert tied == {AUROC: 0.5, AUPR: 0.75, FPR95: 1.0}


def test_infinite_scores_have_an_order():
    assert detection(torch.tensor([0.0, 1.0]), torch.tensor([torch.inf, 0.5]))[AUROC] == 0.75


@pytest.mark.parametrize(("x", "y"), SETS[:4])
def test_standard_error_against_the_covariance_matrix(x, y):
    found = auroc_interval(x, y, level=0.9)
    curve = pairs(x, y)
    se = float(np.sqrt(delong_covariance([curve, curve])[0, 0]))
    assert found["value"] == pytest.approx(float(curve.mean()), abs=1e-12)
    assert found["se"] == pytest.approx(se, rel=1e-9)
    assert found["low"] == pytest.approx(max(0, found["value"] - 1.6448536 * se), abs=1e-7)
    assert found["high"] == pytest.approx(min(1, found["value"] + 1.6448536 * se), abs=1e-7)
    assert found["n"] == len(x) + len(y)


def test_difference_of_correlated_curves_against_the_covariance_matrix():
    xa, ya = draw(150, 90, 1.0, levels=20)
    g = torch.Generator().manual_seed(9)
    xb = xa + 0.3 * torch.rand(150, generator=g).double()
    yb = ya + 0.3 * torch.rand(90, generator=g).double()
    found = paired_auroc_difference(xa, ya, xb, yb)
    a, b = pairs(xa, ya), pairs(xb, yb)
    s = delong_covariance([a, b])
    se = np.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1])
    assert found["value"] == pytest.approx(float(b.mean() - a.mean()), abs=1e-12)
    assert found["se"] == pytest.approx(float(se), rel=1e-9)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.959964 * se, rel=1e-6)
    back = paired_auroc_difference(xb, yb, xa, ya)
    assert back["value"] == pytest.approx(-found["value"], abs=1e-12)


def test_standard_errors_against_the_bootstrap():
    xa, ya = draw(400, 300, 1.0)
    g = torch.Generator().manual_seed(3)
    xb = xa + 0.2 * torch.randn(400, generator=g).double()
    yb = ya + 0.2 * torch.randn(300, generator=g).double()
    draws = []
    for _ in range(1500):
        i = torch.randint(400, (400,), generator=g)
        j = torch.randint(300, (300,), generator=g)
        draws.append([detection(xa[i], ya[j])[AUROC], detection(xb[i], yb[j])[AUROC]])
    both = torch.tensor(draws).double()
    # 1,500 resamples know a deviation to 1.8 %
    one = auroc_interval(xa, ya)["se"]
    assert one == pytest.approx(float(both[:, 0].std()), rel=0.07)
    difference = paired_auroc_difference(xa, ya, xb, yb)["se"]
    assert difference == pytest.approx(float((both[:, 1] - both[:, 0]).std()), rel=0.07)
    assert difference < one


def test_coverage():
    hits = 0
    for seed in range(600):
        found = auroc_interval(*draw(80, 60, 1.0, seed=seed))
        hits += found["low"] <= 0.7602499 <= found["high"]  # Phi(1 / sqrt 2)
    assert 0.92 < hits / 600 < 0.98


def test_one_input_of_a_kind_says_nothing():
    found = auroc_interval(torch.zeros(1), torch.ones(5))
    assert (found["value"], found["low"], found["high"]) == (1, 0, 1)


def test_the_same_scores_twice():
    x, y = SETS[0]
    found = paired_auroc_difference(x, y, x, y)
    assert (found["value"], found["se"]) == (0, 0)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (torch.zeros(0), torch.zeros(3), r"shape \[0\] inside"),
        (torch.zeros(2), torch.zeros(3, 1), r"shape \[3, 1\] outside"),
        (torch.zeros(2), torch.tensor([0, torch.nan, 1]), "1 of 3 inputs outside"),
    ],
)
def test_refuses_what_has_no_order(x, y, said):
    with pytest.raises(DataError, match=said):
        detection(x, y)


def test_refuses_other_inputs():
    x = torch.zeros(4)
    with pytest.raises(DataError, match=r"\[4\] and \[3\] scores outside"):
        paired_auroc_difference(x, x, x, torch.zeros(3))
