"""Chains of a class: where they start, and what they are offered."""

from types import SimpleNamespace

import pytest
import torch

from bnnkit.errors import DataError, TrainingError
from bnnkit.run.filtering.chains import run_chains, start_scores
from bnnkit.run.filtering.filtered import _from_real
from bnnkit.run.filtering.job import Bank

LABELS = torch.tensor([0, 1, 1, 2, 2, 2]).repeat(50)


def job(labels=LABELS, length=30):
    return SimpleNamespace(
        held=SimpleNamespace(labels=labels),
        config=SimpleNamespace(length=length),
        random=lambda purpose: torch.Generator().manual_seed(purpose),
        dealt=lambda total: [total // 6, total // 3, total // 2],
    )


def draws():
    return torch.Generator().manual_seed(0)


def test_a_chain_starts_at_an_image_of_its_own_class():
    scores = 10.0 * LABELS + torch.rand(len(LABELS), generator=draws())
    told = torch.tensor([2, 0, 1, 1, 0, 2]).repeat(100)
    found = start_scores(job(), scores, told, len(told), draws())
    assert torch.equal((found // 10).long(), told)
    assert set(found.tolist()) <= set(scores.tolist())
    assert len(found[told == 0].unique()) > 40  # of the 50 images of that class


def test_without_classes_any_image_is_a_start():
    scores = torch.arange(300.0)
    found = start_scores(job(), scores, None, 5000, draws())
    assert len(found.unique()) == 300
    assert float(found.mean()) == pytest.approx(149.5, abs=4)


def test_a_class_without_a_start_is_named():
    with pytest.raises(DataError, match=r"class 2: no held-out real image of it.*--held"):
        start_scores(job(LABELS % 2), LABELS.float(), torch.tensor([0, 2]), 2, draws())


def test_a_class_is_offered_its_own_proposals_only():
    labels = torch.arange(600) % 3
    scores = torch.rand(600, generator=draws()).double()
    bank = Bank(torch.zeros(600, 1), torch.zeros(600, 1, 1, 1), labels)
    rows, walks = run_chains(job(), bank, scores, torch.rand(300).double(), 600, 1)
    assert torch.bincount(labels[rows]).tolist() == [100, 200, 300]
    assert [len(walk.rows) for walk in walks] == [100, 200, 300]
    other = Bank(bank.latents, bank.images, labels * 2)
    with pytest.raises(DataError, match=r"class 1: no proposal of it.*--bank"):
        run_chains(job(), other, scores, torch.rand(300).double(), 600, 1)


def test_acceptance_at_real_images_is_that_within_the_classes():
    """Classes far apart, and within a class real and generated alike: all is accepted."""
    real, fresh = torch.arange(4) % 2, torch.arange(6) % 2
    chosen = SimpleNamespace(held=100.0 * real, fresh=100.0 * fresh, fresh_labels=fresh)
    found = _from_real(job(real), chosen)
    assert found == {"acceptance_from_real": 1.0, "tv_estimate": 0.0}
    chosen.fresh_labels = None  # over all pairs, a quarter of them from high to low
    assert _from_real(job(real), chosen)["acceptance_from_real"] == pytest.approx(0.75)


def test_chains_that_do_not_move_name_their_class():
    labels = torch.arange(600) % 3
    bank = Bank(torch.zeros(600, 1), torch.zeros(600, 1, 1, 1), labels)
    starts = torch.where(LABELS == 1, 1e4, 0.0).double()
    with pytest.raises(TrainingError, match="Filtering the class 1: 40 of 40 chains"):
        run_chains(job(length=2), bank, torch.zeros(600).double(), starts, 120, 1)
