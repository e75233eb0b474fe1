"""Looks at the fidelity of gains in a run, which they leave as it is."""

import shutil

import pytest
import tiny
import torch

from selmix_hf import GainFidelityCallback, save_plots

# a period is four steps, so that step 6 is in the middle of one
DROPOUT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
CASES = {
    "vit, dropout": (("vit", DROPOUT), {}),
    "vit, dropout, frozen": (("vit", DROPOUT), {"freeze_backbone": True}),
    "augmentation": (("convnext", {}), {"train_transform": tiny.random_view, "eval_transform": tiny.to_tensor}),
}


def run_of(folder, case, **more):
    (name, arguments), options = CASES[case]
    steps = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3}
    steps |= {"save_total_limit": 10, "load_best_model_at_end": False, "max_steps": 10}
    return tiny.trainer(folder, tiny.model(name, **arguments), **{**steps, **options, **more})


def looks(run):
    return [log for log in run.state.log_history if "gain_fidelity_step" in log]


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="every must be positive, found 0"):
        GainFidelityCallback(every=0)
    with pytest.raises(ValueError, match="mixes must be 'centroid' or 'drawn', found 'real'"):
        GainFidelityCallback(mixes="real")


@pytest.mark.parametrize("mixes", ["centroid", "drawn"])
@pytest.mark.parametrize("case", CASES)
def test_the_run_is_what_it_is_without_a_look(case, mixes, tmp_path):
    """Bitwise: also where it is resumed, whatever the looks have drawn."""
    callback = GainFidelityCallback(every=1, mixes=mixes, num_mixes=4)
    plain = run_of(tmp_path / "plain", case)
    watched = run_of(tmp_path / "watched", case, callbacks=[callback])
    for run in (plain, watched):
        torch.manual_seed(7)
        run.train()
    assert tiny.losses(plain) == tiny.losses(watched)
    assert tiny.largest_difference(tiny.weights(plain), tiny.weights(watched)) == 0
    assert torch.equal(plain.pair_state.probability, watched.pair_state.probability)
    assert [log["step"] for log in looks(watched)] == [0, 4, 8] and callback.step == 8
    assert {log["gain_fidelity_step"] for log in looks(watched)} == {0.1}

    resumed = run_of(tmp_path / "resumed", case, callbacks=[GainFidelityCallback(every=2, mixes=mixes, num_mixes=4)])
    resumed.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-6"))
    assert tiny.largest_difference(tiny.weights(plain), tiny.weights(resumed)) == 0
    assert [log["step"] for log in looks(resumed)] == [8]
    assert looks(resumed)[0]["gain_fidelity_soft_slope"] == looks(watched)[2]["gain_fidelity_soft_slope"]
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("freeze", [False, True])
def test_a_look_is_of_the_weights_and_gains_of_its_refresh(freeze, tmp_path):
    seen = []

    class Watch(GainFidelityCallback):
        def on_refresh(self, trainer):
            super().on_refresh(trainer)
            seen.append((self.latest, trainer.gain))

    options = {"callbacks": [Watch(1, step_size=1e-4)], "confusion": "hard", **tiny.BARE}
    run = tiny.trainer(tmp_path, "convnext", freeze_backbone=freeze, **options)
    run.train()
    for fidelity, gain in seen:
        assert torch.allclose(fidelity.predicted, 1e-4 * gain.double().flatten())
        assert fidelity.slope("centroid") == pytest.approx(1, abs=0.01)  # at other weights it is not
    assert len(seen) == 2 and not torch.equal(seen[0][1], seen[1][1])
    assert (seen[0][0].within_class_variance == seen[1][0].within_class_variance) is freeze


def test_the_plot_comes_with_the_others(tmp_path):
    run = tiny.trainer(tmp_path / "run", freeze_backbone=True, callbacks=[GainFidelityCallback], **tiny.BARE)
    run.train()
    (*_, path) = save_plots(run, tmp_path / "plots")
    assert path.name == "gain_fidelity.png" and path.stat().st_size > 10_000
