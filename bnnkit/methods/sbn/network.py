r"""A net under stochastic batch norm: averaged class probabilities, and how far to trust them.

With statistics :math:`s_k \sim r(s)` of all batch-norm layers, :math:`k = 1 \ldots K`,

.. math::
    \bar p(y \mid x) = \frac1K \sum_k p(y \mid x, s_k), \qquad
    H[\bar p] = \underbrace{\tfrac1K \sum_k H[p_k]}_{\text{expected entropy}} + I[y, s].

The mutual information :math:`I` is the part of the uncertainty that the statistics cause. Two ways
to compute the same: K copies of the batch in one pass (the virtual batch of the paper), or K
passes with the sampled affine map folded into the layer before; the first has less overhead for
few inputs, the second less arithmetic for many.

References:
    A. Atanov, A. Ashukha, D. Molchanov, K. Neklyudov, D. Vetrov, Uncertainty estimation via
    stochastic batch normalization (2019), eq. 12.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnnkit.errors import StructureError
from bnnkit.graph.outputs import main_output
from bnnkit.layers.statistics_samplers import StatisticsSampler
from bnnkit.layers.stochastic_batch_norm import Affine
from bnnkit.methods.sbn.carriers import (
    carriers,
    make_foldable,
    plain_copy,
    unfold,
    with_carriers,
)

__all__ = ["Prediction", "StochasticNet"]

_ROWS = 512
"""Most rows of one virtual batch: beyond, it only takes more memory."""

_PASSES = ((False, _ROWS), (True, _ROWS), (True, 16), (False, 16))
"""Memory formats and rows of one folded pass: activations of few rows stay in a CPU's cache."""

_TRIED = 64

_SAME = 1e-4
"""How far two ways to compute the same logits may differ, relative to the largest."""

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Prediction:
    """What a stochastic net says about inputs.

    Args:
        probabilities: `[b, k]`, averaged over the samples, tempered where a temperature was set.
        entropy: Entropy of these `[b]`, nats.
        mutual_information: Between the class and the statistics `[b]`, nats; at no temperature.
        expected_entropy: Mean entropy of a sample's own answer `[b]`, nats; at no temperature.
    """

    probabilities: Tensor
    entropy: Tensor
    mutual_information: Tensor
    expected_entropy: Tensor


class StochasticNet(nn.Module):
    """A net in whose place its average over batch-norm statistics answers.

    Calling it gives mean class probabilities `[b, k]`. The noise is drawn once, from the seed, so
    that the same input always gets the same answer; pass `noise` for other draws.

    Args:
        net: The owner's net; copied.
        sampler: Distribution of all statistics.
        sites: Name of each use of a batch norm, in the order of the statistics.
        channels: Channels of each site.
        samples: Statistics drawn for one answer (K).
        outputs: What the net answers, one of `bnnkit.spec.noise.OUTPUTS`.
        temperature: Divides the logarithm of the mean probabilities.
        seed: Seed of the noise.

    Raises:
        StructureError: The net has not these batch norms.
    """

    def __init__(
        self,
        net: nn.Module,
        sampler: StatisticsSampler,
        sites: tuple[str, ...],
        channels: tuple[int, ...],
        *,
        samples: int = 30,
        outputs: str = "logits",
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.net, self.shared = with_carriers(net)
        self.sampler = sampler
        self.sites, self.channels = tuple(sites), tuple(channels)
        self.samples, self.outputs = samples, outputs
        self.temperature, self.seed = temperature, seed
        self.lazy = False
        self.virtual_rows = 4
        self.channels_last, self.pass_rows = _PASSES[0]
        # a buffer, so that a captured graph holds the draws and not the drawing
        self.register_buffer("draws", self.noise(), persistent=False)
        self._check_sites()
        self.eval()

    draws: Tensor

    def _check_sites(self) -> None:
        """Refuse statistics of another net."""
        norms = carriers(self.net)
        for site, count in zip(self.sites, self.channels, strict=True):
            norm = norms.get(site.partition("#")[0])
            if norm is None or norm.norm.num_features != count:
                found = "no such layer" if norm is None else f"{norm.norm.num_features} channels"
                raise StructureError(
                    "Attaching batch-norm statistics",
                    f"{site!r} with {count} channels",
                    f"the net has {found}",
                    "The statistics belong to another net: fit them again with 'bnnkit sbn-fit'.",
                )

    # --- noise and statistics ---------------------------------------------------------------

    def noise(
        self, samples: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw noise `[samples, noise_size]`; without a generator the same one at each call."""
        generator = generator or torch.Generator().manual_seed(self.seed)
        shape = (samples or self.samples, self.sampler.noise_size)
        device = next(self.sampler.buffers()).device
        return torch.randn(shape, generator=generator, device=generator.device).to(device)

    def affine(self, statistics: Tensor) -> dict[str, Affine]:
        """Return scale and shift `[k, c]` of each site for statistics `[k, d]`."""
        norms = carriers(self.net)
        parts = torch.split(statistics, [2 * c for c in self.channels], dim=1)
        return {
            site: norms[site.partition("#")[0]].affine(part)
            for site, part in zip(self.sites, parts, strict=True)
        }

    # --- the answer -------------------------------------------------------------------------

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return mean class probabilities `[b, k]` for inputs `[b, ...]`."""
        return self.predict(x, noise=noise).probabilities

    def predict(
        self, x: Tensor, samples: int | None = None, *, noise: Tensor | None = None
    ) -> Prediction:
        """Average over samples of the statistics.

        Args:
            x: `[b, ...]` inputs.
            samples: How many; None takes the net's own number.
            noise: Standard normal `[k, noise_size]` in place of the seeded one.
        """
        if noise is None:
            same = samples in (None, self.samples)
            noise = self.draws if same else self.noise(samples)
        return self.summarise(self.members(x, noise))

    def summarise(self, probabilities: Tensor) -> Prediction:
        """Return mean and uncertainty of samples `[k, b, classes]`."""
        mean = probabilities.mean(0)
        expected = _entropy(probabilities).mean(0)
        # rounding may put a sample's entropy above that of the mean where all samples agree
        information = (_entropy(mean) - expected).clamp_min(0.0)
        answer = mean
        if self.temperature != 1.0:
            answer = F.softmax(mean.clamp_min(_TINY).log() / self.temperature, dim=1)
        return Prediction(answer, _entropy(answer), information, expected)

    def members(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return the probabilities of each sample `[k, b, classes]`, the faster way."""
        if torch.compiler.is_exporting() or len(x) <= self.virtual_rows:
            return self.virtual(x, noise)
        return self.loop(x, noise)

    def virtual(self, x: Tensor, noise: Tensor) -> Tensor:
        """Answer with K copies of the batch in one pass, each under its own statistics."""
        if torch.compiler.is_exporting():
            return self._copies(x, noise)
        step = max(1, _ROWS // max(1, len(x)))
        return torch.cat([self._copies(x, part) for part in torch.split(noise, step)])

    def _copies(self, x: Tensor, noise: Tensor) -> Tensor:
        shared, k = self.shared, noise.shape[0]
        shared.begin("copies", self.affine(self.sampler(noise)))
        shared.copies, shared.rows = k, x.shape[0]
        try:
            out = main_output(self.net(x if self.lazy else shared.widen(x)))
        finally:
            shared.end()
        return self.probabilities(out).reshape(k, x.shape[0], -1)

    def loop(self, x: Tensor, noise: Tensor) -> Tensor:
        """Answer with one pass for each sample."""
        return torch.stack(list(self.each_member(x, noise)))

    def each_member(self, x: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """Yield the probabilities of one sample after the other, folded where that is possible."""
        return self.each_under(x, self.sampler(noise))

    def each_under(self, x: Tensor, statistics: Tensor) -> Iterator[Tensor]:
        """Yield the probabilities under each row of statistics `[k, d]`."""
        affine = self.affine(statistics)
        if self.channels_last and x.dim() == 4:  # what folded convolutions of many inputs like
            x = x.contiguous(memory_format=torch.channels_last)
        for k in range(len(statistics)):
            one = {site: (a[k : k + 1], b[k : k + 1]) for site, (a, b) in affine.items()}
            answers = []
            for part in torch.split(x, self.pass_rows):
                self.shared.begin("single", one)
                try:
                    answers.append(self.probabilities(main_output(self.net(part))))
                finally:
                    self.shared.end()
            yield torch.cat(answers)

    def in_batch(self, x: Tensor) -> Tensor:
        """Return the probabilities `[b, classes]` under the statistics of this very batch."""
        self.shared.begin("record")
        try:
            return self.probabilities(main_output(self.net(x)))
        finally:
            self.shared.end()

    def probabilities(self, out: Tensor) -> Tensor:
        """Turn the net's answer `[b, k]` into probabilities; one number becomes two classes."""
        if self.outputs == "logits":
            return F.softmax(out.flatten(1), dim=1)
        if self.outputs == "probabilities":
            return out.flatten(1)
        one = out.reshape(-1)
        if self.outputs == "binary-logit":
            return torch.stack([torch.sigmoid(-one), torch.sigmoid(one)], dim=1)
        return torch.stack([1 - one, one], dim=1)

    # --- speed and form ---------------------------------------------------------------------

    def settle(self, x: Tensor) -> None:
        """Find the quick ways that give the same answers on real inputs.

        Copies are made at the first batch norm where nothing goes around it, and samples are
        folded into the layer before where nothing else reads that one.

        Args:
            x: `[b, ...]`, two inputs or more.
        """
        x, noise = x[:3], self.noise(2)
        with torch.no_grad():
            self.lazy = False
            unfold(self.net)
            expected = self.virtual(x, noise)
            make_foldable(self.net, x)
            if not _same(self.loop(x, noise), expected):
                unfold(self.net)
            self.lazy = True
            try:
                self.lazy = _same(self.virtual(x, noise), expected)
            except (RuntimeError, ValueError, TypeError):
                self.lazy = False  # something goes around the first batch norm

    def choose(self, x: Tensor, samples: int = 10) -> None:
        """Time the ways to compute on this machine, and take the fastest.

        Args:
            x: Inputs `[b, ...]` as they will come; up to 64 are used.
            samples: Samples of each try.
        """
        x, noise = x[:_TRIED], self.noise(samples)
        seconds = {}
        for way in _PASSES if x.dim() == 4 else _PASSES[:1]:
            self.channels_last, self.pass_rows = way
            seconds[way] = _seconds(self.loop, x, noise[:2])
        self.channels_last, self.pass_rows = min(seconds, key=lambda way: seconds[way])
        self.virtual_rows = 0
        for size in (1, 4, 16):
            if size > len(x):
                break
            virtual, loop = (_seconds(f, x[:size], noise) for f in (self.virtual, self.loop))
            if loop < virtual:
                break
            self.virtual_rows = size

    def plain(self) -> nn.Module:
        """Return a copy of the net as its owner wrote it: its weights were never changed."""
        return plain_copy(self.net)


def _entropy(p: Tensor) -> Tensor:
    """Return the entropy of the last axis, in nats; 0 log 0 = 0."""
    return -(p * p.clamp_min(_TINY).log()).sum(-1)


def _same(a: Tensor, b: Tensor) -> bool:
    """Tell whether two answers agree to rounding."""
    return a.shape == b.shape and bool((a - b).abs().max() <= _SAME)


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
