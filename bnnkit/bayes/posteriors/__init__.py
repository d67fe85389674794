"""Posteriors over latents, one distribution per datum and n data at once; one family a file."""

from bnnkit.bayes.posteriors.base import Posterior
from bnnkit.bayes.posteriors.diagonal import Diagonal
from bnnkit.bayes.posteriors.either import Either
from bnnkit.bayes.posteriors.full import FullRank
from bnnkit.bayes.posteriors.matrix_normal import MatrixNormal

__all__ = ["Diagonal", "Either", "FullRank", "MatrixNormal", "Posterior"]
