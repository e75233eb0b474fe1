"""Stage1Trainer: losses by name, mixup by hand, sampling by weight, transforms apart, bad input."""

from dataclasses import fields

import numpy as np
import pytest
import timm
import tiny
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard
from pushed import MODEL, WHOLE
from transformers import TrainingArguments

from selmix_hf import LogitAdjustedLoss, Stage1Trainer, WeightedSampler, make_compute_metrics, sampling_weights
from selmix_hf.data.classes import set_class_names
from selmix_hf.data.collators import ImageCollator
from selmix_hf.training.stage1 import LOSSES

COUNTS = (5, 3, 3, 1)


def make(tmp_path, model=None, data=None, **options):
    arguments = {"max_steps": 2, "per_device_train_batch_size": 12, "optim": "sgd", "learning_rate": 0.1}
    arguments |= {"max_grad_norm": 0.0, "lr_scheduler_type": "constant", "report_to": "none", "logging_steps": 1}
    known = {option.name for option in fields(TrainingArguments)}
    arguments |= {"save_strategy": "no"} | {name: options.pop(name) for name in list(options) if name in known}
    return Stage1Trainer(
        tiny.model("convnext") if model is None else model,
        TrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True, **arguments),
        train_dataset=tiny.images(COUNTS) if data is None else data,
        **{"train_transform": tiny.to_tensor, "eval_transform": tiny.to_tensor} | options,
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_and_reports_recall(loss, tmp_path):
    trainer = make(tmp_path, loss=loss, max_steps=5)
    before = trainer.model.classifier.weight.detach().clone()
    trainer.train()
    assert not torch.equal(before, trainer.model.classifier.weight)
    report = trainer.evaluate(tiny.images(COUNTS))
    assert {"eval_mean_recall", "eval_min_recall", "eval_worst_class"} <= report.keys()


def test_mixup_by_hand(tmp_path, monkeypatch):
    """Share 0.75 and a known order: the loss is that of the mixed images against both labels."""
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda self: torch.tensor(0.75))
    monkeypatch.setattr(torch, "randperm", lambda n: torch.arange(n - 1, -1, -1))
    trainer = make(tmp_path, loss="cross_entropy", mixup_alpha=0.2)
    batch = ImageCollator(transform=tiny.to_tensor)(list(tiny.images(COUNTS)))
    images, labels = batch["pixel_values"], batch["labels"]
    trainer.model.train()
    logits = trainer.model(pixel_values=0.75 * images + 0.25 * images.flip(0)).logits
    expected = 0.75 * F.cross_entropy(logits, labels) + 0.25 * F.cross_entropy(logits, labels.flip(0))
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(expected.item(), rel=1e-5)
    trainer.model.eval()
    plain = F.cross_entropy(trainer.model(pixel_values=images).logits, labels)
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(plain.item(), rel=1e-5)


def smoothed(logits, labels, share):
    """The slow and obvious form: every class has its part of every label."""
    total = 0.0
    for row, label in zip(logits.double(), labels, strict=True):
        for k, log_share in enumerate(row.log_softmax(0)):
            total -= ((1 - share) * (k == label) + share / len(row)) * log_share
    return float(total) / len(labels)


@pytest.mark.parametrize("mixup_alpha", [0.0, 0.2])
@pytest.mark.parametrize("loss", LOSSES)
def test_smoothed_labels_by_hand(loss, mixup_alpha, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda self: torch.tensor(0.75))
    monkeypatch.setattr(torch, "randperm", lambda n: torch.arange(n - 1, -1, -1))
    trainer = make(tmp_path, loss=loss, mixup_alpha=mixup_alpha, label_smoothing_factor=0.2)
    batch = ImageCollator(transform=tiny.to_tensor)(list(tiny.images(COUNTS)))
    images, labels = batch["pixel_values"], batch["labels"]
    trainer.model.train()
    mixed = images if not mixup_alpha else 0.75 * images + 0.25 * images.flip(0)
    logits = trainer.model(pixel_values=mixed).logits.detach()
    counts_K = torch.tensor(COUNTS, dtype=torch.float64)

    def adjusted(own):
        if loss.startswith("ldam"):
            margin_K = counts_K**-0.25
            return logits.double() - 0.5 * margin_K / margin_K.max() * F.one_hot(own, 4)
        return logits.double() + (0 if loss == "cross_entropy" else (counts_K / counts_K.sum()).log())

    expected = smoothed(adjusted(labels), labels, 0.2)
    if mixup_alpha:
        expected = 0.75 * expected + 0.25 * smoothed(adjusted(labels.flip(0)), labels.flip(0), 0.2)
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_is_for_losses_of_the_package(tmp_path):
    sentence = "label_smoothing_factor=0.1 has no effect on loss, a loss of your own: smooth inside of it"
    with pytest.raises(ValueError, match=sentence):
        make(tmp_path, loss=LogitAdjustedLoss(COUNTS), label_smoothing_factor=0.1)


def test_no_evaluation_drops_samples(tmp_path):
    """12 samples in batches of 8: training drops the rest, evaluation and prediction do not."""
    options = {"dataloader_drop_last": True, "per_device_eval_batch_size": 8, "per_device_train_batch_size": 8}
    trainer = make(tmp_path, **options)
    assert len(trainer.get_train_dataloader()) == 1
    assert len(trainer.predict(tiny.images(COUNTS)).predictions) == 12
    assert trainer.evaluate(tiny.images(COUNTS))["eval_accuracy"] * 12 == pytest.approx(
        (trainer.predict(tiny.images(COUNTS)).predictions.argmax(1) == LABELS).sum()
    )
    assert trainer.args.dataloader_drop_last


def test_only_training_augments(tmp_path):
    seen = []

    def transform(name):
        return lambda image: seen.append(name) or tiny.to_tensor(image)

    trainer = make(tmp_path, train_transform=transform("train"), eval_transform=transform("eval"), max_steps=1)
    trainer.train()
    assert set(seen) == {"train"}
    seen.clear()
    trainer.evaluate(tiny.images(COUNTS))
    trainer.predict(tiny.images(COUNTS))
    assert set(seen) == {"eval"}


def test_a_loss_of_the_users_own_and_accumulation(tmp_path):
    """The logged loss of the first step is the mean over all samples, whatever the accumulation."""
    losses = []
    for accumulation, size in ((1, 12), (2, 6)):
        torch.manual_seed(0)
        options = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": size}
        trainer = make(tmp_path, loss=LogitAdjustedLoss(COUNTS), max_steps=1, **options)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# --- sampling ----------------------------------------------------------------------------------------------------


BALANCED = {"loss": "cross_entropy", "sampling": "class_balanced"}
LABELS = np.repeat(np.arange(4), COUNTS)


def drawn_by(trainer):
    """Labels and images of every micro-batch that is trained on, after the run."""
    batches, plain_loss = [], trainer.compute_loss

    def compute_loss(model, inputs, *args, **kwargs):
        batches.append((inputs["labels"].clone(), inputs["pixel_values"].clone()))
        return plain_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = compute_loss
    trainer.train()
    return batches


@pytest.mark.parametrize("accumulation", [1, 3])
def test_an_epoch_of_draws_is_whole_steps(accumulation, tmp_path):
    """12 samples in steps of 15: an epoch is a step of 15 draws, and the next one draws anew."""
    options = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 15 // accumulation}
    trainer = make(tmp_path, **BALANCED, **options, max_steps=3)
    batches = drawn_by(trainer)
    sampler = WeightedSampler(sampling_weights("class_balanced", LABELS), 15, seed=trainer.args.seed)
    index = np.array([*sampler, *sampler, *sampler])
    assert trainer.state.epoch == 3 and len(batches) == 3 * accumulation
    assert torch.cat([labels for labels, _ in batches]).tolist() == LABELS[index].tolist()
    images = trainer._eval_collator(list(trainer.train_dataset))["pixel_values"]
    assert torch.equal(torch.cat([pixels for _, pixels in batches]), images[index])


@pytest.mark.parametrize(
    "options", [{"sampling": [0, 1, 0, 0]}, {"sample_weights": [0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0]}]
)
def test_weights_of_classes_and_of_samples(options, tmp_path):
    trainer = make(tmp_path, loss="cross_entropy", max_steps=4, **options)
    assert {int(label) for labels, _ in drawn_by(trainer) for label in labels} == {1}


def test_natural_is_trainers_own_shuffling(tmp_path):
    trainer = make(tmp_path)
    loader = trainer.get_train_dataloader()
    assert isinstance(loader.batch_sampler.sampler, torch.utils.data.RandomSampler)
    assert isinstance(trainer.data_collator, ImageCollator)
    (labels, _), *_ = drawn_by(make(tmp_path, sampling="natural", max_steps=1))
    assert sorted(labels.tolist()) == LABELS.tolist()  # each once


@pytest.mark.parametrize("step", [2, 3])
def test_a_resumed_run_draws_the_same_samples_and_views(step, tmp_path):
    """Stopped at step 2, where an epoch ends, and at step 3, in the middle of one; with random views, dropout, mixup,
    accumulation and workers."""
    options = {**BALANCED, "mixup_alpha": 0.4, "train_transform": tiny.random_view, "max_steps": 6}
    options |= {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3, "dataloader_num_workers": 2}
    dropout = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}

    def run(folder):
        return make(folder, tiny.model("vit", **dropout), save_strategy="steps", save_steps=1, **options)

    torch.manual_seed(1)
    whole, resumed = run(tmp_path / "whole"), run(tmp_path / "resumed")
    batches = drawn_by(whole)
    assert whole.state.epoch == 3 and len({pixels.sum().item() for _, pixels in batches}) == 12
    torch.manual_seed(2)
    checkpoint, train = str(tmp_path / "whole" / f"checkpoint-{step}"), resumed.train
    resumed.train = lambda: train(resume_from_checkpoint=checkpoint)
    again = drawn_by(resumed)
    assert len(again) == 12 - 2 * step
    for found, wanted in zip(again, batches[2 * step :], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(resumed)) == 0


def test_correcting_for_class_sizes_twice_is_warned_of(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("selmix_hf.training.stage1.logger.warning", said.append)
    for loss in ("logit_adjusted", "balanced_softmax"):
        make(tmp_path, loss=loss, sampling="class_balanced")
        assert said.pop().startswith(f"loss='{loss}' makes up for the sizes of the classes, and sampling='class_bal")
    make(tmp_path, loss="ldam", sampling="class_balanced")
    make(tmp_path, loss="logit_adjusted", sampling="natural")
    assert not said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"loss": "logit_ajusted"}, "unknown loss 'logit_ajusted'.* did you mean 'logit_adjusted'"),
        ({"mixup_alpha": -1}, "must not be negative"),
        ({"sampling": "balanced"}, "sampling must be one of natural, .* found 'balanced'"),
        ({"sampling": [1, 1, 1]}, "sampling must have one weight a class, 4, found 3"),
        ({"sample_weights": [1, 1, 1, 1]}, "sample_weights must have one weight a training sample, 12, found 4"),
        (
            {"sampling": "0.5", "train_sampling_strategy": "group_by_length"},
            "sampling='0.5' and train_sampling_strategy='group_by_length' both choose samples: give one",
        ),
        ({"data": tiny.images((2, 2, 2, 0))}, "class"),
    ],
)
def test_bad_input(options, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        make(tmp_path, **options)


FIVE = {"counts": (2, 2, 2, 2, 2), "names": ("a", "b", "c", "d", "e")}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"eval_dataset": FIVE}, "^eval_dataset: the model has 4 classes, but there is a label 4"),
        (
            {"eval_dataset": {"near": COUNTS, "far": FIVE}},
            r"^eval_dataset\['far'\]: the model has 4 classes, but there",
        ),
        ({"eval_dataset": (2, 2, 2, 0)}, "eval_dataset has no sample of 1 of 4 classes"),
        ({"eval_dataset": {}}, "eval_dataset is empty: give one set, several by name"),
        (
            {"eval_dataset": COUNTS, "eval_strategy": "epoch", "metric_for_best_model": "selection_score"},
            "metric_for_best_model='selection_score' is not measured",
        ),
        (
            {"eval_dataset": COUNTS, "eval_strategy": "epoch", "metric_for_best_model": "recall/rde"},
            "'recall/rde' is not measured; did you mean 'recall/red'.* Known: recall/blue, recall/green, recall/grey",
        ),
        (
            {
                "eval_dataset": COUNTS,
                "eval_strategy": "epoch",
                "metric_for_best_model": "accuracy",
                "prediction_loss_only": True,
                "compute_metrics": lambda given: {"accuracy": 1.0},
            },
            "'accuracy' is not measured with prediction_loss_only=True; Known: loss",
        ),
        (
            {"eval_dataset": {"a": COUNTS}, "eval_strategy": "epoch", "metric_for_best_model": "min_recall"},
            "metric_for_best_model='min_recall' names none of them: set it to one of 'eval_a_min_recall'",
        ),
    ],
)
def test_evaluation_sets_are_read_before_training(options, sentence, tmp_path):
    def made(of):
        return (
            tiny.images(**of)
            if "counts" in of
            else tiny.images(of)
            if isinstance(of, tuple)
            else {name: made(one) for name, one in of.items()}
        )

    with pytest.raises(ValueError, match=sentence):
        make(tmp_path, **{**options, "eval_dataset": made(options["eval_dataset"])})


def test_a_checkpoint_is_chosen_by_what_is_measured_and_the_right_way(tmp_path):
    how = {"eval_dataset": tiny.images(COUNTS), "eval_strategy": "epoch"}
    assert make(tmp_path, metric_for_best_model="recall/red", **how).args.greater_is_better
    run = make(tmp_path, metric_for_best_model="zero_recall_classes", **how)
    assert run.args.greater_is_better is False


def test_a_set_given_to_evaluate_is_read_too(tmp_path):
    trainer = make(tmp_path)
    with pytest.raises(ValueError, match="^eval_dataset: the model has 4 classes, but there is a label 4"):
        trainer.evaluate(tiny.images(**FIVE))
    assert trainer.evaluate({"near": tiny.images(COUNTS)})["eval_near_accuracy"] <= 1


def test_metrics_of_ones_own_may_do_without_a_class_and_a_stream_is_read_as_it_comes(tmp_path):
    own = {"compute_metrics": lambda found: {"number": len(found.label_ids)}}
    few = tiny.images((2, 2, 2, 0))
    assert make(tmp_path, eval_dataset=few, **own).evaluate()["eval_number"] == 6
    assert make(tmp_path, eval_dataset=few.to_iterable_dataset(), **own).evaluate()["eval_number"] == 6


def test_classes_that_a_set_lacks_are_named_with_what_leaves_them_out(tmp_path):
    few = tiny.images((2, 2, 2, 0))
    trainer = make(tmp_path)
    advice = r"no sample of 1 of 4 classes: 'grey'\..* compute_metrics=make_compute_metrics\(4, absent='leave out'\)"
    for ask in (
        lambda: make(tmp_path, eval_dataset={"few": few}),
        lambda: trainer.evaluate(few),
        lambda: trainer.evaluate(few.to_iterable_dataset()),
        lambda: trainer.predict(few),
    ):
        with pytest.raises(ValueError, match=advice):
            ask()
    trainer = make(tmp_path, eval_dataset=few, compute_metrics=make_compute_metrics(4, absent="leave out"))
    assert trainer.evaluate()["eval_classes_measured"] == trainer.predict(few).metrics["test_classes_measured"] == 3


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (lambda: timm.create_model("test_vit", num_classes=4), "a raw timm model cannot be saved in the Hub's format"),
        (lambda: torch.nn.Sequential(torch.nn.Flatten()), "Sequential cannot be saved in the Hub's format: load a mo"),
        (lambda: torch.nn.Linear(2, 4), "reads the number of classes from model.config.num_labels, and Linear has no"),
        (lambda: "google/vit", "model must be a loaded model, found 'google/vit'"),
    ],
)
def test_what_is_no_classifier_is_refused(model, sentence, tmp_path):
    with pytest.raises(TypeError, match=sentence):
        make(tmp_path, model())
    with pytest.raises(TypeError, match="args must be TrainingArguments, found NoneType"):
        Stage1Trainer(tiny.model(), train_dataset=tiny.images(COUNTS))


def test_every_run_begins_with_a_new_model(tmp_path):
    """With the names of the classes, which are the data's; every run ends at the same weights."""
    data = {"train_transform": tiny.to_tensor, "eval_transform": tiny.to_tensor, "train_dataset": tiny.images(COUNTS)}
    args = {"max_steps": 2, "learning_rate": 0.1, "report_to": "none", "use_cpu": True, "save_strategy": "no"}
    made = []

    def model_init():
        made.append(tiny.model("convnext", seed=7))
        return made[-1]

    found = []
    for _ in range(2):
        trainer = Stage1Trainer(args=TrainingArguments(str(tmp_path), **args), model_init=model_init, **data)
        for _ in range(2):
            trainer.train()
            assert trainer.model is made[-1]
            assert trainer.model.config.id2label == dict(enumerate(tiny.NAMES))
            found.append(tiny.weights(trainer))
    assert all(tiny.largest_difference(found[0], other) == 0 for other in found[1:])
    assert tiny.largest_difference(found[0], tiny.weights(model_init())) > 0


def test_the_best_checkpoint_of_a_vit_is_loaded_whole(tmp_path):
    """Trainer's own way skips weights that are saved under older names."""
    arguments = {"max_steps": 6, "per_device_train_batch_size": 12, "learning_rate": 0.05, "report_to": "none"}
    saving = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    options = TrainingArguments(
        str(tmp_path),
        use_cpu=True,
        disable_tqdm=True,
        load_best_model_at_end=True,
        metric_for_best_model="falling",
        **arguments,
        **saving,
    )
    data = {"train_dataset": tiny.images(COUNTS), "eval_dataset": tiny.images(COUNTS, seed=1)}
    falling = iter(range(9, 0, -1))
    data["compute_metrics"] = lambda _: {"falling": next(falling)}
    trainer = Stage1Trainer(tiny.model("vit"), options, **data, processing_class=tiny.processor())
    trainer.train()
    best = type(trainer.model).from_pretrained(trainer.state.best_model_checkpoint)
    assert tiny.largest_difference(tiny.weights(trainer), tiny.weights(best)) == 0
    assert trainer.state.best_global_step == 1


def test_stage_1_pushes_no_optimizer_either(hub, tmp_path):
    trainer = Stage1Trainer(
        tiny.model("vit"),
        TrainingArguments(
            str(tmp_path / "stage1"),
            push_to_hub=True,
            hub_strategy="all_checkpoints",
            hub_always_push=True,
            max_steps=2,
            save_steps=1,
            per_device_train_batch_size=8,
            report_to="none",
            use_cpu=True,
        ),
        train_dataset=tiny.images(),
        processing_class=tiny.processor(),
    )
    trainer.train()
    checkpoints = {f"checkpoint-{step}/{name}" for step in (1, 2) for name in MODEL}
    assert set(hub.files("me/stage1")) == {*MODEL, *checkpoints}
    trainer.push_to_hub()
    assert set(hub.files("me/stage1")) == {*WHOLE, *checkpoints}
    ModelCard(hub.files("me/stage1")["README.md"].decode()).validate()


@pytest.mark.parametrize("which", ["train", "eval", "test"])
def test_classes_are_read_by_name(which, tmp_path):
    names = ["grey", "green", "blue", "red"]
    sets = {"train": tiny.images(), "eval": tiny.images((5, 6, 7, 8), 1), "test": tiny.images((4, 4, 4, 4), 2)}
    results = []
    for own in (sets, {**sets, which: tiny.renamed(sets[which], names)}):
        model = tiny.model()
        set_class_names(model.config, tiny.NAMES)
        arguments = TrainingArguments(str(tmp_path), max_steps=6, report_to=[], learning_rate=0.01)
        data = {"train_dataset": own["train"], "eval_dataset": {"one": own["eval"]}}
        run = Stage1Trainer(model, arguments, **data, processing_class=tiny.processor())
        run.train()
        results.append([run.evaluate()["eval_one_accuracy"], run.predict(own["test"]).metrics["test_accuracy"]])
    assert results[0] == results[1] and 0 < results[0][0] < 1


def test_predict_reports_what_evaluate_does(tmp_path):
    trainer, test = make(tmp_path), tiny.images((5, 4, 3, 2), seed=2)
    evaluated, predicted = trainer.evaluate(test, metric_key_prefix="test"), trainer.predict(test).metrics
    timed = {name for name in evaluated if "runtime" in name or "_per_second" in name or "time" in name}
    assert {name: predicted[name] for name in evaluated.keys() - timed - {"epoch"}} == {
        name: value for name, value in evaluated.items() if name not in timed | {"epoch"}
    }
    assert "test_recall/blue" in predicted and "test_macro_f1" in predicted
