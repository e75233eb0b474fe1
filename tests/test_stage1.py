"""Stage1Trainer: losses by name, mixup by hand, transforms apart, bad input."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from transformers import TrainingArguments

from selmix_hf import LogitAdjustedLoss, Stage1Trainer
from selmix_hf.collator import ImageCollator
from selmix_hf.stage1 import LOSSES

COUNTS = (5, 3, 3, 1)


def make(tmp_path, model=None, data=None, **options):
    arguments = {"max_steps": 2, "per_device_train_batch_size": 12, "optim": "sgd", "learning_rate": 0.1}
    arguments |= {"max_grad_norm": 0.0, "lr_scheduler_type": "constant", "report_to": "none", "logging_steps": 1}
    arguments |= {name: options.pop(name) for name in ("max_steps", "gradient_accumulation_steps") if name in options}
    return Stage1Trainer(
        tiny.model("convnext") if model is None else model,
        TrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True, save_strategy="no", **arguments),
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
        trainer = make(tmp_path, loss=LogitAdjustedLoss(COUNTS), gradient_accumulation_steps=accumulation, max_steps=1)
        trainer._train_batch_size = trainer.args.per_device_train_batch_size = size
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"loss": "logit_ajusted"}, "unknown loss 'logit_ajusted'.* did you mean 'logit_adjusted'"),
        ({"mixup_alpha": -1}, "must not be negative"),
        ({"data": tiny.images((2, 2, 2, 0))}, "class"),
    ],
)
def test_bad_input(options, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        make(tmp_path, **options)


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
