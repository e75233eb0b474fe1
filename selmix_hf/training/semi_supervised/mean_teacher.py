"""Mean Teacher: the prediction on one view should be that of the averaged weights on another.

Shape suffixes: B labelled samples, U = mu B unlabelled ones, K classes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selmix_hf.training.semi_supervised.base import SemiSupervisedTrainer


def consistency_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean over samples and classes of (softmax(student) - softmax(teacher))^2; no gradient through the teacher.

    Tarvainen and Valpola 2017 (arXiv 1703.01780), equation 6, divided by K as in their code.

    Args:
        student_logits, teacher_logits: U x K.
    """
    return F.mse_loss(student_logits.float().softmax(-1), teacher_logits.detach().float().softmax(-1))


class MeanTeacherTrainer(SemiSupervisedTrainer):
    """loss(labelled) + unlabeled_weight * exp(-5 (1 - t)^2) * `consistency_loss`, t = step / rampup_steps up to 1.

    Student and teacher see two weak views of every unlabelled image. The teacher is the weight average that is also
    evaluated; it runs in training mode, with dropout and batch statistics of its own, and leaves no trace in the
    running statistics. Both probabilities are those of the plain logits, the balanced predictor under a logit-adjusted
    loss.

    Args:
        args, kwargs: as for `SemiSupervisedTrainer`; unlabeled_weight and rampup_steps default to the authors' 100 and
            40,000 (on CIFAR-10); a shorter run hardly leaves the beginning of that ramp.

    Raises:
        ValueError: as `SemiSupervisedTrainer`.
    """

    def __init__(self, *args: Any, unlabeled_weight: float = 100.0, rampup_steps: int = 40_000, **kwargs: Any) -> None:
        super().__init__(*args, unlabeled_weight=unlabeled_weight, rampup_steps=rampup_steps, **kwargs)

    def ramp(self, progress: float) -> float:
        return math.exp(-5 * (1 - progress) ** 2)

    def losses(self, model: nn.Module, labelled: Tensor, labels: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        own_BK, student_UK = self.logits(model, torch.cat([labelled, views[0]])).tensor_split([len(labels)])
        teacher_UK = self.logits_aside(views[1], averaged=True)
        return self.labelled_loss(own_BK, labels), consistency_loss(student_UK, teacher_UK)
