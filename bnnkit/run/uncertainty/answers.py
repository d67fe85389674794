"""What different ways to predict say about the same inputs, averaged where they are random."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnnkit.graph.capture import preserved_modes
from bnnkit.graph.outputs import main_output
from bnnkit.io.data import Split
from bnnkit.methods.sbn import StochasticNet
from bnnkit.methods.temperature import tempered
from bnnkit.metrics.uncertainty import entropy_each, mutual_information_each
from bnnkit.run.evaluate import Predictions

__all__ = [
    "Answers",
    "dropouts",
    "ensemble",
    "mc_batch_norm",
    "mc_dropout",
    "of_network",
    "of_statistics",
    "plain",
]

_CPU_ROWS, _CUDA_ROWS = 64, 512
"""Inputs a call: activations of more fall out of a CPU's cache."""

_TINY = torch.finfo(torch.float32).tiny

Members = Callable[[Tensor], Iterable[Tensor]]
"""From inputs `[b, ...]` to the probabilities `[b, classes]` of one sample after the other."""


@dataclass(frozen=True)
class Answers:
    """Averaged predictions.

    Args:
        log_probs: float64 `[n, classes]`, logarithm of the mean probabilities.
        labels: int64 `[n]`.
        expected_entropy: float64 `[n]`, mean entropy of a sample's own answer, nats; None where
            there is one sample.
        mutual_information: float64 `[n]`, what the samples disagree on, nats; likewise.
        samples: How many were averaged.
    """

    log_probs: Tensor
    labels: Tensor
    expected_entropy: Tensor | None = None
    mutual_information: Tensor | None = None
    samples: int = 1

    @property
    def predictions(self) -> Predictions:
        """The averaged answers alone."""
        return Predictions(self.log_probs, self.labels)

    def select(self, rows: Tensor) -> Answers:
        """Return the answers to some of the inputs `[m]`."""
        expected, mutual = self.expected_entropy, self.mutual_information
        return replace(
            self,
            log_probs=self.log_probs[rows],
            labels=self.labels[rows],
            expected_entropy=None if expected is None else expected[rows],
            mutual_information=None if mutual is None else mutual[rows],
        )

    def at_temperature(self, temperature: float) -> Answers:
        """Return the answers at a temperature; the samples' own doubt stays what it was."""
        return replace(self, log_probs=tempered(self.log_probs, temperature))


def of_network(
    network: StochasticNet,
    split: Split,
    *,
    device: torch.device,
    on_batch: Callable[[int], None] | None = None,
) -> Answers:
    """Average a stochastic net over its samples, at no temperature.

    Args:
        network: The net, on the device.
        split: The inputs.
        device: Where to compute.
        on_batch: Told of every input that is done.
    """
    noise = network.noise()
    return _average(lambda x: network.each_member(x, noise), split, len(noise), device, on_batch)


def of_statistics(
    network: StochasticNet,
    statistics: Tensor,
    split: Split,
    *,
    device: torch.device,
    on_batch: Callable[[int], None] | None = None,
) -> Answers:
    """Answer under given statistics `[1, d]`, without noise.

    Args:
        network: The net, on the device.
        statistics: In place of the sampler's.
        split: The inputs.
        device: Where to compute.
        on_batch: Told of every input that is done.
    """
    return _average(
        lambda x: network.each_under(x, statistics), split, len(statistics), device, on_batch
    )


def plain(
    net: nn.Module,
    log_probabilities: Callable[[Tensor], Tensor],
    split: Split,
    device: torch.device,
    on_batch: Callable[[int], None] | None = None,
) -> Answers:
    """Return what a net in eval mode says.

    Args:
        net: The net, on the device.
        log_probabilities: From its output to log-probabilities `[b, classes]`.
        split: The inputs.
        device: Where to compute.
        on_batch: Told of every input that is done.
    """
    rows, labels = [], []
    with preserved_modes(net), torch.inference_mode():
        net.eval()
        for x, y in split.batches(_rows(device)):
            rows.append(log_probabilities(main_output(net(x.to(device)))).double().cpu())
            labels.append(y)
            if on_batch is not None:
                on_batch(len(y))
    return Answers(torch.cat(rows), torch.cat(labels))


def dropouts(net: nn.Module) -> list[nn.Module]:
    """Return the layers of a net that drop something in train mode."""
    kind = nn.modules.dropout._DropoutNd
    return [m for m in net.modules() if isinstance(m, kind) and m.p > 0]


def mc_dropout(
    net: nn.Module,
    kind: Callable[[Tensor], Tensor],
    split: Split,
    *,
    samples: int,
    seed: int,
    device: torch.device,
    on_batch: Callable[[int], None] | None = None,
) -> Answers:
    """Average over dropout masks (Gal and Ghahramani, 2016).

    Args:
        net: The net, on the device; batch norm stays in eval mode.
        kind: From its output to probabilities.
        split: The inputs.
        samples: How many masks.
        seed: Seed of the masks.
        device: Where to compute.
        on_batch: Told of every input that is done.
    """

    def members(x: Tensor) -> Iterator[Tensor]:
        for _ in range(samples):
            yield kind(main_output(net(x)))

    with preserved_modes(net), _seeded(seed, device):
        net.eval()
        for module in dropouts(net):
            module.training = True
        return _average(members, split, samples, device, on_batch)


def mc_batch_norm(
    network: StochasticNet,
    split: Split,
    train: Split,
    *,
    batch_size: int,
    samples: int,
    generator: torch.Generator,
    device: torch.device,
    on_batch: Callable[[int], None] | None = None,
) -> Answers:
    """Put each input into real training batches, K times (Teye, Azizpour and Smith, 2018).

    Args:
        network: The net.
        split: The inputs; each costs `samples * batch_size` forward passes.
        train: Where its companions come from.
        batch_size: Inputs of a batch, the tested one among them.
        samples: Batches for each input.
        generator: Draws the companions.
        device: Where to compute.
        on_batch: Told of every input that is done.
    """

    def members(x: Tensor) -> Iterator[Tensor]:
        for _ in range(samples):
            some = train.take(batch_size - 1, generator)
            others, _ = next(iter(some.batches(batch_size, augment=True, generator=generator)))
            yield network.in_batch(torch.cat([x, others.to(device)]))[:1]

    return _average(members, split, samples, device, on_batch, rows=1)


def ensemble(members: Sequence[Answers]) -> Answers:
    """Average the answers of several nets to the same inputs."""
    mean = torch.stack([m.log_probs.exp() for m in members]).mean(0)
    own = [
        entropy_each(m.log_probs) if m.expected_entropy is None else m.expected_entropy
        for m in members
    ]
    return _averaged(
        F.log_softmax(mean.clamp_min(_TINY).log(), dim=1),
        members[0].labels,
        torch.stack(own).mean(0),
        sum(m.samples for m in members),
    )


def _average(
    members: Members,
    split: Split,
    samples: int,
    device: torch.device,
    on_batch: Callable[[int], None] | None,
    rows: int | None = None,
) -> Answers:
    """Average probabilities and entropies over the members, batch by batch."""
    size = rows or _rows(device)
    log_probs, labels, entropies = [], [], []
    with torch.inference_mode():
        for x, y in split.batches(size):
            total = entropy = torch.zeros((), dtype=torch.float64)
            for p in members(x.to(device)):
                p = p.double().cpu()
                total = total + p / samples
                entropy = entropy + entropy_each(p.clamp_min(_TINY).log()) / samples
            log_probs.append(F.log_softmax(total.clamp_min(_TINY).log(), dim=1))
            entropies.append(entropy)
            labels.append(y)
            if on_batch is not None:
                on_batch(len(y))
    if samples == 1:
        return Answers(torch.cat(log_probs), torch.cat(labels))
    return _averaged(torch.cat(log_probs), torch.cat(labels), torch.cat(entropies), samples)


def _averaged(log_probs: Tensor, labels: Tensor, expected: Tensor, samples: int) -> Answers:
    """Return averages with the two parts of their entropy."""
    mutual = mutual_information_each(log_probs, expected)
    return Answers(log_probs, labels, expected, mutual, samples)


def _rows(device: torch.device) -> int:
    """Return how many inputs go into one call."""
    return _CPU_ROWS if device.type == "cpu" else _CUDA_ROWS


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let dropout, which knows no generator, draw from a seed, and the caller's state be."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
