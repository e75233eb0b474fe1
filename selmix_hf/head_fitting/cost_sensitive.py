"""The cost-sensitive reduction: an objective becomes class weights in the loss, which follow the validation set.

Narasimhan and Menon 2021, "Training over-parameterized models with non-decomposable objectives" (arXiv 2107.04641),
whose hybrid loss CSST (Rangwani et al. 2022, arXiv 2304.14738) takes to semi-supervised training. Shape suffixes: N
samples, B samples of a batch, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from selmix_hf.head_fitting.retraining import Head, retrain_head
from selmix_hf.method.confusion import confusion_counts, resolve_class_prior, smooth_confusion
from selmix_hf.method.gain import metric_gradient
from selmix_hf.method.losses import positive_counts
from selmix_hf.method.minimum import MinimumMetric
from selmix_hf.method.objectives import Multipliers, Objective

_SMALLEST_WEIGHT = 1e-3  # of the largest: a class of weight 0 would have no bound on its logit


class CostSensitiveLoss(nn.Module):
    """The hybrid loss for the current linear approximation of an objective; `compute_loss_func` of any Trainer.

    psi's derivative at the validation confusion matrix makes gains G_yi of predicting i for a sample of class y. With
    D = diag(G) and M = G D^-1 the loss is -sum_i M_yi log softmax(f - log diag(D))_i, whose minimiser predicts
    argmax_i sum_y p(y|x) G_yi. Where only hits count, M is the identity and this is the logit-adjusted loss with
    class weights in the place of priors. Rows of G are shifted so that their smallest is 0, which changes no
    prediction, and are worth pi_y of the objective on training data where class y has another share.

    Args:
        objective: its metric and constraints give the gains; the multipliers of a minimum follow exponentiated
            gradient, log lambda <- log lambda - rate r, those of constraints their own update.
        class_counts: training samples of each class, K.
        rate: of the exponentiated gradient.

    Attributes:
        gain: G, float64, K x K.
    """

    def __init__(self, objective: Objective, class_counts: Sequence[int] | Tensor, rate: float = 1.0) -> None:
        super().__init__()
        counts_K = positive_counts(class_counts)
        self.objective, self.rate = objective, rate
        self.train_prior_K = counts_K / counts_K.sum()
        self.multipliers: Multipliers = objective.initial_multipliers(len(counts_K))
        self.gain = torch.eye(len(counts_K), dtype=torch.float64)
        self._log_weight_K, self._share_KK = torch.zeros(len(counts_K)), torch.eye(len(counts_K))

    def update(self, counts: Tensor) -> None:
        """Take the gains from the counts (K x K) of the validation set under the current weights."""
        counts, objective = counts.cpu(), self.objective
        multipliers = objective.update_multipliers(self.multipliers, counts)
        metric, smoothed_KK = objective.metric, smooth_confusion(counts, objective.class_prior)
        if isinstance(metric, MinimumMetric):
            log_J = self.multipliers[metric.name].log().clamp(min=-700) - self.rate * metric.components(smoothed_KK)
            multipliers[metric.name] = metric.normalized(log_J)
        self.multipliers = multipliers
        # metric_gradient is C (Psi - a number a row), and such numbers change no prediction
        gain_KK = metric_gradient(objective, counts, multipliers=multipliers) / smoothed_KK
        prior_K = resolve_class_prior(objective.class_prior, counts.sum(1))
        gain_KK = (gain_KK - gain_KK.amin(1, keepdim=True)) * (prior_K / self.train_prior_K)[:, None]
        weight_K = gain_KK.diagonal()
        weight_K = weight_K.clamp(min=_SMALLEST_WEIGHT * float(weight_K.max()))
        self.gain = gain_KK
        self._log_weight_K, self._share_KK = weight_K.log().float(), (gain_KK / weight_K).float()

    def forward(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss of logits (B x K), or of a model output that has them; see `losses.LongTailLoss.forward`."""
        logits_BK = (outputs if isinstance(outputs, Tensor) else outputs["logits"]).float()
        log_softmax_BK = (logits_BK - self._log_weight_K.to(logits_BK)).log_softmax(1)
        loss_B = -(self._share_KK.to(logits_BK)[labels] * log_softmax_BK).sum(1)
        return loss_B.sum() / (len(loss_B) if num_items_in_batch is None else num_items_in_batch)


def cost_sensitive_head(
    features: Tensor,
    labels: Tensor,
    validation_features: Tensor,
    validation_labels: Tensor,
    objective: Objective,
    *,
    start: Head,
    refresh_steps: int = 10,
    rate: float = 1.0,
    **options: Any,
) -> Head:
    """A head trained by `CostSensitiveLoss`, which looks at the validation set every `refresh_steps` steps.

    Args:
        features, labels: training set, N x D and N.
        validation_features, validation_labels: the set that the gains follow.
        objective, rate: of the loss.
        start: weight (K x D) and bias (K) to begin from.
        options: of the training, see `retrain_head`.

    Returns:
        weight and bias.
    """
    num_classes = len(start[0])
    loss = CostSensitiveLoss(objective, torch.bincount(labels, minlength=num_classes), rate)

    def look(number: int, weight: Tensor, bias: Tensor) -> None:
        if number % refresh_steps == 0:
            logits_NK = validation_features @ weight.T + bias
            loss.update(confusion_counts(validation_labels, logits_NK, num_classes))

    return retrain_head(features, labels, num_classes, loss, start=start, before_step=look, **options)
