"""The losses against cross-entropy, the constraint against an SVD, the average by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnnkit.methods.adversarial import (
    as_logits,
    averaged,
    constrain,
    discriminator_loss,
    ends_in_sigmoid,
    generator_loss,
    release,
)
from bnnkit.zoo import GENERATIVE, ZOO


def test_losses_are_cross_entropies():
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(50, 1, generator=generator) * 3 for _ in range(2))
    expected = F.binary_cross_entropy(torch.sigmoid(real), torch.ones_like(real))
    expected = expected + F.binary_cross_entropy(torch.sigmoid(fake), torch.zeros_like(fake))
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    wanted = F.binary_cross_entropy(torch.sigmoid(fake), torch.ones_like(fake))
    torch.testing.assert_close(generator_loss(fake), wanted)
    nothing = torch.zeros(3)
    assert float(discriminator_loss(nothing, nothing)) == pytest.approx(2 * math.log(2))


def test_the_generator_keeps_its_gradient_where_the_discriminator_is_sure():
    logit = torch.tensor([-60.0], requires_grad=True)
    (slope,) = torch.autograd.grad(generator_loss(logit), logit)
    assert float(slope) == pytest.approx(-1)


def test_which_discriminators_answer_with_probabilities():
    found = {g.discriminator: ends_in_sigmoid(ZOO[g.discriminator]()) for g in GENERATIVE.values()
             if g.discriminator}  # fmt: skip
    assert found == {
        "dcgan-discriminator": True,
        "dcgan32-discriminator": False,
        "mlp-gan-discriminator": True,
    }
    logits = torch.tensor([-4.0, 0.0, 5.0])
    torch.testing.assert_close(as_logits(torch.sigmoid(logits), probability=True), logits)
    assert torch.equal(as_logits(logits, probability=False), logits)
    assert torch.isfinite(as_logits(torch.tensor([0.0, 1.0]), probability=True)).all()


def test_the_constraint_is_the_largest_singular_value_and_goes_into_the_weights():
    torch.manual_seed(0)
    model = ZOO["dcgan32-discriminator"](width=4)
    names = set(model.state_dict())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    constrain(model).train()
    x = torch.rand(3, 3, 32, 32)
    for _ in range(60):  # each pass refines the singular vectors
        model(x)
    answer = model.eval()(x)
    release(model)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(x), answer)
    plain = ZOO["dcgan32-discriminator"](width=4)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain.eval()(x), answer)
    for name, value in model.state_dict().items():
        if name.endswith("weight"):
            matrix = before[name].flatten(1)
            expected = matrix / torch.linalg.matrix_norm(matrix, 2)
            torch.testing.assert_close(value.flatten(1), expected, atol=2e-3, rtol=0)


def test_the_average_forgets_its_start():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(100.0)
    average = averaged(model)
    by_hand = None
    for step in range(300):
        model.weight.data.fill_(float(step % 2))
        average.update_parameters(model)
        value = float(step % 2)
        decay = min(0.999, (1 + step) / (10 + step))
        by_hand = value if by_hand is None else decay * by_hand + (1 - decay) * value
    assert float(average.module.weight.detach()) == pytest.approx(by_hand, abs=1e-5)
    assert float(average.module.weight.detach()) == pytest.approx(0.5, abs=0.02)
