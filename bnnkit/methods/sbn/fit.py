"""Stochastic batch normalisation of somebody's net: fit the statistics, keep the weights.

`fit` is the whole method in one call; `collect` and `StochasticNet` are its parts.

References:
    A. Atanov, A. Ashukha, D. Molchanov, K. Neklyudov, D. Vetrov, Uncertainty estimation via
    stochastic batch normalization (2019).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from bnnkit.errors import DataError, StructureError, UsageError, did_you_mean
from bnnkit.graph.capture import preserved_modes
from bnnkit.graph.outputs import main_output
from bnnkit.layers.statistics_samplers import fit_sampler
from bnnkit.methods.sbn.carriers import with_carriers
from bnnkit.methods.sbn.collect import LEAST_BATCHES, Collected, collect
from bnnkit.methods.sbn.network import StochasticNet
from bnnkit.metrics.outputs import kind_of_outputs
from bnnkit.spec.config import SbnConfig
from bnnkit.spec.noise import MOST_NOISE, MOST_SAMPLES, SAMPLERS, TEMPERATURES

__all__ = ["fit", "make_network"]

RANK = SbnConfig.rank
"""Directions of the low-rank sampler: with mean and rest 15 vectors, a twentieth of 300 draws."""


def fit(
    model: nn.Module,
    loader: Iterable[object],
    *,
    sampler: str = "lowrank",
    batches: int = 300,
    samples: int = 30,
    rank: int = RANK,
    temperature: float = 1.0,
    seed: int = 0,
) -> StochasticNet:
    """Fit the distribution of every batch-norm statistic, without training.

    Args:
        model: A net with batch norm; neither its weights nor its mode are touched.
        loader: Training batches as the net was trained on them, with their augmentation and of
            the batch size that the statistics shall belong to: tensors `[b, ...]`, or tuples that
            begin with one. It is gone through again until there are enough batches.
        sampler: `factorised`, `layer-gaussian`, `lowrank` or `replay`.
        batches: Batches to use, 50 or more.
        samples: Statistics drawn for one answer (K).
        rank: Directions of the low-rank sampler.
        temperature: Divides the logarithm of the mean probabilities.
        seed: Seed of the noise.

    Returns:
        A module in eval mode: `net(x)` gives mean probabilities, `net.predict(x, samples=30)` the
        entropy and the mutual information as well.

    Raises:
        DataError: There are fewer than 50 full batches.
        StructureError: The net has no batch norm.
        UsageError: The sampler is not known.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        >>> g = torch.Generator().manual_seed(0)
        >>> loader = [torch.randn(16, 3, generator=g) for _ in range(60)]
        >>> stochastic = fit(net, loader, batches=60)
        >>> stochastic.predict(loader[0], samples=10).probabilities.sum(1).allclose(torch.ones(16))
        True
    """
    if sampler not in SAMPLERS:
        raise UsageError(
            "Fitting stochastic batch norm", repr(sampler), "it is no sampler",
            did_you_mean(sampler, SAMPLERS),
        )  # fmt: skip
    _check_numbers(batches, samples, rank, temperature)
    if isinstance(loader, Tensor) or not isinstance(loader, Iterable):
        raise DataError(
            "Fitting stochastic batch norm",
            f"a loader of {type(loader).__name__}",
            "a loader is gone through batch by batch",
            "Pass a DataLoader, or a list of batches.",
        )
    carried, shared = with_carriers(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    first: list[Tensor] = []
    collected = collect(carried, shared, _kept(_again(loader), first), batches, device=device)
    x = first[0].to(device)
    return make_network(
        model, collected, sampler, x, rank=rank, samples=samples, temperature=temperature,
        seed=seed,
    )  # fmt: skip


def _check_numbers(batches: int, samples: int, rank: int, temperature: float) -> None:
    """Refuse numbers that mean nothing."""
    for name, value, sound, why in (
        ("batches", batches, batches >= LEAST_BATCHES, f"it is {LEAST_BATCHES} or more"),
        ("samples", samples, 1 <= samples <= MOST_SAMPLES, f"it is 1 to {MOST_SAMPLES}"),
        ("rank", rank, rank >= 1, "it is 1 or more"),
        (
            "temperature",
            temperature,
            TEMPERATURES[0] <= temperature <= TEMPERATURES[1],
            f"it is {TEMPERATURES[0]:g} to {TEMPERATURES[1]:g}",
        ),
    ):
        if not sound:
            raise UsageError("Fitting stochastic batch norm", f"{name} = {value}", why)


def make_network(
    model: nn.Module,
    collected: Collected,
    sampler: str,
    x: Tensor,
    *,
    rank: int = RANK,
    samples: int = 30,
    temperature: float = 1.0,
    seed: int = 0,
) -> StochasticNet:
    """Build the stochastic net from statistics that were collected.

    Args:
        model: The owner's net; copied.
        collected: The statistics of its batches.
        sampler: One of `SAMPLERS`.
        x: Real inputs `[b, ...]` on the net's device, on which the ways to compute are compared.
        rank: Directions of the low-rank sampler.
        samples: Statistics drawn for one answer.
        temperature: Divides the logarithm of the mean probabilities.
        seed: Seed of the noise.
    """
    fitted = fit_sampler(
        sampler, collected.draws, collected.mean, collected.deviation, collected.sizes, rank
    )
    if samples * fitted.noise_size > MOST_NOISE:
        raise UsageError(
            "Fitting stochastic batch norm",
            f"{samples} samples of {fitted.noise_size} numbers of noise each",
            f"an answer takes at most {MOST_NOISE} numbers",
            "Use fewer samples, or the lowrank sampler.",
        )
    network = StochasticNet(
        model,
        fitted.to(x.device),
        collected.sites,
        collected.channels,
        samples=samples,
        outputs=_kind_of_answer(model, x),
        temperature=temperature,
        seed=seed,
    )
    _check_carried(model, network, x[:3])
    network.settle(x)
    network.choose(x)
    return network


def _answer(model: nn.Module, x: Tensor) -> Tensor:
    """Return what a net answers in eval mode; it is left in the mode it was found in."""
    with preserved_modes(model), torch.no_grad():
        return main_output(model.eval()(x))


def _kind_of_answer(model: nn.Module, x: Tensor) -> str:
    """Return what kind of outputs a net answers; refuse one that has not a row for each input."""
    out = _answer(model, x)
    if out.shape[:1] != x.shape[:1]:
        raise DataError(
            "Reading class scores",
            f"outputs of shape {list(out.shape)} for {len(x)} inputs",
            "a classifier gives one row of scores an input",
        )
    return kind_of_outputs(out)


def _check_carried(model: nn.Module, network: StochasticNet, x: Tensor) -> None:
    """Refuse a net that answers otherwise with carriers in it, though they do nothing yet."""
    expected, found = _answer(model, x), _answer(network.net, x)
    if found.shape != expected.shape or not torch.allclose(found, expected, 1e-4, 1e-5):
        raise StructureError(
            "Fitting stochastic batch norm",
            "a net that answers otherwise when its batch norms are wrapped",
            "its code looks at the classes or attributes of its layers",
            "Let the forward only call its layers.",
        )


def _again(loader: Iterable[object]) -> Iterator[object]:
    """Go through a loader again and again; one that gives nothing more ends it."""
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty or isinstance(loader, Iterator):
            return


def _kept(batches: Iterator[object], first: list[Tensor]) -> Iterator[object]:
    """Pass batches on, and keep the inputs of the first."""
    for batch in batches:
        if not first:
            x = batch[0] if isinstance(batch, tuple | list) and batch else batch
            if isinstance(x, Tensor):
                first.append(x)
        yield batch
