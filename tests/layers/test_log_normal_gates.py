"""Gates: fresh tied noise in training, the mean in eval, parameters kept in range."""

import torch

from bnnkit.layers.log_normal_gates import LOG_SIGMA_RANGE, MU_RANGE, LogNormalGates


def make(seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return LogNormalGates([3, 5], init_log_sigma=0.0, generator=generator, **options)


def test_each_example_has_its_own_noise_and_each_pass_a_fresh_one():
    gates = make()
    gates.begin(4)
    first = gates.theta(0, 3).clone()
    assert first.shape == (4, 3)
    assert len(torch.unique(first)) == 12
    torch.testing.assert_close(gates.theta(0, 3), first)  # readers of a class see one draw
    gates.begin(4)
    assert not torch.equal(gates.theta(0, 3), first)


def test_one_draw_per_batch_when_asked():
    gates = make(per_example=False)
    gates.begin(4)
    assert gates.theta(3, 5).shape == (5,)


def test_eval_mode_uses_the_mean():
    gates = make().eval()
    gates.begin(4)
    torch.testing.assert_close(gates.theta(3, 5), gates.mean()[3:])


def test_sample_mean_approaches_the_mean():
    gates = make()
    gates.begin(40_000)
    drawn = gates.theta(0, 3).detach()
    error = drawn.std(0) / 200
    assert bool(((drawn.mean(0) - gates.mean()[:3]).abs() < 4 * error).all())


def test_clip_brings_parameters_into_range():
    gates = make()
    with torch.no_grad():
        gates.mu.fill_(99)
        gates.log_sigma.fill_(-99)
    gates.clip()
    assert float(gates.mu.detach().max()) == MU_RANGE[1]
    assert float(gates.log_sigma.detach().min()) == LOG_SIGMA_RANGE[0]
    assert bool(torch.isfinite(gates.snr()).all())
    assert bool(torch.isfinite(gates.kl()).all())
