"""What follows a decision, for every method alike: refit, remove, train on."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from bnnkit.graph.count import count_macs
from bnnkit.graph.settle import slim_exactly
from bnnkit.methods import Decision
from bnnkit.methods.reconstruct import Refit, reconstruct, refittable
from bnnkit.run.loop import Trainer
from bnnkit.run.precision import full_precision
from bnnkit.run.pruning.job import Job
from bnnkit.run.pruning.stage import Stage
from bnnkit.run.verify import proof_size

__all__ = ["recover"]

_FAULTS = (RuntimeError, TypeError, AttributeError, LookupError, ValueError)
_BATCH = 64
_MOST, _LEAST = 1024, 128
_WORK = 4e12
"""Multiply-accumulates that looking at inputs may take: a few minutes of one core."""


def recover(
    job: Job, stage: Stage, decision: Decision, trainer: Trainer, epochs: range, phase: str
) -> Stage:
    """Refit what reads closed units, remove them, and train what is left.

    Args:
        job: The run.
        stage: Where it stands.
        decision: About the units of `stage.model`.
        trainer: Holds the model at full width.
        epochs: How long the slim model is trained.
        phase: Name of the training among the checkpoints.
    """
    refits = _refit(job, stage, decision, trainer)
    job.progress.start("removing closed channels, proving it in float64")
    model = trainer.model.cpu().eval()
    inputs = job.bench.inputs(proof_size(job.bench.data.input_shape), job.config.train.seed)
    slimmed = slim_exactly(model, stage.structure, decision.keep, decision.theta, inputs)
    job.progress.stop()
    slim = trainer.precision.prepare(slimmed.model.to(job.device))
    _train_on(job, replace(trainer, model=slim), epochs, phase)
    return replace(stage.after(decision, slim.cpu().eval()), refits=refits)


def _refit(job: Job, stage: Stage, decision: Decision, trainer: Trainer) -> tuple[Refit, ...]:
    """Let the layers make the best of what is left to them."""
    wanted = job.config.recovery.reconstruct
    closed = ~decision.keep
    if wanted == 0 or job.config.removal_seed is not None or not bool(closed.any()):
        return ()
    layers = len(refittable(trainer.model))
    count = _inputs_to_see(trainer.model, job, layers) if wanted is None else wanted
    job.progress.start("refitting what is left", layers)
    refits: list[Refit] = []
    source = torch.Generator().manual_seed(job.config.train.seed)
    inputs = _inputs(job, trainer, count)
    keep, gate = decision.keep, decision.gate
    try:
        with full_precision():
            for refit in reconstruct(trainer.model, stage.structure, keep, gate, inputs, source):
                refits.append(refit)
                job.progress.advance(1)
    except _FAULTS as error:  # the owner's forward, under hooks
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        job.notes.append(f"refitting ended after {len(refits)} of {layers} layers: {why}")
    job.progress.stop()
    seen = {refit.layer for refit in refits}
    reads = stage.structure.reads.items()
    left = [name for name, u in reads if name not in seen and bool(closed[u[u >= 0]].any())]
    if left:
        job.notes.append(
            f"{', '.join(left[:8])}{' ...' if len(left) > 8 else ''}: read removed channels and "
            "keep their weights (grouped, shared, run more than once, or too wide to refit)"
        )
    return tuple(refit for refit in refits if refit.before > 0)


def _inputs_to_see(model: nn.Module, job: Job, layers: int) -> int:
    """Return how many inputs each of some layers is refitted on."""
    macs = max(1, count_macs(model.cpu(), tuple(job.bench.data.input_shape)))
    model.to(job.device)
    return int(min(_MOST, max(_LEAST, _WORK / (max(1, layers) * macs))))


def _inputs(job: Job, trainer: Trainer, count: int) -> list[Tensor]:
    """Return some training inputs in batches, on the device."""
    out: list[Tensor] = []
    source = torch.Generator().manual_seed(job.config.train.seed)
    for x, _ in trainer.data.batches(min(_BATCH, count), shuffle=True, generator=source):
        out.append(trainer.precision.place(x[:count], job.device))
        count -= len(x)
        if count <= 0:
            break
    return out


def _train_on(job: Job, trainer: Trainer, epochs: range, phase: str) -> None:
    """Measure the statistics of batch norm anew where asked, then train."""
    if count := job.config.recovery.reestimate:
        job.progress.start("measuring batch-norm statistics")
        batches = trainer.data.batches(
            job.config.train.batch_size,
            shuffle=True,
            augment=True,
            generator=torch.Generator().manual_seed(job.config.train.seed),
        )
        with torch.no_grad():
            update_bn((x for (x, _), _ in zip(batches, range(count), strict=False)),
                      trainer.model, device=job.device)  # fmt: skip
        job.progress.stop()
    if len(epochs):
        replace(trainer, phase=phase).run(epochs.start, epochs.stop)
