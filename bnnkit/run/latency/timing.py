"""Durations measured so that they can be compared: interleaved, paired, with intervals."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from bnnkit.spec import Quantity

__all__ = ["Call", "Timing", "speedup", "time_interleaved"]

Call = Callable[[], object]

_SAMPLE_MS = 2.0
_FEWEST_ROUNDS = 3
_RESAMPLES = 2000


@dataclass(frozen=True)
class Timing:
    """The measured durations of one call.

    Args:
        samples: Duration of a call in every round, in ms. Round i of every candidate of one
            `time_interleaved` belongs together.
        repeats: Calls behind each sample.
    """

    samples: tuple[float, ...]
    repeats: int

    @property
    def median(self) -> float:
        """Median duration, in ms."""
        return float(self._tensor().quantile(0.5))

    @property
    def spread(self) -> float:
        """Interquartile range, in ms."""
        low, high = self._tensor().quantile(torch.tensor([0.25, 0.75], dtype=torch.float64))
        return float(high - low)

    def latency(self, *, level: float = 0.95) -> Quantity:
        """Return the median with a bootstrap interval over the rounds, in ms."""
        medians = _resampled(level, self._tensor())[0]
        low, high = _interval(medians, level)
        return Quantity(self.median, "ms", len(self.samples), low, high, level)

    def _tensor(self) -> Tensor:
        return torch.tensor(self.samples, dtype=torch.float64)


def speedup(reference: Timing, other: Timing, *, level: float = 0.95) -> Quantity:
    """Return how many times faster `other` is: the ratio of medians, reference over other.

    The interval is a paired bootstrap: rounds are drawn with replacement, the same for both, so
    that what slows a whole round down (another process, the clock) cancels.

    Args:
        reference: The slower one, as a rule.
        other: Timed in the same rounds.
        level: Confidence of the interval.

    Returns:
        The ratio, unit `x`.
    """
    top, bottom = _resampled(level, reference._tensor(), other._tensor())
    low, high = _interval(top / bottom, level)
    ratio = reference.median / other.median
    return Quantity(ratio, "x", len(reference.samples), low, high, level)


def time_interleaved(
    calls: Mapping[str, Call],
    *,
    min_rounds: int = 15,
    min_seconds: float = 0.5,
    max_seconds: float = 3.0,
    warmup: int = 3,
    device: str = "cpu",
    own: bool = False,
    generator: torch.Generator | None = None,
) -> dict[str, Timing]:
    """Time several calls against each other: each round runs every one once, in random order.

    A sample repeats its call until it lasts about 2 ms, so that the clock's grain is small.

    Args:
        calls: The candidates.
        min_rounds: Fewest rounds, where `max_seconds` allows them.
        min_seconds: Least time spent, so that quick calls get many rounds.
        max_seconds: Time after which no further round starts. At least 3 rounds are run.
        warmup: Rounds before the measurement, at most a third of `max_seconds`.
        device: `cpu`, or `cuda` for CUDA events.
        own: Count the time that this thread computed, and not what others took from it: for
            calls that stay in one CPU thread, on a machine that has other work.
        generator: Source of the order; None takes one with seed 0.

    Returns:
        The timings, under the same names.
    """
    generator = generator or torch.Generator().manual_seed(0)
    clock = _cuda_ms if device.startswith("cuda") else _own_ms if own else _cpu_ms
    repeats = {
        name: _repeats(call, clock, warmup, max_seconds / 3 / len(calls))
        for name, call in calls.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    start = time.perf_counter()
    rounds = 0
    with _no_collection():
        while True:
            spent = time.perf_counter() - start
            enough = rounds >= min_rounds and spent >= min_seconds
            if enough or (rounds >= _FEWEST_ROUNDS and spent >= max_seconds):
                break
            for i in torch.randperm(len(names), generator=generator).tolist():
                name = names[i]
                samples[name].append(clock(calls[name], repeats[name]))
            rounds += 1
    return {name: Timing(tuple(samples[name]), repeats[name]) for name in names}


def _repeats(call: Call, clock: Callable[[Call, int], float], warmup: int, seconds: float) -> int:
    """Warm a call up, and say how often a sample repeats it."""
    start = time.perf_counter()
    quickest = math.inf
    for _ in range(max(1, warmup)):
        quickest = min(quickest, clock(call, 1))
        if time.perf_counter() - start > seconds:
            break
    return max(1, math.ceil(_SAMPLE_MS / max(quickest, 1e-3)))


def _cpu_ms(call: Call, repeats: int) -> float:
    """Return the duration of one call in ms, on the host's clock."""
    start = time.perf_counter_ns()
    for _ in range(repeats):
        call()
    return (time.perf_counter_ns() - start) / repeats / 1e6


def _own_ms(call: Call, repeats: int) -> float:
    """Return the time of one call in ms, on this thread's own clock."""
    start = time.thread_time_ns()
    for _ in range(repeats):
        call()
    return (time.thread_time_ns() - start) / repeats / 1e6


def _cuda_ms(call: Call, repeats: int) -> float:
    """Return the duration of one call in ms, between two CUDA events."""
    begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / repeats


def _resampled(level: float, *samples: Tensor) -> list[Tensor]:
    """Return bootstrap medians `[resamples]` of each row of samples, the same rounds for all."""
    count = max(_RESAMPLES, math.ceil(100 / (1 - level)))
    source = torch.Generator().manual_seed(0)
    picks = torch.randint(len(samples[0]), (count, len(samples[0])), generator=source)
    return [values[picks].quantile(0.5, dim=1) for values in samples]


def _interval(values: Tensor, level: float) -> tuple[float, float]:
    """Return the percentile interval of bootstrap values."""
    tail = (1 - level) / 2
    low, high = values.quantile(torch.tensor([tail, 1 - tail], dtype=values.dtype))
    return float(low), float(high)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector out of the samples."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
