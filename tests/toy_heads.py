"""A small classifier and heads of every kind for it, also such as cannot be mixed."""

import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

K, D, B = 3, 8, 4


class Classifier(nn.Module):
    """Backbone with batch norm, and any head on the pooled features."""

    def __init__(self, head: nn.Module, dropout: float = 0.0, checkpointing: bool = False) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(5, D), nn.BatchNorm1d(D), nn.Tanh())
        self.dropout = nn.Dropout(dropout)
        self.head = head
        self.checkpointing = checkpointing

    def features(self, pixel_values):
        if self.checkpointing and self.training:
            return checkpoint(self.backbone, pixel_values, use_reentrant=False)
        return self.backbone(pixel_values)

    def forward(self, pixel_values):
        return self.head(self.dropout(self.features(pixel_values)))


class Averaged(nn.Module):
    """Two linear layers on the same or on two different features; logits are their mean."""

    def __init__(self, bias: bool = True, in_features: int = D // 2) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(D // 2, K, bias), nn.Linear(in_features, K, bias)
        self.distilled_training = False

    def forward(self, z):
        first, second = self.first(z[:, : D // 2]), self.second(z[:, -self.second.in_features :])
        return (first, second) if self.distilled_training and self.training else (first + second) / 2


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(D, K, 1)

    def forward(self, z):
        return self.fc(z[:, :, None, None]).flatten(1)


class Cosine(nn.Linear):
    def forward(self, z):
        return 10 * F.linear(F.normalize(z), F.normalize(self.weight))


class Changed(nn.Module):
    """A linear layer and something after it."""

    def __init__(self, change) -> None:
        super().__init__()
        self.fc = nn.Linear(D, K)
        self.change = change

    def forward(self, z):
        return self.change(self, z)


HEADS = {
    "linear": lambda: nn.Linear(D, K),
    "no bias": lambda: nn.Linear(D, K, bias=False),
    "conv": Conv,
    "averaged": Averaged,
    "averaged without bias": lambda: Averaged(bias=False),
    "zeros": lambda: zeros(nn.Linear(D, K)),
    "averaged zeros": lambda: zeros(Averaged()),
}


def zeros(module):
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
