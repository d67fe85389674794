"""Take closed channels out of a model's tensors, in place, and let module attributes follow."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bnnkit.errors import StructureError

__all__ = ["slice_tensors"]

Axes = Mapping[tuple[str, int], Tensor]


def slice_tensors(model: nn.Module, kept: Axes) -> None:
    """Slice parameters and buffers in place, and correct the sizes that their modules hold.

    Args:
        model: The module to shrink.
        kept: `{(tensor name, axis): indices to keep}`.

    Raises:
        StructureError: A tensor is missing, or smaller than the indices ask for.
    """
    by_name: dict[str, dict[int, Tensor]] = {}
    for (name, axis), indices in kept.items():
        by_name.setdefault(name, {})[axis] = indices
    holders = _holders(model)
    replaced: dict[int, Tensor] = {}
    for name, axes in by_name.items():
        owner_path, _, leaf = name.rpartition(".")
        owner = _owner(model, owner_path, name)
        old = getattr(owner, leaf, None)
        if not isinstance(old, Tensor):
            raise StructureError("Removing channels", f"no tensor {name!r}", "the plan names it")
        new = _sliced(name, old, axes)
        replaced[id(old)] = (
            nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
        )
    touched: dict[int, nn.Module] = {}
    for key, new in replaced.items():
        for holder, attribute in holders[key]:
            setattr(holder, attribute, new)
            touched[id(holder)] = holder
    for module in touched.values():
        _follow_sizes(module)


def _holders(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Return every place of every tensor, `{id: [(module, name)]}`; shared ones stay shared."""
    out: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        tensors = (
            *module.named_parameters(recurse=False, remove_duplicate=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        )
        for name, tensor in tensors:
            out.setdefault(id(tensor), []).append((module, name))
    return out


def _owner(model: nn.Module, path: str, name: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise StructureError(
            "Removing channels", f"no module {path!r} for the tensor {name!r}",
            "the plan belongs to another architecture", "Check --arch.",
        ) from error  # fmt: skip


def _sliced(name: str, tensor: Tensor, axes: Mapping[int, Tensor]) -> Tensor:
    with torch.no_grad():
        out = tensor.detach()
        for axis, indices in axes.items():
            if axis >= out.dim() or int(indices.max()) >= out.shape[axis]:
                raise StructureError(
                    "Removing channels",
                    f"index {int(indices.max())} on axis {axis} of {name!r}, "
                    f"shape {list(tensor.shape)}",
                    "the plan belongs to another architecture",
                    "Check --arch and --arch-arg.",
                )
            out = out.index_select(axis, indices.to(out.device))
        return out.contiguous()


def _follow_sizes(module: nn.Module) -> None:
    """Set the size attributes of the standard layers from their tensors."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        out_channels, per_group = module.weight.shape[:2]
        if module.groups > 1 and module.groups == module.in_channels:
            # Depthwise: one group a channel, and the channel multiplier stays.
            module.groups = out_channels // (module.out_channels // module.groups)
        module.out_channels = out_channels
        module.in_channels = per_group * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()
    elif hasattr(module, "num_features"):
        for vector in (getattr(module, "weight", None), getattr(module, "running_mean", None)):
            if isinstance(vector, Tensor):
                setattr(module, "num_features", vector.shape[0])  # noqa: B010 - no tensor
