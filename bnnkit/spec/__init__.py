"""Frozen descriptions of models, data, plans and reports, with JSON in and out; stdlib only.

The names are resolved when they are first used: the help of a command needs few of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnnkit.spec.data import DataSpec
    from bnnkit.spec.model import ModelSpec
    from bnnkit.spec.noise import NoisePlan
    from bnnkit.spec.plan import ClassPlan, Plan
    from bnnkit.spec.report import Quantity, Report

__all__ = ["ClassPlan", "DataSpec", "ModelSpec", "NoisePlan", "Plan", "Quantity", "Report"]

_HOMES = {
    "ClassPlan": "plan",
    "DataSpec": "data",
    "ModelSpec": "model",
    "NoisePlan": "noise",
    "Plan": "plan",
    "Quantity": "report",
    "Report": "report",
}


def __getattr__(name: str) -> object:
    """Import a description at its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bnnkit.spec' has no attribute {name!r}")
    value: object = getattr(import_module(f"bnnkit.spec.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
