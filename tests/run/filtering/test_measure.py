"""Figures of few images: no measure stops a run."""

import pytest
import torch

from bnnkit.metrics.generative import inception_score
from bnnkit.run.filtering.measure import class_score


@pytest.mark.parametrize("rows", [1, 2, 9, 999, 1000])
def test_an_inception_score_of_few_rows_is_taken_in_one_split(rows):
    p = torch.rand(rows, 4, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert class_score(p) == inception_score(p, 10 if rows == 1000 else 1)
