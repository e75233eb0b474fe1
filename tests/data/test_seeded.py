"""Samples come with the seed of what is random in them, so that a view is the same in any batch."""

import tiny
import torch
from torch.utils.data import DataLoader, Subset

from selmix_hf import ImageCollator, SelMixCollator
from selmix_hf.data.seeded import SeededDataset, fetch


def test_fetch_makes_one_call_where_it_can():
    class Batched:
        calls = 0

        def __getitem__(self, i):
            raise AssertionError("one at a time")

        def __getitems__(self, indices):
            self.calls += 1
            return [i * i for i in indices]

    batched = Batched()
    assert fetch(batched, (3, 1, 3)) == [9, 1, 9] and batched.calls == 1
    assert fetch("abc", [2, 0]) == ["c", "a"]
    assert fetch(Subset(list("abcd"), [3, 1]), [1, 0]) == ["b", "d"]


def test_seeded_samples_have_the_same_view_in_any_batch():
    dataset, collator = tiny.images((3, 3, 3, 3)), SelMixCollator(ImageCollator(transform=tiny.random_view))

    def views(seed, **options):
        loader = DataLoader(SeededDataset(dataset, seed), collate_fn=collator, **options)
        return torch.cat([batch["pixel_values"] for batch in loader])

    expected = views([5, 0], batch_size=12)
    assert torch.equal(expected, views([5, 0], batch_size=5))
    assert torch.equal(expected, views([5, 0], batch_size=3, num_workers=2))
    assert (expected - views([5, 1], batch_size=12)).abs().amax((1, 2, 3)).min() > 0
