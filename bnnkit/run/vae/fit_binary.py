"""The work of `vae-fit` on binary latents: a belief net trained, and its bound measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.errors import StructureError, UsageError
from bnnkit.graph.count import count_parameters
from bnnkit.io.autoencoder_units import BINARISE_SEED, binarise_split
from bnnkit.io.data import Dataset, Split, load_data
from bnnkit.io.export import write_safetensors
from bnnkit.io.models import LoadedModel, load_model
from bnnkit.io.rundir import METRICS, MODEL_SAFETENSORS, write_plan
from bnnkit.methods.vae.belief import BeliefModel, bound, draw, importance_log_likelihood
from bnnkit.methods.vae.refine_binary import BinaryRefinement
from bnnkit.methods.vae.train_binary import BinaryTraining
from bnnkit.run.checkpoints import Checkpoints
from bnnkit.run.request import check_rebuildable
from bnnkit.run.setup import describe_data, describe_model, known_input_shape, plan_of
from bnnkit.run.vae.binary_learner import BinaryLearner
from bnnkit.run.vae.fit_loop import fit_epochs
from bnnkit.run.vae.fit_request import FitRequest, FitResult
from bnnkit.run.vae.measure import nats
from bnnkit.run.vae.setup import reading_order
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.vae_fit import BINARY_OBJECTIVES, VaeFitConfig

__all__ = ["fit_binary"]

_METHODS = {"wake-sleep": "wake-sleep", "air": "avi", "straight-through": "straight-through"}
_STEPS = 20
_BATCH = 500
_SAMPLES = 20
"""Draws of each datum behind its bound."""
_JUDGED = 10_000
_READ = 1024


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Flat pixels `[n, D]`: what is learned from, and fixed zeros and ones to be judged on."""

    train: Tensor
    judged: Tensor
    held_out: Tensor | None
    test: Tensor


def fit_binary(request: FitRequest) -> FitResult:
    """Train a belief net with binary latents.

    Raises:
        BnnkitError: Model or data cannot be used, or the training diverged.
    """
    config, progress = request.config, request.progress
    _refuse_unused(config)
    loaded, data = _set_up(request)
    pixels = _pixels(data, request)
    rates = TrainConfig(lr=config.lr, weight_decay=config.weight_decay)
    device = torch.device(request.device)
    learner = BinaryLearner(loaded.module.to(device), _training(config), rates, device)
    identity = {
        "arch": loaded.spec.arch,
        "arch_args": dict(loaded.spec.arch_args),
        "model": loaded.spec.file,
        "data": data.fingerprint,
        "limit": request.data.limit,
        **asdict(config),
    }
    checkpoints = Checkpoints(request.out, identity, resume=request.resume, force=request.force)
    model = learner.model
    look = None if pixels.held_out is None else _look(model, loaded.module, pixels.held_out)
    with checkpoints.resumable():
        fitted = fit_epochs(
            learner, pixels.train, lambda x, _: x, look, config, checkpoints, progress
        )
        progress.start("measuring")
        measured = _measured(model, loaded.module, pixels, config)
        progress.stop()
    trained = {
        "posterior": "binary",
        "objective": config.objective,
        **asdict(fitted),
        "n": len(pixels.train),
        "parameters": count_parameters(loaded.module),
    }
    sections = {**_described(loaded, data, config), "training": trained, **measured}
    sections["curve"] = checkpoints.curve()
    plan = plan_of(loaded, "vae-fit")

    def write(folder: Path) -> None:
        write_safetensors(loaded.module.cpu(), folder / MODEL_SAFETENSORS, plan)
        write_plan(folder, plan)
        checkpoints.write_curve(folder / METRICS)

    return FitResult(sections, write)


def _set_up(request: FitRequest) -> tuple[LoadedModel, Dataset]:
    """Load the net, and images of its shape."""
    loaded = load_model(request.spec.model, seed=request.config.seed)
    check_rebuildable(loaded.spec, loaded.module)
    _check_module(loaded)
    shape = known_input_shape(loaded.spec) or request.data.input_shape
    wanted = replace(
        request.data, input_shape=shape, mean=(0.0,), std=(1.0,), augment="none", limit=None,
        labelled=request.data.classes is not None,
    )  # fmt: skip
    data = load_data(wanted)
    spec = replace(loaded.spec, input_shape=tuple(data.input_shape))
    return replace(loaded, spec=spec), data


def _described(loaded: LoadedModel, data: Dataset, config: VaeFitConfig) -> dict[str, Any]:
    """Return the report sections `model`, `data` and `method`."""
    pixels = {"binarise": config.binarise or "bernoulli", "binarise_seed": BINARISE_SEED}
    return {
        "model": describe_model(loaded.spec, loaded.notes),
        "data": {**describe_data(data), **pixels},
        "method": {"name": "vae-fit", "config": asdict(config)},
    }


def _refuse_unused(config: VaeFitConfig) -> None:
    """Refuse options of continuous latents."""
    plain = VaeFitConfig()
    for option, name in (
        ("--posterior", "posterior"), ("--estimator", "estimator"), ("--freeze", "freeze"),
        ("--kl-schedule", "kl_schedule"), ("--full-vb", "full_vb"), ("--beta", "beta"),
    ):  # fmt: skip
        value = getattr(config, name)
        if value != getattr(plain, name):
            raise UsageError(
                f"Training by {config.objective}", f"{option} {value}",
                "binary latents have a Bernoulli posterior and a loss of their own",
                "Leave it out.",
            )  # fmt: skip
    if config.binarise not in (None, "bernoulli", "dynamic"):
        raise UsageError(
            "Reading --binarise", repr(config.binarise), "belief nets read drawn pixels",
            "Use bernoulli or dynamic.",
        )  # fmt: skip


def _check_module(loaded: LoadedModel) -> None:
    lacking = [n for n in ("encode", "decode", "prior_logits") if not hasattr(loaded.module, n)]
    if lacking:
        raise StructureError(
            "Training binary latents",
            f"a {type(loaded.module).__name__} without {' and '.join(map(repr, lacking))}",
            f"{', '.join(BINARY_OBJECTIVES)} train a belief net",
            "Name one, such as --arch bnnkit:sbn-mnist, or use --objective elbo.",
        )


def _training(config: VaeFitConfig) -> BinaryTraining:
    """Return the loss, with adaptive importance refinement of `air`."""
    refinement = BinaryRefinement("ais", steps=config.refine or _STEPS, samples=config.draws)
    return BinaryTraining(_METHODS[config.objective], config.draws, refinement)


def _pixels(data: Dataset, request: FitRequest) -> _Pixels:
    """Draw pixels once with the fixed seed; grey ones where the learner draws them anew."""
    config, limit = request.config, request.data.limit
    by_class = Path(request.data.name).expanduser().is_dir()
    grey = _rows(data.train, limit, by_class)
    fixed = binarise_split(grey)
    order = torch.randperm(len(grey), generator=torch.Generator().manual_seed(config.seed))
    count = round(config.validation * len(grey))
    held, kept = order.tensor_split([count])
    source = grey if config.binarise == "dynamic" else fixed
    test = binarise_split(_rows(data.test, limit, by_class))
    held_out = fixed[held] if count else None
    return _Pixels(source[kept], fixed[kept[:_JUDGED]], held_out, test)


def _rows(split: Split, limit: int | None, by_class: bool) -> Tensor:
    """Return the first images of a part, flat; folders come by class, and are shuffled first."""
    part = split.select(reading_order(len(split), shuffled=by_class)[:limit])
    return torch.cat([x.flatten(1) for x, _ in part.batches(_READ)])


@torch.no_grad()
def _bounds(model: BeliefModel, module: nn.Module, x: Tensor) -> Tensor:
    """Return the bound of each datum, with the same noise at every call, `[n]` on the CPU."""
    module.eval()
    device = next(module.parameters()).device
    source = torch.Generator(device).manual_seed(0)
    parts = []
    for batch in torch.split(x, _BATCH):
        pixels = batch.to(device)
        logits = model.encode(pixels)
        parts.append(bound(model, pixels, logits, draw(logits, _SAMPLES, source)))
    return torch.cat(parts).double().cpu()


def _look(model: BeliefModel, module: nn.Module, x: Tensor) -> Callable[[], float]:
    return lambda: float(_bounds(model, module, x).mean())


def _measured(
    model: BeliefModel, module: nn.Module, pixels: _Pixels, config: VaeFitConfig
) -> dict[str, Any]:
    """Return the report sections `bounds` and `likelihood`."""
    parts = {"train": pixels.judged, "validation": pixels.held_out, "test": pixels.test}
    found: dict[str, Any] = {
        "bounds": {
            name: {"elbo": nats(_bounds(model, module, x))}
            for name, x in parts.items()
            if x is not None
        }
    }
    if config.nll_samples:
        device = next(module.parameters()).device
        x = pixels.test[: config.nll_limit].to(device)
        source = torch.Generator(device).manual_seed(0)
        with torch.no_grad():
            logits = model.encode(x)
        estimate = importance_log_likelihood(model, x, logits, config.nll_samples, source)
        found["likelihood"] = {
            "nll": nats(-estimate.log_likelihood),
            "ess": float(estimate.ess.mean()),
            "samples": config.nll_samples,
        }
    return found
