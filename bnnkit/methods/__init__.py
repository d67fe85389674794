"""What decides: one file a paper, behind one protocol; `registry` names them."""

from bnnkit.methods.base import Aim, Decision, Method, Ranking, Setting
from bnnkit.methods.registry import METHODS, RANKINGS

__all__ = ["METHODS", "RANKINGS", "Aim", "Decision", "Method", "Ranking", "Setting"]
