"""Sections of the report of a filtering run: what it worked on, and what it scored with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bnnkit.bayes.accept.independent import weight_ess
from bnnkit.run.filtering.choose import Chosen
from bnnkit.run.filtering.discriminate import Candidates
from bnnkit.run.filtering.job import Bank, Job
from bnnkit.run.setup import describe_data, describe_model
from bnnkit.spec.generator import GeneratorSpec

__all__ = ["bank_section", "class_names", "described", "discriminator_section", "gated_section"]


def described(job: Job, spec: GeneratorSpec) -> dict[str, Any]:
    """Return the sections on the generator, the data and their splits."""
    made = job.generator
    return {
        "model": describe_model(spec.model, job.notes),
        "generator": {
            "name": made.name,
            "form": made.form.form,
            "latent": str(made.latent),
            "out_range": made.out_range,
            "shape": list(made.shape),
            "classes": made.classes,
            "pixels": made.pixels,
        },
        "data": describe_data(job.data),
        "splits": {
            "fit": len(job.fit),
            "held": len(job.held),
            "test": len(job.test),
            "seed": job.config.seed,
        },
    }


def discriminator_section(
    job: Job, found: Candidates, chosen: Chosen, quality: dict[str, Any]
) -> dict[str, Any]:
    """Return the section on the discriminator.

    Args:
        job: The run.
        found: What there was to choose from.
        chosen: The score that chains ran on.
        quality: Its figures on held-out images.
    """
    config = job.config
    trained = config.discriminator in ("conv", "combined")
    return {
        "kind": config.discriminator,
        "name": chosen.name,
        "loss": config.loss if trained else None,
        "steps": found.steps or None,
        "seconds": found.seconds,
        "auc": quality["auc"],
        "nll": quality["nll"],
        "ece": quality["ece"],
        "temperature": chosen.temperature,
        "calibration": "none" if config.temperature else config.calibrate,
        "extractor": found.extractor,
        "candidates": chosen.rows,
    }


def bank_section(bank: Bank, chosen: Chosen, seconds: float) -> dict[str, Any]:
    """Return the section on the proposals, which took `seconds` of CPU time to make."""
    ess = weight_ess(chosen.bank)
    return {
        "size": len(bank),
        "seconds": seconds,
        "per_second": len(bank) / max(seconds, 1e-9),
        "weight_ess": ess,
        "weight_ess_share": ess / len(bank),
    }


def gated_section(job: Job, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures that gates judge: those of the first extractor."""
    row = next(row for row in rows if row["delivered"])
    name = job.judges[0].name
    # of these very samples: a plain number, which a gate passes or fails
    return {"extractor": name, "n": row["n"], "fid": row["metrics"][name]["fid"]}


def class_names(job: Job, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the classes that a judge counts, where the data have as many."""
    counted = len(rows[0].get("classes", ()))
    return list(job.data.classes) if len(job.data.classes) == counted > 1 else []
