r"""Batch norm whose statistics are random: the carrier of stochastic batch normalisation.

With sampled statistics a batch-norm layer is an affine map of each channel,

.. math::
    y = \gamma \frac{x - \mu}{\sigma} + \beta = a x + b, \qquad
    a = \gamma / \sigma, \quad b = \beta - a \mu, \qquad \sigma = \sqrt{v + \epsilon},

with one :math:`(a, b)` for each of K copies of the batch. What all layers of a net share during
one forward pass, a `Pass`, says which of four things they do: nothing (`plain`), record the
statistics of a real batch (`record`), treat K copies of the batch side by side (`copies`), or
take one sample, whose scale and shift the layer before may have taken already (`single`).

References:
    A. Atanov, A. Ashukha, D. Molchanov, K. Neklyudov, D. Vetrov, Uncertainty estimation via
    stochastic batch normalization (2019), section 3.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from bnnkit.errors import StructureError

__all__ = ["Affine", "FoldableLayer", "Pass", "StochasticBatchNorm", "batch_statistics"]

Affine = tuple[Tensor, Tensor]
"""Scale and shift `(a, b)`, each `[k, c]`."""

_OWN_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


def batch_statistics(x: Tensor, eps: float) -> Tensor:
    """Return the statistics of a batch as training sees them: `[mean, log deviation]`.

    The variance is the biased one plus `eps`, under the root, so that the logarithm exists for a
    channel that never fires.

    Args:
        x: `[b, c, ...]`.
        eps: The layer's own.

    Returns:
        `[2 c]`.
    """
    axes = [0, *range(2, x.dim())]
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    variance, mean = torch.var_mean(x, axes, correction=0)
    return torch.cat([mean, 0.5 * (variance.clamp_min(0.0) + eps).log()])


class Pass(threading.local):
    """What the norms of one net do during a forward pass, and with which statistics.

    Every thread has its own, so that several may call one net. A layer that is used several times
    has a site for each use: `bn`, `bn#2` ...
    """

    def __init__(self) -> None:
        self.mode = "plain"
        self.copies = 1
        self.widened = False
        self.affine: Mapping[str, Affine] = {}
        self.recorded: dict[str, Tensor] = {}
        self._uses: dict[str, int] = {}

    def __reduce__(self) -> tuple[type[Pass], tuple[()]]:
        """Copy as a pass that has not begun."""
        return Pass, ()

    def begin(self, mode: str, affine: Mapping[str, Affine] | None = None) -> None:
        """Start a forward pass.

        Args:
            mode: `plain`, `record`, `copies` or `single`.
            affine: Scale and shift of each site: `[k, c]`, `k` = 1 for `single`.
        """
        self.mode, self.affine, self.widened = mode, affine or {}, False
        self.recorded, self._uses = {}, {}

    def end(self) -> None:
        """Let the layers be what they were."""
        self.begin("plain")

    def site(self, name: str) -> str:
        """Return the name of the next use of a layer."""
        count = self._uses[name] = self._uses.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"

    def widen(self, x: Tensor) -> Tensor:
        """Return K copies of a batch, one after the other."""
        self.widened = True
        return x.expand(self.copies, *x.shape).flatten(0, 1)


class StochasticBatchNorm(nn.Module):
    """A batch-norm layer in whose place samples of its statistics may act.

    Args:
        norm: The owner's layer, of any subclass; its parameters stay where they are.
        name: Its name in the net.
        shared: The pass of the net.
    """

    def __init__(self, norm: _BatchNorm, name: str, shared: Pass) -> None:
        super().__init__()
        self.norm = norm
        self.name = name
        self.shared = shared
        # a subclass may do more than normalise (timm's also drops and activates)
        self.plain_forward = type(norm).forward in _OWN_FORWARDS and not (
            norm._forward_hooks or norm._forward_pre_hooks
        )
        self.foldable = self.folded = False

    def forward(self, x: Tensor) -> Tensor:
        """Map `[b, c, ...]`, or `[k b, c, ...]` once the copies are apart, to the same shape."""
        if self.shared.mode == "plain":
            out: Tensor = self.norm(x)
            return out
        if self.plain_forward:
            return self.normalise(x)
        with _InPlaceOfBatchNorm(self.normalise):
            out = self.norm(x)
            return out

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Answer for the layer: code of its owner may ask for `eps` or `weight`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "norm":
                raise
            return getattr(self.norm, name)

    def normalise(self, x: Tensor) -> Tensor:
        """Normalise by the statistics that the pass asks for."""
        shared, site = self.shared, self.shared.site(self.name)
        if shared.mode == "record":
            statistics = batch_statistics(x, self.norm.eps)
            shared.recorded[site] = statistics
            a, b = self.affine(statistics[None])
            return torch.addcmul(_spread(b, x), x, _spread(a, x))
        if site not in shared.affine:
            raise StructureError(
                "Running a stochastic net",
                f"a use of batch norm {site!r} without statistics",
                "the forward pass is not the one that they were fitted on",
                "Fit them again with 'bnnkit sbn-fit'.",
            )
        a, b = shared.affine[site]
        if shared.mode == "single":
            return x if self.folded else torch.addcmul(_spread(b, x), x, _spread(a, x))
        return self._copies(x, a, b)

    def _copies(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Treat K copies, stored one after the other; make them where nobody did before."""
        shared, tail = self.shared, [1] * (x.dim() - 2)
        k = shared.copies
        a, b = (t.to(x.dtype).reshape(k, 1, -1, *tail) for t in (a, b))
        # the rows of a copy may be more than the batch's: frames of a film, patches
        apart = x.reshape(k, -1, *x.shape[1:]) if shared.widened else x[None]
        shared.widened = True
        return torch.addcmul(b, apart, a).flatten(0, 1)

    def affine(self, statistics: Tensor) -> Affine:
        """Return scale and shift `[k, c]` for statistics `[k, 2 c]`."""
        mean, log_deviation = statistics.chunk(2, dim=1)
        scale = torch.exp(-log_deviation)
        if self.norm.weight is not None:
            scale = self.norm.weight * scale
        shift = -mean * scale
        return scale, shift if self.norm.bias is None else self.norm.bias + shift


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """Shape `[1, c]` to act on the channels of `x`."""
    return values.to(x.dtype).reshape(1, -1, *[1] * (x.dim() - 2))


class _InPlaceOfBatchNorm(TorchFunctionMode):
    """Answer calls of `batch_norm` inside a layer's own forward by our own."""

    def __init__(self, normalise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._normalise = normalise

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return self._normalise(args[0] if args else kwargs["input"])
        return func(*args, **kwargs)


class FoldableLayer(nn.Module):
    """A convolution or linear layer that only a batch norm reads: it takes the affine map over.

    Args:
        layer: The owner's layer.
        reader: The batch norm that reads it, once a pass.
    """

    def __init__(self, layer: nn.Module, reader: StochasticBatchNorm) -> None:
        super().__init__()
        self.layer = layer
        # not a submodule: the reader has its own place in the net
        self._reader = [reader]

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Answer for the layer, as its reader does for the norm."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "layer":
                raise
            return getattr(self.layer, name)

    def forward(self, x: Tensor) -> Tensor:
        """Map like the layer, in a `single` pass with the sample's scale and shift folded in."""
        reader = self._reader[0]
        if reader.shared.mode != "single" or not reader.folded:
            out: Tensor = self.layer(x)
            return out
        scale, shift = (t[0] for t in reader.shared.affine[reader.name])
        weight, bias = self.layer.weight, self.layer.bias
        assert isinstance(weight, Tensor)  # a convolution or a linear layer
        assert bias is None or isinstance(bias, Tensor)
        folded = weight * scale.to(weight.dtype).reshape(-1, *[1] * (weight.dim() - 1))
        shift = (shift if bias is None else shift + scale * bias).to(weight.dtype)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, folded, shift)
        forward: Callable[..., Tensor] = self.layer._conv_forward  # type: ignore[assignment]
        return forward(x, folded, shift)
