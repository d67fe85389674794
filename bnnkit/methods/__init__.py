"""What decides: one file a paper, behind one protocol; `METHODS` names them."""

from bnnkit.methods.base import Decision, Method
from bnnkit.methods.sbp import Sbp

METHODS = {"sbp": Sbp}

__all__ = ["METHODS", "Decision", "Method", "Sbp"]
