"""What an option says of itself: its default and help, the values that it may have, and who has to know of it.

    beta_min: float = number(0.6, "Mixing coefficients are uniform on [beta_min, 1].", "[0, 1]", of_pairs=True)

Whatever treats options alike (checks, refusals, what a resumed run must keep, cards) asks here and lists no names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import wraps
from numbers import Integral, Real
from typing import Any, TypeVar

_Class = TypeVar("_Class", bound=type)
_SAID = {"[0, inf)": "not be negative", "(0, inf)": "be positive", "(0, 1)": "lie between 0 and 1"}


class WorkedOut(float):
    """The value of an option that was not given, and follows from others or from the data: a configuration that is
    made of this one, as by `dataclasses.replace`, works it out anew."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """What is known of an option beside its type and its help.

    Attributes:
        kind: "number" (finite), "count" (a whole number), "switch", "choice" (one of `names`), or "other", which is
            checked elsewhere. None is a value of any kind where it is the default.
        interval: of a number, such as "[0, 1)".
        at_least: of a count.
        names: the values of a choice; `listed` where an error says "one of a, b" instead of "'a' or 'b'".
        hint: ends the sentence of an error.
        worked_out: the default is None, which stands for a value that follows from the data or from other options; so
            does 0, as it did in older configurations.
        of_pairs: of no effect where single samples are drawn, and refused there.
        of_pseudo_labels: of no effect without unlabelled samples.
        kept_on_resume: whether a run must resume with the value that it began with, at any rate (True; a function of
            the configuration where that depends on another option), unless it is to go on inexactly (False), or need
            not (None), as its weights do not depend on it.
        on_card: whether a model card shows it where it is not the default.
    """

    kind: str = "other"
    default: Any = None
    interval: str = "(-inf, inf)"
    at_least: int = 0
    names: tuple[str, ...] = ()
    listed: bool = False
    hint: str = ""
    worked_out: bool = False
    of_pairs: bool = False
    of_pseudo_labels: bool = False
    kept_on_resume: bool | Callable[[Any], bool] | None = True
    on_card: bool = True

    def checked(self, name: str, value: Any) -> Any:
        """The value; a number of numpy's, which would not go into JSON, as a plain one, and None for one that was
        worked out.

        Raises:
            ValueError: of another kind, or out of range.
        """
        if isinstance(value, WorkedOut) or (value is None and self.default is None):
            return None
        is_switch = isinstance(value, bool)
        right = {
            "number": not is_switch and isinstance(value, Real) and math.isfinite(value),
            "count": not is_switch and isinstance(value, Integral),
            "switch": is_switch,
        }.get(self.kind, True)
        if not right:
            wanted = {"number": "a finite number", "count": "a whole number", "switch": "True or False"}[self.kind]
            raise ValueError(f"{name} must be {wanted}, found {value!r}.")
        if not (self.worked_out and not value) and (wanted := self._outside(value)):
            found = repr(value) if self.kind == "choice" else value
            raise ValueError(f"{name} must {wanted}, found {found}{f': {self.hint}' if self.hint else '.'}")
        return value.item() if self.kind in ("number", "count") and hasattr(value, "item") else value

    def _outside(self, value: Any) -> str:
        """What a value of the right kind must do; "" where it does."""
        if self.kind == "number" and not _within(value, self.interval):
            return _SAID.get(self.interval, f"lie in {self.interval}")
        if self.kind == "count" and value < self.at_least:
            return f"be at least {self.at_least}"
        if self.kind == "choice" and not (isinstance(value, str) and value in self.names):
            *first, last = map(repr, self.names)
            return f"be one of {', '.join(self.names)}" if self.listed else f"be {', '.join(first)} or {last}"
        return ""

    def is_default(self, value: Any) -> bool:
        """Whether a value says no more than the default; None always says nothing."""
        return value is None or value == self.default or (self.worked_out and not value)


def _within(value: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = low <= value if interval[0] == "[" else low < value
    return above and (value <= high if interval[-1] == "]" else value < high)


class _Help(str):
    """A help text that carries the `Option`: HfArgumentParser hands every key of a field's metadata to argparse, which
    refuses those that it does not know."""

    option: Option


def option(default: Any, help: str, **facts: Any) -> Any:
    """A dataclass field.

    Args:
        facts: attributes of `Option`.
    """
    text = _Help(help)
    text.option = Option(default=default, **facts)
    return field(default=default, metadata={"help": text})


def number(default: float | None, help: str, interval: str, **facts: Any) -> Any:
    """A field for a finite number in an interval, such as "(0, 1]" or "[0, inf)"."""
    return option(default, help, kind="number", interval=interval, **facts)


def count(default: int | None, help: str, at_least: int, **facts: Any) -> Any:
    """A field for a whole number."""
    return option(default, help, kind="count", at_least=at_least, **facts)


def switch(default: bool, help: str, **facts: Any) -> Any:
    """A field for True or False."""
    return option(default, help, kind="switch", **facts)


def choice(default: str, help: str, names: Iterable[str], **facts: Any) -> Any:
    """A field for one of several names."""
    return option(default, help, kind="choice", names=tuple(names), **facts)


def options_of(config: Any) -> dict[str, Option]:
    """The options by name, of a dataclass or of an instance; fields that were not made here are left out."""
    texts = {one.name: one.metadata.get("help") for one in fields(config)}
    return {name: text.option for name, text in texts.items() if isinstance(text, _Help)}


def check_options(config: Any) -> None:
    """Raise ValueError at the first option of a wrong kind or out of range; numpy's numbers become plain ones."""
    for name, one in options_of(config).items():
        setattr(config, name, one.checked(name, getattr(config, name)))


def refuse_pair_options(config: Any, because: str) -> None:
    """For single samples, which leave the options of pairs without an effect.

    Args:
        because: what asks for single samples.

    Raises:
        ValueError: such an option is set.
    """
    of_pairs = {name: one for name, one in options_of(config).items() if one.of_pairs}
    given = [name for name, one in of_pairs.items() if not one.is_default(getattr(config, name))]
    if given:
        raise ValueError(
            f"{because} draws single samples, nothing is mixed and no gains steer: leave {', '.join(given)} at "
            f"the default, or {because.partition('=')[0]} out."
        )


def naming_the_nearest(cls: _Class) -> _Class:
    """A dataclass that names the nearest option where it is called with one that it does not have."""
    make, names = cls.__init__, [one.name for one in fields(cls)]  # type: ignore[misc]

    @wraps(make)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in names:
                near = get_close_matches(name, names, 1)
                raise TypeError(
                    f"{cls.__name__} has no option {name!r}{f', did you mean {near[0]!r}?' if near else '.'}"
                )
        make(self, *args, **kwargs)

    cls.__init__ = checked  # type: ignore[misc]
    return cls
