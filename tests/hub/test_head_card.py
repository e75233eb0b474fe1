"""The small card of a head on the Hub."""

import re

import huggingface_hub
import tiny
import torch
from huggingface_hub import ModelCard


def test_the_card(hub, trained):
    trained.push_head_to_hub("me/head", revision="v2", license="apache-2.0")
    content = hub.files("me/head", "v2")["README.md"].decode()
    card = ModelCard(content)
    card.validate()
    assert card.data.base_model == "me/base" and card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-classification"
    revision = huggingface_hub.HfApi().model_info("me/base").sha
    for words in (
        "# me/head",
        f"revision: `{revision}`",
        "4: red, green, blue, grey.",
        "## Licence",
        "@inproceedings",
    ):
        assert words in content, words
    code = re.search(r"```python\n(.*?)```", content, re.DOTALL)[1]
    names = {}
    exec(code, names)
    assert torch.equal(tiny.logits(names["model"]), tiny.logits(trained.model))
