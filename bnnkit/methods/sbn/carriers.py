"""Put stochastic batch norm into a copy of somebody's net, and take it out again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from bnnkit.errors import StructureError
from bnnkit.graph.outputs import main_output
from bnnkit.layers.stochastic_batch_norm import FoldableLayer, Pass, StochasticBatchNorm

__all__ = ["CountBatchNorms", "carriers", "make_foldable", "plain_copy", "with_carriers"]

_WHAT = "Fitting stochastic batch norm"

_FOLDABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def with_carriers(net: nn.Module) -> tuple[nn.Module, Pass]:
    """Return a copy of a net, in eval mode, whose batch norms can sample their statistics.

    Args:
        net: Any module; it is not touched.

    Raises:
        StructureError: It has no batch norm; what normalises it is named.
    """
    try:
        copied = copy.deepcopy(net).eval()
    except Exception as error:  # tensors that a hook computed, handles of libraries
        raise StructureError(
            _WHAT,
            f"a net that cannot be copied: {type(error).__name__}",
            "the noise is put into a copy, so that the net stays as it is",
            "Let copy.deepcopy(net) work; take torch.nn.utils.weight_norm off first.",
        ) from error
    shared = Pass()
    _refuse_unreachable(copied)
    norms = [(name, m) for name, m in copied.named_modules() if isinstance(m, _BatchNorm)]
    if not norms:
        raise StructureError(
            _WHAT,
            _other_norms(net),
            "only batch norm has statistics that vary from batch to batch",
            "Use a net with BatchNorm1d, 2d, 3d or SyncBatchNorm modules (not F.batch_norm or "
            "TorchScript); 'bnnkit eval' measures the calibration of any net.",
        )
    for name, norm in norms:
        carrier = StochasticBatchNorm(norm, name, shared)
        if not name:  # the net is one layer
            return carrier.eval(), shared
        _replace(copied, name, carrier)
    return copied, shared


def plain_copy(net: nn.Module) -> nn.Module:
    """Return a copy of a net with carriers as its owner wrote it."""
    copied = copy.deepcopy(net)
    if isinstance(copied, StochasticBatchNorm):
        return copied.norm
    for name, module in list(copied.named_modules()):
        if isinstance(module, StochasticBatchNorm):
            _replace(copied, name, module.norm)
        elif isinstance(module, FoldableLayer):
            _replace(copied, name, module.layer)
    return copied


def carriers(net: nn.Module) -> dict[str, StochasticBatchNorm]:
    """Return the carriers of a net by the name of their layer."""
    return {m.name: m for m in net.modules() if isinstance(m, StochasticBatchNorm)}


def make_foldable(net: nn.Module, x: Tensor) -> None:
    """Let each layer whose output only a batch norm reads take the sampled scale and shift over.

    Which layers do is seen on one forward pass: the norm reads the very tensor that the layer
    wrote, unchanged, and both are used once. Whether something else reads it as well is not seen
    here; the caller compares the answers with and without.

    Args:
        net: A net with carriers; changed in place.
        x: `[b, ...]` inputs.
    """
    written: dict[int, tuple[str, Tensor, int]] = {}
    uses: dict[str, int] = {}
    pairs: dict[str, str] = {}
    norms = carriers(net)
    handles = []

    def wrote(name: str) -> Any:  # noqa: ANN401 - a hook
        def hook(module: nn.Module, _: object, out: object) -> None:
            uses[name] = uses.get(name, 0) + 1
            flat = isinstance(module, nn.Linear)  # whose last axis is the channels' only then
            if isinstance(out, Tensor) and (out.dim() == 2 or not flat):
                written[id(out)] = (name, out, out._version)

        return hook

    def reads(name: str) -> Any:  # noqa: ANN401 - a hook
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            uses[name] = uses.get(name, 0) + 1
            source = written.get(id(args[0])) if args else None
            if source is not None and source[1]._version == source[2]:
                pairs[name] = source[0]

        return hook

    for name, module in net.named_modules():
        if type(module) in _FOLDABLE and not (module._forward_hooks or module._forward_pre_hooks):
            handles.append(module.register_forward_hook(wrote(name)))
    handles += [norm.register_forward_pre_hook(reads(norm.name)) for norm in norms.values()]
    try:
        # tensors of inference mode do not count their changes
        with torch.inference_mode(False), torch.no_grad():
            main_output(net(x.clone()))
    finally:
        for handle in handles:
            handle.remove()
    for reader, layer in pairs.items():
        norm, width = norms[reader], net.get_parameter(f"{layer}.weight").shape[0]
        if uses[reader] == uses[layer] == 1 and width == norm.norm.num_features:
            norm.foldable = norm.folded = True
            _replace(net, layer, FoldableLayer(net.get_submodule(layer), norm))


def unfold(net: nn.Module) -> None:
    """Take back what `make_foldable` did."""
    for name, module in list(net.named_modules()):
        if isinstance(module, FoldableLayer):
            _replace(net, name, module.layer)
    for norm in carriers(net).values():
        norm.foldable = norm.folded = False


def _replace(net: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another, wherever the net holds that one."""
    old = net.get_submodule(name)
    for parent in list(net.modules()):
        if isinstance(parent, StochasticBatchNorm | FoldableLayer):
            continue
        for key, child in list(parent._modules.items()):
            if child is old:
                parent._modules[key] = module


def _refuse_unreachable(net: nn.Module) -> None:
    """Refuse batch norms that no carrier can stand for."""
    for name, module in net.named_modules():
        scripted = isinstance(module, torch.jit.ScriptModule)
        if scripted and str(getattr(module, "original_name", "")).startswith("BatchNorm"):
            raise StructureError(
                _WHAT,
                f"the batch norm {name!r} in TorchScript",
                "its statistics cannot be replaced from outside",
                "Use the net before torch.jit.script.",
            )
        if isinstance(module, _BatchNorm) and any(map(is_lazy, module.parameters())):
            raise StructureError(
                _WHAT,
                f"the batch norm {name!r}, which has no parameters yet",
                "it does not know its channels",
                "Run the net once, or load its weights.",
            )


class CountBatchNorms(TorchFunctionMode):
    """Count in `calls` the calls of `batch_norm` that no carrier answers."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        self.calls += func is F.batch_norm
        return func(*args, **(kwargs or {}))


def _other_norms(net: nn.Module) -> str:
    """Say how a net without batch norm normalises."""
    kinds: dict[str, int] = {}
    for module in net.modules():
        kind = type(module).__name__
        if "norm" in kind.lower():
            kinds[kind] = kinds.get(kind, 0) + 1
    if not kinds:
        return "a net without any normalisation module"
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"a net without batch norm; it has {listed}"
