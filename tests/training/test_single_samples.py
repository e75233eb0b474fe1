"""SelMixTrainer on single samples drawn by weight: what is drawn, what stays of a run with pairs, exact resume."""

import json

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard

from selmix_hf import GainFidelityCallback, LogitAdjustedLoss, WeightedSampler, sampling_weights, save_plots
from selmix_hf.studies.record import run_report
from selmix_hf.training.state import PairState

LABELS = np.repeat(np.arange(4), tiny.TRAIN_COUNTS)
VIT_DROPOUT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
RANDOM_VIEWS = {"train_transform": tiny.random_view, "eval_transform": tiny.to_tensor}
BOTH = pytest.mark.parametrize("freeze", [False, True], ids=["whole", "frozen"])


def recorded(run):
    """Keep step, labels and inputs of every micro-batch that is trained on."""
    run.batches, plain_loss = [], run.compute_loss

    def compute_loss(model, inputs, **kwargs):
        if model.training:
            (values,) = (value for name, value in inputs.items() if name != "labels")
            run.batches.append((run.state.global_step, inputs["labels"].clone(), values.clone()))
        return plain_loss(model, inputs, **kwargs)

    run.compute_loss = compute_loss
    return run


# --- what is drawn -----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("accumulation", [1, 2])
def test_what_is_trained_on_is_what_the_sampler_draws(freeze, accumulation, tmp_path):
    """A period is refresh_steps steps of as many samples as the batch size says, none mixed with another."""
    options = {"sampling": "square_root", "freeze_backbone": freeze, "gradient_accumulation_steps": accumulation}
    run = recorded(tiny.trainer(tmp_path, per_device_train_batch_size=8 // accumulation, **options, **tiny.BARE))
    images = run.data_collator.eval_collator(list(run.train_dataset))["pixel_values"]
    inputs = run.passes.features_of(run.train_dataset) if freeze else images
    weights = sampling_weights("square_root", LABELS)
    np.testing.assert_allclose(run.sample_weights, weights)
    run.train()
    sampler = WeightedSampler(weights, 32, seed=run.args.seed)
    index = np.array([*sampler, *sampler])
    assert [step for step, *_ in run.batches] == list(np.repeat(np.arange(8), accumulation))
    assert all(len(labels) == 8 // accumulation for _, labels, _ in run.batches)
    assert torch.cat([labels for _, labels, _ in run.batches]).tolist() == LABELS[index].tolist()
    torch.testing.assert_close(torch.cat([values for *_, values in run.batches]), inputs[index], atol=1e-5, rtol=1e-5)


def test_weights_of_samples_override_the_option(tmp_path):
    """Three samples have a weight, and of a frozen run's two views of each both are drawn."""
    weights = np.zeros(len(LABELS))
    weights[[0, 40, 56]] = 1, 1, 2
    options = {"freeze_backbone": True, "feature_views": 2, "refresh_steps": 8, **RANDOM_VIEWS, **tiny.BARE}
    run = recorded(
        tiny.trainer(tmp_path, "convnext", sample_weights=torch.tensor(weights), sampling="class_balanced", **options)
    )
    run.train()
    views = run._views_of(run.train_dataset)
    values = torch.cat([values for *_, values in run.batches])
    rows = torch.cat([view[[0, 40, 56]] for view in views])
    nearest = torch.cdist(values, rows, compute_mode="donot_use_mm_for_euclid_dist")
    assert float(nearest.min(1).values.max()) < 1e-5
    assert set(nearest.argmin(1).tolist()) == set(range(6))  # both views of all three
    labels = torch.cat([labels for _, labels, _ in run.batches])
    assert torch.bincount(labels, minlength=4).tolist()[2:] == [0, int((labels == 3).sum())]
    assert [log["largest_repeat"] for log in run.state.log_history if "largest_repeat" in log] == [32.0]


def test_classifier_retraining_is_a_loop_by_hand(tmp_path):
    """cRT in one line: features of the frozen backbone, classes alike, plain SGD on the head."""
    run = tiny.trainer(tmp_path, sampling="class_balanced", freeze_backbone=True, max_steps=20, **tiny.BARE)
    head = torch.nn.Linear(16, 4)
    head.load_state_dict(run.model.classifier[1].state_dict())
    features = run.passes.features_of(run.train_dataset)
    optimizer = torch.optim.SGD(head.parameters(), 0.1)
    sampler = WeightedSampler(sampling_weights("class_balanced", LABELS), 4 * 8, seed=run.args.seed)
    for _ in range(5):
        for index in np.reshape(list(sampler), (4, 8)):
            optimizer.zero_grad()
            F.cross_entropy(head(features[index]), torch.tensor(LABELS[index])).backward()
            optimizer.step()
    run.train()
    assert tiny.largest_difference(tiny.weights(run.model.classifier[1]), tiny.weights(head)) < 1e-6


@BOTH
def test_a_loss_of_ones_own_sees_logits_and_classes(freeze, tmp_path):
    seen = []

    def loss(outputs, labels, num_items_in_batch=None):
        seen.append((outputs["logits"].shape, labels.shape))
        return LogitAdjustedLoss(tiny.TRAIN_COUNTS)(outputs, labels)

    options = {"sampling": "natural", "freeze_backbone": freeze, "max_steps": 2, **tiny.BARE}
    run = tiny.trainer(tmp_path, compute_loss_func=loss, **options)
    run.train()
    assert seen == [((8, 4), (8,))] * 2
    plain = tiny.trainer(tmp_path, **options)
    plain.train()
    assert tiny.largest_difference(tiny.weights(run), tiny.weights(plain)) > 1e-4


def test_class_balance_lifts_the_rare_class(tmp_path):
    """The same steps from the same start: samples as they are leave the rare classes behind."""
    options = {"freeze_backbone": True, "max_steps": 200, "refresh_steps": 100, "learning_rate": 0.05, **tiny.BARE}
    recall = {}
    for sampling in ("natural", "class_balanced"):
        run = tiny.trainer(tmp_path, "convnext", sampling=sampling, **options)
        run.train()
        recall[sampling] = run.evaluate(tiny.images((40, 40, 40, 40), seed=2))["eval_recall/grey"]
    assert recall["class_balanced"] > recall["natural"] + 0.1


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    def loss(outputs, labels, num_items_in_batch=None):
        return outputs["logits"].sum() * float("nan")

    run = tiny.trainer(tmp_path, sampling="natural", compute_loss_func=loss, **tiny.BARE)
    with pytest.raises(FloatingPointError, match="the loss is not finite at step 0"):
        run.train()


def test_batch_norm_stays_as_it_is(tmp_path):
    run = tiny.trainer(tmp_path, "resnet", sampling="natural", max_steps=4, **tiny.BARE)
    before = {name: value for name, value in tiny.weights(run).items() if "running" in name}
    run.train()
    after = tiny.weights(run)
    assert before and all(torch.equal(value, after[name]) for name, value in before.items())


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


def test_the_state_without_p_is_read_back(tmp_path):
    counts = torch.tensor([[3, 0, 1], [0, 2, 0], [0, 0, 0]])
    PairState(2, geometry={"sampling": "natural"}, start_counts=counts).save(tmp_path)
    state = PairState.load(tmp_path)
    assert state.period == 2 and state.probability is None and torch.equal(state.start_counts, counts)


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
