"""The model card: measured numbers only, honest about their set, and valid metadata."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from huggingface_hub import ModelCard

from benchmarks import regenerate
from selmix_hf import classification_metrics, save_plots
from selmix_hf.hub.card_results import results_text
from selmix_hf.hub.upload import PushError, push_folder
from selmix_hf.reports.plots import save_record_plots
from selmix_hf.studies.record_card import render_record


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    trainer = tiny.trainer(tmp_path_factory.mktemp("card") / "my-model", "vit", max_steps=4, **tiny.BARE)
    trainer.evaluate(tiny.images((6, 6, 6, 6), seed=2), metric_key_prefix="test")
    trainer.train()
    return trainer


def card_of(trainer, **kwargs):
    trainer.create_model_card(**kwargs)
    return ModelCard.load(f"{trainer.args.output_dir}/README.md")


def test_without_a_test_set_it_says_validation(run):
    run.evaluate()
    history = run.evaluations.shown
    run.evaluations.shown = [log for log in history if "test_mean_recall" not in log]
    card = card_of(run)
    run.evaluations.shown = history
    assert "validation images, which steered the training" in card.text
    assert "No interval is given" in card.text and "95%" not in card.text
    assert {result.dataset_split for result in card.data.eval_results} == {"validation"}


def test_numbers_are_the_measured_ones(run):
    save_plots(run, f"{run.args.output_dir}/plots")
    report = run.evaluate(tiny.images((6, 6, 6, 6), seed=2), metric_key_prefix="test")
    card = card_of(run, license="apache-2.0", dataset="tiny images", dataset_tags="me/tiny", tags="test")
    assert card.data.license == "apache-2.0" and card.data.datasets == ["me/tiny"]
    assert {"selmix", "long-tailed", "test"} <= set(card.data.tags)
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values["min_recall"] == pytest.approx(report["test_min_recall"], abs=1e-4)
    assert values.keys() >= {"mean_recall", "g_mean", "h_mean", "smallest_coverage"}
    row = next(line for line in card.text.splitlines() if line.startswith("| worst-class recall"))
    assert row.split("|")[3].strip() == f"{report['test_min_recall']:.3f}"
    assert row.split("|")[2].strip() == f"{run.evaluations.shown[0]['test_min_recall']:.3f}"
    ends = (report["test_min_recall_low"], report["test_min_recall_high"])
    assert row.split("|")[4].strip() == "{:.3f} to {:.3f}".format(*ends)
    assert card.text.count("The interval beside a recall is Clopper-Pearson's, over the choice of test images") == 1
    for words in (
        "recall of blue",
        "from 30 of red down to 4 of grey",
        "![gain matrix](plots/",
        "`min_recall`",
        "@inpr",
    ):
        assert words in card.text, words
    assert run.args.output_dir not in card.text


def many_classes(hits):
    """Thirty classes of ten samples, of the first so many right."""
    hits_K = torch.tensor([*hits, *[8] * (30 - len(hits))])
    return classification_metrics(torch.diag(hits_K) + torch.diag(10 - hits_K).roll(1, 1))


def test_of_many_classes_the_worst_share_has_a_row():
    before, after = many_classes([0, 0, 3]), many_classes([0, 3, 3])
    text = results_text("test", before, after, "images")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    rows = {row[0]: row[1:] for row in cells}
    ends = f"{after['worst_share_recall_low']:.3f} to {after['worst_share_recall_high']:.3f}"
    assert rows["mean recall of the worst tenth"] == ["0.100", "0.200", ends, "+0.100"]
    assert rows["classes at recall 0"] == ["2", "1", "", "-1"]
    assert "That of the worst share is `selmix_hf.worst_share_recall_interval`'s." in text
    old = {name: value for name, value in before.items() if not name.startswith(("worst_share", "zero_recall"))}
    assert "worst tenth" not in (text := results_text("test", old, after, "images")) and "worst-class recall" in text


def test_a_record_of_many_classes(tmp_path):
    """From the record of a run of few, with reports of many in their place."""
    record = json.loads((regenerate.CARDS / "cifar10-lt-h-mean" / "results.json").read_text(encoding="utf-8"))
    for run in record["runs"]:
        run |= {
            "gain": None,
            "pair_probability": None,
            "test_before": many_classes([0, 0, 3]),
            "test_after": many_classes([1, 3, 3]),
        }
    record |= {"class_names": [str(k) for k in range(30)], "train_counts": [*range(30, 0, -1)]}
    record["change_and_interval"] |= {"worst_share_recall": [0.1, 0.05, 0.15], "zero_recall_classes": [-2, -2, 0]}
    card = render_record(record, [])
    assert "mean recall of the worst tenth 0.233 (" in card.text and "| +0.050 to +0.150 |" in card.text
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values["worst_share_recall"] == pytest.approx(0.2333) and "zero_recall_classes" not in values
    save_record_plots(record, tmp_path)
    assert (tmp_path / "recall_per_class.png").is_file()


def trace(confusion):
    return confusion.diagonal().sum()


@pytest.mark.parametrize(
    ("objective", "title"),
    [
        (trace, "objective `trace`"),
        ("macro_f1", "objective `macro_f1`"),
        ("worst_share_recall", "mean recall of the worst half"),
        ("min_head_tail_recall", "smaller of head and tail recall"),
        ("h_mean", "H-mean"),
    ],
)
def test_the_objective_is_shown_whatever_it_is(objective, title, tmp_path):
    trainer = tiny.trainer(
        tmp_path, "convnext", objective=objective, worst_share=0.5, max_steps=40, freeze_backbone=True, **tiny.BARE
    )
    test = tiny.images((6, 6, 6, 6), seed=2)
    before = trainer.evaluate(test, metric_key_prefix="test")
    trainer.train()
    after = trainer.evaluate(test, metric_key_prefix="test")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card_of(trainer).text.splitlines()]
    (row,) = [row for row in rows if row[:1] == [title]]
    assert row[1:3] == [f"{report['test_psi']:.3f}" for report in (before, after)] and row[1] != row[2]
    assert bool([row for row in rows if row and row[0].startswith("objective `")]) == title.startswith("objective `")


def test_the_objective_of_a_record(tmp_path):
    """By the metric of its name, which has no row: recipes record no psi of test samples."""
    record = json.loads((regenerate.CARDS / "cifar10-lt-h-mean" / "results.json").read_text(encoding="utf-8"))
    values = [run["test_after"]["macro_f1"] for run in record["runs"]]
    text = render_record(record | {"objective": "macro_f1"}, []).text
    (row,) = [line for line in text.splitlines() if line.startswith("| objective `macro_f1`")]
    assert row.split("|")[3].strip().startswith(f"{sum(values) / len(values):.3f}")
    assert "| objective `" not in render_record(record, []).text


def test_the_samples_of_another_task_are_not_called_images(run):
    run.evaluate(tiny.images((6, 6, 6, 6), seed=2), metric_key_prefix="test")
    assert card_of(run).text.count("images") == 6
    text = card_of(run, tasks="text-classification").text
    assert "image" not in text and text.count("texts") == 6 and "{" not in text.split("## Limits")[1].split("##")[0]
    assert "training texts: 57 of 4 classes" in text and "On test texts, which took no part" in text


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


def test_the_hubs_validation_of_a_good_card(run, hub):
    run.evaluate(tiny.images((6, 6, 6, 6), seed=2), metric_key_prefix="test")
    card_of(run).validate()
    card = card_of(run, license="apache-2.0", language="en", dataset_tags=["me/tiny"], finetuned_from="me/base")
    card.validate()
    assert card.data.base_model == "me/base" and len(card.data.eval_results) == 5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"license": "Apache License 2.0"}, '"license" must be one of'),
        ({"dataset_tags": "my own images"}, 'datasets.* with value "my own images" is not valid'),
        ({"language": "English"}, '"language" with value "English" is not valid'),
    ],
)
def test_the_hubs_validation_of_a_bad_card(run, hub, options, sentence):
    with pytest.raises(ValueError, match=sentence.replace('"', r"\\?\"")):
        card_of(run, **options).validate()


def test_the_fake_hub_is_no_rubber_stamp(run, hub):
    """What this package does not write on purpose, it would notice."""
    run.evaluate()
    good = str(card_of(run, finetuned_from="me/base"))
    for part, other, sentence in (
        ("base_model: me/base", "base_model: /home/me/base", "base_model"),
        ("  - task:\n", "  - tusk:\n", "model-index"),
        ("      value:", "      worth:", "model-index"),
        ("- name: my-model\n", "- name: ''\n", "model-index"),
        ("\ntags:\n", "\ntags: [\n", "not valid YAML"),
    ):
        assert part in good, part
        with pytest.raises(PushError, match=sentence):
            (folder := Path(run.args.output_dir) / "bad").mkdir(exist_ok=True)
            (folder / "README.md").write_text(good.replace(part, other))
            push_folder(folder, "me/bad", "again()")
    assert hub.commits == []


def test_a_base_model_from_a_folder_is_not_in_the_metadata(run, hub, tmp_path):
    card = card_of(run, finetuned_from=str(tmp_path / "gone" / "base"))
    card.validate()
    assert card.data.base_model is None and "`base`, fine-tuned" in card.text and str(tmp_path) not in card.text


@pytest.mark.hub
def test_the_hub_itself_accepts_the_card(run):
    run.evaluate()
    card_of(run, license="apache-2.0", dataset_tags="uoft-cs/cifar10").validate()
    with pytest.raises(ValueError, match="license"):
        card_of(run, license="Apache License 2.0").validate()
