"""Check a value given for a field of the configuration and convert it to the field's type."""

import math
from typing import Any

from timix_jax.errors import UserError
from timix_jax.optim.schedule import parse_duration

_LARGEST_INT = 2**31 - 1  # the limit of 32-bit indices, keys and durations

# Field → types of its items and their number (None for any), which the default of the field does not show.
_ITEMS: dict[str, tuple[tuple[type, ...], int | None]] = {
    "data.train": ((str,), None),
    "data.weights": ((int, float), None),
    "augment.crop_ratio": ((int, float), 2),
    "model.temperature_range": ((int, float), 2),
    "optim.lr_scales": ((tuple, list), None),
    "eval.sets": ((str,), None),
    "eval.evaluators": ((str,), None),
}


def is_duration(field: str) -> bool:
    """Return True if the field, by its name, holds a time in steps, examples, epochs or percent."""
    name = field.split(".")[-1]
    return name in ("every", "warmup", "ramp", "until", "duration") or name.endswith("_steps")


def canonical(field: str, value: Any) -> Any:
    """Return the same value for each way to write a setting: 400, "400" and "400 steps" are one duration."""
    if not is_duration(field):
        return value
    try:
        return " ".join(map(str, parse_duration(value, field)))
    except UserError:  # such as one of an earlier version
        return value


def converted(value: Any, default: Any, field: str) -> Any:
    """Return `value` in the type of the field's `default`; durations may be numbers or text.

    Raises:
      UserError: a value of another type, not finite or too large, or a tuple with a wrong item.
    """
    duration = is_duration(field)
    if duration:
        kinds: Any = (int, float, str)
    elif isinstance(default, bool):
        kinds = (bool,)
    elif isinstance(default, float):
        kinds = (int, float)
    elif isinstance(default, (tuple, list)):
        kinds = (tuple, list)
    else:
        kinds = (type(default),)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(k.__name__ for k in kinds)
        raise UserError(
            f"config.{field}={value!r} is of type {type(value).__name__}; expected {expected}, "
            f"such as {default!r}"
        )
    if duration:
        return str(value)
    if isinstance(default, (tuple, list)):
        _check_items(tuple(value), field)
        return tuple(value)
    _check_number(value, field)
    return float(value) if isinstance(default, float) else value


def _check_number(value: Any, field: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"config.{field}={value!r}: give a finite number")
    if isinstance(value, int) and abs(value) > _LARGEST_INT:
        raise UserError(f"config.{field}={value!r}: give at most {_LARGEST_INT}")


def _check_items(values: tuple[Any, ...], field: str) -> None:
    kinds, count = _ITEMS.get(field, ((object,), None))
    names = " or ".join(kind.__name__ for kind in kinds)
    if count is not None and len(values) != count:
        raise UserError(f"config.{field}={values!r}: give {count} items, each {names}")
    for item in values:
        if not isinstance(item, kinds) or isinstance(item, bool):
            raise UserError(f"config.{field}={values!r}: the item {item!r} must be {names}")
        if field == "optim.lr_scales":
            _check_scale(item, field)
        _check_number(item, field)


def _check_scale(item: Any, field: str) -> None:
    pattern, factor = item if len(item) == 2 else ("", -1)
    number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not (isinstance(pattern, str) and number and 0 <= float(factor) < math.inf):
        raise UserError(
            f"config.{field}: the item {item!r} must be a pattern and a factor of at least 0, such as ('image/.*', 0.1)"
        )
