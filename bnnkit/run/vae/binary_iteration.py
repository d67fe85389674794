"""The refinement of binary latents by adaptive importance sampling as three graphs, for serving.

It draws by comparing uniform numbers with means, [u < mu]. Where a number lies as near to a mean
as float32 rounds, two runtimes may draw differently, both rightly: those of the proof keep off.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnnkit.errors import StructureError
from bnnkit.io.onnx_loop import Iteration
from bnnkit.methods.vae.belief import BeliefModel, bound
from bnnkit.methods.vae.refine_binary import importance_start, importance_step
from bnnkit.run.vae.setup import VaeBench
from bnnkit.spec.vae_refine import RefineConfig

__all__ = ["binary_refinement_loop", "uniform_noise"]

_APART = 1e-4
"""How far the numbers of the proof stay from the means that they are compared with."""


class _Part(nn.Module):
    """What the parts of the iteration share.

    Args:
        model: The belief net.
        module: The net, so that its weights belong to the part.
    """

    def __init__(self, model: BeliefModel, module: nn.Module) -> None:
        super().__init__()
        self.inner, self._model = module, model


class _Start(_Part):
    """Data to the encoder's logits and the first means."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self._model.encode(x)
        return logits, importance_start(logits)


class _Step(_Part):
    """One damped step towards the weighted mean of the samples."""

    def forward(
        self, x: Tensor, noise: Tensor, rate: Tensor, encoder: Tensor, mean: Tensor
    ) -> tuple[Tensor]:
        moved = importance_step(self._model, x, mean, noise, rate)
        return (torch.where(moved.isnan(), mean, moved),)


class _Finish(_Part):
    """The bounds of the encoder's and of the refined posterior under the last draws, and both."""

    def forward(
        self, x: Tensor, noise: Tensor, encoder: Tensor, first: Tensor, mean: Tensor
    ) -> tuple[Tensor, ...]:
        logits = mean.logit()
        before = bound(self._model, x, encoder, (noise < torch.sigmoid(encoder)).to(x))
        after = bound(self._model, x, logits, (noise < mean).to(x))
        return before, after, encoder, mean


def binary_refinement_loop(bench: VaeBench, config: RefineConfig) -> tuple[Iteration, Tensor]:
    """Return the refinement as an iteration that can be exported, and the rates of its steps.

    Args:
        bench: A belief net; its weights must take no gradient.
        config: The refinement, by `ais`.

    Raises:
        StructureError: The latents are continuous.
    """
    model, module = bench.belief, bench.auto.module
    if model is None:
        raise StructureError("Refining binary latents", bench.auto.name, "they are continuous")
    iteration = Iteration(
        _Start(model, module),
        _Step(model, module),
        _Finish(model, module),
        ("encoder",),
        ("mean",),
        ("bound_before", "bound_after", "encoder_logits", "refined_mean"),
    )
    return iteration, torch.full((config.steps,), config.rate)


@torch.no_grad()
def uniform_noise(
    iteration: Iteration, x: Tensor, rates: Tensor, samples: int, generator: torch.Generator
) -> Tensor:
    """Return numbers for a proof, uniform but for a gap around each mean that meets them.

    Args:
        iteration: From `binary_refinement_loop`.
        x: Data `[n, D]`.
        rates: Of its steps `[K]`.
        samples: Draws in a step.
        generator: Source of the numbers.

    Returns:
        `[K + 1, samples, n, L]`.
    """
    encoder, mean = iteration.start(x)
    noise = torch.rand(len(rates) + 1, samples, *mean.shape, generator=generator)
    for k, rate in enumerate(rates):
        noise[k] = _away_from(mean, noise[k])
        (mean,) = iteration.step(x, noise[k], rate, encoder, mean)
    for met in (torch.sigmoid(encoder), mean):
        noise[-1] = _away_from(met, noise[-1])
    return noise


def _away_from(mean: Tensor, noise: Tensor) -> Tensor:
    gap = noise - mean
    return torch.where(gap.abs() < _APART, mean + torch.where(gap < 0, -_APART, _APART), noise)
