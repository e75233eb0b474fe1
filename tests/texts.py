"""Files that the recipes are tested with on texts: three classes, long-tailed by nature, and a tiny BERT."""

from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, set_seed

NAMES = ["admin", "games", "web"]
WORDS = ["[PAD]", "[CLS]", "[SEP]", *NAMES, *(f"word{k}" for k in range(9))]
COUNTS = {"train": (30, 9, 4), "validation": (12, 6, 4), "test": (14, 7, 5)}
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.3,
}


def tokenizer(**options) -> PreTrainedTokenizerFast:
    plain = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="[PAD]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, **{"pad_token": "[PAD]", "unk_token": "[PAD]", "cls_token": "[CLS]"} | options
    )


def bert(names=NAMES, **options) -> BertForSequenceClassification:
    set_seed(0)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: k for k, name in enumerate(names)}}
    sizes = {"vocab_size": len(WORDS), "max_position_embeddings": 32, "pad_token_id": 0, **SIZES}
    return BertForSequenceClassification(BertConfig(**{**sizes, **labels, **options})).eval()


def texts(counts, seed: int = 0) -> Dataset:
    """Four to nine words, a third of them the name of the class."""
    random, labels = np.random.default_rng(seed), np.repeat(np.arange(len(counts)), counts)
    rows = [random.choice([NAMES[k], *WORDS[6:8]], size=random.integers(4, 10)) for k in labels]
    features = Features({"text": Value("string"), "label": ClassLabel(names=NAMES)})
    return Dataset.from_dict({"text": [" ".join(row) for row in rows], "label": labels}, features=features)


def save_model(folder: Path, model=None) -> Path:
    """A checkpoint in half precision, as they are often published."""
    (bert() if model is None else model).to(torch.float16).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_texts_and_checkpoint(folder: Path) -> Path:
    """train, validation and test.parquet, and checkpoint/; returns the folder."""
    save_model(folder / "checkpoint")
    for seed, (part, counts) in enumerate(COUNTS.items()):
        texts(counts, seed).to_parquet(folder / f"{part}.parquet")
    return folder


def options_for(folder: Path, out: Path, *more) -> list[str]:
    """Of a run of four steps and two refreshes."""
    options = ["--model_name_or_path", folder / "checkpoint", "--dataset", folder, "--output_dir", out, "--use_cpu"]
    options += ["--max_steps", 4, "--refresh_steps", 2, "--per_device_train_batch_size", 4, "--learning_rate", 0.01]
    options += ["--head_start", "as_is"]
    return [*map(str, options), *map(str, more)]
