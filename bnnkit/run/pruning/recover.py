"""What follows a decision, for every method alike: refit, remove, train on."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from bnnkit.graph.count import count_macs
from bnnkit.graph.settle import slim_exactly
from bnnkit.methods import Decision
from bnnkit.methods.reconstruct import Refit, reconstruct
from bnnkit.run.loop import Trainer
from bnnkit.run.pruning.job import Job
from bnnkit.run.pruning.stage import Stage
from bnnkit.run.verify import proof_size

__all__ = ["recover"]

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
    """Let the layers that read closed units make the best of what is left to them."""
    wanted = job.config.recovery.reconstruct
    closed = ~decision.keep
    if wanted == 0 or job.config.removal_seed is not None or not bool(closed.any()):
        return ()
    readers = sum(bool(closed[u[u >= 0]].any()) for u in stage.structure.reads.values())
    count = _inputs_to_see(trainer.model, job, readers) if wanted is None else wanted
    job.progress.start("refitting what reads closed channels", readers)
    refits: list[Refit] = []
    try:
        for refit in reconstruct(
            trainer.model, stage.structure, decision.keep, decision.gate,
            _inputs(job, trainer, count), torch.Generator().manual_seed(job.config.train.seed),
        ):  # fmt: skip
            refits.append(refit)
            job.progress.advance(1)
    except (RuntimeError, TypeError, AttributeError) as error:  # the owner's forward, under hooks
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        job.notes.append(
            f"{readers - len(refits)} layers keep their weights unrefitted: {why[:160]}"
        )
    job.progress.stop()
    return tuple(refits)


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
        out.append(trainer.precision.place(x, job.device))
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
