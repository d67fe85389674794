"""Affine flows given a context: they start as the identity, and count their volume."""

import pytest
import torch

from bnnkit.errors import UsageError
from bnnkit.layers.flow_posterior import FlowHead
from bnnkit.methods.flows import affine_transforms

DIM, CONTEXT = 5, 3


def made(kind, transforms=3):
    return FlowHead(affine_transforms(kind, DIM, CONTEXT, transforms, (8,), 0))


def inputs():
    source = torch.Generator().manual_seed(1)
    return torch.randn(4, DIM, generator=source), torch.randn(4, CONTEXT, generator=source)


@pytest.mark.parametrize("kind", ["iaf", "realnvp"])
def test_the_identity_at_the_start(kind):
    pytest.importorskip("zuko")
    z, context = inputs()
    out, ladj = made(kind)(z, context)
    torch.testing.assert_close(out, z)
    torch.testing.assert_close(ladj, torch.zeros(4))


@pytest.mark.parametrize("kind", ["iaf", "realnvp"])
def test_the_volume_is_that_of_the_jacobian(kind):
    pytest.importorskip("zuko")
    flow, source = made(kind), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.4 * torch.randn(p.shape, generator=source))
    z, context = inputs()
    _, ladj = flow(z, context)
    for i in range(len(z)):
        row = context[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda v, row=row: flow(v[None], row)[0][0], z[i]
        )
        assert (jacobian - torch.eye(DIM)).abs().max() > 0.05
        torch.testing.assert_close(ladj[i], jacobian.slogdet().logabsdet, rtol=1e-4, atol=1e-5)


def test_without_zuko_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zuko.flows", None)
    with pytest.raises(UsageError, match=r"bnnkit\[flows\]"):
        made("iaf")
