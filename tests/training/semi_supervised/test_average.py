"""The average of the weights: by a hand loop, in evaluations, in what is saved."""

import pytest
import tiny
import torch
from safetensors.torch import load_file
from semi_supervised_run import COUNTS, make
from transformers import AutoModelForImageClassification, TrainerCallback, TrainerState

from selmix_hf.training.semi_supervised.average import WeightAverageCallback


class Recorder(TrainerCallback):
    """The weights after every step, and what an evaluation sees."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.steps.append(tiny.weights(model))


def test_average_by_a_hand_loop(tmp_path):
    """Decay .75: the mean of up to four steps, then exponential; evaluation and saved models have it."""
    recorder = Recorder()
    arguments = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    trainer = make(tmp_path, model="resnet", ema_decay=0.75, callbacks=[recorder], **arguments)
    trainer.train()
    averages = [recorder.steps[0]]
    for step, weights in enumerate(recorder.steps[1:], start=2):
        keep = min(0.75, 1 - 1 / step)
        averages.append({name: keep * averages[-1][name] + (1 - keep) * value for name, value in weights.items()})
    mean_of_three = {n: sum(weights[n] for weights in recorder.steps[:3]) / 3 for n in averages[0]}
    saved = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    for name, value in tiny.weights(trainer).items():
        if value.is_floating_point():
            torch.testing.assert_close(value, averages[-1][name], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(saved[name], mean_of_three[name], rtol=1e-4, atol=1e-6)
        else:
            assert value == 6
    again = load_file(tmp_path / "checkpoint-3" / "weight_average.safetensors")
    assert all(torch.equal(again[f"weights.{name}"], value) for name, value in recorder.steps[2].items())


def test_evaluation_sees_the_average_and_training_goes_on_without_it(tmp_path):
    recorder = Recorder()
    plain = make(tmp_path / "a", callbacks=[recorder])
    plain.train()
    looks = {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": tiny.images(COUNTS, seed=5)}
    watched = make(tmp_path / "b", **looks)
    watched.train()
    assert tiny.largest_difference(tiny.weights(plain), tiny.weights(watched)) == 0
    last = [entry["eval_loss"] for entry in watched.state.log_history if "eval_loss" in entry][-1]
    evaluated = watched.evaluate()
    assert evaluated["eval_loss"] == last
    predicted = watched.predict(looks["eval_dataset"], metric_key_prefix="eval").metrics
    assert all(predicted[name] == evaluated[name] for name in evaluated if "loss" in name or "recall" in name)
    watched.model.load_state_dict(recorder.steps[-1])
    assert watched.evaluate()["eval_loss"] != last


def test_average_of_half_precision_keeps_small_steps():
    model = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    torch.nn.init.zeros_(model.weight)
    average = WeightAverageCallback(0.999)
    average.on_train_begin(None, TrainerState(), None, model)
    torch.nn.init.ones_(model.weight)
    for step in range(1001, 2001):
        average.on_step_end(None, TrainerState(global_step=step), None)
    assert average.values["weight"].item() == pytest.approx(1 - 0.999**1000, rel=1e-4)
    with average.in_place_of_weights():
        assert model.weight.item() == pytest.approx(0.632, abs=0.004) and model.weight.dtype == torch.bfloat16
    assert model.weight.item() == 1


def test_best_checkpoint_is_what_was_evaluated_and_loads_without_this_package(tmp_path):
    evaluation = {"eval_dataset": tiny.images((4, 4, 4, 4), seed=5), "eval_strategy": "steps", "eval_steps": 1}
    saving = {"save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True}
    trainer = make(tmp_path, model="vit", **evaluation, **saving)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, rel=1e-6)
    alone = AutoModelForImageClassification.from_pretrained(trainer.state.best_model_checkpoint)
    assert tiny.largest_difference(tiny.weights(alone), tiny.weights(trainer)) == 0


def test_a_checkpoint_of_another_trainer(tmp_path):
    make(tmp_path, save_strategy="steps", save_steps=5).train()
    for name in ("weight_average.safetensors", "manifest.json", "options.json"):
        (tmp_path / "checkpoint-5" / name).unlink()
    with pytest.raises(FileNotFoundError, match="has no weight_average.safetensors, so another trainer wrote it: res"):
        make(tmp_path).train(resume_from_checkpoint=True)
