"""The clock against times that the test makes up."""

import pytest

from timix_jax.reporting.chrono import Chrono, Speed


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
    chrono.start(1)
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
    assert speed.flops_per_step == pytest.approx(4e12)
    assert speed.eta_s == pytest.approx(99 * 2.0)

    clock.now += 40  # ten slow steps: the rate is the last ten's, the ETA of all twenty
    speed = chrono.read(21)
    assert speed.images_per_s == pytest.approx(16.0)
    assert speed.wait == speed.mfu == speed.flops_per_step == 0
    assert speed.eta_s == pytest.approx(89 * 3.0)


def test_a_wait_during_which_the_devices_worked_does_not_count():
    clock = FakeClock()
    chrono = Chrono(total_steps=10, batch_size=1, devices=1, clock=clock)
    chrono.start(0)
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
    chrono.start(0)

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


def test_rates_by_their_names_in_the_metrics():
    speed = Speed(images_per_s=512.4, images_per_s_device=64.05, wait=0.012, mfu=0.31, eta_s=192.0)
    assert speed.metrics() == {
        "images_per_s": 512.4,
        "images_per_s_device": 64.05,
        "data_wait": 0.012,
        "mfu": 0.31,
    }
    assert speed._replace(flops_per_step=2e12).metrics()["flops_per_step"] == 2e12
    assert "mfu" not in speed._replace(mfu=None).metrics()
