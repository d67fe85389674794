"""The work of `vae-fit` on continuous latents: train, measure, and say what was done."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bnnkit.graph.count import count_parameters
from bnnkit.io.export import write_safetensors
from bnnkit.io.rundir import METRICS, MODEL_SAFETENSORS, write_plan
from bnnkit.run.checkpoints import Checkpoints
from bnnkit.run.progress import Progress
from bnnkit.run.request import check_rebuildable
from bnnkit.run.vae.fit_learner import ContinuousLearner
from bnnkit.run.vae.fit_loop import Fitted, fit_epochs
from bnnkit.run.vae.fit_measure import measure_bound, measure_likelihood, validation
from bnnkit.run.vae.fit_pictures import fit_grids
from bnnkit.run.vae.fit_posterior import write_posterior
from bnnkit.run.vae.fit_request import FitRequest, FitResult
from bnnkit.run.vae.fit_setup import FitJob, identity_of, set_up_fit
from bnnkit.run.vae.meaning import write_meaning
from bnnkit.spec import Plan
from bnnkit.spec.vae_fit import VaeFitConfig

__all__ = ["fit_continuous"]


def fit_continuous(request: FitRequest) -> FitResult:
    """Train an autoencoder with continuous latents.

    Raises:
        BnnkitError: Model or data cannot be used, or the training diverged.
    """
    config, progress = request.config, request.progress
    job = set_up_fit(request.spec, request.data, config, request.device)
    net, auto = job.net, job.bench.auto
    check_rebuildable(auto.spec.model, auto.module)
    checkpoints = Checkpoints(
        request.out, identity_of(job, config), resume=request.resume, force=request.force
    )
    before = None
    if request.spec.model.file is not None:
        progress.start("measuring the start")
        before = measure_bound(net, job.bench.test())
    learner = ContinuousLearner(net, config, job.data.train[:2])
    look = None if job.data.held_out is None else validation(net, job.data.held_out)
    with checkpoints.resumable():
        fitted = fit_epochs(
            learner, job.data.train, job.data.draw, look, config, checkpoints, progress
        )
        sections = _sections(job, config, fitted, before, progress)
    sections["curve"] = checkpoints.curve()
    plan = auto.plan or Plan(model=replace(auto.spec.model, file=None), method="vae-fit")

    def write(folder: Path) -> None:
        write_safetensors(auto.module.cpu(), folder / MODEL_SAFETENSORS, plan)
        write_plan(folder, plan)
        write_posterior(net, folder, auto.spec.variance_is)
        write_meaning(auto.spec, folder)
        checkpoints.write_curve(folder / METRICS)

    return FitResult(sections, write)


def _sections(
    job: FitJob,
    config: VaeFitConfig,
    fitted: Fitted,
    before: dict[str, Any] | None,
    progress: Progress,
) -> dict[str, Any]:
    """Measure what was trained, and return the report's sections."""
    net, data = job.net, job.data
    progress.start("measuring")
    test = job.bench.test()
    parts = {"train": data.judged, "validation": data.held_out, "test": test}
    bounds = {name: measure_bound(net, x) for name, x in parts.items() if x is not None}
    progress.stop()
    described = job.bench.describe()
    described["model"]["notes"] = [*job.bench.auto.notes, *job.notes]
    sections: dict[str, Any] = {
        **described,
        "method": {"name": "vae-fit", "config": asdict(config)},
        "training": {
            "posterior": str(config.family),
            "objective": config.objective,
            "estimator": "B" if config.analytic and net.model.standard_prior else "A",
            **asdict(fitted),
            "n": len(data.train),
            "parameters": count_parameters(net.module),
            "posterior_parameters": count_parameters(net.posterior),
        },
        "bounds": bounds,
        "grids": fit_grids(job.bench, net, test, config.seed),
    }
    if before is not None:
        sections["before"] = before
    if config.nll_samples and job.bench.auto.is_bound:
        found = measure_likelihood(net, test[: config.nll_limit], config.nll_samples, progress)
        sections["likelihood"] = {"nll": found.nll, "ess": found.ess, "samples": found.samples}
    if net.weights is not None:
        kl = float(net.weights.kl().detach())
        sections["weights"] = {
            "kl": kl,
            "kl_per_datum": kl / net.data,
            "parameters": count_parameters(net.weights),
        }
    return sections
