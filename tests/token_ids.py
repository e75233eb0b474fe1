"""A tiny text classifier and reviews that are tokenised already."""

import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, set_seed

WORDS = ["[PAD]", "good", "bad", "fine", "poor", "film", "plot", "cast", "song"]


def reviews(counts, seed, lengths=(6, 6)):
    """Token ids; class k says its own word more often than others."""
    generator = torch.Generator().manual_seed(seed)
    ids, labels = [], []
    for label, count in enumerate(counts):
        for _ in range(count):
            length = int(torch.randint(lengths[0], lengths[1] + 1, (), generator=generator))
            tokens = torch.randint(1, len(WORDS), (length,), generator=generator)
            tokens[: length // 2] = label + 1
            ids.append(tokens.tolist())
            labels.append(label)
    features = Features({"input_ids": Sequence(Value("int64")), "label": ClassLabel(names=["positive", "negative"])})
    return Dataset.from_dict({"input_ids": ids, "label": labels}, features=features)


def bert():
    set_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=16, num_labels=2, pad_token_id=0, **sizes)
    model = BertForSequenceClassification(config)
    with torch.no_grad():  # this seed happens to be right from the start: let it be wrong
        model.classifier.weight.neg_()
    return model


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    plain = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="[PAD]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[PAD]")
