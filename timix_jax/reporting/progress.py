"""What a person sees of a running training: the clock, and a line at each log."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from timix_jax.reporting.peak_memory import DEVICE_MEMORY, HOST_MEMORY
from timix_jax.runtime.log import print_text


class Speed(NamedTuple):
    """Rates since the previous reading, pauses left out.

    Attributes:
        images_per_s: training images a second, over all devices.
        images_per_s_device: the same for each device.
        wait: share of the time in which the devices had run out of work for want of data, 0 to 1; at most, since
            what they did in such a wait before they ran out is not known.
        mfu: model FLOP/s over the devices' peak, or None where the peak is not known.
        eta_s: seconds to the last step at the mean pace so far, pauses not counted.
    """

    images_per_s: float
    images_per_s_device: float
    wait: float
    mfu: float | None
    eta_s: float

    def metrics(self) -> dict[str, float]:
        """The rates by the names of metrics.jsonl and TensorBoard; shares as fractions."""
        values = {
            "images_per_s": self.images_per_s,
            "images_per_s_device": self.images_per_s_device,
            "data_wait": self.wait,
        }
        return values if self.mfu is None else {**values, "mfu": self.mfu}


def under_way(result: Any) -> bool:
    """Whether the devices still work on what this array depends on; for `Chrono.waiting`."""
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
                chrono.begin(step + 1)
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
        """Nothing is measured before `begin`.

        Args:
            batch_size: images a step, over all devices.
            flops: (start, stop) → FLOPs of the steps `start` to `stop - 1`, over all devices.
            peak_flops: FLOP/s that one device could reach.
        """
        self._total_steps, self._batch_size, self._devices = total_steps, batch_size, devices
        self._flops, self._peak = flops, peak_flops
        self._clock = clock
        self._begun: tuple[int, float] | None = None  # step and pause-free time of begin()
        self._last = (0, 0.0)
        self._paused = self._waited = 0.0

    def _now(self) -> float:
        """Seconds on the clock without the pauses."""
        return self._clock() - self._paused

    def begin(self, step: int) -> None:
        """Measuring starts; `step` steps are done. Await the first step's result before."""
        self._last = self._begun = (step, self._now())
        self._waited = 0.0

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """The time within is left out. Await the last step first, or its work is left out too."""
        start = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - start

    @contextlib.contextmanager
    def waiting(self, devices_busy: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """The time within counts as waiting for data, unless the devices are still busy at its end."""
        start = self._now()
        try:
            yield
        finally:
            if not devices_busy():
                self._waited += self._now() - start

    def read(self, step: int) -> Speed | None:
        """Rates since the last reading (or `begin`); None where no step has been measured.

        Await the metrics of step `step` first: steps are only sent off when the call returns.
        """
        now = self._now()
        if self._begun is None or step <= self._last[0] or now <= self._last[1]:
            return None
        steps, seconds = step - self._last[0], now - self._last[1]
        pace = (now - self._begun[1]) / (step - self._begun[0])
        wait = min(self._waited / seconds, 1.0)
        mfu = None
        if self._flops and self._peak:
            mfu = self._flops(self._last[0], step) / seconds / (self._peak * self._devices)
        self._last, self._waited = (step, now), 0.0
        images = steps * self._batch_size / seconds
        eta = max(self._total_steps - step, 0) * pace
        return Speed(images, images / self._devices, wait, mfu, eta)


class ProgressPrinter:
    """Prints to the screen of process 0; the other processes print nothing."""

    def __init__(
        self,
        *,
        total_steps: int,
        weights: Mapping[str, float] | None = None,
        width: int | None = None,
        write: Callable[[str], None] | None = None,
    ) -> None:
        """
        Args:
            total_steps: the last step.
            weights: objective → its factor in the summed loss, shown where it is not 1.
            width: columns; the terminal's by default, kept within 80 and 140.
            write: where the text goes; standard output by default.
        """
        self._total_steps, self._weights = total_steps, dict(weights or {})
        columns = width or shutil.get_terminal_size((120, 24)).columns
        self._width = min(max(columns, 80), 140)
        self._write = write or print_text
        self._silent = jax.process_index() != 0

    def line(
        self,
        step: int,
        metrics: Mapping[str, float],
        speed: Speed | None = None,
        slowest: int | None = None,
    ) -> None:
        """The progress line of a step; see `progress_sections` for the metrics it shows."""
        sections = progress_sections(
            step, self._total_steps, metrics, speed, self._weights, slowest
        )
        self.text(wrap_sections(sections, self._width))

    def text(self, text: str) -> None:
        """Any other text, such as the start-up summary."""
        if not self._silent:
            self._write(text)


def progress_sections(
    step: int,
    total_steps: int,
    metrics: Mapping[str, float],
    speed: Speed | None,
    weights: Mapping[str, float],
    slowest: int | None = None,
) -> list[str]:
    """The parts of a progress line.

    Args:
        metrics: `loss`, `loss/NAME` for each objective, `lr`, `temperature`, `lambda`,
            and the memory of `timix_jax.reporting.peak_memory`; those that are missing are left out, all
            others are not shown.
        weights: NAME → factor.
        slowest: the process whose `data_wait` the metrics hold; None where there is one process.

    **Example:** ``["step  120/1600", "loss 3.214 = itc 2.914 + 0.5·mix 0.600", "lr 1.0e-03 τ 0.052
    λ 0.73", "512 img/s (64 a device)", "data wait 1%", "MFU 31.0%", "peak memory 9.41 GiB",
    "ETA 3:12"]``
    """
    sections = [f"step {step:{len(str(total_steps))}d}/{total_steps}"]
    terms = []
    for name, value in metrics.items():
        if name.startswith("loss/"):
            objective = name.removeprefix("loss/")
            factor = weights.get(objective, 1.0)
            terms.append(f"{'' if factor == 1 else f'{factor:g}·'}{objective} {value:.3f}")
    if "loss" in metrics:
        parts = f" = {' + '.join(terms)}" if len(terms) > 1 or "·" in "".join(terms) else ""
        sections.append(f"loss {metrics['loss']:.3f}{parts}")
    settings = [
        f"{symbol} {metrics[name]:{form}}"
        for name, symbol, form in (
            ("lr", "lr", ".1e"),
            ("temperature", "τ", ".3f"),
            ("lambda", "λ", ".2f"),
        )
        if name in metrics
    ]
    if settings:
        sections.append(" ".join(settings))
    if speed is not None:
        several = round(speed.images_per_s) != round(speed.images_per_s_device)
        each = f" ({_count(speed.images_per_s_device)} a device)" if several else ""
        sections.append(f"{_count(speed.images_per_s)} img/s{each}")
        wait = round(100 * metrics.get("data_wait", speed.wait))
        where = f" (process {slowest})" if slowest is not None and wait else ""
        sections.append(f"data wait {wait}%{where}")
        if speed.mfu is not None:
            sections.append(f"MFU {100 * speed.mfu:.1f}%")
    for name, label in ((DEVICE_MEMORY, "peak memory"), (HOST_MEMORY, "peak RSS")):
        if name in metrics:
            sections.append(f"{label} {metrics[name]:.3g} GiB")
            break  # the host's only where the device does not tell its own
    if speed is not None:
        sections.append(f"ETA {format_duration(speed.eta_s)}")
    return sections


def _count(rate: float) -> str:
    return f"{rate:.1f}" if rate < 10 else f"{rate:.0f}"


def wrap_sections(sections: Sequence[str], width: int) -> str:
    """Sections joined by `|`, broken between them where a line would exceed `width` columns."""
    lines = [sections[0]]
    indent = " " * len(sections[0])
    for section in sections[1:]:
        if len(lines[-1]) + 3 + len(section) > width:
            lines.append(indent)
        lines[-1] += f" | {section}"
    return "\n".join(lines)


def format_duration(seconds: float) -> str:
    """`3:12`, `1:03:12` or `2d 03:12:45`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02d}:{minute:02d}:{second:02d}"
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def format_quantity(number: float, unit: str = "") -> str:
    """Three significant digits with k, M, G, T, P: `format_quantity(86.4e6)` is `86.4 M`."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # The threshold rounds as the digits do: 999,600 is 1 M, not 1e+03 k.
        if abs(number) >= 0.9995 * factor:
            return f"{_three_digits(number / factor)} {prefix}{unit}"
    return f"{_three_digits(number)} {unit}".rstrip()


def _three_digits(number: float) -> str:
    text = f"{number:.3g}"
    return text if "e" not in text else f"{number:.0f}"
