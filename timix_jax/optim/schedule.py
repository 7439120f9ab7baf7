"""Durations in human units, the learning-rate schedule and ramps."""

import math
import re
from collections.abc import Callable
from fractions import Fraction

import jax
import jax.numpy as jnp

from timix_jax.errors import UserError

Schedule = Callable[[jax.Array | int], jax.Array]

_DURATION = re.compile(
    r"(?P<number>[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE]\+?[0-9]+)?)\s*"
    r"(?P<unit>steps?|examples?|epochs?|%|)"
)
_MAX_STEPS = 2**31 - 1  # the step counter is an int32
_FORMS = '2000, "2000 steps", "1_000_000 examples", "5e6 examples", "30 epochs" or "5%"'


def steps(
    value: int | float | str,
    *,
    batch_size: int,
    examples: int,
    total_steps: int | None = None,
    field: str = "duration",
) -> int:
    """Convert a duration to a number of steps, rounded up.

    Args:
      value: a number of steps, or text: `"2000 steps"`, `"1_000_000 examples"`,
        `"5e6 examples"`, `"30 epochs"`, `"5%"` (of `total_steps`).
      batch_size: examples per step, over all hosts.
      examples: size of the training set, which is one epoch.
      total_steps: length of the training; None while that itself is computed (percent is refused then).
      field: name of the configuration field, for messages.

    Raises:
      UserError: the value has none of these forms, is negative, or has a unit without meaning here.

    **Example:** `steps("30 epochs", batch_size=1024, examples=4_000_000)` is 117188.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: must be at least 1")
    number = _steps(value, batch_size, examples, total_steps, field)
    if number > _MAX_STEPS:
        raise UserError(
            f"{field}={value!r}: more than {_MAX_STEPS} steps, the limit of the step counter; shorten it"
        )
    return number


def _steps(
    value: int | float | str, batch_size: int, examples: int, total_steps: int | None, field: str
) -> int:
    number, unit = parse_duration(value, field)
    if unit == "step":
        return math.ceil(number)
    if unit == "example":
        return math.ceil(number / batch_size)
    if unit == "epoch":
        if examples < 1:
            raise UserError(
                f"{field}={value!r}: the training set has {examples} examples, so an epoch has no "
                "length; give the duration in steps, or add data"
            )
        return math.ceil(number * examples / batch_size)
    if total_steps is None:
        raise UserError(
            f"{field}={value!r}: percent refers to the training's length, which this field sets; "
            "give steps, examples or epochs"
        )
    if number > 100:
        raise UserError(f"{field}={value!r}: longer than the whole training; give at most 100%")
    return math.ceil(number * total_steps / 100)


def parse_duration(value: int | float | str, field: str) -> tuple[Fraction, str]:
    """Split into an exact number and a unit (step, example, epoch or %): 7% of 300 is 21, not 22.

    Raises:
      UserError: the value has none of the forms of `steps`; the message names `field`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UserError(f"{field}={value!r}: not a duration; write {_FORMS}")
    match = _DURATION.fullmatch(str(value).strip())
    if match is None:
        raise UserError(f"{field}={value!r}: not a duration; write {_FORMS}")
    number, unit = Fraction(match["number"]), match["unit"].rstrip("s") or "step"
    if unit == "step" and number.denominator != 1:
        raise UserError(f"{field}={value!r}: not a whole number of steps; write {_FORMS}")
    return number, unit


def warmup_cosine(base: float, total: int, warmup: int, start: float, end: float) -> Schedule:
    """Linear warm-up from `start` to `base`, then half a cosine to `end` (docs/method.md §5).

    Args:
      base: peak learning rate, reached at step `warmup`.
      total: steps of the training; the rate reaches `end` at step `total` and stays there.
      warmup: steps of the warm-up; 0 for none.
      start, end: first and last learning rate.

    Returns:
      A function of the step (int, scalar or array) that gives the learning rate (float32, same shape); jittable.

    Raises:
      UserError: no training steps, a warm-up longer than the training, or a base rate below `start`
        or `end`.
    """
    if total < 1:
        raise UserError(f"total={total} steps: nothing to train; give at least 1 step")
    if warmup < 0:
        raise UserError(f"warmup={warmup} steps: negative; give 0 for no warm-up")
    if warmup > total:
        raise UserError(
            f"warmup={warmup} steps: longer than the training ({total} steps); shorten the warm-up "
            "or train longer"
        )
    if base <= 0:
        raise UserError(f"lr={base}: must be above 0, or nothing is learned")
    if min(start, end) < 0 or max(start if warmup else 0.0, end) > base:
        raise UserError(
            f"lr={base}: start_lr={start} and end_lr={end} must lie between 0 and lr; raise lr or "
            "lower them"
        )

    def schedule(step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        rising = start + (base - start) * step / max(warmup, 1)
        done = jnp.clip((step - warmup) / max(total - warmup, 1), 0.0, 1.0)
        falling = end + (base - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        return jnp.where(step < warmup, rising, falling)

    return schedule


def linear_ramp(step: jax.Array | int, length: int) -> jax.Array:
    """Return step / length, at most 1: γ of the mixed loss and α of the teacher's targets (docs/method.md §§4, 5).

    In float32, or float64 if JAX enables it. A ramp of length 0 is 1 everywhere.

    Raises:
      UserError: the length is negative.
    """
    if length < 0:
        raise UserError(f"ramp={length} steps: negative; give 0 for no ramp")
    done = jnp.asarray(step, jnp.result_type(float))
    return jnp.clip(done / length, 0.0, 1.0) if length else jnp.ones_like(done)
