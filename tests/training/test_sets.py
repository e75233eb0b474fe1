"""The sets of a run: their classes, names and labels."""

import numpy as np
import pytest
import tiny
import torch
from datasets import Value
from runs import without


def test_classes_of_one_name_are_told_apart(tmp_path):
    names = ["crane", "ox", "crane", "owl"]
    model = tiny.model()
    model.config.id2label = dict(enumerate(names))
    counts = (tiny.TRAIN_COUNTS, tiny.GAIN_COUNTS)
    train, gain = (tiny.images(of_set).cast_column("label", Value("int64")) for of_set in counts)
    run = tiny.trainer(tmp_path, model, train_dataset=train, gain_dataset=gain)
    recalls = [name for name in run.evaluate() if name.startswith("eval_recall/")]
    assert recalls == ["eval_recall/crane (0)", "eval_recall/ox", "eval_recall/crane (2)", "eval_recall/owl"]


def test_images_that_come_as_tensors(tmp_path):
    plain = tiny.trainer(tmp_path / "a", **tiny.BARE)
    tensors = tiny.trainer(tmp_path / "b", train_dataset=tiny.images().with_format("torch"), **tiny.BARE)
    for run in (plain, tensors):
        run.train()
    assert tiny.losses(plain) == pytest.approx(tiny.losses(tensors))


def test_classes_absent_from_training_are_named(tmp_path):
    train = tiny.images((20, 10, 5, 0))
    with pytest.raises(ValueError, match="train_dataset has no sample of 1 of 4 classes: .*grey"):
        tiny.trainer(tmp_path, train_dataset=train)


def test_labels_of_an_evaluation_set_are_checked(tmp_path):
    run = tiny.trainer(tmp_path)
    with pytest.raises(ValueError, match="the test set has no sample of 1 of 4 classes"):
        run.evaluate(without(tiny.images(), 0), metric_key_prefix="test")


OTHER = ["grey", "green", "blue", "red"]


@pytest.mark.parametrize("freeze", [False, True], ids=["whole", "frozen"])
@pytest.mark.parametrize("which", [("train",), ("gain",), ("train", "gain", "eval")], ids=" ".join)
def test_a_run_on_sets_of_other_numbers_is_the_same_run(which, freeze, tmp_path):
    sets = {"train": tiny.images(), "gain": tiny.images(tiny.GAIN_COUNTS, 1), "eval": tiny.images((5, 6, 7, 8), 2)}
    runs = []
    for folder, other in (("plain", ()), ("other", which)):
        given = {f"{part}_dataset": tiny.renamed(one, OTHER) if part in other else one for part, one in sets.items()}
        model = tiny.model()
        model.config.id2label = dict(enumerate(tiny.NAMES))
        options = {"freeze_backbone": freeze, "max_steps": 8, "learning_rate": 0.01, "eval_steps": 4}
        runs.append(tiny.trainer(tmp_path / folder, model, **given, **options))
        runs[-1].train()
    for name, weight in runs[0].model.state_dict().items():
        assert torch.equal(weight, runs[1].model.state_dict()[name])
    assert tiny.losses(runs[0]) == tiny.losses(runs[1])
    scores = [[log["eval_mean_recall"] for log in run.state.log_history if "eval_loss" in log] for run in runs]
    assert scores[0] == scores[1] and len(scores[0]) > 1
    test = tiny.images((4, 3, 5, 6), 3)
    expected = runs[0].evaluate(test, metric_key_prefix="test")
    found = runs[0].evaluate(tiny.renamed(test, OTHER), metric_key_prefix="test")
    assert found["test_recall/red"] == expected["test_recall/red"] and found["test_loss"] == expected["test_loss"]
    predicted = [runs[0].predict(one) for one in (test, tiny.renamed(test, OTHER))]
    assert predicted[0].label_ids.tolist() == predicted[1].label_ids.tolist()


@pytest.mark.parametrize("which", ["gain_dataset", "eval_dataset"])
def test_a_folder_that_was_renamed(which, tmp_path):
    other = tiny.images((5, 5, 5, 5), names=("green", "grey", "red", "sky"))
    with pytest.raises(
        ValueError, match=f"{which} and the model number their classes differently: 'green' is class 1"
    ):
        tiny.trainer(tmp_path, **{which: other})
    with pytest.raises(ValueError, match="eval_dataset and the model number their classes differently"):
        tiny.trainer(tmp_path).evaluate(other)


def test_true_classes_of_unlabelled_samples_are_numbered_as_those_samples_are(tmp_path):
    unlabeled = tiny.renamed(tiny.images((3, 2, 2, 1)), OTHER)
    given = {"unlabeled_dataset": unlabeled, "unlabeled_labels": unlabeled["label"]}
    run = tiny.trainer(tmp_path, pseudo_label_source="oracle", **given)
    assert run.sets.truth.tolist() == [0, 0, 0, 1, 1, 2, 2, 3]


def test_a_gain_set_that_trains_too_is_joined_by_name(tmp_path):
    gain = tiny.renamed(tiny.images(tiny.GAIN_COUNTS, 1), OTHER)
    run = tiny.trainer(tmp_path, gain_dataset=gain, gain_set_use="train")
    assert np.bincount(run.sets.train_labels).tolist() == [39, 23, 15, 13]
    assert [row["label"] for row in run.train_dataset][57:66] == [0] * 9


def test_an_order_for_a_model_without_names(tmp_path):
    plain = tiny.trainer(tmp_path / "a")
    given = tiny.trainer(tmp_path / "b", class_order=["grey", "green", "blue", "red"])
    assert given.class_names == ["grey", "green", "blue", "red"]
    assert (
        given.sets.train_labels.tolist()
        == (3 * (plain.sets.train_labels == 0) + np.array([0, 1, 2, 0])[plain.sets.train_labels]).tolist()
    )
