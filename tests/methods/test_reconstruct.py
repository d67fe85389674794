"""Refitted layers against what must come out: exact where redundancy is exact, better else."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnnkit.graph.analyse import analyse
from bnnkit.graph.attach import FixedGates, attach
from bnnkit.graph.settle import slim_exactly
from bnnkit.graph.structure import Structure
from bnnkit.methods.branches import Branch, find_branches, observe
from bnnkit.methods.reconstruct import Refit, reconstruct, refittable
from bnnkit.zoo import ZOO


class Block(nn.Module):
    """A residual block as torchvision writes them: sums and activations in place."""

    def __init__(self, width: int = 6, inner: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, padding=1)
        self.conv1 = nn.Conv2d(width, inner, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.head(self.relu(out).mean((2, 3)))


@dataclass
class Case:
    model: nn.Module
    structure: Structure
    x: Tensor

    def gated(self, keep: Tensor, model: nn.Module | None = None) -> Tensor:
        model = model or self.model
        with attach(model, self.structure, FixedGates(keep.float())), torch.no_grad():
            return model.eval()(self.x)

    def refit(self, keep: Tensor) -> tuple[nn.Module, list[Refit]]:
        model = copy.deepcopy(self.model)
        source = torch.Generator().manual_seed(0)
        batches = list(self.x.split(32))
        ones = torch.ones(self.structure.n_units)
        return model, list(reconstruct(model, self.structure, keep, ones, batches, source))


def case(model: nn.Module, shape: tuple[int, ...], n: int = 128, seed: int = 0) -> Case:
    torch.manual_seed(seed)
    model.train()
    with torch.no_grad():
        for _ in range(30):  # statistics, so that batch norms are in use
            model(torch.randn(32, *shape))
    model.eval()
    return Case(model, analyse(model, torch.randn(2, *shape)), torch.randn(n, *shape))


def copied_channels(model: Block) -> None:
    """Let the second half of the inner channels say what the first half says."""
    half = model.conv1.out_channels // 2
    with torch.no_grad():
        model.conv1.weight[half:] = model.conv1.weight[:half]
        for tensor in (model.bn1.weight, model.bn1.bias, model.bn1.running_mean):
            tensor[half:] = tensor[:half]
        model.bn1.running_var[half:] = model.bn1.running_var[:half]


def test_a_channel_that_another_repeats_can_go_without_a_trace() -> None:
    torch.manual_seed(3)
    setup = case(Block(), (2, 6, 6))
    assert isinstance(setup.model, Block)
    copied_channels(setup.model)
    inner = next(c for c in setup.structure.classes if c.name == "conv1")
    keep = torch.ones(setup.structure.n_units, dtype=torch.bool)
    keep[inner.first + 4 : inner.first + 8] = False
    before, dropped = setup.model(setup.x), setup.gated(keep)
    model, refits = setup.refit(keep)
    after = setup.gated(keep, model)
    scale = (before - dropped).detach().abs().max()
    assert float((before - after).detach().abs().max()) < 2e-2 * float(
        scale
    )  # the ridge holds back
    changed = [r for r in refits if r.before]
    assert changed[0].layer == "conv2"
    assert changed[0].after < 1e-3 < changed[0].before


@pytest.mark.parametrize("seed", range(3))
def test_a_refitted_net_is_nearer_in_every_layer_and_at_the_end(seed: int) -> None:
    torch.manual_seed(seed)
    setup = case(ZOO["resnet20-cifar"]() if seed else Block(), (3, 16, 16) if seed else (2, 6, 6))
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(setup.structure.n_units, generator=generator) < 0.7
    keep, _ = setup.structure.ensure_alive(keep, torch.rand(len(keep), generator=generator))
    before, dropped = setup.model(setup.x).detach(), setup.gated(keep)
    model, refits = setup.refit(keep)
    after = setup.gated(keep, model)
    assert refits
    assert all(r.after <= r.before + 1e-9 for r in refits)
    assert float((before - after).square().mean()) < 0.7 * float(
        (before - dropped).square().mean()
    )
    slim_exactly(model, setup.structure, keep, keep.float(), setup.x[:4])  # raises if it is not


def test_least_squares_of_one_linear_layer_is_that_of_numpy() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    setup = case(model, (5,), n=400)
    keep = torch.tensor([True, False, True, True, False, True, True, False])
    refitted, _ = setup.refit(keep)
    hidden = torch.tanh(model[0](setup.x)).detach()[:, keep]
    wanted = model(setup.x).detach()
    weight = model[2].weight.detach()[:, keep]
    # the ridge around the old weights as rows of their own, for an ordinary least squares
    root = (1e-3 * 400 * hidden.square().mean()).sqrt() * torch.eye(5)
    design = torch.cat([hidden, torch.ones(400, 1)], 1).numpy()
    design = np.concatenate([design, np.pad(root.numpy(), ((0, 0), (0, 1)))])
    target = np.concatenate([wanted.numpy(), (root @ weight.T).numpy()])
    expected = torch.tensor(np.linalg.lstsq(design, target, rcond=None)[0]).T
    found = refitted.get_submodule("2")
    assert isinstance(found, nn.Linear)
    torch.testing.assert_close(found.weight[:, keep], expected[:, :-1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.bias, expected[:, -1], atol=1e-4, rtol=1e-4)


def test_train_mode_computes_what_eval_mode_does_after_refitting() -> None:
    setup = case(Block(), (2, 6, 6), n=512)
    inner = next(c for c in setup.structure.classes if c.name == "conv1")
    keep = torch.ones(setup.structure.n_units, dtype=torch.bool)
    keep[inner.first : inner.first + 4] = False
    model, _ = setup.refit(keep)
    seen: dict[bool, Tensor] = {}
    for training in (False, True):
        model.eval()
        model.get_submodule("bn2").train(training)
        handle = model.get_submodule("bn2").register_forward_hook(
            lambda m, _, y: seen.__setitem__(m.training, y.clone())
        )
        with torch.no_grad(), attach(model, setup.structure, FixedGates(keep.float())):
            model(setup.x)
        handle.remove()
    gap = float((seen[True] - seen[False]).square().mean() / seen[False].var())
    assert gap < 1e-3
    norms = [m.get_submodule("conv2").weight for m in (setup.model, model)]
    kept = [w[:, keep[inner.units]].flatten(1).norm(dim=1) for w in norms]  # type: ignore[index]
    torch.testing.assert_close(kept[0], kept[1])


def test_nothing_closed_changes_nothing() -> None:
    setup = case(Block(), (2, 6, 6))
    model, refits = setup.refit(torch.ones(setup.structure.n_units, dtype=torch.bool))
    assert not any(r.before for r in refits)
    for old, new in zip(setup.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(old, new)


def test_branches_are_found_through_norms_and_sums_in_place() -> None:
    setup = case(Block(), (2, 6, 6))
    layers = ["stem", "conv1", "conv2", "head"]
    found = find_branches(setup.model, layers, setup.x[:2])
    assert found == [
        Branch("stem", None, False),
        Branch("conv1", "bn1", False),
        Branch("conv2", "bn2", True),
        Branch("head", None, False),
    ]
    at = torch.tensor([7, 0])
    seen = observe(setup.model, [found[2]], setup.x, lambda *_: at)["conv2"]
    model = setup.model
    assert isinstance(model, Block)
    with torch.no_grad():
        stem = torch.relu(model.stem(setup.x))
        out = model.bn2(model.conv2(torch.relu(model.bn1(model.conv1(stem)))))
    for got, whole in ((seen.y, out), (seen.other, stem)):
        torch.testing.assert_close(got, whole.flatten(2)[:, :, at].transpose(1, 2).flatten(0, 1))
    fitted = seen.a @ model.conv2.weight.flatten(1).T if seen.a is not None else None
    assert fitted is not None
    slope = model.bn2.weight / (model.bn2.running_var + model.bn2.eps).sqrt()
    torch.testing.assert_close(
        seen.y, (slope * (fitted - model.bn2.running_mean) + model.bn2.bias).detach(),
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_a_sum_with_what_follows_from_the_branch_is_no_residual_of_it() -> None:
    class After(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.inner = nn.Linear(4, 4), nn.Linear(4, 4)
            self.shortcut, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x)
            x = x + self.inner(torch.relu(x))
            return self.last(torch.relu(x)) + self.shortcut(x)

    found = find_branches(
        After().eval(), ["layer", "inner", "last", "shortcut"], torch.randn(2, 4)
    )
    assert {b.layer: b.summed for b in found} == {
        "layer": False, "inner": True, "last": True, "shortcut": True,
    }  # fmt: skip


def test_a_norm_over_tokens_is_no_norm_of_the_linear_layer() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6)).eval()
    assert find_branches(model, ["0"], torch.randn(2, 5))[0].norm == "1"
    assert find_branches(model, ["0"], torch.randn(2, 6, 5))[0].norm is None


def test_tied_weights_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 3))
    model[2].weight = model[0].weight
    assert refittable(model) == ["3"]


def test_too_few_inputs_refit_nothing() -> None:
    setup = case(Block(), (2, 6, 6), n=8)
    keep = torch.ones(setup.structure.n_units, dtype=torch.bool)
    keep[-3:] = False
    _, refits = setup.refit(keep)
    assert not any(r.before for r in refits)


def test_a_norm_that_another_reader_shares_is_no_part_of_the_branch() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 3)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y).relu() * y.sigmoid()

    model = Shared().eval()
    assert find_branches(model, ["conv"], torch.randn(2, 2, 5, 5)) == [Branch("conv", None, False)]
