"""Which quick ways to compute a stochastic net's answer are right on it, and which is fastest."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bnnkit.methods.sbn.carriers import carriers, make_foldable, unfold

if TYPE_CHECKING:
    from bnnkit.methods.sbn.network import StochasticNet

__all__ = ["MOST_ROWS", "choose_fastest", "find_ways"]

MOST_ROWS = 512
"""Most rows of one virtual batch or folded pass: beyond, it only takes more memory."""

_PASSES = ((False, MOST_ROWS), (True, MOST_ROWS), (True, 16), (False, 16))
"""Memory formats and rows of one folded pass: activations of few rows stay in a CPU's cache."""

_SIZES = (1, 4, 16, 64)
"""Inputs for which the virtual batch is timed against the loop."""

_EXACT, _SAME = 1e-9, 1e-4
"""How far two ways to compute the same may differ, in float64 and in float32."""

_TINY = torch.finfo(torch.float32).tiny


def find_ways(network: StochasticNet, x: Tensor) -> None:
    """Find the quick ways that give the same answers on real inputs, and let the net take them.

    The net's own outputs are compared with those of one plain pass a sample, in float64 where the
    net can compute in it.

    Args:
        network: The net; its folded layers, `copies_agree` and `lazy` are set.
        x: `[b, ...]`, two inputs or more.
    """
    noise = network.noise(2)
    unfold(network.net)
    make_foldable(network.net, x)
    trial, exact = copy.deepcopy(network), _EXACT
    try:
        trial.double()
        expected = _loop(trial, x.double(), noise.double(), folded=False)
    except Exception:  # the owner's code, which may ask for single precision
        trial, exact = copy.deepcopy(network), _SAME
        expected = _loop(trial, x, noise, folded=False)
    x, noise = x.to(expected.dtype), noise.to(expected.dtype)
    if not _same(_loop(trial, x, noise, folded=True), expected, exact):
        unfold(network.net)
    network.copies_agree = _copies_agree(trial, x, noise, expected, exact, lazy=False)
    network.lazy = network.copies_agree and _copies_agree(
        trial, x, noise, expected, exact, lazy=True
    )


def choose_fastest(network: StochasticNet, x: Tensor, samples: int) -> None:
    """Time the ways to compute on this machine, and let the net take the fastest.

    Args:
        network: The net; `channels_last`, `pass_rows` and `virtual_rows` are set.
        x: Inputs `[b, ...]` as they will come; up to 64 are used.
        samples: Samples of each try.
    """
    x, noise = x[: _SIZES[-1]], network.noise(samples)
    seconds = {}
    for way in _PASSES if x.dim() == 4 else _PASSES[:1]:
        network.channels_last, network.pass_rows = way
        try:
            seconds[way] = _seconds(network.loop, x, noise[:2])
        except RuntimeError:  # a net that views its maps takes one format only
            continue
    network.channels_last, network.pass_rows = min(seconds, key=lambda way: seconds[way])
    network.virtual_rows = 0
    for size in _SIZES if network.copies_agree else ():
        if size > len(x):
            break
        virtual, loop = (_seconds(f, x[:size], noise) for f in (network.virtual, network.loop))
        if loop < virtual:
            break
        network.virtual_rows = size


def _loop(trial: StochasticNet, x: Tensor, noise: Tensor, *, folded: bool) -> Tensor:
    """Return the net's own outputs `[k b, ...]`, one pass a sample."""
    affine = trial.affine(trial.sampler(noise))
    for norm in carriers(trial.net).values():
        norm.folded = folded and norm.foldable
    with torch.no_grad():
        return torch.cat(list(trial.each_output(x, affine, len(noise))))


def _copies_agree(
    trial: StochasticNet, x: Tensor, noise: Tensor, expected: Tensor, exact: float, *, lazy: bool
) -> bool:
    """Tell whether K copies in one pass give these outputs."""
    trial.lazy = lazy
    try:
        with torch.no_grad():
            return _same(trial.outputs_of_copies(x, noise), expected, exact)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False  # something goes around the first batch norm, or counts its inputs


def _same(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Tell whether two outputs agree, relative to the largest."""
    if a.shape != b.shape:
        return False
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp_min(_TINY))


def _seconds(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, noise: Tensor) -> float:
    """Return the shorter of two runs, after a first one that warms up."""
    best = float("inf")
    with torch.inference_mode():
        for attempt in range(3):
            start = time.perf_counter()
            function(x, noise)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            if attempt:
                best = min(best, time.perf_counter() - start)
    return best
