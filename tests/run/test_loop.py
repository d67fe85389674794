"""The training loop: resumed equals unbroken, divergence and memory are told in words."""

import json

import pytest
import torch
from torch import nn

from bnnkit.errors import TrainingError, UsageError
from bnnkit.io.data import load_data
from bnnkit.methods.distillation import Teacher
from bnnkit.run.checkpoints import Checkpoints
from bnnkit.run.loop import Trainer
from bnnkit.run.precision import Precision, choose_device, choose_precision
from bnnkit.spec import DataSpec
from bnnkit.spec.config import TrainConfig

CPU = torch.device("cpu")
FP32 = Precision("fp32", channels_last=False)


@pytest.fixture(scope="module")
def digits():
    return load_data(DataSpec("digits", limit=300))


def net():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(144, 10),
    )  # fmt: skip


def trainer(model, data, out=None, epochs=4, resume=False, force=False, **options):
    config = TrainConfig(epochs=epochs, batch_size=32, **options)
    checkpoints = None
    if out is not None:
        checkpoints = Checkpoints(out, {"epochs": epochs}, resume=resume, force=force)
    return Trainer(model, data.train, config, FP32, CPU, checkpoints=checkpoints)


def test_a_resumed_run_gives_what_an_unbroken_one_gives(digits, tmp_path):
    whole = net()
    trainer(whole, digits, tmp_path / "whole").run(0, 4)

    class Killed(Exception):
        pass

    broken, rows = net(), []

    def kill(row):
        rows.append(row)
        if row["epoch"] == 3:  # killed in the third epoch: its state was not saved
            raise Killed

    first = trainer(broken, digits, tmp_path / "broken")
    first.on_epoch = kill
    with pytest.raises(Killed):
        first.run(0, 4)
    resumed = net()
    trainer(resumed, digits, tmp_path / "broken", resume=True).run(0, 4)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_same_seed_same_weights_and_global_state_untouched(digits):
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    models = [net(), net()]
    torch.random.set_rng_state(before)
    for model in models:
        trainer(model, digits, epochs=1).run(0, 1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(models[0][0].weight, models[1][0].weight)
    other = net()
    trainer(other, digits, epochs=1, seed=1).run(0, 1)
    assert not torch.equal(models[0][0].weight, other[0].weight)


def test_a_loss_that_is_no_number_stops_with_step_cause_and_checkpoint(digits, tmp_path):
    model = net()
    first = trainer(model, digits, tmp_path / "run", epochs=2)
    first.run(0, 1)
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    second = trainer(model, digits, epochs=2)
    second.checkpoints = first.checkpoints
    second.phase = "other"
    with pytest.raises(TrainingError) as caught:
        second.run(0, 1)
    text = str(caught.value)
    assert "step 0" in text
    assert "0.weight is not finite" in text
    assert "train.pt" in text


def test_a_high_rate_is_named_as_the_likely_cause(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(TrainingError, match="learning rate of 1e\\+38 is likely too high"):
        trainer(model, digits, epochs=3, lr=1e38, optimiser="sgd").run(0, 3)


def test_divergence_that_leaves_the_loss_finite_is_told_and_leaves_nothing(digits, tmp_path):
    model = net()
    model[5].requires_grad_(False)  # behind batch norm weights of any size give a finite loss
    run = trainer(model, digits, tmp_path / "run", epochs=1, lr=1e25)
    run.on_epoch = run.checkpoints.log
    with pytest.raises(TrainingError) as caught:
        run.run(0, 1)
    assert "'1.running_var' is not finite after epoch 1" in caught.value.found
    assert "learning rate of 1e+25 is likely too high" in caught.value.why
    assert not (tmp_path / "run").exists()


def test_a_mask_of_infinities_that_was_there_before_is_no_divergence(digits):
    model = net()
    model.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))
    trainer(model, digits, epochs=1).run(0, 1)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_memory_that_runs_out_names_the_batch_size(digits):
    class Greedy(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, 10)

        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(TrainingError, match="batch size 32") as caught:
        trainer(Greedy(), digits, epochs=1).run(0, 1)
    assert "--batch-size 16" in caught.value.hint


def test_frozen_batch_norm_keeps_its_statistics(digits):
    model = net()
    before = model[1].running_mean.clone()
    trainer(model, digits, epochs=1, freeze_bn=True).run(0, 1)
    assert torch.equal(before, model[1].running_mean)
    trainer(model, digits, epochs=1).run(0, 1)
    assert not torch.equal(before, model[1].running_mean)


@pytest.mark.slow
def test_compiled_training_is_the_same_training(digits):
    teacher = Teacher(net(), 0.5, 4.0)
    plain, fast = net(), net()
    plain[4].p = fast[4].p = 0.0  # compiled dropout draws other numbers
    for model, asked in ((plain, False), (fast, True)):
        # Adam would blow up the rounding of gradients that are 0, as of a bias before batch norm
        run = trainer(model, digits, epochs=1, compile=asked, optimiser="sgd", lr=0.05)
        run.teacher = teacher
        run.run(0, 1)
    for a, b in zip(plain.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_model_that_cannot_be_compiled_is_refused_in_words(digits, monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def fail(*_, **__):
        def call(_):
            raise TorchDynamoException("no C++ compiler\nsecond line")

        return call

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(TrainingError, match="no C\\+\\+ compiler") as caught:
        trainer(net(), digits, epochs=1, compile=True).run(0, 1)
    assert "leave out --compile" in caught.value.hint


def test_models_that_answer_probabilities_train_too(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(-1))
    rows = []
    run = trainer(model, digits, epochs=5, lr=1e-2)
    run.on_epoch = rows.append
    run.run(0, 5)
    assert rows[-1]["error"] < 15


@pytest.mark.parametrize("text", [None, "{"])
def test_checkpoints_of_nobody_are_not_resumed(digits, tmp_path, text):
    trainer(net(), digits, tmp_path, epochs=1).run(0, 1)
    identity = tmp_path / "checkpoint" / "identity.json"
    identity.unlink() if text is None else identity.write_text(text)
    with pytest.raises(UsageError, match="no readable identity"):
        trainer(net(), digits, tmp_path, epochs=1, resume=True)


def test_an_unfinished_run_is_not_overwritten_unasked(digits, tmp_path):
    trainer(net(), digits, tmp_path, epochs=1).run(0, 1)
    with pytest.raises(UsageError, match="unfinished run"):
        trainer(net(), digits, tmp_path, epochs=1)
    with pytest.raises(UsageError, match="epochs was 1 and is now 2"):
        trainer(net(), digits, tmp_path, epochs=2, resume=True)
    trainer(net(), digits, tmp_path, epochs=2, force=True)


def test_a_curve_cut_short_by_a_kill_is_read(tmp_path):
    checkpoints = Checkpoints(tmp_path, {}, resume=False, force=False)
    for epoch in (1, 2, 2):
        checkpoints.log({"epoch": epoch, "loss": 1.0})
    with checkpoints.metrics.open("a") as stream:
        stream.write(json.dumps({"epoch": 3})[:5])
    assert [row["epoch"] for row in checkpoints.curve()] == [1, 2]


def test_bf16_autocast_runs_on_the_cpu(digits):
    model = net()
    config = TrainConfig(epochs=1, batch_size=64)
    precision = Precision("bf16", channels_last=True)
    Trainer(precision.prepare(model), digits.train, config, precision, CPU).run(0, 1)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_devices_and_formats_by_name():
    assert choose_device("cpu") == CPU
    assert choose_precision("bf16", CPU).name == "bf16"
    for call in (lambda: choose_device("tpu"), lambda: choose_precision("fp8", CPU)):
        with pytest.raises(UsageError):
            call()
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA"):
            choose_device("cuda")


def test_a_model_without_parameters_is_refused(digits):
    with pytest.raises(TrainingError, match="nothing to learn"):
        trainer(nn.Flatten(), digits).run(0, 1)
