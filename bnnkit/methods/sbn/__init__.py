"""Stochastic batch normalisation (Atanov et al. 2019): uncertainty without training."""

from bnnkit.methods.sbn.carriers import with_carriers
from bnnkit.methods.sbn.collect import LEAST_BATCHES, Collected, collect
from bnnkit.methods.sbn.fit import fit, make_network
from bnnkit.methods.sbn.network import Prediction, StochasticNet

__all__ = [
    "LEAST_BATCHES",
    "Collected",
    "Prediction",
    "StochasticNet",
    "collect",
    "fit",
    "make_network",
    "with_carriers",
]
