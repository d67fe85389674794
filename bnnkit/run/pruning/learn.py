"""One round of learning: noise, decision, removal, recovery."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from bnnkit.graph.settle import slim_exactly
from bnnkit.graph.structure import Structure
from bnnkit.io.data import Split
from bnnkit.methods import METHODS, RANKINGS, Aim, Decision, Setting
from bnnkit.methods.distillation import Teacher
from bnnkit.methods.select import choose
from bnnkit.run.checkpoints import Checkpoints
from bnnkit.run.loop import Trainer
from bnnkit.run.precision import choose_precision
from bnnkit.run.pruning.goals import Goal
from bnnkit.run.pruning.job import Job
from bnnkit.run.pruning.recover import recover
from bnnkit.run.pruning.size import small_enough
from bnnkit.run.pruning.speed import fast_enough
from bnnkit.run.pruning.stage import Stage

__all__ = ["random_decision", "run_round", "train_alone"]


def run_round(
    job: Job,
    stage: Stage,
    goal: Goal | None,
    epochs: range,
    data: Split,
    checkpoints: Checkpoints,
    *,
    name: str = "",
) -> Stage:
    """Learn what to close, remove it, and train on.

    Args:
        job: The run.
        stage: Where it stands; its model is consumed.
        goal: What the decision has to come down to, a cost of `stage.model`; None lets the
            evidence decide.
        epochs: Which epochs of the run this round has.
        data: What is trained on.
        checkpoints: Where the state of each epoch goes.
        name: Ending of the names of its checkpoints.
    """
    trainer = _trainer(job, stage.model, data, checkpoints)
    calm = len(epochs) if _decides_at_once(job) else job.config.calm_epochs(len(epochs))
    noisy = len(epochs) - calm
    decision = _decide(job, stage, goal, trainer, epochs[:noisy], f"noise{name}")
    return recover(job, stage, decision, trainer, epochs[noisy:], f"finetune{name}")


def train_alone(
    job: Job,
    model: nn.Module,
    epochs: range,
    data: Split,
    checkpoints: Checkpoints,
    *,
    phase: str,
    title: str,
) -> nn.Module:
    """Train a model as a slim one is trained, with nothing removed, and return it on the CPU.

    Args:
        job: The run.
        model: What is trained.
        epochs: For how long.
        data: On what.
        checkpoints: Where the state of each epoch goes.
        phase: Its name there.
        title: What the progress calls an epoch of it.
    """
    trainer = _trainer(job, model, data, checkpoints)
    config = replace(trainer.config, epochs=epochs.stop)
    trainer = replace(trainer, config=config, phase=phase, title=title, on_epoch=None)
    trainer.run(epochs.start, epochs.stop)
    return trainer.model.cpu().eval()


def _decides_at_once(job: Job) -> bool:
    """Tell whether no epoch is spent on the decision."""
    return job.config.method in RANKINGS or job.config.removal_seed is not None


def _trainer(job: Job, model: nn.Module, data: Split, checkpoints: Checkpoints) -> Trainer:
    precision = choose_precision(job.config.train.precision, job.device)
    recovery, teacher = job.config.recovery, None
    if recovery.distill:
        original = precision.prepare(job.teacher().to(job.device))
        teacher = Teacher(original, recovery.distill, recovery.temperature)
    return Trainer(
        precision.prepare(model.to(job.device)),
        data,
        job.config.train,
        precision,
        job.device,
        checkpoints=checkpoints,
        progress=job.progress,
        on_epoch=checkpoints.log,
        teacher=teacher,
    )


# --- decide ---------------------------------------------------------------------------------


def _decide(
    job: Job, stage: Stage, goal: Goal | None, trainer: Trainer, epochs: range, phase: str
) -> Decision:
    """Train with noise where the method learns; choose what stays."""
    config, structure = job.config, stage.structure
    generator = torch.Generator(job.device).manual_seed(config.train.seed)
    price = job.costs.price(stage.keep)
    aim = None
    if goal is not None:
        full = goal.cost.total(torch.ones(structure.n_units, dtype=torch.bool))
        steps = len(epochs) * math.ceil(len(trainer.data) / config.train.batch_size)
        aim = Aim(goal.limit / full, goal.share, steps)
    setting = Setting(
        structure, trainer.model, config, len(trainer.data), generator, job.device, price, aim,
        job.costs.round_to(),
    )  # fmt: skip
    if config.removal_seed is not None:
        return random_decision(structure, config.removal_seed, job.costs.round_to())
    if config.method in RANKINGS:
        batches = trainer.data.batches(
            config.train.batch_size,
            shuffle=True,
            generator=torch.Generator().manual_seed(config.train.seed),
        )
        job.progress.start("ranking units")
        decision = RANKINGS[config.method](setting, batches).decision()
        job.progress.stop()
    else:
        method = METHODS[config.method](setting)
        noisy = replace(trainer, method=method, generator=generator, phase=phase)
        if len(epochs):
            with method.attach(trainer.model):
                noisy.run(epochs.start, epochs.stop)
        decision = method.decide()
    if goal is None:
        return decision
    return replace(decision, keep=_within(job, stage, goal, decision, trainer.model), reopened=())


def _within(job: Job, stage: Stage, goal: Goal, decision: Decision, model: nn.Module) -> Tensor:
    """Return what stays so that the goal is met."""
    # What has a price in its objective is ranked by its evidence alone; but milliseconds fall in
    # stairs, and half a stair would be given away for nothing.
    priced = job.config.method == "sbp" and goal.cost.unit != "ms"
    per_cost = not priced and job.costs.weighed() != "none"

    def close(limit: float) -> Tensor:
        return choose(
            stage.structure, decision.score, goal.cost, limit,
            per_cost=per_cost, round_to=job.costs.round_to(), cumulative=decision.cumulative,
        )  # fmt: skip

    def build(keep: Tensor) -> nn.Module:
        plain = copy.deepcopy(model).cpu().eval()
        inputs = job.bench.example(3)
        return slim_exactly(plain, stage.structure, keep, keep.float(), inputs).model.eval()

    if job.config.target.speedup is not None:
        return fast_enough(job, goal, close, build)
    if job.config.target.size is not None:
        return small_enough(job, stage, goal, decision, close)
    return close(goal.limit)


def random_decision(structure: Structure, seed: int, round_to: int) -> Decision:
    """Close a random half of the units: a structural exercise, nothing is learned."""
    generator = torch.Generator().manual_seed(seed)
    score = torch.rand(structure.n_units, generator=generator)
    keep, reopened = structure.ensure_alive(score >= 0.5, score)
    if round_to > 1:
        keep = structure.round_up(keep, score, round_to)
    gate = torch.rand(structure.n_units, generator=generator) * 0.5 + 0.5
    return Decision(keep, gate, score, tuple(reopened))
