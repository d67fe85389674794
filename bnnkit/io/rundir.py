"""The run directory: what its files are called, and the writing of the small ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bnnkit.io.atomic import atomic_directory, atomic_path, refuse_replacing
from bnnkit.spec import Plan, Report

__all__ = [
    "AUTOENCODER_JSON",
    "CHECKPOINT",
    "DECODER_ONNX",
    "DENSITIES_PNG",
    "DISCRIMINATOR",
    "ENCODER_ONNX",
    "EXTRACTOR",
    "GENERATOR_ONNX",
    "METRICS",
    "MODEL_ONNX",
    "MODEL_PT2",
    "MODEL_SAFETENSORS",
    "PLAN",
    "POSTERIOR",
    "POSTERIOR_JSON",
    "PROPOSAL",
    "RECONSTRUCTIONS_PNG",
    "REFINED",
    "REFINE_ONNX",
    "REPORT_HTML",
    "REPORT_JSON",
    "SAMPLER",
    "SAMPLES_NPZ",
    "SAMPLES_PNG",
    "SAMPLES_RAW_PNG",
    "SCORE_ONNX",
    "TRAVERSALS_PNG",
    "check_replaceable",
    "is_run_directory",
    "run_directory",
    "write_plan",
    "write_report",
    "write_text",
]

MODEL_SAFETENSORS = "model.safetensors"
MODEL_PT2 = "model.pt2"
MODEL_ONNX = "model.onnx"
PLAN = "plan.json"
REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
METRICS = "metrics.jsonl"
DISCRIMINATOR = "discriminator.safetensors"
PROPOSAL = "proposal.safetensors"
AUTOENCODER_JSON = "autoencoder.json"
POSTERIOR = "posterior.safetensors"
POSTERIOR_JSON = "posterior.json"
SAMPLES_PNG = "samples.png"
DENSITIES_PNG = "densities.png"
SAMPLES_NPZ = "samples.npz"
SAMPLES_RAW_PNG = "samples-raw.png"
GENERATOR_ONNX = "generator.onnx"
SCORE_ONNX = "discriminator.onnx"
ENCODER_ONNX = "encoder.onnx"
DECODER_ONNX = "decoder.onnx"
REFINE_ONNX = "refine.onnx"
REFINED = "refined.safetensors"
RECONSTRUCTIONS_PNG = "reconstructions.png"
TRAVERSALS_PNG = "traversals.png"
EXTRACTOR = "extractor.safetensors"
SAMPLER = "sampler.json"
CHECKPOINT = "checkpoint"

_NAMES = frozenset(
    {
        MODEL_SAFETENSORS,
        MODEL_PT2,
        MODEL_ONNX,
        PLAN,
        AUTOENCODER_JSON,
        REPORT_JSON,
        REPORT_HTML,
        METRICS,
        DISCRIMINATOR,
        PROPOSAL,
        POSTERIOR,
        POSTERIOR_JSON,
        SAMPLES_PNG,
        DENSITIES_PNG,
        SAMPLES_NPZ,
        SAMPLES_RAW_PNG,
        GENERATOR_ONNX,
        SCORE_ONNX,
        ENCODER_ONNX,
        DECODER_ONNX,
        REFINE_ONNX,
        REFINED,
        RECONSTRUCTIONS_PNG,
        TRAVERSALS_PNG,
        EXTRACTOR,
        SAMPLER,
        *(
            f"{part}{end}"
            for part in ("generator", "extractor")
            for end in (".pt", ".pt2", ".onnx")
        ),
        CHECKPOINT,
    }
)


@contextmanager
def run_directory(out: str | Path, force: bool = False) -> Iterator[Path]:
    """Yield a directory to write a run into; it becomes `out` on success and vanishes otherwise.

    Args:
        out: The run directory.
        force: Whether an earlier run at `out` may be replaced. A directory that holds anything
            else is never replaced.

    Yields:
        The directory to write into.

    Raises:
        UsageError: `out` exists and may not be replaced.
    """
    with atomic_directory(out, force, replaceable=_NAMES) as part:
        yield part


def check_replaceable(out: str | Path) -> None:
    """Refuse now what `run_directory` would refuse in the end, even with `force`.

    Raises:
        UsageError: `out` is a file or a link, or holds what is no part of a run.
    """
    refuse_replacing(Path(out), force=True, replaceable=_NAMES)


def is_run_directory(path: str | Path) -> bool:
    """Tell whether `path` is a finished run: a directory with a report or the slim weights."""
    folder = Path(path)
    return any((folder / name).is_file() for name in (REPORT_JSON, MODEL_SAFETENSORS))


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text, whole or not at all, with a newline at its end."""
    path = Path(path)
    with atomic_path(path) as part:
        part.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
    return path


def write_plan(folder: str | Path, plan: Plan) -> Path:
    """Write `plan.json` into a run directory."""
    return write_text(Path(folder) / PLAN, plan.to_json())


def write_report(folder: str | Path, report: Report) -> Path:
    """Write `report.json` into a run directory."""
    return write_text(Path(folder) / REPORT_JSON, report.to_json())
