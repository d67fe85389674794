"""Structured Bayesian Pruning via log-normal multiplicative noise (Neklyudov et al. 2017).

| symbol | in code | meaning |
|---|---|---|
| θ | `theta` | gate of a unit, y = x θ |
| μ, σ | `mu`, `log_sigma` | parameters of q(θ) = LogN_[a,b](μ, σ²), truncated |
| N | `n_examples` | size of the training set |
| L | | ELBO = Σ log p(y | x, θ) − Σ KL(q ‖ LogU) |

The loop minimises −ELBO / N: mean cross-entropy plus the KL terms over N. A unit whose
signal-to-noise ratio E[θ] / sd[θ] is below 1 is closed. The equations are beside their code, in
`bayes/truncated_lognormal.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.errors import UsageError, did_you_mean
from bnnkit.graph.attach import Attachment, attach
from bnnkit.graph.structure import Structure, matches
from bnnkit.layers.log_normal_gates import LogNormalGates
from bnnkit.methods.base import Aim, Decision, Setting
from bnnkit.methods.kl_scale import DualAscent, KlScale, noise_rate
from bnnkit.spec.prune import SbpConfig

__all__ = ["Sbp"]


class Sbp:
    """Noise gates on every removable class, trained by stochastic variational inference.

    Args:
        structure: The classes to gate.
        config: Rates, KL scales and the threshold.
        n_examples: Size of the training set, N of the ELBO.
        generator: Source of the noise, on the gates' device.
        round_to: Widths are kept at multiples of this many channels.
        device: Where the gates live.
        price: `[units]` relative cost of a unit, which weighs its KL term; None counts all alike.
        aim: The share of the full cost to reach, for which the weight of the KL terms is
            sought from the given one on; None takes the given one.

    Raises:
        UsageError: A KL pattern matches no layer.
    """

    def __init__(
        self,
        structure: Structure,
        config: SbpConfig,
        n_examples: int,
        generator: torch.Generator,
        *,
        round_to: int = 1,
        device: torch.device | str = "cpu",
        price: Tensor | None = None,
        aim: Aim | None = None,
    ) -> None:
        self.structure = structure
        self.config = config
        self.round_to = round_to
        self.gates = LogNormalGates(
            [c.size for c in structure.classes],
            init_log_sigma=config.init_log_sigma,
            generator=generator,
            per_example=config.noise == "example",
        ).to(device)
        weight = kl_weights(structure, config) / n_examples
        self._weight = (weight if price is None else weight * price / price.mean()).to(device)
        self._steps = None if aim is None else aim.steps
        self.scale = (
            KlScale(config.kl_warmup)
            if aim is None
            else DualAscent(aim.target, lambda: aim.share(self._open()), aim.steps)
        )
        self._carrier = nn.ModuleDict({"gates": self.gates, "scale": self.scale})

    @classmethod
    def of(cls, setting: Setting) -> Sbp:
        """Return the method at its start."""
        return cls(
            setting.structure,
            setting.config.sbp,
            setting.n_examples,
            setting.generator,
            round_to=setting.round_to,
            device=setting.device,
            price=setting.price,
            aim=setting.aim,
        )

    def carrier(self) -> nn.Module:
        """Return the gates and the weight of their KL terms."""
        return self._carrier

    def attach(self, model: nn.Module) -> Attachment:
        """Gate a model."""
        return attach(model, self.structure, self.gates)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return (μ, log σ) with their own rate, without weight decay."""
        rate = self.config.noise_lr or noise_rate(lr, self._steps)
        return [{"params": list(self.gates.parameters()), "lr": rate, "weight_decay": 0.0}]

    def penalty(self, progress: float) -> Tensor:
        """Return Σ KL / N, scaled, in nats per example."""
        factor: float = self.scale(progress)
        return factor * (self._weight * self.gates.kl()).sum()

    def after_step(self) -> None:
        """Clip (μ, log σ) as the published code does."""
        self.gates.clip()

    def figures(self) -> dict[str, float]:
        """Return how many units are open, the unscaled KL in nats, and its weight."""
        with torch.no_grad():
            kl = float(self.gates.kl().sum())
        scale = self.config.kl_scale * float(self.scale.scale)
        return {"kept": float(self._open().sum()), "kl": kl, "kl_scale": scale}

    def decide(self) -> Decision:
        """Close what has SNR below the threshold; nothing is ever left empty."""
        with torch.no_grad():
            snr, theta = self.gates.snr().cpu(), self.gates.mean().cpu()
        keep = self._open()
        keep, reopened = self.structure.ensure_alive(keep, snr)
        if self.round_to > 1:
            keep = self.structure.round_up(keep, snr, self.round_to)
        return Decision(keep, theta, snr, tuple(reopened), {"snr": snr})

    @torch.no_grad()
    def _open(self) -> Tensor:
        return (self.gates.snr() >= self.config.snr_threshold).cpu()


def kl_weights(structure: Structure, config: SbpConfig) -> Tensor:
    """Return the KL weight of every unit, `[units]`: the last pattern that matches wins.

    Raises:
        UsageError: A pattern matches no removable layer.
    """
    weight = torch.full((structure.n_units,), config.kl_scale)
    for pattern, scale in config.kl_scales.items():
        hit = [c for c in structure.classes if any(matches(w, [pattern]) for w in c.writers)]
        if not hit:
            names = [w for c in structure.classes for w in c.writers]
            raise UsageError(
                "Scaling the KL term", f"the pattern {pattern!r}",
                "no removable layer matches it", did_you_mean(pattern, names[:40]),
            )  # fmt: skip
        for c in hit:
            weight[c.units] = scale
    return weight
