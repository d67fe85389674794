"""SBP: the objective is the ELBO, the decision is SNR < 1, and what is not needed goes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnnkit.errors import UsageError
from bnnkit.graph.analyse import analyse
from bnnkit.methods.sbp import Sbp, kl_weights
from bnnkit.spec.prune import SbpConfig


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def method(config=None, n_examples=100, **options):
    structure = analyse(net(), torch.zeros(2, 10))
    generator = torch.Generator().manual_seed(0)
    return Sbp(structure, config or SbpConfig(), n_examples, generator, **options)


def test_penalty_is_the_kl_of_all_units_over_the_number_of_examples():
    sbp = method()
    torch.testing.assert_close(sbp.penalty(1.0), sbp.gates.kl().sum() / 100)


def test_scales_multiply_the_kl_of_their_layers():
    config = SbpConfig(kl_scale=2.0, kl_scales={"0": 10.0})
    weights = kl_weights(method().structure, config)
    assert weights.tolist() == [10.0] * 12 + [2.0] * 8


def test_warmup_grows_linearly():
    sbp = method(SbpConfig(kl_warmup=0.5))
    full = sbp.penalty(1.0)
    torch.testing.assert_close(sbp.penalty(0.25), full / 2)
    torch.testing.assert_close(sbp.penalty(0.5), full)


def test_a_pattern_without_a_layer_is_refused():
    with pytest.raises(UsageError, match="no removable layer"):
        method(SbpConfig(kl_scales={"nothing.**": 2.0}))


def test_noise_rate_is_ten_times_the_weights_rate_unless_given():
    assert method().parameter_groups(1e-3)[0]["lr"] == pytest.approx(1e-2)
    assert method(SbpConfig(noise_lr=0.5)).parameter_groups(1e-3)[0]["lr"] == 0.5


def test_decision_closes_what_is_below_the_threshold_and_keeps_one():
    sbp = method()
    with torch.no_grad():
        sbp.gates.log_sigma.fill_(-5.0)
        sbp.gates.mu[:12] = -20.0  # the first layer is all noise near zero
        sbp.gates.log_sigma[:12] = 5.0
        sbp.gates.log_sigma[3] = 4.0
    decision = sbp.decide()
    snr = decision.evidence["snr"]
    assert int(decision.keep[:12].sum()) == 1
    assert bool(decision.keep[snr[:12].argmax()])
    assert decision.reopened == ("0",)
    assert bool(decision.keep[12:].all())
    assert bool((decision.theta[~decision.keep] == 0).all())


def test_rounding_keeps_multiples():
    sbp = method(round_to=4)
    with torch.no_grad():
        sbp.gates.log_sigma.fill_(-5.0)
        sbp.gates.mu[:7] = -20.0
        sbp.gates.log_sigma[:7] = 5.0
    assert int(sbp.decide().keep[:12].sum()) == 8


def test_irrelevant_units_are_closed_and_needed_ones_stay():
    """Only input 0 carries the label: the evidence must close most units and keep the function."""
    torch.manual_seed(0)
    x = torch.randn(2000, 10)
    y = (x[:, 0] > 0).long() + (x[:, 0] > 1).long()
    model, sbp = net(), method(SbpConfig(noise_lr=0.05), n_examples=2000)
    optimiser = torch.optim.Adam(
        [{"params": model.parameters(), "lr": 5e-3}, *sbp.parameter_groups(5e-3)]
    )
    with sbp.attach(model):
        for _ in range(400):
            rows = torch.randint(2000, (200,))
            loss = F.cross_entropy(model(x[rows]), y[rows]) + sbp.penalty(1.0)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            sbp.after_step()
    decision = sbp.decide()
    assert int(decision.keep.sum()) <= 15  # of 20
    sbp.gates.eval()
    with sbp.attach(model), torch.no_grad():
        accuracy = float((model(x).argmax(1) == y).float().mean())
    assert accuracy > 0.9
