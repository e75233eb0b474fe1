"""Whatever is given is used rightly or refused in a sentence that names the file: properties, with drawn input."""

import json
import string
from dataclasses import dataclass

import datasets
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selmix_hf.config import SelMixConfig
from selmix_hf.data.coco_files import load_coco_file
from selmix_hf.data.held_out import hold_out
from selmix_hf.data.list_files import load_list_file
from selmix_hf.data.long_tail import long_tailed_split
from selmix_hf.data.pairs import PairSampler
from selmix_hf.data.split import LongTailedSplit
from selmix_hf.method.draws import ClassIndex
from selmix_hf.method.pair_distribution import pair_distribution
from selmix_hf.studies.command_line import parse_arguments

quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
counts_K = st.lists(st.integers(3, 30), min_size=2, max_size=6)


def labelled(labels):
    return datasets.Dataset.from_dict({"label": labels, "row": list(range(len(labels)))})


def read(call, path):
    """What it gives; None where it refuses the file by its name."""
    try:
        return call()
    except ValueError as error:
        said = str(error)
    assert str(path) in said
    return None


@quick
@given(counts=counts_K, shares=st.tuples(st.floats(0.01, 0.6), st.floats(0.01, 0.39)), seed=st.integers(0, 2**31))
def test_held_out_parts_share_no_row_and_have_every_class(counts, shares, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)).tolist()
    parts = hold_out(labelled(labels), *shares, seed)
    rows = [row for part in ("train", "validation", "test") for row in parts[part]["row"]]
    assert sorted(rows) == list(range(len(labels)))
    for name, share in zip(("validation", "test"), shares, strict=True):
        found = np.bincount(parts[name]["label"], minlength=len(counts))
        assert found.tolist() == [max(1, int(n * share)) for n in counts]
    assert np.bincount(parts["train"]["label"], minlength=len(counts)).min() >= 1


@quick
@given(sizes=counts_K, largest=st.integers(1, 20), factor=st.floats(1, 20), seed=st.integers(0, 2**31))
def test_long_tailed_splits_are_what_was_asked_for(sizes, largest, factor, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    counts = [int(largest * factor ** (-k / (len(sizes) - 1)) + 1e-9) for k in range(len(sizes))]
    asked = {"max_per_class": largest, "validation_per_class": 1, "seed": seed}
    if counts[-1] < 1 or any(count + 1 > size for count, size in zip(counts, sizes, strict=True)):
        with pytest.raises(ValueError, match="class|imbalance_factor"):
            long_tailed_split(labels, factor, **asked)
        return
    split = long_tailed_split(labels, factor, **asked)
    assert split.counts == {"train": counts, "validation": [1] * len(sizes)}
    assert set(split.train).isdisjoint(split.validation)
    assert labels[list(split.train)].tolist() == list(split.train_labels)


@quick
@given(place=st.floats(0, 1, exclude_max=True), flip=st.booleans(), bit=st.integers(0, 6))
def test_a_split_that_was_cut_or_altered_is_refused(place, flip, bit, tmp_path):
    path = tmp_path / "split.json"
    path.unlink(missing_ok=True)
    split = long_tailed_split([0] * 9 + [1] * 9, 3, max_per_class=6, validation_per_class=2)
    split.save(path)
    assert LongTailedSplit.load(path) == split
    content = bytearray(path.read_bytes())
    at = int(place * (len(content) - 2))  # the last two close the object
    path.write_bytes(bytes(content[:at]))
    if flip:
        content[at] ^= 1 << bit
        path.write_bytes(content)
    found = read(lambda: LongTailedSplit.load(path), path)
    if found is not None:  # white space, or a number's other spelling
        assert flip and found.digest == split.digest


@quick
@given(counts=counts_K, seed=st.integers(0, 2**31), period=st.integers(0, 99), beta=st.floats(0, 1))
def test_pairs_are_of_the_classes_that_were_drawn(counts, seed, period, beta):
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(len(counts)), counts))
    allowed = generator.random((len(counts), len(counts))) < 0.4
    allowed[0, -1] = True
    P = torch.from_numpy(allowed * generator.random(allowed.shape))
    index = ClassIndex(labels, len(counts))
    sampler = PairSampler(index, index, lambda: P / P.sum(), 64, lambda: period, beta, seed)
    pairs = list(sampler)
    assert pairs == list(sampler) and len(pairs) == 64
    for pair in pairs:
        assert labels[pair.second] == pair.second_class and allowed[labels[pair.first], pair.second_class]
        assert beta <= pair.coefficient <= 1


@quick
@given(
    gains=st.lists(st.floats(-1e30, 1e30), min_size=9, max_size=9),
    share=st.floats(0.01, 1),
    temperature=st.one_of(st.just("auto"), st.floats(1e-6, 1e6)),
    present=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_P_is_a_distribution_over_classes_that_have_samples(gains, share, temperature, present):
    first_K = torch.tensor([True, *present[1:]])
    second_K = torch.tensor([*present[:2], True])
    gain = torch.tensor(gains, dtype=torch.float64).reshape(3, 3)
    P = pair_distribution(gain, "selmix", temperature, share, first_K, second_K).probability
    assert float(P.sum()) == pytest.approx(1) and float(P.min()) >= 0
    assert not P[~first_K].any() and not P[:, ~second_K].any()


LINES = st.text(st.sampled_from([*string.ascii_letters, *"0123456789 ./\t\n-_\\\u00e9"]), max_size=60)


@quick
@given(text=st.one_of(LINES, st.text(max_size=40)))
def test_a_list_file_is_read_or_refused_by_name(text, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(text, encoding="utf-8", errors="replace", newline="")
    found = read(lambda: load_list_file(path, tmp_path, check_files=False), path)
    if found is not None:
        lines = [line for line in text.split("\n") if line.strip()]
        assert found["label"] == [int(line.split()[-1]) for line in lines]


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 9), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["images", "annotations", "categories", "id", "image_id", "name"]), inner),
    ),
    max_leaves=12,
)


@quick
@given(content=JSON)
def test_a_coco_file_is_read_or_refused_by_name(content, tmp_path):
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=r"coco\.json"):
        load_coco_file(path, tmp_path, check_files=False)


@dataclass
class Options:
    rate: float = 0.1
    steps: int = 3
    names: list[str] | None = None


YAML = st.text(st.sampled_from([*"ratesn mp:[]{},#&*!|>-'\"%@`?\n\t0123456789.e~"]), max_size=30)


@quick
@given(text=st.one_of(YAML, st.builds("rate: {}\nsteps: {}\n".format, YAML, YAML), st.text(max_size=20)))
def test_a_file_of_options_is_read_or_refused_by_name(text, tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text(text, encoding="utf-8", errors="replace", newline="")
    found = read(lambda: parse_arguments(Options, ["--config", str(path)])[0], path)
    if found is not None:
        assert isinstance(found.rate, float) and isinstance(found.steps, int)


@quick
@given(name=st.text(st.sampled_from(string.ascii_lowercase + "_"), min_size=1, max_size=12))
def test_an_unknown_option_is_refused(name):
    if name not in SelMixConfig.__dataclass_fields__:
        with pytest.raises(ValueError, match=f"unknown option --{name}|ambiguous"):
            parse_arguments(SelMixConfig, [f"--{name}", "3"])
