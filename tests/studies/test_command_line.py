"""The parser of the recipes: YAML below, command line above, and a sentence for every slip."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest

from recipes.cifar10_lt import Arguments
from selmix_hf.config import SelMixConfig
from selmix_hf.studies.command_line import _PATHS, parse_arguments, with_default
from selmix_hf.studies.published_lists import ListArguments


@dataclass
class Recipe:
    model: str = field(metadata={"help": "required"})
    seeds: list[int] = field(default_factory=lambda: [0])
    augment: bool = False
    image_size: int | None = None
    split: str | None = None


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_without_a_file_the_defaults_hold(tmp_path):
    recipe, config = parse_arguments((Recipe, SelMixConfig), ["--model", "m", "--output_dir", str(tmp_path)])
    assert recipe == Recipe("m")
    assert config == SelMixConfig(str(tmp_path))


def test_the_command_line_overrides_the_file(yaml_file, tmp_path):
    path = yaml_file("model: m\nseeds: [3, 4]\naugment: true\nimage_size: 64\nlearning_rate: 1e-2\nmax_steps: 30\n")
    out = ["--output_dir", str(tmp_path)]
    recipe, config = parse_arguments((Recipe, SelMixConfig), ["--config", path, *out])
    assert recipe == Recipe("m", [3, 4], True, 64)
    assert (config.learning_rate, config.max_steps) == (0.01, 30)
    options = ["--seeds", "5", "6", "--augment", "false", "--max-steps=40", "--model", "other", *out]
    recipe, config = parse_arguments((Recipe, SelMixConfig), [f"--config={path}", *options])
    assert recipe == Recipe("other", [5, 6], False, 64)
    assert (config.learning_rate, config.max_steps) == (0.01, 40)


@pytest.mark.parametrize("text", ["null", "none", "None", "~"])
def test_a_value_that_is_worked_out_may_be_asked_for(text, yaml_file, tmp_path):
    names = ("learning_rate", "max_steps", "refresh_steps", "pseudo_label_steps", "target_share")
    left = SelMixConfig(str(tmp_path))
    path = yaml_file("".join(f"{name}: {text}\n" for name in names) + f"output_dir: {tmp_path}\n")
    (config,) = parse_arguments(SelMixConfig, ["--config", path])
    assert [getattr(config, name) for name in names] == [getattr(left, name) for name in names]
    given = yaml_file(f"learning_rate: 0.5\nmax_steps: 7\noutput_dir: {tmp_path}\n")
    options = [word for name in names for word in (f"--{name}", "none")]
    (config,) = parse_arguments(SelMixConfig, ["--config", given, *options])
    assert [getattr(config, name) for name in names] == [getattr(left, name) for name in names]


def test_numbers_and_switches_keep_their_type(yaml_file, tmp_path):
    path = yaml_file(f"output_dir: {tmp_path}\ninverse_temperature: 10\nbeta_min: 1\nload_best_model_at_end: no\n")
    (config,) = parse_arguments(SelMixConfig, ["--config", path])
    assert (config.inverse_temperature, config.temperature, config.beta_min) == ("10", 10.0, 1.0)
    assert isinstance(config.beta_min, float)
    assert config.load_best_model_at_end is False
    (config,) = parse_arguments(SelMixConfig, ["--config", path, "--load_best_model_at_end"])
    assert config.load_best_model_at_end is True


@pytest.mark.parametrize("text", ["constraints:\n  coverage: 0.95\n", "constraints: '{\"coverage\": 0.95}'\n"])
def test_a_dict_is_nested_in_the_file_and_json_on_the_command_line(text, yaml_file, tmp_path):
    path = yaml_file(text + f"objective: mean_recall\noutput_dir: {tmp_path}\n")
    (config,) = parse_arguments(SelMixConfig, ["--config", path])
    assert config.constraints == {"coverage": 0.95}
    (config,) = parse_arguments(SelMixConfig, ["--config", path, "--constraints", '{"coverage": 0.9}'])
    assert config.constraints == {"coverage": 0.9}


def test_a_class_prior_is_a_list_in_the_file_and_json_on_the_command_line(yaml_file, tmp_path):
    path = yaml_file(f"class_prior: [0.7, 0.2, 1e-1]\noutput_dir: {tmp_path}\n")
    (config,) = parse_arguments(SelMixConfig, ["--config", path])
    assert config.class_prior == [0.7, 0.2, 0.1]
    for given, expected in (("[0.5, 0.5]", [0.5, 0.5]), ("balanced", "balanced")):
        (config,) = parse_arguments(SelMixConfig, ["--config", path, "--class_prior", given])
        assert config.class_prior == expected
    with pytest.raises(ValueError, match="class_prior must be JSON such as"):
        parse_arguments(SelMixConfig, ["--config", yaml_file("class_prior: [0.5, [1]]\n")])


@pytest.mark.parametrize(
    ("written", "on_the_line", "kept"),
    [
        ("class_balanced", "class_balanced", "class_balanced"),
        ("0.5", "0.5", "0.5"),
        ("[1, 2, 5e-1]", "[1, 2, 0.5]", [1.0, 2.0, 0.5]),
        ("null", None, None),
    ],
)
def test_sampling_is_a_name_a_power_or_weights(written, on_the_line, kept, yaml_file, tmp_path):
    path = yaml_file(f"sampling: {written}\noutput_dir: {tmp_path}\n")
    (config,) = parse_arguments(SelMixConfig, ["--config", path])
    assert config.sampling == kept
    if on_the_line is not None:
        (config,) = parse_arguments(SelMixConfig, ["--output_dir", str(tmp_path), "--sampling", on_the_line])
        assert config.sampling == kept


def test_dicts_of_transformers_own_options(yaml_file, tmp_path):
    path = yaml_file(f"output_dir: {tmp_path}\nlr_scheduler_type: cosine_with_min_lr\n")
    with open(path, "a", encoding="utf-8") as file:
        file.write("lr_scheduler_kwargs: {min_lr_rate: 0.1}\nbackbone_learning_rate: null\n")
    (config,) = parse_arguments(SelMixConfig, ["--config", path])
    assert config.lr_scheduler_kwargs == {"min_lr_rate": 0.1}


def test_an_empty_file_changes_nothing(yaml_file):
    assert parse_arguments(Recipe, ["--config", yaml_file("# nothing\n"), "--model", "m"]) == (Recipe("m"),)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model: m\nimage_sise: 3", r"settings\.yaml: unknown key 'image_sise', did you mean image_size\?"),
        ("model: m\nzzz: 3", r"settings\.yaml: unknown key 'zzz'$"),
        ("model: m\n3: 3", r"settings\.yaml: unknown key 3$"),
        ("model: m\nimage_size: big", r"settings\.yaml: image_size takes int, found 'big'\."),
        ("model: m\nimage_size: 1.5", "image_size takes int, found 1.5"),
        ("model: m\nimage_size: true", "image_size takes int, found True"),
        ("model: m\nimage_size: {a: 1}", r"image_size takes int, found \{'a': 1\}"),
        ("model: m\naugment: perhaps", "augment takes bool, found 'perhaps'"),
        ("model: m\naugment:", "augment takes bool, found None"),
        ("model: m\nseeds: 3", "seeds takes a list of int, found 3"),
        ("model: m\nseeds: [1, [2]]", r"seeds takes a list of int, found \[1, \[2\]\]"),
        ("model: [m]", r"model takes str, found \['m'\]"),
        ("- model\n", r"settings\.yaml must map option names to values, found a list"),
        ("model: [", r"settings\.yaml is not YAML"),
        ("model: m\nseeds: [1]\nmodel: n", r"settings\.yaml has the key 'model' twice: leave one of them\."),
        (
            "model: m\nsplit: $NOT_SET/split.json",
            r"split has a variable that is not set, found '\$NOT_SET/split\.json'",
        ),
    ],
)
def test_a_slip_in_the_file_gets_a_sentence(text, sentence, yaml_file):
    with pytest.raises(ValueError, match=sentence):
        parse_arguments(Recipe, ["--config", yaml_file(text)])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], r"the following arguments are required: --model\. --help lists the options"),
        (["--model", "m", "--augmnet"], r"unknown option --augmnet, did you mean --augment\?"),
        (["--model", "m", "--seed=3"], r"unknown option --seed, did you mean --seeds\?"),
        (["--model", "m", "stray"], "values without an option: stray"),
        (["--model", "m", "--image_size", "big"], "argument --image_size.*invalid int value: 'big'"),
        (["--config"], "argument --config: expected one argument"),
    ],
)
def test_a_slip_on_the_command_line_gets_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_arguments(Recipe, options)


def test_the_options_of_a_run_are_named_too(yaml_file):
    with pytest.raises(ValueError, match=r"unknown option --max_step, did you mean --max_steps\?"):
        parse_arguments(SelMixConfig, ["--max_step", "4"])
    with pytest.raises(ValueError, match=r"unknown key 'max_step', did you mean max_steps\?"):
        parse_arguments(SelMixConfig, ["--config", yaml_file("max_step: 4\n")])
    with pytest.raises(ValueError, match="settings.yaml has the key 'coverage' twice"):
        parse_arguments(SelMixConfig, ["--config", yaml_file("constraints: {coverage: 0.9, coverage: 0.8}\n")])


def test_paths_are_written_out_as_a_shell_would(yaml_file, monkeypatch, tmp_path):
    monkeypatch.setenv("DATA", str(tmp_path))
    path = yaml_file('model: m\nsplit: ${DATA}/split.json\noutput_dir: ~/out\nhub_token: "$abc"\nrun_name: ~10k\n')
    recipe, config = parse_arguments((Recipe, SelMixConfig), ["--config", path])
    assert recipe.split == f"{tmp_path}/split.json" and config.output_dir == str(Path.home() / "out")
    assert (config.hub_token, config.run_name) == ("$abc", "~10k")  # no paths
    with pytest.raises(ValueError, match="split has a variable that is not set, found '\\$NOT_SET/a'"):
        parse_arguments(Recipe, ["--model", "m", "--split", "$NOT_SET/a"])
    (recipe,) = parse_arguments(Recipe, ["--model", "costs $5", "--split", "$DATA/a"])
    assert (recipe.model, recipe.split) == ("costs $5", f"{tmp_path}/a")


def test_every_option_that_is_a_path_is_known_as_one():
    texts = {one.name: one.metadata.get("help", "") for kind in (Arguments, ListArguments) for one in fields(kind)}
    found = {name for name, text in texts.items() if re.search(r"\b([Ff]older|File|JSON file)\b", text)}
    assert found and found <= _PATHS


@pytest.mark.parametrize("text", ["constraints: &a {coverage: *a}", "constraints: &a {<<: *a}", "seeds: &a [[*a]]"])
def test_what_contains_itself_is_refused(text, yaml_file):
    with pytest.raises(ValueError, match=f"{text.partition(':')[0]} has an alias that refers to what it is part of"):
        parse_arguments((Recipe, SelMixConfig), ["--config", yaml_file(text)])


def test_aliases_are_counted_as_if_they_were_written_out(yaml_file):
    lines = ["constraints: {a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f" {two}: &{two} [{', '.join([f'*{one}'] * 10)}]" for one, two in zip("abcd", "bcde", strict=True)]
    with pytest.raises(ValueError, match="constraints has 100,000 values or more, with its aliases written out"):
        parse_arguments((Recipe, SelMixConfig), ["--config", yaml_file(",\n".join(lines) + "}")])


def test_python_in_a_file_is_refused(yaml_file):
    with pytest.raises(ValueError, match="is not YAML: could not determine a constructor"):
        parse_arguments(Recipe, ["--config", yaml_file("model: !!python/name:os.getcwd")])


@pytest.mark.parametrize(("text", "found"), [("eval_strategy: no", "False"), ("run_name: on", "True")])
def test_a_word_that_yaml_makes_a_switch_of_needs_quotes(text, found, yaml_file):
    word = '"no"' if found == "False" else '"yes"'
    with pytest.raises(
        ValueError, match=f"found {found}, which YAML makes of .* write {text.partition(':')[0]}: {word}"
    ):
        parse_arguments((Recipe, SelMixConfig), ["--config", yaml_file(text)])


def test_a_missing_file_gets_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="'nowhere.yaml', which is not a file"):
        parse_arguments(Recipe, ["--config", "nowhere.yaml"])


def test_help_lists_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments((Recipe, SelMixConfig), ["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(option in text for option in ("--config FILE.yaml", "--image_size", "--objective", "--pair_sampling"))


def test_another_default_keeps_the_help(capsys):
    @dataclass
    class Own(Recipe):
        model: str = with_default(Recipe, "model", "mine")

    assert parse_arguments(Own, []) == (Own("mine"),)
    with pytest.raises(SystemExit):
        parse_arguments(Own, ["--help"])
    assert "required (default: mine)" in capsys.readouterr().out
