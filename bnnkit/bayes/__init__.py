"""The mathematics: pure functions of tensors, written next to their equations."""

from bnnkit.bayes.truncated_lognormal import draw, kl_to_log_uniform, mean, sample, snr, variance

__all__ = ["draw", "kl_to_log_uniform", "mean", "sample", "snr", "variance"]
