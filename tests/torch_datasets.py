"""Datasets as torch and torchvision have them, of the images of `tiny`."""

import tiny
import torch


class Tuples(torch.utils.data.Dataset):
    """Made as torchvision makes them: (image, class) items, the attributes `targets` and `classes`."""

    def __init__(self, counts=tiny.TRAIN_COUNTS, seed=0, transform=None):
        self.rows, self.transform = tiny.images(counts, seed), transform
        self.targets, self.classes = self.rows["label"][:], list(tiny.NAMES)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        image = self.rows[index]["image"]
        return (image if self.transform is None else self.transform(image)), self.targets[index]


class Mappings(torch.utils.data.Dataset):
    """Items with fields of any name, and no attribute that holds the classes."""

    def __init__(self, counts=tiny.TRAIN_COUNTS, seed=0, label="label"):
        self.rows, self.key = tiny.images(counts, seed), label

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"photo": self.rows[index]["image"], self.key: self.rows[index]["label"]}
