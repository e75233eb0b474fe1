"""SelMixTrainer on many architectures, on text, and under checkpointing, autocast and compilation."""

import pytest
import tiny
import torch
from token_ids import WORDS, bert, reviews, tokenizer
from transformers import AutoModelForSequenceClassification

from selmix_hf import SelMixTrainer

TIMM = ("test_convnext", "test_vit", "test_resnet")
BOTH = pytest.mark.parametrize("freeze", [False, True], ids=["whole", "frozen"])


@BOTH
@pytest.mark.parametrize("kind", [*tiny.NATIVE, *TIMM])
def test_every_architecture_trains(kind, freeze, tmp_path):
    run = tiny.trainer(tmp_path, kind, max_steps=3, refresh_steps=2, freeze_backbone=freeze, **tiny.BARE)
    before = tiny.weights(run)
    run.train()
    after = tiny.weights(run)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    of_head = {name for name in before if name.startswith(tuple(run.head.names))}
    assert {name for name in of_head if name.endswith("weight")} <= changed
    assert bool(changed - of_head) is not freeze
    assert len(tiny.losses(run)) == 3 and 0 < run.evaluate()["eval_loss"] < 20
    assert len(run.head.names) == (2 if kind == "deit-distilled" else 1)


def test_two_averaged_heads_take_the_same_steps_frozen(tmp_path):
    runs = {}
    full = tiny.images((20, 20, 20, 20), seed=1)  # a class with fewer would be filled up where features are stored
    for freeze in (False, True):
        options = {"freeze_backbone": freeze, "backbone_learning_rate": 0.0, "gain_dataset": full, **tiny.BARE}
        runs[freeze] = tiny.trainer(tmp_path, "deit-distilled", **options)
        runs[freeze].train()
    assert tiny.losses(runs[True]) == pytest.approx(tiny.losses(runs[False]), abs=1e-5)
    assert tiny.largest_difference(tiny.weights(runs[True]), tiny.weights(runs[False])) < 1e-5


# --- text --------------------------------------------------------------------------------------------------------


def test_columns_that_are_no_inputs_are_left_out_and_untokenised_text_is_refused(tmp_path):
    data = reviews((4, 4), 0, (4, 9)).rename_column("label", "mood")
    data = data.add_column("text", [" ".join(WORDS[k] for k in ids) for ids in data["input_ids"]])
    run = SelMixTrainer(
        bert(), tiny.config(tmp_path), train_dataset=data, gain_dataset=data, processing_class=tokenizer()
    )
    batch = run.data_collator([data[0], data[7]])
    assert set(batch) == {"input_ids", "attention_mask", "labels"} and batch["labels"].tolist() == [0, 1]
    with pytest.raises(ValueError, match="expected tokenised examples with input_ids or .* found mood, text: call"):
        run.data_collator([data.remove_columns("input_ids")[0]])


@BOTH
@pytest.mark.parametrize("lengths", [(6, 6), (4, 9)], ids=["default collator", "padded by the tokenizer"])
def test_text(freeze, lengths, tmp_path):
    options = {"max_steps": 60, "refresh_steps": 5, "learning_rate": 0.02}
    run = SelMixTrainer(
        bert(),
        tiny.config(tmp_path, freeze_backbone=freeze, **options),
        train_dataset=reviews((40, 8), 0, lengths),
        gain_dataset=reviews((12, 12), 1, lengths),
        processing_class=None if lengths == (6, 6) else tokenizer(),
    )
    start = run.evaluate()["eval_mean_recall"]
    run.train()
    end = run.evaluate()
    assert start < 0.5 and end["eval_mean_recall"] > 0.7
    assert {"eval_recall/positive", "eval_recall/negative"} <= end.keys()
    run.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert tiny.largest_difference(tiny.weights(loaded), tiny.weights(run)) == 0
    assert loaded.config.id2label == {0: "positive", 1: "negative"}


# --- ways to run -------------------------------------------------------------------------------------------------


def run_with(folder, kind="vit", **options):
    run = tiny.trainer(folder, kind, max_steps=6, objective="mean_recall", learning_rate=0.02, **options, **tiny.BARE)
    run.train()
    return run


@BOTH
def test_activation_checkpointing_changes_nothing(freeze, tmp_path):
    plain = run_with(tmp_path / "plain", freeze_backbone=freeze)
    saving = run_with(tmp_path / "saving", freeze_backbone=freeze, activation_checkpointing=True)
    assert tiny.losses(saving) == pytest.approx(tiny.losses(plain), abs=1e-6)
    assert tiny.largest_difference(tiny.weights(saving), tiny.weights(plain)) < 1e-6


@BOTH
def test_channels_last_changes_nothing(freeze, tmp_path):
    plain = run_with(tmp_path / "plain", "convnext", freeze_backbone=freeze)
    model = tiny.model("convnext").to(memory_format=torch.channels_last)
    run = run_with(tmp_path / "last", model, freeze_backbone=freeze)
    assert any(p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) for p in model.parameters())
    assert tiny.losses(run) == pytest.approx(tiny.losses(plain), abs=1e-5)
    assert tiny.largest_difference(tiny.weights(run), tiny.weights(plain)) < 1e-5


@BOTH
def test_bf16_autocast(freeze, tmp_path):
    plain = run_with(tmp_path / "plain", freeze_backbone=freeze)
    half = run_with(tmp_path / "half", freeze_backbone=freeze, bf16=True)
    assert tiny.losses(half) != tiny.losses(plain)
    assert tiny.losses(half) == pytest.approx(tiny.losses(plain), abs=0.05)
    assert half.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], abs=0.05)
    assert next(half.model.parameters()).dtype == torch.float32


@BOTH
def test_compilation_changes_nothing(freeze, tmp_path):
    plain = run_with(tmp_path / "plain", freeze_backbone=freeze)
    options = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    compiled = run_with(tmp_path / "compiled", freeze_backbone=freeze, **options)
    assert tiny.losses(compiled) == pytest.approx(tiny.losses(plain), abs=1e-5)
    assert tiny.largest_difference(tiny.weights(compiled), tiny.weights(plain)) < 1e-5
    assert compiled.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], abs=1e-5)


@BOTH
@pytest.mark.parametrize("objective", ["g_mean", "h_mean", "macro_f1", "min_head_tail_recall"])
def test_objectives_and_constraints(objective, freeze, tmp_path):
    constraints = {"coverage": 0.9} if objective == "h_mean" else {"head_tail_coverage": 0.9}
    options = {"objective": objective, "constraints": constraints, "freeze_backbone": freeze}
    run = tiny.trainer(tmp_path, "convnext", **options)
    run.train()
    reports = [log for log in run.state.log_history if "gain_set_violation" in log]
    assert len(reports) == 2 and all(torch.isfinite(torch.tensor(tiny.losses(run))))
    name = next(iter(constraints))
    assert {name} <= run.pair_state.multipliers.keys() and f"largest_{name}_multiplier" in reports[0]
    metrics = run.evaluate()
    reported = "balanced_macro_f1" if objective == "macro_f1" else objective
    assert metrics["eval_psi"] == pytest.approx(metrics[f"eval_{reported}"])
