"""Fitting: statistics as training sees them, a model left alone, refusals."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnnkit.errors import DataError, StructureError, UsageError
from bnnkit.methods.sbn import LEAST_BATCHES, collect, fit
from bnnkit.methods.sbn.carriers import with_carriers
from bnnkit.spec.noise import SAMPLERS


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def batches(count=50, rows=6, shape=(3, 8, 8), seed=0):
    g = source(seed)
    return [torch.randn(rows, *shape, generator=g) * (1 + k % 3) for k in range(count)]


def small(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, **options), nn.ReLU(inplace=True),
            nn.Dropout(0.5), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5, **options), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4), nn.BatchNorm1d(4, **options),
        )  # fmt: skip


def in_training(model):
    """Return a copy in train mode, dropout off."""
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    return model


def implied(model, x):
    """Return the biased statistics that torch's own layers take over from a batch."""
    model = in_training(model)
    counts = []
    for m in model.modules():
        if isinstance(m, _BatchNorm):
            m.momentum = 1.0
            m.register_forward_hook(lambda m, a, _: counts.append(a[0].numel() // m.num_features))
    with torch.no_grad():
        model(x)
    rows = []
    for m, n in zip(
        (m for m in model.modules() if isinstance(m, _BatchNorm)), counts, strict=True
    ):
        rows += [m.running_mean, ((m.running_var * (n - 1) / n + m.eps).log() / 2)]
    return torch.cat(rows)


OPTIONS = [{}, {"affine": False}, {"eps": 0.1}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_draws_are_what_training_sees(options):
    model, data = small(**options), batches()
    net, shared = with_carriers(model)
    found = collect(net, shared, data, 50)
    assert found.sites == ("1", "5", "10")
    assert found.channels == (6, 5, 4)
    assert found.sizes == [12, 10, 8]
    assert found.batch_size == 6
    expected = torch.stack([implied(model, x) for x in data])
    torch.testing.assert_close(found.draws, expected, atol=1e-5, rtol=1e-5)
    draws = found.draws.double().numpy()
    np.testing.assert_allclose(found.mean, draws.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.deviation, draws.std(0, ddof=1), rtol=1e-9)


@pytest.mark.parametrize("options", [*OPTIONS, {"track_running_stats": False}], ids=str)
@pytest.mark.parametrize("row", [0, 17, 49])
def test_a_replayed_draw_gives_the_answer_of_train_mode_on_that_batch(options, row):
    model, data = small(**options), batches()
    network = fit(model, data, sampler="replay", batches=50)
    noise = torch.special.ndtri(torch.tensor([[(row + 0.5) / 50]], dtype=torch.float64)).float()
    with torch.no_grad():
        expected = in_training(model)(data[row]).softmax(1)
        for way in (network.virtual, network.loop):
            torch.testing.assert_close(way(data[row], noise)[0], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(network.in_batch(data[row]), expected, atol=1e-5, rtol=0)


def test_batches_come_as_tensors_or_in_tuples_again_and_again_and_short_ones_are_left_out():
    model, data = small(), batches(52)
    expected = fit(model, data, sampler="replay", batches=50).sampler.draws
    pairs = [(x, torch.zeros(6)) for x in data[:25]] + [[data[25][:4]], *[[x] for x in data[25:]]]
    torch.testing.assert_close(
        fit(model, pairs, sampler="replay", batches=50).sampler.draws, expected
    )
    longer = fit(model, pairs, sampler="replay", batches=60).sampler.draws
    torch.testing.assert_close(longer[:52], fit(model, data, sampler="replay",
                                                batches=52).sampler.draws)  # fmt: skip
    torch.testing.assert_close(longer[52:], longer[:8])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_model_that_was_given_is_left_alone(training, sampler):
    model = small().train(training)
    model[3].eval()
    model[5].train()
    fired = []
    handles = [
        model[1].register_forward_hook(lambda *_: fired.append("after")),
        model[4].register_forward_pre_hook(lambda *_: fired.append("before")),
    ]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    modules = list(model.modules())
    hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in modules]
    random = torch.get_rng_state()
    network = fit(model, batches(), sampler=sampler, batches=50)
    network.predict(batches(1)[0], samples=3)
    assert torch.get_rng_state().equal(random)
    assert [m.training for m in model.modules()] == modes
    assert list(model.modules()) == modules
    assert [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in modules] == hooks
    after = model.state_dict()
    assert list(after) == list(state)
    assert all(after[k].equal(v) for k, v in state.items())
    assert int(after["1.num_batches_tracked"]) == 0
    assert not network.training
    for handle in handles:
        handle.remove()
    assert all(p.grad is None for p in model.parameters())


def test_the_model_is_left_alone_when_it_fails():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(3)

        def forward(self, x):
            if not self.training and isinstance(self.bn, nn.BatchNorm1d):
                raise RuntimeError("no")
            return self.bn(x)

    model = Fails().train()
    with pytest.raises(RuntimeError, match="no"):
        fit(model, batches(shape=(3,)), batches=50)
    assert model.training
    assert model.bn.training


def test_the_seed_decides():
    model, data = small(), batches()
    x = data[0]
    first, same, other = (fit(model, data, batches=50, seed=s)(x) for s in (0, 0, 1))
    torch.testing.assert_close(
        first, same, atol=1e-6, rtol=0
    )  # each may have another quickest way
    assert not first.allclose(other, atol=1e-4)


def test_fitting_works_inside_inference_mode():
    model, data = small(), batches()
    with torch.inference_mode():
        inside = fit(model, data, batches=50)(data[0])
    torch.testing.assert_close(inside.clone(), fit(model, data, batches=50)(data[0]).detach())


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.LayerNorm(4)), "2 LayerNorm"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)), "1 GroupNorm"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4)), "1 InstanceNorm2d"),
        (nn.Linear(3, 4), "without any normalisation"),
    ],
)
def test_a_net_without_batch_norm_is_refused_with_what_it_has(model, found):
    with pytest.raises(StructureError) as caught:
        fit(model, batches(), batches=50)
    assert found in caught.value.found
    assert caught.value.why
    assert caught.value.hint


def test_a_batch_norm_that_takes_no_part_is_refused():
    class Aside(nn.Module):
        """A norm in a head that only training uses."""

        def __init__(self):
            super().__init__()
            self.linear, self.bn = nn.Linear(3, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            y = self.linear(x)
            return (y, self.bn(y)) if self.training else y

    with pytest.raises(StructureError):
        fit(Aside(), batches(shape=(3,)), batches=50)


def test_fewer_than_fifty_batches_are_refused():
    data = batches(50)
    with pytest.raises(UsageError, match="batches = 49; it is 50 or more"):
        fit(small(), data, batches=49)
    with pytest.raises(DataError, match=r"49 full batches.*at least 50"):
        fit(small(), iter(data[:49]), batches=300)
    assert LEAST_BATCHES == 50


def test_batches_that_repeat_are_refused():
    with pytest.raises(DataError, match="60 batches of which 12 differ"):
        fit(small(), batches(12), batches=60)


def test_batch_norm_that_is_no_module_is_refused():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(3)

        def forward(self, x):
            return nn.functional.batch_norm(self.bn(x), None, None, training=True)

    with pytest.raises(StructureError, match="1 calls of batch_norm outside"):
        fit(Half(), batches(shape=(3,)), batches=50)


def test_threads_share_a_net():
    network, data = fit(small(), batches(60), batches=60), batches(8)
    expected = [network(x) for x in data]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(network, data * 20))
    assert all(f.equal(e) for f, e in zip(found, expected * 20, strict=True))


@pytest.mark.parametrize(
    "numbers", [{"samples": 0}, {"samples": 10_001}, {"rank": 0}, {"temperature": 0.0}]
)
def test_numbers_that_mean_nothing_are_refused(numbers):
    with pytest.raises(UsageError, match=next(iter(numbers))):
        fit(small(), batches(50), batches=50, **numbers)


@pytest.mark.parametrize("loader", [[], iter([])])
def test_no_batches_are_refused(loader):
    with pytest.raises(DataError, match="0 full batches"):
        fit(small(), loader)


def test_batches_of_one_are_refused():
    with pytest.raises(DataError, match="batches of 1"):
        fit(small(), batches(rows=1), batches=50)


def test_batches_of_something_else_are_refused():
    with pytest.raises(DataError, match="a batch of dict"):
        fit(small(), [{"pixels": x} for x in batches()], batches=50)


def test_a_statistic_that_is_no_number_is_refused():
    model = small()
    nn.init.constant_(model[4].weight, torch.inf)
    with pytest.raises(DataError, match="'5' that is not a finite number"):
        fit(model, batches(), batches=50)


def test_an_unknown_sampler_is_refused_with_the_nearest_one():
    with pytest.raises(UsageError, match=r"'factorized'.*Did you mean 'factorised'\?"):
        fit(small(), batches(), sampler="factorized", batches=50)


def test_a_path_that_depends_on_the_input_is_refused():
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn, self.linear = nn.BatchNorm1d(3), nn.Linear(3, 2)

        def forward(self, x):
            x = self.bn(x)
            return self.linear(self.bn(x) if x[0, 0] > 0 else x)

    with pytest.raises(StructureError, match="uses of batch norm"):
        fit(Fickle(), batches(shape=(3,)), batches=50)


@pytest.mark.parametrize("last", ["map", "scalar", "fewer rows"])
def test_what_is_no_classifier_is_refused(last):
    class Other(nn.Sequential):
        def forward(self, x):
            y = super().forward(x)
            rows = y.mean((2, 3))
            return {"map": y, "scalar": y.mean(), "fewer rows": rows[1:]}[last]

    model = Other(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(DataError, match="outputs of shape"):
        fit(model, batches(), batches=50)
