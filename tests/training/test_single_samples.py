"""SelMixTrainer on single samples drawn by weight: what stays of a run with pairs, exact resume."""

import json

import numpy as np
import pytest
import tiny
import torch
from huggingface_hub import ModelCard
from recorded_batches import LABELS, RANDOM_VIEWS, recorded

from selmix_hf import GainFidelityCallback, save_plots
from selmix_hf.studies.record import run_report

VIT_DROPOUT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}


# --- what stays of a run with pairs ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "frozen"])
def finished(request, tmp_path_factory):
    options = {"objective": "mean_recall", "constraints": {"coverage": 0.8}, "freeze_backbone": request.param}
    folder = tmp_path_factory.mktemp("run") / "model"
    run = tiny.trainer(folder, "convnext", sampling="class_balanced", max_steps=12, **options)
    run.train()
    return run


def test_the_best_checkpoint_is_chosen_by_the_objective(finished):
    scores = {log["step"]: log["eval_selection_score"] for log in finished.state.log_history if "eval_psi" in log}
    assert list(scores) == [0, 4, 8, 12]
    assert finished.state.best_global_step == max(scores, key=scores.get)
    assert finished.evaluate()["eval_selection_score"] == max(scores.values())


def test_nothing_of_gains_is_worked_out_or_logged(finished):
    assert finished.gain is None and finished.pair_state.probability is None and not finished.pair_state.multipliers
    logged = {name for log in finished.state.log_history for name in log}
    assert {"gain_set_psi", "gain_set_psi_error", "gain_set_worst_class", "gain_set_violation"} <= logged
    words = ("multiplier", "effective", "largest_gain", "temperature", "stale", "kept_gain", "mixed_share")
    assert not [name for name in logged if any(word in name for word in words)]


def test_plots_show_what_was_used(finished, tmp_path):
    assert [path.name for path in save_plots(finished, tmp_path)] == ["recall_per_class.png", "objective.png"]


def test_the_record_of_a_benchmark(finished):
    report = json.loads(json.dumps(run_report(finished)))
    assert not {"gain", "pair_probability"} & report.keys()
    assert [log["step"] for log in report["history"]] == [0, 4, 8]
    assert all(log.keys() & {"gain_set_psi", "effective_pairs"} == {"gain_set_psi"} for log in report["history"])


def test_the_card_says_what_was_drawn_and_claims_no_selmix(finished):
    finished.create_model_card()
    card = ModelCard.load(f"{finished.args.output_dir}/README.md")
    summary = card.text.split("## Results")[0]
    assert "on single samples of long-tailed data (drawn: every class as often as any other) with" in summary
    assert (
        "The checkpoint was chosen by `mean_recall` under the constraints {'coverage': 0.8}, which did not" in summary
    )
    assert "'sampling': 'class_balanced'" in card.text
    assert card.data.tags == ["long-tailed"] and "SelMix" not in card.text and "@inpr" not in card.text
    finished.sampling = "sample_weights"
    finished.create_model_card()
    finished.sampling = "class_balanced"
    assert "(drawn: each by a weight of its own)" in ModelCard.load(f"{finished.args.output_dir}/README.md").text


def test_no_eval_dataset_is_no_news_where_nothing_steers(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("selmix_hf.training.selmix.logger.warning", said.append)
    tiny.trainer(tmp_path, sampling="natural")
    assert not said
    tiny.trainer(tmp_path)
    assert len(said) == 1 and "which steers the training, also selects" in said[0]


# --- resume ------------------------------------------------------------------------------------------------------


CASES = {
    "whole": ("resnet", {"sampling": "class_balanced"}),
    "augmentation, workers": (
        ("vit", VIT_DROPOUT),
        {"sampling": [1, 1, 2, 3], "dataloader_num_workers": 2, **RANDOM_VIEWS},
    ),
    "accumulation": (
        ("vit", VIT_DROPOUT),
        {"sampling": "0.25", "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    ),
    "frozen, views": (
        "convnext",
        {"sample_weights": 1.0 + LABELS, "freeze_backbone": True, "feature_views": 2, **RANDOM_VIEWS},
    ),
    "head dropout, frozen": (("test_vit", {"drop_rate": 0.3}), {"sampling": "natural", "freeze_backbone": True}),
}


def run_of(folder, case, **more):
    kind, options = CASES[case]
    name, arguments = (kind, {}) if isinstance(kind, str) else kind
    steps = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    steps |= {"save_total_limit": 10, "load_best_model_at_end": False, "max_steps": 10}
    return recorded(tiny.trainer(folder, tiny.model(name, **arguments), **{**steps, **options, **more}))


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_bitwise_the_same(case, tmp_path):
    """Stopped at step 4, where a period of 4 ends, and at step 6, in the middle of one."""
    whole = run_of(tmp_path / "whole", case)
    whole.train()
    for step in (4, 6):
        torch.manual_seed(1234)  # whatever the new process did before
        resumed = run_of(tmp_path / f"resumed-{step}", case)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        expected = [parts for parts in whole.batches if parts[0] >= step]
        assert len(resumed.batches) == len(expected) > 0
        for found, wanted in zip(resumed.batches, expected, strict=True):
            assert found[0] == wanted[0] and torch.equal(found[1], wanted[1]) and torch.equal(found[2], wanted[2])
        losses = [
            {log["step"]: log["loss"] for log in run.state.log_history if "loss" in log} for run in (whole, resumed)
        ]
        assert losses[0] == losses[1]
        assert tiny.largest_difference(tiny.weights(whole), tiny.weights(resumed)) == 0
        assert torch.equal(resumed.pair_state.start_counts, whole.pair_state.start_counts)


@pytest.mark.parametrize(
    "changed",
    [{"sampling": "natural"}, {"sampling": None}, {"sampling": [1, 1, 1, 2]}, {"sample_weights": np.ones(57)}],
    ids=["name", "pairs", "class weights", "sample weights"],
)
def test_another_sampling_is_refused(changed, tmp_path):
    options = {"freeze_backbone": True, "max_steps": 4, "save_strategy": "steps", "save_steps": 3}
    options |= {"eval_strategy": "no", "load_best_model_at_end": False, "sampling": [1, 1, 1, 1]}
    tiny.trainer(tmp_path, **options).train()
    run = tiny.trainer(tmp_path, **{**options, **changed})
    with pytest.raises(
        ValueError, match="made with {'sampling': 'class weights .*this run has {'sampling': .*keep them"
    ):
        run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sampling": [1, 1, 1]}, "sampling must have one weight a class, 4, found 3: weights of samples are another"),
        ({"sampling": [0, 0, 0, 0]}, "found zeros alone"),
        ({"sample_weights": [1, 2]}, "sample_weights must have one weight a training sample, 57, found 2"),
        ({"sample_weights": np.full(57, np.nan)}, "found nan for sample 0"),
        ({"sample_weights": np.ones(57), "beta_min": 0.5}, "sample_weights draws single samples, .*leave beta_min at"),
        (
            {"sampling": "natural", "mixing": lambda first, second, share: first},
            "sampling='natural' draws single samples, and mixing is for pairs: leave one of the two out",
        ),
        (
            {"sample_weights": np.ones(57), "unlabeled_dataset": tiny.images((3, 3, 3, 3))},
            "sample_weights draws single samples, and unlabeled_dataset is for pairs",
        ),
    ],
    ids=["length", "zeros", "samples", "nan", "option", "mixing", "unlabelled"],
)
def test_what_makes_no_sense_is_refused(options, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        tiny.trainer(tmp_path, **options)


def test_there_are_no_gains_to_hold_steps_against(tmp_path):
    run = tiny.trainer(tmp_path, sampling="natural", callbacks=[GainFidelityCallback()], **tiny.BARE)
    with pytest.raises(
        ValueError, match="GainFidelityCallback .* single samples are drawn and no gains are worked out"
    ):
        run.train()
