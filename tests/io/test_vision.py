"""torchvision imports, whichever build of torch lies beside it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bnnkit.errors import UsageError
from bnnkit.io.vision import torchvision


def test_models_transforms_and_data_sets_are_there():
    module = torchvision()
    assert module is torchvision()
    assert module.models.resnet18
    assert module.datasets.MNIST
    assert module.transforms.Resize


@pytest.mark.slow
def test_two_threads_in_a_fresh_process():
    code = (
        "from concurrent.futures import ThreadPoolExecutor as P\n"
        "from bnnkit.io.vision import torchvision as t\n"
        "a, b = P(2).map(lambda _: t(), range(2))\n"
        "assert a is b and a.models.resnet18\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_absence_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UsageError, match="pip install torchvision"):
        torchvision()
