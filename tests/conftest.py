"""What every test may use: the real data beside the checkout, and one thread."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Sums are taken in one order, and workers of one machine do not fight for its cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and checkpoints; the test is skipped where there is none."""
    path = Path(os.environ.get("BNNKIT_SHARED", ROOT.parent / "shared"))
    if not (path / "checkpoints").is_dir():
        pytest.skip(f"no real data and checkpoints at {path}; name them by BNNKIT_SHARED")
    return path
