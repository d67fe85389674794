"""Acceptance rules and the chains over them: pure steps on states, vectorised over chains."""

from bnnkit.bayes.accept.independent import IndependentState, StepInfo
from bnnkit.bayes.accept.rule import log_ratio, metropolis_accept

__all__ = ["IndependentState", "StepInfo", "log_ratio", "metropolis_accept"]
