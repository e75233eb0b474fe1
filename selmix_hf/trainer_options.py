"""The options of `TrainingArguments` in one table: which mean here what they mean in Trainer, and which are refused,
since they would have no effect, or another than their name says.

To judge an option that a new version of transformers brings, try what it does in `SelMixTrainer`, `Stage1Trainer` and
a semi-supervised trainer; then name it in `AS_IN_TRAINER`, or write a `Rule`; and in `FREE_ON_RESUME` or
`SAID_ON_RESUME` where a resumed run may change it. A test compares the table with the installed version.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import TrainingArguments

PAIRS, VIEWS = "SelMixTrainer", "semi-supervised trainers"
OWN_METRICS = "own metrics"  # where the package's own metrics are all that is measured
_FOLLOWING = ("reduce_lr_on_plateau", "greedy")  # schedules that follow metric_for_best_model

AS_IN_TRAINER = frozenset(
    """
    per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps average_tokens_across_devices
    max_steps learning_rate optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm bf16 tf32
    torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps use_liger_kernel
    liger_kernel_config use_cache gradient_checkpointing gradient_checkpointing_kwargs
    activation_checkpointing activation_checkpointing_kwargs
    logging_strategy logging_steps logging_first_step logging_nan_inf_filter log_on_each_node log_level
    log_level_replica disable_tqdm include_num_input_tokens_seen report_to run_name project trackio_space_id
    trackio_bucket_id trackio_static_space_id eval_strategy eval_steps eval_delay eval_on_start
    eval_accumulation_steps eval_use_gather_object include_for_metrics metric_for_best_model greater_is_better
    save_steps save_only_model save_on_each_node ignore_data_skip
    restore_callback_states_from_checkpoint push_to_hub hub_token hub_private_repo hub_model_id hub_strategy
    hub_always_push hub_revision full_determinism seed data_seed use_cpu dataloader_num_workers dataloader_pin_memory
    dataloader_prefetch_factor ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph
    ddp_backend ddp_timeout debug skip_memory_metrics do_train do_eval do_predict local_rank
    """.split()
)
ELSEWHERE = {  # what is refused, converted or made to work: where
    "output_dir": "expanded",
    "lr_scheduler_type": "follow_the_metric",
    "lr_scheduler_kwargs": "follow_the_metric",
    "num_train_epochs": "config_checks.check_values",
    "remove_unused_columns": "config_checks.check_values",
    "auto_find_batch_size": "config_checks.check_values",
    "dataloader_persistent_workers": "config_checks.check_values",
    "fsdp": "config_checks.check_values",
    "fsdp_config": "config_checks.check_values",
    "deepspeed": "config_checks.check_values",
    "accelerator_config": "config_checks.check_processes",
    "resume_from_checkpoint": "training.base.PushingTrainer.train",
}
# What a run may change when it is resumed. All others it keeps, and a test lists them: judge a new one there.
FREE_ON_RESUME = frozenset(  # they leave the weights as they are
    """
    output_dir per_device_eval_batch_size bf16_full_eval fp16_full_eval use_cache torch_empty_cache_steps
    auto_find_batch_size logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter
    include_num_input_tokens_seen log_level log_level_replica disable_tqdm report_to run_name project trackio_space_id
    trackio_bucket_id trackio_static_space_id prediction_loss_only eval_do_concat_batches eval_use_gather_object
    eval_accumulation_steps include_for_metrics batch_eval_metrics save_only_model save_on_each_node save_total_limit
    enable_jit_checkpoint push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push
    hub_revision restore_callback_states_from_checkpoint dataloader_num_workers dataloader_pin_memory
    dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context remove_unused_columns
    label_names ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend
    ddp_timeout debug skip_memory_metrics do_train do_eval do_predict resume_from_checkpoint local_rank use_cpu
    """.split()
)
SAID_ON_RESUME = frozenset(  # they alter which weights are kept, or the last digits of them
    """
    eval_strategy eval_steps eval_delay eval_on_start save_strategy save_steps load_best_model_at_end
    torch_compile torch_compile_backend torch_compile_mode activation_checkpointing activation_checkpointing_kwargs
    gradient_checkpointing gradient_checkpointing_kwargs use_liger_kernel liger_kernel_config tf32 full_determinism
    fsdp fsdp_config deepspeed parallelism_config
    """.split()
)


@dataclass(frozen=True)
class Rule:
    """When an option is refused.

    Attributes:
        name: of the option.
        why: goes on from "name=value "; what would happen, and what to do.
        where: who refuses it: `PAIRS`, `VIEWS`, `OWN_METRICS`; "" for every trainer.
        wrong: of the arguments, whether it is refused; default where it is not at Trainer's default.
    """

    name: str
    why: str
    where: str = ""
    wrong: Callable[[Any], Any] | None = None

    def refuses(self, args: Any) -> bool:
        if self.wrong is not None:
            return bool(self.wrong(args))
        return bool(getattr(args, self.name) != TrainingArguments.__dataclass_fields__[self.name].default)


_NOT_EVALUATED = (
    "needs evaluations to find what is best, and eval_strategy='no' makes none: set eval_strategy to 'epoch' or "
    "'steps', or save_strategy='no' and load_best_model_at_end=False."
)
_HALF = (
    "would leave the weights in half precision after an evaluation, and pixels of full precision do not go through "
    "such weights: leave it out; bf16=True evaluates in bf16 too."
)
_ONE_SET = "hands metrics a part of the set at a time, and those of this package are of all of it: leave it out."
_DRAWN = "has no effect: SelMixTrainer draws samples by their class, see SelMixConfig(sampling=...): leave it out."
_PASSES = "has no effect: the semi-supervised trainers draw whole passes over both sets: leave it out."

RULES = (
    Rule(
        "save_total_limit",
        "would keep every checkpoint: set save_strategy='no' for none, 1 or more for so many, None for all.",
        wrong=lambda args: args.save_total_limit is not None and args.save_total_limit < 1,
    ),
    Rule(
        "save_strategy",
        _NOT_EVALUATED,
        wrong=lambda args: args.save_strategy == "best" and args.eval_strategy == "no",
    ),
    Rule(
        "load_best_model_at_end",
        _NOT_EVALUATED,
        wrong=lambda args: args.load_best_model_at_end and args.eval_strategy == "no",
    ),
    Rule(
        "fp16",
        "is for GPUs, and this run is on a CPU: leave it out, or set bf16=True.",
        wrong=lambda args: args.fp16 and args.device.type == "cpu",
    ),
    Rule("fp16_full_eval", _HALF),
    Rule("bf16_full_eval", _HALF),
    Rule(
        "label_smoothing_factor",
        "must lie in [0, 1): it is the share of a label that is spread over all classes.",
        wrong=lambda args: not 0 <= args.label_smoothing_factor < 1,
    ),
    Rule(
        "warmup_steps",
        "has no effect with a schedule that has no warm-up (constant, reduce_lr_on_plateau, greedy): set it to 0, or "
        "lr_scheduler_type to another, such as 'constant_with_warmup'.",
        wrong=lambda args: args.warmup_steps and args.lr_scheduler_type in ("constant", *_FOLLOWING),
    ),
    Rule(
        "label_names",
        "would hide the labels of a batch from evaluation, which are under 'labels': leave it out.",
        wrong=lambda args: args.label_names not in (None, ["labels"]),
    ),
    Rule(
        "enable_jit_checkpoint",
        "would take SIGTERM from the process outside of its runs too: leave it out. Every run here writes a whole "
        "checkpoint at SIGTERM and at SIGINT.",
    ),
    Rule("batch_eval_metrics", _ONE_SET, OWN_METRICS),
    Rule("eval_do_concat_batches", _ONE_SET, OWN_METRICS),
    Rule("prediction_loss_only", "has no effect: every evaluation measures the objective: leave it out.", PAIRS),
    Rule("train_sampling_strategy", _DRAWN, PAIRS),
    Rule("train_sampling_strategy", _PASSES, VIEWS),
    Rule("length_column_name", _DRAWN, PAIRS),
    Rule("length_column_name", _PASSES, VIEWS),
    Rule(
        "dataloader_drop_last",
        "has no effect on training, where all batches are full, and predict would lose samples: leave it out.",
        PAIRS,
    ),
    Rule("dataloader_in_order", "has no effect: batches come in the order of their drawing: leave it out.", PAIRS),
    Rule(
        "dataloader_multiprocessing_context",
        "has no effect: workers are started as torch starts them: leave it out, or set dataloader_num_workers=0.",
        PAIRS,
        lambda args: args.dataloader_multiprocessing_context not in (None, "fork"),  # Trainer sets that on MPS
    ),
    Rule(
        "parallelism_config",
        "is not supported: the gain needs the head's whole weights. Use plain distributed training.",
        PAIRS,
    ),
    Rule(
        "optim_target_modules",
        "is for optimizers that make their own parameter groups; head and backbone have theirs here: leave it out.",
        PAIRS,
    ),
    Rule(
        "neftune_noise_alpha",
        "has no effect with freeze_backbone=True, where training does not run the backbone: leave one of them out.",
        PAIRS,
        lambda args: args.freeze_backbone and args.neftune_noise_alpha,
    ),
)


def check_trainer_options(args: Any, *where: str) -> None:
    """Refuse what would have no effect, or another one, and let a schedule that follows a metric follow it.

    Args:
        args: as TrainingArguments leaves them.
        where: of `Rule.where`, what the trainer is.

    Raises:
        ValueError: a rule refuses an option.
    """
    for rule in RULES:
        if rule.where in ("", *where) and rule.refuses(args):
            value = getattr(args, rule.name)
            raise ValueError(f"{rule.name}={getattr(value, 'value', value)!r} {rule.why}")
    follow_the_metric(args)


def follow_the_metric(args: Any) -> None:
    """Tell a schedule that follows metric_for_best_model whether more of it is better; by itself it minimises.

    Raises:
        ValueError: lr_scheduler_kwargs say the opposite.
    """
    if args.lr_scheduler_type not in _FOLLOWING:
        return
    mode, given = "max" if args.greater_is_better else "min", dict(args.lr_scheduler_kwargs or {})
    if given.get("mode", mode) != mode:
        raise ValueError(
            f"lr_scheduler_kwargs have mode={given['mode']!r}, and with greater_is_better={args.greater_is_better} "
            f"metric_for_best_model={args.metric_for_best_model!r} asks for {mode!r}: leave mode out, or set "
            "greater_is_better."
        )
    args.lr_scheduler_kwargs = {**given, "mode": mode}


def check_schedule(args: Any, steps: int | None, epochs: float | None, epoch: str = "epochs") -> None:
    """Refuse a warm-up, or a first evaluation, beyond the run.

    Args:
        args: of the run, as TrainingArguments leaves them.
        steps, epochs: of the run; None or 0 where that is not known yet.
        epoch: what epochs are.

    Raises:
        ValueError: there is one.
    """
    if steps and args.get_warmup_steps(steps) > steps:
        raise ValueError(
            f"warmup_steps must be at most max_steps={steps}, found {args.warmup_steps}: the run would end before it "
            "reaches its learning rate. A number below 1 is a share of the run."
        )
    by_step = args.eval_strategy == "steps"
    end = 0 if args.eval_strategy == "no" else (steps if by_step else epochs) or 0
    if end and args.eval_delay > end:
        raise ValueError(
            f"eval_delay counts {'steps' if by_step else epoch} with eval_strategy={args.eval_strategy.value!r} and "
            f"must be at most {end:g}, where the run ends; found {args.eval_delay:g}: nothing would be evaluated."
        )


def expanded(name: str, path: str | None) -> str | None:
    """A folder of a user's with its variables and ~, as a shell would have them.

    Args:
        name: of the option.

    Raises:
        ValueError: a variable that is not set, or an unknown user's home.
    """
    if path is None:
        return None
    found = os.path.expandvars(os.path.expanduser(path))
    if found.startswith("~") or re.search(r"\$(\w|\{)", found):
        raise ValueError(
            f"{name} has a variable that is not set, found {path!r}, which would be a folder of that very name: set "
            "it, or write the folder out."
        )
    return found
