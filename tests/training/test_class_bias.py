"""A class bias that is tuned on the gain set, in the head that is saved and in its card."""

import pytest
import tiny
import torch
from safetensors.torch import load_file

from selmix_hf.head_fitting.class_bias import tune_class_bias
from selmix_hf.training.class_bias import add_class_bias
from selmix_hf.training.cross_fit import cross_fit


@pytest.mark.parametrize(("frozen", "share"), [(True, 1.0), (False, 0.5)])
def test_a_class_bias_is_in_the_head_that_is_saved(tmp_path, frozen, share):
    trainer = tiny.trainer(tmp_path, freeze_backbone=frozen, objective="min_recall", **tiny.BARE)
    trainer.train()
    before, weight, own = trainer.evaluate()["eval_min_recall"], trainer.head.weight.clone(), trainer.head.bias.clone()
    scores = trainer.passes.features_of(trainer.gain_dataset) @ weight.T + own
    bias = tune_class_bias(scores, torch.as_tensor(trainer.sets.gain_labels), trainer.objective)
    assert bias.abs().max() > 0.01 and trainer.evaluations.shown
    add_class_bias(trainer, share)
    assert not trainer.evaluations.shown  # a card would show numbers of other weights
    torch.testing.assert_close(trainer.head.bias, own + share * bias, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(trainer.head.weight, weight)
    if share == 1:
        assert trainer.evaluate()["eval_min_recall"] > before
    trainer.save_model(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert any(torch.equal(tensor, trainer.head.bias) for tensor in saved.values())


def test_a_card_keeps_the_start_beside_a_class_bias(tmp_path):
    trainer, test = (
        tiny.trainer(tmp_path, freeze_backbone=True, confusion="hard", **tiny.BARE),
        tiny.images((5, 5, 5, 5), seed=3),
    )
    trainer.evaluate(test, metric_key_prefix="test")
    trainer.train()
    before = trainer.evaluate(test, metric_key_prefix="test")["test_mean_recall"]
    add_class_bias(trainer)
    assert [logs["step"] for logs in trainer.evaluations.shown] == [0]
    after = trainer.evaluate(test, metric_key_prefix="test")["test_mean_recall"]
    assert after != before
    trainer.create_model_card()
    row = next(line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith("| mean recall"))
    assert f"{after:.3f}" in row and f"{before:.3f}" not in row and row.count("0.") == 3  # before, after, change


def test_a_class_bias_needs_a_bias(tmp_path):
    made = []

    def make(train, gain, half):
        model = tiny.model("resnet")
        model.classifier[1] = torch.nn.Linear(16, 4, bias=False)
        made.append(tiny.trainer(tmp_path, model, train_dataset=train, gain_dataset=gain, freeze_backbone=True))
        return made[-1]

    train, gain = tiny.images(), tiny.images(tiny.GAIN_COUNTS, seed=1)
    with pytest.raises(ValueError, match="this head has none"):
        add_class_bias(make(train, gain, 0))
    with pytest.raises(ValueError, match="this head has none"):
        cross_fit(make, train, gain, bias_share=0.5)
    assert len(made) == 2 and made[1].state.global_step == 0  # said before it trains
