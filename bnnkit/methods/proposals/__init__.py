"""Learned independent proposals for densities (Neklyudov, Shvechikov, Vetrov 2018)."""

from bnnkit.methods.proposals.assess import Assessment, assess
from bnnkit.methods.proposals.build import build_proposal, empty_proposal
from bnnkit.methods.proposals.density import Density
from bnnkit.methods.proposals.explore import Walks, walk
from bnnkit.methods.proposals.families import Proposal
from bnnkit.methods.proposals.sampling import Chains, run_chains
from bnnkit.methods.proposals.targets import (
    Minibatches,
    Modes,
    Reference,
    Target,
    logistic_regression,
    six_gaussians,
)
from bnnkit.methods.proposals.training import Trained, train

__all__ = [
    "Assessment",
    "Chains",
    "Density",
    "Minibatches",
    "Modes",
    "Proposal",
    "Reference",
    "Target",
    "Trained",
    "Walks",
    "assess",
    "build_proposal",
    "empty_proposal",
    "logistic_regression",
    "run_chains",
    "six_gaussians",
    "train",
    "walk",
]
