"""Classes that are predicted as one another in a cycle: the model numbers them otherwise."""

import copy

import pytest
import tiny
import torch
from transformers import TrainingArguments

from selmix_hf import Stage1Trainer
from selmix_hf.training.swapped_classes import cycles_of, sentence_on_cycles


def counts_of(order, per_class=10, missed=1):
    """Of a good model whose output k stands for class order[k]."""
    counts = torch.zeros(len(order), len(order), dtype=torch.long)
    for output, k in enumerate(order):
        counts[k, output] += per_class - missed
        counts[k, (output + 1) % len(order)] += missed
    return counts


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (counts_of(range(5)), []),
        (counts_of([0, 2, 1, 3]), [[1, 2]]),
        (counts_of([1, 2, 0, 4, 3]), [[0, 2, 1], [3, 4]]),
        (counts_of([1, 0, 2], per_class=2, missed=0), []),  # two samples of each: chance
        (torch.tensor([[4, 6, 0], [0, 9, 1], [6, 4, 0]]), []),  # rare classes become common ones, which stay
        (torch.tensor([[45, 55], [55, 45]]), []),
        (torch.tensor([[300, 700], [700, 300]]), [[0, 1]]),
    ],
)
def test_cycles(counts, expected):
    assert cycles_of(counts) == expected


def test_folders_in_the_order_of_numbers():
    """timm numbers folders 0, 1, 2, 10 as a person would, datasets as text."""
    names = ["0", "1", "10", "2"]
    said = sentence_on_cycles(counts_of([0, 1, 3, 2]), names)
    assert "in a cycle: '10' as '2', '2' as '10'. The model" in said and "class_order=['0', '1', '2', '10']" in said
    assert sentence_on_cycles(counts_of(range(4)), names) is None
    assert "class_order=[1, 0]" in sentence_on_cycles(counts_of([1, 0]), ["LABEL_0", "LABEL_1"])
    many = [str(k) for k in range(30)]
    said = sentence_on_cycles(counts_of([*range(1, 30), 0]), many)
    assert ", .... The model" in said and "class_order, the classes in the order of its outputs." in said


def test_the_order_that_is_offered_helps(tmp_path, caplog):
    """The gain set says what the model's numbers are, and with them the start has the recall that it should have."""
    order, model = ["green", "blue", "red", "grey"], tiny.model()
    easy = tiny.renamed(tiny.images((40, 40, 40, 40)), order)
    arguments = TrainingArguments(str(tmp_path / "1"), max_steps=60, learning_rate=0.02, report_to=[])
    Stage1Trainer(model, arguments, train_dataset=easy, processing_class=tiny.processor()).train()
    model.config.id2label = {k: f"LABEL_{k}" for k in range(4)}
    model.config.label2id = {name: k for k, name in model.config.id2label.items()}
    gain = tiny.images((30, 30, 30, 30), 1)
    start = tiny.trainer(tmp_path / "2", copy.deepcopy(model), gain_dataset=gain, max_steps=1, head_start="as_is")
    start.train()
    assert "in a cycle" in caplog.text and f"class_order={order}" in caplog.text
    model.config.id2label = {k: f"LABEL_{k}" for k in range(4)}
    helped = tiny.trainer(tmp_path / "3", model, gain_dataset=gain, class_order=order)
    assert helped.evaluate()["eval_mean_recall"] > 0.8 > 0.2 > start.evaluations.shown[0]["eval_mean_recall"]
