"""What a stochastic net answers: probabilities, uncertainty, forms of outputs, copies, export."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from bnnkit.layers.stochastic_batch_norm import StochasticBatchNorm
from bnnkit.methods.sbn import fit
from bnnkit.methods.temperature import tempered
from bnnkit.spec.noise import SAMPLERS
from bnnkit.zoo import ZOO


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def batches(count=50, rows=8, shape=(3, 8, 8), seed=0):
    g = source(seed)
    return [torch.randn(rows, *shape, generator=g) * (1 + k % 3) for k in range(count)]


def small(classes=4, *last):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes),
            *last,
        )  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return small()


@pytest.fixture(scope="module")
def network(model):
    return fit(model, batches(), batches=50, samples=12, rank=6)


@pytest.fixture(scope="module")
def x():
    return batches(1, seed=9)[0]


# --- probabilities and uncertainty ---------------------------------------------------------------


def test_the_answer_is_the_mean_of_the_samples(network, x):
    noise = network.noise(12)
    members = network.members(x, noise).detach()
    prediction = network.predict(x)
    torch.testing.assert_close(prediction.probabilities, members.mean(0))
    torch.testing.assert_close(network(x), members.mean(0))
    torch.testing.assert_close(network(x, noise), members.mean(0))
    np.testing.assert_allclose(prediction.probabilities.detach().sum(1), np.ones(8), rtol=1e-6)
    assert members.shape == (12, 8, 4)
    np.testing.assert_allclose(members.sum(2), np.ones((12, 8)), rtol=1e-6)


def test_entropies_against_scipy(network, x):
    members = network.members(x, network.noise(12)).detach().double().numpy()
    found = network.predict(x)
    total = stats.entropy(members.mean(0), axis=1)
    expected = stats.entropy(members, axis=2).mean(0)
    np.testing.assert_allclose(found.entropy.detach(), total, atol=1e-6)
    np.testing.assert_allclose(found.expected_entropy.detach(), expected, atol=1e-6)
    np.testing.assert_allclose(found.mutual_information.detach(), total - expected, atol=2e-6)
    # the mutual information is the mean divergence of a sample from the average
    divergence = stats.entropy(members, members.mean(0)[None], axis=2).mean(0)
    np.testing.assert_allclose(found.mutual_information.detach(), divergence, atol=2e-6)
    assert float(found.mutual_information.detach().min()) > 1e-4


def test_certain_answers_have_no_entropy_and_no_nan(network):
    certain = torch.eye(4)[None].expand(3, 4, 4)
    found = network.summarise(certain)
    assert found.entropy.tolist() == found.mutual_information.tolist() == [0.0] * 4
    found = network.summarise(torch.stack([torch.eye(4), torch.eye(4).roll(1, 0)]))
    np.testing.assert_allclose(found.mutual_information, np.log(2) * np.ones(4), rtol=1e-6)


def test_one_sample_has_no_mutual_information(network, x):
    found = network.predict(x, samples=1)
    assert found.mutual_information.tolist() == [0.0] * 8


def test_a_temperature_acts_on_the_mean(network, x):
    plain = network.predict(x)
    hot = copy.deepcopy(network)
    hot.temperature = 2.5
    found = hot.predict(x)
    expected = tempered(plain.probabilities.log(), 2.5).exp()
    torch.testing.assert_close(found.probabilities, expected)
    np.testing.assert_allclose(
        found.entropy.detach(), stats.entropy(expected.detach().numpy(), axis=1), rtol=1e-5
    )
    assert found.probabilities.argmax(1).equal(plain.probabilities.argmax(1))
    torch.testing.assert_close(found.mutual_information, plain.mutual_information)


def test_noise_repeats_and_follows_a_generator(network, x):
    assert network(x).equal(network(x))
    assert network.predict(x, samples=5).probabilities.equal(network(x, network.noise(5)))
    assert not network(x).equal(network(x, network.noise(12, source(4))))
    assert network.noise(7, source(4)).equal(network.noise(7, source(4)))


def test_the_answer_of_an_input_does_not_depend_on_its_company(network, x):
    alone = torch.cat([network(row[None]) for row in x])
    torch.testing.assert_close(network(x), alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(network(x.flip(0)).flip(0), network(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_varies(model, sampler, x):
    network = fit(model, batches(), sampler=sampler, batches=50)
    members = network.members(x, network.noise(20)).detach()
    assert float(members.std(0).mean()) > 1e-3
    assert network.sampler(network.noise(5)).shape == (5, 2 * (6 + 8))


# --- what nets answer ----------------------------------------------------------------------------


OUTPUTS = [
    (small(4), "logits"),
    (small(4, nn.LogSoftmax(1)), "logits"),
    (small(4, nn.Softmax(1)), "probabilities"),
    (small(1), "binary-logit"),
    (small(1, nn.Flatten(0)), "binary-logit"),
    (small(1, nn.Sigmoid()), "binary-probability"),
    (small(4, nn.Unflatten(1, (4, 1, 1))), "logits"),
]


@pytest.mark.parametrize(("net", "kind"), OUTPUTS)
def test_every_form_of_output_becomes_probabilities(net, kind, x):
    nn.init.normal_(net[8].bias, std=2.0, generator=source())
    network = fit(net, batches(), batches=50)
    assert network.outputs == kind
    classes = 2 if kind.startswith("binary") else 4
    found = network.predict(x).probabilities.detach()
    assert found.shape == (8, classes)
    np.testing.assert_allclose(found.sum(1), np.ones(8), rtol=1e-6)
    # the same net without its last layers answers logits, from which both follow
    scores = copy.deepcopy(net[:9])
    torch.testing.assert_close(
        found, fit(scores, batches(), batches=50)(x).detach(), atol=1e-6, rtol=0
    )
    out = scores.eval()(x).detach()
    expected = torch.cat([torch.zeros_like(out), out], 1) if classes == 2 else out
    torch.testing.assert_close(
        network.probabilities(net.eval()(x).detach()), expected.softmax(1), atol=1e-6, rtol=0
    )


def test_auxiliary_answers_are_left_out(x):
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small(4)

        def forward(self, x):
            y = self.inner(x)
            return {"aux": y + 1, "logits": y}

    found = fit(Many(), batches(), batches=50)(x)
    torch.testing.assert_close(found, fit(small(4), batches(), batches=50)(x))


# --- copies and forms ----------------------------------------------------------------------------


def test_the_plain_net_is_the_owners(model, network, x):
    plain = network.plain()
    state = plain.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(state[k].equal(v) for k, v in model.state_dict().items())
    assert not any(isinstance(m, StochasticBatchNorm) for m in plain.modules())
    assert [type(m) for m in plain.modules()] == [type(m) for m in model.modules()]
    torch.testing.assert_close(plain(x), copy.deepcopy(model).eval()(x), atol=0, rtol=0)
    before = network(x)
    nn.init.zeros_(plain[0].weight)
    assert network(x).equal(before)


def test_a_net_that_is_one_layer(x):
    network = fit(nn.BatchNorm1d(4), batches(shape=(4,)), batches=50)
    assert network.sites == ("",)
    assert network(x.flatten(1)[:, :4]).shape == (8, 4)
    assert type(network.plain()) is nn.BatchNorm1d


def test_a_deep_copy_answers_the_same_and_stands_alone(network, x):
    before = network(x)
    other = copy.deepcopy(network)
    noise = network.noise(3)
    for way in ("virtual", "loop"):
        assert getattr(other, way)(x, noise).equal(getattr(network, way)(x, noise))
    with torch.no_grad():
        for tensor in [*other.parameters(), *other.sampler.buffers()]:
            tensor.zero_()
    assert network(x).equal(before)
    assert not other(x).allclose(before)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_double_precision(model, sampler, x):
    network = fit(model, batches(), sampler=sampler, batches=50)
    before, fewer = network(x), network.predict(x, samples=5).probabilities
    double = copy.deepcopy(network).to(torch.float64)
    assert double(x.double()).dtype == torch.float64
    torch.testing.assert_close(double(x.double()).float(), before, atol=1e-6, rtol=0)
    found = double.predict(x.double(), samples=5).probabilities
    torch.testing.assert_close(found.float(), fewer, atol=1e-6, rtol=0)


def test_a_net_in_double_precision_can_be_fitted(model, x):
    data = [b.double() for b in batches()]
    network = fit(copy.deepcopy(model).double(), data, batches=50)
    expected = fit(model, batches(), batches=50)(x)
    torch.testing.assert_close(network(x.double()).float(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sampler", ["lowrank", "replay"])
def test_capture_with_a_dynamic_batch_and_noise_as_an_input(sampler):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        resnet = ZOO["resnet20-cifar"]()
    data = batches(rows=4, shape=(3, 16, 16))
    network = fit(resnet, data, sampler=sampler, batches=50, samples=3)
    noise = network.noise()
    with torch.no_grad():
        program = torch.export.export(
            network, (data[0], noise), dynamic_shapes=({0: torch.export.Dim("batch")}, None)
        ).module()
        for rows in (1, 2, 7):
            x = torch.randn(rows, 3, 16, 16, generator=source(rows))
            other = network.noise(3, source(rows))
            torch.testing.assert_close(program(x, other), network(x, other), atol=1e-5, rtol=0)


def test_capture_without_noise_holds_the_draws(network, x):
    with torch.no_grad():
        program = torch.export.export(network, (x,)).module()
        torch.testing.assert_close(program(x), network(x), atol=1e-5, rtol=0)
        assert program(x).equal(program(x))
