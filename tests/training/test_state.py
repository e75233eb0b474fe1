"""What a checkpoint keeps of the pairs: saved and loaded bit for bit."""

import json

import pytest
import tiny
import torch
from safetensors import safe_open

from selmix_hf.method.pair_distribution import pair_distribution
from selmix_hf.training.state import PairState, geometry_of


def random_gain(num_classes, seed=0, dtype=torch.float32):
    return torch.randn(num_classes, num_classes, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_state_round_trip_is_bitwise(tmp_path):
    state = PairState(
        period=7,
        probability=pair_distribution(random_gain(9)).probability,
        multipliers={"min_recall": torch.rand(9, dtype=torch.float64), "coverage": torch.rand(9) * 1e-30},
        geometry={"refresh_steps": 50, "pairs_a_step": 64},
    )
    state.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [PairState.FILE_NAME]
    loaded = PairState.load(tmp_path)
    assert (loaded.period, loaded.geometry) == (7, state.geometry)
    assert loaded.multipliers.keys() == state.multipliers.keys()
    for ours, theirs in [
        (state.probability, loaded.probability),
        *((state.multipliers[name], loaded.multipliers[name]) for name in state.multipliers),
    ]:
        assert ours.dtype == theirs.dtype and ours.numpy().tobytes() == theirs.numpy().tobytes()


def test_state_before_the_first_period(tmp_path):
    PairState().save(tmp_path)
    assert PairState.load(tmp_path) == PairState(-1, None, {}, {})


def test_state_of_views_and_shared_tensors(tmp_path):
    shared = torch.rand(4, 4)
    PairState(0, shared.T, {"a": shared[0], "b": shared[1]}).save(tmp_path)
    loaded = PairState.load(tmp_path)
    assert torch.equal(loaded.probability, shared.T)
    assert torch.equal(loaded.multipliers["a"], shared[0]) and torch.equal(loaded.multipliers["b"], shared[1])


def test_a_second_save_replaces_the_first(tmp_path):
    PairState(1, torch.zeros(2, 2)).save(tmp_path)
    PairState(2, torch.ones(2, 2)).save(str(tmp_path))
    assert PairState.load(str(tmp_path)).period == 2


def test_a_save_that_fails_leaves_the_old_state(tmp_path):
    PairState(1, torch.ones(2, 2)).save(tmp_path)
    with pytest.raises(TypeError):
        PairState(2, torch.zeros(2, 2), geometry={"bad": object()}).save(tmp_path)
    assert PairState.load(tmp_path).period == 1


def test_the_file_is_plain_safetensors(tmp_path):
    PairState(3, torch.ones(2, 2), {"coverage": torch.ones(2)}, {"refresh_steps": 5}).save(tmp_path)
    with safe_open(tmp_path / PairState.FILE_NAME, "pt") as opened:
        assert set(opened.keys()) == {"probability", "multiplier.coverage"}
        assert json.loads(opened.metadata()["geometry"]) == {"refresh_steps": 5}


def test_a_missing_state_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="selmix_state.safetensors is missing: the checkpoint was not written"):
        PairState.load(tmp_path)


def test_the_state_without_p_is_read_back(tmp_path):
    counts = torch.tensor([[3, 0, 1], [0, 2, 0], [0, 0, 0]])
    PairState(2, geometry={"sampling": "natural"}, start_counts=counts).save(tmp_path)
    state = PairState.load(tmp_path)
    assert state.period == 2 and state.probability is None and torch.equal(state.start_counts, counts)


def test_a_resume_for_another_share_is_refused(tmp_path):
    options = {"objective": "worst_share_recall", "freeze_backbone": True, "save_strategy": "steps", "save_steps": 4}
    options |= {"eval_strategy": "no", "load_best_model_at_end": False}
    tiny.trainer(tmp_path, "convnext", worst_share=0.5, **options).train()
    other = tiny.trainer(tmp_path, "convnext", worst_share=0.75, **options)
    with pytest.raises(ValueError, match="was made with {'worst_share': 0.5}, this run has {'worst_share': 0.75}"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_the_geometry_of_a_run_with_all_that_a_resume_compares(tmp_path):
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "reuse_samples": True}
    run = tiny.trainer(tmp_path, objective="h_mean", confusion="hard", mixing="input", data_seed=3, **options)
    assert geometry_of(run) == {
        "refresh_steps": 4,
        "pair_sampling": "selmix",
        "beta_min": run.args.beta_min,
        "freeze_backbone": False,
        "gain_set_use": "steer",
        "confusion": "hard",
        "mixing": "input",
        "sampling": "pairs",
        "reuse_samples": 4,
        "unlabeled": 0,
        "objective": "h_mean",
        "constraints": {},
        "worst_share": 0,
        "pairs_per_step": 8,
        "seed": 3,
    }
    single = geometry_of(tiny.trainer(tmp_path, sampling="natural"))
    assert (single["sampling"], single["reuse_samples"], single["seed"]) == ("natural", False, 42)
