"""What semi-supervised runs draw depends on seeds alone."""

import pytest
import tiny
import torch
from semi_supervised_run import make
from semi_supervised_step import every_method
from transformers import TrainerCallback

from selmix_hf.training.semi_supervised.draws import DrawDataset, DrawSampler, shuffled_passes


class Disturbance(TrainerCallback):
    """Draws from torch's global generator, as dropout and evaluation may."""

    def on_step_begin(self, *args, **kwargs):
        torch.rand(1)


@every_method
def test_what_is_drawn_depends_on_the_seeds_alone(method, tmp_path):
    plain, disturbed = make(tmp_path / "a", method), make(tmp_path / "b", method, callbacks=[Disturbance()])
    plain.train(), disturbed.train()
    assert tiny.largest_difference(tiny.weights(plain), tiny.weights(disturbed)) == 0


def test_every_batch_has_draws_of_its_own(tmp_path):
    """Those of other processes are other batches: equal shares there would tie them together."""
    trainer, drawn = make(tmp_path, "mixmatch"), []
    for batch in trainer.get_train_dataloader():
        trainer.compute_loss(trainer.model.train(), batch)
        drawn.append(trainer.batch_generator.random())
    seeds = [batch["seeds"].tolist() for batch in trainer.get_train_dataloader()]
    assert len(set(drawn)) == len(drawn) == 2 and len({seed for of_batch in seeds for seed in of_batch}) == 16


def test_passes_are_shuffled_whole_and_the_same_from_any_start():
    indices, seeds = shuffled_passes(5, 0, 20, [3, 0])
    passes = indices.reshape(4, 5)
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes.tolist()) and len({*map(tuple, passes.tolist())}) == 4
    assert len(set(seeds.tolist())) == 20
    assert shuffled_passes(5, 7, 18, [3, 0]).tolist() == [indices[7:18].tolist(), seeds[7:18].tolist()]
    assert shuffled_passes(5, 0, 20, [4, 0]).tolist() != [indices.tolist(), seeds.tolist()]


def test_epochs_follow_each_other():
    whole = list(DrawSampler(5, 7, 3, num_draws=12, get_epoch=lambda: 0))
    halves = [draw for epoch in (0, 1) for draw in DrawSampler(5, 7, 3, num_draws=6, get_epoch=lambda e=epoch: e)]
    assert whole == halves and all(len(draw.unlabelled) == 3 for draw in whole)


def test_a_run_and_a_resumed_one_take_one_sequence(tmp_path, monkeypatch):
    """Five steps of 8 draws, in epochs of two; resumed after the third."""
    seen, fetch = [], DrawDataset.__getitems__
    monkeypatch.setattr(DrawDataset, "__getitems__", lambda self, draws: seen.extend(draws) or fetch(self, draws))
    expected = list(DrawSampler(12, 23, 2, num_draws=48, get_epoch=lambda: 0, seed=42))
    for start, resume in ((0, None), (24, str(tmp_path / "checkpoint-3"))):
        trainer = make(tmp_path, save_strategy="steps", save_steps=3)
        seen.clear()
        trainer.train(resume_from_checkpoint=resume)
        assert seen[: 40 - start] == expected[start:40]


@pytest.mark.parametrize(
    ("accumulation", "batch", "workers"), [(1, 8, 2), (2, 4, 0), (4, 2, 2)], ids=["workers", "halves", "quarters"]
)
@pytest.mark.parametrize("method", ["fixmatch", "mean_teacher"])
def test_batches_accumulation_and_workers_change_nothing(method, accumulation, batch, workers, tmp_path):
    one = make(tmp_path / "one", method)
    other = make(
        tmp_path / "other",
        method,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        dataloader_num_workers=workers,
    )
    one.train(), other.train()
    assert tiny.losses(other) == pytest.approx(tiny.losses(one), rel=1e-4)
    assert tiny.largest_difference(tiny.weights(one), tiny.weights(other)) < (1e-5 if accumulation > 1 else 1e-12)
