"""One parser for the command line and for YAML files: a file gives values, options on the command line override them.

recipe, config = parse_arguments((RecipeArguments, SelMixConfig))      # --config settings.yaml --max_steps 500
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import sys
from argparse import Action, ArgumentTypeError
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast, get_args, get_origin, get_type_hints

from transformers import HfArgumentParser

from selmix_hf.trainer_options import expanded

_PATHS = frozenset(
    """
    output_dir feature_cache_dir resume_from_checkpoint accelerator_config fsdp_config deepspeed
    model_name_or_path dataset split lists image_root class_names
    """.split()
)
_MOST_VALUES = 100_000  # of a YAML file


def parse_arguments(dataclass_types: type | Sequence[type], argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """One instance of each dataclass, from the command line and from the YAML file that `--config` names.

    Args:
        dataclass_types: a dataclass or several, such as `SelMixConfig`; no field name may occur twice.
        argv: the options; default those of the process.

    The file maps field names to values, which are converted as on the command line: `1e-3` is a number. A number whose
    default is None may be set back to it: null in the file, "none" on the command line. Fields that may hold a dict
    (`constraints`) or either a list or a string (`class_prior`) take a nested mapping or a list in the file and JSON
    on the command line. In paths, variables such as $HOME and ~ are written out, see `trainer_options.expanded`.

    Raises:
        ValueError: unknown options or keys (with the nearest known one), a key that occurs twice, values of the wrong
            type, missing options, a variable that is not set.
        FileNotFoundError: no such file.
    """
    classes = (dataclass_types,) if isinstance(dataclass_types, type) else tuple(dataclass_types)
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(cast(Any, classes), usage="%(prog)s [--config FILE.yaml] [options]", allow_abbrev=False)
    for action in parser._actions:
        if action.default is None and not action.required and action.type in (int, float):
            action.type = _or_none(action.type)
    parser.add_argument("--config", metavar="FILE.yaml", help="Options in YAML; the command line overrides them.")
    first_look = _Parser(add_help=False, allow_abbrev=False)
    first_look.add_argument("--config")
    config = first_look.parse_known_args(arguments)[0].config
    if config is not None:
        values = _read_yaml(Path(config), parser, classes)
        parser.set_defaults(**values)
        for name in values:
            parser.action_of(name).required = False
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        options = [word.partition("=")[0] for word in unknown if word.startswith("--")]
        hints = [f"unknown option {option}{_nearest(option, parser.option_strings)}" for option in options]
        parser.error("; ".join(hints) or f"values without an option: {' '.join(unknown)}")
    given = {name: _in_full(name, value) for name, value in vars(namespace).items()}
    return tuple(cls(**{name: given[name] for name in _field_names(cls)}) for cls in classes)


def with_default(arguments_type: type, name: str, default: Any) -> Any:
    """A field with the help of the field `name` of a dataclass of options, and a default of its own."""
    metadata = cast(Any, arguments_type).__dataclass_fields__[name].metadata
    return dataclasses.field(default=default, metadata=metadata)


class _Parser(HfArgumentParser):
    """An argument parser that raises a sentence instead of printing a hundred options and leaving."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}{'' if message.endswith('?') else '.'} --help lists the options.")

    @property
    def option_strings(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]

    def action_of(self, name: str) -> Action:
        return next(action for action in self._actions if action.dest == name)


def _or_none(kind: type) -> Callable[[str], Any]:
    """Reads a number, or "none" for the default that stands for one which is worked out."""

    def convert(word: str) -> Any:
        return None if word.lower() == "none" else kind(word)

    convert.__name__ = kind.__name__  # in errors
    return convert


def _field_names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cast(Any, cls)) if field.init]


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {near[0]}?" if near else ""


def _read_yaml(path: Path, parser: _Parser, classes: Sequence[type]) -> dict[str, Any]:
    """The values in a file, by field name, converted."""
    if not path.is_file():
        raise FileNotFoundError(f"--config names {str(path)!r}, which is not a file (looked in {Path.cwd()}).")
    content = _loaded(path)
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ValueError(f"{path} must map option names to values, found a {type(content).__name__}.")
    hints = {name: hint for cls in classes for name, hint in get_type_hints(cls).items() if name in _field_names(cls)}
    for key in content:
        if key not in hints:
            raise ValueError(f"{path}: unknown key {key!r}{_nearest(str(key), hints)}")
    return {key: _converted(value, key, path, parser, hints[key]) for key, value in content.items()}


def _loaded(path: Path) -> Any:
    """What is in a YAML file; yaml itself takes the last one of equal keys."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        _check_node(yaml.compose(text, yaml.SafeLoader), path, {})
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error


def _check_node(node: Any, path: Path, sizes: dict[int, int], option: str = "", around: tuple[Any, ...] = ()) -> int:
    """Raise ValueError where a key occurs twice, or what an option has contains itself or is `_MOST_VALUES` or more.

    Args:
        node: of YAML's, or None.
        sizes: of the nodes that were checked, by their id: an alias refers to one of them.
        option: that it belongs to.
        around: the nodes that it is part of.

    Returns:
        how many values it has, with aliases written out.
    """
    if node in around:
        raise ValueError(f"{path}: {option} has an alias that refers to what it is part of: write the value out.")
    inner = getattr(node, "value", ())
    if isinstance(inner, str):
        return 1
    if id(node) in sizes:
        return sizes[id(node)]
    pairs = [one if isinstance(one, tuple) else (None, one) for one in inner]
    keys = [key.value for key, _ in pairs if key is not None]
    if twice := [key for k, key in enumerate(keys) if key in keys[:k]]:
        raise ValueError(f"{path} has the key {twice[0]!r} twice: leave one of them.")
    within = (*around, node)
    size = 1 + sum(
        _check_node(value, path, sizes, option or str(key.value if key else ""), within) for key, value in pairs
    )
    if size >= _MOST_VALUES:
        raise ValueError(
            f"{path}: {option or 'it'} has {_MOST_VALUES:,} values or more, with its aliases written out."
        )
    sizes[id(node)] = size
    return size


def _in_full(name: str, value: Any) -> Any:
    """An option, a path without a shell's abbreviations: quotes and YAML files keep those from the shell."""
    if isinstance(value, list):
        return [_in_full(name, one) for one in value]
    return (
        expanded(name, value)
        if name in _PATHS and isinstance(value, str) and re.match(r"(~|.*/\$|\$)", value)
        else value
    )


def _converted(value: Any, key: str, path: Path, parser: _Parser, hint: Any) -> Any:
    action = parser.action_of(key)
    if value is None and action.default is None:
        return None
    nested = type(value) in (_origin(hint), *map(_origin, get_args(hint)))
    if nested and (isinstance(value, dict) or (isinstance(value, list) and action.nargs != "+")):
        return json.dumps(value) if action.type is str else value  # as on the command line
    if isinstance(value, bool) and str in (kinds := (hint, *get_args(hint))) and bool not in kinds:
        words = "yes, on and true" if value else "no, off and false"
        word = "yes" if value else "no"
        raise ValueError(
            f"{path}: {key} takes {_described(action)}, found {value}, which YAML makes of {words} where they have no "
            f'quotes: write {key}: "{word}".'
        )
    wanted = f"{path}: {key} takes {_described(action)}, found {value!r}."
    if isinstance(value, list) != (action.nargs == "+") or isinstance(value, dict) or value is None:
        raise ValueError(wanted)
    try:
        return [_scalar(item, action) for item in value] if isinstance(value, list) else _scalar(value, action)
    except (ValueError, TypeError, ArgumentTypeError) as error:
        raise ValueError(wanted) from error


def _scalar(value: Any, action: Action) -> Any:
    if isinstance(value, list | dict) or value is None:
        raise TypeError(value)
    converted = cast("Callable[[str], Any]", action.type or str)(str(value))
    if action.choices is not None and converted not in action.choices:
        raise ValueError(value)
    return converted


def _origin(hint: Any) -> Any:
    return get_origin(hint) or hint


def _described(action: Action) -> str:
    if action.choices is not None:
        return "one of " + ", ".join(map(str, action.choices))
    kind = getattr(action.type, "__name__", "str").replace("string_to_bool", "bool")
    return f"a list of {kind}" if action.nargs == "+" else kind
