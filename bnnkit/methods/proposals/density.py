"""A target as training and chains see it: asked in blocks, with its answers checked."""

from __future__ import annotations

import torch
from torch import Tensor

from bnnkit.errors import TrainingError, UsageError
from bnnkit.methods.proposals.targets import Target

__all__ = ["Density"]

_ROWS = 1 << 14


class Density:
    """The log-density of a target, and how often its answer was no number.

    Args:
        target: What to sample from.
        minibatch: Data rows for one gradient; None takes all of them.

    Raises:
        UsageError: Minibatches of a target that is no sum over data.
    """

    def __init__(self, target: Target, minibatch: int | None = None) -> None:
        if minibatch is not None and target.minibatches is None:
            raise UsageError(
                "Reading --minibatch",
                f"{minibatch} rows of the target {target.name!r}",
                "it is given as no sum over data",
                "Name an object with data_size, log_prior(x) and log_likelihood(x, rows).",
            )
        self.target = target
        self.minibatch = minibatch
        self.asked = self.undefined = 0

    def values(self, x: Tensor) -> Tensor:
        """Return log densities of positions `[..., dim]`, float64 `[...]`, without a gradient.

        NaN stays NaN, which a chain rejects.

        Raises:
            UsageError: The answer is no density: another shape, or plus infinity.
        """
        flat = x.detach().reshape(-1, self.target.dim)
        with torch.no_grad():
            parts = [self._checked(part) for part in torch.split(flat, _ROWS)]
        return torch.cat(parts).double().view(x.shape[:-1])

    def differentiable(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return log densities `[n]` that pass a gradient to `x` `[n, dim]`.

        Where minibatches were asked for, an unbiased estimate on random rows.

        Raises:
            UsageError: The answer is no density, or has no gradient.
        """
        parts = self.target.minibatches
        if self.minibatch is None or parts is None or self.minibatch >= parts.size:
            found = self._checked(x)
        else:
            rows = torch.randint(parts.size, (self.minibatch,), generator=generator)
            scale = parts.size / self.minibatch
            found = self._check(
                parts.log_prior(x) + scale * parts.log_likelihood(x, rows), x.shape[0]
            )
        if x.requires_grad and not found.requires_grad:
            raise UsageError(
                f"Differentiating the target {self.target.name!r}",
                "log densities without a gradient",
                "proposals are trained along the gradient of the density",
                "Compute it with torch operations, without .detach(), .numpy() or no_grad.",
            )
        return found

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log densities `[n]` and their gradients `[n, dim]`, zero where undefined."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            found = self._with_gradient(x)
            (slope,) = torch.autograd.grad(found.sum(), x)
        return found.detach().double(), slope.nan_to_num(0.0, 0.0, 0.0)

    def _with_gradient(self, x: Tensor) -> Tensor:
        """Return exact differentiable log densities."""
        whole, self.minibatch = self.minibatch, None
        try:
            return self.differentiable(x, torch.Generator())
        finally:
            self.minibatch = whole

    def _checked(self, x: Tensor) -> Tensor:
        return self._check(self.target.log_prob(x), x.shape[0])

    def _check(self, found: object, count: int) -> Tensor:
        """Refuse answers that are not `[count]` log densities; count those that are NaN."""
        what = f"Evaluating the target {self.target.name!r} on [{count}, {self.target.dim}]"
        hint = "Return one log density a row: a floating-point tensor of shape [n] for x [n, dim]."
        if not isinstance(found, Tensor) or not found.is_floating_point():
            kind = f"a tensor of {found.dtype}" if isinstance(found, Tensor) else type(found)
            name = kind.__name__ if isinstance(kind, type) else kind
            raise UsageError(what, f"{name!r}", "it is no tensor of log densities", hint)
        if found.shape != (count,):
            raise UsageError(
                what, f"shape {list(found.shape)}", f"shape [{count}] is expected", hint
            )
        if bool((found == torch.inf).any()):
            raise UsageError(
                what,
                "an infinite log density (+inf)",
                "a chain that comes there never leaves: this is no density to sample from",
                "Bound it, or change the variables so that it is finite.",
            )
        self.asked += count
        self.undefined += int(found.isnan().sum())
        return found

    def check_share(self, lost: int, of: int) -> None:
        """Refuse to train on where most proposals have no density.

        Raises:
            TrainingError: More than a tenth of the proposals had a log density of NaN or -inf.
        """
        if of and lost > 0.1 * of:
            raise TrainingError(
                f"Training a proposal for {self.target.name!r}",
                f"{lost:,} of {of:,} proposals with a log density of NaN or -inf",
                "the divergence from a proposal that reaches outside the support is infinite",
                "Change the variables so that the density is positive on all of R^dim, for "
                "example the logarithm of a positive one; or use --objective ar.",
            )
