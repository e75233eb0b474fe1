"""A run goes on with the classes and the labels that it began with."""

import numpy as np
import pytest
import tiny
from transformers import TrainingArguments

from selmix_hf import Stage1Trainer
from selmix_hf.training.same_data import data_facts, require_same_data, save_facts


def facts(names="abc", train=(0, 1, 2), gain=(0, 1, 2)):
    return data_facts(list(names), train_dataset=np.array(train), gain_dataset=np.array(gain))


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (facts("acb"), "has 'b' as class 1, here 'c'. A run goes on with the data that it began with"),
        (facts("abcd"), "has 3 classes, here 4"),
        (facts(train=(0, 1, 2, 2)), "was made with 3 labels of train_dataset, which has 4 now"),
        (facts(gain=(0, 2, 1)), "was made with 3 labels of gain_dataset, which has others now, or in another order"),
    ],
)
def test_other_data(other, sentence, tmp_path):
    require_same_data(tmp_path, other)  # of an older version
    save_facts(tmp_path / "new", facts())
    require_same_data(tmp_path / "new", facts())
    with pytest.raises(ValueError, match=sentence):
        require_same_data(tmp_path / "new", other)


def test_runs_compare(tmp_path):
    def stage1(data):
        arguments = TrainingArguments(str(tmp_path / "1"), max_steps=2, save_steps=1, report_to=[])
        return Stage1Trainer(tiny.model(), arguments, train_dataset=data, processing_class=tiny.processor())

    def selmix(data):
        return tiny.trainer(tmp_path / "2", train_dataset=data, max_steps=2, eval_steps=1, save_steps=1)

    other = tiny.images(names=("green", "red", "blue", "grey"))
    for make in (stage1, selmix):
        make(tiny.images()).train()
        with pytest.raises(ValueError, match=r"checkpoint-\d has 'red' as class 0, here 'green'"):
            make(other).train(resume_from_checkpoint=True)
