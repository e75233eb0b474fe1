"""The gain set as training data: pairs from it, and what is said of its numbers."""

import logging

import tiny
from transformers.utils.logging import get_logger


def test_pairs_come_from_both_sets(tmp_path):
    trainer = tiny.trainer(tmp_path, gain_set_use="train", freeze_backbone=True, **tiny.BARE)
    assert len(trainer.train_dataset) == sum(tiny.TRAIN_COUNTS) + sum(tiny.GAIN_COUNTS)
    assert trainer.train_counts.tolist() == [30, 15, 8, 4]  # which head, tail and reports go by
    drawn = set()
    take = trainer.store_features

    def store():
        stored = take()
        inner = stored.take
        stored.take = lambda rows: drawn.update(rows if not isinstance(rows, slice) else ()) or inner(rows)
        return stored

    trainer.store_features = store
    trainer.train()
    assert drawn & set(range(sum(tiny.TRAIN_COUNTS))) and max(drawn) >= sum(tiny.TRAIN_COUNTS)


def test_it_says_that_numbers_are_optimistic(tmp_path, caplog):
    get_logger("selmix_hf").warning_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        tiny.trainer(tmp_path, gain_set_use="refit", **tiny.BARE)
    assert "numbers on gain_dataset are optimistic" in caplog.text
