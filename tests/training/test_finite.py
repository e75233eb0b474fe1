"""NaN and infinity in a step: the run stops before the update and says which tensor, or which sample."""

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset
from PIL import Image
from transformers import TrainerCallback, TrainingArguments

from selmix_hf import FixMatchTrainer, Stage1Trainer
from selmix_hf.training.finite import require_finite_gradients, sentence_on_inputs

ROW = 37  # green


def spoilt(dataset, row):
    """A set of which one picture is black."""
    black = Image.fromarray(np.zeros((tiny.SIDE, tiny.SIDE, 3), np.uint8))
    pictures = [black if place == row else picture for place, picture in enumerate(dataset["image"])]
    return Dataset.from_dict({**dataset.to_dict(), "image": pictures}, features=dataset.features)


def of_black_nan(image):
    """A transform that divides by what a black picture does not have."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    return pixels / pixels.std() - 1


def make(kind, folder, train=None, unlabeled=None, evaluated=None, **options):
    """Steps that see every sample of the sets."""
    views = {"train_transform": of_black_nan, "eval_transform": of_black_nan}
    train = tiny.images() if train is None else train
    if kind in ("selmix", "frozen"):
        options = {"freeze_backbone": kind == "frozen", "max_steps": 8, **tiny.BARE, **options}
        given = {} if unlabeled is None else {"unlabeled_dataset": unlabeled, "pseudo_label_source": "oracle"}
        given |= {} if unlabeled is None else {"unlabeled_labels": np.arange(12) // 3, "pair_sampling": "uniform"}
        return tiny.trainer(folder, train_dataset=train, **views, **given, **options)
    args = TrainingArguments(
        str(folder), use_cpu=True, report_to="none", disable_tqdm=True, max_steps=8, save_strategy="no", **options
    )
    if kind == "fixmatch":
        other = tiny.images((3, 3, 3, 3), 5) if unlabeled is None else unlabeled
        given = {"unlabeled_dataset": other, "mu": 1, "weak_transform": of_black_nan, "strong_transform": of_black_nan}
        return FixMatchTrainer(tiny.model(), args, train_dataset=train, eval_transform=of_black_nan, **given)
    return Stage1Trainer(tiny.model(), args, train_dataset=train, eval_dataset=evaluated, **views)


@pytest.mark.parametrize("kind", ["selmix", "stage1", "fixmatch"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_before_the_update(kind, value, tmp_path):
    run = make(kind, tmp_path)
    name, weight = next((n, p) for n, p in run.model.named_parameters() if p.ndim == 4)
    weight.register_hook(lambda gradient: gradient + (value if run.state.global_step == 2 else 0.0))
    with pytest.raises(FloatingPointError, match=rf"gradient is not finite at step 2 \({name}, 1 of \d+ tensors\)"):
        run.train()
    assert run.state.global_step == 2 and all(bool(value.isfinite().all()) for value in tiny.weights(run).values())


def test_gradients_add_up_over_the_micro_batches(tmp_path):
    run = make("stage1", tmp_path, gradient_accumulation_steps=2)
    calls = []
    weight = next(run.model.parameters())
    weight.register_hook(lambda gradient: calls.append(1) or gradient * (float("nan") if len(calls) == 3 else 1.0))
    with pytest.raises(FloatingPointError, match="the gradient is not finite at step 1 "):
        run.train()
    assert len(calls) == 4


def test_a_large_but_finite_gradient_is_let_pass():
    model = torch.nn.Linear(2, 1)
    require_finite_gradients(model, 0)  # none yet
    model.weight.grad = torch.full((1, 2), 3e38)
    require_finite_gradients(model, 0)


@pytest.mark.parametrize("kind", ["selmix", "stage1", "fixmatch"])
def test_the_row_of_a_training_sample_that_is_not_finite(kind, tmp_path):
    options = {} if kind == "selmix" else {"per_device_train_batch_size": 8}
    run = make(kind, tmp_path, spoilt(tiny.images(), ROW), **options)
    with pytest.raises(FloatingPointError) as error:
        run.train()
    said = f"train_dataset, row {ROW} of class 'green': pixel_values not finite. Mend it or leave it out."
    assert said in str(error.value) and "the loss is not finite at step" in str(error.value)


@pytest.mark.parametrize("kind", ["selmix", "fixmatch"])
def test_the_row_of_an_unlabelled_sample_that_is_not_finite(kind, tmp_path):
    unlabelled = spoilt(tiny.images((3, 3, 3, 3), 5), 7).remove_columns("label")
    run = make(kind, tmp_path, unlabeled=unlabelled)
    with pytest.raises(FloatingPointError, match="unlabeled_dataset, row 7: pixel_values not finite"):
        run.train()


def test_features_are_looked_at_before_the_run(tmp_path):
    run = make("frozen", tmp_path, spoilt(tiny.images(), ROW))
    with pytest.raises(ValueError, match=f"the features of sample {ROW} of class 1 are not finite"):
        run.train()


@pytest.mark.parametrize("kind", ["selmix", "stage1"])
def test_logits_of_the_gain_set_and_of_an_evaluation_say_the_row(kind, tmp_path):
    other = spoilt(tiny.images(tiny.GAIN_COUNTS, seed=1), 10)
    if kind == "selmix":
        run = make(kind, tmp_path, gain_dataset=other)
        what = "gain_dataset at step 0"
    else:
        run = make(kind, tmp_path, evaluated=other, eval_strategy="steps", eval_steps=2)
        what = "the evaluated set at step 2"
    with pytest.raises(ValueError, match=rf"{what}: 1 of \d+ rows of scores .* that of sample 10 of class 1"):
        run.train()


@pytest.mark.parametrize("kind", ["stage1", "fixmatch"])
@pytest.mark.parametrize("strategy", ["steps", "no"])
def test_weights_that_are_not_finite_are_neither_saved_nor_returned(kind, strategy, tmp_path):
    class Spoils(TrainerCallback):
        def on_optimizer_step(self, *args, model, **kwargs):
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))

    run = make(kind, tmp_path)
    run.args.max_steps, run.args.save_steps, run.args.save_strategy = 1, 1, strategy
    run.add_callback(Spoils())
    with pytest.raises(FloatingPointError, match="the weights are not finite at step 1 .*; not saved"):
        run.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_what_no_sample_alone_shows():
    sets = {"train_dataset": ([1.0, 2.0], lambda samples: {"x": torch.tensor(samples)})}
    assert sentence_on_inputs({"x": torch.ones(2), "labels": torch.zeros(2).long()}, sets, []) == ""
    assert "those of no sample alone" in sentence_on_inputs({"x": torch.tensor([1.0, torch.inf])}, sets, [])
