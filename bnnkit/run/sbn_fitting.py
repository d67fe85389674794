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
from bnnkit.run.calibration import Calibration
from bnnkit.run.evaluate import check_outputs, classes_of
from bnnkit.run.progress import Progress
from bnnkit.run.setup import Bench
from bnnkit.spec import ModelSpec
from bnnkit.spec.config import SbnConfig

__all__ = ["Job", "Member", "fit_all", "network_of"]

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
        held = {"held": self.calibration.held} if self.calibration.held is not None else {}
        return {"measured": self.calibration.measured, **held, **self.outside}


def fit_all(job: Job, others: Sequence[ModelSpec]) -> tuple[Member, list[Member]]:
    """Fit the net, and the further members of an ensemble."""
    first = _fit(job, job.bench.module.to(job.device), "fitting the statistics")
    rest = []
    for i, spec in enumerate(others):
        net = load_model(spec).module
        check_outputs(classes_of(net, job.bench.inputs(2)), job.bench.data.test)
        rest.append(_fit(job, net.to(job.device), f"fitting member {i + 2}"))
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
    train, size = job.bench.data.train, job.config.batch_size
    while len(train) >= size:
        for x, _ in train.batches(
            size, shuffle=True, augment=True, generator=generator, drop_last=True
        ):
            yield x
