"""Frozen descriptions of models, data, plans and reports, with JSON in and out; stdlib only."""

from bnnkit.spec.data import DataSpec
from bnnkit.spec.model import ModelSpec
from bnnkit.spec.noise import NoisePlan
from bnnkit.spec.plan import ClassPlan, Plan
from bnnkit.spec.report import Quantity, Report

__all__ = ["ClassPlan", "DataSpec", "ModelSpec", "NoisePlan", "Plan", "Quantity", "Report"]
