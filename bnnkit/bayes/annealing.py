r"""Bounds of hierarchical variational inference, and the annealed variational objectives.

A chain of T stochastic transitions starts at :math:`z_0 \sim q_0`; transition t draws
:math:`z_t \sim q_t(z_t | z_{t-1})`, and :math:`r_t(z_{t-1} | z_t)` is learned to look back. With
an unnormalised target :math:`f_T` the chain's evidence lower bound is

.. math::
    E \left[ \log f_T(z_T) + \sum_t \log r_t(z_{t-1} | z_t) - \log q_0(z_0)
    - \sum_t \log q_t(z_t | z_{t-1}) \right] \le \log \int f_T .

The annealed objectives give each transition a target of its own on the geometric path

.. math:: f_t = f_T^{\alpha_t} f_0^{1 - \alpha_t}, \qquad 0 = \alpha_0 < \dots < \alpha_T = 1,

with :math:`f_0 = q_0`, and take no gradient through :math:`z_{t-1}`:

.. math::
    \max E_{q_{t-1}(z_{t-1}) q_t(z_t | z_{t-1})} \left[ \log f_t(z_t) + \log r_t(z_{t-1} | z_t)
    - \log q_t(z_t | z_{t-1}) - \log q_{t-1}(z_{t-1}) \right] .

The last term has no gradient. All terms are of one datum: nothing here sums over a batch.

References:
    C.-W. Huang, S. Tan, A. Lacoste, A. Courville, Improving explorability in variational inference
    with annealed variational objectives (2018), eqs. 5-8; R. Ranganath, D. Tran, D. Blei,
    Hierarchical variational models (2016).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["SCHEDULES", "alphas", "chain_elbo", "path_log_target", "transition_terms", "warm_up"]

SCHEDULES = ("linear", "quadratic", "sigmoid")
_STEEP = 4.0  # of the sigmoid


def alphas(transitions: int, schedule: str = "linear") -> Tensor:
    r"""Return :math:`\alpha_1 < \dots < \alpha_T = 1`.

    Args:
        transitions: T.
        schedule: `linear`, `quadratic` (small steps first) or `sigmoid` (small steps at both
            ends), one of `SCHEDULES`.

    Returns:
        `[T]`.

    Raises:
        ValueError: There is no such schedule.

    >>> alphas(4)
    tensor([0.2500, 0.5000, 0.7500, 1.0000])
    """
    share = torch.arange(1, transitions + 1) / transitions
    if schedule == "linear":
        return share
    if schedule == "quadratic":
        return share.square()
    if schedule == "sigmoid":
        low, high = (1 / (1 + math.exp(s)) for s in (_STEEP, -_STEEP))
        return (torch.sigmoid(_STEEP * (2 * share - 1)) - low) / (high - low)
    raise ValueError(f"no schedule {schedule!r}")


def path_log_target(log_target: Tensor, log_start: Tensor, alpha: Tensor) -> Tensor:
    r"""Return the intermediate targets :math:`\log f_t = \alpha_t \log f_T + (1 - \alpha_t) \log f_0`.

    Args:
        log_target: :math:`\log f_T` at the states z_1 to z_T, `[T, *]`.
        log_start: :math:`\log f_0` at the same states, `[T, *]`.
        alpha: `[T]`.

    Returns:
        `[T, *]`.
    """  # noqa: E501
    alpha = alpha.reshape(-1, *([1] * (log_target.ndim - 1)))
    return alpha * log_target + (1 - alpha) * log_start


def chain_elbo(
    log_target: Tensor, log_start: Tensor, log_forward: Tensor, log_reverse: Tensor
) -> Tensor:
    """Return the evidence lower bound of a chain, per datum, in nats.

    Args:
        log_target: log f_T at z_T, `[*]`.
        log_start: log q_0 at z_0, `[*]`.
        log_forward: log q_t(z_t | z_{t-1}), `[T, *]`.
        log_reverse: log r_t(z_{t-1} | z_t), `[T, *]`.

    Returns:
        `[*]`: a log weight, whose exponential has the mean Z.
    """
    return log_target - log_start + (log_reverse - log_forward).sum(0)


def transition_terms(path: Tensor, log_forward: Tensor, log_reverse: Tensor) -> Tensor:
    """Return what the annealed objectives maximise: a term a transition and datum, in nats.

    The terms are meant for a chain whose states were detached before each transition
    (`AnnealedChain(..., detach=True)`): then each reaches the parameters of its own transition
    only, and terms may be summed over t.

    Args:
        path: log f_t at z_t, `[T, *]`, as of `path_log_target`.
        log_forward: log q_t(z_t | z_{t-1}), `[T, *]`.
        log_reverse: log r_t(z_{t-1} | z_t), `[T, *]`.

    Returns:
        `[T, *]`, never summed over data: a sum over a batch would weigh it against a prior or an
        entropy that is counted once.
    """
    return path + log_reverse - log_forward


def warm_up(step: int, steps: int, start: float) -> float:
    """Return the weight of an energy or a divergence that grows linearly from `start` to 1.

    Args:
        step: From 0.
        steps: Steps of the warm-up; 0 takes 1 at once.
        start: The weight at step 0.

    >>> warm_up(0, 100, 0.1), warm_up(50, 100, 0.1), warm_up(200, 100, 0.1)
    (0.1, 0.55, 1.0)
    """
    if step >= steps:
        return 1.0
    return start + (1 - start) * step / steps
