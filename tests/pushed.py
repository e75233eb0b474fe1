"""Runs that push, and the files that they push."""

import tiny

MODEL = {"config.json", "model.safetensors", "preprocessor_config.json"}
WHOLE = {*MODEL, "README.md"}
SAVING = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "no", "load_best_model_at_end": False}


def pushing(folder, **options):
    return tiny.trainer(folder, "vit", push_to_hub=True, **{**SAVING, "max_steps": 4, **options})
