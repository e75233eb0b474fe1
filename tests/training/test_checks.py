"""The sentences for bad input."""

import numpy as np
import pytest
import tiny
import torch
from datasets import DatasetDict
from runs import without

from selmix_hf import SelMixTrainer
from selmix_hf.features.dataset_pass import DatasetPass
from selmix_hf.method.objective_names import get_objective
from selmix_hf.models.head import HeadError
from selmix_hf.training.checks import check_datasets

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
        "the labels in 'target' must be integers, found 0.5",
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
        {"train_dataset": lambda: tiny.images(names=("green", "red", "blue", "sky")), "named": True},
        ValueError,
        "train_dataset and the model number their classes differently: 'green' is class 1 of 4 names .*, and 'sky' is",
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


def test_a_metric_that_nobody_measures_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="'eval_min_recal' is not measured; did you mean 'min_recall'"):
        tiny.trainer(tmp_path, metric_for_best_model="eval_min_recal")
    for of_no_run in ("worst_class", "recall_low/red", "recall/red", "classes_measured"):
        with pytest.raises(ValueError, match=f"'{of_no_run}' is not measured; (?!.*(worst_class,|recall_low/r))"):
            tiny.trainer(tmp_path, metric_for_best_model=of_no_run)
    without = tiny.images((4, 4, 4, 0))  # grey, the tail
    with pytest.raises(ValueError, match="'tail_recall' is not measured; .*Known: .*head_recall"):
        tiny.trainer(tmp_path, eval_dataset=without, absent_classes="leave out", metric_for_best_model="tail_recall")
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
    with pytest.raises(
        ValueError, match="a run starts from a classifier: give model, or model_init, .* found neither"
    ):
        SelMixTrainer(None, tiny.config(tmp_path), **sets)
    with pytest.raises(TypeError, match="args must be a SelMixConfig, found TrainingArguments"):
        SelMixTrainer(tiny.model(), TrainingArguments(str(tmp_path)), **sets)
    with pytest.raises(TypeError, match="Sequential cannot be saved in the Hub's format"):
        SelMixTrainer(torch.nn.Sequential(torch.nn.Flatten()), tiny.config(tmp_path), **sets)
    with pytest.raises(TypeError, match="a raw timm model cannot be saved .* wrap one of timm in a TimmWrapperForIm"):
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
