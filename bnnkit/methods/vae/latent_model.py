"""A latent variable model as the algorithms see it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from bnnkit.bayes.likelihoods import log_likelihood
from bnnkit.bayes.posteriors import Diagonal, Posterior
from bnnkit.methods.vae.belief import BeliefModel, log_bernoulli
from bnnkit.methods.vae.bernoulli import Bernoulli

__all__ = ["LatentModel", "log_standard_normal", "of_belief"]


def log_standard_normal(z: Tensor) -> Tensor:
    """Return log N(z | 0, I) in nats, `[*, d]` to `[*]`."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))


@dataclass(frozen=True, eq=False)
class LatentModel:
    """Encoder q(z | x), decoder p(x | z) and prior p(z); `of_belief` gives that of binary latents.

    Data are in the units of the likelihood: zeros and ones for `bernoulli`, levels 0 to 255 for
    `categorical256`, else real numbers. What the encoder reads may differ (an input transform);
    that is the encoder's own concern.

    Args:
        encode: Data `[n, D]` to what `family` takes: mean and log sigma of continuous latents,
            each `[n, d]`, and features under a trained posterior; logits of binary ones.
        decode: Latents `[m, d]` to the parameters of the likelihood, each `[m, D]`,
            `[m, D, 256]` or of a shape that broadcasts to it (a shared variance).
        likelihood: One of `bayes.likelihoods.LIKELIHOODS`.
        latent: d.
        log_prior: log p(z) in nats, `[*, d]` to `[*]`.
        standard_prior: Whether that is N(0, I), for which divergences have a closed form.
        family: Makes q(z | x) of what `encode` gives.
    """

    encode: Callable[[Tensor], tuple[Tensor, ...]]
    decode: Callable[[Tensor], tuple[Tensor, ...]]
    likelihood: str
    latent: int
    log_prior: Callable[[Tensor], Tensor] = log_standard_normal
    standard_prior: bool = True
    family: Callable[..., Posterior] = Diagonal

    def amortised(self, x: Tensor) -> Posterior:
        """Return q(z | x) of data `[n, D]`, as the encoder says."""
        return self.family(*self.encode(x))

    def knows_kl(self, q: Posterior) -> bool:
        """Tell whether `q.kl()` is the divergence from this prior, in closed form."""
        return q.closed_kl and (self.standard_prior or isinstance(q, Bernoulli))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x | z) in nats.

        Args:
            x: `[n, D]`.
            z: `[*, n, d]`.

        Returns:
            `[*, n]`.
        """
        lead = z.shape[:-1]
        parameters = self.decode(z.reshape(-1, z.shape[-1]))
        rows = math.prod(lead)
        # shape[0], not len(): a graph that is traced for export keeps the former a variable
        shaped = [p.reshape(*lead, *p.shape[1:]) if p.shape[0] == rows else p for p in parameters]
        return log_likelihood(self.likelihood, x, shaped)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x, z) in nats, of `x` `[n, D]` and `z` `[*, n, d]`, as `[*, n]`."""
        return self.log_likelihood(x, z) + self.log_prior(z)


def of_belief(belief: BeliefModel, latent: int) -> LatentModel:
    """Return a belief net as what judges and refines any autoencoder sees it.

    Args:
        belief: Binary latents, Bernoulli data.
        latent: Number of latents d.
    """

    def log_prior(h: Tensor) -> Tensor:
        return log_bernoulli(h, belief.prior_logits())

    def family(logits: Tensor) -> Bernoulli:
        return Bernoulli(logits, belief.prior_logits())

    return LatentModel(
        encode=lambda x: (belief.encode(x),),
        decode=lambda h: (belief.decode(h),),
        likelihood="bernoulli",
        latent=latent,
        log_prior=log_prior,
        standard_prior=False,
        family=family,
    )
