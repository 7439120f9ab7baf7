"""The pace of training: images per second, waits for data, utilisation, time left."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Speed(NamedTuple):
    """Rates since the previous reading; pauses do not count.

    Attributes:
      images_per_s: training images per second, over all devices.
      images_per_s_device: the same per device.
      wait: fraction of the time in which the devices were idle for lack of data. An upper bound: how long they still
        worked during such a wait is not known.
      mfu: model FLOP/s over the devices' peak, or None if the peak is not known.
      eta_s: seconds to the last step at the mean pace so far, without pauses.
      flops_per_step: the model's FLOPs of a step over all devices, or None if they are not counted.
    """

    images_per_s: float
    images_per_s_device: float
    wait: float
    mfu: float | None
    eta_s: float
    flops_per_step: float | None = None

    def metrics(self) -> dict[str, float]:
        """Return what is known under its name in metrics.jsonl and TensorBoard, `wait` and `mfu` as fractions."""
        values = {
            "images_per_s": self.images_per_s,
            "images_per_s_device": self.images_per_s_device,
            "data_wait": self.wait,
        }
        optional = {"mfu": self.mfu, "flops_per_step": self.flops_per_step}
        return values | {name: value for name, value in optional.items() if value is not None}


def is_busy(result: Any) -> bool:
    """Return True while the devices are computing this array; for `Chrono.waiting`."""
    return not result.is_ready()


class Chrono:
    """Measures the pace of training without compilation, evaluations and checkpoints.

    **Example:**

        chrono = Chrono(total_steps=1600, batch_size=128, devices=jax.device_count())
        for step in range(1600):
            with chrono.waiting():
                batch = next(batches)
            state, metrics = train_step(state, batch)
            if step == 0:
                jax.block_until_ready(state)
                chrono.start(step + 1)
            ...
            speed = chrono.read(step + 1)
    """

    def __init__(
        self,
        *,
        total_steps: int,
        batch_size: int,
        devices: int,
        flops: Callable[[int, int], float] | None = None,
        peak_flops: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Measure nothing until `start`.

        Args:
          total_steps: the last step, for the time left.
          batch_size: images per step, over all devices.
          devices: their number.
          flops: (start, stop) → FLOPs of the steps `start` to `stop - 1`, over all devices.
          peak_flops: FLOP/s that one device could reach.
          clock: seconds.
        """
        self._total_steps, self._batch_size, self._devices = total_steps, batch_size, devices
        self._flops, self._peak = flops, peak_flops
        self._clock = clock
        self._started: tuple[int, float] | None = None  # step and pause-free time of start()
        self._last = (0, 0.0)
        self._paused = self._waited = 0.0

    def _now(self) -> float:
        """Return the seconds on the clock without the pauses."""
        return self._clock() - self._paused

    def start(self, step: int) -> None:
        """Start to measure after `step` steps; wait for the result of the last one before."""
        self._last = self._started = (step, self._now())
        self._waited = 0.0

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leave out the time inside. Wait for the last step first, or its work is left out too."""
        start = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - start

    @contextlib.contextmanager
    def waiting(self, devices_busy: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Count the time inside as waiting for data, unless the devices are still busy when it ends."""
        start = self._now()
        try:
            yield
        finally:
            if not devices_busy():
                self._waited += self._now() - start

    def read(self, step: int) -> Speed | None:
        """Return the rates since the last reading (or `start`); None if no step has been measured.

        Wait for the metrics of step `step` first: calling a step only dispatches it.
        """
        now = self._now()
        if self._started is None or step <= self._last[0] or now <= self._last[1]:
            return None
        steps, seconds = step - self._last[0], now - self._last[1]
        pace = (now - self._started[1]) / (step - self._started[0])
        wait = min(self._waited / seconds, 1.0)
        flops = self._flops(self._last[0], step) if self._flops else None
        mfu = None
        if flops is not None and self._peak:
            mfu = flops / seconds / (self._peak * self._devices)
        self._last, self._waited = (step, now), 0.0
        images = steps * self._batch_size / seconds
        eta = max(self._total_steps - step, 0) * pace
        per_step = None if flops is None else flops / steps
        return Speed(images, images / self._devices, wait, mfu, eta, per_step)
