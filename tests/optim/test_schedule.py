"""Durations compared with hand arithmetic; the schedule and the ramp compared with closed forms."""

import jax
import numpy as np
import pytest

from timix_jax.errors import UserError
from timix_jax.optim.schedule import linear_ramp, steps, warmup_cosine


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2000, 2000),
        (2000.0, 2000),
        ("2000", 2000),
        ("2000 steps", 2000),
        ("1 step", 1),
        ("1_000_000 examples", 7813),  # 7812.5 batches of 128: rounded up
        ("5e6 examples", 39063),
        ("128 examples", 1),
        ("30 epochs", 1407),  # 30 · 6000 / 128 = 1406.25
        ("0.5epochs", 24),
        ("1 epoch", 47),
        ("5%", 80),
        ("7 %", 112),
        ("0.1%", 2),
        ("100%", 1600),
        (0, 0),
    ],
)
def test_durations(value, expected):
    assert steps(value, batch_size=128, examples=6000, total_steps=1600) == expected


def test_percent_is_exact():
    # In floating point 0.07 · 300 is 21.000000000000004, which would round up to 22.
    assert steps("7%", batch_size=1, examples=1, total_steps=300) == 21


@pytest.mark.parametrize(
    "value",
    [
        "",
        "many",
        "3 days",
        "-5 steps",
        -5,
        "1.5 steps",
        0.5,
        True,
        None,
        "5e-3 examples",
        [3],
        "1/2",
    ],
)
def test_malformed_durations_name_the_field_and_the_forms(value):
    with pytest.raises(UserError, match=r"train\.length=.*(write 2000.*epochs)"):
        steps(value, batch_size=128, examples=6000, total_steps=1600, field="train.length")


def test_units_without_meaning_are_refused():
    with pytest.raises(UserError, match=r"total='5%'.*steps, examples or epochs"):
        steps("5%", batch_size=8, examples=64, field="total")
    with pytest.raises(UserError, match="101%"):
        steps("101%", batch_size=8, examples=64, total_steps=10)
    with pytest.raises(UserError, match="0 examples"):
        steps("2 epochs", batch_size=8, examples=0)
    with pytest.raises(UserError, match="batch_size=0"):
        steps(3, batch_size=0, examples=8)


@pytest.mark.parametrize("value", ["1e400 steps", 2**31, "1e10 epochs", "1e12 examples"])
def test_durations_beyond_the_step_counter_are_refused(value):
    with pytest.raises(UserError, match=r"config\.train\.duration=.*: more than 2147483647 steps"):
        steps(value, batch_size=8, examples=100, field="config.train.duration")
    assert steps(2**31 - 1, batch_size=8, examples=100) == 2**31 - 1


def test_messages_are_one_line():
    with pytest.raises(UserError) as error:
        steps("3 days", batch_size=8, examples=64, field="total")
    assert "\n" not in str(error.value)


def test_warmup_cosine_closed_form():
    base, total, warmup, start, end = 1e-3, 1000, 100, 1e-6, 1e-5
    schedule = warmup_cosine(base, total, warmup, start, end)
    step = np.arange(0, 1200)
    rising = start + (base - start) * step / warmup
    done = np.minimum((step - warmup) / (total - warmup), 1)
    falling = end + (base - end) * (1 + np.cos(np.pi * done)) / 2
    expected = np.where(step < warmup, rising, falling)
    np.testing.assert_allclose(jax.jit(schedule)(step), expected, rtol=2e-5)
    assert float(schedule(0)) == pytest.approx(start)
    assert float(schedule(warmup)) == pytest.approx(base)
    assert float(schedule(total)) == pytest.approx(end)
    assert float(schedule(5 * total)) == pytest.approx(end)


def test_warmup_edges():
    assert float(warmup_cosine(1e-3, 10, 0, 1e-6, 1e-6)(0)) == pytest.approx(1e-3)
    whole = warmup_cosine(1e-3, 10, 10, 1e-6, 1e-6)
    np.testing.assert_allclose([whole(5), whole(10)], [5.005e-4, 1e-3], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1e-3, 0, 0), "total=0"),
        ((1e-3, 10, 11), r"warmup=11 steps: longer than the training \(10 steps\)"),
        ((1e-3, 10, -1), "warmup=-1"),
        ((0.0, 10, 1), "lr=0"),
        ((1e-7, 10, 1), "start_lr=1e-06"),
    ],
)
def test_invalid_schedules_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        warmup_cosine(*arguments, 1e-6, 1e-6)


def test_linear_ramp():
    ramp = jax.jit(linear_ramp, static_argnums=1)
    np.testing.assert_allclose(ramp(np.arange(6), 4), [0, 0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_array_equal(ramp(np.arange(3), 0), [1, 1, 1])
    with pytest.raises(UserError, match="ramp=-1"):
        linear_ramp(0, -1)
