"""What the tests of adapters share: a base for four classes, stage 1 on an adapter, the files that are saved."""

import tiny
from transformers import AutoModelForImageClassification, TrainingArguments

from selmix_hf import Stage1Trainer

FILES = {"adapter_config.json", "adapter_model.safetensors", "class_names.json", "preprocessor_config.json"}


def loaded_base(folder, **options):
    options = options or {"num_labels": 4}
    return AutoModelForImageClassification.from_pretrained(folder, ignore_mismatched_sizes=True, **options)


def stage1(folder, model, **options):
    options = {"max_steps": 2, "per_device_train_batch_size": 8, "optim": "sgd", "learning_rate": 0.1, **options}
    return Stage1Trainer(
        model,
        TrainingArguments(str(folder), report_to="none", use_cpu=True, disable_tqdm=True, logging_steps=1, **options),
        train_dataset=tiny.images(),
        processing_class=tiny.processor(),
    )
