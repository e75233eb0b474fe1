"""MixMatch: guessed labels, sharpened, and mixup of labelled and unlabelled images.

Shape suffixes: B labelled samples, U = mu B unlabelled ones, V views, R = B + V U rows of a batch, K classes.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selmix_hf.method.losses import LogitAdjustedLoss
from selmix_hf.mixing.mixup import mix_with_partners
from selmix_hf.training.semi_supervised.base import SemiSupervisedTrainer


def guess_labels(logits: Tensor, temperature: float) -> Tensor:
    """q = p^(1/T) / sum_k p_k^(1/T), p the mean prediction over the views; no gradient.

    Berthelot et al. 2019 (arXiv 1905.02249), equations 6 and 7.

    Args:
        logits: V x U x K.
        temperature: T; 1 leaves p as it is.

    Returns:
        q, U x K.
    """
    power_UK = logits.detach().float().softmax(-1).mean(0) ** (1 / temperature)
    return power_UK / power_UK.sum(-1, keepdim=True)


def mixup(values: Tensor, share: Tensor, order: Tensor) -> Tensor:
    """share' values + (1 - share') values[order], share' = max(share, 1 - share): equations 9 to 12.

    Args:
        values: R rows of any shape.
        share, order: of each row and of its partner, shape R.
    """
    return mix_with_partners(values, order, torch.maximum(share, 1 - share))


def draw_mixing(num_rows: int, alpha: float, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A share from Beta(alpha, alpha) and a partner for each of R rows, each shape R; partners are a permutation."""
    share_R, order_R = generator.beta(alpha, alpha, num_rows), generator.permutation(num_rows)
    return torch.from_numpy(share_R).float(), torch.from_numpy(order_R)


def brier_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over samples and classes of (target - softmax(logits))^2, both R x K: equation 4."""
    return F.mse_loss(logits.float().softmax(-1), target)


class MixMatchTrainer(SemiSupervisedTrainer):
    """CE(mixed labelled) + unlabeled_weight * t * `brier_loss`(mixed unlabelled), t = step / rampup_steps up to 1.

    Every row has a share of its own, and the rows of a process's batch are mixed with each other; both are drawn from
    the seeds of that batch. Guessed labels come from the current weights in training mode, on the plain logits: the
    balanced predictor under a logit-adjusted loss. That pass leaves no trace in batch-norm's running statistics.

    Args:
        loss: "logit_adjusted", "balanced_softmax", "cross_entropy", or a `LogitAdjustedLoss`: mixed labels have no
            margin, nor a weight of one class.
        temperature: T of the guessed labels, positive.
        mixup_alpha: the shares are Beta(alpha, alpha), positive.
        args, kwargs: as for `SemiSupervisedTrainer`; mu, unlabeled_weight and rampup_steps default to the paper's 1,
            75 and 16,000 (on CIFAR-10). A steep ramp to such a weight, while guesses are poor, ruins a model.

    Raises:
        ValueError: as `SemiSupervisedTrainer`; another loss, a temperature or an alpha that is not positive.
    """

    def __init__(
        self,
        *args: Any,
        mu: int = 1,
        unlabeled_weight: float = 75.0,
        rampup_steps: int = 16_000,
        temperature: float = 0.5,
        mixup_alpha: float = 0.75,
        **kwargs: Any,
    ) -> None:
        for name, value in (("temperature", temperature), ("mixup_alpha", mixup_alpha)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, found {value}: the paper's 0.5 and 0.75 are the defaults.")
        self.temperature, self.alpha = temperature, mixup_alpha
        super().__init__(*args, mu=mu, unlabeled_weight=unlabeled_weight, rampup_steps=rampup_steps, **kwargs)
        if not isinstance(self.loss, LogitAdjustedLoss):
            raise ValueError(
                "MixMatch's labels are mixed, so its loss must be 'logit_adjusted', 'balanced_softmax', "
                f"'cross_entropy' or a LogitAdjustedLoss, found {kwargs['loss']!r}."
            )

    def losses(self, model: nn.Module, labelled: Tensor, labels: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        unlabelled = views.flatten(0, 1)
        guess_UK = guess_labels(torch.unflatten(self.logits_aside(unlabelled), 0, views.shape[:2]), self.temperature)
        target_RK = torch.cat([F.one_hot(labels, guess_UK.shape[1]), guess_UK.repeat(len(views), 1)])
        share_R, order_R = (
            part.to(labels.device) for part in draw_mixing(len(target_RK), self.alpha, self.batch_generator)
        )
        target_RK = mixup(target_RK, share_R, order_R)
        logits_RK = self.logits(model, mixup(torch.cat([labelled, unlabelled]), share_R, order_R)).float()
        loss = cast(LogitAdjustedLoss, self.loss)
        adjusted_BK = loss.adjusted(logits_RK[: len(labels)], labels)
        return (
            F.cross_entropy(adjusted_BK, target_RK[: len(labels)], label_smoothing=loss.label_smoothing),
            brier_loss(logits_RK[len(labels) :], target_RK[len(labels) :]),
        )
