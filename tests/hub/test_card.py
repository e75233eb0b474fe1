"""The model card: measured numbers only, honest about their set, and valid metadata."""

from pathlib import Path

import pytest
import tiny
from cards import card_of

from selmix_hf import save_plots
from selmix_hf.hub.upload import PushError, push_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    trainer = tiny.trainer(tmp_path_factory.mktemp("card") / "my-model", "vit", max_steps=4, **tiny.BARE)
    trainer.evaluate(tiny.images((6, 6, 6, 6), seed=2), metric_key_prefix="test")
    trainer.train()
    return trainer


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


def test_the_samples_of_another_task_are_not_called_images(run):
    run.evaluate(tiny.images((6, 6, 6, 6), seed=2), metric_key_prefix="test")
    assert card_of(run).text.count("images") == 6
    text = card_of(run, tasks="text-classification").text
    assert "image" not in text and text.count("texts") == 6 and "{" not in text.split("## Limits")[1].split("##")[0]
    assert "training texts: 57 of 4 classes" in text and "On test texts, which took no part" in text


def test_the_hubs_validation_of_a_good_card(run, hub):
    run.evaluate(tiny.images((6, 6, 6, 6), seed=2), metric_key_prefix="test")
    card_of(run).validate()
    card = card_of(run, license="apache-2.0", language="en", dataset_tags=["me/tiny"], finetuned_from="me/base")
    card.validate()
    assert card.data.base_model == "me/base" and len(card.data.eval_results) == 7


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
