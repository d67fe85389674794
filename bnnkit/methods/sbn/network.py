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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnnkit.errors import StructureError, UsageError
from bnnkit.graph.outputs import main_output
from bnnkit.layers.statistics_samplers import StatisticsSampler
from bnnkit.layers.stochastic_batch_norm import Affine
from bnnkit.methods.sbn.carriers import carriers, plain_copy, with_carriers
from bnnkit.methods.sbn.quick_ways import MOST_ROWS, choose_fastest, find_ways

__all__ = ["Prediction", "StochasticNet"]

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
        self.copies_agree, self.lazy = False, False  # until `settle` has seen it
        self.virtual_rows = 4
        self.channels_last, self.pass_rows = False, MOST_ROWS
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

    def _check_order(self, x: Tensor) -> None:
        """Refuse statistics whose sites are not those of a forward pass, in its order."""
        self.shared.begin("record")
        try:
            with torch.no_grad():
                self.net(x)
            used = tuple(self.shared.recorded)
        finally:
            self.shared.end()
        if used != self.sites:
            raise StructureError(
                "Attaching batch-norm statistics",
                f"statistics of {', '.join(self.sites)[:120]}",
                f"a forward pass goes through {', '.join(used)[:120] or 'no batch norm'}",
                "The statistics belong to another net: fit them again with 'bnnkit sbn-fit'.",
            )

    # --- noise and statistics ---------------------------------------------------------------

    def noise(
        self, samples: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw noise `[samples, noise_size]`; without a generator the same one at each call."""
        generator = generator or torch.Generator().manual_seed(self.seed)
        count = self.samples if samples is None else samples
        if count < 1:
            raise UsageError("Averaging predictions", f"{count} samples", "it takes 1 or more")
        shape = (count, self.sampler.noise_size)
        like = next(self.sampler.buffers())
        return torch.randn(shape, generator=generator, device=generator.device).to(like)

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
        noise = noise.to(self.draws)
        return self.summarise(self.members(x, noise))

    def summarise(self, probabilities: Tensor) -> Prediction:
        """Return mean and uncertainty of samples `[k, b, classes]`."""
        if probabilities.dtype in (torch.float16, torch.bfloat16):
            probabilities = probabilities.float()  # logarithms of small numbers need the range
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
        exporting = torch.compiler.is_exporting()
        if self.copies_agree and (exporting or len(x) <= self.virtual_rows):
            return self.virtual(x, noise)
        return self.loop(x, noise)

    def virtual(self, x: Tensor, noise: Tensor) -> Tensor:
        """Answer with K copies of the batch in one pass, each under its own statistics."""
        if torch.compiler.is_exporting():
            return self._copies(x, noise)
        step = max(1, MOST_ROWS // max(1, len(x)))
        return torch.cat([self._copies(x, part) for part in torch.split(noise, step)])

    def _copies(self, x: Tensor, noise: Tensor) -> Tensor:
        p = self.probabilities(self.outputs_of_copies(x, noise))
        return p.reshape(noise.shape[0], x.shape[0], p.shape[1])

    def outputs_of_copies(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return the net's own outputs `[k b, ...]` for K copies of the batch, in one pass."""
        shared, k = self.shared, noise.shape[0]
        shared.begin("copies", self.affine(self.sampler(noise)))
        shared.copies = k
        try:
            return main_output(self.net(x if self.lazy else shared.widen(x)))
        finally:
            shared.end()

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
        yield from map(self.probabilities, self.each_output(x, affine, len(statistics)))

    def each_output(
        self, x: Tensor, affine: Mapping[str, Affine], samples: int
    ) -> Iterator[Tensor]:
        """Yield the net's own outputs `[b, ...]` under one sample after the other."""
        for k in range(samples):
            one = {site: (a[k : k + 1], b[k : k + 1]) for site, (a, b) in affine.items()}
            exporting = torch.compiler.is_exporting()  # a graph takes any number of rows
            parts = (x,) if exporting else torch.split(x, self.pass_rows)
            yield torch.cat([self._single(part, one) for part in parts])

    def _single(self, x: Tensor, affine: Mapping[str, Affine]) -> Tensor:
        """Return the net's own outputs under one sample."""
        self.shared.begin("single", affine)
        try:
            return main_output(self.net(x))
        finally:
            self.shared.end()

    def in_batch(self, x: Tensor) -> Tensor:
        """Return the probabilities `[b, classes]` under the statistics of this very batch."""
        self.shared.begin("record")
        try:
            return self.probabilities(main_output(self.net(x)))
        finally:
            self.shared.end()

    def log_probabilities(self, out: Tensor) -> Tensor:
        """Return the logarithm of `probabilities`, float64, where these underflow as well."""
        if self.outputs == "logits":
            return F.log_softmax(out.flatten(1).double(), dim=1)
        return F.log_softmax(self.probabilities(out.double()).clamp_min(_TINY).log(), dim=1)

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

        Copies of the batch go side by side where the net keeps its inputs apart, they are made at
        the first batch norm where nothing goes around it, and samples are folded into the layer
        before where nothing else reads that one. The net's own outputs are compared with those of
        one plain pass a sample, in float64 where the net can compute in it.

        Args:
            x: `[b, ...]`, two inputs or more.
        """
        x = x[:3]
        self._check_order(x)
        find_ways(self, x)

    def choose(self, x: Tensor, samples: int = 10) -> None:
        """Time the ways to compute on this machine, and take the fastest.

        Args:
            x: Inputs `[b, ...]` as they will come; up to 64 are used.
            samples: Samples of each try.
        """
        choose_fastest(self, x, samples)

    def plain(self) -> nn.Module:
        """Return a copy of the net as its owner wrote it: its weights were never changed."""
        return plain_copy(self.net)


def _entropy(p: Tensor) -> Tensor:
    """Return the entropy of the last axis, in nats; 0 log 0 = 0."""
    return -(p * p.clamp_min(_TINY).log()).sum(-1)
