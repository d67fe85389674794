"""Which entry of a training checkpoint holds the weights, and under which names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bnnkit.errors import UsageError, did_you_mean
from bnnkit.io.faults import FileFault, quote
from bnnkit.io.harvest import harvest_module, is_module
from bnnkit.io.inert import Stub, TensorRecord

if TYPE_CHECKING:
    import torch

__all__ = ["candidates", "one_of", "strip_prefixes"]

DEPTH_LIMIT = 4
CANDIDATES_LIMIT = 64
# Entries that hold tensors, but no model: their first letters.
_NOT_WEIGHTS = ("optim", "lr_", "sched", "scaler", "amp", "rng", "random", "cuda_rng", "loops")
_PREFIXES = ("module.", "_orig_mod.", "model.")
# Counters that wrappers add to a state_dict: torch.optim.swa_utils, EMA classes.
_COUNTERS = frozenset({"n_averaged", "num_updates", "decay"})


def _children(node: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    if "state" in node and "param_groups" in node:
        return  # an optimiser
    for key, value in node.items():
        if isinstance(key, str) and not key.lower().startswith(_NOT_WEIGHTS):
            yield key, value


def candidates(root: object) -> dict[str, dict[str, TensorRecord]]:
    """Return every set of weights in an object tree, by its dotted place (`""` is the top).

    Args:
        root: What `load_inert` built.
    """
    found: dict[str, dict[str, TensorRecord]] = {}

    def walk(node: object, place: str, depth: int) -> None:
        if len(found) > CANDIDATES_LIMIT:
            return
        if isinstance(node, Stub) and is_module(node):
            found[place] = harvest_module(node)
        elif isinstance(node, Mapping) and depth <= DEPTH_LIMIT:
            before = len(found)
            entries = dict(_children(node))
            for key, value in entries.items():
                walk(value, f"{place}.{key}" if place else key, depth + 1)
            tensors = {k: v for k, v in entries.items() if isinstance(v, TensorRecord)}
            if tensors and len(found) == before and not tensors.keys() <= _COUNTERS:
                found[place] = tensors

    walk(root, "", 0)
    return {place: tensors for place, tensors in found.items() if tensors}


def _same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    import torch

    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def one_of(
    found: Mapping[str, Mapping[str, torch.Tensor]], state_key: str | None
) -> tuple[str, dict[str, torch.Tensor]]:
    """Return the place and the tensors of the wanted set of weights.

    Args:
        found: Every set of weights of the file, by its dotted place.
        state_key: The place that the user asked for; None where there is but one.

    Raises:
        UsageError: There is no such place, or several sets and none was asked for.
        FileFault: There are no weights at all.
    """
    if not found:
        raise FileFault(
            "no set of named tensors",
            "neither the file nor any of its entries is a state_dict",
            "Save model.state_dict(), or name the file that holds the weights",
        )
    places = [place or "(top)" for place in found]
    if state_key is not None:
        if state_key not in found:
            if list(found) == [""]:
                hint = "The file is one flat state_dict; leave --state-key away."
            else:
                hint = did_you_mean(state_key, [place for place in found if place])
            raise UsageError("Using --state-key", quote(state_key), "no weights lie there", hint)
        return state_key, dict(found[state_key])
    first = next(iter(found))
    others = [tensors for place, tensors in found.items() if place != first]
    if not all(_same(found[first], tensors) for tensors in others):
        raise UsageError(
            "Choosing the weights",
            f"{len(found)} different sets in the file: {', '.join(map(quote, places[:12]))}",
            "only you can know which is meant",
            f"Pass --state-key, for example --state-key {places[0]}.",
        )
    return first, dict(found[first])


def strip_prefixes(
    tensors: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], str, list[str]]:
    """Take off what wrappers put in front of every name, and the counters they add.

    Returns:
        The tensors, the prefix that was taken off, and the counters that were dropped.

    >>> strip_prefixes({"module.fc.weight": 1, "module.fc.bias": 2, "n_averaged": 3})
    ({'fc.weight': 1, 'fc.bias': 2}, 'module.', ['n_averaged'])
    """
    counters = [k for k, v in tensors.items() if k in _COUNTERS and getattr(v, "ndim", 0) == 0]
    kept = {name: value for name, value in tensors.items() if name not in counters}
    stripped = ""
    while kept:
        shared = [p for p in _PREFIXES if all(k.startswith(p) and k != p for k in kept)]
        if not shared:
            break
        stripped += shared[0]
        kept = {name.removeprefix(shared[0]): value for name, value in kept.items()}
    return kept, stripped, counters
