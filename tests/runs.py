"""What several test files do with runs of the trainer."""

import pytest
from transformers import TrainerCallback

LEARN = {"objective": "mean_recall", "max_steps": 24, "learning_rate": 0.05, "backbone_learning_rate": 0.02}
BOTH = pytest.mark.parametrize("freeze", [False, True], ids=["whole", "frozen"])


class At(TrainerCallback):
    """Call a function at one kind of event."""

    def __init__(self, event, function):
        setattr(self, event, lambda args, state, control, **kwargs: function(state) and None)


def without(dataset, *classes):
    return dataset.filter(lambda label: label not in classes, input_columns="label")


def spoil_at(run, step):
    def spoil(state):
        if state.global_step == step:
            next(run.head.parameters()).data.fill_(float("nan"))

    run.add_callback(At("on_step_end", spoil))
