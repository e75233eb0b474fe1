"""Pairs become one batch of 2B samples, with the same augmentation whatever the batch and the worker."""

import numpy as np
import pytest
import tiny
import torch
from datasets import concatenate_datasets
from torch.utils.data import DataLoader

from selmix_hf import ClassIndex, ImageCollator, PairDataset, PairSampler, SelMixCollator
from selmix_hf.data.collators import NamedLabels, default_collator, probe_batch
from selmix_hf.data.examples import collate_inputs
from selmix_hf.data.pairs import Pair, PairExample


def pair_loader(dataset, collator, **options):
    index = ClassIndex(np.array(dataset["label"]), 4)
    sampler = PairSampler(index, index, lambda: torch.full((4, 4), 1 / 16), num_pairs=12, seed=3)
    return DataLoader(PairDataset(dataset), sampler=sampler, collate_fn=SelMixCollator(collator), **options)


def test_layout():
    """First samples before second ones; labels of the first; coefficients of the pairs."""
    dataset, collator = tiny.images((3, 3, 3, 3)), SelMixCollator(ImageCollator(transform=tiny.to_tensor))
    pairs = [Pair(0, 11, 0.75, 1, 2), Pair(4, 4, 1.0, 3, 4), Pair(9, 1, 0.6, 5, 6)]
    batch = collator([PairExample(dataset[pair.first], dataset[pair.second], pair) for pair in pairs])
    assert set(batch) == {"pixel_values", "labels", "mixing_coefficient"}
    assert batch["labels"].tolist() == [0, 1, 3]
    assert batch["mixing_coefficient"].tolist() == pytest.approx([0.75, 1.0, 0.6])
    expected = [tiny.to_tensor(dataset[row]["image"]) for row in (0, 4, 9, 11, 4, 1)]
    assert torch.equal(batch["pixel_values"], torch.stack(expected))


def test_other_examples_go_through_the_evaluation_collator():
    dataset = tiny.images((1, 1, 1, 1))
    evaluation = ImageCollator(transform=tiny.to_tensor)
    collator = SelMixCollator(ImageCollator(transform=tiny.random_view), evaluation)
    samples = [dataset[0], dataset[2]]
    assert torch.equal(collator(samples)["pixel_values"], evaluation(samples)["pixel_values"])
    assert collator(samples)["labels"].tolist() == [0, 2]


def pixels_of(loader):
    """Pixels of the first samples, then of the second, in the order of the pairs."""
    halves = [batch["pixel_values"].chunk(2) for batch in loader]
    return torch.cat([first for first, _ in halves]), torch.cat([second for _, second in halves])


@pytest.mark.parametrize("view", [tiny.random_view, tiny.torchvision_view(), tiny.timm_view()])
def test_augmentation_depends_on_the_pair_alone(view):
    dataset, collator = tiny.images((5, 5, 5, 5)), ImageCollator(transform=view)
    expected = pixels_of(pair_loader(dataset, collator, batch_size=12))
    torch.manual_seed(99)
    for options in ({"batch_size": 5}, {"batch_size": 4, "num_workers": 2}):
        for found, wanted in zip(pixels_of(pair_loader(dataset, collator, **options)), expected, strict=True):
            assert torch.equal(found, wanted)
    plain = pixels_of(pair_loader(dataset, ImageCollator(transform=tiny.to_tensor), batch_size=12))
    assert (plain[0] - expected[0]).abs().amax((1, 2, 3)).min() > 0


def test_a_transform_of_the_dataset_depends_on_the_pair_alone():
    def views(batch):
        return {"pixel_values": [tiny.random_view(image) for image in batch["image"]], "labels": batch["label"]}

    dataset = tiny.images((5, 5, 5, 5))
    labels = dataset["label"][:]

    def loader(**options):
        index = ClassIndex(np.array(labels), 4)
        sampler = PairSampler(index, index, lambda: torch.full((4, 4), 1 / 16), num_pairs=12, seed=3)
        collator = SelMixCollator(default_collator(dataset.with_transform(views), None, None, None, "label"))
        return DataLoader(PairDataset(dataset.with_transform(views)), sampler=sampler, collate_fn=collator, **options)

    expected = pixels_of(loader(batch_size=12))
    for found, wanted in zip(pixels_of(loader(batch_size=5, num_workers=1)), expected, strict=True):
        assert torch.equal(found, wanted)


def test_the_global_random_state_is_left_alone():
    loader = pair_loader(tiny.images((5, 5, 5, 5)), ImageCollator(transform=tiny.random_view), batch_size=4)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(iter(loader.collate_fn(list(PairDataset(loader.dataset.first).__getitems__(list(loader.sampler))))))
    assert torch.equal(torch.get_rng_state(), before)


def test_images_of_any_mode_become_rgb():
    dataset = tiny.images((1, 1, 1, 1))
    collator = ImageCollator(transform=tiny.to_tensor)
    for mode in ("L", "RGBA", "P"):
        batch = collator([{"image": dataset[0]["image"].convert(mode), "label": 0}])
        assert batch["pixel_values"].shape == (1, 3, tiny.SIDE, tiny.SIDE)
    assert "labels" not in collator([{"image": dataset[0]["image"]}])


def test_a_collator_without_labels_is_refused():
    dataset = tiny.images((1, 1, 1, 1))
    example = PairExample(dataset[0], dataset[1], Pair(0, 1, 0.5, 1, 2))
    with pytest.raises(ValueError, match=r"the collator must give 'labels', found \['x'\]"):
        SelMixCollator(lambda samples: {"x": torch.zeros(len(samples))})([example])


def test_default_collator():
    from transformers import default_data_collator

    dataset, processor = tiny.images((1, 1, 1, 1)), tiny.processor()
    assert isinstance(default_collator(dataset, processor, None, None, "label"), ImageCollator)
    assert default_collator(dataset, processor, default_data_collator, None, "label").collator is default_data_collator
    numbers = dataset.remove_columns("image").add_column("x", [0.0, 1.0, 2.0, 3.0])
    assert default_collator(numbers, None, None, None, "label").collator is collate_inputs
    with pytest.raises(ValueError, match="images need processing_class"):
        default_collator(dataset, None, None, None, "label")
    with pytest.raises(ValueError, match="the dataset has no image column"):
        default_collator(numbers, None, None, tiny.to_tensor, "label")
    twice = concatenate_datasets([dataset, dataset.select_columns("image").rename_column("image", "copy")], axis=1)
    with pytest.raises(ValueError, match=r"several image columns \(image, copy\): keep one"):
        default_collator(twice, processor, None, None, "label")


def test_a_dataset_that_makes_its_own_inputs_is_taken_as_it_is():
    """The habit of the examples of transformers: set_transform, and the image processor as processing_class."""

    def views(batch):
        return {"pixel_values": [tiny.to_tensor(x) * 0 + 7 for x in batch["image"]], "label": batch["label"]}

    dataset = tiny.images((1, 1, 1, 1)).with_transform(views)
    collator = default_collator(dataset, tiny.processor(), None, None, "label")
    batch = collator([dataset[0], dataset[3]])
    assert float(batch["pixel_values"].min()) == 7 and batch["labels"].tolist() == [0, 3]


def test_a_dataset_that_only_augments_its_images_goes_through_the_processor():
    def flipped(batch):
        return {**batch, "image": [image.rotate(90) for image in batch["image"]]}

    plain = tiny.images((1, 1, 1, 1))
    dataset = plain.with_transform(flipped)
    batch = default_collator(dataset, tiny.processor(), None, None, "label")([dataset[0]])
    expected = tiny.processor()(plain[0]["image"].rotate(90), return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)


def test_labels_that_a_collator_gives_are_kept():
    collator = NamedLabels(lambda examples: {"labels": torch.tensor([5]), "target": torch.tensor([7])}, "target")
    assert {name: value.tolist() for name, value in collator([]).items()} == {"labels": [5], "target": [7]}
    assert default_collator(tiny.images(), None, own := ImageCollator(tiny.processor()), None, "label") is own


def test_a_probe_without_labels_is_refused():
    with pytest.raises(ValueError, match="the dataset: .* found nothing, made of examples with a int"):
        probe_batch([1, 2], lambda examples: {})


@pytest.mark.parametrize("kind", ["timm", "vit"])
def test_what_the_model_does_not_take_is_left_out(kind):
    """A wrapped model of timm refuses it; one of transformers takes anything."""
    model = tiny.timm_model("test_vit") if kind == "timm" else tiny.model(kind)
    plain = tiny.processor()

    def processor(images, return_tensors):
        return {**plain(images, return_tensors=return_tensors), "spatial_shapes": torch.ones(len(images), 2)}

    batch = default_collator(tiny.images(), processor, None, None, "label", model)([tiny.images()[0]])
    assert ("spatial_shapes" in batch) == (kind == "vit")
    batch.pop("labels")
    assert model(**batch).logits.shape == (1, 4)
