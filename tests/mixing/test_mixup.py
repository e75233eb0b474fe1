"""Input mixup and CutMix: hand-worked boxes, torchvision's own, and shares that are the area."""

import pytest
import torch
from torchvision.transforms import v2

from selmix_hf.mixing.mixup import cutmix, input_mixup


def test_input_mixup_by_hand():
    first, second = torch.tensor([[1.0, 2.0], [0.0, 8.0]]), torch.tensor([[5.0, 2.0], [4.0, 0.0]])
    mixed, share = input_mixup(first, second, torch.tensor([0.75, 0.5]))
    assert mixed.tolist() == [[2.0, 2.0], [2.0, 4.0]] and share.tolist() == [0.75, 0.5]


def test_boxes_by_hand():
    """8 x 8 pixels, a wanted share of 3/4: the box has 4 x 4, or what lies inside of it."""
    first, second = torch.ones(3, 2, 8, 8), torch.zeros(3, 2, 8, 8)
    uniform = torch.tensor([[0.5, 0.3], [0.0, 0.0], [0.99, 0.5]])  # centres (4, 2), (0, 0), (7, 4)
    mixed, share = cutmix(first, second, torch.full((3,), 0.75), uniform)
    assert share.tolist() == [1 - 16 / 64, 1 - 4 / 64, 1 - 12 / 64]
    expected = torch.ones(8, 8)
    expected[0:4, 2:6] = 0  # rows, columns
    assert torch.equal(mixed[0, 0], expected) and torch.equal(mixed[0, 1], expected)
    assert torch.equal(mixed[:, 0].mean((1, 2)), share)


def test_the_ends_of_the_coefficient():
    first, second = torch.randn(2, 4, 3, 6, 10)
    mixed, share = cutmix(first, second, torch.ones(4), torch.rand(4, 2))
    assert torch.equal(mixed, first) and share.tolist() == [1.0] * 4
    mixed, share = cutmix(first, second, torch.zeros(4), torch.full((4, 2), 0.5))
    assert torch.equal(mixed, second) and share.tolist() == [0.0] * 4
    for coefficient, image in ((1.0, first), (0.0, second)):
        assert torch.equal(input_mixup(first, second, torch.full((4,), coefficient))[0], image)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (7, 20)])
def test_boxes_are_those_of_torchvision(height, width, monkeypatch):
    """The same coefficient and centre put into `v2.CutMix`, which mixes an image with the one before it."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, height, width, generator=generator)
    for _ in range(50):
        coefficient, uniform = torch.rand(1, generator=generator), torch.rand(1, 2, generator=generator)
        centre = iter([(uniform[0, 0] * width).long(), (uniform[0, 1] * height).long()])
        transform = v2.CutMix(num_classes=2)
        transform._dist = type("Fixed", (), {"sample": lambda self, shape, value=coefficient: value[0]})()
        with monkeypatch.context() as patched:
            patched.setattr(torch, "randint", lambda *args, size, centre=centre: next(centre).reshape(size))
            theirs, labels = transform(images, torch.tensor([0, 1]))
        ours, share = cutmix(images[:1], images[1:], coefficient, uniform)
        assert torch.equal(ours, theirs[:1])
        assert float(labels[0, 0]) == pytest.approx(float(share), abs=1e-6)


def test_a_pair_does_not_depend_on_its_batch():
    first, second = torch.randn(2, 6, 3, 8, 8)
    coefficient, uniform = torch.rand(6), torch.rand(6, 2)
    whole, share = cutmix(first, second, coefficient, uniform)
    for row in range(6):
        one = slice(row, row + 1)
        mixed, alone = cutmix(first[one], second[one], coefficient[one], uniform[one])
        assert torch.equal(mixed, whole[one]) and torch.equal(alone, share[one])
