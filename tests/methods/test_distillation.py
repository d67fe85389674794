"""Distillation against its definition, and the size of its gradient."""

import torch
from torch import nn
from torch.distributions import Categorical, kl_divergence

from bnnkit.methods.distillation import Teacher, soft_divergence

SEED = torch.Generator().manual_seed(0)
STUDENT = torch.randn(7, 5, generator=SEED, dtype=torch.float64)
TEACHER = 3 * torch.randn(7, 5, generator=SEED, dtype=torch.float64)


def test_it_is_the_divergence_of_the_softened_answers():
    for t in (1.0, 4.0):
        expected = kl_divergence(Categorical(logits=TEACHER / t), Categorical(logits=STUDENT / t))
        assert torch.allclose(soft_divergence(STUDENT, TEACHER, t), t**2 * expected)
    assert float(soft_divergence(TEACHER, TEACHER + 2.0, 3.0).max()) < 1e-6


def test_hot_gradients_match_the_logits_that_the_paper_derives():
    """For large T the gradient is that of half the squared distance of centred logits over k."""
    student = STUDENT.clone().requires_grad_()
    (found,) = torch.autograd.grad(soft_divergence(student, TEACHER, 1e3).mean(), student)
    gap = STUDENT - STUDENT.mean(1, keepdim=True) - (TEACHER - TEACHER.mean(1, keepdim=True))
    assert torch.allclose(found, gap / (5 * 7), atol=1e-3)


def test_a_teacher_answers_in_eval_mode_without_a_graph():
    net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5)).double().train()
    teacher = Teacher(net, 0.25, 2.0)
    x = torch.randn(7, 4, generator=SEED, dtype=torch.float64)
    answers = teacher.answers(x)
    assert torch.equal(answers, net[0](x))
    assert not answers.requires_grad


def test_where_the_teacher_is_wrong_the_label_counts_alone():
    teacher = Teacher(nn.Identity(), 0.25, 2.0)
    hard = torch.rand(7, generator=SEED, dtype=torch.float64)
    labels = TEACHER.argmax(1)
    labels[[1, 4]] = (labels[[1, 4]] + 1) % 5
    each = 0.75 * hard + 0.25 * soft_divergence(STUDENT, TEACHER, 2.0)
    each[[1, 4]] = hard[[1, 4]]
    assert torch.allclose(teacher.blend(hard, labels, STUDENT, TEACHER), each.mean())
