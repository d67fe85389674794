"""Hints: where a slim net and its original meet, and the loss there."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnnkit.graph.analyse import analyse
from bnnkit.graph.settle import slim_exactly
from bnnkit.methods.distillation import Teacher
from bnnkit.methods.hints import Place, hint_loss, meeting_places, watched

X = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True))))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Sequential(Block(4), Block(4))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, 5))

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


def slimmed(model, closed):
    """The structure, what is kept, and the exact slim net of a model that loses some units."""
    structure = analyse(model, X[:2])
    keep = torch.ones(structure.n_units, dtype=torch.bool)
    for name, units in closed.items():
        found = next(c for c in structure.classes if c.name == name)
        keep[found.first + torch.tensor(units)] = False
    slim = slim_exactly(model, structure, keep, keep.float(), X[:3]).model
    return structure.kept_indices(keep), slim


@pytest.fixture
def residual():
    torch.manual_seed(3)
    model = Residual().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def test_a_residual_net_meets_at_its_blocks_and_normalisations(residual):
    kept, slim = slimmed(residual, {"body.0.conv1": [0, 4], "body.1.conv1": [1, 2, 5]})
    places = {p.name: p for p in meeting_places(slim, residual, kept, X)}
    # `body` gives what body.1 gives, and `head` is the answer
    assert list(places) == ["body.0.bn1", "body.0.bn2", "body.0", "body.1.bn1", "body.1.bn2",
                            "body.1"]  # fmt: skip
    assert places["body.0.bn1"].kept.tolist() == [1, 2, 3, 5]
    assert places["body.1.bn1"].kept.tolist() == [0, 3, 4]
    assert places["body.1.bn1"].axis == 1
    assert places["body.0"].kept is None


def test_before_training_only_what_reads_closed_units_differs(residual):
    """Kept channels are compared with themselves: nothing is missed up to the first reader."""
    kept, slim = slimmed(residual, {"body.1.conv1": [1, 2, 5]})
    places = meeting_places(slim, residual, kept, X)
    names = [p.name for p in places]
    with watched(slim, names) as mine, watched(residual, names) as theirs, torch.no_grad():
        found, wanted = mine(X).seen, theirs(X).seen
    for place, a, b in zip(places, found, wanted, strict=True):
        missed = float(hint_loss([place], [a], [b]))
        assert (missed > 1e-3) == (place.name in ("body.1.bn2", "body.1")), place.name
    one_by_one = [float(hint_loss([p], [a], [b])) for p, a, b in zip(places, found, wanted)]  # noqa: B905
    whole = float(hint_loss(places, found, wanted))
    assert whole == pytest.approx(sum(one_by_one) / len(places))


def test_the_loss_is_the_share_of_the_variance_that_is_missed():
    target = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    place = Place("x")
    assert float(hint_loss([place], [target], [target])) == 0
    mean = target.mean().expand(50, 7)
    assert float(hint_loss([place], [mean], [target])) == pytest.approx(1.0)
    assert float(hint_loss([place], [10 * mean], [10 * target])) == pytest.approx(1.0)
    some = Place("x", 1, torch.tensor([1, 6]))
    assert float(hint_loss([some], [target[:, [1, 6]]], [target])) == 0


def test_a_plain_net_without_normalisation_meets_at_its_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 9), nn.ReLU(inplace=True),
                          nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 3)).eval()  # fmt: skip
    kept, slim = slimmed(model, {"1": [0, 3], "3": [7]})
    places = meeting_places(slim, model, kept, X)
    assert [(p.name, p.kept.tolist()) for p in places] == [
        ("1", [1, 2, 4, 5, 6, 7, 8]), ("3", [0, 1, 2, 3, 4, 5, 6]),
    ]  # fmt: skip


def test_what_runs_twice_or_gives_no_tensor_is_no_place(residual):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()
            self.twice = nn.Sequential(nn.Linear(4, 4))
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x):
            a, b = self.pair(x)
            return self.norm(self.twice(self.twice(a)) + b) * 2

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return self.inner(x), x

    odd = Odd().eval()
    places = meeting_places(copy.deepcopy(odd), odd, {}, torch.randn(5, 4))
    assert [p.name for p in places] == ["norm"]


def test_watching_leaves_nothing_behind(residual):
    before = {n: len(m._forward_hooks) for n, m in residual.named_modules()}
    with pytest.raises(RuntimeError), watched(residual, ["body.0"]) as outer:
        outer(torch.zeros(1, 1))
    assert {n: len(m._forward_hooks) for n, m in residual.named_modules()} == before


def test_descent_on_hints_alone_brings_the_slim_net_to_the_original(residual):
    kept, slim = slimmed(residual, {"body.0.conv1": [5], "body.1.conv1": [1]})
    with torch.no_grad():
        for p in slim.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    slim.eval()
    places = meeting_places(slim, residual, kept, X)
    teacher = Teacher(residual, 0.0, 1.0, places, hints=2.0)
    names = [p.name for p in places]
    optimiser = torch.optim.Adam(slim.parameters(), lr=1e-2)
    losses = []
    with watched(slim, names) as mine, watched(residual, names) as theirs:
        wanted = Teacher(theirs, 0.0, 1.0).answers(X).seen
        for _ in range(60):
            loss = teacher.hint(mine(X).seen, wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
    assert not any(w.requires_grad for w in wanted)
