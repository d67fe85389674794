"""What decides: one file a paper, behind one protocol; `registry` names them."""

from bnnkit.methods.base import Aim, Decision, Method, Setting
from bnnkit.methods.registry import CONTROLS, METHODS

__all__ = ["CONTROLS", "METHODS", "Aim", "Decision", "Method", "Setting"]
