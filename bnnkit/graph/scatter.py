"""Put the tensors of a slim model back where they came from in the full one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["write_back"]


def write_back(full: nn.Module, slim: nn.Module, kept: Mapping[tuple[str, int], Tensor]) -> None:
    """Overwrite the kept part of a model's tensors with those of its slim form, in place.

    With the closed units gated to 0 the full model then computes what the slim one does, so that
    a slim model that was trained further is still proved against a gated one.

    Args:
        full: The analysed model at full width.
        slim: The module that `slice_tensors` made of it, by the same `kept`.
        kept: `{(tensor name, axis): indices}` as `Structure.kept_indices` gives them.
    """
    tensors = full.state_dict()
    with torch.no_grad():
        for name, small in slim.state_dict().items():
            big = tensors[name]
            index = [
                kept.get((name, axis), torch.arange(size)).to(big.device)
                for axis, size in enumerate(big.shape)
            ]
            if not index:
                big.copy_(small)
                continue
            mesh = torch.meshgrid(*index, indexing="ij")
            big[mesh] = small.to(big)
