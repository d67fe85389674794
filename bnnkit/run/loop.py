"""The one training loop: every command that trains anything trains it here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnnkit.errors import TrainingError
from bnnkit.graph.outputs import main_output
from bnnkit.io.data import Split
from bnnkit.methods.base import Method
from bnnkit.methods.distillation import Teacher
from bnnkit.run.checkpoints import Checkpoints, TrainState
from bnnkit.run.compiled import compiled
from bnnkit.run.precision import Precision
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.spec.config import TrainConfig

__all__ = ["Trainer", "seeded"]

_NORMS = (nn.modules.batchnorm._BatchNorm,)
_CLIP = 10.0
"""Largest gradient norm; a pretrained net under fresh noise can start with a huge one."""
_HIGH = 0.1
"""A rate to try first below one that is far above every other."""
_FIGURES = ("loss", "nll", "error")
_LOOK = 50
"""Steps on an accelerator between two looks at the loss: each look waits for the device."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators that foreign modules (dropout) draw from, and restore them after."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@dataclass
class Trainer:
    """Trains a model for some epochs, with or without a method attached.

    A run that is broken off continues from the last epoch and gives what an unbroken run gives:
    order, augmentation, noise and dropout of an epoch are seeded by (seed, epoch) alone.

    Args:
        model: The module, on its device.
        data: Training data.
        config: Epochs, rates and so on.
        precision: Number format of the forward pass.
        device: Where the model is.
        method: A posterior to train along, and its penalty; None trains the model alone.
        checkpoints: Where the state of each epoch goes; None keeps none.
        progress: Who is told.
        on_epoch: Called with every row of the training curve.
        teacher: Whose answers the model learns beside the labels; None learns the labels alone.
        title: What an epoch is called in the progress.
    """

    model: nn.Module
    data: Split
    config: TrainConfig
    precision: Precision
    device: torch.device
    method: Method | None = None
    checkpoints: Checkpoints | None = None
    progress: Progress = field(default_factory=SilentProgress)
    on_epoch: Callable[[dict[str, float]], None] | None = None
    generator: torch.Generator | None = None
    phase: str = "train"
    teacher: Teacher | None = None
    title: str = "epoch"

    def run(self, first: int, last: int) -> None:
        """Train epochs `first` to `last - 1` of `config.epochs`.

        Raises:
            TrainingError: The loss, a parameter or a buffer is not finite, or memory ran out.
        """
        self.optimiser = self._optimiser()
        self.first, self.last = first, last
        self._given = self._infinite()  # an attention mask may be
        self._compile()
        start = first
        if self.checkpoints is not None:
            state = self.checkpoints.load(self.phase)
            if state is not None:
                self._restore(state)
                start = state.epoch
        for epoch in range(start, last):
            row = self._epoch(epoch)
            if self.on_epoch is not None:
                self.on_epoch(row)
            if self.checkpoints is not None:
                self.checkpoints.save(self._state(epoch + 1))

    def _compile(self) -> None:
        """Let the model and the teacher run compiled, where asked; noise runs as it is."""
        self._forward, self._teacher = self.model, self.teacher
        if not self.config.compile:
            return
        size = self.config.batch_size
        if self.method is None:
            self._forward = compiled(self.model, size)
        if self.teacher is not None:
            self._teacher = replace(self.teacher, module=compiled(self.teacher.module, size))

    # --- one epoch --------------------------------------------------------------------------

    def _epoch(self, epoch: int) -> dict[str, float]:
        steps = math.ceil(len(self.data) / self.config.batch_size)
        self.progress.start(f"{self.title} {epoch + 1}/{self.config.epochs}", steps)
        shuffle = torch.Generator().manual_seed(_mix(self.config.seed, epoch))
        if self.generator is not None:
            self.generator.manual_seed(_mix(self.config.seed + 1, epoch))
        self._train_mode()
        began, seen, shown = time.perf_counter(), 0, dict[str, float]()
        totals = torch.zeros(len(_FIGURES), dtype=torch.float64, device=self.device)
        with seeded(_mix(self.config.seed + 2, epoch)):
            batches = self.data.batches(
                self.config.batch_size, shuffle=True, augment=True, generator=shuffle
            )
            for step, (x, y) in enumerate(batches):
                if len(y) == 1 and seen:
                    continue  # batch norm needs two examples
                done = (epoch - self.first + step / steps) / max(1, self.last - self.first)
                totals += self._step(x, y, done, epoch * steps + step)
                seen += len(y)
                if not self._lags or (step + 1) % _LOOK == 0:
                    shown = {"loss": self._finite(totals[0], epoch * steps + step, x) / seen}
                self.progress.advance(1, **shown)
            self._finite(totals[0], (epoch + 1) * steps - 1, x)
        if broken := [name for name in self._infinite() if name not in self._given]:
            found = f"{broken[0]!r} is not finite after epoch {epoch + 1}, and the loss is"
            raise self._diverged(found, [])
        self.progress.stop()
        row = dict(zip(_FIGURES, (totals / seen).tolist(), strict=True))
        row["error"] *= 100
        row |= self.method.figures() if self.method is not None else {}
        rate = self._rate((epoch + 1 - self.first) / max(1, self.last - self.first))
        return {"epoch": float(epoch + 1), **row, "lr": self.config.lr * rate,
                "seconds": time.perf_counter() - began}  # fmt: skip

    @property
    def _lags(self) -> bool:
        """Tell whether to read a number is to wait for the device."""
        return self.device.type != "cpu"

    def _finite(self, loss: Tensor, step: int, x: Tensor) -> float:
        """Return a loss, or a sum of losses, that is a number.

        Raises:
            TrainingError: It is not; a sum stays broken once it is.
        """
        value = float(loss)
        if not math.isfinite(value):
            causes = []
            if not bool(x.isfinite().all()):
                causes.append("the inputs of this batch are not finite")
            weights = {name for name, _ in self.model.named_parameters()}
            broken = [name for name in self._infinite() if name in weights]
            causes += [f"{name} is not finite since an earlier step" for name in broken[:1]]
            raise self._diverged(f"the loss is {value} at step {step}", causes)
        return value

    def _infinite(self) -> list[str]:
        """Name the parameters and buffers that are not finite."""
        named = chain(self.model.named_parameters(), self.model.named_buffers())
        values = {name: value for name, value in named if value.is_floating_point()}
        if not values:
            return []
        fine = torch.stack([v.detach().isfinite().all() for v in values.values()]).tolist()
        return [name for name, is_fine in zip(values, fine, strict=True) if not is_fine]

    def _step(self, x: Tensor, y: Tensor, done: float, step: int) -> Tensor:
        """Learn from one batch; return the sums of `_FIGURES` over it, on the device."""
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * self._rate(done)
        try:
            x, y = self.precision.place(x, self.device), y.to(self.device, non_blocking=True)
            logits = self._scores(self._forward, x)
            nll = F.cross_entropy(logits, y)
            smoothing = self.config.label_smoothing
            hard = F.cross_entropy(logits, y, label_smoothing=smoothing, reduction="none")
            objective = hard.mean()
            if self._teacher is not None:
                answers = self._scores(self._teacher.answers, x)
                objective = self._teacher.blend(hard, y, logits, answers)
            loss = objective if self.method is None else objective + self.method.penalty(done)
            if not self._lags:
                self._finite(loss.detach(), step, x)  # before it has spoilt the weights
            self.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            raise TrainingError(
                "Training", f"memory ran out at batch size {self.config.batch_size}",
                "a step does not fit the device",
                f"Use --batch-size {max(1, self.config.batch_size // 2)}.",
            ) from error  # fmt: skip
        nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        self.optimiser.step()
        if self.method is not None:
            self.method.after_step()
        wrong = (logits.detach().argmax(1) != y).sum()
        return torch.stack([loss.detach() * len(y), nll.detach() * len(y), wrong]).double()

    def _scores(self, model: Callable[[Tensor], Any], x: Tensor) -> Tensor:
        """Return `[b, classes]` scores of a batch, in float32."""
        with self.precision.autocast(self.device):
            output = main_output(model(x))
        return _class_scores(output.float())

    def _train_mode(self) -> None:
        self.model.train()
        if self.config.freeze_bn:
            for module in self.model.modules():
                if isinstance(module, _NORMS):
                    module.eval()

    def _rate(self, done: float) -> float:
        """Return the share of the peak rate: a short linear warm-up, then linear decay."""
        warmup = min(0.05, 1 / max(1, 20 * (self.last - self.first)))
        return min(1.0, (done + 1e-3) / warmup) * max(0.0, 1.0 - done)

    # --- state ------------------------------------------------------------------------------

    def _optimiser(self) -> torch.optim.Optimizer:
        decay: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                (decay if parameter.dim() > 1 else plain).append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": decay, "weight_decay": self.config.weight_decay, "lr": self.config.lr},
            {"params": plain, "weight_decay": 0.0, "lr": self.config.lr},
        ]
        groups = [g for g in groups if g["params"]]
        if self.method is not None:
            groups += self.method.parameter_groups(self.config.lr)
        if not groups:
            raise TrainingError(
                "Training", "a model without trainable parameters", "there is nothing to learn",
                "Let its parameters require gradients, or name another --arch.",
            )  # fmt: skip
        for group in groups:
            group["peak"] = group["lr"]
        if self.config.optimiser == "sgd":
            return torch.optim.SGD(groups, lr=self.config.lr, momentum=0.9, nesterov=True)
        return torch.optim.AdamW(groups, lr=self.config.lr)

    def _state(self, epoch: int) -> TrainState:
        carrier = {} if self.method is None else self.method.carrier().state_dict()
        return TrainState(
            phase=self.phase,
            epoch=epoch,
            model=self.model.state_dict(),
            carrier=carrier,
            optimiser=self.optimiser.state_dict(),
        )

    def _restore(self, state: TrainState) -> None:
        self.model.load_state_dict(state.model)
        if self.method is not None:
            self.method.carrier().load_state_dict(state.carrier)
        self.optimiser.load_state_dict(dict(state.optimiser))

    def _diverged(self, found: str, causes: list[str]) -> TrainingError:
        causes = causes or [f"a learning rate of {self.config.lr:g} is likely too high"]
        if self.precision.name == "bf16":
            causes.append("or bf16 is too coarse for this model (--precision fp32)")
        saved = "" if self.checkpoints is None else self.checkpoints.describe()
        lower = min(self.config.lr / 3, _HIGH)
        return TrainingError("Training", found, ", ".join(causes), f"Use --lr {lower:.1g}.{saved}")


def _class_scores(output: Tensor) -> Tensor:
    """Return `[n, classes]` scores that cross-entropy takes; probabilities become their logs."""
    rows = output.detach()
    sums = rows.sum(-1)
    if rows.dim() == 2 and bool((rows >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all()):
        return output.clamp(min=1e-12).log()
    return output


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    )


def _mix(seed: int, epoch: int) -> int:
    """Return a seed for one epoch; a prime stride keeps runs with near seeds apart."""
    return (seed * 1_000_003 + epoch) % (1 << 63)
