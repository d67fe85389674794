"""The inception score against torchmetrics and its closed cases."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from bnnkit.errors import DataError
from bnnkit.io.vision import torchvision
from bnnkit.metrics.generative import inception_score


@pytest.fixture(scope="module")
def reference():
    torchvision()  # torchmetrics imports it, also where its compiled operators are missing
    return importlib.import_module("torchmetrics.image.inception").InceptionScore


@pytest.mark.parametrize(("n", "k", "splits"), [(1000, 10, 10), (600, 5, 3), (400, 100, 2)])
@pytest.mark.filterwarnings("ignore:Metric")
def test_equals_torchmetrics_on_the_same_splits(reference, n, k, splits):
    logits = 3 * torch.randn(n, k, generator=torch.Generator().manual_seed(0)).double()
    metric = reference(feature=nn.Identity(), splits=splits)
    metric.update(logits)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        mean, sd = metric.compute()
    got = inception_score(logits.softmax(1), splits, torch.Generator().manual_seed(3))
    assert got == pytest.approx((float(mean), float(sd)), rel=1e-9)


def test_sure_answers_of_every_class_score_the_number_of_classes():
    sure = torch.eye(7).repeat(20, 1)
    assert inception_score(sure, 4) == pytest.approx((7, 0))
    assert inception_score(sure, 1) == pytest.approx((7, 0))


def test_equal_answers_score_one():
    p = torch.tensor([[0.2, 0.5, 0.3]]).repeat(40, 1)
    assert inception_score(p)[0] == pytest.approx(1)


def test_without_a_generator_the_rows_stay_in_order():
    rows = torch.eye(2).repeat_interleave(10, 0)
    assert inception_score(rows, 2)[0] == pytest.approx(1)  # one class in each split
    assert inception_score(rows, 2, torch.Generator().manual_seed(0))[0] > 1.5


@pytest.mark.parametrize(
    ("p", "splits", "message"),
    [
        (torch.randn(20, 4), 2, "sum to one"),
        (torch.full((5, 4), 0.25), 6, "6 splits of 5 rows"),
        (torch.full((5, 4), torch.nan), 1, "not a finite number"),
        (torch.ones(5), 1, r"\[n, d\]"),
    ],
)
def test_refusals(p, splits, message):
    with pytest.raises(DataError, match=message):
        inception_score(p, splits)
