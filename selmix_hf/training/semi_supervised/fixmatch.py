"""FixMatch: a confident prediction on a weak view is the label of a strong one.

Shape suffixes: B labelled samples, U = mu B unlabelled ones, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selmix_hf.data.collators import ImageTransform
from selmix_hf.data.views import StrongView
from selmix_hf.training.semi_supervised.base import SemiSupervisedTrainer


def pseudo_label_loss(weak_logits: Tensor, strong_logits: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """(1/U) sum over all U of 1[max p_weak >= threshold] CE(strong, argmax p_weak); no gradient through the weak view.

    Sohn et al. 2020 (arXiv 2001.07685), equation 4.

    Args:
        weak_logits, strong_logits: of the two views, U x K.
        threshold: of confidence.

    Returns:
        the loss, and the share of samples above the threshold.
    """
    confidence_U, label_U = weak_logits.detach().float().softmax(-1).max(-1)
    kept_U = (confidence_U >= threshold).float()
    loss_U = F.cross_entropy(strong_logits.float(), label_U, reduction="none")
    return (kept_U * loss_U).mean(), kept_U.mean()


class FixMatchTrainer(SemiSupervisedTrainer):
    """loss(labelled) + unlabeled_weight * `pseudo_label_loss`.

    With loss="logit_adjusted", the default, this is FixMatch(LA), where SelMix starts from. The loss then shifts the
    labelled logits by log pi, so the plain logits are the balanced predictor, and both the pseudo-label and the loss
    on it come from them: shifted ones would hand unlabelled images of rare classes to the frequent ones.

    Args:
        threshold: least probability of a pseudo-label, in [0, 1]; default the paper's.
        strong_transform: image (PIL, RGB) -> tensor for the strong view, such as timm's RandAugment; default
            `views.StrongView` before `processing_class`.
        args, kwargs: as for `SemiSupervisedTrainer`; mu and unlabeled_weight default to the paper's 7 and 1.

    Logs the share of unlabelled images above the threshold as "pseudo_labeled".

    Raises:
        ValueError: as `SemiSupervisedTrainer`, and for a threshold outside [0, 1].
    """

    def __init__(
        self, *args: Any, threshold: float = 0.95, strong_transform: ImageTransform | None = None, **kwargs: Any
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is a probability in [0, 1], found {threshold}: the paper's is 0.95.")
        self.threshold, self.strong_transform = threshold, strong_transform
        super().__init__(*args, **kwargs)

    def unlabeled_views(self, weak: ImageTransform, processing_class: Any) -> list[ImageTransform]:
        if self.strong_transform is None and processing_class is None:
            raise ValueError("the strong view needs processing_class or strong_transform, found neither.")
        return [weak, self.strong_transform or StrongView(processing_class)]

    def losses(self, model: nn.Module, labelled: Tensor, labels: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.logits(model, torch.cat([labelled, *views]))
        own_BK, weak_UK, strong_UK = torch.split(logits, [len(labels), *[views.shape[1]] * 2])
        loss, kept = pseudo_label_loss(weak_UK, strong_UK, self.threshold)
        self.note(pseudo_labeled=kept)
        return self.labelled_loss(own_BK, labels), loss
