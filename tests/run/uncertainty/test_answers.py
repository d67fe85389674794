"""Ways to predict, each against the plainest loop that computes the same."""

import copy

import pytest
import torch
from torch import nn

from bnnkit.io.data import load_data
from bnnkit.methods import sbn
from bnnkit.methods.sbn import collect
from bnnkit.methods.sbn.carriers import with_carriers
from bnnkit.run.uncertainty.answers import (
    Answers,
    dropouts,
    ensemble,
    mc_batch_norm,
    mc_dropout,
    of_network,
    of_statistics,
    plain,
)
from bnnkit.spec import DataSpec

CPU = torch.device("cpu")
SIZE = 8


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def softmax(out):
    return out.softmax(1)


@pytest.fixture(scope="module")
def digits():
    return load_data(DataSpec("digits", limit=130))


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout2d(0.3),
            nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.0),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.4), nn.Linear(32, 10),
        )  # fmt: skip
    return model.train()


def shuffled(digits):
    """Return 64 different batches."""
    g = source(5)
    return [
        x for _ in range(4) for x, _ in digits.train.batches(SIZE, shuffle=True, generator=g)
        if len(x) == SIZE
    ]  # fmt: skip


@pytest.fixture(scope="module")
def network(net, digits):
    loader = shuffled(digits)
    return sbn.fit(net, loader, batches=50, samples=4, sampler="factorised", seed=2)


def inputs(split):
    return torch.cat([x for x, _ in split.batches(len(split))])


def brute(members):
    """Average probabilities `[k, n, c]`: log of the mean, mean entropy, mutual information."""
    p = members.double()
    mean = p.mean(0)
    each = -(p * p.log()).sum(-1).mean(0)
    return mean.log(), each, -(mean * mean.log()).sum(-1) - each


def check(found, members, split):
    log_probs, expected, mutual = brute(members)
    torch.testing.assert_close(found.log_probs, log_probs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.expected_entropy, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.mutual_information, mutual, rtol=1e-3, atol=1e-5)
    assert found.log_probs.dtype == torch.float64
    assert torch.equal(found.labels, split.labels)
    assert found.samples == len(members)


def test_a_stochastic_net_is_averaged_over_its_own_draws(network, digits):
    seen = []
    found = of_network(network, digits.test, device=CPU, on_batch=seen.append)
    x = inputs(digits.test)
    with torch.no_grad():
        members = torch.stack([network.loop(x, z[None])[0] for z in network.draws])
    check(found, members, digits.test)
    assert sum(seen) == len(digits.test)


def test_one_sample_has_nothing_to_disagree_with(net, digits):
    single = sbn.fit(net, shuffled(digits), batches=50, samples=1, sampler="factorised")
    one = of_network(single, digits.test, device=CPU)
    assert (one.samples, one.expected_entropy, one.mutual_information) == (1, None, None)


def test_no_temperature_is_in_the_answers(network, digits):
    hot = copy.deepcopy(network)
    hot.temperature = 3.0
    a, b = (of_network(n, digits.test, device=CPU) for n in (network, hot))
    assert torch.equal(a.log_probs, b.log_probs)


def test_given_statistics_stand_for_the_running_ones(network, net, digits):
    means = network.sampler.mean[None]
    found = of_statistics(network, means, digits.test, device=CPU)
    fixed = copy.deepcopy(net).eval()
    parts = torch.split(means[0], [12, 16])
    for norm, part in zip((fixed[1], fixed[5]), parts, strict=True):
        mean, log_deviation = part.chunk(2)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_((2 * log_deviation).exp() - norm.eps)
    with torch.no_grad():
        expected = fixed(inputs(digits.test)).double().log_softmax(1)
    torch.testing.assert_close(found.log_probs, expected, rtol=1e-4, atol=1e-4)


def test_plain_is_the_net_in_eval_mode_and_leaves_it_in_train_mode(net, digits):
    found = plain(net, lambda out: out.log_softmax(1), digits.test, CPU)
    assert all(m.training for m in net.modules())
    with torch.no_grad():
        expected = copy.deepcopy(net).eval()(inputs(digits.test)).double().log_softmax(1)
    torch.testing.assert_close(found.log_probs, expected, rtol=1e-4, atol=1e-5)
    assert found.samples == 1
    assert found.expected_entropy is None


def test_only_layers_that_drop_count_as_dropout(net):
    assert [type(m) for m in dropouts(net)] == [nn.Dropout2d, nn.Dropout]
    assert dropouts(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0))) == []


def test_mc_dropout_leaves_modes_weights_and_the_global_state_alone(net, digits):
    model = copy.deepcopy(net)
    model[3].eval()
    modes = [m.training for m in model.modules()]
    weights = copy.deepcopy(model.state_dict())
    torch.manual_seed(77)
    expected = torch.rand(3)
    torch.manual_seed(77)
    runs = [
        mc_dropout(model, softmax, digits.test, samples=5, seed=seed, device=CPU)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.rand(3), expected)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert torch.equal(runs[0].log_probs, runs[1].log_probs)
    assert not torch.allclose(runs[0].log_probs, runs[2].log_probs)


def test_mc_dropout_averages_masks_while_batch_norm_stays(net, digits):
    few = digits.test.take(40, source())
    found = mc_dropout(net, softmax, few, samples=5, seed=3, device=CPU)
    dropping = copy.deepcopy(net).eval()
    for i in (3, 10):
        dropping[i].train()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        members = torch.stack([softmax(dropping(inputs(few))) for _ in range(5)])
    check(found, members, few)


def test_mc_batch_norm_is_a_forward_pass_in_train_mode_inside_training_batches(
    network, net, digits
):
    few = digits.test.take(3, source(1))
    found = mc_batch_norm(
        network, few, digits.train, batch_size=SIZE, samples=4, generator=source(9), device=CPU
    )
    training = copy.deepcopy(net)
    for m in training.modules():
        if isinstance(m, nn.modules.dropout._DropoutNd):
            m.eval()
    generator = source(9)
    rows = []
    for x in inputs(few):
        answers = []
        for _ in range(4):
            companions = digits.train.take(SIZE - 1, generator)
            ((others, _),) = companions.batches(SIZE, augment=True, generator=generator)
            with torch.no_grad():
                answers.append(softmax(training(torch.cat([x[None], others])))[0])
        rows.append(torch.stack(answers))
    check(found, torch.stack(rows, dim=1), few)
    assert not any(m.training for m in network.net.modules() if isinstance(m, nn.BatchNorm2d))


def test_mc_batch_norm_draws_from_the_distribution_that_is_fitted(net, digits):
    """A batch of companions alone has the statistics that `collect` records."""
    carried, shared = with_carriers(net)
    batch, *others = shuffled(digits)
    draws = collect(carried, shared, [batch, *others], 50).draws
    torch.testing.assert_close(draws[0, :6], net[0](batch).mean((0, 2, 3)).detach())


def ensemble_members(digits, with_entropy):
    out = []
    for seed in range(3):
        p = torch.rand(len(digits.test), 10, generator=source(seed)).double().softmax(1)
        own = torch.full((len(digits.test),), 0.5 + seed).double() if with_entropy else None
        out.append(Answers(p.log(), digits.test.labels, own, samples=4 if with_entropy else 1))
    return out


def test_an_ensemble_averages_probabilities(digits):
    members = ensemble_members(digits, with_entropy=False)
    found = ensemble(members)
    check(found, torch.stack([m.log_probs.exp() for m in members]), digits.test)


def test_an_ensemble_of_averages_keeps_the_entropy_of_their_samples(digits):
    members = ensemble_members(digits, with_entropy=True)
    found = ensemble(members)
    assert found.samples == 12
    torch.testing.assert_close(
        found.expected_entropy, torch.full((len(digits.test),), 1.5).double()
    )


def test_selecting_and_heating(network, digits):
    found = of_network(network, digits.test, device=CPU)
    rows = torch.tensor([4, 0, 7])
    some = found.select(rows)
    assert torch.equal(some.log_probs, found.log_probs[rows])
    assert torch.equal(some.labels, found.labels[rows])
    assert torch.equal(some.expected_entropy, found.expected_entropy[rows])
    assert torch.equal(some.mutual_information, found.mutual_information[rows])
    hot = found.at_temperature(2.0)
    expected = (found.log_probs / 2).log_softmax(1)
    torch.testing.assert_close(hot.log_probs, expected)
    assert torch.equal(hot.mutual_information, found.mutual_information)
    assert hot.predictions.labels is found.labels
