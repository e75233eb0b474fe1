"""Every option of `SelMixTrainer`, its default and why."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any, cast

from transformers import TrainingArguments

from selmix_hf.config_checks import (
    check_evaluations,
    check_processes,
    check_values,
    parse_constraints,
    parse_prior,
    plain_numbers,
    say_if_looked_at_once,
    work_out_backbone_rate,
)
from selmix_hf.data.bad_images import ON_BAD_IMAGE
from selmix_hf.data.weighted import checked_sampling
from selmix_hf.method.confusion import ABSENT
from selmix_hf.method.objective_names import get_objective
from selmix_hf.method.objectives import Objective
from selmix_hf.method.pair_distribution import PAIR_SAMPLING
from selmix_hf.mixing.registry import MIXING
from selmix_hf.options import check_options, choice, count, naming_the_nearest, number, option, options_of, switch
from selmix_hf.reports.registry import lower_is_better
from selmix_hf.trainer_options import OWN_METRICS, PAIRS, check_schedule, check_trainer_options, expanded

_PAIRS, _OF_CLASSES = 128_000, 10  # so many pairs for so many classes; for more, as the square root of their number
_LOOKS = 200  # at the gain set in a run, at most


@naming_the_nearest
@dataclass
class SelMixConfig(TrainingArguments):
    """`transformers.TrainingArguments` with the options of SelMix.

    `per_device_train_batch_size` counts pairs: the model sees twice as many samples (with `sampling` it counts single
    ones). One period is one epoch of Trainer, so "epoch" strategies mean "once a period"; the length of the run is
    `max_steps`.

    Defaults that differ from TrainingArguments:

    - `max_steps` None instead of -1: epochs of the dataset mean nothing when classes are drawn. None stands for
      128,000 pairs for up to 10 classes, and the square root of K / 10 times as many for more: 2,000, 4,776 and 20,000
      steps of 64 pairs for 10, 57 and 1,000 classes (`work_out`). Until then it reads 0, as Trainer wants a number.
    - `per_device_train_batch_size` 64 instead of 8: the paper's.
    - `optim` "sgd" instead of AdamW: the gains are those of a gradient step.
    - `learning_rate` None instead of 5e-5: a rate of the head that is worked out from the data, see `head_start`. A
      given one is absolute.
    - `lr_scheduler_type` "cosine" instead of "linear": the paper's.
    - `max_grad_norm` 0 (off) instead of 1: the gains are those of a gradient step as it is.
    - `logging_nan_inf_filter` False: a loss that is not finite stops the run before the update, not hidden.
    - `eval_strategy` "epoch", `save_strategy` "best", `save_total_limit` 2, `load_best_model_at_end` True,
      `metric_for_best_model` "selection_score": the best checkpoint by the objective, feasible ones first, the start
      included, ties broken by the recalls (`selection.ranking`). Unless set, greater_is_better is False for a
      loss, "violation" and "zero_recall_classes", and True for any other.
    - `remove_unused_columns` False: the collator needs the raw columns.
    - `report_to` stays "none" unless set.

    A number whose default is None is worked out from the data or from other options. 0, which older configurations
    have there, means the same, but for `backbone_learning_rate`.

    Args:
        objective: its name, see `objective_names.get_objective`; a callable goes to `SelMixTrainer(objective=...)`.
        constraints: such as {"coverage": 0.95}, or that as a JSON string.
        class_prior: "validation", "balanced" or K positive weights, normalised: a list, or that as a JSON string;
            default the objective's own.
        tail_share: share of the classes, the least frequent in training, that are the tail.
        worst_share: share of the classes, those of the lowest recall, whose mean recall is the objective
            "worst_share_recall" and a number of every report; the minimum, where it is no more than one class.
        constraint_tolerance: largest violation, in relative coverage, of a feasible checkpoint.
        freeze_backbone: train the head alone, on pooled features computed once. Not with an adapter of peft, which
            would not train either.
        reuse_samples: let a sample serve as first one of a pair and as second one of another in its batch, wherever
            the drawn classes allow it, which saves up to half of the backbone's work (of loading alone, where images
            are mixed); see `draws.reuse_samples`. The pairs then depend on how a step is cut into batches.
        feature_views: with `freeze_backbone`, how many (augmented) views of each training image are stored; views
            beyond the first need a `train_transform` that is random.
        feature_cache_dir: with `freeze_backbone`, a folder that keeps features from run to run, read where backbone,
            data and transform are the same. They are memory-mapped, so they need not fit into memory, and a pass that
            was interrupted goes on. Without a folder features are kept in memory.
        feature_dtype: of stored features: "float32", or "float16", which takes half the room.
        backbone_learning_rate: absolute, and that of an adapter; default a thirtieth of a given `learning_rate`, and
            0.0001 beside one that is worked out. A pretrained backbone is soon spoilt: raise it with care, and lower
            it further with momentum.
        head_start: "best": the run begins with the model's head, or with one retrained on the training set where that
            scores better on the gain set; then on the evaluation set too, or the model's own is put back. "as_is":
            with the model's own. The retrained heads also tell the rate where no `learning_rate` is given,
            see `training.head_start`; then only evaluations of the last quarter, when it has fallen, can be the best
            beside the start. With `gain_set_use` "refit" or "train" the head is that of the refit, and with
            `sampling` the model's own.
        confusion: what the gain is the derivative of. "soft": the objective at the soft confusion matrix of the gain
            set, softmax(logits / `confusion_temperature`), in which classes that are never hit have a derivative too
            (`method.soft_gain`). "hard": at the counts, as the paper has it. Reports, choice and constraints are of
            the counts either way.
        confusion_temperature: T of "soft"; towards 0 it is the counts, 1 is the smoothest that is useful.
        refresh_steps: optimizer steps between two looks at the gain set; default 10 with a frozen backbone, where a
            look costs milliseconds, and 50 otherwise, but no more than 200 looks in a run.
        gain_set_use: "steer": the gain set steers and nothing else. "refit": before the first period the head is
            retrained on training and gain set together (`refit.refit_head`), which is then the start of the run.
            "train": that, and pairs are drawn from both sets. Where rare classes have more validation than training
            images, "refit" gained most for a minimum and "train" for smooth objectives (docs/results.md). Numbers on
            the gain set, the choice of the checkpoint among them, are then optimistic: report those of a test set.
        sampling: draw single samples, nothing mixed, instead of pairs: "class_balanced" (every class as often as any
            other), "square_root" (classes by the square root of their size), "natural" (samples as they are), a power
            of the class size between 0 and 1, or K class weights, as a list or a JSON string; with replacement, see
            `weighted.class_shares`. The batch size then counts samples. The objective chooses the checkpoint
            and does not steer, and the options of pairs and multipliers must stay at their defaults. With
            `freeze_backbone` and "class_balanced" this is classifier re-training (cRT; Kang et al. 2020, arXiv
            1910.09217), from the head that the model has. Weights of samples go to
            `SelMixTrainer(sample_weights=...)`.
        pair_sampling: "selmix", "uniform" (plain class-balanced mixup) or "greedy".
        inverse_temperature: s of softmax(s G), or "auto": chosen for `target_share`.
        target_share: with "auto", exp(entropy of P) as a share of the pairs with positive gain; default 0.97 where
            the objective is one smooth function of up to 100 classes, and 0.5 where it is a minimum or of the worst
            share, has constraints, or there are more classes; docs/analysis.md.
        mixing: how two samples become one, a name in `mixing.registry.MIXING`. "feature" mixes what enters the head,
            as the paper does. The others, such as "input" (mixup), "cutmix" and "puzzlemix", mix images before the
            model, which then is trained on one image a pair. The label stays the first sample's. Gains are worked out
            for features at the mean coefficient: for images they are an approximation. With a frozen backbone
            "feature", or a function given as `SelMixTrainer(mixing=...)`.
        beta_min: the mixing coefficient is uniform on [beta_min, 1]; the paper's 0.6. Below 0.4 there is a
            warning. The share of the first image that a mixing really leaves is logged: `mixed_share`.
        pseudo_label_steps: with an `unlabeled_dataset`, optimizer steps between two looks at it, a multiple of
            `refresh_steps`; default `refresh_steps` with a frozen backbone, and ten times that otherwise.
        pseudo_label_source: "model"; "ema", the exponential moving average of the trained weights; or "oracle", the
            true classes given as `unlabeled_labels`, which is an upper bound for a study and nothing else.
        ema_decay: of that average, a step.
        pseudo_label_threshold: least confidence of a pseudo-label that is used.
        pseudo_label_share: of the samples predicted as a class, the most confident ones used (`pseudo_labels.choose`).
        on_bad_image: what is done with images of the run's sets that cannot be decoded: "raise" stops where one is met
            and names it; "skip" reads all images before the run and leaves such rows out, which a warning lists. A set
            given to `evaluate` or `predict` is read as it is.
        min_rate, min_memory: of the multipliers of a minimum or a worst share, see `minimum.MinimumMetric`.
        constraint_update, constraint_rate: of the multipliers of a constraint, see `objectives.Constraint`.
        absent_classes: those that an evaluated set lacks: "refuse", or "leave out" of its numbers; docs/metrics.md.

    Raises:
        ValueError: on any bad value, and on an option of Trainer that would have no effect here or another one
            (`selmix_hf.trainer_options`), before a weight is loaded.
        TypeError: on an option that does not exist, with the nearest one.
    """

    # steps and rates that are None at first are annotated as what they are once worked out
    objective: str = option("min_recall", "Metric of the confusion matrix to optimise.", on_card=False)
    constraints: dict[str, Any] | str | None = option(None, "Constraints with levels, JSON: '{\"coverage\": 0.95}'.")
    class_prior: list[float] | str | None = option(
        None, "Class prior of the objective: 'validation', 'balanced', [K floats].", kept_on_resume=False
    )
    tail_share: float = number(0.1, "Share of the classes that are the tail.", "(0, 1)", kept_on_resume=False)
    worst_share: float = number(
        0.1,
        "Worst share of the classes, whose mean recall counts.",
        "(0, 1]",
        hint="0.1 is the mean recall of the worst tenth of the classes.",
    )
    constraint_tolerance: float = number(0.01, "Violation that counts as feasible.", "[0, inf)", kept_on_resume=False)
    freeze_backbone: bool = switch(False, "Train the head alone, on stored features.")
    reuse_samples: bool = switch(False, "Let a sample serve in two pairs of a batch.", of_pairs=True)
    feature_views: int = count(1, "Stored views of each training image.", at_least=1, kept_on_resume=False)
    feature_dtype: str = choice(
        "float32", "Precision of stored features: float32 or float16.", ("float32", "float16"), kept_on_resume=False
    )
    feature_cache_dir: str | None = option(None, "Folder for stored features.", kept_on_resume=None, on_card=False)
    backbone_learning_rate: float | None = number(
        None, "Learning rate of the backbone; default learning_rate / 30, or 1e-4.", "[0, inf)", kept_on_resume=False
    )
    head_start: str = choice(
        "best", "Begin with the 'best' of some retrained heads, or 'as_is'.", ("best", "as_is"), kept_on_resume=False
    )
    confusion: str = choice("soft", "The gain's matrix: 'soft' or 'hard' (counts).", ("soft", "hard"), of_pairs=True)
    confusion_temperature: float = number(
        0.3,
        "Temperature of the soft confusion matrix.",
        "(0, inf)",
        hint="for the limit 0 set confusion='hard'.",
        of_pairs=True,
        kept_on_resume=lambda config: config.confusion == "soft",
    )
    refresh_steps: int = count(
        None,
        "Steps between two looks at the gain set; by default at least 10 (frozen) or 50.",
        at_least=0,
        worked_out=True,
    )
    gain_set_use: str = choice(
        "steer",
        "The gain set may 'steer', 'refit' the head too, or 'train' too.",
        ("steer", "refit", "train"),
        listed=True,
    )
    sampling: list[float] | str | None = option(
        None, "Draw single samples: 'natural', 'square_root', 'class_balanced', a power, [K floats]."
    )
    pair_sampling: str = choice(
        "selmix",
        "How pairs of classes are drawn: 'selmix', 'uniform' or 'greedy'.",
        PAIR_SAMPLING,
        listed=True,
        of_pairs=True,
    )
    inverse_temperature: str = option("auto", "s of P = softmax(s G), or 'auto'.", of_pairs=True, kept_on_resume=False)
    target_share: float | None = number(
        None,
        "Effective share of the positive pairs; default by the objective.",
        "(0, 1]",
        worked_out=True,
        of_pairs=True,
        kept_on_resume=False,
    )
    mixing: str = choice(
        "feature",
        f"How two samples become one: {', '.join(MIXING)}.",
        MIXING,
        listed=True,
        hint="a function of your own goes to SelMixTrainer(mixing=...).",
        of_pairs=True,
    )
    beta_min: float = number(
        0.6,
        "Mixing coefficients are uniform on [beta_min, 1].",
        "[0, 1]",
        hint="it is the least share of x1 in a mix.",
        of_pairs=True,
    )
    pseudo_label_steps: int = count(
        None,
        "Steps between pseudo-labels; default refresh_steps frozen, else ten times that.",
        at_least=0,
        worked_out=True,
        of_pseudo_labels=True,
    )
    pseudo_label_source: str = choice(
        "model",
        "What gives pseudo-labels: 'model', 'ema' or 'oracle'.",
        ("model", "ema", "oracle"),
        hint="a teacher of your own goes to SelMixTrainer(teacher=...).",
        of_pseudo_labels=True,
    )
    ema_decay: float = number(0.999, "Decay of the moving average of the weights.", "[0, 1)", of_pseudo_labels=True)
    pseudo_label_threshold: float = number(0.0, "Least confidence of a pseudo-label.", "[0, 1)", of_pseudo_labels=True)
    pseudo_label_share: float = number(
        1.0, "Share of each class that is used, the most confident.", "(0, 1]", of_pseudo_labels=True
    )
    on_bad_image: str = choice("raise", "Broken images: 'raise' or 'skip'.", ON_BAD_IMAGE, kept_on_resume=None)
    min_rate: float = number(10.0, "Rate of a minimum's multipliers.", "[0, inf)", of_pairs=True, kept_on_resume=False)
    min_memory: float = number(
        0.8, "Memory of a minimum's multipliers.", "[0, 1)", of_pairs=True, kept_on_resume=False
    )
    constraint_update: str = choice(
        "projected_gradient",
        "Update of the constraint multipliers: 'projected_gradient' or 'exponential'.",
        ("projected_gradient", "exponential"),
        of_pairs=True,
        kept_on_resume=False,
    )
    constraint_rate: float = number(
        0.3, "Step of constraint multipliers.", "[0, inf)", of_pairs=True, kept_on_resume=False
    )
    absent_classes: str = choice("refuse", "Classes that a set lacks.", ABSENT, kept_on_resume=None, on_card=False)

    # changed defaults of TrainingArguments, see the docstring
    max_steps: int = count(
        None, "Optimizer steps; default by the number of classes.", at_least=0, worked_out=True, kept_on_resume=False
    )
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Pairs (or samples) a step and device."})
    optim: str = field(default="sgd", metadata={"help": "Optimizer."})
    learning_rate: float = number(
        None,
        "Learning rate of the head; default worked out from the data.",
        "[0, inf)",
        worked_out=True,
        kept_on_resume=False,
    )
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; 0 for none."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide losses that are not finite."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate; 'epoch' is once a period."})
    save_strategy: str = field(default="best", metadata={"help": "When to save: 'best', 'epoch', 'steps' or 'no'."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Number of checkpoints kept."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Return the best checkpoint."})
    metric_for_best_model: str | None = field(
        default="selection_score", metadata={"help": "Metric that chooses the checkpoint."}
    )
    greater_is_better: bool | None = field(
        default=None, metadata={"help": "Whether more of metric_for_best_model is better."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay False: raw columns make pairs."})

    def __post_init__(self) -> None:
        check_options(self)
        self.output_dir = expanded("output_dir", self.output_dir)
        self.feature_cache_dir = expanded("feature_cache_dir", self.feature_cache_dir)
        self.max_steps = self.max_steps or 0  # Trainer compares it before the number of classes is known
        if isinstance(self.constraints, str):
            self.constraints = parse_constraints(self.constraints)
        if isinstance(self.class_prior, str) and self.class_prior.lstrip().startswith("["):
            self.class_prior = parse_prior(self.class_prior)
        elif (to_list := getattr(self.class_prior, "tolist", None)) is not None:
            self.class_prior = to_list()  # an array or a tensor would not go into JSON
        if self.sampling is not None:
            self.sampling = checked_sampling(self.sampling)
        work_out_backbone_rate(self)
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = not lower_is_better(self.metric_for_best_model)
        check_values(self)
        super().__post_init__()  # type: ignore[no-untyped-call]  # theirs has no types
        check_processes(self)
        check_trainer_options(self, PAIRS, OWN_METRICS)
        self._check_lengths()
        say_if_looked_at_once(self)
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False  # nothing to pin for, and torch would warn at every loader

    def to_dict(self) -> dict[str, Any]:
        """As Trainer's, in plain numbers."""
        return plain_numbers(super().to_dict())  # type: ignore[no-untyped-call]  # theirs has no types

    @property
    def temperature(self) -> float | str:
        """`inverse_temperature` as a number where it is one."""
        try:
            return float(self.inverse_temperature)
        except ValueError:
            return self.inverse_temperature

    def work_out(self, num_classes: int) -> None:
        """Set what was not given and follows from the number of classes: `max_steps`, `refresh_steps` and
        `pseudo_label_steps`. The length is in pairs (with `sampling`: samples), so that larger batches and more
        processes take fewer steps.

        Raises:
            ValueError: evaluations beyond the run, or pseudo-labels that change within a period.
        """
        of_step = self.train_batch_size * self.gradient_accumulation_steps * self.world_size
        steps = self.max_steps or _PAIRS * math.sqrt(max(1, num_classes / _OF_CLASSES)) / of_step
        if not self.refresh_steps:
            self.refresh_steps = max(10 if self.freeze_backbone else 50, round(steps / _LOOKS))
        if not self.max_steps:
            self.max_steps = max(1, round(steps / self.refresh_steps)) * self.refresh_steps
        if not self.pseudo_label_steps:
            self.pseudo_label_steps = self.refresh_steps * (1 if self.freeze_backbone else 10)
        self._check_lengths()

    def for_classes(self, num_classes: int) -> SelMixConfig:
        """A copy, worked out for so many classes."""
        made = copy.copy(self)
        made.work_out(num_classes)
        return made

    def _check_lengths(self) -> None:
        if self.refresh_steps and (self.pseudo_label_steps or 0) % self.refresh_steps:
            raise ValueError(
                f"pseudo_label_steps must be a multiple of refresh_steps={self.refresh_steps}, found "
                f"{self.pseudo_label_steps}: the pairs of a period are drawn when it begins."
            )
        check_evaluations(self, self.max_steps)
        periods = self.max_steps / self.refresh_steps if self.refresh_steps else None
        check_schedule(self, self.max_steps, periods, f"periods of refresh_steps={self.refresh_steps} steps")

    def make_objective(self, objective: Any = None, class_counts: Any = None) -> Objective:
        """The objective that the options describe, for training class counts (shape K).

        Args:
            objective: instead of the name in the options: a name, a callable or an `Objective`.
            class_counts: define head and tail.
        """
        return get_objective(
            self.objective if objective is None else objective,
            cast("dict[str, float] | None", self.constraints),
            class_prior=self.class_prior,
            class_counts=class_counts,
            tail_share=self.tail_share,
            worst_share=self.worst_share,
            min_rate=self.min_rate,
            min_memory=self.min_memory,
            constraint_update=self.constraint_update,
            constraint_rate=self.constraint_rate,
            tolerance=self.constraint_tolerance,
        )

    def kept_on_resume(self, with_pseudo_labels: bool) -> dict[str, Any]:
        """The options that a resumed run must keep, by name, as they are given here.

        Args:
            with_pseudo_labels: whether the run has unlabelled samples, without which their options mean nothing.
        """
        kept = {}
        for name, one in options_of(self).items():
            keep = one.kept_on_resume(self) if callable(one.kept_on_resume) else one.kept_on_resume
            if keep and (with_pseudo_labels or not one.of_pseudo_labels):
                kept[name] = getattr(self, name)
        return kept
