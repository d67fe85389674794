r"""The annealed variational objectives of an autoencoder whose posterior is a chain.

=============  ====================================================================================
learns         from
=============  ====================================================================================
transitions    `avo`: each its own target :math:`f_t = p(x, z)^{\alpha_t} q_0(z)^{1 - \alpha_t}`,
               with no gradient through z_{t-1}; `avo+elbo`: that, and the chain's bound
encoder        `avo`: the bound of its own Gaussian q_0; `avo+elbo`: the chain's bound
decoder        log p(x, z_T) at the end of the chain
=============  ====================================================================================

References:
    Huang et al., Improving explorability in variational inference with annealed variational
    objectives (2018), eqs. 5-8, section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bnnkit.bayes.annealing import alphas, path_log_target, transition_terms
from bnnkit.bayes.posteriors.diagonal import Diagonal
from bnnkit.methods.vae.amortised import Drawn
from bnnkit.methods.vae.encoding import Encoded
from bnnkit.methods.vae.latent_model import LatentModel

__all__ = ["annealed_terms", "start_bound"]


def annealed_terms(model: LatentModel, x: Tensor, encoded: Encoded, drawn: Drawn) -> Tensor:
    """Return what the transitions of a chain maximise, per datum in nats.

    Args:
        model: Decoder and prior.
        x: Data `[n, D]`.
        encoded: What the encoder gives for them.
        drawn: Draws of a chain whose states were detached before each transition.

    Returns:
        `[n]`: summed over the transitions, averaged over the draws, never summed over data. Its
        gradient is meant for the transitions alone.
    """
    assert drawn.path is not None  # only chains have annealed objectives
    states = torch.stack(drawn.path.z[1:])  # [T, S, n, d]
    alpha = alphas(len(states)).to(states)
    start = Diagonal(encoded.mean, encoded.log_sigma)
    at_start = torch.stack([start.log_prob(z) for z in states])
    path = path_log_target(model.log_joint(x, states), at_start, alpha)
    return transition_terms(path, drawn.path.log_forward, drawn.path.log_reverse).sum(0).mean(0)


def start_bound(model: LatentModel, x: Tensor, drawn: Drawn) -> Tensor:
    """Return the evidence lower bound of the Gaussian that a chain starts from, `[n]`."""
    assert drawn.path is not None  # only chains have a start
    z = drawn.path.z[0]
    return (model.log_joint(x, z) - drawn.path.log_start).mean(0)
