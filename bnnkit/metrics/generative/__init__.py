"""How near generated samples are to real ones: pure functions of features and probabilities."""

from bnnkit.metrics.generative.frechet import FRECHET, Moments, frechet_distance, moments
from bnnkit.metrics.generative.histogram import CLASS_TV, class_shares, total_variation
from bnnkit.metrics.generative.inception_score import INCEPTION_SCORE, inception_score
from bnnkit.metrics.generative.kernel import KERNEL, kernel_distance
from bnnkit.metrics.generative.precision_recall import PRECISION, RECALL, precision_recall

__all__ = [
    "CLASS_TV",
    "FRECHET",
    "INCEPTION_SCORE",
    "KERNEL",
    "PRECISION",
    "RECALL",
    "Moments",
    "class_shares",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "moments",
    "precision_recall",
    "total_variation",
]
