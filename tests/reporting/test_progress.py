"""The progress lines that a person reads."""

import jax
import pytest

from timix_jax.reporting.chrono import Speed
from timix_jax.reporting.progress import (
    ProgressPrinter,
    format_duration,
    format_quantity,
    progress_sections,
    wrap_sections,
)

METRICS = {
    "loss": 3.2141,
    "loss/itc": 2.9141,
    "loss/mix": 0.6,
    "lr": 1e-3,
    "temperature": 0.052,
    "lambda": 0.73,
    "grad_norm": 1.5,
}
SPEED = Speed(images_per_s=512.4, images_per_s_device=64.05, wait=0.012, mfu=0.31, eta_s=192.0)


def printed(width, metrics=METRICS, speed=SPEED, weights=None, step=120):
    out = []
    weights = {"itc": 1.0, "mix": 0.5} if weights is None else weights
    printer = ProgressPrinter(total_steps=1600, weights=weights, width=width, write=out.append)
    printer.line(step, metrics, speed)
    return "".join(out)


def test_progress_line():
    assert printed(140) == (
        "step  120/1600 | loss 3.214 = itc 2.914 + 0.5·mix 0.600 | lr 1.0e-03 τ 0.052 λ 0.73"
        " | 512 img/s (64 per device) | data wait 1% | MFU 31.0%\n"
        "               | ETA 3:12"
    )
    assert printed(80) == (
        "step  120/1600 | loss 3.214 = itc 2.914 + 0.5·mix 0.600\n"
        "               | lr 1.0e-03 τ 0.052 λ 0.73 | 512 img/s (64 per device)\n"
        "               | data wait 1% | MFU 31.0% | ETA 3:12"
    )
    one = SPEED._replace(images_per_s=9.54, images_per_s_device=9.54, mfu=None)
    assert printed(140, speed=one, weights={}).endswith(" | 9.5 img/s | data wait 1% | ETA 3:12")


def test_the_slowest_process_s_wait_is_shown():
    def shown(slowest, wait):
        metrics = METRICS | {"data_wait": wait}
        return progress_sections(1, 2, metrics, SPEED, {}, slowest)

    assert "data wait 42% (process 3)" in shown(3, 0.42)
    assert "data wait 0%" in shown(3, 0.004)
    assert "data wait 42%" in shown(None, 0.42)


def test_progress_line_of_a_plain_run_without_a_speed():
    metrics = {"loss": 3.0, "loss/itc": 3.0, "lr": 1e-6}
    assert printed(100, metrics, None, {"itc": 1.0}, step=1) == (
        "step    1/1600 | loss 3.000 | lr 1.0e-06"
    )


@pytest.mark.parametrize("width", [20, 80, 100, 120, 140, 400])
def test_no_line_is_wider_than_the_screen(width):
    lines = printed(width).split("\n")
    assert max(map(len, lines)) <= min(max(width, 80), 140)
    assert sections(printed(140)) == sections(printed(width))


def sections(text):
    return [part.strip() for part in text.split("|") if part.strip()]


def test_memory_is_the_devices_where_they_count_it():
    host, device = {"host_memory_peak_gib": 1.3137}, {"device_memory_peak_gib": 9.4052}
    assert sections(printed(140, {"loss": 3.0, **host}))[-2] == "peak RSS 1.31 GiB"
    assert sections(printed(140, {"loss": 3.0, **host, **device}))[-2] == "peak memory 9.41 GiB"


def test_wrapping_breaks_between_sections():
    assert wrap_sections(["a", "bb", "cc"], 6) == "a | bb\n  | cc"


def test_no_lambda_once_mixing_has_ended():
    assert "λ 0.73" in printed(100)
    assert "λ" not in printed(100, {k: v for k, v in METRICS.items() if k != "lambda"})


def test_only_the_first_process_prints(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert printed(100) == ""


def test_a_terminal_without_greek(capsys, monkeypatch):
    class Ascii:
        encoding = "ascii"

        def write(self, text):
            out.append(text.encode("ascii").decode())

        def flush(self):
            pass

    out = []
    monkeypatch.setattr("sys.stdout", Ascii())
    ProgressPrinter(total_steps=10).text("τ 0.05 λ 0.7 1·mix é")
    assert "".join(out) == "tau 0.05 lambda 0.7 1*mix ?\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00"), (192, "3:12"), (3599.7, "1:00:00"), (3792, "1:03:12"), (184365, "2d 03:12:45")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (0, "", "0"),
        (999, "", "999"),
        (999.6, "", "1 k"),
        (86.4e6, "", "86.4 M"),
        (999_600, "", "1 M"),
        (1.234e12, "FLOP", "1.23 TFLOP"),
        (5e18, "FLOP", "5000 PFLOP"),
        (12, "B", "12 B"),
    ],
)
def test_quantities(number, unit, text):
    assert format_quantity(number, unit) == text
