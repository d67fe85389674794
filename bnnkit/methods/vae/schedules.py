r"""Weights of the divergence over the epochs of a training.

=============  =================================================================================
name           weight β at time t, in epochs, with N = `epochs`
=============  =================================================================================
`none`         1
`linear`       min(1, β₀ + (1 - β₀) t / N)
`exponential`  min(1, β₀^(1 - t/N)), the same factor in every epoch
`cyclical`     the linear one over the first half of each N epochs, 1 over the second half
`warm-up`      min(1, β₀ + γ t): deterministic warm-up
=============  =================================================================================

References:
    C. Sønderby et al., Ladder variational autoencoders (2016), section 3; H. Fu et al., Cyclical
    annealing schedule (2019), eqs. 5-7; C.-W. Huang et al., Improving explorability in variational
    inference with annealed variational objectives (2018), section 6 (β₀, γ).
"""

from __future__ import annotations

__all__ = ["kl_weight"]


def kl_weight(
    name: str, time: float, *, epochs: float = 10.0, start: float = 0.01, gamma: float = 0.1
) -> float:
    """Return the weight of the divergence.

    Args:
        name: As in the table above.
        time: Epochs of training so far, fractions included.
        epochs: N.
        start: β₀, in (0, 1].
        gamma: γ, per epoch.

    Raises:
        ValueError: There is no such schedule.

    >>> kl_weight("linear", 5, epochs=10, start=0.5)
    0.75
    """
    if name == "none":
        return 1.0
    if name == "linear":
        return min(1.0, start + (1.0 - start) * time / epochs)
    if name == "exponential":
        return float(min(1.0, start ** (1.0 - time / epochs)))
    if name == "cyclical":
        return min(1.0, start + (1.0 - start) * 2.0 * (time % epochs) / epochs)
    if name == "warm-up":
        return min(1.0, start + gamma * time)
    raise ValueError(f"no schedule {name!r}")
