"""Training a proposal beside the chains that run under it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from bnnkit.bayes.accept import independent, metropolis_accept
from bnnkit.errors import TrainingError
from bnnkit.methods.proposals.density import Density
from bnnkit.methods.proposals.explore import Walks
from bnnkit.methods.proposals.families import Proposal
from bnnkit.methods.proposals.objectives import NEEDS_CHAIN, STATES_ONLY, objective

__all__ = ["Trained", "train"]

_POINTS = 50  # of the training curve
_CLIP = 10.0
_NEAR = 2.38


@dataclass(frozen=True)
class Trained:
    """How the training went.

    Args:
        curve: `{step, objective, acceptance}`, means over the steps since the row before;
            `acceptance` is that of the running chains, and absent where none ran.
        steps: Steps taken.
    """

    curve: list[dict[str, float]]
    steps: int


class _Chains:
    """Chains of independent proposals whose law changes at each step, and of steps nearby."""

    def __init__(
        self, density: Density, starts: Walks, scale: Tensor, generator: torch.Generator
    ) -> None:
        self.density, self.generator = density, generator
        self.x, self.log_p = starts.ends, starts.log_prob
        # best for a Gaussian of which scale is the factor (Roberts, Gelman, Gilks 1997)
        self.near = _NEAR / math.sqrt(len(scale)) * scale

    def step(self, proposal: Proposal) -> float:
        """Propose to every chain; return the mean acceptance probability."""
        with torch.no_grad():
            offered = proposal.sample(len(self.x), self.generator)
            log_p = self.density.values(offered)
            # weights of the states under the proposal of now, not of when they were accepted
            state = independent.init(self.x, self.log_p - proposal.log_prob(self.x).double())
            weight = log_p - proposal.log_prob(offered).double()
            after, info = independent.step(state, offered, weight, self._uniform())
            self.log_p = torch.where(info.accepted, log_p, self.log_p)
            self.x = after.position
        return float(info.probability.mean())

    def move(self) -> None:
        """Take a random-walk Metropolis step from every state.

        Where p is far above the proposal, independent chains stay for hundreds of steps: the few
        that are there would tell how much of p lies in the tails. Small steps do not depend on
        the proposal, and lead them away.
        """
        z = torch.randn(self.x.shape, generator=self.generator)
        offered = self.x + z @ self.near.T
        log_p = self.density.values(offered)
        accepted = metropolis_accept(log_p - self.log_p, self._uniform())
        self.log_p = torch.where(accepted, log_p, self.log_p)
        self.x = torch.where(accepted[:, None], offered, self.x)

    def _uniform(self) -> Tensor:
        return torch.rand(len(self.x), generator=self.generator, dtype=torch.float64)


def train(
    proposal: Proposal,
    density: Density,
    name: str,
    starts: Walks,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    generator: torch.Generator,
    told: Callable[[dict[str, float]], None] | None = None,
) -> Trained:
    """Train a proposal in place.

    Args:
        proposal: An `nn.Module` of one of the families.
        density: The target.
        name: The objective, one of `bnnkit.spec.proposal.OBJECTIVES`.
        starts: Where the chains start.
        steps: Gradient steps of Adam, with a rate that falls to 0 as a half cosine; the result
            is the mean of the parameters over the last half (Polyak and Juditsky 1992).
        batch_size: Proposals in one step.
        lr: Learning rate at the start.
        generator: Source of all random numbers.
        told: Told the figures of each step.

    Raises:
        TrainingError: The objective is no number, or most proposals have no density.
    """
    assert isinstance(proposal, nn.Module)
    chains = None
    if name in NEEDS_CHAIN:
        chains = _Chains(density, starts, proposal.whitening.scale, generator)
    parameters = list(proposal.parameters())
    adam = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(1, steps))
    averaged = AveragedModel(proposal)
    curve, recent = [], []
    lost = 0
    for i in range(1, steps + 1):
        figures = {}
        if chains is not None:
            figures["acceptance"] = chains.step(proposal)
            chains.move()
        gain, outside, count = _gain(proposal, density, name, chains, batch_size, generator)
        lost += outside
        if name != "ar" and (i % 100 == 0 or outside == count):
            density.check_share(lost, i * count)
        if not bool(gain.isfinite()):
            raise _diverged(density, name, i, float(gain))
        adam.zero_grad(set_to_none=True)
        torch.autograd.backward(-gain)
        if math.isfinite(float(nn.utils.clip_grad_norm_(parameters, _CLIP))):
            adam.step()
        schedule.step()
        if i > steps // 2:
            averaged.update_parameters(proposal)
        figures["objective"] = float(gain.detach())
        recent.append(figures)
        if told is not None:
            told(figures)
        if i % max(1, steps // _POINTS) == 0 or i == steps:
            curve.append({"step": i} | {k: _mean(recent, k) for k in figures})
            recent = []
    if steps:
        proposal.load_state_dict(averaged.module.state_dict())
    proposal.eval()
    return Trained(curve, steps)


def _gain(
    proposal: Proposal,
    density: Density,
    name: str,
    chains: _Chains | None,
    batch_size: int,
    generator: torch.Generator,
) -> tuple[Tensor, int, int]:
    """Return the objective, the proposals outside the support, and all of them."""
    states = None
    if chains is not None:
        states = chains.log_p.float() - proposal.log_prob(chains.x)
    if name in STATES_ONLY:
        return objective(name, None, None, states), 0, 1
    x, log_q, log_weight = proposal.draws(batch_size, generator)
    log_p = density.differentiable(x, generator)
    outside = ~log_p.isfinite()
    # torch.where alone would pass a NaN gradient from the branch that is not taken
    log_p = torch.where(outside, log_p.detach(), log_p)
    gain = objective(name, log_p - log_q, log_weight, states)
    return gain, int(outside.sum()), len(x)


def _mean(rows: list[dict[str, float]], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def _diverged(density: Density, name: str, step: int, value: float) -> TrainingError:
    return TrainingError(
        f"Training a proposal for {density.target.name!r}",
        f"an objective of {value:g} at step {step}",
        f"the {name!r} objective has no direction from there",
        "Use a smaller --lr, another --objective, or check the log density far from its modes.",
    )
