"""What `prune`, `sweep` and `sbn-fit` time and write beside the safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from bnnkit.cli.parsing import parse_counts

__all__ = ["OUTPUT", "OutputOptions"]

OUTPUT = "Output"

BenchBatch = Annotated[
    str, typer.Option(metavar="N,N", rich_help_panel=OUTPUT, help="Batch sizes to time.")
]
BenchThreads = Annotated[
    str, typer.Option(metavar="N,N", rich_help_panel=OUTPUT, help="CPU threads to time with.")
]
NoOnnx = Annotated[
    bool, typer.Option("--no-onnx", rich_help_panel=OUTPUT, help="Write no ONNX file.")
]
NoPt2 = Annotated[
    bool, typer.Option("--no-pt2", rich_help_panel=OUTPUT, help="Write no .pt2 file.")
]


@dataclass(frozen=True)
class OutputOptions:
    """What is timed and written."""

    bench_batch: BenchBatch = "1,32"
    bench_threads: BenchThreads = "1"
    no_onnx: NoOnnx = False
    no_pt2: NoPt2 = False

    def batches(self) -> tuple[int, ...]:
        """Return the batch sizes to time.

        Raises:
            UsageError: They cannot be read.
        """
        return parse_counts(self.bench_batch, "--bench-batch")

    def threads(self) -> tuple[int, ...]:
        """Return the thread counts to time with.

        Raises:
            UsageError: They cannot be read.
        """
        return parse_counts(self.bench_threads, "--bench-threads")

    def formats(self) -> tuple[str, ...]:
        """Return the forms to write."""
        return tuple(f for f, off in (("pt2", self.no_pt2), ("onnx", self.no_onnx)) if not off)
