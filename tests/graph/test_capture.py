"""Capture: a model that cannot be followed is one message, and nothing else on the terminal."""

import pytest
import torch
from torch import nn

from bnnkit.errors import StructureError
from bnnkit.graph.capture import capture


def test_a_forward_that_looks_at_values_is_refused_quietly(capfd):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            x = self.fc(x)
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(StructureError, match="cannot be captured"):
        capture(Branches(), torch.randn(2, 4))
    assert "def forward" not in capfd.readouterr().err
