"""The learner of belief nets: steps repeat, states restore, grey pixels are drawn."""

import copy

import pytest
import torch

from bnnkit.methods.vae.refine_binary import BinaryRefinement
from bnnkit.methods.vae.train_binary import LOSSES, BinaryTraining
from bnnkit.run.vae.binary_learner import BinaryLearner
from bnnkit.spec.config import TrainConfig
from bnnkit.zoo.belief_net import SigmoidBeliefNet


def learner(method="avi"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SigmoidBeliefNet(latent=5, in_features=16)
    training = BinaryTraining(method, 2, BinaryRefinement("ais", steps=2, samples=3))
    return BinaryLearner(net, training, TrainConfig(lr=0.01), torch.device("cpu"))


def images(seed):
    return torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def steps(who, seeds):
    return [who.step(images(s), torch.Generator().manual_seed(s)) for s in seeds]


@pytest.mark.parametrize("method", sorted(LOSSES))
def test_a_restored_learner_goes_on_as_an_unbroken_one(method):
    whole = learner(method)
    steps(whole, [1, 2])
    weights, optimisers = copy.deepcopy(whole.state())
    expected = steps(whole, [3, 4])
    other = learner(method)
    steps(other, [9])
    other.restore(weights, optimisers)
    found = steps(other, [3, 4])
    assert found == expected
    assert {"loss", "bound"} <= expected[0].keys()
    for a, b in zip(other.module.parameters(), whole.module.parameters(), strict=True):
        assert torch.equal(a, b)


def test_it_learns():
    who = learner("straight-through")
    x = torch.zeros(20, 1, 4, 4)
    bounds = [who.step(x, torch.Generator().manual_seed(i))["bound"] for i in range(60)]
    assert bounds[0] == pytest.approx(-11, abs=1)  # 16 log 2, fresh weights
    assert bounds[-1] > -4
