"""Which files of a folder go up, and what is taken for a name on the Hub."""

import json

import pytest
import tiny
from transformers import BertTokenizer

from selmix_hf.hub.upload import call_again, hub_id, model_files


def test_weights_in_several_files_go_up(tmp_path):
    tiny.model("vit").save_pretrained(tmp_path, max_shard_size="10KB")
    (tmp_path / "model-00001.safetensors").touch()
    names = model_files(tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 1
    assert set(names) == {"config.json", "model.safetensors.index.json", *shards}


def test_a_tokenizer_goes_up(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    out = tmp_path / "out"
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(out)
    written = {path.name for path in out.iterdir()}
    assert "tokenizer_config.json" in written
    assert set(model_files(out)) == written
    (out / "strange.codes").touch()
    assert set(model_files(out, ["strange.codes"])) == {*written, "strange.codes"}


def test_python_files_go_up_only_where_the_config_names_them(tmp_path):
    (tmp_path / "modeling_own.py").touch()
    (tmp_path / "config.json").write_text("{}")
    assert model_files(tmp_path) == ["config.json"]
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoModel": "modeling_own.Own"}}')
    assert model_files(tmp_path) == ["config.json", "modeling_own.py"]


@pytest.mark.parametrize("name", ["google/vit-base-patch16-224", "gpt2", "me/a.b_c-d"])
def test_names_on_the_hub(name):
    assert hub_id(name) == name


@pytest.mark.parametrize("name", ["/home/me/base", "./base", "../base", "runs/stage1/checkpoint-5", "a b", "", None])
def test_paths(name):
    assert hub_id(name) is None


def test_a_folder_of_that_name_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "base").mkdir(parents=True)
    assert hub_id("runs/base") is None and hub_id("runs/other") == "runs/other"


def test_the_call_as_code():
    assert call_again("trainer.push_to_hub") == "trainer.push_to_hub()"
    assert call_again("f", private=False, revision=None, tags=["a"]) == "f(private=False, tags=['a'])"
