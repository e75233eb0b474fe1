"""The card of a run shows the weights that it ends with, and the head goes up alone."""

import pytest
import tiny
from cards import card_of

from selmix_hf import SelMixHead


def trace(confusion):
    return confusion.diagonal().sum()


def test_the_head_alone_uses_the_tokens_and_answers_of_its_own(hub, trained, tmp_path):
    trained.push_head_to_hub("head", license="mit")
    assert "# me/head" in hub.files("me/head")["README.md"].decode()  # with its owner
    SelMixHead.from_pretrained("me/head")
    whole = tiny.trainer(tmp_path / "whole", tiny.model("vit"), freeze_backbone=False, max_steps=1)
    with pytest.raises(ValueError, match=r"the backbone was trained too.* push_to_hub\(\)"):
        whole.push_head_to_hub("me/head")


@pytest.mark.parametrize(
    ("objective", "title"),
    [
        (trace, "objective `trace`"),
        ("macro_f1", "objective `macro_f1` (balanced macro-F1)"),
        ("worst_share_recall", "mean recall of the worst half"),
        ("min_head_tail_recall", "smaller of head and tail recall"),
        ("h_mean", "H-mean"),
    ],
)
def test_the_objective_is_shown_whatever_it_is(objective, title, tmp_path):
    trainer = tiny.trainer(
        tmp_path, "convnext", objective=objective, worst_share=0.5, max_steps=40, freeze_backbone=True, **tiny.BARE
    )
    test = tiny.images((9, 6, 6, 3) if objective == "macro_f1" else (6, 6, 6, 6), seed=2)
    before = trainer.evaluate(test, metric_key_prefix="test")
    trainer.train()
    after = trainer.evaluate(test, metric_key_prefix="test")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card_of(trainer).text.splitlines()]
    (row,) = [row for row in rows if row[:1] == [title]]
    assert row[1:3] == [f"{report['test_psi']:.3f}" for report in (before, after)] and row[1] != row[2]
    assert bool([row for row in rows if row and row[0].startswith("objective `")]) == title.startswith("objective `")


@pytest.mark.parametrize("evaluate_first", [True, False])
def test_an_evaluation_before_or_after_the_run_and_none_of_classes_in_it(evaluate_first, tmp_path):
    """In a run no recalls of the classes are measured, so the start or the kept weights lack them."""
    trainer = tiny.trainer(tmp_path / "out", "vit", max_steps=4, eval_strategy="epoch")
    if evaluate_first:
        trainer.evaluate()
    trainer.train()
    if not evaluate_first:
        trainer.evaluate()
    text = card_of(trainer).text
    assert "| worst-class recall" in text and "<details>" not in text
    assert text.count("recall of ") == (0 if evaluate_first else 4)


def test_accuracy_and_the_dataset_that_was_measured(tmp_path):
    """The ids are those of the files that the sets were made from; one is not said to be another's."""

    def from_hub(repository, *arguments, **options):
        dataset = tiny.images(*arguments, **options)
        dataset.info.download_checksums = {f"hf://datasets/{repository}@0b27149/train.parquet": {}}
        return dataset

    sets = {"train_dataset": from_hub("me/train"), "gain_dataset": from_hub("me/train", tiny.GAIN_COUNTS, seed=1)}
    trainer = tiny.trainer(tmp_path / "out", "vit", **sets, **tiny.BARE)
    test = from_hub("me/test", (6, 6, 6, 6), seed=2)
    accuracy = trainer.evaluate(test, metric_key_prefix="test")["test_accuracy"]
    card = card_of(trainer)
    assert card.data.datasets == ["me/test", "me/train"]
    assert {result.dataset_type for result in card.data.eval_results} == {"me/test"}
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values["accuracy"] == pytest.approx(accuracy, abs=1e-4) and f"| {accuracy:.3f} |" in card.text
    trainer.evaluate(tiny.images((6, 6, 6, 6), seed=2), metric_key_prefix="test")
    card = card_of(trainer)
    assert card.data.datasets == ["me/train"]
    assert {result.dataset_type for result in card.data.eval_results} == {"unknown"}
    assert card_of(trainer, dataset_tags="me/told").data.eval_results[0].dataset_type == "me/told"


def test_nothing_measured(tmp_path):
    card = card_of(tiny.trainer(tmp_path / "out", "vit", **tiny.BARE))
    assert "Not evaluated." in card.text and card.data.eval_results is None


def test_the_best_checkpoints_numbers_not_the_last_steps(tmp_path):
    """The start is the best checkpoint here, since a huge learning rate ruins it."""
    trainer = tiny.trainer(
        tmp_path / "out",
        "vit",
        max_steps=8,
        refresh_steps=4,
        learning_rate=100.0,
        objective="mean_recall",
        freeze_backbone=True,
        confusion="hard",
    )
    trainer.train()
    assert trainer.state.best_global_step < trainer.state.global_step
    start = next(log for log in trainer.state.log_history if "eval_mean_recall" in log)
    values = {result.metric_type: result.metric_value for result in card_of(trainer).data.eval_results}
    kept = next(e for e in trainer.evaluations.shown if e["step"] == trainer.state.best_global_step)
    assert values["smallest_coverage"] == pytest.approx(kept["eval_smallest_coverage"], abs=1e-4)
    assert start["step"] == 0
