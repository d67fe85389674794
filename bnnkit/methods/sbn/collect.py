"""The statistics of every batch-norm layer on real training batches, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnnkit.errors import DataError, StructureError
from bnnkit.layers.stochastic_batch_norm import Pass
from bnnkit.methods.sbn.carriers import CountBatchNorms

__all__ = ["LEAST_BATCHES", "Collected", "collect"]

_WHAT = "Fitting stochastic batch norm"

LEAST_BATCHES = 50
"""A deviation from fewer batches has a relative error of more than 10 %."""


@dataclass(frozen=True)
class Collected:
    """What the batches said.

    Args:
        sites: Name of each use of a batch norm, in the order of the forward pass.
        channels: Channels of each site.
        draws: `[n, d]`: for each batch `(mean, log deviation)` of each site.
        batch_size: Inputs of each batch.
    """

    sites: tuple[str, ...]
    channels: tuple[int, ...]
    draws: Tensor
    batch_size: int

    # Every batch counts the same. The published code smooths exponentially from zero, which
    # weighs the last batches and put deviations between .57 and 1.64 times their value.

    @property
    def mean(self) -> Tensor:
        """Mean of the draws, float64 `[d]`."""
        return self.draws.double().mean(0)

    @property
    def deviation(self) -> Tensor:
        """Unbiased standard deviation of the draws, float64 `[d]`."""
        return self.draws.double().std(0)

    @property
    def sizes(self) -> list[int]:
        """Statistics of each site: two a channel."""
        return [2 * c for c in self.channels]


def collect(
    net: nn.Module,
    shared: Pass,
    batches: Iterable[object],
    count: int,
    *,
    device: torch.device | str = "cpu",
    on_batch: Callable[[], None] | None = None,
) -> Collected:
    """Send batches through a net that normalises by their own statistics, and keep these.

    As in training, each layer reads what the layers before made of this very batch; dropout is
    off, as it is when the statistics are used. Batches of another size than the first are left
    out: theirs vary otherwise.

    Args:
        net: A net with carriers, in eval mode.
        shared: Its pass.
        batches: Inputs `[b, ...]`, or tuples that begin with them.
        count: Batches to use, 50 or more.
        device: Where the net is.
        on_batch: Called after each batch.

    Raises:
        DataError: There are fewer than 50 full batches, or a batch has one input.
        StructureError: The net used other layers on another batch.
    """
    sites: tuple[str, ...] = ()
    rows: list[Tensor] = []
    channels: tuple[int, ...] = ()
    size = 0
    for x in _full(batches):
        if len(rows) == count:
            break
        statistics = _record(net, shared, x.to(device))
        if not statistics:
            raise StructureError(
                _WHAT,
                "a forward pass that uses none of the net's batch norms",
                "there are no statistics to fit",
                "Check that the net's forward calls the layers that it holds.",
            )
        if not rows:
            _refuse_outside(net, shared, x.to(device))
            sites, size = tuple(statistics), len(x)
            channels = tuple(len(s) // 2 for s in statistics.values())
        if tuple(statistics) != sites:
            raise StructureError(
                _WHAT,
                f"{len(sites)} uses of batch norm on one batch and {len(statistics)} on another",
                "the net's path depends on its input, so a layer has no one distribution",
            )
        rows.append(torch.cat(list(statistics.values())).cpu())
        if on_batch is not None:
            on_batch()
    if len(rows) < LEAST_BATCHES:
        raise DataError(
            _WHAT,
            f"{len(rows)} full batches",
            f"at least {LEAST_BATCHES} are needed to know how much statistics vary",
            "Use more data, or smaller batches (--batch-size).",
        )
    draws = torch.stack(rows)
    if len(torch.unique(draws, dim=0)) < LEAST_BATCHES:
        raise DataError(
            _WHAT,
            f"{len(draws)} batches of which {len(torch.unique(draws, dim=0))} differ",
            "batches that repeat do not vary as those of the training did",
            "Shuffle the data, so that every batch is another.",
        )
    return Collected(sites, channels, draws, size)


def _refuse_outside(net: nn.Module, shared: Pass, x: Tensor) -> None:
    """Refuse a net part of whose batch norm would stay without noise."""
    with CountBatchNorms() as counted:
        _record(net, shared, x)
    if counted.calls:
        raise StructureError(
            _WHAT,
            f"{counted.calls} calls of batch_norm outside of batch-norm modules",
            "they cannot be given noise, and the rest alone would be no stochastic batch norm",
            "Let the net hold each batch norm as a module, and call it as an attribute.",
        )


def _full(batches: Iterable[object]) -> Iterator[Tensor]:
    """Yield the inputs of the batches that are as large as the first."""
    size = None
    for batch in batches:
        x = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(x, Tensor) or x.dim() < 2:
            shape = f" of shape {list(x.shape)}" if isinstance(x, Tensor) else ""
            raise DataError(
                _WHAT,
                f"a batch of {type(x).__name__}{shape}",
                "a batch is a tensor of inputs, or a tuple that begins with one",
            )
        if size is None:
            size = len(x)
            if size < 2:
                raise DataError(
                    _WHAT,
                    f"batches of {size}",
                    "one input has no variance",
                    "Use the batch size of the training.",
                )
        if len(x) == size:
            yield x


def _record(net: nn.Module, shared: Pass, x: Tensor) -> dict[str, Tensor]:
    """Return the statistics of one batch by site."""
    shared.begin("record")
    try:
        with torch.no_grad():
            net(x)
        recorded = dict(shared.recorded)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:  # the owner's code
        raise DataError(
            _WHAT,
            f"a batch of shape {list(x.shape)} gave {str(error).splitlines()[0][:200]}",
            "the net and its inputs do not fit",
            "Check the loader, the size of its inputs and their type.",
        ) from error
    finally:
        shared.end()
    for site, statistics in recorded.items():
        if not bool(torch.isfinite(statistics).all()):
            raise DataError(
                _WHAT,
                f"a statistic of {site!r} that is not a finite number",
                "the net overflows on a training batch",
                "Check the weights and the normalisation of the inputs.",
            )
    return recorded
