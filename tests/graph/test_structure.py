"""Decisions on a structure: nothing left empty, widths rounded, layers chosen by pattern."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bnnkit.errors import StructureError, UsageError
from bnnkit.graph.analyse import analyse
from bnnkit.graph.attach import FixedGates, attach
from bnnkit.graph.settle import settle
from bnnkit.graph.structure import matches


def chain():
    """Two convolutions and a head; 8, 12 and 10 channels, the last locked."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=2), nn.Flatten(),
        nn.Linear(12 * 16, 10),
    )  # fmt: skip


@pytest.fixture
def structure():
    return analyse(chain(), torch.zeros(2, 3, 8, 8))


def test_classes_of_a_chain(structure):
    first, second = structure.classes
    assert (first.name, first.size, first.writers, first.readers) == ("0", 4, ("0",), ("2",))
    assert first.multiplicity == 2  # the same position of both groups
    assert (second.size, second.multiplicity, second.readers) == (6, 2, ("4",))
    assert structure.n_units == 10
    assert structure.locked[0].reason == "the model's output"
    assert structure.reads["4"].tolist() == [4 + c % 6 for c in range(12) for _ in range(16)]


def test_an_empty_axis_is_refused_and_the_best_unit_reopened(structure):
    keep = torch.ones(10, dtype=torch.bool)
    keep[:4] = False
    with pytest.raises(StructureError, match="nothing of it would be left"):
        structure.kept_indices(keep)
    score = torch.tensor([0.1, 0.9, 0.3, 0.2] + [1.0] * 6)
    amended, reopened = structure.ensure_alive(keep, score)
    assert amended.tolist() == [False, True] + [False] * 2 + [True] * 6
    assert reopened == ["0"]
    assert structure.kept_indices(amended)["0.weight", 0].tolist() == [1, 5]
    assert not keep[:4].any()  # the caller's tensor is untouched


def test_a_kept_axis_is_not_listed(structure):
    assert structure.kept_indices(torch.ones(10, dtype=torch.bool)) == {}


@pytest.mark.parametrize(("multiple", "kept"), [(1, 1), (2, 1), (4, 2), (8, 4), (16, 4)])
def test_widths_are_rounded_up_in_channels(structure, multiple, kept):
    keep = torch.zeros(10, dtype=torch.bool)
    keep[0] = keep[4:] = True
    score = torch.arange(10.0)
    out = structure.round_up(keep, score, multiple)
    assert int(out[:4].sum()) == kept
    assert out[0]
    if kept == 2:
        assert out[3]  # the best of the closed ones


def test_patterns_choose_classes(structure):
    assert [c.name for c in structure.restrict(["0"], []).classes] == ["0"]
    only = structure.restrict([], ["0"])
    assert [(c.name, c.first) for c in only.classes] == [("2", 0)]
    assert only.locked[-1].reason == "left out by --exclude"
    assert only.locked[-1].channels == 8
    assert set(only.reads) == {"4"}
    assert all(key[0] != "0.weight" for key in only.slots)
    with pytest.raises(UsageError, match="'nine'"):
        structure.restrict(["nine"], [])


def test_a_restricted_structure_can_be_gated(structure):
    model = chain().eval()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for names in (["0"], ["2"]):
        part = structure.restrict(names, [])
        with attach(model, part, FixedGates(torch.ones(part.n_units))), torch.no_grad():
            torch.testing.assert_close(model(x), chain_output(model, x))


def chain_output(model, x):
    for layer in model:
        x = layer.forward(x)  # no hooks
    return x


@pytest.mark.parametrize(
    ("name", "pattern", "hit"),
    [
        ("layer1.0.conv1", "layer1.*", False),
        ("layer1.0.conv1", "layer1.**", True),
        ("layer1.0.conv1", "**.conv1", True),
        ("conv1", "conv?", True),
        ("conv1x", "conv1", False),
        ("layer1.0.conv1", "layer1.*.conv[12]", True),
    ],
)
def test_matches(name, pattern, hit):
    assert matches(name, [pattern]) is hit


class Stubborn(nn.Module):
    """Refuses any width but its own, in words of its code."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a(x))))
        x = x[:, torch.arange(6)] if self.training else x
        return self.fc(torch.relu(self.c(x)))


def test_settle_locks_only_what_breaks():
    model = Stubborn()
    structure = analyse(model, torch.zeros(2, 4))
    settled = settle(model, structure)
    assert [c.name for c in settled.classes] == ["a", "c"]
    assert {p.name for p in settled.locked} == {"b", "fc"}


def test_a_model_that_does_not_run_is_a_refusal():
    with pytest.raises(StructureError, match="--input-shape"):
        analyse(chain(), torch.zeros(2, 1, 8, 8))


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_a_model_that_cannot_be_captured_is_a_refusal():
    with pytest.raises(StructureError, match=r"torch\.export"):
        analyse(Branching(), torch.zeros(2, 4))
