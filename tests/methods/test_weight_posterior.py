"""Methods with a posterior on weights: noise, objective, decision, and a small real problem."""

from __future__ import annotations

import copy
import math

import pytest
import scipy.stats
import torch
from torch import nn
from torch.nn import functional as F

from bnnkit.graph.analyse import analyse
from bnnkit.graph.settle import slim_exactly
from bnnkit.methods.ard import Ard, GroupArd
from bnnkit.methods.base import Aim
from bnnkit.methods.matrix_normal import MatrixNormal, MatrixNormalDiagonal
from bnnkit.methods.sparse_vd import SparseVd
from bnnkit.methods.weight_posterior import covered_layers, kl_coefficient
from bnnkit.spec.posterior_config import PosteriorConfig

METHODS = [SparseVd, Ard, GroupArd, MatrixNormal, MatrixNormalDiagonal]
GROUPED = METHODS[2:]


def mlp():
    return nn.Sequential(
        nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)
    )


class Residual(nn.Module):
    """A stream with two writers and three readers, a depthwise and a grouped convolution."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.expand, self.depthwise = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.project = nn.Conv2d(8, 6, 1, bias=False)
        self.grouped = nn.Conv2d(6, 4, 2, groups=2)
        self.head = nn.Linear(4 * 9, 3)

    def forward(self, x):
        x = self.bn(self.stem(x)).relu()
        x = x + self.project(self.depthwise(self.expand(x).relu()).relu())
        return self.head(self.grouped(x).relu().flatten(1))


class Twice(nn.Module):
    """A layer that is called twice, once by keyword."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x):
        x = self.first(x).tanh()
        return self.last(self.again(input=self.again(x).tanh()).tanh())


NETS = {"mlp": (mlp, (10,)), "residual": (Residual, (2, 4, 4)), "twice": (Twice, (4,))}


def start(kind, name="mlp", config=None, n_examples=100, **options):
    build, shape = NETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = build(), torch.randn(5, *shape)
    structure = analyse(model, x)
    generator = torch.Generator().manual_seed(0)
    made = kind(
        structure, config or PosteriorConfig(), n_examples, generator, model=model, **options
    )
    return model, made, x


def test_layers_that_read_or_write_units_are_covered():
    model, method, _ = start(Ard)
    assert method.names == ["0", "2", "4"]
    model, method, _ = start(Ard, "residual")
    assert method.names == ["stem", "expand", "depthwise", "project", "grouped", "head"]
    chosen = method.structure.without(
        {c.name: "for a test" for c in method.structure.classes if c.name != "expand"}
    )
    assert covered_layers(model, chosen) == ["expand", "depthwise", "project"]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kind", METHODS)
def test_noise_in_training_means_in_eval_and_nothing_after(kind, name):
    model, method, x = start(kind, name)
    state = copy.deepcopy(model.state_dict())
    attributes = {n: dict(m.__dict__) for n, m in model.named_modules()}
    model.eval()
    plain = model(x)
    with method.attach(model):
        assert torch.equal(model(x), plain)
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        noisy = model(x), model(x)
        assert not torch.allclose(noisy[0], plain)
        assert not torch.allclose(noisy[0], noisy[1])
        assert len(torch.unique(noisy[0] - plain)) == plain.numel()  # a draw for each example
        method.carrier().eval()
        assert torch.equal(model(x), plain)
    model.train()
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    for n, module in model.named_modules():
        assert not module._forward_hooks
        assert set(module.__dict__) == set(attributes[n])
        assert "forward" not in module.__dict__


def test_an_exception_leaves_no_hook():
    model, method, _ = start(MatrixNormal)
    with pytest.raises(RuntimeError), method.attach(model):
        model(torch.zeros(2, 3))
    assert not any(m._forward_hooks for m in model.modules())


def test_a_model_that_was_attached_can_be_exported():
    model, method, x = start(GroupArd)
    with method.attach(model):
        model(x)
    exported = torch.export.export(model.eval(), (x,))
    torch.testing.assert_close(exported.module()(x), model(x))


@pytest.mark.parametrize("kind", METHODS)
def test_penalty_is_the_divergence_over_the_number_of_examples(kind):
    _, method, _ = start(kind)
    _, scaled, _ = start(kind, config=PosteriorConfig(kl_scale=3.0), n_examples=200)
    kl = method.figures()["kl"]
    assert float(method.penalty(1.0).detach()) == pytest.approx(kl / 100, rel=1e-4)
    assert float(scaled.penalty(1.0).detach()) == pytest.approx(3 * kl / 200, rel=1e-4)


@pytest.mark.parametrize("kind", METHODS)
def test_penalty_trains_the_model_and_the_posterior(kind):
    model, method, x = start(kind, "residual")
    with method.attach(model):
        (model(x).square().mean() + method.penalty(0.5)).backward()
    for name in method.names:
        assert bool(torch.isfinite(model.get_submodule(name).weight.grad).all())
    trained = dict(method.carrier().named_parameters())
    assert trained
    for name, parameter in trained.items():
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert bool((parameter.grad != 0).any()), name


def test_annealing_is_exponential():
    config = PosteriorConfig(kl_scale=2.0, kl_anneal=0.5, kl_start=1e-4)
    betas = [kl_coefficient(config, p) for p in (0.0, 0.125, 0.25, 0.5, 1.0)]
    assert betas == pytest.approx([2e-4, 2e-3, 2e-2, 2.0, 2.0])
    assert kl_coefficient(PosteriorConfig(), 0.0) == 1.0


def test_an_aim_raises_the_weight_until_it_is_reached():
    aim = Aim(0.5, lambda keep: float(keep.float().mean()), 1000)
    _, method, _ = start(Ard, aim=aim)
    for progress in (0.0, 0.2, 0.4, 0.6):
        method.penalty(progress)
    assert method.figures()["kl_scale"] > 1.0
    assert "scale.scale" in method.carrier().state_dict()


def test_noise_rate_is_ten_times_the_weights_rate_unless_given():
    _, method, _ = start(Ard)
    assert method.parameter_groups(1e-3)[0]["lr"] == pytest.approx(1e-2)
    _, method, _ = start(Ard, config=PosteriorConfig(noise_lr=0.5))
    assert method.parameter_groups(1e-3)[0]["lr"] == 0.5


@pytest.mark.parametrize("kind", METHODS)
def test_state_of_the_carrier_is_all_that_a_resumed_run_needs(kind):
    _, method, _ = start(kind, "residual")
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*method.carrier().parameters(), *method.carrier().buffers()):
            tensor.add_(0.1 * torch.rand(tensor.shape, generator=source, dtype=tensor.dtype))
    _, other, _ = start(kind, "residual")
    other.carrier().load_state_dict(method.carrier().state_dict())
    assert other.figures() == method.figures()
    for key, value in method.decide().evidence.items():
        assert torch.equal(other.decide().evidence[key], value)


def quiet(method):
    """Give every weight a small deviation, so that all of them are relevant."""
    with torch.no_grad():
        for name, parameter in method.carrier().named_parameters():
            if not name.endswith("lower"):
                parameter.fill_(-8.0)


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("groups", ["rows", "columns", "both", "layer"])
def test_a_unit_needs_a_reader_and_a_writer_as_far_as_they_are_asked(kind, groups):
    model, method, _ = start(kind, config=PosteriorConfig(groups=groups))
    quiet(method)
    with torch.no_grad():
        model[0].weight[3] = 0  # nobody writes unit 3 of the first layer
        model[2].weight[:, 5] = 0  # nobody reads unit 5
    closed = {"rows": {5}, "columns": {3}, "both": {3, 5}, "layer": set()}[groups]
    decision = method.decide()
    assert set((~decision.keep).nonzero().flatten().tolist()) == closed
    assert bool((decision.gate == 1).all())
    assert bool(torch.isfinite(decision.score).all())
    assert bool((decision.score >= 0).all())
    assert method.figures()["kept"] == 20 - len(closed)
    assert bool((decision.evidence["log_alpha"][list(closed)] > 3).all())


@pytest.mark.parametrize("kind", METHODS)
def test_one_relevant_reader_or_writer_is_enough(kind):
    model, method, _ = start(kind, "residual", PosteriorConfig(groups="both"))
    quiet(method)
    stream = next(c for c in method.structure.classes if c.name == "stem")
    tied = method.structure.reads["grouped"].tolist()  # positions tied by groups share a unit
    with torch.no_grad():
        model.expand.weight[:, 0] = 0  # channel 0: one reader left
        model.stem.weight[0] = 0  # and one writer
    assert bool(method.decide().keep.all())
    with torch.no_grad():
        for channel in [c for c, unit in enumerate(tied) if unit == tied[0]]:
            model.stem.weight[channel] = 0
            model.project.weight[channel] = 0
    decision = method.decide()
    assert (~decision.keep).nonzero().flatten().tolist() == [tied[0]]
    assert stream.first <= tied[0] < stream.units.stop


@pytest.mark.parametrize("kind", METHODS)
def test_one_feature_of_a_flattened_channel_keeps_it(kind):
    model, method, _ = start(kind, "residual", PosteriorConfig(groups="rows"))
    quiet(method)
    units = method.structure.reads["head"]
    features = (units == units[0]).nonzero().flatten()
    with torch.no_grad():
        model.head.weight[:, features[1:]] = 0
    assert bool(method.decide().keep.all())
    with torch.no_grad():
        model.head.weight[:, features[0]] = 0
    assert (~method.decide().keep).nonzero().flatten().tolist() == [int(units[0])]


def test_the_score_is_what_the_posterior_loses():
    model, method, _ = start(Ard, config=PosteriorConfig(groups="rows"))
    sigma = math.exp(-5.0)
    expected = 0.5 * (model[2].weight.detach() / sigma).square().sum(0)
    torch.testing.assert_close(method.decide().score[:12], expected)


@pytest.mark.parametrize("kind", METHODS)
def test_a_layer_that_is_all_noise_keeps_its_best_unit(kind):
    model, method, _ = start(kind)
    quiet(method)
    with torch.no_grad():
        model[0].weight.mul_(1e-9)
        model[0].weight[7] *= 2
    decision = method.decide()
    assert decision.reopened == ("0",)
    assert decision.keep[:12].nonzero().flatten().tolist() == [7]


def test_rounding_keeps_multiples():
    model, method, _ = start(GroupArd, round_to=4)
    quiet(method)
    with torch.no_grad():
        model[0].weight[:7] = 0
    assert int(method.decide().keep[:12].sum()) == 8


def test_weights_left_are_counted_in_every_layer():
    model, method, _ = start(Ard)
    quiet(method)
    with torch.no_grad():
        model[2].weight[0, :5] = 0
    assert method.weights_left() == {"0": (120, 120), "2": (91, 96), "4": (24, 24)}
    assert bool((method.masks()["2"][0, :5] == 0).all())
    model, method, _ = start(GroupArd)
    quiet(method)
    with torch.no_grad():
        model[2].weight[0] = 0
        model[2].weight[:, 3] = 0
    assert method.weights_left()["2"] == (7 * 11, 96)


@pytest.mark.parametrize("name", NETS)
def test_what_is_closed_can_be_removed_exactly(name):
    model, method, x = start(GroupArd, name)
    with torch.no_grad():
        for posterior in method.carrier()["posteriors"]:
            source = torch.Generator().manual_seed(2)
            drawn = torch.randn(posterior.log_sigma.shape, generator=source)
            posterior.log_sigma.copy_(2 * drawn - 1.0)
        method.config = PosteriorConfig(threshold=float(method._units()[0].median()))
    decision = method.decide()
    assert not bool(decision.keep.all())
    slimmed = slim_exactly(model, method.structure, decision.keep, decision.theta, x)
    assert slimmed.worst <= 1e-9


# --- a small real problem ------------------------------------------------------------------------


TRAINED, USEFUL = 1300, 20


@pytest.fixture(scope="module")
def digits():
    """Digits of 8x8 pixels, and a net trained on them that has ten useless hidden units."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.data / 16, dtype=torch.float32)[order]
    y = torch.tensor(data.target)[order]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10))
        model[0].weight.data[USEFUL:] *= 0.02
        model[2].weight.data[:, USEFUL:] *= 0.02
        train(model, x[:TRAINED], y[:TRAINED], 300)
        model[0].weight.data[USEFUL:] *= 0.02
        model[2].weight.data[:, USEFUL:] *= 0.02
    return model, x, y


def train(model, x, y, steps, method=None):
    rates = [{"params": model.parameters(), "lr": 5e-3}]
    optimiser = torch.optim.Adam(rates + (method.parameter_groups(5e-3) if method else []))
    peaks = [group["lr"] for group in optimiser.param_groups]
    for step in range(steps):
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * (1 - step / steps)
        rows = torch.randint(len(x), (128,))
        loss = F.cross_entropy(model(x[rows]), y[rows])
        loss = loss + method.penalty(step / steps) if method else loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if method:
            method.after_step()


def error(model, x, y):
    with torch.no_grad():
        return 100 * float((model.eval()(x).argmax(1) != y).float().mean())


def learn(kind, original, x, y):
    """Train 400 steps with noise; the rates stand in for the many epochs that one would take."""
    model = copy.deepcopy(original).train()
    structure = analyse(model, x[:2])
    config = PosteriorConfig(kl_scale=2.0, init_log_sigma=-3.0, noise_lr=0.05)
    generator = torch.Generator().manual_seed(0)
    method = kind(structure, config, TRAINED, generator, model=model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        with method.attach(model):
            train(model, x[:TRAINED], y[:TRAINED], 400, method)
    return model, method


def rises(model, x, y):
    """Return by how many nats the training loss rises with each hidden unit that is closed."""
    found = []
    with torch.no_grad():
        base = F.cross_entropy(model(x), y, reduction="sum")
        for unit in range(model[2].in_features):
            kept = model[2].weight[:, unit].clone()
            model[2].weight[:, unit] = 0
            found.append(float(F.cross_entropy(model(x), y, reduction="sum") - base))
            model[2].weight[:, unit] = kept
    return found


@pytest.mark.parametrize("kind", METHODS)
def test_digits_lose_what_they_do_not_need(kind, digits):
    original, x, y = digits
    model, method = learn(kind, original, x, y)
    decision = method.decide()
    assert not bool(decision.keep[USEFUL:].any())
    assert int(decision.keep.sum()) >= 15
    black = (x == 0).all(0)
    assert not bool(method.masks()["0"][:, black].any())
    slimmed = slim_exactly(model, method.structure, decision.keep, decision.theta, x[:50])
    held_out = x[TRAINED:], y[TRAINED:]
    assert error(slimmed.model, *held_out) <= 7.0
    assert error(slimmed.model, *held_out) == pytest.approx(error(model, *held_out), abs=0.5)
    # What the posterior says is lost with a unit orders units as the measured losses do.
    measured = rises(model, x[:TRAINED], y[:TRAINED])
    assert scipy.stats.spearmanr(decision.score.numpy(), measured).statistic > 0.85
