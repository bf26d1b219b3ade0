"""What a sweep varies: read from Hydra's override grammar, checked, and turned into Optuna's distributions."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from pipeline.config import NOT_NEGATIVE, Settings
from pipeline.errors import SettingsError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from optuna.distributions import BaseDistribution

Value = float | int | str
LARGEST_GRID = 100_000


@dataclass(frozen=True)
class Param:
    """A key that varies.

    Attributes:
        key: as on the command line: keras.units, net, +a.new.key.
        text: what was given for it.
        choices: the values as texts, ready for an override; empty for an interval or a range.
        low: the least number, of the type of the values: int or float.
        high: the greatest, included.
        step: of a range; None: every number.
        log: whether it is searched by magnitude.
    """

    key: str
    text: str
    choices: tuple[str, ...] = ()
    low: float | int = 0
    high: float | int = 0
    step: float | int | None = None
    log: bool = False

    def distribution(self) -> "BaseDistribution":
        """Return it as Optuna has it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def override(self, value: Value) -> str:
        """Return the override that sets it.

        >>> Param("keras.learning_rate", "interval(0, 1)", low=0.0, high=1.0).override(0.12345678901234)
        'keras.learning_rate=0.123457'
        """
        return f"{self.key}={show(value)}"

    def corners(self) -> tuple[Value, ...]:
        """Return the values that are tried out before anything is trained: every choice, or both ends."""
        return self.choices or (self.low, self.high)

    def values(self) -> Sequence[Value]:
        """Return all values; of whole numbers as a range, which takes no memory however many they are.

        Raises:
            SettingsError: it is an interval of fractions, which has no end of them.
        """
        if self.choices:
            return self.choices
        if isinstance(self.low, int):
            return range(self.low, int(self.high) + 1, int(self.step or 1))
        if self.step is None:
            raise SettingsError(
                f"{self.key}={self.text}: sampler grid needs values that can be counted: choice(…) or range(…)"
            )
        n_steps = round((self.high - self.low) / self.step)
        return [self.low + i * self.step for i in range(n_steps + 1)]


def show(value: Value) -> str:
    """Return a value as the override has it: of a fraction six digits, as further ones change no result's rank."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def read(overrides: "Iterable[Override]") -> tuple[list[str], list[Param]]:
    """Return the overrides that hold for every trial, and what varies.

    Raises:
        SettingsError: an interval is empty, a tag unknown, a value given twice, or nothing varies.
    """
    fixed, varying = split(overrides)
    params = [_param(override) for override in varying]
    if not params:
        raise SettingsError(
            "hydra/sweeper=study: a parameter that varies is needed, but all are fixed; "
            "for example 'keras.learning_rate=tag(log, interval(1e-4, 1e-2))'"
        )
    return fixed, params


def split(overrides: "Iterable[Override]") -> "tuple[list[str], list[Override]]":
    """Return the overrides that hold for every trial, and those that vary; of one key the last one holds."""
    latest = {override.get_key_element().lstrip("+~"): override for override in overrides}.values()
    fixed = [str(override.input_line) for override in latest if not override.is_sweep_override()]
    return fixed, [override for override in latest if override.is_sweep_override()]


def grid(params: Sequence[Param]) -> list[tuple[Value, ...]]:
    """Return every combination of the values, the last parameter's changing fastest."""
    values = [param.values() for param in params]
    check_size("hydra.sweeper.sampler.name", math.prod(map(len, values)))
    return list(product(*values))


def check_size(what: str, n_trials: int) -> None:
    """Raise SettingsError, which begins with `what`, where a grid has too many trials."""
    if n_trials > LARGEST_GRID:
        raise SettingsError(f"{what}: a grid needs at most {LARGEST_GRID:,} trials, but got {n_trials:,}")


def check_range(override: "Override") -> None:
    """Raise SettingsError where a range cannot be counted off: its numbers are not finite, or without end."""
    sweep: Any = override.value()
    told = f"{override.get_key_element()}={text_of(override)}"
    numbers = (sweep.start, sweep.stop, sweep.step)
    if not all(NOT_NEGATIVE.holds(abs(number)) for number in numbers) or not sweep.step:
        raise SettingsError(f"{told}: finite numbers and a step other than 0 are needed in a range")
    if not (sweep.stop - sweep.start) // sweep.step <= LARGEST_GRID:  # nan, too
        raise SettingsError(f"{told}: at most {LARGEST_GRID:,} numbers are needed in a range; interval(…) has more")


def text_of(override: "Override") -> str:
    """Return what was given for the key, as it was given."""
    return str(override.input_line).partition("=")[2].strip()


def _param(override: "Override") -> Param:
    if override.is_interval_sweep():
        return _interval(override)
    if override.is_range_sweep():
        return _range(override)
    choices = tuple(override.sweep_string_iterator())
    key, text = override.get_key_element(), text_of(override)
    if _is_log(override):
        raise SettingsError(f"{key}={text}: log goes with interval(…), not with choice(…)")
    if not choices:
        raise SettingsError(f"{key}={text}: at least one choice is needed")
    if len(set(choices)) < len(choices):
        raise SettingsError(f"{key}={text}: choices that differ are needed, but one is given twice")
    return Param(key, text, choices)


def _interval(override: "Override") -> Param:
    sweep: Any = override.value()
    key, text = override.get_key_element(), text_of(override)
    low, high, log = sweep.start, sweep.end, _is_log(override)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise SettingsError(f"{key}={text}: finite ends are needed in an interval, but got {low:g} and {high:g}")
    if not low < high:
        raise SettingsError(f"{key}={text}: low < high must hold in an interval, but got {low:g} and {high:g}")
    if log and low <= 0:
        raise SettingsError(f"{key}={text}: low > 0 must hold where an interval is tagged log, but got {low:g}")
    if is_whole(key):
        if low != int(low) or high != int(high):
            raise SettingsError(f"{key}={text}: whole numbers are needed, as {key} is one")
        low, high = int(low), int(high)
    return Param(key, text, low=low, high=high, log=log)


def _range(override: "Override") -> Param:
    sweep: Any = override.value()
    key, text = override.get_key_element(), text_of(override)
    check_range(override)
    values = sorted(sweep.range())
    if not values:
        raise SettingsError(
            f"{key}={text}: at least one number is needed, but this range is empty (its end is left out)"
        )
    if _is_log(override):
        raise SettingsError(f"{key}={text}: log goes with interval(…), not with range(…)")
    return Param(key, text, low=values[0], high=values[-1], step=abs(sweep.step))


def _is_log(override: "Override") -> bool:
    tags: set[str] = getattr(override.value(), "tags", set())  # a glob of options has none
    if not tags <= {"log"}:
        others = ", ".join(sorted(tags - {"log"}))
        raise SettingsError(f"{override.get_key_element()}={text_of(override)}: the tag is log, but got {others}")
    return bool(tags)


def is_whole(key: str) -> bool:
    """Return whether a setting takes whole numbers alone.

    >>> is_whole("keras.units"), is_whole("keras.dropout"), is_whole("seed"), is_whole("no.such")
    (True, False, True, False)
    """
    cls: Any = Settings
    for name in key.split("."):
        hints = get_type_hints(cls, include_extras=True) if isinstance(cls, type) else {}
        if name not in hints:
            return False
        cls = hints[name]
    return bool(get_args(cls)) and get_args(cls)[0] is not float
