"""Annealed variational objectives on energies in the plane (Huang et al. 2018)."""

from bnnkit.methods.annealed.assess import Assessment, assess
from bnnkit.methods.annealed.energies import ENERGIES, Energy, make_energy
from bnnkit.methods.annealed.landscape import Landscape, survey
from bnnkit.methods.annealed.samplers import Chain, Flow, Sampler
from bnnkit.methods.annealed.training import Trained, fit

__all__ = [
    "ENERGIES",
    "Assessment",
    "Chain",
    "Energy",
    "Flow",
    "Landscape",
    "Sampler",
    "Trained",
    "assess",
    "fit",
    "make_energy",
    "survey",
]
