"""One pruning run: what is operated on, with what, and how it is written down."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.graph.analyse import analyse
from bnnkit.graph.compose import compose
from bnnkit.graph.rebuild import make_plan
from bnnkit.graph.settle import settle
from bnnkit.graph.structure import Structure
from bnnkit.io.data import Split
from bnnkit.io.runtimes import open_predictor
from bnnkit.run.evaluate import Predictions, predictions
from bnnkit.run.progress import Progress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.pruning.goals import Costs
from bnnkit.run.request import copied
from bnnkit.run.setup import Bench
from bnnkit.spec import DataSpec, Plan, Report
from bnnkit.spec.prune import PruneConfig

__all__ = ["Job"]


@dataclass
class Job:
    """One pruning run.

    Args:
        bench: The model and its data.
        data: How the data were named.
        config: What is asked for.
        device: Where it is trained.
        progress: Who is told.
        argv: The command line, for the report.
    """

    bench: Bench
    data: DataSpec
    config: PruneConfig
    device: torch.device
    progress: Progress
    argv: Sequence[str]
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.original = copied(self.bench.module).cpu().eval()
        self.structure = self._structure()
        self.costs = Costs(self.config, self.original, self.structure, self.progress)

    def _structure(self) -> Structure:
        self.progress.start("finding channel classes")
        structure = analyse(self.bench.module, self.bench.example())
        structure = settle(self.bench.module, structure)
        structure = structure.restrict(self.config.include, self.config.exclude)
        self.progress.stop()
        if structure.note:
            self.notes.append(structure.note)
        return structure

    def teacher(self) -> nn.Module:
        """Return a copy of the original to learn from."""
        return copy.deepcopy(self.original)

    def predict(self, model: nn.Module, split: Split, what: str) -> Predictions:
        """Run a model over a part of the data, on the device; the model stays where it is."""
        self.progress.start(what)
        device = str(self.device)
        predictor = open_predictor(copy.deepcopy(model).to(self.device), device=device)
        found = predictions(predictor, split, device=device)
        self.progress.stop()
        return found

    def plan(self, keep: Tensor, theta: Tensor, form: str) -> Plan:
        """Write a decision down, after whatever made the model that was operated on."""
        method = self.config.method if self.config.removal_seed is None else "random"
        spec = replace(self.bench.spec, file=None)
        made = make_plan(self.structure, keep, theta, spec, form=form, method=method)
        return compose(self.bench.loaded.plan, made)

    def report(self, sections: dict[str, Any]) -> Report:
        """Return the report with what every report says."""
        described = self.bench.describe()
        described["model"]["notes"] = [*self.bench.loaded.notes, *self.notes]
        provenance = collect_provenance(
            self.argv,
            seed=self.config.train.seed,
            device=str(self.device),
            started=self.started,
        )
        method = {"name": self.config.method, "config": asdict(self.config)}
        return Report("prune", provenance, {**described, "method": method, **sections})

    def identity(self) -> dict[str, Any]:
        """Return what a resumed run must share with the broken one."""
        spec, config = self.bench.spec, self.config
        return {
            "model": spec.file,
            "arch": spec.arch,
            "arch_args": dict(spec.arch_args),
            "code": spec.arch_digest,
            "method": config.method,
            "mean": list(self.bench.data.mean),
            "std": list(self.bench.data.std),
            "data": self.bench.data.fingerprint,
            **{
                f"{part}.{k}": v
                for part in ("train", "sbp", "posterior", "recovery", "target")
                for k, v in asdict(getattr(config, part)).items()
            },
            **{k: getattr(config, k) for k in ("cost", "val", "round_to")},
            "include": list(config.include),
            "exclude": list(config.exclude),
        }
