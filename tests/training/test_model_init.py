"""A model given or made: once for a trainer, and anew for every run, with new parts for it."""

import pytest
import tiny
import torch
from transformers import ViTForImageClassification

from selmix_hf import SelMixTrainer
from selmix_hf.training.model_init import called_for, with_names_of


def trainer(folder, model_init, **options):
    own = {name: options.pop(name) for name in ("optimizers", "model") if name in options}
    data = {"train_dataset": tiny.images(), "gain_dataset": tiny.images(tiny.GAIN_COUNTS, seed=1)}
    args = tiny.config(folder, **options)
    return SelMixTrainer(args=args, processing_class=tiny.processor(), model_init=model_init, **data, **own)


WORKED_OUT = {
    "learning_rate": None,
    "head_start": "best",
    "objective": "mean_recall",
    "refresh_steps": 2,
    "max_steps": 4,
}


@pytest.mark.parametrize(("freeze", "mixing"), [(False, "feature"), (True, "feature"), (False, "cutmix")])
def test_nothing_of_a_run_reaches_the_next(freeze, mixing, tmp_path):
    """Head, features, gains, P, the rate that is worked out and the choice of the checkpoint are made anew."""
    options = {**WORKED_OUT, "freeze_backbone": freeze, "mixing": mixing, "lr_scheduler_type": "cosine"}
    run, found = trainer(tmp_path / "twice", lambda: tiny.model(seed=3), **options), []
    for one in (run, run, trainer(tmp_path / "once", lambda: tiny.model(seed=3), **options)):
        one.train()
        assert one.passes.model is one.model and one.model.config.id2label == dict(enumerate(tiny.NAMES))
        assert sum(type(callback).__name__ == "Periods" for callback in one.callback_handler.callbacks) == 1
        found.append((tiny.weights(one), one.args.learning_rate, one.gain, one.pair_state.probability))
        found[-1] += (tiny.losses(one), one.state.best_metric, one.selection.best, one.evaluate())
    for other in found[1:]:
        assert tiny.largest_difference(found[0][0], other[0]) == 0
        assert found[0][1] == other[1] and torch.equal(found[0][2], other[2]) and torch.equal(found[0][3], other[3])
        assert found[0][4:7] == other[4:7] and found[0][7]["eval_psi"] == other[7]["eval_psi"]
    assert tiny.largest_difference(found[0][0], tiny.weights(tiny.model(seed=3))) > 0


def test_a_run_with_its_own_model_resumes_exactly(tmp_path):
    options = {"save_strategy": "epoch", "save_total_limit": 5, "load_best_model_at_end": False}
    whole = trainer(tmp_path, lambda: tiny.model("vit"), **options)
    whole.train()
    again = trainer(tmp_path, lambda: tiny.model("vit", seed=5), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(again)) == 0


def test_the_seed_of_the_run_is_that_of_the_new_head(tmp_path):
    config = tiny.model("vit").config
    made = [trainer(tmp_path, lambda: ViTForImageClassification(config), seed=seed).model for seed in (3, 3, 4)]
    assert tiny.largest_difference(*map(tiny.weights, made[:2])) == 0
    assert tiny.largest_difference(*map(tiny.weights, made[1:])) > 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": "one", "model_init": tiny.model}, "give model, or model_init, .* found both"),
        ({"model_init": None}, "give model, or model_init, .* found neither"),
        (
            {"model_init": tiny.model, "optimizers": (torch.optim.SGD([torch.zeros(1)], 0.1), None)},
            "optimizers hold the weights of one model, and model_init makes another .* optimizer_cls_and_kwargs inst",
        ),
    ],
)
def test_what_cannot_be_is_refused(options, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        trainer(tmp_path, **options)


def test_a_model_init_takes_nothing_or_a_trial():
    assert called_for(lambda: 1, "trial")() == 1
    assert called_for(lambda trial: trial, "trial")() == "trial"
    assert called_for(lambda trial=None: trial, "trial")() == "trial"
    assert called_for(lambda name="vit", seed=0, **more: (name, seed, more), "trial")() == ("vit", 0, {})
    assert called_for(lambda **more: more, "trial")() == {}
    with pytest.raises(
        ValueError, match=r"takes nothing, or the trial of a search alone; this one needs \['name', 'se"
    ):
        called_for(lambda name, seed: 1, None)


def test_a_model_of_other_classes_is_refused():
    with pytest.raises(ValueError, match="model_init made a model of 3 classes, and before one of 4"):
        with_names_of(tiny.model(num_classes=3), tiny.model())
