"""The clock against times that the test makes up, and the text that a person reads."""

import jax
import pytest

from timix_jax.reporting.progress import (
    Chrono,
    ProgressPrinter,
    Speed,
    format_duration,
    format_quantity,
    progress_sections,
    wrap_sections,
)
from timix_jax.reporting.summary import startup_summary

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


class FakeClock:
    """Seconds that pass only when told."""

    now = 100.0

    def __call__(self):
        return self.now


def test_chrono_leaves_out_compilation_and_pauses():
    clock = FakeClock()
    chrono = Chrono(
        total_steps=110,
        batch_size=64,
        devices=8,
        flops=lambda start, stop: 4e12 * min(stop, 11) - 4e12 * start,  # nothing from step 11 on
        peak_flops=1e12,
        clock=clock,
    )
    with chrono.waiting():
        clock.now += 5
    clock.now += 60  # compiling
    assert chrono.read(1) is None
    chrono.begin(1)
    assert chrono.read(1) is None
    for _ in range(10):
        with chrono.waiting():
            clock.now += 0.5
        clock.now += 1.5
    with chrono.pause():
        clock.now += 1000  # an evaluation
    speed = chrono.read(11)
    assert speed.images_per_s == pytest.approx(10 * 64 / 20)
    assert speed.images_per_s_device == pytest.approx(4.0)
    assert speed.wait == pytest.approx(0.25)
    assert speed.mfu == pytest.approx(4e12 * 0.5 / 8e12)
    assert speed.eta_s == pytest.approx(99 * 2.0)

    clock.now += 40  # ten slow steps: the rate is the last ten's, the ETA of all twenty
    speed = chrono.read(21)
    assert speed.images_per_s == pytest.approx(16.0)
    assert speed.wait == speed.mfu == 0
    assert speed.eta_s == pytest.approx(89 * 3.0)


def test_a_wait_behind_which_the_devices_worked_is_none():
    clock = FakeClock()
    chrono = Chrono(total_steps=10, batch_size=1, devices=1, clock=clock)
    chrono.begin(0)
    for seconds, done_at in (
        (3, 4),
        (5, 4),
    ):  # the batch comes before the last step's end, and after
        start = clock.now
        with chrono.waiting(lambda start=start, done_at=done_at: clock.now < start + done_at):
            clock.now += seconds
        clock.now += 1
    assert chrono.read(2).wait == pytest.approx(5 / 10)


def test_chrono_counts_a_pause_that_fails():
    clock = FakeClock()
    chrono = Chrono(total_steps=10, batch_size=1, devices=1, clock=clock)
    chrono.begin(0)

    def failing_evaluation():
        with chrono.pause():
            clock.now += 100
            raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        failing_evaluation()
    clock.now += 2
    speed = chrono.read(1)
    assert speed.images_per_s == pytest.approx(0.5)
    assert speed.mfu is None


def printed(width, metrics=METRICS, speed=SPEED, weights=None, step=120):
    out = []
    weights = {"itc": 1.0, "mix": 0.5} if weights is None else weights
    printer = ProgressPrinter(total_steps=1600, weights=weights, width=width, write=out.append)
    printer.line(step, metrics, speed)
    return "".join(out)


def test_progress_line():
    assert printed(140) == (
        "step  120/1600 | loss 3.214 = itc 2.914 + 0.5·mix 0.600 | lr 1.0e-03 τ 0.052 λ 0.73"
        " | 512 img/s (64 a device) | data wait 1% | MFU 31.0%\n"
        "               | ETA 3:12"
    )
    assert printed(80) == (
        "step  120/1600 | loss 3.214 = itc 2.914 + 0.5·mix 0.600\n"
        "               | lr 1.0e-03 τ 0.052 λ 0.73 | 512 img/s (64 a device)\n"
        "               | data wait 1% | MFU 31.0% | ETA 3:12"
    )
    one = SPEED._replace(images_per_s=9.54, images_per_s_device=9.54, mfu=None)
    assert printed(140, speed=one, weights={}).endswith(" | 9.5 img/s | data wait 1% | ETA 3:12")


def test_the_wait_is_that_of_the_slowest_process():
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


def test_rates_by_their_names_in_the_metrics():
    assert SPEED.metrics() == {
        "images_per_s": 512.4,
        "images_per_s_device": 64.05,
        "data_wait": 0.012,
        "mfu": 0.31,
    }
    assert "mfu" not in SPEED._replace(mfu=None).metrics()


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


def test_startup_summary():
    text = startup_summary(
        "demo",
        devices=jax.devices(),
        mesh_shape={"data": 4, "fsdp": 2, "tensor": 1},
        data={"train": 40_000, "heldout_vendor": 500},
        parameters={"image": 1_200_000, "text": 800_000},
        batch_size=128,
        total_steps=1600,
        examples=40_000,
        flops_per_step=2.5e10,
        workdir="runs/demo",
    )
    assert text.split("\n") == [
        "demo",
        "  devices     8 × cpu (data 4, fsdp 2)",
        "  data        train 40,000, heldout_vendor 500",
        "  parameters  2 M: image 1.2 M, text 800 k",
        "  training    1,600 steps × 128 images = 5.12 epochs",
        "  compute     25 GFLOP a step",
        "  workdir     runs/demo",
    ]
