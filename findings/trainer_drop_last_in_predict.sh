#!/usr/bin/env bash
# transformers 5.24.0: TrainingArguments(dataloader_drop_last=True) also drops samples in evaluate and predict.
#
# The option reads as one of training, where an incomplete last batch may disturb. Trainer builds the loaders of
# evaluation and prediction with it too: metrics are of fewer samples than were given, and predictions have fewer rows
# than the set, without a word. Who joins them to the rows of a table is off by what is missing at the end.
#
# Seen: 12 samples, batches of 8: predict returns 8 rows, evaluate's metrics are of 8 samples.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet transformers==5.24.0 accelerate==1.15.0 torch==2.14.1 numpy
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - "$folder" <<'PYTHON'
import sys

import torch
import transformers
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

print("transformers", transformers.__version__)
samples = [{"pixel_values": torch.randn(3, 8, 8), "labels": i % 2} for i in range(12)]
model = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=2))
seen = {}
for drop in (False, True):
    options = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "per_device_eval_batch_size": 8}
    trainer = Trainer(
        model,
        TrainingArguments(sys.argv[1], dataloader_drop_last=drop, **options),
        eval_dataset=samples,
        compute_metrics=lambda given: {"samples": len(given.label_ids)},
    )
    seen[drop] = len(trainer.predict(samples).predictions), trainer.evaluate()["eval_samples"]
    print(f"dataloader_drop_last={drop}: predict gives {seen[drop][0]} rows of 12, evaluate measures {seen[drop][1]}")
assert seen == {False: (12, 12), True: (8, 8)}
PYTHON
