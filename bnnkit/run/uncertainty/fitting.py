"""The nets of one `sbn-fit`: their statistics, and what is made of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bnnkit.io.data import Split
from bnnkit.io.models import load_model
from bnnkit.methods.sbn import Collected, StochasticNet, collect, make_network, with_carriers
from bnnkit.run.evaluate import check_outputs, classes_of
from bnnkit.run.progress import Progress
from bnnkit.run.setup import Bench
from bnnkit.run.uncertainty.calibration import Calibration
from bnnkit.spec import ModelSpec
from bnnkit.spec.config import SbnConfig

__all__ = ["HELD", "MEASURED", "Job", "Member", "fit_all", "load_members", "network_of"]

MEASURED, HELD = "<measured>", "<held>"
"""The data's own parts; no data set can be called so."""

_ROWS = 64
"""Real inputs on which the ways to compute are compared and timed."""


@dataclass
class Member:
    """One net, its statistics and what was made of them."""

    net: nn.Module
    collected: Collected
    network: StochasticNet
    seconds: float


@dataclass
class Job:
    """One fit."""

    bench: Bench
    config: SbnConfig
    device: torch.device
    progress: Progress
    calibration: Calibration
    outside: dict[str, Split]
    notes: list[str] = field(default_factory=list)

    def networks(self) -> tuple[str, ...]:
        """Return the samplers to measure, the delivered one first."""
        return tuple(dict.fromkeys((self.config.sampler, *self.config.compare)))

    def parts(self) -> dict[str, Split]:
        """Return every set of inputs that each way answers to."""
        held = {HELD: self.calibration.held} if self.calibration.held is not None else {}
        return {MEASURED: self.calibration.measured, **held, **self.outside}


def load_members(bench: Bench, specs: Sequence[ModelSpec]) -> list[nn.Module]:
    """Load the further members of an ensemble, which must tell the same classes apart."""
    nets = [load_model(spec).module for spec in specs]
    for net in nets:
        check_outputs(classes_of(net, bench.inputs(2)), bench.data.test)
        with_carriers(net)  # refuses a net without batch norm
    return nets


def fit_all(job: Job, others: Sequence[nn.Module]) -> tuple[Member, list[Member]]:
    """Fit the net, and the further members of an ensemble."""
    first = _fit(job, job.bench.module.to(job.device), "fitting the statistics")
    rest = [
        _fit(job, net.to(job.device), f"fitting member {i}") for i, net in enumerate(others, 2)
    ]
    return first, rest


def _fit(job: Job, net: nn.Module, what: str) -> Member:
    """Collect the statistics of a net and build the stochastic one."""
    config = job.config
    started = time.perf_counter()
    carried, shared = with_carriers(net)
    job.progress.start(what, config.batches)
    collected = collect(
        carried, shared, _batches(job), config.batches, device=job.device,
        on_batch=job.progress.advance,
    )  # fmt: skip
    job.progress.stop()
    network = network_of(job, net, collected, config.sampler)
    return Member(net.eval(), collected, network, time.perf_counter() - started)


def network_of(job: Job, net: nn.Module, collected: Collected, sampler: str) -> StochasticNet:
    """Build the stochastic net of a sampler from statistics that were collected."""
    config, x = job.config, job.bench.inputs(_ROWS).to(job.device)
    return make_network(
        net, collected, sampler, x, rank=config.rank, samples=config.samples, seed=config.seed
    )


def _batches(job: Job) -> Iterator[Tensor]:
    """Yield training batches as in training, epoch after epoch."""
    generator = torch.Generator().manual_seed(job.config.seed)
    train, size = job.calibration.train, job.config.batch_size
    while len(train) >= size:
        for x, _ in train.batches(
            size, shuffle=True, augment=True, generator=generator, drop_last=True
        ):
            yield x
