"""The sets of a run: their classes, names and labels."""

import pytest
import tiny
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


@pytest.mark.parametrize("which", ["gain_dataset", "eval_dataset"])
def test_class_names_of_every_set_stand_in_one_order(which, tmp_path):
    other = tiny.images((5, 5, 5, 5), names=("green", "red", "blue", "grey"))
    with pytest.raises(ValueError, match="the model and .* have the same classes in another order: class 0 is 'red'"):
        tiny.trainer(tmp_path, **{which: other}).evaluate()
