"""A value that is given for a field of the configuration, checked and in the field's type."""

import math
from typing import Any

from timix_jax.errors import UserError

_LARGEST_INT = 2**31 - 1  # what a 32-bit index, key or duration can hold

# What the items of a tuple are, and how many where that is fixed; the field's own default shows none.
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
    """Whether the field holds a time in steps, examples, epochs or percent, by its name."""
    name = field.split(".")[-1]
    return name in ("every", "warmup", "ramp", "until", "duration") or name.endswith("_steps")


def converted(value: Any, default: Any, field: str) -> Any:
    """`value` in the type of the field, whose `default` shows it; durations take numbers and text.

    Raises:
      UserError: another type, not finite, too large, or an item of a tuple that is wrong.
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
