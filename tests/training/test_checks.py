"""The sentences for bad input."""

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset, DatasetDict
from runs import without
from torch import nn

from selmix_hf import SelMixTrainer
from selmix_hf.data.classes import label_column_of, read_labels, resolve_class_names
from selmix_hf.features.dataset_pass import DatasetPass
from selmix_hf.method.objective_names import get_objective
from selmix_hf.models.head import HeadError
from selmix_hf.training.checks import check_datasets


class Plain(torch.utils.data.Dataset):
    """A dataset that is not of the datasets library."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"x": torch.zeros(2), "labels": self.labels[index]}


def model(names=None, num_classes=4):
    made = tiny.model("convnext", num_classes)
    if names:
        made.config.id2label = dict(enumerate(names))
    return made


ERRORS = {
    "no gain_dataset": ({"gain_dataset": None}, ValueError, "needs gain_dataset, a validation set with every class"),
    "no train_dataset": ({"train_dataset": None}, ValueError, "needs train_dataset: the labelled, long-tailed set"),
    "missing class": (
        {"gain_dataset": lambda: without(tiny.images(), 2)},
        ValueError,
        "gain_dataset has no sample of 1 of 4 classes: .*blue",
    ),
    "labels out of range": (
        {"train_dataset": lambda: tiny.images((9, 9, 9, 9, 9), names=("a", "b", "c", "d", "e"))},
        ValueError,
        "train_dataset: the model has 4 classes, but there is a label 4. Load the model with num_labels=5",
    ),
    "labels float": (
        {
            "train_dataset": lambda: tiny.images().add_column("target", [0.5] * 57).remove_columns("label"),
            "gain_dataset": lambda: tiny.images().rename_column("label", "target"),
            "label_column": "target",
        },
        ValueError,
        "train_dataset: column 'target' holds .*float64.*, not an integer class",
    ),
    "streaming": (
        {"train_dataset": lambda: tiny.images().to_iterable_dataset()},
        TypeError,
        "train_dataset is a IterableDataset: a streaming dataset has no random access",
    ),
    "streaming gain set": (
        {"gain_dataset": lambda: tiny.images().to_iterable_dataset()},
        TypeError,
        "gain_dataset is a IterableDataset.*Dataset.from_list",
    ),
    "empty": ({"gain_dataset": lambda: tiny.images().select([])}, ValueError, "gain_dataset is empty"),
    "other order": (
        {"train_dataset": lambda: tiny.images(names=("green", "red", "blue", "grey")), "named": True},
        ValueError,
        "same classes in another order: class 0 is 'red' in the model and 'green' in the dataset. Call dataset.align",
    ),
    "no processor": (
        {"processing_class": None},
        ValueError,
        "images need processing_class .* or a transform that turns a PIL image into a tensor; found neither",
    ),
    "collator and transform": (
        {"data_collator": list, "train_transform": tiny.to_tensor},
        ValueError,
        "give either a data_collator or transforms",
    ),
    "only one transform": (
        {"processing_class": None, "eval_transform": tiny.to_tensor},
        ValueError,
        "Without processing_class give both train_transform and eval_transform",
    ),
    "transform that gives no tensor": (
        {"train_transform": lambda image: image},
        ValueError,
        "a transform must turn every image into a tensor C x H x W, all of one shape, found <PIL",
    ),
    "transform that gives several sizes": (
        {"train_transform": lambda image: torch.zeros(3, 16, np.random.randint(2, 2000))},
        ValueError,
        r"all of one shape, found \[3, 16, \d+\], \[3, 16, \d+\]: end it with a crop or resize to a fixed size",
    ),
    "transform with channels last": (
        {"train_transform": np.array},
        ValueError,
        "train_dataset gives are of another kind than those of gain_dataset: {'pixel_values': '16 x H x W'} there",
    ),
    "name of a transform": ({"train_transform": "crop"}, ValueError, "the transform must be .* called on images, fou"),
    "name of a processor": (
        {"processing_class": "google/vit"},
        ValueError,
        "processing_class must be an object that can be called on images, found 'google/vit'",
    ),
    "no eval set by name": (
        {"eval_dataset": dict},
        ValueError,
        "eval_dataset is empty: give one set, several by name",
    ),
    "no such label column": ({"label_column": "labl"}, ValueError, "no column 'labl' in the dataset; it has image, l"),
    "a row without label": (
        {"train_dataset": lambda: tiny.images().remove_columns("label").add_column("label", [None] + [1] * 56)},
        ValueError,
        "the labels in 'label' must be integers, found None: see class_encode_column .* filter rows without a label",
    ),
    "no such head": ({"head_name": "embedder"}, HeadError, "expected head_name 'embedder' to be a linear layer"),
    "prior of other length": (
        {"objective": "macro_f1", "class_prior": [0.5, 0.5]},
        ValueError,
        r"class_prior must hold 4 positive numbers, one a class, found shape \(2,\)",
    ),
    "unknown objective": (
        {"objective": "min_recal"},
        ValueError,
        "unknown objective 'min_recal'; did you mean 'min_re",
    ),
}


def _vector(confusion):
    return confusion.diagonal()


def _number(confusion):
    return float(confusion.detach().trace())


def _array(confusion):
    return confusion.numpy().trace()


def test_what_is_missing():
    data = tiny.images((1, 1, 1, 1))
    with pytest.raises(ValueError, match="needs train_dataset"):
        check_datasets(None, data, None)
    with pytest.raises(ValueError, match="never give the test set.$"):
        check_datasets(data, None, None)
    with pytest.raises(ValueError, match="never give the test set. eval_dataset only monitors and selects.$"):
        check_datasets(data, None, data)
    with pytest.raises(ValueError, match="gain_dataset is empty"):
        check_datasets(data, data.select([]), None)
    with pytest.raises(TypeError, match="train_dataset is a IterableDataset: a streaming dataset has no random"):
        check_datasets(data.to_iterable_dataset(), data, None)
    for other, found in ((DatasetDict(a=data, b=data), r"several \(a, b\): give one"), ("cifar10", "'cifar10'")):
        with pytest.raises(TypeError, match=f"train_dataset must be one dataset that is loaded, found {found}"):
            check_datasets(other, data, None)
    check_datasets(data, data, None)


def test_labels_of_any_dataset():
    assert read_labels(tiny.images((2, 1, 1, 1)), "set", None, 4, list("abcd")).tolist() == [0, 0, 1, 2, 3]
    assert read_labels(Plain([1, 0, 1]), "set", None, 2, ["a", "b"]).tolist() == [1, 0, 1]
    assert read_labels(Plain([1, 1]), "set", None, 2, ["a", "b"], all_classes=False).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (
            [0, 1, 2],
            "the set: the model has 2 classes, but there is a label 2. Load the model with num_labels=3,",
        ),
        ([0.5, 1.0], "the set: .*not integer"),
        ([0, -1], "the set: .*-1"),
        ([1, 1, 1], "the set has no sample of 1 of 2 classes: .*cat"),
        ([], "the set is empty"),
    ],
)
def test_bad_labels(labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_labels(Plain(labels), "the set", "labels", 2, ["cat", "dog"])


def test_label_column():
    data = tiny.images((1, 1, 1, 1))
    assert label_column_of(data, None) == "label"
    assert label_column_of(data.rename_column("label", "kind"), None) == "kind"
    assert label_column_of(data.with_transform(lambda rows: {"other": rows["label"]}), "other") == "other"
    with pytest.raises(ValueError, match="no column 'other' in the dataset; it has image, label"):
        label_column_of(data, "other")
    assert label_column_of(Plain([0, 1]), None) == "labels"
    with pytest.raises(ValueError, match="no label column found among x"):
        label_column_of(Dataset.from_dict({"x": ["a"]}), None)


def test_names_of_the_dataset_are_given_to_a_model_without_names():
    plain = model()
    assert resolve_class_names(plain, tiny.images(), "label", 4) == list(tiny.NAMES)
    assert plain.config.id2label == dict(enumerate(tiny.NAMES))
    assert plain.config.label2id == {name: k for k, name in enumerate(tiny.NAMES)}


def test_a_model_keeps_its_own_names():
    own = ["rouge", "vert", "bleu", "gris"]
    assert resolve_class_names(model(own), tiny.images(), "label", 4) == own
    assert resolve_class_names(model(["Red", "Green", "Blue", "Grey"]), tiny.images(), "label", 4)[0] == "Red"


def test_another_order_is_refused():
    with pytest.raises(ValueError, match="class 0 is 'green' in the model and 'red' in the dataset.*align_labels"):
        resolve_class_names(model(["green", "red", "blue", "grey"]), tiny.images(), "label", 4)


def test_the_advice_of_the_refusal_helps():
    mixed = model(["green", "red", "blue", "grey"])
    mixed.config.label2id = {"green": 0, "red": 1, "blue": 2, "grey": 3}
    aligned = tiny.images().align_labels_with_mapping(mixed.config.label2id, "label")
    assert resolve_class_names(mixed, aligned, "label", 4) == ["green", "red", "blue", "grey"]


def test_one_output_is_not_a_classifier():
    with pytest.raises(ValueError, match="the model has 1 output: SelMix needs a classifier with at least two"):
        resolve_class_names(nn.Linear(1, 1), Plain([0]), "labels", 1)


@pytest.mark.parametrize(("names", "whose"), [(tiny.NAMES, "the model"), (list("abcd"), "train_dataset")])
def test_another_order_of_a_second_set_is_refused(names, whose):
    other = tiny.images((1, 1, 1, 1), names=("green", "red", "blue", "grey"))
    sentence = f"{whose} and gain_dataset have the same classes in another order: class 0 is 'red' in {whose} and 'gre"
    with pytest.raises(ValueError, match=sentence):
        read_labels(other, "gain_dataset", "label", 4, list(names), like=tiny.images())
    assert len(read_labels(tiny.images(), "gain_dataset", "label", 4, list(names), like=tiny.images())) == 57


def test_a_model_with_too_many_outputs():
    sentence = (
        "set: the model has 9 outputs, but the dataset names 4 classes. Load the model with num_labels=4, ignore_m"
    )
    with pytest.raises(ValueError, match=sentence):
        read_labels(tiny.images(), "set", "label", 9, list("abcdefghi"))


def test_a_metric_that_nobody_measures_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="'eval_min_recal' is not measured; did you mean 'min_recall'"):
        tiny.trainer(tmp_path, metric_for_best_model="eval_min_recal")
    tiny.trainer(tmp_path, metric_for_best_model="h_mean")
    tiny.trainer(tmp_path, metric_for_best_model="eval_mine", compute_metrics=lambda prediction: {"mine": 1.0})


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_to_do(case, tmp_path):
    options, kind, sentence = ERRORS[case]
    made = {name: value() for name, value in options.items() if name.endswith("_dataset") and value is not None}
    options, model = {**options, **made}, tiny.model()
    if options.pop("named", False):
        model.config.id2label = dict(enumerate(tiny.NAMES))
    with pytest.raises(kind, match=sentence):
        tiny.trainer(tmp_path, model, **options)


def test_one_class_only(tmp_path):
    one = tiny.images((9,), names=("red",))
    with pytest.raises(ValueError, match="SelMix needs a classifier with at least two classes"):
        tiny.trainer(tmp_path, tiny.model(num_classes=1), train_dataset=one, gain_dataset=one)


def test_models_and_arguments_that_cannot_start(tmp_path):
    import timm
    from transformers import TrainingArguments

    sets = {"train_dataset": tiny.images(), "gain_dataset": tiny.images(), "processing_class": tiny.processor()}
    with pytest.raises(ValueError, match="starts from a trained classifier: give model"):
        SelMixTrainer(None, tiny.config(tmp_path), **sets)
    with pytest.raises(TypeError, match="args must be a SelMixConfig, found TrainingArguments"):
        SelMixTrainer(tiny.model(), TrainingArguments(str(tmp_path)), **sets)
    with pytest.raises(TypeError, match="a raw timm model cannot be saved .* wrap it in a TimmWrapperForImageClass"):
        SelMixTrainer(timm.create_model("test_convnext", num_classes=4), tiny.config(tmp_path), **sets)


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        (_vector, r"'_vector' must map the confusion matrix to one number .* found Tensor of shape \(4,\)"),
        (_number, "'_number' must map the confusion matrix to one number .* found float"),
        (_array, "'_array' must map the 4 x 4 confusion matrix to one number .* it raised RuntimeError"),
        (get_objective("macro_f1", class_prior=[0.5, 0.5]), r"class_prior must hold 4 positive numbers.*shape \(2,\)"),
    ],
)
def test_an_objective_is_tried_at_the_start(objective, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(DatasetPass, "_run", lambda *_: pytest.fail("a pass over the data"))
    with pytest.raises(ValueError, match=sentence):
        tiny.trainer(tmp_path, objective=objective)


@pytest.mark.parametrize(
    ("sets", "kind", "sentence"),
    [
        (lambda: tiny.images().to_iterable_dataset(), TypeError, "eval_dataset is a IterableDataset: a streaming"),
        (lambda: without(tiny.images(), 3), ValueError, "eval_dataset has no sample of 1 of 4 classes: 'grey'"),
        (lambda: {"a": tiny.images(), "b": without(tiny.images(), 3)}, ValueError, r"eval_dataset\['b'\] has no sam"),
        (
            lambda: {"a": tiny.images(), "b": tiny.images()},
            ValueError,
            "'selection_score' names none of them: set it to one of 'eval_a_selection_score', 'eval_b_selec",
        ),
    ],
)
def test_evaluation_sets_are_checked_at_the_start(sets, kind, sentence, tmp_path):
    with pytest.raises(kind, match=sentence):
        tiny.trainer(tmp_path, eval_dataset=sets())
