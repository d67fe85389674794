"""Heads of amortised posteriors: what they build, and where they start."""

import torch
from torch.distributions import MultivariateNormal, kl_divergence

from bnnkit.layers.flow_posterior import FlowHead, planar_transforms
from bnnkit.layers.posterior_heads import FullHead, MatrixNormalHead, strictly_lower

N, R, C, F = 3, 3, 2, 5


def inputs(seed=0):
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(N, k, generator=source) for k in (R * C, R * C, F)]


def trained(head, seed=1):
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=source))
    return head


def reference(q, covariance):
    return MultivariateNormal(q.mean, covariance)


def test_entries_go_below_the_diagonal():
    entries = torch.arange(1.0, 7.0).expand(2, 6)
    lower = strictly_lower(entries, 4)
    assert torch.equal(lower, lower.tril(-1))
    rows, columns = torch.tril_indices(4, 4, -1)
    assert torch.equal(lower[:, rows, columns], entries)


def test_the_matrix_normal_head_against_a_kronecker_covariance():
    mean, log_sigma, features = inputs()
    q = trained(MatrixNormalHead(F, R, C))(mean, log_sigma, features)
    a, b = q.factors()
    covariance = torch.stack(
        [torch.kron(x @ x.T, y @ y.T) for x, y in zip(a, b, strict=True)]
    )  # latents row by row
    known = reference(q, covariance)
    standard = MultivariateNormal(torch.zeros(R * C), torch.eye(R * C))
    torch.testing.assert_close(q.kl(), kl_divergence(known, standard), rtol=1e-4, atol=1e-4)
    z, log_q = q.sample(torch.randn(7, N, R * C, generator=torch.Generator().manual_seed(2)))
    torch.testing.assert_close(log_q, known.log_prob(z), rtol=1e-4, atol=1e-3)


def test_the_full_head_against_torch():
    mean, log_sigma, features = inputs()
    q = trained(FullHead(F, R * C))(mean, 0.3 * log_sigma, features)
    known = reference(q, q.factor() @ q.factor().mT)
    standard = MultivariateNormal(torch.zeros(R * C), torch.eye(R * C))
    torch.testing.assert_close(q.kl(), kl_divergence(known, standard), rtol=1e-4, atol=1e-4)


def test_fresh_heads_have_no_correlations():
    mean, log_sigma, features = inputs()
    q = FullHead(F, R * C)(mean, log_sigma, features)
    torch.testing.assert_close(q.factor(), torch.diag_embed(log_sigma.exp()))
    a, b = MatrixNormalHead(F, R, C)(mean, log_sigma, features).factors()
    assert torch.equal(a, torch.diag_embed(a.diagonal(dim1=1, dim2=2)))
    assert torch.equal(b, torch.diag_embed(b.diagonal(dim1=1, dim2=2)))


def test_planar_flows_count_their_volume():
    head = trained(FlowHead(planar_transforms(4, F, 3)), seed=4)
    source = torch.Generator().manual_seed(5)
    start, features = torch.randn(2, 4, generator=source), torch.randn(2, F, generator=source)
    _, ladj = head(start, features)
    for i in range(2):
        row = features[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda z, row=row: head(z[None], row)[0][0], start[i]
        )
        torch.testing.assert_close(ladj[i], jacobian.slogdet().logabsdet, rtol=1e-4, atol=1e-5)
