r"""What all methods with a posterior on weights share: layers, noise, objective, decision.

| symbol | in code | meaning |
|---|---|---|
| M | | means of the posterior: the model's own weights, trained as its parameters |
| Σ | `posteriors` | covariance of the weights of each layer |
| τ, γ | `priors` | precisions of the prior, where it learns some |
| N | `n_examples` | size of the training set |
| β | `kl_coefficient` | weight of the KL term, grown exponentially |

The loop minimises mean cross-entropy + β Σ KL / N. While attached in train mode, every convolution
and linear layer that reads or writes a removable unit adds the random part of its output; in eval
mode the means act, and when it is detached they are the weights of the model.

A layer is the matrix (inputs, outputs). A unit is read by rows of the layers that mix it, over the
kernel, and written by columns, the filters of the layers that make it. It is kept if some reader
finds its row relevant and some writer its column; `groups` says which of the two are asked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from bnnkit.graph.attach import Attachment
from bnnkit.graph.structure import UNGATED, Structure
from bnnkit.layers.bayesian_weights import Blocks, DiagonalWeights, MatrixNormalWeights
from bnnkit.layers.weight_priors import GroupPrior, SinglePrior
from bnnkit.methods.base import Aim, Decision
from bnnkit.methods.kl_scale import DualAscent, KlScale, noise_rate
from bnnkit.spec.posterior_config import LOG_SIGMA_RANGE, PosteriorConfig

__all__ = ["Posterior", "Prior", "WeightMethod", "covered_layers", "kl_coefficient"]

Posterior = DiagonalWeights | MatrixNormalWeights
Prior = SinglePrior | GroupPrior

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_UNASKED_LOG_ALPHA, _UNASKED_NATS = -100.0, 1e12


class WeightMethod(ABC):
    """Gaussian posteriors around the weights of a model.

    Args:
        structure: The classes that may shrink.
        config: Rates, KL scale, groups and the threshold.
        n_examples: Size of the training set, N of the evidence bound.
        generator: Source of the noise, on the model's device.
        model: The analysed model; its weights are the means.
        round_to: Widths are kept at multiples of this many channels.
        device: Where the variances live.
        aim: The share of the full cost to reach, for which the weight of the KL term is sought
            from the given one on; None takes the given one.
    """

    def __init__(
        self,
        structure: Structure,
        config: PosteriorConfig,
        n_examples: int,
        generator: torch.Generator,
        *,
        model: nn.Module,
        round_to: int = 1,
        device: torch.device | str = "cpu",
        aim: Aim | None = None,
    ) -> None:
        self.structure = structure
        self.config = config
        self.n_examples = n_examples
        self.generator = generator
        self.round_to = round_to
        self.names = covered_layers(model, structure)
        self._layers = [model.get_submodule(name) for name in self.names]
        self._posteriors = [self._posterior(layer) for layer in self._layers]
        self._priors = [
            self._prior(_means(layer).detach(), posterior)
            for layer, posterior in zip(self._layers, self._posteriors, strict=True)
        ]
        self._steps = None if aim is None else aim.steps
        self.scale = (
            KlScale()
            if aim is None
            else DualAscent(aim.target, lambda: aim.share(self._open(self._units()[0])), aim.steps)
        )
        held = {
            "posteriors": nn.ModuleList(self._posteriors).to(device),
            "priors": nn.ModuleList(self._priors).to(device),
        }
        self._carrier = nn.ModuleDict({**held, "scale": self.scale})

    @abstractmethod
    def _posterior(self, layer: nn.Module) -> Posterior:
        """Return the posterior of one layer."""

    @abstractmethod
    def _prior(self, mu: Tensor, posterior: Posterior) -> Prior:
        """Return the prior of one layer."""

    # --- the method, as the loop sees it --------------------------------------------------

    def carrier(self) -> nn.Module:
        """Return variances and precisions; the means belong to the model."""
        return self._carrier

    def attach(self, model: nn.Module) -> Attachment:
        """Let the layers of a model draw their noise; from now on its weights are the means."""
        self._layers = [model.get_submodule(name) for name in self.names]
        return Attachment(
            [
                layer.register_forward_hook(self._hook(posterior), with_kwargs=True)
                for layer, posterior in zip(self._layers, self._posteriors, strict=True)
            ]
        )

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return the variances with their own rate, without weight decay."""
        rate = self.config.noise_lr or noise_rate(lr, self._steps)
        return [{"params": list(self._carrier.parameters()), "lr": rate, "weight_decay": 0.0}]

    def penalty(self, progress: float) -> Tensor:
        """Fit the prior, and return β Σ KL / N in nats per example."""
        coefficient: float = kl_coefficient(self.config, progress) * self.scale(progress)
        return coefficient / self.n_examples * self._kl(fit=True)

    def after_step(self) -> None:
        """Keep log deviations in the range where everything is finite."""
        for posterior in self._posteriors:
            posterior.clip(*LOG_SIGMA_RANGE)

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Return how many units are relevant, the unscaled KL in nats, and its weight."""
        kept = int(self._open(self._units()[0]).sum())
        scale = self.config.kl_scale * float(self.scale.scale)
        return {"kept": float(kept), "kl": float(self._kl()), "kl_scale": scale}

    def decide(self) -> Decision:
        """Close the units that are noise; nothing is ever left empty, and the rest has no gate.

        The score is what the posterior says is lost with a unit, in nats of log-density.
        """
        log_alpha, nats = self._units()
        keep, reopened = self.structure.ensure_alive(self._open(log_alpha), nats)
        if self.round_to > 1:
            keep = self.structure.round_up(keep, nats, self.round_to)
        evidence = {"log_alpha": log_alpha, "nats": nats}
        return Decision(keep, torch.ones_like(nats), nats, tuple(reopened), evidence)

    # --- figures of the papers --------------------------------------------------------------

    @torch.no_grad()
    def masks(self) -> dict[str, Tensor]:
        """Return which weights are left, unit or not: bool in the shape of each layer's weight."""
        return {
            name: prior.left(mu, posterior, self.config.threshold).reshape(_weight(layer).shape)
            for (name, layer), (mu, posterior, prior) in zip(
                zip(self.names, self._layers, strict=True), self._each(), strict=True
            )
        }

    def weights_left(self) -> dict[str, tuple[int, int]]:
        """Return `{layer: (weights left, weights)}`, the count of the papers' tables."""
        return {name: (int(mask.sum()), mask.numel()) for name, mask in self.masks().items()}

    # --- inside -----------------------------------------------------------------------------

    def _each(self) -> Iterator[tuple[Tensor, Posterior, Prior]]:
        """Yield means `[g, m, n, K]`, posterior and prior of every layer."""
        means = map(_means, self._layers)
        return zip(means, self._posteriors, self._priors, strict=True)

    def _hook(self, posterior: Posterior) -> Callable[..., Tensor | None]:
        def hook(
            layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
        ) -> Tensor | None:
            if not (layer.training and self._carrier.training):
                return None
            x = args[0] if args else kwargs["input"]
            return output + posterior.noise(layer, x, self.generator).to(output.dtype)

        return hook

    def _kl(self, *, fit: bool = False) -> Tensor:
        """Return the divergence of all layers from their priors, fitted first or not, `[]`."""
        terms = [prior.kl(mu, posterior, fit=fit) for mu, posterior, prior in self._each()]
        return torch.stack(terms).sum()

    def _open(self, log_alpha: Tensor) -> Tensor:
        """Return which units are relevant, bool `[units]`."""
        return (log_alpha <= self.config.threshold) | (self.config.groups == "layer")

    @torch.no_grad()
    def _units(self) -> tuple[Tensor, Tensor]:
        """Return log α and nats of every unit, as its readers or its writers say: the worse."""
        read, written = _Tally(self.structure.n_units), _Tally(self.structure.n_units)
        for name, (mu, posterior, prior) in zip(self.names, self._each(), strict=True):
            found = prior.relevance(mu, posterior)
            if (units := self.structure.reads.get(name)) is not None:
                read.add(units, found.rows.amin((1, 3)), found.row_nats)
            if (units := self.structure.slots.get((f"{name}.weight", 0))) is not None:
                written.add(units, found.columns, found.column_nats)
        asked = {"rows": [read], "columns": [written]}.get(self.config.groups, [read, written])
        log_alpha, nats = zip(*(side.said() for side in asked), strict=True)
        return torch.stack(log_alpha).amax(0), torch.stack(nats).amin(0)


class _Tally:
    """What several layers say of the units: one that needs it is enough, and losses add up."""

    def __init__(self, units: int) -> None:
        self._log_alpha = torch.full((units + 1,), torch.inf)  # the last one has no unit
        self._nats = torch.zeros(units + 1)

    def add(self, units: Tensor, log_alpha: Tensor, nats: Tensor) -> None:
        at = torch.where(units == UNGATED, len(self._nats) - 1, units)
        self._log_alpha.scatter_reduce_(0, at, log_alpha.flatten().float().cpu(), "amin")
        self._nats.scatter_add_(0, at, nats.flatten().float().cpu())

    def said(self) -> tuple[Tensor, Tensor]:
        """Return log α and nats `[units]`; a unit that no layer speaks of is kept."""
        unasked = self._log_alpha.isinf()
        log_alpha = self._log_alpha.masked_fill(unasked, _UNASKED_LOG_ALPHA)
        return log_alpha[:-1], self._nats.masked_fill(unasked, _UNASKED_NATS)[:-1]


def covered_layers(model: nn.Module, structure: Structure) -> list[str]:
    """Return the convolutions and linear layers that read or write a unit, in forward order.

    A subclass with a forward of its own is covered where it reads units: the analysis has then
    seen that it is linear in its input.
    """
    written = [name.removesuffix(".weight") for name, axis in structure.slots if axis == 0]
    plain = [kind.forward for kind in _KINDS]
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, _KINDS)
        and (name in structure.reads or (name in written and type(layer).forward in plain))
    ]


def kl_coefficient(config: PosteriorConfig, progress: float) -> float:
    """Return β at a share of the training: grown exponentially to `kl_scale`, then constant."""
    if progress >= config.kl_anneal:
        return config.kl_scale
    return float(config.kl_scale * config.kl_start ** (1.0 - progress / config.kl_anneal))


def _weight(layer: nn.Module) -> Tensor:
    return cast(Tensor, layer.weight)


def _means(layer: nn.Module) -> Tensor:
    """Return a layer's weights as blocks, `[g, m, n, K]`."""
    return _weight(layer).reshape(Blocks.of(layer))
