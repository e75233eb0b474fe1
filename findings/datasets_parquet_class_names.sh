#!/usr/bin/env bash
# datasets 5.2.0: several parquet files that are loaded as splits of one dataset get the class names of the first one.
#
# Each file says in its own metadata what its classes are called, and alone it is read so. Together, all splits have the
# features of the first file, and the labels of the others keep their numbers: under other names, without a word, and
# without regard to whether the numbers mean the same. One would expect an error, as for columns that differ, or a cast
# by name.
#
# Seen: the labels 'dog', 'cat' of test.parquet, whose classes are (dog, cat), become 'cat', 'dog' beside a train.parquet
# of (cat, dog); where test.parquet has a third class, its name is lost.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet datasets==5.2.0 pyarrow==25.0.0
HF_HOME="$folder/home" "$folder/env/bin/python" - "$folder" <<'PYTHON'
import sys

from datasets import ClassLabel, Dataset, Features, load_dataset

folder = sys.argv[1]


def write(name, names, labels):
    data = Dataset.from_dict({"label": labels}, Features({"label": ClassLabel(names=names)}))
    data.to_parquet(f"{folder}/{name}.parquet")


def read(**files):
    splits = load_dataset("parquet", data_files={part: f"{folder}/{name}.parquet" for part, name in files.items()})
    return {part: splits[part].features["label"].int2str(splits[part]["label"][:]) for part in files}


write("train", ["cat", "dog"], [0, 1])
write("test", ["dog", "cat"], [0, 1])
write("third", ["dog", "cat", "owl"], [0, 1])
alone, together, third = read(test="test"), read(train="train", test="test"), read(train="train", test="third")
print("test.parquet alone:", alone["test"])
print("beside train.parquet:", together["test"])
print("with a third class, beside train.parquet:", third["test"])
assert alone["test"] == ["dog", "cat"]
assert together["test"] == ["cat", "dog"]
assert third["test"] == ["cat", "dog"]
PYTHON
